#!/usr/bin/perl

# keyval_zone, keyval and timer_keyval: what a run has fetched is the content of a zone, as a whole; what cannot
# be leaves the content as it was.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Canned;
use TimerTest::Nginx;

# What the server answers is in files, so that this process changes it while it runs.
my $dir = scratch_dir();

sub say_next { my ( $name, $head, $body ) = @_; spew( "$dir/$name.new", "$head\r\n\r\n$body" ); rename "$dir/$name.new", "$dir/$name"; return }

sub answer {
    my ( $name, $type, $body, %option ) = @_;
    my $head = join "\r\n", "HTTP/1.1 " . ( $option{status} // '200 OK' ), $type ? "Content-Type: $type" : (),
        'Content-Length: ' . ( $option{length} // length $body ), @{ $option{headers} // [] };
    return say_next( $name, $head, $body );
}

my $server = TimerTest::Canned->start(
    answer => sub {
        my ($asked) = @_;
        return if $asked !~ /\r\n\r\n\z/;
        my ($name) = $asked =~ m{\A\S+ /(\w+)};
        my $answer = slurp("$dir/$name");
        # One that knows the version that is asked for.
        my ($etag) = $answer =~ /^ETag: (.*)\r$/m;
        if ( defined $etag && $asked =~ /^If-None-Match: \Q$etag\E\r$/m ) {
            return "HTTP/1.1 304 Not Modified\r\nETag: $etag\r\n\r\n";
        }
        return $answer =~ /^Content-Length/m && $answer !~ /^X-Close/m ? $answer : ( $answer, 'close' );
    },
);
my $pass = 'http://127.0.0.1:' . $server->port;

answer( flags => 'application/json', '{"a":"one","b":12.50,"c":true,"d":false,"e":"\u00e9","f":""}' );
answer( list  => 'text/plain; charset=utf-8', "# addresses\n10.0.0.0/8 net\n10.1.2.3 host\n2001:db8::/32\n\n127.0.0.1 here\n" );
answer( paths => 'text/plain',                "/a a\n/a/b ab\n/abc abc\n" );
answer( large => 'text/plain',                "x 1\n" );
answer( etag  => 'text/plain', "x 1\n", headers => ['ETag: "v1"'] );
answer( late  => 'text/plain', "x 1\n" );

sub job {
    my ( $name, $more ) = ( @_, '' );
    return "location \@$name { timer $name every=366d first=now uri=/$name; timer_keyval $name; proxy_pass $pass; $more }\n";
}

spew( "$dir/parts", join '', map {"key$_ value\n"} 1 .. 300 );
my $port  = free_port();
my $nginx = TimerTest::Nginx->new(
    port    => $port,
    workers => 2,
    http    => <<'CONF',
    keyval_zone zone=flags:32k;
    keyval_zone zone=list:64k type=ip;
    keyval_zone zone=paths:64k type=prefix;
    keyval_zone zone=large:64k;
    keyval_zone zone=etag:64k;
    keyval_zone zone=late:64k timeout=2s;
    keyval_zone zone=none:64k;
    keyval_zone zone=asked:64k;
    keyval_zone zone=slices:64k;
    keyval $arg_key $flag zone=flags;
    keyval b $flag_b zone=flags;
    keyval $arg_key$arg_more $both zone=flags;
    keyval $arg_key $net zone=list;
    keyval $remote_addr $here zone=list;
    keyval $arg_key $path zone=paths;
    keyval x $large zone=large;
    keyval x $etag zone=etag;
    keyval x $late zone=late;
    keyval x $none zone=none;
CONF
    server => join(
        '',
        job('flags'), job('list'), job( paths => 'gzip on; gzip_types *; sub_filter a X; sub_filter_types *;' ),
        job( large => 'timer_capture 100;' ), job( etag => 'timer_success 200 304; proxy_set_header If-None-Match $timer_keyval_etag;' ), job('late'),
        "location \@asked { timer asked every=366d uri=/flags; timer_keyval asked; proxy_method HEAD; proxy_pass $pass; }\n",
        "location = /parts { root $dir; }\n",
        "location \@slices { timer slices every=366d uri=/parts; timer_keyval slices; slice 1k; proxy_set_header Range \$slice_range; proxy_http_version 1.1; proxy_pass http://127.0.0.1:$port; }\n",
        'location /flag { return 200 "$flag|$flag_b|$both"; }
         location /net { return 200 "$net|$here"; }
         location /path { return 200 "$path"; }
         location /x { return 200 "$large|$etag|$late|$none|$timer_keyval_etag"; }
         location /if { if ($here) { return 403; } return 200 "not here"; }
         location /status/ { timer_api write=on; }
         location /all/ { timer_api keyvals=on; }'
    ),
);
$nginx->start;
my $api = TimerTest::Api->new( $nginx, at => '/status' );

my %runs;

# Has a timer run once more, and answers its last run and what the log says of it.
sub run {
    my ($name) = @_;
    my $done = sub { return scalar( () = $nginx->log =~ /timer "$name": run (?:succeeded|failed)/g ) };
    my $before = json( $nginx->get("/status/timers/$name") )->{counters}{runs};
    $api->order("/timers/$name/run");
    my $now;
    wait_until { $now = json( $nginx->get("/status/timers/$name") ); $now->{counters}{runs} > $before && !$now->{running} };
    return $now;
}

# What the API has of a zone, the same from both workers.
sub view {
    my ( $name, $at ) = ( @_, '/status/keyvals' );
    my %views;
    for ( 1 .. 4 ) {
        my ($view) = grep { $_->{zone} eq $name } @{ json( $nginx->get($at) )->{keyvals} };
        $views{ $view->{error} // 'null' } = $view;
    }
    is( keys %views, 1, "one answer: @{[ keys %views ]}" );
    return ( values %views )[0];
}

sub age { my ($name) = @_; return ( map { $_->{age} } grep { $_->{zone} eq $name } @{ json( $nginx->get('/status/keyvals') )->{keyvals} } )[0] }

# When a content was up to date.
sub renewed { return time - age( $_[0] ) }

sub last_line { my ($name) = @_; return ( $nginx->log_lines(qr/timer "$name": run (?:succeeded|failed)/) )[-1] }

sub body { return $nginx->get( $_[0] )->{body} }

$nginx->wait_log(qr/timer "$_": run succeeded/) for qw( flags list paths large etag late );

# Values.
is( body('/flag?key=a'), 'one|12.50|one', 'a string, and a number as it is written' );
is( body('/flag?key=c'), '1|12.50|1',     'true' );
is( body('/flag?key=d'), '0|12.50|0',     'false' );
is( body('/flag?key=e'), "\xc3\xa9|12.50|\xc3\xa9", 'a character that is escaped' );
is( body('/flag?key=f'), '|12.50|',       'an empty value' );
is( body('/flag?key=A'), '|12.50|',       'a key that is not there' );
is( body('/flag'),       '|12.50|',       'an empty key' );

is( body('/net?key=10.1.2.3'),        'host|here', 'an address' );
is( body('/net?key=10.1.2.4'),        'net|here',  'one of a network' );
is( body('/net?key=11.0.0.1'),        '|here',     'one of none' );
is( body('/net?key=2001:db8::7'),     '1|here',    'IPv6; a key alone is 1' );
is( body('/net?key=::ffff:10.1.2.3'), 'host|here', 'IPv4 in IPv6' );
is( body('/net?key=10.0.0.0/9'),      'net|here',  'a network in a network' );
is( body('/net?key=nonsense'),        '|here',     'no address' );
is( $nginx->get('/if')->{status}, 403, 'in a condition' );

is( body("/path?key=$_->[0]"), $_->[1], "prefix of $_->[0]" ) for [ '/a' => 'a' ], [ '/a/x' => 'a' ], [ '/a/b/c' => 'ab' ], [ '/abcd' => 'abc' ], [ '/ab' => 'a' ], [ '/' => '' ];

# What is refused leaves what was there.
my $reads = "one|12.50|one";
for (
    [ 'text/html',        '<html>',                       qr/response of type "text\/html", not application\/json or text\/plain/ ],
    [ '',                 'x',                            qr/response has no type/ ],
    [ 'application/json', '{"a":1',                       qr/line 1: unexpected end/ ],
    [ 'application/json', "{\"a\":1,\n\"a\":2}",          qr/line 2: duplicate key "a"/ ],
    [ 'application/json', "{\n\n\"a\":[1]}",              qr/line 3: value of "a" is an array/ ],
    [ 'application/json', '{"a":null}',                   qr/line 1: value of "a" is null/ ],
    [ 'application/json', '{"":1}',                       qr/line 1: empty key/ ],
    [ 'application/json', "{\"a\":\"\xff\"}",             qr/line 1: not UTF-8/ ],
    [ 'application/json', '{"a":"\u0000"}',               qr/line 1: zero byte in key or value of "a"/ ],
    [ 'application/json', '[' x 20_000,                   qr/line 1: not an object/ ],
    [ 'application/json', '{"a":' . '{"a":' x 5_000,      qr/line 1: value of "a" is an object/ ],
    [ 'text/plain',       "a 1\nb 2\na 3\n",              qr/line 3: duplicate key "a"/ ],
    [ 'text/plain',       join( '', map {"k$_ v\n"} 1 .. 1500 ), qr/content does not fit into the zone, 32k/ ],
    [ 'text/plain',       "x\n" x 20_000,                 qr/content does not fit into the zone, 32k/ ],
    )
{
    my ( $type, $body, $why ) = @$_;
    answer( flags => $type, $body );
    is( run('flags')->{last}{outcome}, 'failure', "$why" );
    like( last_line('flags'), qr/timer "flags": run failed: keyval "flags": $why(?:, |\z)/, 'in the log' ) if !$runs{flags}++;
    is( body('/flag?key=a'), $reads, 'the content is what it was' );
    like( view( 'flags', '/all/keyvals' )->{error}, qr/\A$why\z/, 'and the API says why' );
}
like( $nginx->log, qr/run failed: keyval "flags": response of type "text\/html"/, 'the first of a row is in the log' );
answer( flags => 'text/plain', 'a 1', headers => ['Content-Encoding: gzip'] );
is( run('flags')->{last}{outcome}, 'failure', 'an encoded one' );
say_next( flags => "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\nX-Close: 1", "a 1\n" );
is( run('flags')->{last}{outcome}, 'failure', 'one that is cut short' );
is( body('/flag?key=a'), $reads, 'all the same' );

# The reason in the API: without keys where contents are not shown, on one line, and not too long.
answer( flags => 'text/plain', "secret 1\nsecret 2\n" );
run('flags');
is( view('flags')->{error}, 'line 2: duplicate key "..."', 'a key may be secret' );
is( view( 'flags', '/all/keyvals' )->{error}, 'line 2: duplicate key "secret"', 'it is shown with keyvals=on' );
my ($line) = grep {/keyval flags:/} @{ json( $nginx->get('/status/timers') )->{keyvals} };
like( $line, qr/\Akeyval flags: 6 keys, \d+ s old; refused: line 2: duplicate key "\.\.\."\z/, 'a line for the page' );
like( $nginx->get( '/status/', headers => "Accept: text/html\r\n" )->{body}, qr/s old; refused: line 2: duplicate key &quot;\.\.\.&quot;</, 'on the page' );
answer( flags => "text/\e[1m\t\x80" . 'x' x 1000, 'a 1' );
run('flags');
my $long = view('flags')->{error};
like( $long, qr/\Aresponse of type "text\/\\x1b\[1m\\t\\x80x+\.\.\.\z/, 'control characters' );
is( length $long, 256, 'so much of it' );
answer( flags => 'text/plain', 'x', status => '503 Service Unavailable' );
run('flags');
is( view('flags')->{error}, $long, 'a run that failed by itself had no content' );

# A success that has not all of the content: no body, a part, what comes in parts, and less than it says.
for ( '204 No Content', '205 Reset Content', '206 Partial Content' ) {
    my $body = /206/ ? "a 1\n" : '';
    answer( flags => 'text/plain', $body, status => $_, headers => ['Content-Range: bytes 0-3/8'] );
    my ($status) = /(\d+)/;
    my $last = run('flags')->{last};
    is( "$last->{status} $last->{outcome}", "$status failure", $_ );
    is( body('/flag?key=a'), $reads, 'is not the content' );
}
answer( flags => 'text/plain', "a 1\n" );
is( run($_)->{last}{outcome}, 'failure', "$_: no whole content" ) for qw( asked slices );
like( $nginx->log, qr/timer "asked": run failed: keyval "asked": response has 0 bytes instead of 4,/, 'without a body' );
like( $nginx->log, qr/timer "slices": run failed: keyval "slices": response with status 206 is no whole content,/, 'in slices' );

# Chunked, and nothing.
say_next( flags => "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nX-Close: 1", "4\r\n{\"a\"\r\n8\r\n:\"two\"} \r\n0\r\n\r\n" );
is( run('flags')->{last}{outcome}, 'success', 'in chunks' );
is( body('/flag?key=a'), 'two||two', 'all of the old content is gone' );
answer( flags => 'application/json', '{}' );
is( run('flags')->{last}{outcome}, 'success', 'nothing is a content' );
is( body('/flag?key=a'), '||', 'without a key' );
is( view('flags')->{error}, undef, 'what was taken has no error' );

# A version.
like( body('/x'), qr{\A1\|1\|1?\|\|\z}, 'no etag for clients' );
{
    my $before = age('etag');
    wait_until { age('etag') > $before };
    my $last = run('etag')->{last};
    is( "$last->{status} $last->{outcome}", '304 success', 'what is known is not sent' );
    cmp_ok( renewed('etag'), '>', renewed('flags'), 'its age begins anew' );
}
is( body('/x') =~ s/\|.*?\|.*//r, '1', 'and stays' );
answer( etag => 'text/plain', "x 2\n", headers => ['ETag: "v2"'] );
is( run('etag')->{last}{status}, 200, 'a new version' );
like( body('/x'), qr/\A1\|2\|/, 'is there' );

# Too old.
wait_until { body('/x') =~ /\A1\|2\|\|/ };
is( run('late')->{last}{outcome}, 'success', 'the same once more' );
like( body('/x'), qr/\A1\|2\|1\|/, 'is there again' );

$nginx->stop;
done_testing;
