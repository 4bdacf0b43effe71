#!/usr/bin/perl

# What goes wrong for ever costs no more than it has to: a run that kills worker after worker has as many attempts as
# timer_retry says, on all hosts together; and a timer whose keys nobody can go on from asks etcd now and then.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;
use TimerTest::Fleet;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start( members => 1 );
my $proxy   = TimerTest::EtcdProxy->start($etcd);
my $due     = int( time + 6 );
my $once    = 'every=366d offset=' . $due % ( 366 * 86_400 ) . 's';
my @stuck   = qw( ahead foreign );
my $fleet   = TimerTest::Fleet->start(
    hosts   => 2,
    etcd    => $etcd,
    proxy   => $proxy,
    options => { allow => [qr/exited on signal 9/] },
    timers  => join( '', map { fleet_timer( $backend, $_, 'every=1s offset=0' ) } @stuck )
        . fleet_timer( $backend, 'crash', $once, 'fenced/held/crash/ok', 'timer_retry 2 on=interrupted;' ),
);
$backend->wait_requests( 2, timer => $_ ) for @stuck;

# What somebody else has written.
my $tomorrow = int( 1000 * time ) + 86_400_000;
$etcd->put( '/nginx-timer/prod/ahead/last', sprintf '%020d 0 - - web9 %016x', $tomorrow, 1 );
$etcd->put( '/nginx-timer/prod/foreign/pause', 'x' );
ok( wait_until( sub { ( $fleet->show( 0, $_ )->{fleet}{state} // '' ) eq 'refused' } ), "$_: it is refused" ) for @stuck;
my $from = time;

# Each attempt is the end of its worker, at once.
for my $n ( 1 .. 3 ) {
    my @attempts = $backend->wait_requests( $n, timer => 'crash' );
    is( $attempts[-1]{headers}{'x-attempt'}, $n, "attempt $n" );
    kill KILL => $attempts[-1]{headers}{'x-pid'};
}
ok( wait_until( sub { my $keys = $etcd->keys('/nginx-timer/prod/crash/'); !$keys->{'/nginx-timer/prod/crash/run'} && ( $keys->{'/nginx-timer/prod/crash/done'}{value} // '' ) =~ / interrupted\z/ } ), 'the run has ended' );
my $ended = time;
wait_until { sleep 0.2; time > $ended + 4 && time > $from + 8 };
is( scalar( my @attempts = $backend->requests( timer => 'crash' ) ), 3, 'with no further attempt' );
is( join( ' ', map { $_->{headers}{'x-run'} eq $attempts[0]{headers}{'x-run'} ? 1 : 0 } @attempts ), '1 1 1', 'all of one run' );
my $exchanges = $proxy->exchanges( timer => 'crash' );
cmp_ok( $exchanges, '<=', 20, 'which costs few exchanges' );

# Each due time is read once by each host, as where nothing is wrong, and nothing is asked in between.
my $to = time;
for my $name (@stuck) {
    my $away = sub { my ($x) = @_; return $x->{at} >= $from && $x->{at} <= $to && grep { $_ eq $name } $x->{timer} // (), @{ $x->{timers} // [] } };
    for my $host (qw( web0 web1 )) {
        my @asked = grep { $away->($_) } $proxy->exchanges( host => $host );
        cmp_ok( scalar @asked, '<=', 4 + $to - $from, "$name: $host reads each due time" ) or diag explain [ map {"$_->{kind} $_->{at}"} @asked ];
        # It may have won the due time before, and not have read since.
        cmp_ok( scalar( grep { $_->{kind} ne 'read' } @asked ), '<=', 1, "$name: and claims nothing" );
    }
    is( scalar( grep { $_->{arrived} > $from } $backend->requests( timer => $name ) ), 0, "$name: nothing is run" );
}
( my $status ) = map { ( $fleet->order( $_, '/timers/ahead/reset' ) )[0] } 0;
is( $status, 200, 'ahead: reset' );
$etcd->delete('/nginx-timer/prod/foreign/pause');
more_requests( $backend, 2, timer => $_ ) for @stuck;
$fleet->stop;

my @runs = $backend->requests;
no_start_twice( 'bounded', @runs );
fences_grow( 'bounded', grep { $_->{headers}{'x-timer'} ne 'ahead' } @runs );
done_testing;
