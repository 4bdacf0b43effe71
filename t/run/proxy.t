#!/usr/bin/perl

# Real work: proxy_pass in all its ways: http and https, buffered or not, HTTP/1.0 and 1.1, kept
# alive, upstreams with and without a zone and with every balancer, names resolved at run time, next
# upstream, big bodies.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Certificate;
use TimerTest::Dns;
use TimerTest::Nginx;

# nginx leaves TLS sessions and the tables of balancers to the kernel, which a sanitizer calls a leak.
$ENV{ASAN_OPTIONS} .= ':detect_leaks=0' if defined $ENV{ASAN_OPTIONS};

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;
my $dns     = TimerTest::Dns->start( 'app.test' => '127.0.0.1' );
my $tls     = free_port();

my $nginx = TimerTest::Nginx->new( workers => 2 );
my ( $cert, $key ) = make_certificate( $nginx->prefix, 'app.test' );

my $pass = "proxy_pass http://127.0.0.1:$port;";

# Name of the timer, and what its location says besides. (A TLS session that began unverified stays so
# where it is taken up again.)
my %way = (
    buffered   => $pass,
    unbuffered => "proxy_buffering off; $pass",
    http11     => "proxy_http_version 1.1; $pass",
    nodelay    => "proxy_http_version 1.1; proxy_buffering off; tcp_nodelay on; $pass",
    keepalive  => 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://kept;',
    zone       => 'proxy_pass http://zone;',
    no_zone    => 'proxy_pass http://no_zone;',
    ip_hash    => 'proxy_pass http://ip_hash;',
    hash       => 'proxy_pass http://hash;',
    least_conn => 'proxy_pass http://least_conn;',
    random     => 'proxy_pass http://random;',
    backup     => 'proxy_pass http://backup;',
    next       => 'proxy_pass http://next;',
    tls        => "proxy_pass https://127.0.0.1:$tls;",
    tls_verify => "proxy_ssl_verify on; proxy_ssl_trusted_certificate $cert; proxy_ssl_name app.test;"
        . " proxy_ssl_server_name on; proxy_ssl_session_reuse off; proxy_pass https://127.0.0.1:$tls;",
    tls_keep   => 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass https://tls;',
    variable   => "set \$up 127.0.0.1:$port; proxy_pass http://\$up;",
    group      => 'set $up zone; proxy_pass http://$up;',
    resolver   => "resolver 127.0.0.1:${\ $dns->port } ipv6=off; set \$up app.test; proxy_pass http://\$up:$port;",
    no_body    => "proxy_pass_request_body off; proxy_pass_request_headers off; $pass",
    bound      => "proxy_bind 127.0.0.1; $pass",
    ignoring   => "proxy_ignore_client_abort on; $pass",
    spooled    => "proxy_buffers 2 4k; proxy_buffer_size 4k; proxy_busy_buffers_size 4k; proxy_set_header X-Do big/300000; $pass",
    method     => "proxy_method POST; proxy_set_body hello; $pass",
    stored     => "proxy_store on; proxy_store_access user:rw; root ${\ $nginx->prefix }/store; $pass",
);
my $locations = join "\n",
    map {"location \@$_ { timer $_ every=366d first=now uri=/$_/ok; proxy_set_header X-Timer \$timer_name; $way{$_} }"}
    sort keys %way;

mkdir $nginx->prefix . '/store';
chmod 0777, $nginx->prefix . '/store';

$nginx->write_conf(
    log_level => 'debug',
    server    => $locations,
    http      => <<"CONF",
    upstream kept { server 127.0.0.1:$port; keepalive 4; }
    upstream zone { zone z 64k; server 127.0.0.1:$port max_fails=2; }
    upstream no_zone { server 127.0.0.1:$port; }
    upstream ip_hash { ip_hash; server 127.0.0.1:$port; }
    upstream hash { hash \$timer_name consistent; zone h 64k; server 127.0.0.1:$port; }
    upstream least_conn { least_conn; server 127.0.0.1:$port; server 127.0.0.1:$port; }
    upstream random { zone r 64k; random two; server 127.0.0.1:$port; server 127.0.0.1:$port; }
    upstream backup { server 127.0.0.1:1; server 127.0.0.1:$port backup; }
    upstream next { server 127.0.0.1:1 max_fails=0; server 127.0.0.1:1; server 127.0.0.1:$port weight=1; }
    upstream tls { server 127.0.0.1:$tls; keepalive 2; }
    server {
        listen 127.0.0.1:$tls ssl;
        server_name app.test;
        ssl_certificate $cert;
        ssl_certificate_key $key;
        location / { proxy_set_header X-Timer \$http_x_timer; proxy_set_header X-Do \$http_x_do; proxy_pass http://127.0.0.1:$port; }
    }
CONF
);

$nginx->start;

for my $name ( sort keys %way ) {
    ok( $nginx->wait_log(qr/timer "$name": run succeeded: status 200, \d+ms/), "$name succeeds" )
        or diag join "\n", grep { !/\[debug\]/ } $nginx->log_lines(qr/timer: "$name"|timer "$name"/);
}

# By the witness: one request each, and what it said.
for my $name ( sort keys %way ) {
    my @requests = $backend->requests( timer => $name );
    is( scalar @requests, 1, "$name: one request" ) if $name ne 'no_body';
    is( $requests[0]{method}, $name eq 'method' ? 'POST' : 'GET', "$name: its method" );
}
my ($posted) = $backend->requests( timer => 'method' );
is( $posted->{body}, 'hello', 'proxy_set_body' );
is( scalar $dns->queries, 1, 'the name was asked for once' );

$nginx->stop;

# Again and again over one kept-alive connection.
$nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => "upstream kept { server 127.0.0.1:$port; keepalive 1; }",
    server  => 'location @again { timer again every=30ms; proxy_set_header X-Timer $timer_name;'
        . ' proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://kept; }',
);
$nginx->start;
my @again = $backend->wait_requests( 20, timer => 'again', ended => 1 );
ok( @again >= 20, 'kept alive: it goes on' );
my %connections = map { $_->{connection} => 1 } @again;
is( scalar keys %connections, 1, 'kept alive: one connection' );
$nginx->stop;

done_testing;
