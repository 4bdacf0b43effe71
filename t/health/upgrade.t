#!/usr/bin/perl

# A binary upgrade, and the way back: both masters check for their own workers, and each begins anew.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::Servers;

my $servers = TimerTest::Servers->start(2);

my @masters;
END { local ( $?, $! ); kill 'KILL', map { ( $_, children_of($_) ) } grep { is_alive($_) } @masters }

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    daemon  => 1,
    state   => 'memory',
    http    => "upstream b { zone b 64k; ${\ $servers->list } }",
    server  => 'location / { proxy_set_header X-By $pid; proxy_pass http://b; health_check interval=100ms; }',
);
$nginx->start;
my $first = $nginx->pid;
push @masters, $first;
$servers->set( 1, 503 );
my $ill = qr/127\.0\.0\.1:${\ $servers->port(1) } in upstream "b" is unhealthy/;
$nginx->wait_log($ill);

# Checks by the workers of each of these masters, from now on; and no client gets an error once they have begun.
sub checked_by {
    my ( $title, @masters ) = @_;
    my $from = $servers->checks(0);
    my %of   = map { my $master = $_; map { $_ => $master } children_of($master) } @masters;
    my $all  = sub {
        my @checks = $servers->checks(0);
        my %seen   = map { $_ => 1 } grep {defined} map { $of{ $_->{by} } } @checks[ $from .. $#checks ];
        return keys %seen == @masters;
    };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( TimerTest::poll_until($all), $title );
}

my $second = start_upgrade( $nginx, $first );
push @masters, $second;
checked_by( 'USR2: both check', $first, $second );
$nginx->wait_log( $ill, 2 );
my $before = $servers->clients(1);
is( $nginx->get('/')->{status}, 200, 'clients are served' ) for 1 .. 10;
is( $servers->clients(1), $before, 'by the healthy server alone' );

my @old = grep { $_ != $second } children_of($first);
$nginx->signal( 'WINCH', $first );
ok( $nginx->wait_gone( \@old ), 'WINCH: the old workers leave' );
checked_by( 'the new ones check', $second );

# The way back.
$nginx->signal( 'HUP', $first );
wait_until { 2 == grep { $_ != $second } children_of($first) };
$nginx->signal( 'QUIT', $second );
ok( TimerTest::poll_until( sub { !is_alive($second) } ), 'QUIT: the new master leaves' );
checked_by( 'the old one checks again', $first );
$before = $servers->clients(1);
is( $nginx->get('/')->{status}, 200, 'clients are served' ) for 1 .. 10;
is( $servers->clients(1), $before, 'by the healthy server alone' );
$nginx->stop;
$servers->stop;
done_testing();
