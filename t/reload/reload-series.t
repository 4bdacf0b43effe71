#!/usr/bin/perl

# A reload is nothing to a timer: no due time runs twice while there are two worker 0s, a run in
# progress in an old worker is not joined by a second one and ends in the record, no due time is lost,
# and nothing fires because of a reload.

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

# Two worker 0s for 100 ms, ten times over.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => join '', map { timer( $backend, "t$_", "every=${_}ms offset=0" ) } 20, 50, 100, 500, 1000,
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => 't500' ), 'timers run' );
my $began = time;
for ( 1 .. 10 ) {
    my @old = $nginx->reload;
    my $count = $backend->requests( timer => 't50' );
    $backend->wait_requests( $count + 6, timer => 't50' );
}
my $count = $backend->requests( timer => 't1000' );
ok( $backend->wait_requests( $count + 2, timer => 't1000' ) >= $count + 2, 'they go on through ten reloads' );
my ($last) = map { due_ms($_) / 1000 } ( $backend->requests( timer => 't1000' ) )[-1];
my %own  = map { $_ => [ $backend->requests( timer => "t$_" ) ] } 500, 1000;
my @lost = lost_awake( 500, [ lost_dues( 500, $began, $last - 0.5, @{ $own{500} } ) ], $own{500}, $beat );
is( scalar @lost, 0, 'no due time is lost at 500ms' ) or diag "lost @lost\n", grep {/t500/} $nginx->log_lines('error|warn');
@lost = lost_awake( 1000, [ lost_dues( 1000, $began, $last - 0.5, @{ $own{1000} } ) ], $own{1000}, $beat );
is( scalar @lost, 0, 'nor at 1s' ) or diag "lost @lost";
cmp_ok( 0 + ( grep { $_->{arrived} < due_ms($_) / 1000 - 0.001 } $backend->requests ), '==', 0, 'none before its time' );
$nginx->stop;
no_doubles( 'ten reloads', $backend->requests );
no_overlaps( 'ten reloads', {}, $backend->requests );

# A run in progress in the old worker: due times that come meanwhile are left out, the next one after
# its end runs, and its result is in the record that the new worker reads.
$nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => timer( $backend, 'long', 'every=400ms offset=0', 'delay/1.5/ok' ) . timer( $backend, 'tick', 'every=50ms' ),
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => 'long' ), 'a long run is in progress' );
my $zero = $nginx->worker_in_slot(0);
$nginx->reload;
my $next;
wait_until { $next = $nginx->worker_in_slot(0) and $next != $zero };
isnt( $next, $zero, 'and a new worker 0 is there' );
my $new_run;
wait_until { ($new_run) = requests_by( $next, $backend->requests( timer => 'long' ) ) };
my @runs = $backend->requests( timer => 'long' );
ok( $new_run, 'which runs the timer in its turn' );
my ($old_run) = reverse grep { $_->{headers}{'x-pid'} == $zero } @runs;
is( $old_run->{how}, 'answered', 'the run in the old worker ended in peace' );
cmp_ok( $new_run->{arrived}, '>=', $old_run->{ended}, 'before the next one began' );
cmp_ok( due_ms($new_run) / 1000, '>', $old_run->{arrived}, 'which is for a due time after it' );
ok( $nginx->wait_log(qr/\[error\] $next#.* timer "long": due time left out: last run in progress for \d+ms/),
    'what came meanwhile is left out, and said' );
is( $new_run->{headers}{'x-success'} ne '', 1, 'the old worker\'s result is in the record' );
cmp_ok( abs( 1000 * ( $new_run->{headers}{'x-success'} || 0 ) - start_ms($old_run) ), '<', 1.5, 'with its start' );
ok( $nginx->wait_gone( [$zero], 15 ), 'the old worker leaves' );
$nginx->stop;
no_doubles( 'a long run', $backend->requests( timer => 'long' ) );
no_overlaps( 'a long run', {}, $backend->requests( timer => 'long' ) );

# Nothing fires because of a reload.  The period is long, and the due times are hours away: whatever
# runs within this test, a reload has fired.
my $hours  = 10 * 3_600_000;
my $offset = ( int( time * 1000 ) - 600_000 ) % $hours;            # ten minutes ago
my $at     = "every=10h offset=${offset}ms";
my $tick   = timer( $backend, 'tick2', 'every=50ms' );
$nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => $tick . timer( $backend, 'kept', $at ) . timer( $backend, 'changed', $at ) . timer( $backend, 'first', "$at first=now" )
        . timer( $backend, 'switched', $at ) . timer( $backend, 'goes', $at ),
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => 'first', ended => 1 ), 'first=now runs at once' );
my @steps = (
    [ 'nothing changed' => sub { } ],
    [   'a schedule changed, a timer is off, one is gone' => sub {
            my $other = ( $offset + 300_000 ) % $hours;    # five minutes ago
            $nginx->write_conf( server => $tick . timer( $backend, 'changed', "every=10h offset=${other}ms" )
                    . timer( $backend, 'kept', $at ) . timer( $backend, 'first', "$at first=now" )
                    . timer( $backend, 'switched', "$at enabled=off" ) );
        }
    ],
    [   'all is as it was' => sub {
            $nginx->write_conf( server => timer( $backend, 'goes', $at ) . timer( $backend, 'first', "$at first=now" )
                    . timer( $backend, 'switched', $at ) . timer( $backend, 'changed', $at ) . timer( $backend, 'kept', $at ) . $tick );
        }
    ],
    [   'a timer is back by first=now' => sub {
            $nginx->write_conf( server => $tick . timer( $backend, 'goes', "$at first=now" ) . timer( $backend, 'first', "$at first=now" )
                    . timer( $backend, 'switched', "$at first=now" ) . timer( $backend, 'changed', "$at first=now" ) );
        }
    ],
);
for my $step (@steps) {
    my ( $title, $do ) = @$step;
    $do->();
    my @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    my $worker = $nginx->worker_in_slot(0);
    ok( wait_until( sub { requests_by( $worker, $backend->requests( timer => 'tick2' ) ) >= 30 } ), "reload: $title" );
}
my @fired = grep { $_->{headers}{'x-timer'} !~ /^tick/ } $backend->requests;
@fired = grep { $_->{headers}{'x-timer'} =~ /^(?:kept|changed|first|switched|goes)$/ } @fired;
is( join( ' ', map {"$_->{headers}{'x-timer'}:$_->{headers}{'x-trigger'}"} @fired ), 'first:first', 'nothing else has run' );
logged_times( $nginx, qr/timer "(?!tick)[^"]+": missed/, 0, 'and nothing was missed' );
logged( $nginx, qr/\[notice\].* timer "changed": schedule has changed, next due /, 'the changed schedule is told of' );
$nginx->stop;

done_testing;
