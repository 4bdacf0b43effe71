#!/usr/bin/perl

# uwsgi_pass: a responder that speaks the protocol, and the real uwsgi
# server with a Python application where it is installed.

use strict;
use warnings;

use IO::Socket::INET ();
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $uwsgi   = $backend->uwsgi_port;
my $params  = join ' ', map {"uwsgi_param $_;"} 'REQUEST_METHOD $request_method', 'REQUEST_URI $request_uri',
    'CONTENT_LENGTH $content_length', 'TIMER $timer_name', 'HTTP_HOST $host', 'PATH_INFO $document_uri',
    'QUERY_STRING $query_string', 'SERVER_NAME $server_name', 'SERVER_PORT 80', 'SERVER_PROTOCOL HTTP/1.1';

my %outcome = (
    ok       => 'succeeded: status 200',
    unsized  => 'succeeded: status 200',
    truncate => 'failed: response incomplete, status 200',
    close    => 'failed: status 502',
    hang     => 'failed: timed out after 300ms',
    refused  => 'failed: status 502',
);

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => join "\n", map {
        "location \@$_ { timer $_ every=366d first=now uri=/$_; timer_timeout ${\( /hang/ ? '300ms' : '30s' )};"
            . " $params uwsgi_pass 127.0.0.1:${\( /refused/ ? 1 : $uwsgi )}; }"
    } sort keys %outcome,
);
$nginx->start;
for my $name ( sort keys %outcome ) {
    ok( $nginx->wait_log(qr/timer "$name": run $outcome{$name}/), "$name: $outcome{$name}" )
        or diag join "\n", $nginx->log_lines(qr/timer: "$name"|timer "$name"/);
}
my ($seen) = $backend->requests( protocol => 'uwsgi', uri => qr{\A/ok} );
is( $seen->{headers}{TIMER}, 'ok', 'a variable as a parameter' );
$nginx->stop;

SKIP: {
    my ($server) = grep {-x} qw( /usr/bin/uwsgi-core /usr/bin/uwsgi );
    my ($plugin) = glob '/usr/lib/uwsgi/plugins/python3*_plugin.so';
    skip 'uwsgi with its Python plugin is not installed', 4 if !$server || !$plugin;

    my $dir = scratch_dir();
    my $to  = free_port();
    spew( "$dir/app.py", <<"PYTHON" );
def application(env, start_response):
    with open("$dir/seen", "a") as seen:
        seen.write(env["TIMER"] + " " + env["PATH_INFO"] + " " + env["QUERY_STRING"] + "\\n")
    start_response("503 Busy" if env["PATH_INFO"] == "/busy" else "200 OK", [("Content-Type", "text/plain")])
    return [b"ok\\n"]
PYTHON
    ($plugin) = $plugin =~ m{/(python3\w*)_plugin};
    my $pid = spawn( "$dir/uwsgi.out", $server, '--plugin', $plugin, '--uwsgi-socket', "127.0.0.1:$to",
        '--wsgi-file', "$dir/app.py", '--die-on-term', '--need-app' );
    wait_until { IO::Socket::INET->new("127.0.0.1:$to") } or diag slurp("$dir/uwsgi.out");

    my $again = TimerTest::Nginx->new(
        workers => 2,
        server  => "location \@real { timer real every=366d first=now uri=/jobs?a=b; $params uwsgi_pass 127.0.0.1:$to; }"
            . "location \@busy { timer busy every=366d first=now; $params uwsgi_pass 127.0.0.1:$to; }",
    );
    $again->start;
    ok( $again->wait_log(qr/timer "real": run succeeded: status 200/), 'a Python application' );
    ok( $again->wait_log(qr/timer "busy": run failed: status 503/),    'and one that is busy' );
    $again->stop;
    like( slurp("$dir/seen"), qr{^real /jobs a=b$}m, 'what the application saw' );
    stop_process($pid);
}

done_testing;
