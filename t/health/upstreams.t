#!/usr/bin/perl

# What is shown of groups with health checks: JSON, metrics, the table, health; by any worker, of any
# names and addresses.

use strict;
use warnings;

use File::Basename qw( dirname );
use IO::Socket::IP ();
use Test::More;
use TimerTest;
use TimerTest::Api qw( json parse_metrics );
use TimerTest::Nginx;
use TimerTest::Servers;

my $servers = TimerTest::Servers->start(3);
my ( $one, $two, $three ) = map { '127.0.0.1:' . $servers->port($_) } 0 .. 2;
my $dir  = scratch_dir();
my $many = join ' ', map {"server 127.0.0.2:$_;"} 10_001 .. 10_500;

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => <<"CONF",
    upstream b {
        zone b 64k;
        server $one weight=5 max_conns=7 max_fails=0;
        server $two max_fails=0;
        server $three backup max_fails=0;
        server 127.0.0.3:80 down;
    }
    upstream 'a "b"' { zone names 64k; server 'unix:$dir/no "such.sock'; server [::1]:9; server $one; server $one; }
    upstream none { zone none 64k; server $one down; }
    upstream dead { zone dead 64k; server 127.0.0.1:1; server $one down; }
    upstream many { zone many 2m; $many }
    upstream other { server $one; }
    upstream fails { zone fails 64k; server $one max_fails=1 fail_timeout=1000s; server $two backup; }
    match broken { header X-No-Such; }
CONF
    server => <<"CONF",
    location / { proxy_pass http://b; health_check interval=100ms fails=2 uri=/one; health_check interval=100ms uri=/two; }
    location /names/ { proxy_pass 'http://a "b"'; health_check interval=200ms match=broken fails=1000000; }
    location /none/ { proxy_pass http://none; health_check; }
    location /dead/ { proxy_pass http://dead; health_check interval=100ms; }
    location /many/ { proxy_pass http://many; health_check interval=1000s; }
    location /fails/ { proxy_pass http://fails; proxy_read_timeout 100ms; proxy_next_upstream off; health_check interval=1000s; }
    location /status/ { timer_api; }
CONF
);
my ( $ok, $said ) = $nginx->test_conf;
if ( !$ok ) {
    diag $said;
}
$nginx->start;

sub group { my ($name) = @_; return json( $nginx->get( '/status/upstreams/' . $name ) ) }
sub peer  { my ( $group, $id ) = @_; return group($group)->{peers}[$id] }

# What configuration, list and records say.
{
    poll_until( sub { ( grep { $_->{health_checks}{checks} > 3 } @{ group('b')->{peers} } ) == 3 } ) || in_vain('checks of three servers');
    my $group = group('b');
    my ( $first, $second, $third, $fourth ) = @{ $group->{peers} };
    is( scalar @{ $group->{peers} }, 4, 'all servers are there' );
    is( "@$first{qw( id server name state weight max_conns )}", "0 $one $one up 5 7", 'the first one' );
    ok( exists $first->{health_checks}{last_passed} && $first->{health_checks}{last_passed}, 'its last check passed' );
    is( $first->{health_checks}{fails} + $first->{inconclusive}, 0, 'as all others did' );
    ok( !exists $second->{max_conns}, 'without "max_conns" there is none' );
    is( ( join ' ', map { $_->{server} } grep { $_->{backup} } @{ $group->{peers} } ), $three, 'which one is backup' );
    my ($down) = grep { $_->{server} eq '127.0.0.3:80' } @{ $group->{peers} };
    is( "$down->{state} $down->{health_checks}{checks}", 'down 0', 'which one is configured "down": it is not checked' );
    ok( !exists $down->{health_checks}{last_passed}, 'and has no last result' );
    ok( !exists $_->{downstart} && !exists $_->{requests} && !exists $_->{responses}, 'what is not known is not there' ) for $first;
    is( $group->{healthy}, 3, 'how many are healthy' );
    is( ( join ' ', map { $_->{check} } @{ $first->{checks} } ), 'uri=/one uri=/two', 'both checks' );
    like( $first->{recent}, qr/\AP{1,32}\z/, 'the last results' );
    is( $first->{health_checks}{checks}, $first->{passes}, 'the sum of both' ) if $first->{checks}[0]{passes} + $first->{checks}[1]{passes} == $first->{passes};
}

# One server fails one of its checks: it is unhealthy by that.
{
    $servers->set( 1, 503 );
    poll_until( sub { peer( 'b', 1 )->{state} eq 'unhealthy' } ) || in_vain('an unhealthy server');
    my $peer = peer( 'b', 1 );
    like( $peer->{downstart}, qr/\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\z/, 'since when' );
    is( $peer->{last}{reason}, 'status 503', 'why' );
    is( $peer->{last}{result}, 'fail',       'in one word' );
    ok( !$peer->{health_checks}{last_passed}, 'the last check did not pass' );
    $servers->up(1);
    poll_until( sub { peer( 'b', 1 )->{state} eq 'up' } ) || in_vain('a healthy server');
    $peer = peer( 'b', 1 );
    ok( !exists $peer->{downstart}, 'it is up again' );
    cmp_ok( $peer->{downtime}, '>', 0, 'and was down for a while' );
    cmp_ok( $peer->{health_checks}{unhealthy}, '>=', 1, 'counted' );
}

# Names that would break out of JSON and of metrics.
{
    my $all = $nginx->get('/status/upstreams');
    is( $all->{status}, 200, 'all groups' );
    my $groups = json($all);
    is( join( '|', sort keys %$groups ), 'a "b"|b|dead|fails|many|none', 'by their names; those without a check are not told of' );
    my $names = $groups->{'a "b"'};
    is_deeply( group('a%20%22b%22')->{checks}, $names->{checks}, 'one by a name that is escaped' );
    like( $names->{peers}[0]{server}, qr/\Aunix:\Q$dir\E\/no "such\.sock\z/, 'a path with a quote' );
    is( $names->{peers}[1]{server}, '[::1]:9', 'IPv6' );
    is( scalar @{ $groups->{many}{peers} }, 500, '500 servers' );
    is( scalar @{ $groups->{none}{peers} }, 1,   'none that is checked' );
    is( $nginx->get('/status/upstreams/other')->{status}, 404, 'a group without a check' );
    is( $nginx->get('/status/upstreams/')->{status},      404, 'no name' );
    is( $nginx->get('/status/upstreams', method => 'POST')->{status}, 405, 'nothing is to be done' );
}

# A client's failed request makes a server "unavail", until that is over.
{
    poll_until( sub { peer( 'fails', 0 )->{health_checks}{checks} } ) || in_vain('the only check before the test is over');
    $servers->set( 0, 'close' );
    $nginx->get('/fails/');
    is( peer( 'fails', 0 )->{state}, 'unavail', 'a server that has failed clients' );
    $servers->up(0);
    my $is_well = sub { my $peer = peer( 'b', 0 ); $peer->{state} eq 'up' && !grep { $_->{last}{result} ne 'pass' } @{ $peer->{checks} } };
    poll_until($is_well) || in_vain('the server to be well again');
}

# Metrics: well-formed, and those that the rules speak of.
{
    my $metrics = parse_metrics( $nginx->get('/status/metrics')->{body} );
    ok( $metrics, 'metrics are well-formed, each of them there once' );
    is( $metrics->{qq(nginx_upstream_peer_up{upstream="b",peer="$one",backup="false"})}, 1, 'up' );
    is( $metrics->{qq(nginx_upstream_peer_up{upstream="b",peer="127.0.0.3:80",backup="false"})}, 0, 'down' );
    is( $metrics->{qq(nginx_upstream_peer_state{upstream="fails",peer="$one",backup="false",state="unavail"})}, 1, 'state' );
    is( $metrics->{qq(nginx_upstream_check_interval_seconds{upstream="many",peer="127.0.0.2:10001",backup="false"})}, '1000.000', 'interval' );
    ok( exists $metrics->{qq(nginx_upstream_peer_up{upstream="a \\"b\\"",peer="unix:$dir/no \\"such.sock",backup="false"})}, 'a quote' );
    cmp_ok( $metrics->{qq(nginx_upstream_checks_total{upstream="b",peer="$one",backup="false",result="pass"})}, '>', 3, 'checks' );

    my $rules = slurp( dirname(__FILE__) . '/../../nginx-conf/alerts.yml' );
    my %known = map { /\A(nginx_upstream_\w+)/ ? ( $1 => 1 ) : () } keys %$metrics;
    my %used  = map { $_ => 1 } $rules =~ /\b(nginx_upstream_\w+)/g;
    is( join( ' ', grep { !$known{$_} } sort keys %used ),  '', 'each metric of a rule is there' );
    is( join( ' ', grep { !$used{$_} } sort keys %known ), '', 'each metric has a rule that uses it' );
}

# The table and health.
{
    my $text = $nginx->get('/status/text')->{body};
    like( $text, qr/^UPSTREAM +SERVER +STATE +LAST +TOOK +RESULT$/m, 'the head' );
    like( $text, qr/^b +\Q$one\E +up +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +\d+ms +pass$/m, 'a server' );
    like( $text, qr/^b +\Q$three\E backup +up /m, 'one that is backup' );
    like( $text, qr/^a "b" +\[::1\]:9 +up +.* fail: \S/m, 'why a check failed' );
    like( $text, qr/^3 of 3 healthy$/m, 'how many of a group' );

    my $page = $nginx->get( '/status/', headers => "Accept: text/html\r\n" )->{body};
    my ($static) = $page =~ m{<noscript>\n(.*?)</noscript>}s;
    like( $static, qr/^b +\Q$three\E backup +up /m, 'the page has it without scripts' );
    like( $static, qr/^a &quot;b&quot; +\[::1\]:9 /m, 'as text' );

    my $health = $nginx->get('/status/health');
    is( $health->{status}, 503, 'health: a group has no healthy server' );
    like( $health->{body}, qr/^upstream dead: no healthy server of 1$/m, 'which one' );
    lacks( $health->{body}, qr/^upstream (?:b|none):/m, 'the others are well; so is one that is "down" on purpose' );
}

$nginx->stop;
$servers->stop;
done_testing();
