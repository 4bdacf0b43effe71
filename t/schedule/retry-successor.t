#!/usr/bin/perl

# A run that is to be repeated outlives the worker that made its first attempt: told to leave, or killed,
# between two attempts or in the midst of one.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Once, at its first load: the next due time is nine hours away.
my $once = 'every=10h offset=' . ( int( time - 3600 ) % 36_000 ) . 's first=now';

# Between two attempts the worker is killed, told to leave by HUP, or by QUIT: the successor
# makes the next attempt, of the same run, in its time.  Once more where this machine took so long that
# the old one may have made it.
sub waits {
    my ( $title, $wait_ms, $do ) = @_;

    my ( $nginx, $first, $old );
    for my $try ( 1 .. 3 ) {
        $backend->stop;
        $backend = TimerTest::Backend->start;
        $nginx   = TimerTest::Nginx->new(
            workers => 2,
            allow   => [qr/worker process \d+ exited on signal 9/],
            server  => timer( $backend, 'again', $once, 'turns/502/200', "timer_retry 3 backoff=${wait_ms}ms;" )
                . timer( $backend, 'tick', 'every=50ms' ),
        );
        $nginx->start;
        ($first) = $backend->wait_requests( 1, timer => 'again', ended => 1 );
        $nginx->wait_log(qr/timer "again": attempt 1 of 4 failed: status 502/);
        $old = $nginx->worker_in_slot(0);
        is( $first->{headers}{'x-pid'}, $old, "$title: the first attempt is made by the old worker" );

        $do->( $nginx, $old );
        ok( $nginx->wait_gone( [$old] ), "$title: it leaves" );
        my $left = time - $first->{arrived};
        last if $left < $wait_ms * 0.9 / 1000;
        cmp_ok( $try, '<', 3, "$title: before the next attempt" ) or last;
        $nginx->kill_all;
    }

    my @attempts = $backend->wait_requests( 2, timer => 'again', ended => 1 );
    is( scalar @attempts, 2, "$title: the next attempt is made" );
    my $second = $attempts[1] // { headers => {} };
    isnt( $second->{headers}{'x-pid'}, $old, "$title: by the successor" );
    is( $second->{headers}{'x-run'}, $first->{headers}{'x-run'}, "$title: it belongs to the same run" );
    is( $second->{headers}{'x-attempt'}, 2, "$title: and is its second attempt" );
    is( $second->{headers}{'x-due'}, $first->{headers}{'x-due'}, "$title: for the same due time" );
    # From arrival to arrival, as the answer comes at once.
    my $pause = ( $second->{arrived} - $first->{arrived} ) * 1000;
    my $still = 1000 * $beat->still( $first->{arrived}, $second->{arrived} );
    cmp_ok( $pause, '>=', $wait_ms * 0.9 - 3, "$title: not before its time" );
    cmp_ok( $pause, '<=', $wait_ms * 1.1 + 1500 * $TimerTest::SLOW + $still, "$title: nor long after it" );
    logged( $nginx, qr/\[info\] $second->{headers}{'x-pid'}#\d+: timer "again": run succeeded/, "$title: and succeeds" );
    logged_times( $nginx, qr/timer "again": run interrupted/, 0, "$title: nothing was interrupted" );

    my $ticks = $backend->requests( timer => 'tick' );
    $backend->wait_requests( $ticks + 5, timer => 'tick' );
    is( scalar( () = $backend->requests( timer => 'again' ) ), 2, "$title: no attempt more" );
    $nginx->stop;
    no_doubles( $title, $backend->requests( timer => 'again' ) );
    return;
}

my $wait = 2000 * $TimerTest::SLOW;
waits( 'KILL between attempts', $wait, sub { kill 'KILL', $_[1] } );
waits( 'HUP between attempts',  $wait, sub { $_[0]->signal('HUP') } );
waits( 'QUIT between attempts', $wait, sub { kill 'QUIT', $_[1] } );
waits( 'restart between attempts', $wait, sub { $_[0]->signal('QUIT'); defined $_[0]->wait_exit or die 'no end'; $_[0]->start } );

# The first attempt is still in progress when the worker is told to leave: it ends, and fails, there, and
# the next one is the successor's.
{
    $backend->stop;
    $backend = TimerTest::Backend->start;
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        server  => timer( $backend, 'again', $once, 'held/again/turns/502/200', 'timer_retry 3 backoff=300ms;' )
            . timer( $backend, 'tick', 'every=50ms' ),
    );
    $nginx->start;
    my ($first) = $backend->wait_requests( 1, timer => 'again' );
    my $old = $first->{headers}{'x-pid'};
    $nginx->reload;
    logged( $nginx, qr/ $old#\d+: gracefully shutting down/, 'HUP during an attempt: the old worker is told to leave' );
    $backend->let_go('again');
    logged( $nginx, qr/\[warn\] $old#\d+: timer "again": attempt 1 of 4 failed: status 502/, 'HUP during an attempt: it fails in the old worker' );
    ok( $nginx->wait_gone( [$old] ), 'HUP during an attempt: which leaves then' );
    ( $first, my $second ) = $backend->wait_requests( 2, timer => 'again', ended => 1 );
    $second //= { headers => {} };
    isnt( $second->{headers}{'x-pid'}, $old, 'HUP during an attempt: the next one is made by the successor' );
    is( join( ' ', @{ $second->{headers} }{qw( x-run x-due )} ), join( ' ', @{ $first->{headers} }{qw( x-run x-due )} ), 'HUP during an attempt: of the same run' );
    is( $second->{headers}{'x-attempt'}, 2, 'HUP during an attempt: as its second' );
    my $still = $beat->still( $first->{ended}, $second->{arrived} );
    cmp_ok( $second->{arrived} - $first->{ended}, '<', 0.33 + 2 * $TimerTest::SLOW + $still, 'HUP during an attempt: soon' );
    logged( $nginx, qr/timer "again": run succeeded/, 'HUP during an attempt: it succeeds' );
    $nginx->stop;
}

# The first attempt itself is interrupted.
sub interrupted {
    my ( $title, $on, $signal ) = @_;

    $backend->stop;
    $backend = TimerTest::Backend->start;
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        allow   => [qr/worker process \d+ exited on signal 9/],
        server  => timer( $backend, 'dies', $once, 'held/dies/ok', "timer_retry 2 on=$on backoff=300ms;" )
            . timer( $backend, 'tick', 'every=50ms' ),
    );
    $nginx->start;
    my ($first) = $backend->wait_requests( 1, timer => 'dies' );
    my $old = $nginx->worker_in_slot(0);
    kill $signal, $old;
    logged( $nginx, qr/timer "dies": .*(?:process $old died|worker was told to stop)/, "$title: is told" );
    ok( $nginx->wait_gone( [$old] ), "$title: the old worker is gone" );
    $backend->let_go('dies');
    my $next = $nginx->worker_in_slot(0);
    if ( $on =~ /interrupted/ ) {
        my @attempts = $backend->wait_requests( 2, timer => 'dies', ended => 1 );
        my $second   = $attempts[1] // { headers => {} };
        is( $second->{headers}{'x-run'}, $first->{headers}{'x-run'}, "$title: the run goes on" );
        is( $second->{headers}{'x-attempt'}, 2, "$title: with its second attempt" );
        is( $second->{headers}{'x-pid'}, $next, "$title: in the successor" );
        logged( $nginx, qr/timer "dies": run succeeded/, "$title: to its end" );
    }
    else {
        my $ticks = $backend->requests( timer => 'tick' );
        $backend->wait_requests( $ticks + 20, timer => 'tick' );
        is( scalar( () = $backend->requests( timer => 'dies' ) ), 1, "$title: there is no second attempt" );
    }
    logged_times( $nginx, qr/timer "dies": run interrupted: process $old died, due \d+\.\d{3}/, 1, "$title: once" ) if $on !~ /interrupted/;
    $nginx->stop;
    return;
}

interrupted( 'KILL, on=interrupted', 'interrupted',   'KILL' );
interrupted( 'KILL, on=failure',     'failure,error', 'KILL' );
interrupted( 'TERM, on=interrupted', 'interrupted',   'TERM' );

# Killed again and again while it waits, and due again meanwhile: the next due time takes over.
$backend->stop;
$backend = TimerTest::Backend->start;
my $nginx = TimerTest::Nginx->new(
    workers => 1,
    allow   => [qr/worker process \d+ exited on signal 9/],
    server  => timer( $backend, 'over', 'every=1s offset=0', 'status/502', 'timer_retry 50 backoff=400ms max=400ms on=failure,interrupted;' ),
);
$nginx->start;
for my $n ( 1 .. 3 ) {
    my $before = $backend->requests( timer => 'over' );
    $backend->wait_requests( $before + 1, timer => 'over' );
    kill 'KILL', $nginx->worker_in_slot(0);
}
my $before = $backend->requests( timer => 'over' );
ok( $backend->wait_requests( $before + 5, timer => 'over' ) >= $before + 5, 'killed again and again: it goes on' );
# A first attempt may: it is for a due time that was missed.
none_of { $_->{headers}{'x-attempt'} > 1 && $_->{headers}{'x-late'} > 1 } 'and no attempt comes after the next due time', $backend->requests( timer => 'over' );
$nginx->stop;
no_doubles( 'killed again and again', $backend->requests( timer => 'over' ) );

done_testing;
