#!/usr/bin/perl

# A new and empty cluster, whose revisions begin anew, and what hosts do with it once somebody has reset them: all timers
# go on, those that are due once a year, too, and the run of a host that dies is removed.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::Fleet;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start( members => 1 );
my $fleet   = TimerTest::Fleet->start(
    hosts  => 2,
    etcd   => $etcd,
    timers => fleet_timer( $backend, 'rare', 'every=366d' ) . fleet_timer( $backend, 'held', 'every=2s offset=0', 'fenced/held/held/ok' ),
);

# Both hosts have read revisions that the new cluster does not come to.
ok( wait_until( sub { $etcd->get('/nginx-timer/prod/rare/last') } ), 'the timers are known' );
$etcd->put( '/other', $_ ) for 1 .. 2000;
$backend->wait_requests( 1, timer => 'held' );
ok( wait_until( sub { !grep { !$fleet->show( $_, 'held' )->{fleet}{holder} } 0, 1 } ), 'both hosts have seen the run' );
$etcd->wipe;
for my $n ( 0, 1 ) {
    ok( wait_until( sub { $fleet->show( $n, 'held' )->{fleet}{state} eq 'refused' } ), "a new cluster: refused by web$n" );
}
my $had = $backend->requests( timer => 'held' );
for my $n ( 0, 1 ) {
    my ( $status, $said ) = $fleet->order( $n, '/timers/held/reset' );
    is( $status, 200, "reset on web$n" ) or diag explain $said;
}
ok( wait_until( sub { $etcd->get('/nginx-timer/prod/rare/last') } ), 'what is rare is known at once, and not forgotten when it is due' );

# The one that has the next run dies.
my $run = ( $backend->wait_requests( $had + 1, timer => 'held' ) )[-1];
my ($dead) = host_of($run) =~ /(\d)\z/;
kill 'KILL', $fleet->host($dead)->pid, $fleet->host($dead)->workers;
my $next = ( $backend->wait_requests( $had + 2, timer => 'held' ) )[-1];
isnt( host_of($next), host_of($run), 'the run of a host that has died is removed, and the timer goes on' );
$backend->let_go('held');
cmp_ok( $etcd->revision, '<', 2000, 'revisions are smaller than they were' );

$fleet->stop;
no_start_twice( 'reset', $backend->requests );
logged_times( $fleet->host( 1 - $dead ), qr/has forgotten timer/, 0, 'no timer was forgotten' );
done_testing;
