#!/usr/bin/perl

# A binary upgrade: two masters side by side for as long as the operator likes, and the way back. One
# series all the time.

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

# The default file where that is in the prefix: the second master has the same pid file.
my ($configure) = ( run_command( nginx_binary(), '-V' ) )[1] =~ /^configure arguments: (.*)/m;
my $state = $configure =~ /--http-client-body-temp-path=/ ? undef : 'default';

my @masters;
END { local ( $?, $! ); kill 'KILL', map { ( $_, children_of($_) ) } grep { is_alive($_) } @masters }

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    daemon  => 1,
    state   => $state,
    server  => join( '', map { timer( $backend, "t$_", "every=${_}ms offset=0" ) } 20, 100, 500 )
        . timer( $backend, 'busy', 'every=150ms offset=0', 'delay/0.2/ok' )
        . timer( $backend, 'any', 'every=100ms offset=0', 'ok', 'timer_worker any;' )
        . timer( $backend, 'once', 'every=366d first=now' ),
);

# Waits for a few more runs of all kinds by a generation of workers.
sub goes_on {
    my ( $title, @workers ) = @_;
    my %mine = map { $_ => 1 } @workers;
    my $seen = $backend->requests;
    my $now  = sub { my @all = $backend->requests; my %n; $n{ $_->{headers}{'x-timer'} }++ for grep { !@workers || $mine{ $_->{headers}{'x-pid'} } } @all[ $seen .. $#all ]; \%n };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( wait_until( sub { my $n = $now->(); 4 == grep { ( $n->{$_} // 0 ) >= 3 } qw( t20 t100 busy any ) and ( $n->{t500} // 0 ) >= 2 } ), $title )
        || diag explain $now->();
}

sub workers_of { my ($master) = @_; return children_of($master) }

$nginx->start;
my $first = $nginx->pid;
push @masters, $first;
ok( $backend->wait_requests( 2, timer => 't500' ), 'timers run' );
my $began = ( $backend->requests( timer => 't500' ) )[0]{arrived};

# USR2: both masters live.
my $second = start_upgrade( $nginx, $first );
push @masters, $second;
isnt( $second, $first, 'USR2: two masters' );
goes_on('they go on together');
my @second_workers = workers_of($second);

# WINCH to the old one, QUIT.
my @old = grep { $_ != $second } workers_of($first);
$nginx->signal( 'WINCH', $first );
ok( $nginx->wait_gone( \@old ), 'WINCH: the old workers leave' );
goes_on( 'the new ones go on', @second_workers );
$nginx->signal( 'QUIT', $first );
ok( wait_until( sub { !is_alive($first) } ), 'QUIT: the old master leaves' );
$nginx->{pid} = $second;
goes_on( 'the new one goes on alone', @second_workers );

# Again, and the way back: WINCH old, HUP old, QUIT new.
my $third = start_upgrade( $nginx, $second );
push @masters, $third;
isnt( $third, $second, 'USR2 again' );
goes_on('they go on together');
my @third_workers = workers_of($third);
$nginx->signal( 'WINCH', $second );
ok( $nginx->wait_gone( \@second_workers ), 'WINCH: the old workers leave' );
goes_on( 'the new ones go on', @third_workers );
$nginx->signal( 'HUP', $second );
ok( wait_until( sub { 2 == grep { $_ != $third } workers_of($second) } ), 'HUP: the old master has workers again' );
goes_on('they go on together');
$nginx->signal( 'QUIT', $third );
ok( wait_until( sub { !is_alive($third) } ), 'QUIT: the new one leaves' );
goes_on( 'the old one goes on alone', grep { $_ != $third } workers_of($second) );

# And a reload afterwards.
$nginx->reload;
goes_on('after a reload, too');
my $ended = ( $backend->requests( timer => 't500' ) )[-1]{arrived};
$nginx->stop;

is( scalar( $backend->requests( timer => 'once' ) ), 1, 'first=now once' );
no_doubles( 'two upgrades', $backend->requests );
no_overlaps( 'two upgrades', {}, $backend->requests );
my @own  = $backend->requests( timer => 't500' );
my @lost = lost_awake( 500, [ lost_dues( 500, $began, $ended, @own ) ], \@own, $beat );
is( scalar @lost, 0, 'no due time is lost' ) or diag "lost @lost";
logged_times( $nginx, qr/\[(?:warn|crit)\](?!.* due times? )|run interrupted/, 0, 'nothing to complain of' );

done_testing;
