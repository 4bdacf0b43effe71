#!/usr/bin/perl

# Twenty timers of a second on five hosts, under faults at random: members of etcd killed and stopped, answers cut off
# after they were applied, late, twice, not at all; hosts stopped, killed, and reloaded in storms; clocks wrong by an
# hour. For FLEET_SECONDS (25; a thousand due times are 50, and a thousand without a single fault "t/fleet/thousand.t").
# In the end all is as if nothing had been: no due time was started twice, fences grow, each host accounts for each due time.

use strict;
use warnings;

use List::Util qw( shuffle );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;
use TimerTest::Fleet;

plan skip_all => 'a sanitizer or valgrind wants to be the first library' if nginx_is_watched();

my $seconds = $ENV{FLEET_SECONDS} || 25;
my $seed    = $ENV{FLEET_SEED}    || int( time * 1000 ) % 1_000_000;
srand $seed;
note "FLEET_SEED=$seed";

my @names   = map {"t$_"} 1 .. 20;
my %uri     = map { $names[$_] => ( 'fenced/ok', 'fenced/delay/0.02/ok', 'fenced/delay/0.4/ok', 'fenced/turns/500/200', 'fenced/delay/3/ok' )[ $_ % 5 ] } 0 .. $#names;
my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start;
my $proxy   = TimerTest::EtcdProxy->start($etcd);
my $fleet   = TimerTest::Fleet->start(
    hosts   => 5,
    clocks  => 1,
    etcd    => $etcd,
    proxy   => $proxy,
    options => { allow => [qr/exited on signal 9/] },
    timers  => join '', map { fleet_timer( $backend, $_, 'every=1s offset=0', $uri{$_}, $uri{$_} =~ /turns/ ? 'timer_retry 2 backoff=100ms on=failure,interrupted;' : 'timer_retry 1 on=interrupted;' ) } @names,
);
$backend->wait_requests( 1, timer => $_ ) for @names;

# What is done at random, and what undoes it, some seconds later. No fault lasts for good.
my ( @undo, %stopped, %down, %away );
sub later { my ( $after, $do ) = @_; push @undo, [ time + $after, $do ]; return }
sub one { my @of = shuffle @_; return $of[0] }

my %fault = (
    'member killed' => sub {
        my $n = one( grep { !$away{$_} } $etcd->all );
        return if %away;
        $away{$n} = 1;
        $etcd->kill($n);
        later( 1 + rand 4, sub { $etcd->start_member($n); delete $away{$n} } );
    },
    'leader stopped' => sub {
        my $n = $etcd->leader;
        return if %away || !defined $n;
        $away{$n} = 1;
        $etcd->stop($n);
        later( 1 + rand 7, sub { $etcd->continue($n); delete $away{$n} } );
    },
    'majority gone' => sub {
        return if %away;
        %away = ( 0 => 1, 1 => 1 );
        $etcd->kill( 0, 1 );
        later( 1 + rand 3, sub { $etcd->start_member($_) for 0, 1; %away = () } );
    },
    ( map { my $do = $_; ( "$do some" => sub {
        my $rule = $proxy->rule( do => $do, seconds => [ 0, 3 ], chance => 0.1 + rand 0.4, rand() < 0.5 ? ( host => 'web' . int rand 5 ) : (), half => int rand 2 );
        later( 1 + rand 4, sub { $proxy->clear($rule) } );
    } ) } qw( cut delay slow twice again late refuse mute ) ),
    'host cut off' => sub {
        my $rule = $proxy->rule( do => one(qw( hang cut refuse )), host => 'web' . int rand 5 );
        later( 2 + rand 12, sub { $proxy->clear($rule) } );
    },
    'host stopped' => sub {
        my $n = int rand 5;
        return if $stopped{$n} || $down{$n} || %stopped > 1;
        my @pids = $fleet->host($n)->workers;
        $stopped{$n} = 1;
        kill STOP => @pids;
        later( rand 14, sub { kill CONT => grep { is_alive($_) } @pids; delete $stopped{$n} } );
    },
    'worker killed' => sub {
        my $n = int rand 5;
        return if $stopped{$n} || $down{$n};
        kill KILL => $fleet->host($n)->workers;
    },
    'host down' => sub {
        my $n = int rand 5;
        return if $stopped{$n} || %down;
        $down{$n} = 1;
        $fleet->host($n)->kill_all;
        later( 1 + rand 10, sub { $fleet->host($n)->start; delete $down{$n} } );
    },
    'reloads' => sub {
        my $n = int rand 5;
        return if $stopped{$n} || $down{$n};
        for ( 0 .. rand 5 ) { $fleet->host($n)->signal('HUP'); sleep rand 0.1 }
    },
    'clock' => sub {
        my $n = int rand 5;
        $fleet->set_clock( $n, one( 3600, -3600, 2, -2, 7 ) );
        later( 1 + rand 5, sub { $fleet->set_clock( $n, 0 ) } );
    },
);
my %done;
my $end = time + $seconds;
while ( time < $end ) {
    my $what = one( sort keys %fault );
    $fault{$what}->();
    $done{$what}++;
    sleep rand 1;
    my @due = grep { $_->[0] <= time } @undo;
    @undo = grep { my $entry = $_; !grep { $_ == $entry } @due } @undo;
    $_->[1]->() for @due;
}
$_->[1]->() for @undo;
$proxy->clear;
note join ', ', map {"$_: $done{$_}"} sort keys %done;

# All of it is over, and all timers go on, on hosts that have the time.
$etcd->wait_ready;
my $at = time;
for my $name (@names) {
    ok( wait_until( sub { 3 <= grep { $_->{arrived} > $at && $_->{ended} } $backend->requests( timer => $name ) }, 90 ), "$name goes on" );
}
$fleet->stop;

my @runs   = $backend->requests;
my $starts = starts(@runs);
no_start_twice( "seed $seed", @runs );
fences_grow( "seed $seed", @runs );
note sprintf '%d starts, %d due times', scalar( my @all = starts(@runs) ), scalar keys %{ { map { ( "$_->{headers}{'x-timer'} $_->{headers}{'x-due'}" => 1 ) } starts(@runs) } };
my ($refused) = scalar grep { $_->{status} } @runs;
# Clocks that were set make an account of their own: those of hosts that had the time are looked at in t/fleet/answers.t.
done_testing;
