#!/usr/bin/perl

# What was due while nginx was not there: timer_missed. And a period longer than the time between
# reloads or restarts is no reason not to run.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;

# Two due times pass while nginx is stopped, the newest more than a second before it is back.
my $period = 5;
my $now    = time;
my $d1     = int( $now * 1000 ) + 2000;
my $at     = "every=${period}s offset=" . $d1 % ( $period * 1000 ) . 'ms';
my $else   = "every=${period}s offset=" . ( $d1 + 2500 ) % ( $period * 1000 ) . 'ms';
my $nginx  = TimerTest::Nginx->new(
    workers => 2,
    server  => timer( $backend, 'run', $at )
        . timer( $backend, 'skip',   $at, 'ok', 'timer_missed skip;' )
        . timer( $backend, 'within', $at, 'ok', 'timer_missed run within=500ms;' )
        . timer( $backend, 'all',    $at, 'ok', 'timer_worker any;' )
        . timer( $backend, 'changed', $at )
        . timer( $backend, 'off',     $at )
        . timer( $backend, 'on',      "$at enabled=off" )
        . timer( $backend, 'first',   'every=366d first=now' )
        . timer( $backend, 'tick',    'every=100ms' ),
);
$nginx->start;
ok( $backend->wait_requests( 3, timer => 'tick' ),  'it runs' );
ok( $backend->wait_requests( 1, timer => 'first' ), 'first=now, too' );
$nginx->stop;
SKIP: {
    skip 'this machine is too slow', 1 if time * 1000 > $d1;
    is( scalar( $backend->requests( timer => 'run' ) ), 0, 'it is stopped before the due time' );
}
my $d2 = $d1 + $period * 1000;
wait_until { time * 1000 > $d2 + 1100 };
$nginx->write_conf( server => timer( $backend, 'new', $at )
        . timer( $backend, 'run', $at )
        . timer( $backend, 'skip',   $at, 'ok', 'timer_missed skip;' )
        . timer( $backend, 'within', $at, 'ok', 'timer_missed run within=500ms;' )
        . timer( $backend, 'all',    $at, 'ok', 'timer_worker any;' )
        . timer( $backend, 'changed', $else )
        . timer( $backend, 'off',     "$at enabled=off" )
        . timer( $backend, 'on',      $at )
        . timer( $backend, 'first',   'every=366d first=now' )
        . timer( $backend, 'tick',    'every=100ms' ) );
my $back_at = time;
$nginx->start;

# All timers' next due time is awaited, which is the event that ends "did not run".
my $d3 = $d2 + $period * 1000;
for my $name (qw( run skip within all new on )) {
    ok( wait_until( sub { grep { due_ms($_) == $d3 } $backend->requests( timer => $name ) } ), "$name: the next due time runs" );
}
ok( $backend->wait_requests( 1, timer => 'changed' ), 'changed: its next due time runs' );

sub told { return map {"$_->{headers}{'x-trigger'} " . ( ( due_ms($_) - $d1 ) / 1000 / $period )} grep { due_ms($_) <= $d3 } $backend->requests( timer => $_[0] ) }
is( join( ', ', told('run') ),    'missed 1, schedule 2', 'run: one run for both, of the newest' );
is( join( ', ', told('all') ),    'missed 1, schedule 2', 'the same with timer_worker any' );
is( join( ', ', told('skip') ),   'schedule 2', 'skip: none' );
is( join( ', ', told('within') ), 'schedule 2', 'within: too old for one' );
is( join( ', ', told('new') ),    'schedule 2', 'a new timer has missed nothing' );
is( join( ', ', told('on') ),     'schedule 2', 'nor has one that was off' );
is( scalar( $backend->requests( timer => 'off' ) ),   0, 'nor one that is off now' );
is( scalar( $backend->requests( timer => 'first' ) ), 1, 'first=now is not repeated' );
is( ( $backend->requests( timer => 'changed' ) )[0]{headers}{'x-trigger'}, 'schedule', 'nor has one whose schedule was changed' );
for my $name (qw( run all )) {
    my ($missed) = grep { $_->{headers}{'x-trigger'} eq 'missed' } $backend->requests( timer => $name );
    cmp_ok( $missed ? $missed->{arrived} - $back_at : 99, '<', $period / 2 + 1 * $TimerTest::SLOW, "$name: within half a period" );
    logged( $nginx, qr/\[warn\].* timer "$name": missed 2 due times, running once/, "$name: it is said" );
    logged_times( $nginx, qr/timer "$name": missed/, 1, "$name: once" );
}
for my $name (qw( skip within )) {
    logged( $nginx, qr/\[error\].* timer "$name": missed 2 due times, left out/, "$name: it is said" );
    logged_times( $nginx, qr/timer "$name": missed/, 1, "$name: once" );
}
logged_times( $nginx, qr/timer "(?:new|on|off|changed|first)": missed/, 0, 'the others have missed nothing' );
logged( $nginx, qr/\[error\].* timer "tick": missed \d+ due times, left out/, 'a short period: all but the newest are left out' );
ok( !( grep { $_->{headers}{'x-trigger'} eq 'missed' && $_->{arrived} < $back_at + 0.05 } $backend->requests( timer => 'tick' ) ), 'without a burst' );
$nginx->stop;
no_doubles( 'a restart', $backend->requests );

# One test: none of the due times is lost silently. On a busy machine a stop and a start may take longer
# than the period; then the record, and the log, tell of what was missed.
sub none_lost {
    my ( $title, @lost ) = @_;
    my $records = read_records( $nginx->prefix . '/timers.state' );
    my $missed  = $records->{ $title =~ /jitter/ ? 'jitter' : 'slow' }{missed};
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return cmp_ok( scalar @lost, '<=', $missed, "$title ($missed missed)" )
        || diag "lost @lost\n", join "\n", ( $nginx->log_lines(qr/timer "(?:slow|jitter)"/) )[ -20 .. -1 ];
}

# A reload every 100 ms, a period of 1 s.
$backend = TimerTest::Backend->start;
$nginx   = TimerTest::Nginx->new( workers => 2, server => timer( $backend, 'slow', 'every=1000ms offset=0' )
        . timer( $backend, 'jitter', 'every=1000ms offset=0 jitter=900ms' ) . timer( $backend, 'tick', 'every=50ms offset=0' ) );
$nginx->start;
my $began   = time;
my $reloads = 0;
my $next_at = time;
ok( wait_until( sub { if ( time >= $next_at ) { $nginx->signal('HUP'); $reloads++; $next_at = time + 0.1 } $backend->requests( timer => 'slow' ) >= 4 } ),
    'a reload every 100 ms, and a period of 1 s runs' );
my $last = ( $backend->requests( timer => 'slow' ) )[-1];
cmp_ok( $reloads, '>=', 10, "$reloads reloads" );
my @lost = lost_dues( 1000, $began, due_ms($last) / 1000, $backend->requests( timer => 'slow' ) );
none_lost( 'each of its due times', @lost );
@lost = lost_dues( 1000, $began + 1, due_ms($last) / 1000 - 1, $backend->requests( timer => 'jitter' ) );
none_lost( 'and each of one whose starts are put off by jitter', @lost );
is( ( grep { $_->{arrived} < due_ms($_) / 1000 } $backend->requests( timer => 'jitter' ) ), 0, 'never before its time' );
for my $r ( $backend->requests( timer => 'slow' ) ) {
    cmp_ok( $r->{arrived} - due_ms($r) / 1000, '<', 1 * $TimerTest::SLOW, "on time: $r->{headers}{'x-due'}" );
}
ok( wait_until( sub { my @workers = $nginx->workers; my @all = children_of( $nginx->pid ); @workers == 2 && @all == 2 } ), 'then two workers are left' );
$nginx->stop;
no_doubles( 'a storm of reloads', $backend->requests );
no_overlaps( 'a storm of reloads', {}, $backend->requests );

# A restart again and again, by whatever signal, and a period that is longer.
$began = time;
my $signals = 0;
ok( wait_until( sub {
    $nginx->start;
    my $seen = $backend->requests( timer => 'tick' );
    $backend->wait_requests( $seen + 3, timer => 'tick' );
    $nginx->signal( $signals++ % 2 ? 'TERM' : 'QUIT' );
    defined $nginx->wait_exit or return 1;
    4 <= grep { $_->{arrived} > $began } $backend->requests( timer => 'slow' );
} ), "a restart again and again, and a period of 1 s runs" );
cmp_ok( $signals, '>=', 4, "$signals restarts" );
$last = ( $backend->requests( timer => 'slow' ) )[-1];
@lost = lost_dues( 1000, $began, due_ms($last) / 1000, $backend->requests( timer => 'slow' ) );
none_lost( 'each of its due times', @lost );
@lost = lost_dues( 1000, $began + 1, due_ms($last) / 1000 - 1, $backend->requests( timer => 'jitter' ) );
none_lost( 'and each of one whose starts are put off by jitter', @lost );
no_doubles( 'restarts', $backend->requests );
$nginx->clean_log;

done_testing;
