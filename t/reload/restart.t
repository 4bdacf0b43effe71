#!/usr/bin/perl

# What was due while nginx was not there: timer_missed. And a period longer than the time between
# reloads or restarts is no reason not to run.

use strict;
use warnings;

use List::Util qw( max );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;

my ( $backend, $nginx, %ran, $d1, $d3, $began_at );
my $beat    = TimerTest::Beat->start;
my $period = 5;

# Two due times pass while nginx is stopped, the newest more than a second before it is back. False if this
# machine was so slow that nginx had not ended before the first of them, or that its worker stood still
# while it was to make up for them: what ran when tells nothing then.
sub stop_and_start {
    my ($lead) = @_;

    $backend = TimerTest::Backend->start;
    $d1      = int( time * 1000 ) + 1000 * $lead;
    my $d2   = $d1 + $period * 1000;
    $d3      = $d2 + $period * 1000;
    my $at   = "every=${period}s offset=" . $d1 % ( $period * 1000 ) . 'ms';
    my $else = "every=${period}s offset=" . ( $d1 + 2500 ) % ( $period * 1000 ) . 'ms';
    my $same = timer( $backend, 'run', $at )
        . timer( $backend, 'skip',   $at, 'ok', 'timer_missed skip;' )
        . timer( $backend, 'within', $at, 'ok', 'timer_missed run within=500ms;' )
        . timer( $backend, 'all',    $at, 'ok', 'timer_worker any;' )
        . timer( $backend, 'first',   'every=366d first=now' )
        . timer( $backend, 'tick',    'every=100ms' );
    $nginx = TimerTest::Nginx->new(
        workers => 2,
        server  => $same . timer( $backend, 'changed', $at ) . timer( $backend, 'off', $at ) . timer( $backend, 'on', "$at enabled=off" ),
    );
    $nginx->start;
    ok( $backend->wait_requests( 3, timer => 'tick' ),  'it runs' );
    ok( $backend->wait_requests( 1, timer => 'first' ), 'first=now, too' );
    $nginx->stop;
    return 0 if time * 1000 > $d1;
    is( scalar( $backend->requests( timer => 'run' ) ), 0, 'it is stopped before the due time' );

    wait_until { time * 1000 > $d2 + 1100 };
    $nginx->write_conf( server => timer( $backend, 'new', $at )
            . $same
            . timer( $backend, 'changed', $else )
            . timer( $backend, 'off',     "$at enabled=off" )
            . timer( $backend, 'on',      $at ) );
    my $back_at = int( time * 1000 );
    $nginx->start;

    # All timers' next due time is awaited, which is the event that ends "did not run".
    for my $name (qw( run skip within all new on )) {
        $ran{$name} = wait_until { grep { due_ms($_) == $d3 } $backend->requests( timer => $name ) };
    }
    $ran{changed} = $backend->wait_requests( 1, timer => 'changed' );
    $ran{tick} = $backend->wait_requests( 3 + $backend->requests( timer => 'tick' ), timer => 'tick' );

    # The spread over half a period has to end before the third due time.
    my @ticks = sort { $a <=> $b } grep { $_ > $back_at } map { start_ms($_) } $backend->requests( timer => 'tick' );
    $began_at = $ticks[0];
    return $ticks[0] < $d3 - 2700 && 900 > max map { $ticks[$_] - $ticks[ $_ - 1 ] } 1 .. $#ticks;
}

# In a lead of a whole period one more due time would pass.
my @leads = ( 2, 4, 4, 4 );
while ( defined( my $lead = shift @leads ) ) {
    last if stop_and_start($lead);
    note "this machine is too slow: $lead s were not enough";
    $nginx->stop if $nginx->alive && @leads;
}
for my $name (qw( run skip within all new on changed )) {
    ok( $ran{$name}, "$name: the next due time runs" );
}

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
    cmp_ok( $missed ? ( start_ms($missed) - $began_at ) / 1000 : 99, '<', $period / 2 + 1 * $TimerTest::SLOW, "$name: within half a period" );
    logged( $nginx, qr/\[warn\].* timer "$name": missed 2 due times, running once/, "$name: it is said" );
    logged_times( $nginx, qr/timer "$name": missed/, 1, "$name: once" );
}
for my $name (qw( skip within )) {
    logged( $nginx, qr/\[error\].* timer "$name": missed 2 due times, left out/, "$name: it is said" );
    logged_times( $nginx, qr/timer "$name": missed/, 1, "$name: once" );
}
logged_times( $nginx, qr/timer "(?:new|on|off|changed|first)": missed/, 0, 'the others have missed nothing' );
logged( $nginx, qr/\[error\].* timer "tick": missed \d+ due times, left out/, 'a short period: all but the newest are left out' );
ok( !( grep { $_->{headers}{'x-trigger'} eq 'missed' && start_ms($_) < $began_at + 50 } $backend->requests( timer => 'tick' ) ), 'without a burst' );
$nginx->stop;
no_doubles( 'a restart', $backend->requests );

# One test: none of the due times is lost silently. On a busy machine a stop and a start may take longer
# than the period; then the record, and the log, tell of what was missed.
sub none_lost {
    my ( $title, @lost ) = @_;
    my $records = read_records( $nginx->prefix . '/timers.state' );
    my $record  = $records->{ $title =~ /jitter/ ? 'jitter' : 'slow' };
    my $told    = $record->{missed} + $record->{overlaps} + $record->{interrupted};
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return cmp_ok( scalar @lost, '<=', $told, "$title ($told missed, left out or interrupted)" )
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
my $enough  = wait_until {
    if ( time >= $next_at ) { $nginx->signal('HUP'); $reloads++; $next_at = time + 0.1 }
    $reloads >= 10 && $backend->requests( timer => 'slow' ) >= 4;
};
ok( $enough, 'a reload every 100 ms, and a period of 1 s runs' );
my $last = ( $backend->requests( timer => 'slow' ) )[-1];
cmp_ok( $reloads, '>=', 10, "$reloads reloads" );
my @lost = lost_dues( 1000, $began, due_ms($last) / 1000, $backend->requests( timer => 'slow' ) );
none_lost( 'each of its due times', @lost );
@lost = lost_dues( 1000, $began + 1, due_ms($last) / 1000 - 1, $backend->requests( timer => 'jitter' ) );
none_lost( 'and each of one whose starts are put off by jitter', @lost );
none_of { $_->{arrived} < due_ms($_) / 1000 } 'never before its time', $backend->requests( timer => 'jitter' );
for my $r ( $backend->requests( timer => 'slow' ) ) {
    my $due = due_ms($r) / 1000;
    cmp_ok( $r->{arrived} - $due - $beat->still( $due, $r->{arrived} ), '<', 1 * $TimerTest::SLOW, "on time: $r->{headers}{'x-due'}" );
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
    $signals >= 4 && 4 <= grep { $_->{arrived} > $began } $backend->requests( timer => 'slow' );
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
