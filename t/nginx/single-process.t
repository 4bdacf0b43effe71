#!/usr/bin/perl

# master_process off: timers run in the one process; HUP, which nginx does not support there, does
# no harm; QUIT and TERM end it.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

my $case = 0;

sub nginx {
    my ( $timer, $uri, @more ) = @_;
    $case++;
    return TimerTest::Nginx->new(
        master => 0,
        server => "location \@x { timer x$case $timer uri=/$uri; proxy_set_header X-Timer x$case; proxy_set_header X-Slot \$timer_worker;"
            . " proxy_pass http://127.0.0.1:$port; } location \@y { timer y$case every=50ms; return 204; }",
        @more,
    );
}

for my $daemon ( 0, 1 ) {
    my $nginx = nginx( 'every=50ms', 'ok', daemon => $daemon );
    $nginx->start;
    my @runs = $backend->wait_requests( 5, timer => "x$case", ended => 1 );
    ok( @runs >= 5, "daemon $daemon: it runs" );
    is( $runs[0]{headers}{'x-slot'}, 0, 'in slot 0' );
    is( scalar children_of( $nginx->pid ), 0, 'in the one process' );
    is( $backend->most_at_once( timer => "x$case" ), 1, 'one at a time' );
    $nginx->stop;
}

# A run in progress: this nginx does not wait for anybody, whichever way it is told to end.
for my $signal (qw( QUIT TERM )) {
    my $nginx = nginx( 'every=366d first=now', 'hang' );
    $nginx->start;
    ok( $backend->wait_requests( 1, timer => "x$case" ), 'a run hangs' );
    $nginx->stop($signal);
    like( $nginx->log, qr/timer "x$case": run interrupted: worker was told to stop/, "$signal: it is interrupted" );
}

# HUP: nginx itself has no connections left after it; nothing of ours crashes or spins.
my $nginx = nginx( 'every=50ms', 'ok', allow => [ qr/worker_connections are not enough/, qr/open socket #\d+ left in connection/ ] );
$nginx->start;
ok( $backend->wait_requests( 3, timer => "x$case" ), 'HUP: it runs' );
my $pid = $nginx->pid;
$nginx->signal('HUP');
ok( $nginx->wait_log(qr/reconfiguring/), 'it is taken' );
ok( $nginx->wait_log(qr/timer "y$case": run failed: no free connection|(?s:reconfiguring.*timer "y$case": run succeeded)/), 'timers go on, or say why not' )
    or diag $nginx->log;
ok( $nginx->alive, 'the process lives' );
is( $nginx->pid, $pid, 'the same' );
$nginx->signal('HUP') for 1 .. 3;
$nginx->stop('TERM');

done_testing;
