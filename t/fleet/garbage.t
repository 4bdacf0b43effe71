#!/usr/bin/perl

# An etcd that answers what it should not: garbage, HTML, too much, too deep, too late, without a date; keys that are not
# this module's; compaction. It is said once a minute, nothing is run meanwhile, and when it is over all goes on.

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

# The same timers for each cluster, by other names.
sub timers { my ($prefix) = @_; return join '', map { fleet_timer( $backend, "$prefix-$_", 'every=1s offset=0' ) } 1 .. 2 }

sub goes_on {
    my ( $prefix, $title ) = @_;
    my %had = map { $_ => scalar( my @r = $backend->requests( timer => "$prefix-$_" ) ) } 1, 2;
    $backend->wait_requests( $had{$_} + 2, timer => "$prefix-$_" ) for 1, 2;
    pass("$title: goes on");
    return;
}

my $etcd  = TimerTest::Etcd->start( members => 1 );
my $proxy = TimerTest::EtcdProxy->start($etcd);
my $fleet = TimerTest::Fleet->start( hosts => 2, etcd => $etcd, proxy => $proxy, timers => timers('odd') );
goes_on( 'odd', 'at first' );
my %odd = (
    'HTML'        => { do => 'answer', headers => "Content-Type: text/html\r\n", body => '<html><body>Hello</body></html>' },
    'garbage'     => { do => 'answer', body => join '', map {chr} 0 .. 255 },
    'nothing'     => { do => 'answer', body => '' },
    'a number'    => { do => 'answer', body => '7' },
    'no header'   => { do => 'answer', body => '{"succeeded":true,"responses":[]}' },
    'deep'        => { do => 'answer', body => '[' x 30_000 },
    'deeper'      => { do => 'answer', body => '{"header":' x 10_000 },
    'huge'        => { do => 'answer', body => '{"header":{"revision":"9"},"responses":[' . '{},' x 300_000 . '{}]}' },
    'a revision'  => { do => 'answer', body => '{"header":{"revision":"99999999999999999999999"},"succeeded":true,"responses":[{},{},{},{}]}' },
    'a large one' => { do => 'answer', body => '{"header":{"revision":"18446744073709551615"},"succeeded":true,"responses":[{"response_put":{}},{"response_put":{}},{"response_range":{}},{"response_range":{}}]}' },
    'status 500'  => { do => 'answer', status => 500, body => '{"error":"context deadline exceeded","code":2}' },
    'status 200'  => { do => 'answered', status => 204, body => '' },
    'half'        => { do => 'cut', half => 1 },
    'late'        => { do => 'slow', seconds => 2.5 },
);
# One after the other, each once.
my @rules = map { $proxy->rule( %{ $odd{$_} }, times => 1 ) } sort keys %odd;
$proxy->wait_count( $_, 1, 60 ) for @rules;
logged( $fleet->host(0), qr/\[error\].* fleet "prod" is unreachable: /, 'what is no answer: it is said' );
my $said = $fleet->host(0)->log_lines(qr/fleet "prod" is unreachable/);
cmp_ok( $said, '<=', 3, 'once a minute' );
goes_on( 'odd', 'what is no answer' );

# A slow etcd: claims are made once, and clients wait for none of it.
my $slow = $proxy->rule( do => 'slow', seconds => 1 );
my $at = time;
$fleet->host(0)->get('/ready') for 1 .. 20;
cmp_ok( time - $at, '<', 20 * 0.9 * $TimerTest::SLOW, 'a slow etcd: nginx serves at once' );
goes_on( 'odd', 'a slow etcd' );
$proxy->clear($slow);

# Dates.
for my $date ( {}, { seconds => 3 } ) {
    my $rule = $proxy->rule( do => 'date', %$date );
    $proxy->wait_count( $rule, 6 );
    goes_on( 'odd', %$date ? 'a date some seconds ahead' : 'no date' );
    $proxy->clear($rule);
}
logged( $fleet->host(0), qr/\[warn\].*fleet "prod".*Date/, 'no date: it is said' );

# Keys that are not this module's.
my $key = '/nginx-timer/prod/odd-1';
my %was = map { $_ => $etcd->get("$key/$_") } qw( last done result );
for my $value ( 'x', '', '<script>', '00000000000000000000 0 - - - -', '9' x 400, "\0\xff" ) {
    $etcd->put( "$key/$_", $value ) for qw( last run done result );
    my $seen = $proxy->exchanges( timer => 'odd-1' );
    more_requests( $backend, 2, timer => 'odd-2' );
}
$etcd->delete("$key/$_") for qw( run done result );
$etcd->put( "$key/last", $was{last} );
goes_on( 'odd', "keys of others" );
lacks( $fleet->api(0)->ask( '/', headers => "Accept: text/html\r\n" )->{body}, qr/<script>alert/, 'nothing of it on the page' );

# What is not readable is removed by a reset, be it one key or all of them.
my @keys = qw( last run done result pause );
for my $of ( ( map { [$_] } @keys ), \@keys ) {
    $etcd->put( "$key/$_", 'x' ) for @$of;
    # It may be late by that, too.
    my $says = qr/^odd-1: (?:.*, )?refused by its fleet, value of "\w+" is not readable$/m;
    ok( wait_until( sub { $fleet->api(0)->ask('/health')->{body} =~ $says } ), "@$of is not readable: health says so" );
    my ( $status, $told ) = $fleet->order( 0, '/timers/odd-1/reset' );
    is( $status, 200, "@$of is not readable: reset" ) or diag explain $told;
    my %is = %{ $etcd->keys };
    is( join( ' ', grep { ( ( $is{"$key/$_"} // {} )->{value} // '' ) eq 'x' } @keys ), '', "@$of is not readable: it is gone" );
    ok( wait_until( sub { $fleet->api(0)->ask('/health')->{body} !~ $says } ), "@$of is not readable: health is well" );
}
goes_on( 'odd', 'a reset' );
is( ( $fleet->order( 0, '/timers/odd-1/reset' ) )[0], 409, 'what is readable is not reset' );
$etcd->put( '/nginx-timer/prod/pause', 'x' );
ok( wait_until( sub { $fleet->api(0)->ask('/health')->{body} =~ /value of "pause of the fleet" is not readable/ } ), 'the pause of the fleet is not readable: health says so' );
is( ( $fleet->order( 0, '/timers/odd-1/reset' ) )[0], 200, 'the pause of the fleet is not readable: reset' );
goes_on( 'odd', 'a reset of that' );

# Compaction is of no matter.
$etcd->compact;
goes_on( 'odd', 'compaction' );
$fleet->stop;
$proxy->stop;
$etcd->kill_all;

my @runs = $backend->requests;
no_start_twice( 'garbage', @runs );
fences_grow( 'garbage', grep { $_->{headers}{'x-timer'} eq 'odd-2' } @runs );
done_testing;
