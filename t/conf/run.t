#!/usr/bin/perl

# "make run": what stands on the terminal, and how Ctrl-C ends it.

use strict;
use warnings;

use File::Basename qw( dirname );
use File::Spec ();
use Test::More;
use TimerTest;

my $top  = File::Spec->rel2abs( dirname(__FILE__) . '/../..' );
my $dir  = scratch_dir();
my $out  = "$dir/terminal";
my $port = free_port(4);

# What a build would leave.
my $nginx = nginx_binary();
$nginx = program($nginx) if $nginx !~ m{/};
mkdir "$dir/tree";
symlink $nginx, "$dir/tree/nginx";
symlink timer_module(), "$dir/tree/ngx_http_timer_module.so";
mkdir "$dir/tmp";

delete @ENV{qw( MAKEFLAGS MAKELEVEL NGINX )};
@ENV{qw( TREE TMPDIR PORT )} = ( "$dir/tree", "$dir/tmp", $port );
my @make_run = ( 'setsid', 'make', '-C', $top, '--no-print-directory', 'run' );

my $make = spawn( $out, @make_run );
my $run  = qr/^\d\d:\d\d:\d\d \[info\] \d+: timer "heartbeat": run succeeded: status 204, \d+ms$/m;
if ( !ok( wait_until( sub { slurp($out) =~ $run } ), 'a run is one short line' ) ) {
    # A second one would start, and stay.
    diag slurp($out);
    done_testing;
    exit 1;
}
my $banner = qr{\A\n  The page     http://127\.0\.0\.1:$port/status/\n  As a table   curl 127\.0\.0\.1:$port/status/text\n};
like( slurp($out), $banner, 'the banner names the page, before all else' );

like( http_request( $port, '/status/', headers => "Accept: text/html\r\n" )->{body}, qr{<title>}, 'the page is there' );
my $table;
ok( wait_until( sub { ( $table = http_request( $port, '/status/text' )->{body} ) =~ / paused .* newsletter$/m } ), 'a timer is paused' )
    or diag $table;
like( $table, qr/ $_$/m, "the table has $_" ) for qw( heartbeat reindex digest cleanup sync report );
ok( wait_until( sub { http_request( $port, '/status/text' )->{body} =~ /^shop +127\.0\.0\.1:${\ ( $port + 3 ) } +(?:up|unhealthy)/m } ),
    'and the servers that are checked' );

# The ports are taken now.
my ( $status, $refused ) = run_command(@make_run);
isnt( $status, 0, 'a second one does not start' );
like( $refused, qr/^ports $port to ${\ ( $port + 3 ) } are in use: make run PORT=9000 takes others$/m, 'it is said why' );
unlike( $refused, qr/The page/, 'and there is no banner' );

my $before = slurp($out);
kill 'INT', -$make;
ok( defined reap($make), 'Ctrl-C ends it' );
my $after = substr slurp($out), length $before;
# A run may have ended meanwhile.
$after =~ s/^\d\d:.*\n//mg;
is( $after, "nginx has stopped\n", 'with one line' );
is_deeply( [ glob "$dir/tmp/*" ], [], 'nothing is left' );
unlike( slurp($out), qr/signal|worker process|closed connection, client|^make/m, 'nothing of nginx that a reader does not look for' );

done_testing;
