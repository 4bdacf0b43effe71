#!/usr/bin/perl

# timer_max_running: no more runs at once in a worker; the others wait, none is lost.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

sub nginx {
    my ( $limit, $count, $every ) = @_;
    return TimerTest::Nginx->new(
        workers => 2,
        http    => $limit ? "timer_max_running $limit;" : '',
        server  => join "\n",
        map {"location \@l$limit-$_ { timer l$limit-$_ every=$every first=now uri=/delay/0.4/l$limit/$_; proxy_set_header X-Late \$timer_lateness; proxy_pass http://127.0.0.1:$port; }"}
            1 .. $count,
    );
}

# Two places, six runs.
my $nginx = nginx( 2, 6, '366d' );
$nginx->start;
my @runs = $backend->wait_requests( 6, uri => qr{/l2/}, ended => 1 );
is( scalar @runs, 6, 'all six run' );
my %who = map { $_->{uri} => 1 } @runs;
is( scalar keys %who, 6, 'each once' );
is( $backend->most_at_once( uri => qr{/l2/} ), 2, 'two at a time' );
my ( $soonest, $latest ) = ( sort { $a <=> $b } map { $_->{headers}{'x-late'} } @runs )[ 0, -1 ];
cmp_ok( $latest, '>=', 0.75, 'waiting counts as lateness' );
logged_times( $nginx, qr/run failed/, 0, 'none fails' );
$nginx->stop;

# One place, and due times that come faster than it is free: all of them get their turns.
$nginx = nginx( 1, 3, '200ms' );
$nginx->start;
for my $n ( 1 .. 3 ) {
    ok( $backend->wait_requests( 3, uri => qr{/l1/$n$}, ended => 1 ) >= 3, "timer $n gets its turns" );
}
is( $backend->most_at_once( uri => qr{/l1/} ), 1, 'one at a time' );
$nginx->stop;

# The default is 64.
$nginx = nginx( '', 70, '366d' );
$nginx->start;
@runs = $backend->wait_requests( 70, uri => qr{/l/}, ended => 1 );
is( scalar @runs, 70, 'seventy run' );
cmp_ok( $backend->most_at_once( uri => qr{/l/} ), '<=', 64, 'at most 64 at a time' );
$nginx->stop;

done_testing;
