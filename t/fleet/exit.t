#!/usr/bin/perl

# A worker that is told to quit, of whose runs etcd does not confirm the end: it leaves when others may take the runs
# over, however long etcd stays away. Whoever comes next finds out how they ended, and goes on.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;
use TimerTest::Fleet;

my %name    = ( mute => 'the answer is lost', refuse => 'it is not reached', hang => 'it hangs', cut => 'connections are cut' );
my @names   = sort keys %name;
my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start;
my $proxy   = TimerTest::EtcdProxy->start($etcd);
my $fleet   = TimerTest::Fleet->start(
    hosts  => 1,
    etcd   => $etcd,
    proxy  => $proxy,
    timers => join( '', map { fleet_timer( $backend, $_, 'every=1s', 'fenced/delay/1/ok' ) } @names, 'cancelled' ),
);
my $host = $fleet->host(0);
$backend->wait_requests( 1, timer => $_ ) for @names, 'cancelled';

my %rule = map { $_ => $proxy->rule( do => $_, timer => $_, kind => [qw( end beat )] ) } @names;
my $cancelled = $proxy->rule( do => 'mute', timer => 'cancelled', kind => 'end' );
my @old = $host->workers;
$host->signal('HUP');
$proxy->wait_count( $_, 1 ) for values %rule, $cancelled;
my $ended = time;
# It has ended already: an order changes nothing.
$fleet->order( 0, '/timers/cancelled/cancel' );
ok( $host->wait_gone( \@old ), 'the old worker leaves' );
note sprintf 'after %.1f s', time - $ended;

$proxy->clear;
more_requests( $backend, 2, timer => $_ ) for @names, 'cancelled';
ok( 1, 'all go on' );
$fleet->stop;
no_start_twice( 'an end that nobody confirms', $backend->requests );
fences_grow( 'an end that nobody confirms', $backend->requests );
done_testing;
