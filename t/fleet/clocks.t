#!/usr/bin/perl

# Hosts whose clocks differ: by two seconds nothing is started twice, however short the runs; a clock that is an hour
# ahead claims nothing, one that is an hour behind is safe, and one that is set while a claim is under way, too. A last
# due time that lies in the future stops the timer until it is reset.

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

plan skip_all => 'a sanitizer or valgrind wants to be the first library' if nginx_is_watched();

my @names   = map {"t$_"} 1 .. 6;
my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start;
my $proxy   = TimerTest::EtcdProxy->start($etcd);
my $fleet   = TimerTest::Fleet->new(
    hosts  => 3,
    clocks => 1,
    etcd   => $etcd,
    proxy  => $proxy,
    timers => join( '', map { fleet_timer( $backend, $_, 'every=1s offset=0', 'fenced/delay/0.02/ok' ) } @names, 'ahead' ) . timer( $backend, 'alone', 'every=1s' ),
);
$fleet->set_clock( 0, 2 );
$fleet->set_clock( 1, -2 );
$_->start for $fleet->hosts;

sub more {
    my ( $count, $title, @hosts ) = @_;
    my $at = time;
    my %hosts = map { ( "web$_" => 1 ) } @hosts;
    my $newer = sub { my ($name) = @_; return grep { $_->{arrived} > $at && $hosts{ host_of($_) } } $backend->requests( timer => $name ) };
    ok( wait_until( sub { !grep { $newer->($_) < $count } @names } ), "$title: all timers go on" );
    return $at;
}

# Two seconds before and two behind: the one whose clock is fast has them all.
more( 5, 'two seconds', 0 .. 2 );

# The fast one is an hour ahead, of which it is told.
$fleet->set_clock( 0, 3600 );
logged( $fleet->host(0), qr/\[error\].* clock is 3[56]\d{5}ms ahead of fleet "prod", due time not claimed/, 'an hour ahead: it is said' );
my $at = more( 3, 'an hour ahead', 1, 2 );
none_of { host_of($_) eq 'web0' } 'an hour ahead: that host runs none', grep { $_->{arrived} > $at && $_->{headers}{'x-fleet'} } $backend->requests;
cmp_ok( $fleet->show( 0, 't1' )->{fleet}{skew_ms}, '>', 3_500_000, 'an hour ahead: it is shown' );
my ($skew) = $fleet->api(0)->ask('/metrics')->{body} =~ /^nginx_timer_fleet_clock_skew_seconds\{fleet="prod"\} (\S+)$/m;
cmp_ok( $skew // 0, '>', 3500, 'an hour ahead: and measured' );
ok( poll_until( sub { grep { $_->{arrived} > $at && !$_->{headers}{'x-fleet'} && $_->{headers}{'x-due'} > time + 3000 } $backend->requests( timer => 'alone' ) } ),
    'an hour ahead: a timer without a fleet goes by its clock' );

# An hour behind: it claims what has been claimed, and takes part again when its clock is set.
$fleet->set_clock( 0, -3600 );
more( 3, 'an hour behind', 1, 2 );
$fleet->set_clock( 0, 0 );
more( 3, 'set right', 0 .. 2 );

# Set by an hour, forward and back, while claims are under way, on whichever host has them.
for my $step ( 3600, -3600 ) {
    my $rule = $proxy->rule( do => 'slow', kind => 'claim', seconds => 1 );
    $proxy->wait_count( $rule, 1 );
    my ($claim) = $proxy->exchanges( rule => $rule );
    my ($host) = $claim->{host} =~ /(\d)/;
    $fleet->set_clock( $host, $step );
    $proxy->wait_count( $rule, 2 );
    $proxy->clear($rule);
    more( 2, "set by $step on web$host while claims are under way", 0 .. 2 );
    $fleet->set_clock( $host, 0 );
}
more( 3, 'set while claims are under way', 0 .. 2 );

# A last due time of the far future (by a host that had no guard): no host accounts for anything up to there.
my $key  = '/nginx-timer/prod/ahead/last';
my $last = $etcd->get($key);
ok( $last, 'ahead: there is a last due time' );
my $far = sprintf '%020d', 1000 * ( int(time) + 7200 );
$etcd->put( $key, $last =~ s/\A\d{20}/$far/r );
for my $n ( 0 .. 2 ) {
    ok( wait_until( sub { ( $fleet->show( $n, 'ahead' )->{fleet}{state} // '' ) eq 'refused' } ), "ahead: refused by web$n" );
}
my $ran = $backend->requests( timer => 'ahead' );
my %counters = %{ $fleet->show( 1, 'ahead' )->{counters} };
like( $fleet->api(1)->ask('/health')->{body}, qr/ahead/, 'ahead: health says so' );
ok( wait_until( sub { $fleet->show( 1, 'ahead' )->{late_seconds} >= 2 } ), 'ahead: it is late' );
is_deeply( { %{ $fleet->show( 1, 'ahead' )->{counters} }, overlaps => 0 }, { %counters, overlaps => 0 }, 'ahead: nothing is accounted for' );
my ( $status, $said ) = $fleet->order( 2, '/timers/t1/reset' );
is( $status, 409, 'a reset of what is well is refused' );
( $status, $said ) = $fleet->order( 2, '/timers/ahead/reset' );
is( $status, 200, 'ahead: reset' ) or diag explain $said;
my @after = $backend->wait_requests( $ran + 2, timer => 'ahead' );
cmp_ok( abs( $after[-1]{headers}{'x-due'} - time ), '<', 60, 'ahead: and it goes on' );

$fleet->stop;
my @runs = grep { $_->{headers}{'x-fleet'} } $backend->requests;
no_start_twice( 'clocks', @runs );
fences_grow( 'clocks', @runs );
done_testing;
