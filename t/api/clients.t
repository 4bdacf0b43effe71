#!/usr/bin/perl

# Clients of the API that are not plain HTTP/1.1 over TCP: curl over a unix socket, as the manual shows it,
# and HTTP/2, also one that gives the answer little room at a time.

use strict;
use warnings;

use IO::Select ();
use IO::Socket::INET ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my ( $status, $features ) = run_command( 'curl', '--version' );
plan skip_all => 'curl is not installed' if $status ne '0';
my ( undef, $configure ) = run_command( nginx_binary(), '-V' );

my $backend = TimerTest::Backend->start;
my $rare    = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';
my $count   = 500;

my ( $plain, $two ) = ( free_port(), free_port() );
my $nginx = TimerTest::Nginx->new( workers => 2 );
my $path  = $nginx->prefix . '/api.sock';
my $h2    = $configure !~ /--with-http_v2_module/ ? '' : nginx_version() >= 1_025_001 ? "listen 127.0.0.1:$two; http2 on;" : "listen 127.0.0.1:$two http2;";
$nginx->write_conf(
    server => join( '', map { timer( $backend, "t$_", $rare ) } 1 .. $count ),
    http   => "server { listen unix:$path; location / { timer_api write=on; } }
        server { listen 127.0.0.1:$plain; location /status/ { timer_api write=on; } }
        " . ( $h2 && "server { $h2 server_name localhost; location /status/ { timer_api write=on; } location /read/ { timer_api; } }" ),
);
$nginx->start;

# Runs curl; answers as http_request.
sub curl {
    my @arguments = @_;
    my ( $exit, $out ) = run_command( 'curl', '-s', '-S', '-i', '--max-time', 30 * $TimerTest::SLOW, @arguments );
    my %answer = ( status => 0, headers => '', body => '', raw => $out, version => '' );
    diag("curl @arguments: $exit: $out") if $exit ne '0';
    if ( $exit eq '0' && $out =~ m{\AHTTP/(\S+) (\d+)[^\r\n]*\r\n(.*?)\r\n\r\n(.*)\z}s ) {
        @answer{qw( version status headers body )} = ( $1, $2, $3, $4 );
    }
    return \%answer;
}

# The request of a run, once the backend has had it.
sub request_of {
    my ( $name, $run ) = @_;
    my $found;
    wait_until { ($found) = grep { $_->{headers}{'x-run'} eq $run } $backend->requests( timer => $name ) };
    return $found;
}

sub headers_ok {
    my ( $title, $answer ) = @_;
    my @wrong = grep { $answer->{headers} !~ /^$_\r?$/mi } 'Cache-Control: no-store', 'X-Content-Type-Options: nosniff';
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is( "@wrong", '', "$title: no-store, nosniff" );
}

# All that a client does, by a function that runs curl with what tells it where.
sub steers {
    my ( $title, $curl, $at, $host, $name ) = @_;

    my $answer = $curl->("$at/timers");
    is( $answer->{status}, 200, "$title: timers: 200" );
    headers_ok( $title, $answer );
    my $all = json($answer);
    is( scalar @{ ( $all // {} )->{timers} // [] }, $count, "$title: all of them" );
    is( ( json( $curl->("$at/timers/$name") ) // {} )->{name}, $name, "$title: one" );
    like( $curl->("$at/text")->{body}, qr/^$count timers$/m, "$title: the table" );
    my $metrics = parse_metrics( $curl->("$at/metrics")->{body} );
    is( scalar( grep {/^nginx_timer_info/} keys %$metrics ), $count, "$title: metrics" );
    is( $curl->("$at/health")->{body}, "ok\n", "$title: health" );
    for my $what (qw( / /timers /text /health /metrics )) {
        my $head = $curl->( '--head', "$at$what" );
        is( "$head->{status} $head->{body}", '200 ', "$title: HEAD $what" );
    }

    my $page = $curl->( '-H', 'Accept: text/html,application/xhtml+xml;q=0.9', "$at/" );
    is( $page->{status}, 200, "$title: the page" );
    like( $page->{headers}, qr/^Content-Type: text\/html/mi,          "$title: is HTML" );
    like( $page->{headers}, qr/^Content-Security-Policy: default-src 'none'/mi, "$title: with its policy" );
    like( $page->{body}, qr/<html.*\b$name\b.*<\/html>\s*\z/s, "$title: and whole" );

    # As a tool does, and as the page's script.
    my @page = ( '-H', "Origin: http://$host", '-H', 'Sec-Fetch-Site: same-origin', '-H', 'Accept: application/json' );
    for my $headers ( [], \@page ) {
        my $who = @$headers ? 'the page' : 'a tool';
        $answer = $curl->( '-X', 'POST', @$headers, "$at/timers/$name/run" );
        is( $answer->{status}, 202, "$title: $who: run: 202" );
        headers_ok( "$title: $who", $answer );
        my $run = ( json($answer) // {} )->{run} // '';
        ok( request_of( $name, $run ), "$title: $who: and it runs" );
        ok( wait_until { !( json( $curl->("$at/timers/$name") ) // {} )->{running} }, "$title: $who: to its end" );
        is( $curl->( '-X', 'POST', @$headers, "$at/timers/$name/cancel" )->{status}, 409, "$title: $who: cancel: 409" );
        $answer = $curl->( '-X', 'POST', @$headers, "$at/timers/$name/pause?for=2h" );
        is( $answer->{status}, 200, "$title: $who: pause: 200" );
        ok( ( json($answer) // {} )->{paused}{until}, "$title: $who: until when" );
        is( $curl->( '-X', 'POST', @$headers, "$at/timers/$name/resume" )->{status}, 200, "$title: $who: resume: 200" );
    }

    # Another site's page.
    for my $headers (
        [ '-H', 'Origin: http://evil.example' ], [ '-H', "Origin: http://$host.evil.example" ], [ '-H', 'Origin: null' ],
        [ '-H', 'Sec-Fetch-Site: cross-site' ], [ '-H', 'Content-Type: application/x-www-form-urlencoded' ],
        # nginx resets an HTTP/2 stream whose body it does not want, which curl 7.88 takes for an error.
        ( $title eq 'h2' ? () : ( [ '-d', 'a=b' ], [ '-F', 'a=b' ] ) ),
    ) {
        $answer = $curl->( '-X', 'POST', @$headers, "$at/timers/$name/pause" );
        is( $answer->{status}, 403, "$title: $headers->[1]: 403" );
        ok( ( json($answer) // {} )->{error}, "$title: and says why" );
    }
    is( ( json( $curl->("$at/timers/$name") ) // {} )->{paused}, undef, "$title: and nothing is paused" );
    is( $curl->( '-X', 'POST', "$at/timers" )->{status}, 405, "$title: 405" );
    is( $curl->("$at/none")->{status}, 404, "$title: 404" );
    return;
}

# A unix socket: curl calls the host as one likes; a browser, through ssh -L, by the forwarded port.
my @unix = ( '--unix-socket', $path );
steers( 'unix', sub { curl( @unix, @_ ) }, 'http://localhost', 'localhost', 't1' );
my $forwarded = 'localhost:8099';
my @browser = ( @unix, '-X', 'POST', '-H', "Host: $forwarded" );
is( curl( @browser, '-H', "Origin: http://$forwarded", 'http://localhost/timers/t2/resume' )->{status}, 200, 'unix: a browser behind ssh -L may' );
is( curl( @browser, '-H', 'Origin: http://localhost:8098', 'http://localhost/timers/t2/resume' )->{status}, 403, 'unix: but not from another port' );
logged( $nginx, qr/\[notice\].* timer "t1": run by hand, run: [0-9a-f]{32}, client: unix:, server: /, 'unix: the log names such a client' );

# HTTP/2.
SKIP: {
    skip 'this nginx has no HTTP/2', 1 if !$h2;
    skip 'this curl has no HTTP/2',  1 if $features !~ /\bHTTP2\b/;

    my $host = "127.0.0.1:$two";
    my @h2   = ('--http2-prior-knowledge');
    my $seen = curl( @h2, "http://$host/status/health" );
    is( "$seen->{version} $seen->{status}", '2 200', 'h2: it is HTTP/2' );
    steers( 'h2', sub { curl( @h2, @_ ) }, "http://$host/status", $host, 't3' );
    is( curl( @h2, '-X', 'POST', "http://$host/read/timers/t3/run" )->{status}, 405, 'h2: write=off: 405' );
    my $name = "admin.example.org:$two";
    my @as   = ( @h2, '--resolve', "$name:127.0.0.1", '-X', 'POST' );
    is( curl( @as, '-H', "Origin: http://$name", "http://$name/status/timers/t4/resume" )->{status}, 200, 'h2: an Origin that is the authority may' );
    is( curl( @as, '-H', "Origin: http://$host", "http://$name/status/timers/t4/resume" )->{status}, 403, 'h2: one that is not may not' );

    # Two requests of one connection: while one answer waits for its client, the other one is had.
    h2_flow($two);
}

# HTTP/2, as far as it is needed for a client that gives each stream little room.

sub frame { my ( $type, $flags, $stream, $payload ) = @_; return pack( 'Cn C C N', 0, length $payload, $type, $flags, $stream ) . $payload }

# Literal header fields without indexing.
sub header_block {
    my @fields = @_;
    my $block  = '';
    while ( my ( $key, $value ) = splice @fields, 0, 2 ) {
        $block .= join '', "\0", map { chr( length $_ ) . $_ } $key, $value;
    }
    return $block;
}

sub get_frame {
    my ( $stream, $target ) = @_;
    my $block = header_block( ':method' => 'GET', ':scheme' => 'http', ':authority' => 'localhost', ':path' => $target );
    return frame( 1, 5, $stream, $block );
}

sub h2_flow {
    my ($port) = @_;
    my $window = 1000;
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $port ) or die;
    my $select = IO::Select->new($socket);
    my $in     = '';
    my %data   = ( 1 => '', 3 => '' );
    my %ended;

    my $next = sub {
        my $end = deadline();
        while ( length $in < 9 || length $in < 9 + unpack 'N', "\0" . substr $in, 0, 3 ) {
            my $left = $end - time;
            return if $left <= 0 || !$select->can_read($left);
            sysread( $socket, $in, 65536, length $in ) or return;
        }
        my ( $high, $low, $type, $flags, $stream ) = unpack 'Cn C C N', substr $in, 0, 9, '';
        my $payload = substr $in, 0, $high * 65536 + $low, '';
        if ( $type == 0 ) { $data{$stream} .= $payload }
        if ( $type == 4 && !( $flags & 1 ) ) { syswrite $socket, frame( 4, 1, 0, '' ) }
        $ended{$stream} = 1 if $type <= 1 && $flags & 1 || $type == 3;
        return [ $type, $stream, length $payload ];
    };

    # SETTINGS_INITIAL_WINDOW_SIZE; much room for the connection as a whole.
    syswrite $socket, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame( 4, 0, 0, pack 'nN', 4, $window ) . frame( 8, 0, 0, pack 'N', 1 << 28 );
    syswrite $socket, get_frame( 1, '/status/timers' );
    my $got;
    1 while length $data{1} < $window && ( $got = $next->() );
    is( length $data{1}, $window, 'h2: an answer that has no more room waits' );
    syswrite $socket, get_frame( 3, '/status/health' );
    1 while !$ended{3} && ( $got = $next->() );
    is( $data{3},         "ok\n",  'h2: another one of the same connection does not' );
    is( length $data{1}, $window, 'h2: and it still does' );

    # Room for some, again and again.
    while ( !$ended{1} ) {
        syswrite $socket, frame( 8, 0, 1, pack 'N', $window );
        last if !$next->();
    }
    my $all = json( { body => $data{1} } );
    is( scalar @{ ( $all // {} )->{timers} // [] }, $count, "h2: with room, all of it comes" );
    is( $nginx->get( '/status/health', port => $plain )->{body}, "ok\n", 'h2: and the worker goes on' );
    return;
}

logged_times( $nginx, qr/\[(?:error|crit|alert|emerg)\]/, 0, 'nothing to complain of' );
$nginx->stop;
done_testing;
