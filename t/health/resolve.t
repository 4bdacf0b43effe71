#!/usr/bin/perl

# Servers that are found by name: checked from birth, marked before a client's request reaches them, forgotten
# when the name has them no more, and known again when it soon has.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Api qw( json );
use TimerTest::Dns;
use TimerTest::Nginx;

plan skip_all => 'this nginx has no "resolve" in upstream blocks' if nginx_version() < 1027003;

# One port, several addresses of loopback: who has been asked what, by an nginx of its own.
my $port    = free_port();
my $witness = TimerTest::Nginx->new( no_module => 1, wrapper => '' );
my $dir     = $witness->prefix;
my @address = map {"127.0.1.$_"} 1 .. 4;
$witness->write_conf(
    http => "log_format asked '\$server_addr \$status \$request_uri'; server { access_log $dir/logs/asked.log asked; "
        . join( '', map {"listen $_:$port;"} @address )
        . " location / { if (-f $dir/\$server_addr) { return 503; } return 200 \$server_addr; } }" );
$witness->start;
sub asked { my ( $address, $uri ) = @_; return scalar grep {m{\A\Q$address\E \d+ \Q$uri\E\z}} split /\n/, slurp("$dir/logs/asked.log") }
sub fails { my ($address) = @_; spew( "$dir/$address", '' ); return }
sub works { my ($address) = @_; unlink "$dir/$address"; return }

my $dns = TimerTest::Dns->start(
    'app.test'            => "$address[0] $address[1]",
    'gone.test'           => '',
    '_http._tcp.svc.test' => "1/5/$port/first.svc.test 1/2/$port/more.svc.test 2/5/$port/spare.svc.test",
    'first.svc.test'      => $address[0],
    'more.svc.test'       => "@address[ 1, 2 ]",
    'spare.svc.test'      => $address[3],
);
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => <<"CONF",
    resolver 127.0.0.1:${\ $dns->port } valid=1s ipv6=off;
    resolver_timeout 1s;
    upstream named { zone named 256k; server app.test:$port resolve max_fails=0; }
    upstream service { zone service 256k; server svc.test service=http resolve max_fails=0; }
    upstream strict { zone strict 256k; server app.test:$port resolve max_fails=0; server 127.0.1.9:$port backup down; }
CONF
    server => <<'CONF',
    proxy_next_upstream off;
    location / { proxy_pass http://named; health_check interval=100ms uri=/named; }
    location /service { proxy_pass http://service; health_check interval=100ms uri=/service-check; }
    location /strict { proxy_pass http://strict; health_check interval=100ms uri=/s mandatory persistent; }
    location /status/ { timer_api; }
CONF
    allow => [qr/could not be resolved/],
);
fails( $address[1] );
$nginx->start;

# Found by SRV records, of which one names two addresses, and one is for when all others fail.
{
    my $state = sub {
        my $peers = json( $nginx->get('/status/upstreams/service') )->{peers};
        return join ' ', sort map { ( $_->{server} =~ /\.(\d):/ )[0] . ( $_->{backup} ? 'b' : '' ) . "=$_->{state}" } @$peers;
    };
    my $is = sub {
        my ( $wanted, $title ) = @_;
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        ok( poll_until( sub { $state->() eq $wanted } ), $title ) || diag $state->();
    };
    my $asks = sub { my %seen = map { $nginx->get('/service')->{body} => 1 } 1 .. 8; return join ' ', sort keys %seen };
    # The records know it a moment before the balancer.
    my $soon = sub {
        my ( $wanted, $title ) = @_;
        my $seen;
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        ok( poll_until( sub { ( $seen = $asks->() ) eq $wanted } ), $title ) || diag $seen;
    };
    $is->( '1=up 2=unhealthy 3=up 4b=up', 'SRV: each address is checked' );
    $soon->( "@address[ 0, 2 ]", 'SRV: the healthy ones are asked' );
    $nginx->reload;
    is( $state->(), '1=up 2=unhealthy 3=up 4b=up', 'SRV: as it was, after a reload' );
    is( $asks->(), "@address[ 0, 2 ]", 'SRV: no other is asked then' );
    fails( $address[$_] ) for 0, 2;
    $is->( '1=unhealthy 2=unhealthy 3=unhealthy 4b=up', 'SRV: all of the first priority fail' );
    $soon->( $address[3], 'SRV: the backup is asked' );
    works( $address[$_] ) for 0, 2;
    $dns->set( '_http._tcp.svc.test' => "1/5/$port/spare.svc.test 2/5/$port/more.svc.test" );
    $is->( '2b=unhealthy 3b=up 4=up', 'SRV: other priorities, other servers' );
    $soon->( $address[3], 'SRV: what was backup is asked' );
    fails( $address[3] );
    $is->( '2b=unhealthy 3b=up 4=unhealthy', 'SRV: it fails' );
    $soon->( $address[2], 'SRV: the healthy one of the backups is asked' );
    works( $address[3] );
    $dns->set( '_http._tcp.svc.test' => undef );
    $is->( '', 'SRV: nobody' );
}

sub states {
    my ($group) = @_;
    my $peers = json( $nginx->get("/status/upstreams/$group") )->{peers};
    return join ' ', sort map {"$_->{server}=$_->{state}"} grep { $_->{server} !~ /127\.0\.1\.9/ } @$peers;
}

sub wait_states {
    my ( $group, %wanted ) = @_;
    my $wanted = join ' ', sort map {"$_:$port=$wanted{$_}"} keys %wanted;
    my $seen;
    ok( poll_until( sub { ( $seen = states($group) ) eq $wanted } ), "$group: " . ( $wanted || 'nobody' ) ) or diag "it is $seen";
    return;
}

# Born, checked, and told apart.
wait_states( $_, $address[0] => 'up', $address[1] => 'unhealthy' ) for qw( named strict );
is( $nginx->get('/')->{body}, $address[0], 'the one that works is asked' ) for 1 .. 4;
is( asked( $address[1], '/strict' ), 0, 'a mandatory check comes before the first request' );

# Another one is born: it gets no request before its check either, in however many are asked for.
$dns->set( 'app.test' => "@address[ 0, 1, 2 ]" );
fails( $address[2] );
my $until = deadline(20);
my $seen  = 0;
while ( time < $until && !$seen ) {
    my $answer = $nginx->get('/strict');
    is( $answer->{status}, 200, 'while servers are born' ) if $answer->{status} != 200;
    $seen = states('strict') =~ /\Q$address[2]\E:\d+=unhealthy/;
}
ok( $seen, 'it was checked' );
is( asked( $address[2], '/strict' ), 0, 'and never asked' );
wait_states( named => $address[0] => 'up', $address[1] => 'unhealthy', $address[2] => 'unhealthy' );

# Over a reload nothing is forgotten.
my $from = asked( $address[1], '/' ) + asked( $address[2], '/' );
for ( 1 .. 3 ) {
    $nginx->reload;
    is( $nginx->get('/')->{status}, 200, 'a request after a reload' ) for 1 .. 4;
}
is( asked( $address[1], '/' ) + asked( $address[2], '/' ), $from, 'none of them has reached an unhealthy server' );

# A server that is gone is checked no more; one that is back soon is what it was.
$dns->set( 'app.test' => $address[0] );
wait_states( named => $address[0] => 'up' );
wait_states( strict => $address[0] => 'up' );
my $checks = asked( $address[1], '/named' );
{
    my $others = asked( $address[0], '/named' );
    poll_until( sub { asked( $address[0], '/named' ) >= $others + 5 } ) || in_vain('checks of the server that is left');
    cmp_ok( asked( $address[1], '/named' ), '<=', $checks + 1, 'and the one that is gone is not checked' );
}
$dns->set( 'app.test' => "@address[ 0, 1 ]" );
wait_states( named => $address[0] => 'up', $address[1] => 'unhealthy' );
cmp_ok( asked( $address[1], '/named' ), '>=', $checks, 'it is checked again' );
works( $address[1] );
wait_states( named => $address[0] => 'up', $address[1] => 'up' );

# Names that come and go, and exist no more.
for my $round ( 1 .. 20 ) {
    $dns->set( 'app.test' => join ' ', @address[ grep { ( $round >> $_ ) & 1 || !$_ } 0 .. 3 ] );
    $nginx->get('/');
    select undef, undef, undef, 0.1;
}
$dns->set( 'app.test' => undef );
wait_states( named => () );
is( $nginx->get('/')->{status}, 502, 'nobody is there' );
like( $nginx->get('/status/health')->{body}, qr/^upstream named: no servers$/m, 'which is told' );
works($_) for @address;
$dns->set( 'app.test' => $address[3] );
wait_states( named => $address[3] => 'up' );
is( $nginx->get('/')->{body}, $address[3], 'and all is well again' );

$nginx->stop;
$witness->stop;
done_testing();
