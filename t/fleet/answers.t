#!/usr/bin/perl

# Requests to etcd that are applied and whose answers are cut off, come late, come twice, or are applied late, for each
# kind of them and several in a row: nothing is started twice, fences grow, all goes on, and each host's account is right.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;
use TimerTest::Fleet;
use TimerTest::Series;

my $beat    = TimerTest::Beat->start;
my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start->watch;
my $proxy   = TimerTest::EtcdProxy->start($etcd);

# A rule each, and how often it has to have been applied in the end. The limit of an exchange is 1.6 s.
my $quick = 'every=2s offset=0';
my %case  = (
    'cut-claim'     => { rule => { kind => 'claim', do => 'cut',   times => 3 }, count => 3 },
    'half-claim'    => { rule => { kind => 'claim', do => 'cut',   times => 2, half => 1 }, count => 2 },
    'late-claim'    => { rule => { kind => 'claim', do => 'late',  times => 3, seconds => 3 }, count => 3 },
    'delay-claim'   => { rule => { kind => 'claim', do => 'delay', chance => 0.5, seconds => 3 }, count => 1 },
    'slow-claim'    => { rule => { kind => 'claim', do => 'slow',  chance => 0.5, seconds => 2.5 }, count => 1 },
    'twice-claim'   => { rule => { kind => 'claim', do => 'twice', seconds => 2.5 }, count => 3 },
    'again-claim'   => { rule => { kind => 'claim', do => 'again' }, count => 3 },
    'cut-end'       => { rule => { kind => 'end', do => 'cut',   chance => 0.5 }, count => 2, every => 1000 },
    'late-end'      => { rule => { kind => 'end', do => 'late',  times => 3, seconds => 3 }, count => 2 },
    'twice-end'     => { rule => { kind => 'end', do => 'twice', seconds => 2.5 }, count => 3 },
    'again-end'     => { rule => { kind => 'end', do => 'again' }, count => 3 },
    'cut-beat'      => { rule => { kind => 'beat', do => 'cut', times => 2 }, count => 2, every => 10_000, uri => 'fenced/delay/8/ok' },
    'again-beat'    => { rule => { kind => 'beat', do => 'again' }, count => 1, every => 10_000, uri => 'fenced/delay/8/ok' },
    'twice-beat'    => { rule => { kind => 'beat', do => 'twice', seconds => 4 }, count => 1, every => 10_000, uri => 'fenced/delay/8/ok' },
    'cut-attempt'   => { rule => { kind => 'attempt', do => 'cut', times => 3 }, count => 2, every => 6000, uri => 'fenced/turns/500/500/200', more => 'timer_retry 3 backoff=100ms;' },
    'twice-attempt' => { rule => { kind => 'attempt', do => 'twice', seconds => 2 }, count => 2, every => 6000, uri => 'fenced/turns/500/500/500/200', more => 'timer_retry 3 backoff=900ms;' },
    'again-attempt' => { rule => { kind => 'attempt', do => 'again' }, count => 2, every => 6000, uri => 'fenced/turns/500/500/200', more => 'timer_retry 3 backoff=100ms;' },
    'cut-again'     => { rule => { kind => [qw( claim again )], do => 'cut', chance => 0.5 }, count => 3 },
    # A claim that is under way while its due time is an overlap: the runs are longer than the period.
    'overlap'       => { rule => { kind => 'claim', do => 'delay', seconds => 3, chance => 0.5 }, count => 1, uri => 'fenced/delay/5/ok' },
    'overlap-late'  => { rule => { kind => [qw( claim close )], do => 'late', seconds => [ 0.5, 4 ], chance => 0.5 }, count => 1, uri => 'fenced/delay/5/ok' },
    'plain'         => { rule => { kind => 'end', do => 'pass' }, count => 5, every => 1000 },
);
my @names = sort keys %case;
for my $name (@names) {
    $case{$name}{every} //= 2000;
    $case{$name}{id} = $proxy->rule( timer => $name, %{ $case{$name}{rule} } );
}

# A run by hand whose host dies just before a daily due time; and a claim that is won while its host stands still.
my ( $fleet, $orphan, $between );
my ($due) = before_due(
    12,
    sub {
        my ( $at, $try ) = @_;
        my $daily = 'every=366d offset=' . $at % ( 366 * 86_400 ) . 's';
        ( $orphan, $between ) = map {"$_$try"} qw( orphan between );
        my $timers = sub {
            my ($n) = @_;
            return join '', fleet_timer( $backend, $orphan, $daily, "fenced/by-turns/held/$orphan/ok" ), fleet_timer( $backend, $between, $daily, 'fenced/ok' ),
                $n > 2 ? () : map { fleet_timer( $backend, $_, "every=$case{$_}{every}ms offset=0", $case{$_}{uri}, $case{$_}{more} ) } @names;
        };
        if ($fleet) { $fleet->change( $_, timers => $timers )->reload for 0 .. 4 }
        $fleet //= TimerTest::Fleet->start( hosts => 5, etcd => $etcd, proxy => $proxy, timers => $timers );
        my ( $status, $said ) = $fleet->order( 4, "/timers/$orphan/run" );
        like( $status, qr/\A20[02]\z/, 'a run by hand' ) or diag explain $said;
        $backend->wait_requests( 1, timer => $orphan );
    }
);
my $winner;
my $slow = $proxy->rule( timer => $between, kind => 'claim', do => 'slow', seconds => 1.5 );
# Not so soon before that this machine is too slow for it.
wait_until { time > $due - 3 } 60;
$fleet->host(4)->kill_all;
if ( ok( wait_until( sub { ( $etcd->get("/nginx-timer/prod/$between/run") // '' ) =~ /"node":"web(\d)"/ and defined( $winner = $1 ) } ), 'a claim is won' ) ) {
    stand_still( my @workers = $fleet->host($winner)->workers );
    my $stopped = time;
    $proxy->clear($slow);
    # Everything else goes on without that host.
    wait_until { sleep 0.2; time > $stopped + 20 };
    kill CONT => @workers;
}
my ( undef, $again ) = $backend->wait_requests( 2, timer => $orphan );
is( $again->{headers}{'x-due'}, "$due.000", 'a daily due time is not left out for a run by hand that nobody beats' );

for my $name (@names) {
    $proxy->wait_count( $case{$name}{id}, $case{$name}{count} );
}
# All answers of a host are lost for some seconds, while what it asks is done; and those of all hosts.
$proxy->clear;
for my $host ( [ host => 'web0' ], [] ) {
    my $cut = $proxy->rule( do => 'cut', @$host );
    my $at  = time;
    wait_until { sleep 0.2; time > $at + 3 };
    $proxy->clear($cut);
}
my $at = time;
for my $name (@names) {
    ok( wait_until( sub { grep { $_->{arrived} > $at && ( $_->{ended} // 0 ) > $at } $backend->requests( timer => $name ) } ), "$name goes on" );
}
wait_until { !grep { m{/run\z} && !m{/overlap} } keys %{ $etcd->keys } };
$fleet->host($_)->stop for 0 .. 3;

my @runs = $backend->requests;
no_start_twice( 'answers', @runs );
fences_grow( 'answers', @runs );
is( scalar( starts( $backend->requests( timer => $between ) ) ) <= 1, 1, 'what was won while its host stood still is started once, or not at all' );
for my $name (@names) {
    for my $n ( 0 .. 2 ) {
        my ( $dues, $counted ) = $fleet->account( $n, $name, $case{$name}{every}, 0 );
        is( $counted, $dues, "$name: the account of web$n" );
    }
}
done_testing;
