#!/usr/bin/perl

# grpc_pass; its peer is nginx's own HTTP/2 server.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Certificate;
use TimerTest::Nginx;

# nginx leaves TLS sessions to the kernel, which a sanitizer calls a leak.
$ENV{ASAN_OPTIONS} .= ':detect_leaks=0' if defined $ENV{ASAN_OPTIONS};

my $backend = TimerTest::Backend->start;
my ( $plain, $tls ) = ( free_port(), free_port() );
my ( $listen, $http2 ) = nginx_version() >= 1025001 ? ( '', 'http2 on;' ) : ( 'http2', '' );

my $nginx = TimerTest::Nginx->new( workers => 2 );
my ( $cert, $key ) = make_certificate( $nginx->prefix, 'grpc.test' );

$nginx->write_conf(
    http => <<"CONF",
    upstream kept { zone g 64k; server 127.0.0.1:$plain; keepalive 2; }
    server {
        listen 127.0.0.1:$plain $listen;
        listen 127.0.0.1:$tls ssl $listen;
        $http2
        ssl_certificate $cert;
        ssl_certificate_key $key;
        server_name grpc.test;
        default_type application/grpc;
        location / {
            proxy_set_header X-Timer \$http_x_timer;
            proxy_pass http://127.0.0.1:${\ $backend->port };
            add_trailer grpc-status 0;
        }
        location /empty { add_trailer grpc-status 0; return 204; }
        location /busy { return 503; }
    }
CONF
    server => <<"CONF",
    grpc_set_header X-Timer \$timer_name;
    location \@unary { timer unary every=366d first=now uri=/jobs.Jobs/Run method=POST; grpc_pass grpc://127.0.0.1:$plain; }
    location /empty { timer empty every=366d first=now; grpc_pass grpc://127.0.0.1:$plain; }
    location /busy { timer busy every=366d first=now; grpc_pass grpc://127.0.0.1:$plain; }
    location \@tls { timer tls every=366d first=now uri=/jobs.Jobs/Tls; grpc_pass grpcs://127.0.0.1:$tls; }
    location \@again { timer again every=50ms uri=/jobs.Jobs/Again; grpc_pass grpc://kept; }
    location \@refused { timer refused every=366d first=now; grpc_pass grpc://127.0.0.1:1; }
    location \@hang { timer hang every=366d first=now; timer_timeout 300ms; grpc_pass grpc://127.0.0.1:$plain; }
    location \@cut { timer cut every=366d first=now uri=/truncate; grpc_pass grpc://127.0.0.1:$plain; }
    location \@not_http2 { timer not_http2 every=366d first=now uri=/garbage; grpc_pass grpc://127.0.0.1:${\ $backend->port }; }
CONF
);
$nginx->start;

my %outcome = (
    unary   => 'succeeded: status 200',
    empty   => 'succeeded: status 204',
    busy    => 'failed: status 503',
    tls     => 'succeeded: status 200',
    again   => 'succeeded: status 200',
    refused => 'failed: status 502',
    hang    => 'failed: timed out after 300ms',
    cut     => 'failed: response incomplete, status 200',
    not_http2 => 'failed: status 50[24]',
);
for my $name ( sort keys %outcome ) {
    ok( $nginx->wait_log(qr/timer "$name": run $outcome{$name}/), "$name: $outcome{$name}" )
        or diag join "\n", $nginx->log_lines(qr/timer: "$name"|timer "$name"/);
}
ok( $backend->wait_requests( 5, timer => 'again' ) >= 5, 'it goes on' );
is( ( $backend->requests( timer => 'unary' ) )[0]{uri}, '/jobs.Jobs/Run', 'the URI of the call' );

$nginx->stop;
done_testing;
