#!/usr/bin/perl

# Three hosts and one etcd: each due time is started once, on one of them; all of them account for it; what a run
# shows of the fleet; what is due while the last run is in progress elsewhere; a reload in the middle of runs; hosts whose
# schedules differ.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::Fleet;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start( members => 1 );
my @names   = map {"t$_"} 1 .. 6;
my $fleet   = TimerTest::Fleet->start(
    etcd    => $etcd,
    workers => 2,
    timers  => sub {
        my ($n) = @_;
        return join( '', map { fleet_timer( $backend, $_, 'every=1s offset=0' ) } @names )
            . fleet_timer( $backend, 'long', 'every=1s offset=0', 'drip/3/0.8' )
            . fleet_timer( $backend, 'again', 'every=60s enabled=off', 'by-turns/status/500', 'timer_retry 1 backoff=1s;' )
            . fleet_timer( $backend, 'held', 'every=366d offset=0 enabled=off', 'held/held/ok' )
            . ( $n < 2 ? fleet_timer( $backend, 'differs', "every=2s offset=${n}s" ) : '' );
    },
);

# Variables.
my @first = map { ( $backend->wait_requests( 1, timer => $_ ) )[0] } @names;
for my $run (@first) {
    my %h = %{ $run->{headers} };
    is( $h{'x-fleet'}, 'prod', 'the fleet' );
    like( $h{'x-node'}, qr/\Aweb[012]\z/, 'the node' );
    like( $h{'x-fence'}, qr/\A[1-9]\d*\z/, 'the fence' );
    like( $h{'x-cluster'}, qr/\A[1-9]\d*\z/, 'the cluster that it is of' );
    is( $h{'x-trigger'}, 'schedule', 'why' );
}

# An order, on each host.
for my $n ( 0 .. 2 ) {
    my ( $status, $said ) = $fleet->order( $n, '/timers/again/run' );
    like( $status, qr/\A20[02]\z/, "web$n: by hand" ) or diag explain $said;
    my $runs = 2 * ( $n + 1 );
    my @runs = $backend->wait_requests( $runs, timer => 'again' );
    is( join( ' ', map {"$_->{headers}{'x-trigger'} $_->{headers}{'x-attempt'}"} @runs[ -2, -1 ] ), 'manual 1 manual 2', 'and its second attempt' );
    is( host_of($_), "web$n", 'there' ) for @runs[ -2, -1 ];
    cmp_ok( $runs[-2]{headers}{'x-fence'}, '<', $runs[-1]{headers}{'x-fence'}, 'with a larger fence' );
    wait_until { !$etcd->keys->{'/nginx-timer/prod/again/run'} };
}

# Two hosts that take turns: each sees no more of the other than what its own claim replaces.
my $turns = sub { return { map { host_of($_) . ' ' . $_->{headers}{'x-due'} % 2 => 1 } $backend->requests( timer => 'differs' ) } };
wait_until { keys %{ $turns->() } >= 2 };
$backend->wait_requests( 6, timer => 'differs' );
my %turn = %{ $turns->() };
is( join( ', ', sort keys %turn ), 'web0 0, web1 1', 'schedules that differ: the due times of both' );
for my $n ( 0, 1 ) {
    my $other = 1 - $n;
    logged( $fleet->host($n), qr/\[warn\].* timer "differs": schedule differs from that of node "web$other"/, "web$n tells of that" );
}

# What is long has one run at a time, and its due times are accounted for.
$_->reload for $fleet->hosts;
$backend->wait_requests( 12, timer => $_ ) for @names;
my @long = $backend->wait_requests( 3, timer => 'long', ended => 1 );
is( $backend->most_at_once( timer => 'long' ), 1, 'one at a time' );

for my $name ( @names, 'long' ) {
    for my $n ( 0 .. 2 ) {
        my ( $dues, $counted ) = $fleet->account( $n, $name, 1000, 0 );
        is( $counted, $dues, "$name: web$n accounts for all due times" );
    }
}

# A fast stop in the middle of a run: the fleet is told of it at the next start, and the log once, at once.
$fleet->order( 0, '/timers/held/run' );
$backend->wait_requests( 1, timer => 'held' );
my $host = $fleet->host(0);
$host->stop('TERM');
$host->start;
ok( wait_until( sub { !$etcd->keys->{'/nginx-timer/prod/held/run'} } ), 'the fleet is told of the run' );
is( $fleet->show( 1, 'held' )->{last}{outcome}, 'interrupted', 'that it was interrupted' );
is( scalar( my @lines = $host->log_lines(qr/timer "held": run interrupted: worker was told to stop/) ), 1, 'and the log' );
is( scalar( @lines = $host->log_lines(qr/timer "held": run interrupted/) ), 1, 'once' );
$fleet->stop;

my @all = $backend->requests;
no_start_twice( 'three hosts', @all );
fences_grow( 'three hosts', @all );
done_testing;
