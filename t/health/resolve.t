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
    http => "log_format asked '\$server_addr \$status \$request_uri'; access_log $dir/logs/asked.log asked; server { "
        . join( '', map {"listen $_:$port;"} @address )
        . " location / { if (-f $dir/\$server_addr) { return 503; } return 200 \$server_addr; } }" );
$witness->start;
sub asked { my ( $address, $uri ) = @_; return scalar grep {m{\A\Q$address\E \d+ \Q$uri\E\z}} split /\n/, slurp("$dir/logs/asked.log") }
sub fails { my ($address) = @_; spew( "$dir/$address", '' ); return }
sub works { my ($address) = @_; unlink "$dir/$address"; return }

my $dns   = TimerTest::Dns->start( 'app.test' => "$address[0] $address[1]", 'gone.test' => '' );
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => <<"CONF",
    resolver 127.0.0.1:${\ $dns->port } valid=1s ipv6=off;
    resolver_timeout 1s;
    upstream named { zone named 256k; server app.test:$port resolve max_fails=0; }
    upstream strict { zone strict 256k; server app.test:$port resolve max_fails=0; server 127.0.1.9:$port backup down; }
CONF
    server => <<'CONF',
    proxy_next_upstream off;
    location / { proxy_pass http://named; health_check interval=100ms uri=/named; }
    location /strict { proxy_pass http://strict; health_check interval=100ms uri=/s mandatory persistent; }
    location /status/ { timer_api; }
CONF
    allow => [qr/could not be resolved/],
);
fails( $address[1] );
$nginx->start;

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
like( $nginx->get('/status/health')->{body}, qr/^upstream named: no healthy server of 0$/m, 'which is told' );
works($_) for @address;
$dns->set( 'app.test' => $address[3] );
wait_states( named => $address[3] => 'up' );
is( $nginx->get('/')->{body}, $address[3], 'and all is well again' );

$nginx->stop;
$witness->stop;
done_testing();
