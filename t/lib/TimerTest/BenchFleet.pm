package TimerTest::BenchFleet;

# What it costs that one of several hosts runs a timer: for tools/bench.pl. The measurement hands its numbers to a
# function: $record->( KEY => NUMBER, ... ).

use strict;
use warnings;

use Exporter qw( import );
use IO::Socket::INET ();
use JSON::PP ();
use List::Util qw( sum0 );
use Socket qw( IPPROTO_TCP TCP_NODELAY );
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;
use TimerTest::Fleet;
use TimerTest::Series;
use TimerTest::Turns;

our @EXPORT = qw( measure_fleet );

# Three hosts and three members that have nothing else to do: from the due time to the request at the upstream, and what
# etcd itself takes for as much; exchanges by due time; the longest turn of the event loop.
sub measure_fleet {
    my ( $record, $size ) = @_;

    my $backend = TimerTest::Backend->start;
    my $etcd    = TimerTest::Etcd->start;
    my $turns   = TimerTest::Turns->new;
    my $measure = sub {
        my ( $seconds, %option ) = @_;
        my $fleet = TimerTest::Fleet->start( hosts => 3, etcd => $etcd, timers => fleet_timer( $backend, 'x', 'every=1s offset=0' ) . timer( $backend, 'alone', 'every=1s' ), %option );
        more_requests( $backend, 5, timer => 'x' );
        my @own = map { $_->worker_in_slot(0) } $fleet->hosts;
        $turns->clear;
        my $from = time;
        sleep $seconds;
        my $over = time;
        my @turns = map { $turns->longest($_) } @own;
        $_->signal('QUIT') for $fleet->hosts;
        $_->wait_exit && $_->kill_all for $fleet->hosts;
        return ( $from, \@turns, grep { $_->{arrived} > $from && $_->{arrived} < $over } $backend->requests );
    };

    my ( $from, undef, @all ) = $measure->( $size->{lateness} );
    my %late;
    for my $request (@all) {
        my $due = $request->{headers}{'x-due'};
        push @{ $late{ $request->{headers}{'x-timer'} } }, 1000 * ( $request->{arrived} - $due );
    }
    for my $name ( sort keys %late ) {
        my @sorted = sort { $a <=> $b } @{ $late{$name} };
        $record->( "fleet.$name.median", $sorted[ $#sorted / 2 ] );
        $record->( "fleet.$name.99th",   $sorted[ 0.99 * $#sorted ] );
    }
    my @takes = sort { $a <=> $b } _write_takes( $etcd, 100 );
    $record->( 'fleet.etcd.median', $takes[ $#takes / 2 ] );
    $record->( 'fleet.etcd.99th',   $takes[ 0.99 * $#takes ] );

    # Counted in between, with the turns of the event loop.
    my $proxy = TimerTest::EtcdProxy->start($etcd);
    ( $from, my $longest, @all ) = $measure->( 3 + $size->{lateness} / 4, proxy => $proxy, options => { faults => $turns } );
    my @runs = grep { $_->{headers}{'x-fleet'} } @all;
    my ($to) = sort { $b <=> $a } map { $_->{arrived} } @runs;
    my %winner = map { sprintf( '%.0f', $_->{headers}{'x-due'} ) => host_of($_) } @runs;
    my %asked;
    for my $exchange ( grep { $_->{at} > $from && $_->{at} < $to } $proxy->exchanges ) {
        my $holder = $winner{ sprintf '%.0f', $exchange->{at} - 0.5 } // '';
        push @{ $asked{ $exchange->{host} eq $holder ? 'winner' : 'loser' } }, $exchange;
    }
    $record->( 'fleet.exchanges.winner', @{ $asked{winner} // [] } / @runs );
    $record->( 'fleet.exchanges.loser',  @{ $asked{loser}  // [] } / @runs / 2 );
    $record->( 'fleet.exchanges.alone', scalar grep { $_->{timer} eq 'alone' } $proxy->exchanges );
    $record->( 'fleet.turn', ( sort { $b <=> $a } @$longest )[0] );
    $proxy->stop;
    $etcd->kill_all;
    $backend->stop;
    return;
}

# Milliseconds that a transaction with two puts takes, on one connection to the leader: what a claim is, by itself.
sub _write_takes {
    my ( $etcd, $count ) = @_;
    my ($port) = ( $etcd->ports )[ $etcd->wait_leader ];
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $port ) or die "connect: $!";
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
    my $key  = sub { return TimerTest::Etcd::base64("/bench/$_[0]") };
    my $put  = sub { return { request_put => { key => $key->( $_[0] ), value => TimerTest::Etcd::base64( 'x' x 200 ) } } };
    my $body = JSON::PP::encode_json( { compare => [], success => [ map { $put->($_) } qw( run last ) ], failure => [] } );
    my @takes;
    for ( 1 .. $count ) {
        my $at = time;
        syswrite $socket, "POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nContent-Length: @{[ length $body ]}\r\n\r\n$body";
        my $answer = '';
        while ( $answer !~ /\r\n\r\n.*\}\z/s ) { sysread( $socket, $answer, 65536, length $answer ) or die 'etcd has closed' }
        push @takes, 1000 * ( time - $at );
        sleep 0.01;
    }
    return @takes;
}

1;
