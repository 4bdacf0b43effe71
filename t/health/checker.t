#!/usr/bin/perl

# Servers that are checked: how often and when, what changes their standing, what the log says, and that
# no client's request goes to one that is unhealthy.

use strict;
use warnings;

use List::Util qw( max min );
use Test::More;
use TimerTest;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Servers;

my $beat    = TimerTest::Beat->start;
my $servers = TimerTest::Servers->start(4);
my $http    = join "\n", map {
    "upstream $_->[0] { zone $_->[0] 64k; " . join( '', map {"server 127.0.0.1:${\ $servers->port($_) } max_fails=0;"} @{ $_->[1] } ) . ' }'
} [ b => [ 0, 1 ] ], [ slow => [2] ], [ port => [3] ];
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => $http,
    server  => <<"CONF",
    proxy_set_header X-By \$pid;
    location / { proxy_pass http://b; health_check interval=100ms fails=3 passes=2 uri=/health?a=b; }
    location /slow/ { proxy_pass http://slow; health_check interval=3s uri=/; }
    location /port/ { proxy_pass http://port; health_check interval=100ms port=${\ $servers->port(2) } uri=/other; }
CONF
);
my $started = time;
$nginx->start;

# What is asked.
$servers->wait_checks( $_, 10 ) for 0, 1;
my ($check) = $servers->checks(0);
is( $check->{uri},  '/health?a=b', 'the URI that was asked for, though it is the group that is asked' );
is( $check->{host}, 'b',           'Host is what the location sends' );
$servers->wait_checks( 2, 1 ) if !$servers->checks(2);
ok( ( grep { $_->{uri} eq '/other' } $servers->checks(2) ), 'the port is another than the server\'s' );
is( scalar $servers->checks(3), 0, 'the server itself is not asked then' );
my ($first) = grep { $_->{uri} eq '/' } $servers->checks(2);
ok( $first || $servers->wait_checks( 2, 1 ), 'the first check is made long before the interval is over' );

# How often: the worker in slot 0 makes all of them, none is made twice.
my @at = map { $_->{at} } $servers->checks(0);
# Where the first of these came late, the others have come the sooner.
my $late = $beat->still( $at[1] - 2, $at[1] + 0.1 );
my @apart = map { $at[$_] - $at[ $_ - 1 ] } 2 .. $#at;
my $mean  = @apart ? ( $at[-1] - $at[1] + $late ) / @apart : 0;
cmp_ok( $mean, '>', 0.09, 'no more often than the interval says' );
my $slot0 = ( $nginx->workers )[0];
my @by = grep { $_->{by} == $slot0 } $servers->checks(0);
cmp_ok( @by, '>=', $servers->checks(0) * 0.5, 'most are made by the worker in slot 0' );

# Failures: two in a row, and a pass, change nothing.
my $peer = 'peer 127\.0\.0\.1:' . $servers->port(1) . ' in upstream "b"';
$servers->set( 1, 503 );
$nginx->wait_log(qr/\[info\].* $peer failed a check: status 503, 2 failures/);
$nginx->wait_log(qr/\[error\].* $peer is unhealthy: status 503, 3 failures, health check: "uri=\/health\?a=b", location: "\/"/);
is( $nginx->log_lines(qr/\[error\].* $peer/), 1, 'one line tells of it' );

# No client's request from now on.
my $before = $servers->clients(1);
is( $nginx->get('/')->{status}, 200, 'a client is served' ) for 1 .. 10;
is( $servers->clients(1), $before, 'and not by the unhealthy server' );
$servers->wait_checks( 1, 3 );
is( $nginx->log_lines(qr/\[error\].* $peer/), 1, 'a server that stays unhealthy is told of once' );

# Up again after two passes.
$servers->up(1);
$nginx->wait_log(qr/\[notice\].* $peer is healthy after \d+s, health check: /);
my @status = map { $_->{status} } $servers->checks(1);
my ($passes) = ( join ',', @status ) =~ /503,((?:200,?)+)\z/;
cmp_ok( ( () = ( $passes // '' ) =~ /200/g ), '>=', 2, 'not after the first pass' );
$before = $servers->clients(1);
$nginx->get('/') for 1 .. 10;
cmp_ok( scalar $servers->clients(1), '>', $before, 'clients are passed to it again' );

# What comes and goes below the threshold is never told of.
for ( 1 .. 3 ) {
    $servers->set( 0, 503 );
    TimerTest::poll_until( sub { ( $servers->checks(0) )[-1]{status} == 503 } );
    $servers->up(0);
    my $from = $servers->checks(0);
    $servers->wait_checks( 0, 1 );
}
my @row = map { $_->{status} == 503 ? 'F' : 'P' } $servers->checks(0);
my $longest = max map {length} 0, ( join '', @row ) =~ /F+/g;
is( $nginx->log_lines( qr/peer 127\.0\.0\.1:${\ $servers->port(0) } in upstream "b" is/ ), 0,
    'failures that are not in a row change nothing' )
    if $longest < 3;

# A connection that is closed, and one that is never answered.
$servers->set( 1, 'close' );
$nginx->wait_log(qr/$peer is unhealthy: upstream prematurely closed connection.*, 3 failures/);
$servers->up(1);
$nginx->wait_log( qr/$peer is healthy/, 2 );

$nginx->stop;

# Two checks of one group: any of them decides. A server that is configured "down" is not checked, one that is
# "backup" is. One that answers nothing is still "checking", and told of after three checks without a result.
$nginx = TimerTest::Nginx->new(
    http => "upstream b { zone b 64k; server 127.0.0.1:${\ $servers->port(0) }; server 127.0.0.1:${\ $servers->port(1) } backup;"
        . " server 127.0.0.1:${\ $servers->port(2) } down; }",
    server => <<'CONF',
    location /a { proxy_pass http://b; health_check interval=100ms uri=/a; health_check interval=50ms uri=/b; }
    location /b { proxy_pass http://b; health_check interval=100ms uri=/a; }
    location /c { set $by_itself 1; if ($by_itself) { return 200; } proxy_pass http://b;
        health_check mandatory interval=50ms uri=/c; }
CONF
);
my $down = $servers->checks(2);
$nginx->start;
$servers->wait_checks( $_, 20 ) for 0, 1;
is( $servers->checks(2), $down, 'a server that is configured "down" is not checked' );
my %asked;
$asked{ $_->{uri} }++ for ( $servers->checks(1) )[ -15 .. -1 ];
cmp_ok( $asked{'/b'} // 0, '>', 1, 'one of two checks is made' );
cmp_ok( $asked{'/a'} // 0, '>', 1, 'and so is the other' );
is( $asked{'/c'}, undef, 'what the location answers by itself is asked of no server' );
$nginx->wait_log(qr/\[warn\].* peer \S+ in upstream "b" was not checked: the location answers by itself/);
$nginx->wait_log(qr/\[error\].* peer \S+ in upstream "b" gets no requests: the location answers.*, 3 checks without a result/);
is( $nginx->get('/a')->{status}, 502, 'no client is passed to a server that has not been checked' );
$nginx->stop;
$servers->stop;
done_testing();
