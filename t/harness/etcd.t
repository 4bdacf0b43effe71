#!/usr/bin/perl

# What the tests of fleets rely on: an etcd cluster that can be killed, stopped, emptied and set back, with certificates
# and with users; and what lies between it and the hosts.

use strict;
use warnings;

use JSON::PP ();
use MIME::Base64 qw( encode_base64 );
use POSIX ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;

my $etcd = TimerTest::Etcd->start;
my $key  = '/nginx-timer/prod/x';
$etcd->put( "$key/last", 'one' );
is_deeply( $etcd->keys, { "$key/last" => { %{ $etcd->keys->{"$key/last"} }, value => 'one' } }, 'what is put is there' );

# A leader that is killed, and one that is stopped: another leads.
my $leader = $etcd->wait_leader;
$etcd->kill($leader);
isnt( $etcd->wait_leader, $leader, 'another leader' );
my ($other) = grep { $_ != $leader } $etcd->all;
is( $etcd->call( '/v3/kv/range', { key => encode_base64( "$key/last", '' ) }, member => $other )->{status}, 200, 'two of three answer' );
$etcd->start_all;
$etcd->stop( $leader = $etcd->wait_leader );
$etcd->continue($leader);
$etcd->wait_ready;

# A copy that is older than what there was; and nothing at all.
my $copy = $etcd->snapshot;
my $was  = $etcd->revision;
$etcd->put( "$key/last", 'two' );
$etcd->restore($copy);
is( $etcd->get("$key/last"), 'one', 'restored' );
cmp_ok( $etcd->revision, '<=', $was, 'and the revision has gone back' );
$etcd->wipe;
is_deeply( $etcd->keys, {}, 'emptied' );

# The network.
my $proxy = TimerTest::EtcdProxy->start($etcd);
my ($port) = $proxy->ports;

sub base64 { return encode_base64( $_[0], '' ) }
sub txn { my ( $compare, $success ) = @_; return { compare => $compare, success => $success, failure => [ { request_range => { key => base64("$key/last") } } ] } }
sub put { return { request_put => { key => base64("$key/$_[0]"), value => base64( $_[1] // 'value' ) } } }
sub created { return { key => base64("$key/$_[0]"), target => 'CREATE', result => 'EQUAL', create_revision => "$_[1]" } }
sub changed { return { key => base64("$key/$_[0]"), target => 'MOD', result => 'EQUAL', mod_revision => "$_[1]" } }

sub say_to {
    my ( $path, $body, $host ) = @_;
    return http_request( $port, $path, method => 'POST', body => JSON::PP::encode_json($body), headers => 'X-Host: ' . ( $host // 'web0' ) . "\r\n" );
}

my $less = { key => base64("$key/last"), target => 'VALUE', result => 'LESS', value => base64('5') };
my $gone = { request_delete_range => { key => base64("$key/run") } };
my %kind = (
    init         => txn( [ created( last => 0 ) ], [ put('last') ] ),
    claim        => txn( [ created( run => 0 ), $less, created( pause => 0 ) ], [ put('run'), put('last') ] ),
    'by-hand'    => txn( [ created( run => 0 ), changed( result => 3 ) ], [ put('run') ] ),
    again        => txn( [ changed( last => 4 ), created( run => 0 ) ], [ put('run'), put('last') ] ),
    beat         => txn( [ created( run => 7 ) ], [ put('run') ] ),
    attempt      => txn( [ created( run => 7 ), changed( last => 4 ) ], [ put('run'), put('last') ] ),
    end          => txn( [ created( run => 7 ) ], [ put('result'), put('done'), $gone ] ),
    remove       => txn( [ changed( run => 7 ) ], [ put('result'), $gone ] ),
    close        => txn( [ created( run => 7 ), $less ], [ put('last') ] ),
    read         => { key => base64("$key/last") },
    order        => txn( [ changed( last => 3 ) ], [ put('last'), { request_delete_range => { key => base64("$key/pause") } } ] ),
);
for my $kind ( sort keys %kind ) {
    my $answer = say_to( $kind eq 'read' ? '/v3/kv/range' : '/v3/kv/txn', $kind{$kind} );
    is( $answer->{status}, 200, "$kind: passed on" ) or diag $answer->{raw};
    my @all = $proxy->wait_exchanges( 1, kind => $kind );
    is( "@{ $all[0] }{qw( timer host member status )}", 'x web0 0 200', "$kind: written down as such" );
}

my %value = ( cut => 1, mute => 1, late => 1, hang => 0, refuse => 0, delay => 1, slow => 1, twice => 1, again => 1, answer => 0, answered => 1, date => 1 );
my %more  = ( answer => [ body => '<html>' ], answered => [ body => '<html>' ], date => [ seconds => 3600 ] );
my %says;
for my $do ( sort keys %value ) {
    my $version = $etcd->keys->{"$key/last"}{version};
    my $rule    = $proxy->rule( do => $do, kind => 'init', host => 'web1', times => 1, seconds => 0.3, @{ $more{$do} // [] } );
    is( say_to( '/v3/kv/txn', txn( [], [ put( last => $do ) ] ) )->{status}, 200, "$do: not for web0" );
    my $before = time;
    # What is waited for in vain here.
    local $TimerTest::DEADLINE = $do =~ /hang|mute/ ? 1 : $TimerTest::DEADLINE;
    $says{$do} = say_to( '/v3/kv/txn', { %{ txn( [ created( last => 0 ) ], [] ) }, success => [ put( last => "$do!" ) ], failure => [ put( last => "$do!" ) ] }, 'web1' );
    cmp_ok( time - $before, '>=', 0.3, "$do: later" ) if $do =~ /delay|slow/;
    $proxy->wait_count( $rule, 1, 10 );
    my $count = $do =~ /twice|again/ ? 2 : 1;
    if ( $value{$do} ) {
        ok( poll_until( sub { my $now = $etcd->keys->{"$key/last"}; $now->{value} eq "$do!" && $now->{version} == $version + 1 + $count }, 10 ), "$do: applied $count times" );
    }
    else {
        is( $etcd->get("$key/last"), $do, "$do: not applied" );
    }
}
is( $says{$_}{status}, 0,   "$_: no answer" ) for qw( cut mute late hang refuse );
is( $says{$_}{status}, 200, "$_: an answer" ) for qw( delay slow twice again answer answered date );
is( $says{$_}{body}, '<html>', "$_: that one" ) for qw( answer answered );
isnt( ( $says{date}{headers} =~ /^Date: (.*?)\r/m )[0] // '', '', 'a date' );

# Who comes behind another loses, though it has come first.
{
    $etcd->delete("$key/$_") for qw( run pause );
    my $claim = txn( [ created( run => 0 ) ], [ put('run'), put('last') ] );
    my $rule  = $proxy->rule( do => 'behind', kind => 'claim', host => 'web1' );
    my $first = fork // die "fork: $!";
    if ( !$first ) {
        my $answer = say_to( '/v3/kv/txn', $claim, 'web1' );
        POSIX::_exit( $answer->{status} == 200 && $answer->{body} !~ /"succeeded": *true/ ? 0 : 1 );
    }
    poll_until( sub { 0 }, 0.3 );
    is( $proxy->count($rule), 0, 'behind: it waits' );
    like( say_to( '/v3/kv/txn', $claim )->{body}, qr/"succeeded": *true/, 'behind: another one wins' );
    is( reap($first), 0, 'behind: then it loses' );
    is( ( $proxy->exchanges( rule => $rule ) )[0]{host}, 'web1', 'behind: and is written down' );
    $proxy->clear($rule);
}

# The upstream refuses a fence that is smaller than one it has seen of the same timer and cluster.
my $backend = TimerTest::Backend->start;
my $fence   = sub {
    my ( $timer, $cluster, $number ) = @_;
    return http_request( $backend->port, '/fenced/ok', headers => "X-Timer: $timer\r\nX-Cluster: $cluster\r\nX-Fence: $number\r\n" )->{status};
};
is( join( ' ', map { $fence->(@$_) } [ 'x', 1, 5 ], [ 'x', 1, 7 ], [ 'x', 1, 6 ], [ 'x', 1, 10 ], [ 'x', 1, 9 ], [ 'y', 1, 3 ], [ 'x', 2, 4 ], [ 'x', 1, '' ] ),
    '200 200 409 200 409 200 200 409', 'a fence' );

# Client certificates; users and rights.
$proxy->stop;
$etcd->kill_all;
my $tls = TimerTest::Etcd->start( members => 1, tls => 1 );
$tls->put( $key, 'with a certificate' );
is( $tls->get($key), 'with a certificate', 'by https' );
$tls->kill_all;

my $guarded = TimerTest::Etcd->start( members => 1, user => 'nginx', password => 'secret', options => [ 'auth-token-ttl' => 5 ] );
my $token = $guarded->call( '/v3/auth/authenticate', { name => 'nginx', password => 'secret' } )->{json}{token};
my $by_user = sub { $guarded->call( '/v3/kv/range', { key => base64( $_[0] ) }, token => $token )->{status} };
is( $by_user->($key),    200, 'the user has its keys' );
is( $by_user->('other'), 403, 'and no others' );
$guarded->revoke;
is( $by_user->($key), 403, 'or none' );
$guarded->kill_all;

done_testing;
