#!/usr/bin/perl

# Each worker tries a run of its own out before it starts a timer. In an nginx that cannot do it, one
# line says so, no timer is started, health is 503, and clients are served; where it can, nothing is
# to be seen of it.

use strict;
use warnings;

use File::Basename qw( dirname );
use Test::More;
use TimerTest;
use TimerTest::Nginx;

my $source = dirname( timer_module() ) . '/source';
plan skip_all => "there is no $source" if !-d "$source/src";

# An access log and a body filter for all: neither sees it.
my $nginx = TimerTest::Nginx->new(
    http   => 'log_subrequest on; access_log logs/all.log;',
    server => 'location @x { timer x every=366d; return 204; } location /stub { stub_status; access_log off; }',
);
$nginx->start;
my $prefix = $nginx->prefix;
my %stub   = %{ $nginx->stub_status('/stub') };
is( $stub{active},  1, 'one active connection, which asks' );
is( $stub{waiting}, 0, 'none waits' );
unlike( $nginx->log, qr/a run is not possible/, 'it passes' );
unlike( slurp("$prefix/logs/all.log"), qr/"GET \/ /, 'and is not logged' );
$nginx->stop;

my $here    = dirname(__FILE__);
my @include = map {"-I$source/$_"} 'objs', map {"src/$_"} qw( core event event/modules event/quic os/unix http http/modules http/v2 http/v3 );
my $broken  = "$prefix/broken.so";
my ( $status, $out ) = run_command( 'cc', '-shared', '-fPIC', @include, '-o', $broken, "$here/layout/broken.c" );
is( $status, 0, 'an nginx that cannot' ) or diag $out;

my %what = (
    hangs      => 'content handler',
    status     => 'content handler',
    descriptor => 'descriptor',
    buffer     => 'response',
);
for my $how ( sort keys %what ) {
    $nginx = TimerTest::Nginx->new(
        workers   => 2,
        no_module => 1,
        http      => 'timer_state memory;',
        main      => "load_module $broken; load_module ${\ timer_module() }; env BROKEN=$how;",
        server    => 'location @x { timer x every=50ms; return 204; } location /timers/ { timer_api write=on; }',
        allow     => [qr/\[emerg\].*a run is not possible/],
    );
    $nginx->start;
    my $line = qr/\[emerg\].*timer: a run is not possible in this nginx \($what{$how}\), no timer is started/;
    ok( $nginx->wait_log( $line, 2 ), "$how: each worker says so" );
    is( $nginx->get('/timers/health')->{status}, 503, "$how: health" );
    is( $nginx->get('/ready')->{status},         200, "$how: clients are served" );
    is( scalar $nginx->log_lines($line), 2, "$how: once" );
    is( scalar $nginx->log_lines(qr/timer "x": run/), 0, "$how: nothing runs" );
    $nginx->stop;
}

# Without a free connection nothing is known yet, and it is tried again.
$nginx = TimerTest::Nginx->new(
    no_module => 1,
    main      => "load_module $broken; load_module ${\ timer_module() }; env BROKEN=connection;",
    server    => 'location @x { timer x every=50ms; return 204; }',
);
$nginx->start( ready => sub { 1 } );
ok( $nginx->wait_log(qr/\[error\].*timer: no free connection, timers are not running/), 'no connection: it says so' );
ok( $nginx->wait_log( qr/timer "x": run succeeded/, 2 ), 'it is tried again' );
unlike( $nginx->log, qr/a run is not possible/, 'and is not broken' );
$nginx->stop;

done_testing;
