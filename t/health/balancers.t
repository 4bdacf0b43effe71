#!/usr/bin/perl

# Every balancer honours the marks, and goes on counting its servers right: after many changes a server's own
# error is still what the client gets. What others write into the lists is not touched, and what they
# overwrite is put right.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Api qw( json );
use TimerTest::Nginx;
use TimerTest::Servers;
use TimerTest::Zone;

my $servers = TimerTest::Servers->start(3);
my ( $one, $two, $three ) = map { '127.0.0.1:' . $servers->port($_) } 0 .. 2;

my %balancer = (
    weighted   => [ '', 'weight=3 max_fails=0' ],
    least_conn => ['least_conn;'],
    ip_hash    => ['ip_hash;'],
    hash       => ['hash $arg_k;'],
    consistent => ['hash $arg_k consistent;'],
    random     => ['random;'],
    random_two => ['random two least_conn;'],
    keepalive  => ['keepalive 4;'],
);
$balancer{least_time} = ['least_time header;'] if nginx_version() >= 1031000;
$balancer{sticky}     = ['sticky cookie s;']   if nginx_version() >= 1029006;
my @names = sort keys %balancer;
my $drained = nginx_version() >= 1029006
    ? "upstream drained { zone drained 64k; sticky route \$arg_to; server $one route=one max_fails=0; server $two route=two drain max_fails=0; }"
    : '';

my $upstreams = join "\n", map {
    my ( $by, $parameters ) = @{ $balancer{$_} };
    "upstream $_ { zone $_ 64k; $by " . $servers->list($parameters) . ' }'
} @names;
my $locations = join "\n", map {"location /$_ { proxy_pass http://$_; health_check interval=50ms; }"} @names;

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => <<"CONF",
    $upstreams
    upstream two { zone shared 128k; server $one max_fails=0; server $two max_fails=0; }
    upstream twice { zone shared; server $one max_fails=0; server $two max_fails=0; server $two max_fails=0; server $three down; }
    upstream alone { zone alone 64k; server $two max_fails=0; }
    upstream spare { zone spare 64k; server $two max_fails=0; server $one backup max_fails=0; }
    match never { status 299; }
    upstream here { zone here 64k; server $three max_fails=0; }
    upstream there { zone there 64k; server $three max_fails=0; }
    upstream mixed { zone mixed 64k; server $one max_fails=0; server $two max_fails=0; }
    $drained
CONF
    server => <<"CONF",
    $locations
    location /two { proxy_pass http://two; proxy_next_upstream http_503; health_check interval=10ms uri=/two; }
    location /twice { proxy_pass http://twice; health_check interval=50ms uri=/twice; }
    location /alone { proxy_pass http://alone; health_check interval=50ms uri=/alone; }
    location /spare { proxy_pass http://spare; health_check interval=50ms uri=/spare; }
    location /here { proxy_pass http://here; health_check interval=1000s uri=/here; }
    location /there { proxy_pass http://there; health_check interval=1000s uri=/there match=never; }
    location /mixed { proxy_pass http://mixed; health_check interval=50ms uri=/mixed; health_check interval=1000s uri=/mixed fails=2 port=${\ $servers->port(2) }; }
    ${\ ( $drained ? 'location /drained { proxy_pass http://drained; health_check interval=50ms uri=/drained; }' : '' ) }
    location /status/ { timer_api; }
CONF
);
$nginx->start;

sub wait_state {
    my ( $group, $address, $state ) = @_;
    my $seen = '';
    my $is   = sub {
        my $peers = json( $nginx->get("/status/upstreams/$group") )->{peers};
        $seen = join ',', map { $_->{state} } grep { $_->{server} eq $address } @$peers;
        return $seen =~ /\A$state(?:,$state)*\z/;
    };
    return poll_until($is) || in_vain( "$address in $group to be $state", $seen );
}

# An address in two groups is another server in each, over a reload too.
{
    my $told = sub {
        join ' ', map { my $group = $_; map {"$group=$_->{state}"} grep { $_->{server} eq $three } @{ json( $nginx->get("/status/upstreams/$group") )->{peers} } }
            qw( here there );
    };
    wait_state( there => $three, 'unhealthy' );
    wait_state( here => $three, 'up' );
    for ( 1 .. 2 ) {
        # Of the old workers none is left, which would mark servers in a zone of their own alone.
        $nginx->reload_all;
        is( $told->(), 'here=up there=unhealthy', 'as they were' );
        is( $nginx->get($_)->{status}, $_ eq '/here' ? 200 : 502, "a client of $_" ) for qw( /here /there );
    }
}

# Of 12 clients of each, how many the second server has seen, and whether all were served.
sub shares {
    my %share;
    for my $name (@names) {
        my $from   = $servers->clients(1);
        my $served = grep { $nginx->get("/$name?k=$_")->{status} == 200 } 1 .. 12;
        $share{$name} = [ $served, $servers->clients(1) - $from ];
    }
    return \%share;
}

wait_state( $_, $two, 'up' ) for @names;
my $all = shares();
is( $all->{$_}[0], 12, "$_: all are served" ) for @names;
cmp_ok( $all->{$_}[1], '>', 0, "$_: by the second server, too" ) for qw( weighted keepalive );

$servers->set( 1, 503 );
# What the log tells is done; the records know it a moment before.
$nginx->wait_log(qr/\[error\].* peer \Q$two\E in upstream "$_" is unhealthy/) for @names, qw( two twice alone spare mixed );
wait_state( $_, $two, 'unhealthy' ) for @names, qw( two twice alone spare mixed );
my $some = shares();
is( "@{ $some->{$_} }", '12 0', "$_: all are served by the others" ) for @names;

is( $nginx->get('/alone')->{status}, 502, 'a group of one server that is unhealthy has none' );
is( $nginx->get('/spare')->{status}, 200, 'the backup server takes over' ) for 1 .. 4;
is( $nginx->get('/twice')->{status}, 200, 'a server that is there twice is marked twice' ) for 1 .. 6;

$servers->up(1);
wait_state( $_, $two, 'up' ) for @names, qw( two twice alone spare );
$all = shares();
is( $all->{$_}[0], 12, "$_: all are served again" ) for @names;
cmp_ok( $all->{$_}[1], '>', 0, "$_: by the second server, too" ) for qw( weighted keepalive );
is( $nginx->get('/alone')->{status}, 200, 'the group of one server has it again' );

# It comes and goes, and then fails like the other one: what it says is what the client gets.
for ( 1 .. 12 ) {
    $servers->set( 1, 503 );
    wait_state( two => $two, 'unhealthy' );
    $servers->up(1);
    wait_state( two => $two, 'up' );
}
{
    my $changes = json( $nginx->get('/status/upstreams/two') )->{peers}[1]{health_checks}{unhealthy};
    cmp_ok( $changes, '>=', 12, 'so often it was unhealthy' );
    $nginx->reload_all;
    for ( 1 .. 3 ) {
        $servers->set( 1, 503 );
        wait_state( two => $two, 'unhealthy' );
        $servers->up(1);
        wait_state( two => $two, 'up' );
    }
    counts( two => 2, 'both servers are counted as such that get requests' );
    $servers->set( 1, 503 );
    counts( two   => 1, 'one of them' );
    counts( twice => 1, 'of a group with one that is configured "down", too' );
    $servers->up(1);
    counts( twice => 3, 'and back' );
}

# One that is draining is checked, and gets what is for it alone; unhealthy, not even that. It goes on draining then.
SKIP: {
    skip 'this nginx has no "drain"', 1 if !$drained;
    my $down = zone()->down( drained => $two );
    # Six clients of a route: how many of them are served, and how many by the second server.
    my $to = sub {
        my ( $route, $wanted, $title ) = @_;
        my $from   = $servers->clients(1);
        my $served = grep { $nginx->get("/drained?to=$route")->{status} == 200 } 1 .. 6;
        my $seen;
        # It writes a request down after it has answered.
        my $is = sub { ( $seen = "$served " . ( $servers->clients(1) - $from ) ) eq $wanted };
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        return ok( poll_until($is), $title ) || diag $seen;
    };
    for my $round ( 1, 2 ) {
        wait_state( drained => $two, 'draining' );
        is( $down->(), 8, 'what nginx itself has set' );
        $to->( two => '6 6', 'draining: requests of its sessions' );
        $to->( none => '6 0', 'and no others' );
        $servers->wait_checks( 1, 5 );
        $servers->set( 1, 503 );
        wait_state( drained => $two, 'unhealthy' );
        poll_until( sub { ( $down->() & ~8 ) && ( $down->() & 8 ) } ) || in_vain( 'our mark beside that', $down->() );
        $to->( two => '6 0', 'unhealthy: its sessions go elsewhere' );
        counts( drained => 1, 'one server gets requests' );
        $servers->up(1);
        wait_state( drained => $two, 'draining' );
        poll_until( sub { $down->() == 8 } ) || in_vain( 'our mark alone to go', $down->() );
    }
}

# Others overwrite a mark: it is back within a second. They set a bit of theirs: it stays.
{
    $servers->set( 1, 503 );
    wait_state( mixed => $two, 'unhealthy' );
    my $down = zone()->down( mixed => $two );
    my $marked = $down->();
    cmp_ok( $marked, '>', 0, 'the mark' );
    $down->(0);
    poll_until( sub { $down->() == $marked } ) || in_vain( 'the mark to be put back', $down->() );
    $down->( $marked | 4 );
    $servers->up(1);
    poll_until( sub { $down->() == 4 } ) || in_vain( 'our mark alone to go', $down->() );
    is( json( $nginx->get('/status/upstreams/mixed') )->{peers}[1]{state}, 'down', 'what another has set is "down"' );
    $servers->set( 1, 503 );
    poll_until( sub { $down->() == ( $marked | 4 ) } ) || in_vain( 'our mark beside another', $down->() );
    $down->($marked);
    $servers->up(1);
    poll_until( sub { $down->() == 0 } ) || in_vain( 'no mark', $down->() );
}

$nginx->stop;
$servers->stop;
done_testing();

# One test: so many servers of a group are counted as such that get requests.
sub counts {
    my ( $group, $tries, $title ) = @_;
    my $seen;
    my $is = sub { ( $seen = zone()->tries($group) ) == $tries };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( poll_until($is), $title ) || diag $seen;
}

sub zone { return TimerTest::Zone->of( ( $nginx->workers )[0] ) }
