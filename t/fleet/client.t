#!/usr/bin/perl

# What a location makes of the requests to a fleet's etcd: they are its requests and no others, they and their
# secrets are in no log, they use connections again, and a location that does not lead to etcd is told.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $secret  = scratch_dir() . '/password';
spew( $secret, "not-a-secret\n" );
chmod 0600, $secret;

my $etcd = TimerTest::Etcd->start( members => 1, user => 'nginx', password => 'not-a-secret' );

# Locations that lead to etcd, or to nothing, of which each has a timer.
my %location = (
    good    => "user=nginx password_file=$secret; proxy_pass http://etcd; access_log logs/bodies.log bodies; log_subrequest on; error_page 400 401 403 502 504 /page",
    itself  => '; return 503; error_page 503 /page',
    gone    => '; proxy_pass http://127.0.0.1:1; error_page 502 =200 /page',
    nowhere => '; set $nowhere ""; proxy_pass http://$nowhere; error_page 500 /page',
    rewrite => "user=nginx password_file=$secret; set \$a b; rewrite ^/v3/lost /v3/found break; proxy_pass http://etcd",
);
my $server = join '', map {<<"END"} sort keys %location;
    location \@etcd_$_ { timer_fleet $_ ttl=10s node=web1 $location{$_}; proxy_http_version 1.1; proxy_set_header Connection ""; }
    location \@$_ { timer $_ every=1s offset=0 uri=/ok fleet=$_; proxy_set_header X-Timer $_; proxy_pass http://127.0.0.1:${\ $backend->port }; }
END
my $nginx = TimerTest::Nginx->new(
    log_level => 'debug',
    http      => <<"CONF",
    log_format bodies '\$uri \$status \$request_body \$http_authorization';
    upstream etcd { ${\ $etcd->servers } keepalive 4; }
CONF
    server => "$server location /page { log_subrequest on; access_log logs/bodies.log bodies; return 200 page; } location /status/ { timer_api; access_log logs/bodies.log bodies; }",
);
$nginx->start;

$backend->wait_requests( 3, timer => 'good' );
$backend->wait_requests( 1, timer => 'rewrite' );
pass('runs are made through both locations that lead to etcd');

# Who does not lead there is told why, and makes no run.
my %why = (
    itself  => qr/the location answers by itself: status 503/,
    gone    => qr/connect\(\) failed \(111: Connection refused\) while connecting to upstream/,
    nowhere => qr/invalid host in upstream|invalid URL|no host/,
);
for my $name ( sort keys %why ) {
    my $said = qr/\[error\].* fleet "$name" is unreachable: /;
    logged( $nginx, qr/$said$why{$name}/, "$name: unreachable" );
    is( scalar $backend->requests( timer => $name ), 0, "$name: no run" );
    is( scalar $nginx->log_lines($said), 1, "$name: it is said once" );
}
is( scalar $nginx->log_lines(qr/\[error\].*connect\(\) failed.*fleet: /), 0, 'nginx itself says nothing more' );

# Connections are used again: those that are open, and those that were closed not long ago.
$backend->wait_requests( 6, timer => 'good' );
my $to = sprintf ':%04X', ( $etcd->ports )[0];
my @connections = grep { ( split ' ' )[2] =~ /$to\z/ } split /\n/, slurp('/proc/net/tcp');
cmp_ok( scalar @connections, '<=', 8, 'connections are used again' );
$nginx->get('/status/timers');
$nginx->stop;

# Neither requests nor secrets are in a log, though it has each line of those who debug.
my $log = join "\n", $nginx->log_lines(qr/./);
my $access = slurp( $nginx->prefix . '/logs/bodies.log' );
lacks( $log,    qr/not-a-secret|bm90LWEtc2VjcmV0/, 'no password in the log' );
lacks( $log,    qr/\b[A-Za-z]{16}\.\d+\b/,          'no token in the log' );
lacks( $access, qr{/v3/|/page|not-a-secret},        'no exchange in an access log' );
$etcd->kill_all;

done_testing;
