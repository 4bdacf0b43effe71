#!/usr/bin/perl

# Checks leave no trace in a group: neither in its counters, nor in whose turn it is. And what clients have
# used up keeps them from being made at most.

use strict;
use warnings;

use IO::Socket::INET ();
use Socket qw( pack_sockaddr_in INADDR_LOOPBACK );
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Canned;
use TimerTest::Nginx;

my @backend = map { TimerTest::Backend->start } 1 .. 2;
my ( $one, $two ) = map { $_->port } @backend;

# Whom nobody answers: the kernel takes no more connections.
my $full = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 0 ) or die "listen: $!";
my @fill = map {
    my $socket = IO::Socket::INET->new( Proto => 'tcp', Blocking => 0 ) or die "socket: $!";
    connect $socket, pack_sockaddr_in( $full->sockport, INADDR_LOOPBACK );
    $socket
} 1 .. 8;

# Two servers that open a session for each check.
my @sessions = map {
    TimerTest::Canned->start(
        answer => sub {
            return if $_[0] !~ /\r\n\r\n\z/;
            my $cookie = $_[0] =~ /health check/ ? "Set-Cookie: session=a\r\n" : '';
            return ( "HTTP/1.1 200 OK\r\n${cookie}Content-Length: 0\r\n\r\n", 'close' );
        }
    )
} 1 .. 2;
my $has_sticky = nginx_version() >= 1029006;
my $learns     = $has_sticky ? 'sticky learn create=$upstream_cookie_session lookup=$cookie_session zone=sessions:64k;' : '';

my $check = 'proxy_next_upstream error timeout http_500; health_check uri=/status/500 interval=100ms fails=1000000';
my %balancer = (
    weighted => "server 127.0.0.1:$one weight=2 max_fails=1 fail_timeout=1h; server 127.0.0.1:$two max_fails=1 fail_timeout=1h;",
    least    => "least_conn; server 127.0.0.1:$one max_fails=1 fail_timeout=1h; server 127.0.0.1:$two max_fails=1 fail_timeout=1h;",
    hash     => "hash \$uri consistent; server 127.0.0.1:$one max_fails=1 fail_timeout=1h; server 127.0.0.1:$two max_fails=1 fail_timeout=1h;",
    ip       => "ip_hash; server 127.0.0.1:$one max_fails=1 fail_timeout=1h; server 127.0.0.1:$two max_fails=1 fail_timeout=1h;",
    kept     => "server 127.0.0.1:$one max_fails=1 fail_timeout=1h; server 127.0.0.1:$two max_fails=1 fail_timeout=1h; keepalive 4;",
);
my $nginx = TimerTest::Nginx->new( workers => 1 );
$nginx->write_conf(
    http => join( "\n", map {"upstream $_ { zone $_ 64k; $balancer{$_} }"} sort keys %balancer )
        . "\nupstream single { zone single 64k; server 127.0.0.1:$one max_conns=1; }"
        . "\nupstream learn { zone learn 64k; $learns @{[ map { 'server 127.0.0.1:' . $_->port . ';' } @sessions ]} }"
        . "\nupstream hole { zone hole 64k; server 127.0.0.1:${\ $full->sockport }; }",
    server => join( "\n", map {"location /$_/ { proxy_set_header X-Timer $_; proxy_pass http://$_/; $check; }"} sort keys %balancer )
        . "\nlocation /single/ { proxy_set_header X-Timer single; proxy_pass http://single/; health_check interval=50ms; }"
        . "\nlocation /learn/ { proxy_pass http://learn; health_check interval=50ms; }"
        . "\nlocation /hole/ { proxy_pass http://hole; health_check interval=50ms timeout=200ms; }"
        . "\nlocation /timers/ { timer_api; }",
);
$nginx->start;

# Each server has failed many checks; no client minds.
for my $name ( sort keys %balancer ) {
    for my $backend (@backend) {
        $backend->wait_requests( 3, timer => $name );
    }
}
for my $name ( sort keys %balancer ) {
    my @by = map { my $path = $_; $nginx->get("/$name/client/$path")->{status} } 1 .. 30;
    is( join( ' ', @by ), join( ' ', (200) x 30 ), "$name: clients are answered" );
    my @count = map { scalar( my @all = $_->requests( timer => $name, uri => qr{\A/client/} ) ) } @backend;
    is( $count[0] + $count[1], 30, "$name: each was asked once" );
    is( "@count", '20 10', "$name: in turn" ) if $name eq 'weighted';
    is( "@count", '15 15', "$name: in turn" ) if $name =~ /least|kept/;
    is( scalar( grep {$_} @count ), 1, "$name: one server for one address" ) if $name eq 'ip';
    is( scalar( grep {$_} @count ), 2, "$name: both are used" ) if $name eq 'hash';
}

# max_conns: a check does not count, and is made all the same.
my $client = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port ) or die "connect: $!";
syswrite $client, "GET /single/held/it HTTP/1.0\r\n\r\n";
$backend[0]->wait_requests( 1, uri => qr{/held/it} );
my $before = $backend[0]->requests( timer => 'single' );
$backend[0]->wait_requests( $before + 3, timer => 'single' );
is( $nginx->get('/single/client')->{status}, 502, 'max_conns: no client has room' );
$backend[0]->let_go('it');
is( scalar( $client->getline ) =~ /200/ ? 1 : 0, 1, 'the slow one is answered' );
wait_until { $nginx->get('/single/client')->{status} == 200 };
is( join( ' ', map { $nginx->get("/single/client/$_")->{status} } 1 .. 20 ), join( ' ', (200) x 20 ), 'then there is room, checks or not' );
lacks( join( "\n", $nginx->log_lines(qr/./) ), qr/in upstream "single" is unhealthy/, 'checks went on to pass' );

# No session was learned of a check: clients are distributed.
$_->wait_asked(5) for @sessions;
$nginx->get( '/learn/client', headers => "Cookie: session=a\r\n" ) for 1 .. 10;
is( join( ' ', map { scalar grep { $_->{asked} =~ m{/client} } $_->asked } @sessions ), '5 5', 'sticky: no session of a check' );

$nginx->wait_log(qr/in upstream "hole" is unhealthy: timed out while connecting to upstream/);
$nginx->stop;

# Neither connections nor descriptors: nothing is said of the server.
for my $limit ( [ connections => connections => 24, 'no free connection' ], [ descriptors => rlimit => 48, 'socket\(\) failed \(24: Too many open files\) while connecting to upstream' ] ) {
    my ( $what, $how, $number, $why ) = @$limit;
    my $small = TimerTest::Nginx->new(
        workers => 1,
        # Of clients nginx complains by itself.
        allow => [ qr/\[alert\] (?!.*health check).*(?:worker_connections are not enough|Too many open files|accept4?\(\) failed)/ ],
        ( $how eq 'connections' ? ( connections => $number ) : ( main => "worker_rlimit_nofile $number;" ) ),
        http   => "upstream b { zone b 64k; server 127.0.0.1:$one; }",
        server => "location /x/ { proxy_pass http://b/; health_check interval=50ms; }",
    );
    $small->start;
    my @clients;
    my $used_up = poll_until(
        sub {
            my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $small->port ) or return;
            # Those that say nothing have a descriptor each, and a connection that nginx may reuse.
            syswrite $socket, "GET /x/held/$what HTTP/1.0\r\n\r\n" if $how eq 'connections';
            push @clients, $socket;
            return $small->log_lines(qr/\[warn\] .* was not checked: (?:$why)/);
        }
    );
    ok( $used_up, "$what are used up: not checked" ) or diag join "\n", $small->log_lines(qr/peer/);
    $backend[0]->let_go($what);
    undef @clients;
    my $checks = $backend[0]->requests( uri => qr{\A/\z} );
    $backend[0]->wait_requests( $checks + 5, uri => qr{\A/\z} );
    lacks( join( "\n", $small->log_lines(qr/./) ), qr/is unhealthy/, "$what: the server is not blamed" );
    $small->stop;
}
done_testing;
