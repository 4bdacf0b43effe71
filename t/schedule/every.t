#!/usr/bin/perl

# When: due times on their grid, not one early, at a fixed rate without drift; offset, its default,
# jitter, first=now, enabled=off.

use strict;
use warnings;

use List::Util qw( max min );
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

my $headers = join ' ', map {"proxy_set_header X-\u$_ \$timer_$_;"} qw( due lateness trigger attempt run );

sub location {
    my ( $name, $schedule ) = @_;
    return "location \@$name { timer $name $schedule; proxy_set_header X-Timer $name; $headers proxy_pass http://127.0.0.1:$port; }\n";
}

# Due times in milliseconds, in order of arrival, of the runs by schedule.
sub dues {
    my (@requests) = @_;
    return map { $_->{headers}{'x-due'} =~ /\A(\d+)\.(\d{3})\z/ ? "$1$2" + 0 : die "due $_->{headers}{'x-due'}" }
        grep { $_->{headers}{'x-trigger'} eq 'schedule' } @requests;
}

# Waits for the due times of so many runs by schedule: one that came a second late was missed.
sub wait_dues {
    my ( $count, $timer ) = @_;
    my @due;
    wait_until { ( @due = dues( $backend->requests( timer => $timer ) ) ) >= $count };
    return @due;
}

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => location( grid => 'every=200ms offset=50ms' )
        . location( zero    => 'every=250ms offset=0' )
        . location( second  => 'every=1s offset=730ms' )
        . location( jitter  => 'every=400ms offset=0 jitter=300ms' )
        . location( now     => 'every=300ms first=now' )
        . location( due     => 'every=300ms first=due' )
        . location( daily   => 'every=366d first=now' )
        . location( off     => 'every=10ms first=now enabled=off' )
        . join( '', map { location( "default$_" => 'every=1s' ) } 1 .. 8 ),
);
$nginx->start;

my %grid = ( grid => [ 200, 50 ], zero => [ 250, 0 ], second => [ 1000, 730 ], jitter => [ 400, 0 ] );
for my $name ( sort keys %grid ) {
    my ( $every, $offset ) = @{ $grid{$name} };
    my @due      = wait_dues( $every < 1000 ? 12 : 4, $name );
    my @requests = $backend->requests( timer => $name );

    none_of { $_ % $every != $offset } "$name: on the grid", @due;
    my $rising = grep { $due[$_] > $due[ $_ - 1 ] } 1 .. $#due;
    is( $rising, $#due, "$name: each due time once, in order" );
    # Where this machine stands still again and again, later than elsewhere.
    my $in_a_row = sub {
        my @all = dues( $backend->requests( timer => $name ) );
        my $next = grep { $all[$_] == $all[ $_ - 1 ] + $every } 1 .. $#all;
        return $next >= $#due / 2;
    };
    ok( wait_until { $in_a_row->() }, "$name: one after the other" );

    # 1 ms for the rounding of the witness' clock.
    none_of { $_->{arrived} * 1000 < $_->{headers}{'x-due'} * 1000 - 1 } "$name: not one is early", @requests;
    none_of { $_->{headers}{'x-lateness'} !~ /\A\d+\.\d{3}\z/ } "$name: lateness is a number, not negative", @requests;
    my %runs = map { $_->{headers}{'x-run'} => 1 } @requests;
    is( scalar keys %runs, scalar @requests, "$name: each run has its own id" );
    none_of { $_->{headers}{'x-attempt'} ne '1' } "$name: attempt 1", @requests;
}

# Jitter: bounded, and not the same each time. Lateness includes it.
my @late = map { $_->{headers}{'x-lateness'} * 1000 } $backend->requests( timer => 'jitter' );
cmp_ok( max(@late) - min(@late), '>', 30, 'jitter spreads' );
my $within = grep { $_ < 330 } @late;
cmp_ok( $within, '>=', @late / 2, 'within its bound, but for the noise of the machine' ) or diag "@late";

# first
my @now = $backend->wait_requests( 1, timer => 'now' );
is( $now[0]{headers}{'x-trigger'}, 'first', 'first=now runs at once' );
is( ( grep { $_->{headers}{'x-trigger'} eq 'first' } $backend->requests( timer => 'now' ) ), 1, 'once' );
my @due = wait_dues( 2, 'now' );
none_of { ( $_ - $due[0] ) % 300 } 'then by schedule', @due;
my ($due) = $backend->wait_requests( 1, timer => 'due' );
is( $due->{headers}{'x-trigger'}, 'schedule', 'first=due waits for its due time' );
is( scalar $backend->wait_requests( 1, timer => 'daily' ), 1, 'a daily one, started with first=now, has run once' );

# The offset by default: below the period, stable, different for different names.
my %offset;
for my $n ( 1 .. 8 ) {
    my @due = wait_dues( 2, "default$n" );
    $offset{$n} = $due[0] % 1000;
    is( $due[1] % 1000, $offset{$n}, "default$n: one offset" );
}
my %distinct = map { $_ => 1 } values %offset;
cmp_ok( scalar keys %distinct, '>=', 5, 'not all at the same time' );

is( scalar $backend->requests( timer => 'off' ), 0, 'enabled=off never runs' );
$nginx->stop;

# The same offsets, and the same jitter, in another nginx of this host.
$nginx = TimerTest::Nginx->new( server => join '', map { location( "default$_" => 'every=1s' ) } 1 .. 8 );
my %seen = map { $_ => scalar( () = dues( $backend->requests( timer => "default$_" ) ) ) } 1 .. 8;
$nginx->start;
for my $n ( 1 .. 8 ) {
    my $again = ( wait_dues( $seen{$n} + 1, "default$n" ) )[ $seen{$n} ];
    is( $again % 1000, $offset{$n}, "default$n: the same offset after a restart" );
}
$nginx->stop;

my @twins = map { TimerTest::Nginx->new( server => location( twins => 'every=400ms offset=0 jitter=300ms' ) ) } 1, 2;
$_->start for @twins;
my %late_at;
wait_until {
    %late_at = ();
    push @{ $late_at{ $_->{headers}{'x-due'} } }, $_->{headers}{'x-lateness'} for $backend->requests( timer => 'twins' );
    12 <= grep { @$_ == 2 } values %late_at;
};
my @pairs = grep { @$_ == 2 } values %late_at;
my $alike = grep { abs( $_->[0] - $_->[1] ) < 0.04 } @pairs;
cmp_ok( scalar @pairs, '>=', 12,          'two nginx with one timer have the same due times' );
cmp_ok( $alike,        '>=', @pairs / 2,  'and the same jitter' );
$_->stop for @twins;

done_testing;
