#!/usr/bin/perl

# Who may not steer timers, and that no request, whatever it is, does any harm.

use strict;
use warnings;

use IO::Select ();
use IO::Socket::INET ();
use JSON::PP ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $rare    = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';
my $port    = free_port();

# One server that shows only, one that can be written to.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => 'client_header_timeout 20s; client_body_timeout 20s; lingering_timeout 20s;',
    server  => "listen 127.0.0.1:$port; location /status/ { timer_api; } location /admin/ { timer_api write=on; }"
        . timer( $backend, 'victim', $rare )
        . timer( $backend, 'off',    "$rare enabled=off" )
        . timer( $backend, 'runs',   "$rare first=now", 'hang', 'timer_timeout 1h; proxy_read_timeout 1h;' )
        . timer( $backend, 'tick',   'every=100ms' )
        . join( '', map { "location \@by-$_ { timer by-$_ $rare method=POST uri=/x; timer_success 403; rewrite ^ /admin/timers/victim/$_ last; }\n" } qw( run cancel pause resume ) )
        . "location \@by-all { timer by-all $rare method=POST uri=/x; timer_success 403; rewrite ^ /admin/pause last; }\n"
        . "location \@reads { timer reads $rare uri=/x; rewrite ^ /admin/timers/victim last; }\n",
);
$nginx->start;

sub json {
    my ($answer) = @_;
    return eval { JSON::PP->new->utf8->decode( $answer->{body} ) } // {};
}

# What nobody may change, as text.
sub snapshot {
    my $all = json( $nginx->get('/status/timers') );
    my @shown = map { my %timer = %$_; delete @timer{qw( late_seconds )}; \%timer }
        grep { $_->{name} =~ /\A(?:victim|off|runs)\z/ } @{ $all->{timers} };
    return JSON::PP->new->canonical->pretty->encode( { state => $all->{state}, paused => $all->{paused}, timers => \@shown } );
}

ok( $backend->wait_requests( 1, timer => 'runs' ), 'a run is in progress' );
ok( wait_until { snapshot() =~ /"running" : \{/ }, 'and shown' );
my $before = snapshot();

my @orders = ( map( {"/timers/victim/$_"} qw( run cancel pause resume ) ), '/timers/runs/cancel', '/timers/off/run', '/pause', '/resume' );

# write=off.
for my $path (@orders) {
    my $answer = $nginx->get( "/status$path", method => 'POST' );
    is( $answer->{status}, 405, "write=off: POST $path: 405" );
    like( $answer->{headers}, qr/^Allow: GET, HEAD\r?$/mi,            'with Allow' );
    like( $answer->{headers}, qr/^Content-Type: application\/json\r?$/mi, 'as JSON' );
    is( json($answer)->{error}, 'method not allowed, "timer_api" has no "write=on" here', 'that says why' );
    is( $nginx->get("/status$path")->{status}, 404, 'and nothing is there to GET' );
}

# Another site's page in the browser of somebody who may.
my %refused = (
    ( map { ( "Sec-Fetch-Site: $_" => 1 ) } 'cross-site', 'same-site', 'x' ),
    ( map { ( "Origin: $_" => 1 ) } 'http://evil.example', 'null', 'http://localhost:1', 'http://localhost.evil.example', 'localhost' ),
    "Origin: http://localhost\r\nSec-Fetch-Site: cross-site" => 1,
    "Sec-Fetch-Site: same-origin\r\nOrigin: http://evil.example" => 1,
    # One that is repeated hides nothing.
    "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site" => 1,
    "Origin: http://localhost\r\nOrigin: http://evil.example"   => 1,
    "Content-Type: application/json\r\nContent-Type: text/plain" => 1,
    ( map { ( "Content-Type: $_" => 1 ) } 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x',
        'text/plain', 'Text/Plain;charset=utf-8', 'APPLICATION/X-WWW-FORM-URLENCODED' ),
);
for my $headers ( sort keys %refused ) {
    my @statuses;
    for my $path (@orders) {
        my $answer = $nginx->get( "/admin$path", method => 'POST', headers => "$headers\r\n", body => 'a=b' );
        push @statuses, $answer->{status};
        push @statuses, 'no error' if !json($answer)->{error};
        push @statuses, 'headers' if $answer->{headers} !~ /no-store/ || $answer->{headers} !~ /nosniff/;
    }
    is( "@statuses", join( ' ', map {403} @orders ), ( $headers =~ s/\r\n/, /r ) . ': 403' );
}
is( snapshot(), $before, 'nothing has changed' );

# The API's own page, and tools, may. (A timer that is not paused is resumed.)
for my $headers (
    '', 'Sec-Fetch-Site: same-origin', 'Sec-Fetch-Site: none', 'Origin: http://localhost', 'Origin: https://localhost',
    "Origin: http://localhost\r\nSec-Fetch-Site: same-origin", 'Content-Type: application/json',
) {
    my $answer = $nginx->get( '/admin/timers/victim/resume', method => 'POST', headers => length $headers ? "$headers\r\n" : '' );
    is( $answer->{status}, 200, "\"" . ( $headers =~ s/\r\n/, /r ) . "\": may" );
}
my $own = "localhost:$port";
is( $nginx->get( '/admin/resume', method => 'POST', host => $own, headers => "Origin: http://$own\r\n" )->{status}, 200, 'an Origin with its port' );

# A foreign Origin keeps nobody from reading what a tool may read, and no header lets it be read by
# a page.
my $answer = $nginx->get( '/admin/timers', headers => "Origin: http://evil.example\r\n" );
lacks( $answer->{headers}, qr/^Access-Control-/mi, 'no page of another site may read' );

# A timer's own run.
for my $name ( qw( run cancel pause resume all ) ) {
    is( $nginx->get( "/admin/timers/by-$name/run", method => 'POST' )->{status}, 202, "a run that would POST: $name" );
    my $last;
    wait_until { $last = json( $nginx->get("/status/timers/by-$name") )->{last} };
    is( ( $last // {} )->{status}, 403, 'is refused' );
}
is( $nginx->get( '/admin/timers/reads/run', method => 'POST' )->{status}, 202, 'one that reads' );
my $reads;
wait_until { $reads = json( $nginx->get('/status/timers/reads') )->{last} };
is( ( $reads // {} )->{status}, 200, 'may' );
is( scalar( $backend->requests( timer => 'victim' ) ), 0, 'the timer has not run' );
is( snapshot(), $before, 'nothing has changed' );

# What lies on the wire, and then the end of it; the whole answer.
sub raw {
    my ($text) = @_;
    my $end    = deadline();
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port, Timeout => 10 * $TimerTest::SLOW ) or return;
    local $SIG{PIPE} = 'IGNORE';
    syswrite $socket, $text;
    shutdown $socket, 1;
    my $select = IO::Select->new($socket);
    my $got    = '';
    while ( ( my $left = $end - time ) > 0 ) {
        $select->can_read($left) or next;
        sysread( $socket, $got, 65536, length $got ) or return $got;
    }
    return;
}

my $seed = $ENV{TEST_NGINX_SEED} || time ^ $$;
srand $seed;
note "TEST_NGINX_SEED=$seed";

sub one_of { return $_[ rand @_ ] }
sub noise { return join '', map { chr int rand 256 } 1 .. rand shift }

sub word {
    return one_of(
        'timers', 'next', 'text', 'health', 'metrics', 'run', 'pause', 'victim', 'runs', 'off', '', '.', '..', '%2e%2e', '%', '%00', '%ff',
        '%2f', 'x' x rand 3000, noise(8) =~ s/([^A-Za-z0-9])/sprintf '%%%02x', ord $1/ger, "\xff", '"', '<script>', '{}', '-1', '$timer_name',
    );
}

sub arguments {
    return '' if rand() < 0.4;
    return '?' . join '&', map {
        one_of( 'cron', 'tz', 'after', 'count', 'for', word() ) . one_of( '=', '', '==' ) . one_of(
            '*/5+*+*+*+*', '0+0+29+2+*', '0+0+31+2+*', '*+*+*+*+*+*', '@yearly', 'L+W+#', '9' x rand 400, '-9223372036854775808', '9223372036854775807',
            '253402300799', '0000-01-01T00:00:00Z', '9999-12-31T23:59:60Z', '2026-02-30T00:00:00Z', 'Europe/Berlin', '../../etc/passwd', '/etc/passwd', '%00',
            '100', '1e9', '99999999999999999999', '1s', '366d', '999999999999999y', word(), '*' x rand 2000, '0-59/1,' x rand 300,
        )
    } 0 .. rand 3;
}

sub target {
    my ($under) = @_;
    return one_of( @orders, map {"/$_"} '', 'timers', 'timers/victim', 'timers/victim/next', 'next', 'text', 'health', 'metrics' ) . arguments()
        if rand() < 0.5;
    return join( '', map { '/' . word() } 0 .. rand 4 ) . arguments();
}

# A request that may change nothing: where orders are taken, each has a header for which it is refused.
sub request {
    my $write  = rand() < 0.5;
    my $method = one_of( qw( GET GET GET HEAD POST POST POST PUT DELETE OPTIONS TRACE PATCH get X ), '' );
    my $text   = "$method " . ( $write ? '/admin' : '/status' ) . target() . one_of( ( ' HTTP/1.0', ' HTTP/1.1' ) x 6, ' HTTP/9.9', '' ) . "\r\n";
    $text .= one_of( keys %refused ) . "\r\n" if $write;
    $text .= "Host: localhost\r\n"            if rand() < 0.95;
    $text .= one_of(
        "Accept: text/html\r\n", "Accept: ,;q=\r\n", "Range: bytes=0-1\r\n", "If-None-Match: *\r\n", "Expect: 100-continue\r\n", "Accept-Encoding: gzip\r\n",
        "Content-Length: 99999\r\n", "Content-Length: -1\r\n", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\n",
        "Origin: " . noise(40) =~ tr/\r\n//dr . "\r\n", "X: " . ( 'y' x rand 9000 ) . "\r\n", "Upgrade: h2c\r\nConnection: upgrade\r\n", ": x\r\n", "\0: x\r\n",
    ) for 1 .. rand one_of( 1, 1, 1, 2, 5 );
    $text .= "\r\n" if rand() < 0.95;
    $text .= one_of( '', 'a=b', "5\r\nhello\r\n0\r\n\r\n", "zz\r\n", noise(200) );

    # Anything goes where nothing can be written, and cut short anywhere.
    if ( !$write && rand() < 0.3 ) {
        substr $text, int rand length $text, 1, chr int rand 256 for 1 .. 1 + rand 5;
        $text =~ s{/admin}{/status}g;
    }
    $text = substr $text, 0, int rand length $text if rand() < 0.05;
    return $text;
}

my @workers = $nginx->workers;
my ( %answered, @wrong );
for my $n ( 1 .. 1000 ) {
    my $text = rand() < 0.05 ? noise(500) =~ s{/admin}{}gr : request();
    my $got  = raw($text);
    my ($status) = ( $got // 'lost' ) =~ m{\A(?:HTTP/1\.1 (\d+)|\z)};
    $status //= !defined $got ? 'lost' : length $got ? 'other' : 'none';
    $answered{$status}++;

    # 500 is a bug, 503 is what health may say; without a version (HTTP/0.9) there is no status line: the first line
    # ends after the URI, with as many spaces as nginx takes, and after as many empty lines.
    my $fine = $status =~ /\A(?:none|100|200|206|304|400|401|403|404|405|408|411|412|413|414|416|417|494|501|505)\z/
        || $status eq '503' && $text =~ /health/ || $status eq 'other' && $text =~ /\A[\r\n]*[A-Z_-]+ +[^ \r\n]+ *\r?\n/;
    push @wrong, "$status: $text" if !$fine && @wrong < 5;

    # JSON is JSON, whatever was asked for.
    if ( $status eq '200' && $text =~ /\AGET .* HTTP\/1\.0\r\n/ && $text !~ /^(?:Range|Expect)/m && $got =~ /^Content-Type: application\/json\r\n/m ) {
        my ( undef, $body ) = split /\r\n\r\n/, $got, 2;
        $answered{JSON}++;
        push @wrong, "no JSON: $text: $got" if !eval { JSON::PP->new->utf8->decode($body) } && @wrong < 5;
    }
}
note join ', ', map {"$_: $answered{$_}"} sort keys %answered;
is( scalar @wrong, 0, '1,000 random and malformed requests are answered' ) or diag map { s/([^\n\x20-\x7e])/sprintf '\\x%02x', ord $1/ger . "\n" } @wrong;
cmp_ok( $answered{$_} // 0, '>', 0, "$_ among them" ) for 200, 400, 403, 404, 405;
is( snapshot(), $before, 'nothing has changed' );
is_deeply( [ $nginx->workers ], \@workers, 'the workers are the same' );
my $ticks = $backend->requests( timer => 'tick' );
ok( $backend->wait_requests( $ticks + 5, timer => 'tick' ) >= $ticks + 5, 'timers go on' );
is( scalar( $backend->requests( timer => 'victim' ) ), 0, 'none ran that should not' );
my @done = $nginx->log_lines(qr/ timer "(?:victim|off|runs|tick)": (?:run by hand|cancelled|paused)| timer: all timers paused/);
is( scalar @done, 0, 'no order was taken' ) or diag join "\n", @done;
# (That a machine was too slow for the one that ticks is no complaint.)
my @loud = grep { !/timer "tick": (?:due time left out|missed )/ }
    $nginx->log_lines(qr/\[(?:crit|alert|emerg)\]|\[error\] \S+ (?:\*\d+ )?timer(?: "[^"]*")?: /);
is( scalar @loud, 0, 'the module has nothing to complain of' ) or diag join "\n", @loud > 5 ? @loud[ 0 .. 4 ] : @loud;

$nginx->stop('TERM');
done_testing;
