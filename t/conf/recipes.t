#!/usr/bin/perl

# The recipes of docs/recipes.md: each block is accepted as it stands, but for addresses and paths, and does
# what is said of it.

use strict;
use warnings;

use File::Basename qw( dirname );
use Test::More;
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Certificate;
use TimerTest::Nginx;
use TimerTest::Series;

my $page    = slurp( dirname(__FILE__) . '/../../docs/recipes.md' );
my $backend = TimerTest::Backend->start;
my $dir     = scratch_dir();
my ( $tls, $check_in ) = ( free_port(), free_port() );
my ( $certificate, $key ) = make_certificate( $dir, 'api.example.org' );
chmod 0777, $dir;
chmod 0644, $key;

my ( @http, @server );
for my $block ( $page =~ /^```nginx\n(.*?)^```$/msg ) {
    if   ( $block =~ /^location / ) { push @server, $block }
    else                            { push @http,   $block }
}
is( scalar @server, 16, 'locations' );
my $recipes = join '', @server;

# Once, at the start; the others of a row follow a period later.
my $once = $recipes =~ s/(?:every=\w++|"cron=[^"]+")(?! enabled=off)/every=366d first=now/g;
is( $once, 12, 'schedules' );
my %here = (
    '127\.0\.0\.1:9000'                     => '127.0.0.1:' . $backend->port,
    '/etc/ssl/certs/ca-certificates\.crt'   => $certificate,
    '/var/log/nginx/timers\.log'            => "$dir/timers.log",
    '/var/lib/nginx/report\.txt'            => "$dir/report.txt",
    '/run/active'                           => "$dir/active",
    'https://hc\.example\.org/ping/'        => 'https://hc.example.org/ping/',
    'backoff=\w+'                           => 'backoff=10ms',
    'uri=/tasks/sync'                       => 'uri=/fail-first/3/ok?sync',
    'uri=/tasks/nightly'                    => 'uri=/turns/500/500/200',
    'uri=/tasks/charge'                     => 'uri=/fail-first/1/ok?charge',
);
for my $from ( sort keys %here ) {
    ok( $recipes =~ s/$from/$here{$from}/g, "recipes: there is $from" );
}

my $nginx = TimerTest::Nginx->new(
    http => join( '', @http ) . <<"CONF",
    upstream api.example.org { server 127.0.0.1:$tls; }
    upstream hc.example.org { server 127.0.0.1:$tls; }
    server {
        listen 127.0.0.1:$tls ssl;
        server_name tls;
        ssl_certificate $certificate;
        ssl_certificate_key $key;
        location / {
            proxy_set_header X-Sni \$ssl_server_name;
            proxy_set_header X-Host \$http_host;
            proxy_pass http://127.0.0.1:${\ $backend->port };
        }
    }
CONF
    server => "$recipes location /status/ { timer_api write=on; }"
        . ' location @failing { timer failing every=366d first=now uri=/status/500; addition_types *; add_after_body /check-in/failing; proxy_pass http://127.0.0.1:'
        . $backend->port . '; }',
);
my ( $ok, $out ) = $nginx->test_conf;
ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, 'all are accepted' ) or diag $out;
$nginx->start;

# The first request for a path.
sub request { my ($uri) = @_; return ( $backend->wait_requests( 1, uri => $uri, ended => 1 ) )[0] }

my $r = request(qr{^/tasks/tidy$});
is( $r->{method}, 'POST', 'a body: the method' );
like( $r->{body}, qr/\A\{"run":"[0-9a-f]{32}","keep_days":30\}\z/, 'a body' );
is( $r->{headers}{'content-type'}, 'application/json', 'a body: its type' );
is( request(qr{^/feed\.xml$})->{headers}{'user-agent'}, 'shop-timer/1.0', 'a User-Agent' );
is( request(qr{^/private/sync$})->{headers}{authorization}, 'Basic Y3JvbjpzZWNyZXQ=', 'basic authentication' );

$r = request(qr{^/v1/rates$});
is( $r->{headers}{'x-sni'},  'api.example.org', 'https: the name in TLS' );
is( $r->{headers}{'x-host'}, 'api.example.org', 'https: Host' );

is( request(qr{^/ping/backup$})->{headers}{'x-host'}, 'hc.example.org', 'a check-in after success' );
ok( wait_until( sub { logged( $nginx, qr/timer "failing": run failed: status 500/ ) } ), 'a run fails' );
is( scalar $backend->requests( uri => qr{^/ping/failing} ), 0, 'and is followed by no check-in' );

ok( wait_until( sub { -e "$dir/report.txt" && slurp("$dir/report.txt") eq "ok\n" } ), 'the output: in a file' );
ok( wait_until( sub { -e "$dir/timers.log" && slurp("$dir/timers.log") =~ /^\S+ report 200 [\d.]+ [0-9a-f]{32}$/m } ), 'the output: in the log' );

my @sync = $backend->wait_requests( 4, uri => qr{\?sync$} );
is( scalar @sync, 4, 'curl --retry: three more attempts' );
my @charge = $backend->wait_requests( 2, uri => qr{\?charge$} );
is( $charge[0]{headers}{'idempotency-key'}, $charge[1]{headers}{'idempotency-key'}, 'not twice: one key' );
like( $charge[0]{headers}{'idempotency-key'}, qr/\A[0-9a-f]{32}\z/, 'not twice: the id of the run' );

request(qr{^/tasks/export$});
is( request(qr{^/tasks/price\?currency=US%24$})->{body}, 'price=$5', 'a dollar sign' );

is( scalar $backend->requests( uri => qr{^/tasks/warm-up} ), 0, 'at a start: not by schedule' );
is( $nginx->get( '/status/timers/warm-up/run', method => 'POST' )->{status}, 202, 'at a start: the order' );
ok( request(qr{^/tasks/warm-up$}), 'at a start: its run' );

# Notifications: a run that fails, another one, and one that succeeds.
sub order_nightly {
    my ($count) = @_;
    is( $nginx->get( '/status/timers/nightly/run', method => 'POST' )->{status}, 202, 'notifications: a run' );
    return $backend->wait_requests( $count, uri => '/turns/500/500/200', ended => 1 );
}
my $mail = request(qr{^/mail$});
is( $mail->{headers}{host}, 'mail.example.org', 'notifications: a mail gateway' );
like( $mail->{body}, qr/\A\{"event":"failed","timer":"nightly",.*"failures":1,.*"response":"status 500\\n"\}\z/, 'what it is told' );
is( scalar $backend->requests( uri => '/hooks/T0/B0' ), 0, 'notifications: nothing in the chat after one failure' );
order_nightly(2);
like( request(qr{^/hooks/T0/B0$})->{body}, qr/\A\{"text":"nightly on [^"]+: failed status 500"\}\z/, 'notifications: a chat' );
is( scalar $backend->requests( uri => qr{^/ping/nightly} ), 0, 'notifications: no check-in of a failure' );
order_nightly(3);
is( request(qr{^/ping/nightly$})->{method}, 'GET', 'notifications: a check-in' );
like( ( $backend->wait_requests( 2, uri => '/mail', ended => 1 ) )[1]{body}, qr/\A\{"event":"recovered",/, 'notifications: it is over' );
like( ( $backend->wait_requests( 2, uri => '/hooks/T0/B0', ended => 1 ) )[1]{body}, qr/nightly on [^"]+: recovered "/, 'also in the chat' );

# The other host, and then the active one.
ok( wait_until( sub { logged( $nginx, qr/timer "settle": run succeeded: status 204/ ) } ), 'two servers: nothing to do here' );
is( scalar $backend->requests( uri => qr{^/tasks/settle} ), 0, 'and nothing done' );
spew( "$dir/active", '' );
is( $nginx->get( '/status/timers/settle/run', method => 'POST' )->{status}, 202, 'two servers: active' );
ok( request(qr{^/tasks/settle$}), 'and done here' );
$nginx->stop;

done_testing;
