#!/usr/bin/perl

# nginx-conf/monitoring.conf and nginx-conf/alerts.yml: who sees what, and that each rule is accepted,
# speaks of metrics that are there, fires when it should and not when it should not.

use strict;
use warnings;

use File::Basename qw( dirname );
use File::Copy qw( copy );
use File::Spec ();
use IO::Socket::UNIX ();
use MIME::Base64 qw( encode_base64 );
use Test::More;
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;

my $module   = timer_module();
my $here     = File::Spec->rel2abs( dirname(__FILE__) );
my $examples = "$here/../../nginx-conf";
my $rules    = slurp("$examples/alerts.yml");
my @tests    = map {"$here/alerts-$_.yml"} qw( test slow-test upstream-test fleet-test );
my $cases    = join '', map { slurp($_) } @tests;
my $promtool = program('promtool');

# The rules, and their cases.
my @alerts = $rules =~ /^\s*- alert: (\w+)$/mg;
for my $what (qw( Late Stuck Failing NeverSucceeded Unknown Failed Vanished PausedForADay NearTimeout StateDegraded FleetDown FleetClockSkew RunLost )) {
    ok( ( grep { $_ eq "NginxTimer$what" } @alerts ), "there is a rule NginxTimer$what" );
}

for my $what (qw( NoHealthyPeer PeerUnhealthy PeerNotChecked PeersUnchecked FailOpen )) {
    ok( ( grep { $_ eq "NginxUpstream$what" } @alerts ), "there is a rule NginxUpstream$what" );
}

SKIP: {
    skip 'promtool is not installed', 2 if !$promtool;

    # It computes for seconds.
    local $TimerTest::DEADLINE = 200;
    my ( $status, $out ) = run_command( $promtool, 'check', 'rules', "$examples/alerts.yml" );
    is( $status, 0, 'promtool check rules' ) or diag $out;

    ( $status, $out ) = run_command( $promtool, 'test', 'rules', @tests );
    is( $status, 0, 'promtool test rules' ) or diag $out;
}

for my $alert (@alerts) {
    my ( $fires, $quiet ) = ( 0, 0 );
    for my $case ( split /^(?=      - (?:eval_time|expr): )/m, $cases ) {
        $case =~ /(?:alertname: |alertname=")$alert\b/ or next;
        $case =~ /exp_(?:alerts|samples): \[\]/ ? $quiet++ : $fires++;
    }
    ok( $fires && $quiet, "$alert: there are cases for it and against it" );
}

# monitoring.conf, at ports and a socket of ours.
my ( $visitors, $admins, $prometheus ) = map { free_port() } 1 .. 3;
my $nginx = TimerTest::Nginx->new( port => $prometheus );
my $dir   = $nginx->prefix;
{
    my $conf = slurp("$examples/monitoring.conf");
    for my $change (
        [ qr/127\.0\.0\.1:8080/              => "127.0.0.1:$visitors" ],
        [ qr/listen(\s+)127\.0\.0\.1:8444/   => "listen 127.0.0.1:$admins" ],
        [ qr/listen(\s+)127\.0\.0\.1:9145/   => "listen 127.0.0.1:$prometheus" ],
        [ qr{unix:/var/lib/nginx-timers/api\.sock} => "unix:$dir/api.sock" ],
        [ qr/every=10s/                      => 'every=200ms' ],
        )
    {
        my ( $from, $to ) = @$change;
        ok( scalar( $conf =~ s/$from/$to/ ), "monitoring.conf: there is $from" );
    }
    my $temps = join ' ', map {"${_}_temp_path $dir/$_;"} qw( client_body proxy fastcgi uwsgi scgi );
    # All metrics of zones are there once they have a content.
    my $zone = 'keyval_zone zone=flags:32k timeout=1h;';
    $conf =~ s/^http \{$/http { timer_state $dir\/timers.state; access_log off; $temps $zone/m;
    ok( scalar( $conf =~ s/(server \{)/$1 location = \/flags { timer flags every=200ms; timer_keyval flags; types { } default_type text\/plain; return 200 x; }/ ), 'monitoring.conf: there is a server' );
    mkdir "$dir/modules";
    copy( $module, "$dir/modules/ngx_http_timer_module.so" );
    spew( "$dir/conf/timers.htpasswd", "alice:{PLAIN}secret\n" );
    $nginx->write_conf( conf => $conf );

    my ( $ok, $out ) = $nginx->test_conf;
    ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, 'monitoring.conf: accepted' ) or diag $out;
    $nginx->start( ready => sub { $nginx->get('/health')->{status} } );
}

sub over_socket {
    my ( $method, $path ) = @_;
    my $socket = IO::Socket::UNIX->new( Peer => "$dir/api.sock" ) or return '';
    print {$socket} "$method $path HTTP/1.0\r\nHost: localhost\r\n\r\n";
    local $/ = undef;
    return scalar(<$socket>) // '';
}

# Prometheus sees metrics and health, nothing else.
my $metrics;
{
    wait_until { $nginx->get('/metrics')->{body} =~ /^nginx_timer_runs_total\{timer="heartbeat",outcome="success"\} [1-9]/m };
    wait_until { $nginx->get('/metrics')->{body} =~ /^nginx_timer_keyval_age_seconds\{/m };
    my $answer = $nginx->get('/metrics');
    is( $answer->{status}, 200, 'metrics' );
    like( $answer->{headers}, qr{^Content-Type: text/plain; version=0\.0\.4}mi, 'metrics: their type' );
    $metrics = $answer->{body};
    is_well( sub { $nginx->get('/health')->{body} }, "ok\n", 'health' );

    for my $path (qw( /timers/ /timers/timers /timers/metrics /timers/text / /timers )) {
        is( $nginx->get($path)->{status}, 404, "$path is not for Prometheus" );
    }
    for my $path (qw( /timers/timers/heartbeat/run /metrics )) {
        isnt( $nginx->get( $path, method => 'POST' )->{status}, 202, "nor is POST $path" );
    }
}

# Administrators see and steer them.
{
    like( over_socket( 'GET', '/text' ), qr{^HTTP/1\.1 200 .*\bheartbeat\b}s, 'socket: the table' );
    like( over_socket( 'GET', '/timers' ), qr{"state_file":"\Q$dir\E/}, 'socket: the state is not that of another nginx of this host' );
    like( over_socket( 'POST', '/timers/heartbeat/pause' ),  qr{^HTTP/1\.1 200 }, 'socket: pause' );
    like( over_socket( 'POST', '/timers/heartbeat/resume' ), qr{^HTTP/1\.1 200 }, 'socket: resume' );

    is( $nginx->get( '/timers', port => $admins )->{status}, 401, 'elsewhere: a password' );
    is( $nginx->get( '/timers/heartbeat/pause', port => $admins, method => 'POST' )->{status}, 401, 'for POST too' );
    my $alice = 'Authorization: Basic ' . encode_base64( 'alice:secret', '' ) . "\r\n";
    is( $nginx->get( '/timers', port => $admins, headers => $alice )->{status}, 200, 'elsewhere: with the password' );
    my $answer = $nginx->get( '/timers/heartbeat/pause', port => $admins, method => 'POST', headers => $alice );
    is( $answer->{status}, 200, 'for POST too' );
    $answer = $nginx->get(
        '/timers/heartbeat/resume', port => $admins, method => 'POST',
        headers => "${alice}Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n"
    );
    is( $answer->{status}, 403, 'but not for what another site has a browser send with it' );
}

# The metrics are well-formed, and are those that the rules speak of.
SKIP: {
    skip 'promtool is not installed', 1 if !$promtool;
    my $file = spew( "$dir/metrics", $metrics );
    my ( $status, $out ) = run_command( 'sh', '-c', 'exec "$0" check metrics <"$1"', $promtool, $file );
    is( $status, 0, 'promtool check metrics' ) or diag $out;
}
my %known = map { $_ => 1 } $metrics =~ /^(nginx_timer_\w+)/mg;
my %used  = map { $_ => 1 } $rules =~ /\b(nginx_timer_\w+)/g;
# Those of fleets are there with fleets only: t/fleet/orders.t.
is( join( ' ', grep { !$known{$_} && !/\Anginx_timer_fleet_/ } sort keys %used ), '', 'each metric of a rule is there' );
is( join( ' ', grep { !$used{$_} } sort keys %known ), '', 'each metric has a rule that uses it' );

$nginx->stop;
done_testing();
