#!/usr/bin/perl

# When checks are made, as the servers see it: 200 servers evenly in each second; one that flaps once for each
# time that it is due, with a line for each change and none else; and no check too many or too few when the wall
# clock is stepped, which is libfaketime's.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api qw( json );
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Servers;

# Many servers on one port, and when each was asked.
my $port    = free_port();
my $witness = TimerTest::Nginx->new( no_module => 1, wrapper => '', connections => 4096 );
my @many    = map {"127.0.2.$_"} 1 .. 200;
my $asked   = $witness->prefix . '/logs/asked.log';
$witness->write_conf(
    http => "log_format asked '\$msec \$server_addr'; server { access_log $asked asked; "
        . join( '', map {"listen $_:$port;"} @many )
        . ' location / { return 200; } }' );
$witness->start;

my $beat    = TimerTest::Beat->start;
my $servers = TimerTest::Servers->start(3);

# Checks that have come at these times are no more than were due: where the first came late, the others came the sooner.
sub none_too_many {
    my ( $interval, $title, @at ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return cmp_ok( $#at * $interval, '<=', $at[-1] - $at[0] + 0.3 + $beat->still( $at[0] - 2, $at[0] + 0.1 ), $title );
}

my ( $one, $two, $three ) = map { '127.0.0.1:' . $servers->port($_) } 0 .. 2;
my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';
my $clock = scratch_dir() . '/offset';

sub set_clock {
    my ($offset) = @_;
    spew( "$clock.new", sprintf "%+ds\n", $offset );
    rename "$clock.new", $clock or die "$clock: $!";
    return;
}
set_clock(0);

my $nginx = TimerTest::Nginx->new(
    workers => 4,
    wrapper => $library
    ? "env LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE=$clock FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 "
        . ( $ENV{TEST_NGINX_WRAPPER} // '' )
    : $ENV{TEST_NGINX_WRAPPER} // '',
    main => join( '', map {"env $_;\n"} qw( LD_PRELOAD FAKETIME_TIMESTAMP_FILE FAKETIME_NO_CACHE FAKETIME_DONT_FAKE_MONOTONIC FAKETIME_SHARED ) ),
    http => "upstream many { zone many 1m; @{[ map {qq(server $_:$port;)} @many ]} }"
        . " upstream flaps { zone flaps 64k; server $one max_fails=0; }"
        . " upstream b { zone b 64k; server $two max_fails=0; server $three max_fails=0; }",
    server => <<'CONF',
    location /many/ { proxy_pass http://many; health_check interval=1s; }
    location /flaps/ { proxy_pass http://flaps; health_check interval=20ms; }
    location / { proxy_pass http://b; health_check interval=100ms; }
    location /status/ { timer_api; }
CONF
);
$servers->set( 0, 'flap' );
$nginx->start;

# One that flaps: what the log tells is what the server has answered, change by change.
{
    $servers->wait_checks( 0, 60 );
    $servers->up(0);
    my $row;
    poll_until( sub { ( $row = join '', map { $_->{status} == 503 ? 'F' : 'P' } $servers->checks(0) ) =~ /P{6}\z/ } );
    my ( $downs, $ups ) = ( scalar( () = $row =~ /(?:\A|P)(?=F)/g ), scalar( () = $row =~ /F(?=P)/g ) );
    cmp_ok( $downs, '>', 5, 'it was unhealthy often enough' );
    is( $nginx->log_lines(qr/\[error\].* peer \Q$one\E in upstream "flaps" is unhealthy/), $downs, 'one line for each time' );
    is( $nginx->log_lines(qr/\[notice\].* peer \Q$one\E in upstream "flaps" is healthy/),  $ups,   'one for each time that it was back' );
    is( $nginx->log_lines(qr/peer \Q$one\E /), $downs + $ups, 'and no other' );
    my $peer = json( $nginx->get('/status/upstreams/flaps') )->{peers}[0];
    is( "$peer->{state} $peer->{health_checks}{unhealthy}", "up $downs", 'the API counts the same' );
    none_too_many( 0.02, 'it was checked no more often than it was due', map { $_->{at} } $servers->checks(0) );
}

# 200 servers: each once in a second, evenly; in one second of a machine that did not stand still.
{
    my $told;
    my $even = sub {
        my @asked = map { [split] } split /\n/, slurp($asked);
        for my $from ( map { $asked[0][0] + $_ / 10 } 10 .. 300 ) {
            last if $from + 1 > $asked[-1][0];
            my @second = grep { $_->[0] >= $from && $_->[0] < $from + 1 } @asked;
            my ( %times, @slices );
            for (@second) { $times{ $_->[1] }++; $slices[ 10 * ( $_->[0] - $from ) ]++ }
            my ($fewest) = sort { $a <=> $b } map { $slices[$_] // 0 } 0 .. 9;
            my ($most)   = sort { $b <=> $a } map { $slices[$_] // 0 } 0 .. 9;
            my $once     = grep { $_ == 1 } values %times;
            $told = "$once once, in each tenth $fewest to $most";
            return 1 if $once >= 190 && $fewest >= 4 && $most <= 45;
        }
        return 0;
    };
    ok( poll_until($even), '200 servers are checked evenly' ) || diag $told;
    my %times;
    my @asked = map { [split] } split /\n/, slurp($asked);
    $times{ $_->[1] }++ for @asked;
    my $seconds = $asked[-1][0] - $asked[0][0];
    none_of { $_ > $seconds + 3 } 'none more often than once a second', values %times;
    is( keys %times, 200, 'and none is left out' );
}

# The wall clock is stepped: nothing is made up for, nothing is put off, nothing is told.
SKIP: {
    skip 'libfaketime is not installed', 1 if !$library;
    $servers->set( 2, 503 );
    $nginx->wait_log(qr/peer \Q$three\E in upstream "b" is unhealthy/);
    my $lines = $nginx->log_lines(qr/peer .* is (?:un)?healthy|was not checked/);
    for my $step ( 3600, -3600, 0 ) {
        set_clock($step);
        my $from = $servers->checks(1);
        $servers->wait_checks( 1, 8 );
        none_too_many( 0.1, "step to ${step}s: no check too many", map { $_->{at} } ( $servers->checks(1) )[ $from .. $from + 7 ] );
        my $health = $nginx->get('/status/health');
        is( $health->{status}, 200, "step to ${step}s: all are checked" ) or diag $health->{body};
        my $peers = json( $nginx->get('/status/upstreams/b') )->{peers};
        cmp_ok( $peers->[1]{downtime}, '>=', 0, "step to ${step}s: a server is down for no less than nothing" );
    }
    is( $nginx->log_lines(qr/peer .* is (?:un)?healthy|was not checked/), $lines, 'no server is marked' );
    $servers->up(2);
    $nginx->wait_log(qr/peer \Q$three\E in upstream "b" is healthy after \d+s/);
}

$nginx->stop;
$witness->stop;
$servers->stop;
done_testing();
