#!/usr/bin/perl

# The module is loaded by the nginx it was built for, whatever else there is or is not in the
# configuration, and by no other.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Nginx;

my $module = timer_module();
my $nginx  = TimerTest::Nginx->new( wrapper => '' );
my $prefix = $nginx->prefix;
my $start  = "pid $prefix/logs/nginx.pid; error_log $prefix/logs/error.log info; events { }";

sub accepted {
    my ( $conf, $title ) = @_;
    $nginx->write_conf( conf => $conf );
    my ( $ok, $out ) = $nginx->test_conf;
    return ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, $title ) || diag $out;
}

accepted( "load_module $module; $start", 'without http' );
accepted( "load_module $module; $start http { }", 'with an empty http' );
my $temps = join ' ', map {"${_}_temp_path $prefix/$_;"} qw( client_body proxy fastcgi uwsgi scgi );
accepted( "load_module $module; $start http { $temps server { listen 127.0.0.1:${\ $nginx->port }; } }", 'without a timer' );

# Without http or timers nginx runs as ever.
for my $http ( '', "http { $temps }" ) {
    my $bare = TimerTest::Nginx->new( conf => "load_module $module; $start $http" );
    unlink $bare->error_log, "$prefix/logs/error.log";
    $bare->start( ready => sub { slurp("$prefix/logs/error.log") =~ /start worker process/ } );
    ok( $bare->alive, "runs with \"$http\"" );
    my @old = children_of( $bare->pid );
    $bare->signal('HUP');
    ok( $bare->wait_gone( \@old ), 'is reloaded' );
    $bare->stop;
    lacks( slurp("$prefix/logs/error.log"), qr/$TimerTest::Nginx::BAD_LINE/, 'with a clean log' );
}

# Twice is nginx's business; another nginx's module is refused by its signature and its version.
$nginx->write_conf( conf => "load_module $module; load_module $module; $start" );
my ( $ok, $out ) = $nginx->test_conf;
ok( !$ok && $out =~ /\[emerg\].* module "ngx_http_timer_module" is already loaded/, 'not twice' ) or diag $out;

my $bytes = slurp($module);
my $count = $bytes =~ s/\b([48],[48],[48],[01]{10})([01]{10,})/$1 . ( $2 =~ tr{01}{10}r )/ge;
ok( $count, 'there is a signature' );
spew( "$prefix/other.so", $bytes );
$nginx->write_conf( conf => "load_module $prefix/other.so; $start" );
( $ok, $out ) = $nginx->test_conf;
ok( !$ok && $out =~ /\[emerg\].* is not binary compatible in \S+:1/, 'a module of another nginx is refused' ) or diag $out;

# nginx -T and -s
$nginx  = TimerTest::Nginx->new;
$prefix = $nginx->prefix;
$nginx->write_conf( server => 'location @x { timer x every=1s; return 204; }' );
my ( $status, $dump ) = run_command( nginx_binary(), '-T', '-p', "$prefix/", '-c', $nginx->conf_file );
is( $status, 0, 'nginx -T' );
like( $dump, qr/timer x every=1s;/, 'shows the configuration' );
$nginx->start;
( $status, $out ) = run_command( nginx_binary(), '-s', 'quit', '-p', "$prefix/", '-c', $nginx->conf_file );
# It leaves its memory to the kernel, which a sanitizer calls a leak.
is( $status, 0, 'nginx -s' ) or diag $out if !nginx_is_watched();
ok( defined $nginx->wait_exit, 'reaches it' );
$nginx->stop;

done_testing;
