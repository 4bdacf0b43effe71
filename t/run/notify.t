#!/usr/bin/perl

# timer_notify: who is told of which events, when, and what. What a crash, a reload and a second master do to it
# is in t/state/notify.t.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Conf;
use TimerTest::Nginx;

# What is refused, in nginx's words.
accepts( http => "$_;\nserver { listen unix:/tmp/none; location \@a { return 200; } }" )
    for 'timer_notify /a', 'timer_notify @a on=failed after=3', 'timer_notify off', 'timer_notify /a on=missed,success,failed,recovered; timer_notify /b after=65535';
refuses( location => "timer_notify $$_[0];", $$_[1] ) for (
    [ 'x',              qr/invalid value "x" in "timer_notify" directive, it must be a path that begins with "\/", the name of a location that begins with "\@", or "off"/ ],
    [ '@',              qr/invalid value "\@" in "timer_notify" directive/ ],
    [ '/a/$timer_name', qr/invalid value "\/a\/\$timer_name" in "timer_notify" directive, it must be a path without variables/ ],
    [ '/a on=lost',     qr/invalid value "lost" in "on" parameter, it must be a list of "failed", "recovered", "missed" and "success"/ ],
    [ '/a on=failed,failed', qr/invalid value "failed,failed" in "on" parameter/ ],
    [ '/a on=',         qr/invalid value "" in "on" parameter/ ],
    [ '/a after=0',     qr/invalid value "0" in "after" parameter, it must be a number between 1 and 65535/ ],
    [ '/a at=1',        qr/invalid parameter "at=1"/ ],
    [ 'off on=failed',  qr/invalid parameter "on=failed"/ ],
);
refuses( location => "timer_notify off;\ntimer_notify /a; #!", qr/"timer_notify" directive is duplicate/ );
refuses( location => "timer_notify /a;\ntimer_notify off; #!", qr/"timer_notify" directive is duplicate/ );
refuses( location => "timer_notify /a;\ntimer_notify /a; #!", qr/duplicate "\/a" in "timer_notify" directive/ );
refuses( location => join( "\n", map {"timer_notify /$_;"} 1 .. 5 ) . ' #!', qr/too many "timer_notify" directives, at most 4 are permitted/ );
refuses( location => "timer t every=1s;\ntimer_notify \@gone; #!", qr/location "\@gone" in "timer_notify" is not found in the server of timer "t"/ );
refuses( http => "timer_notify \@x; #!\nserver { listen unix:/tmp/none; location \@y { timer t every=1s; return 200; } }", qr/location "\@x" in "timer_notify" is not found/ );

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;
my $pass    = "proxy_pass http://127.0.0.1:$port";

# By hand: nothing happens that a test does not want.
sub job { my ( $name, $do, $more ) = @_; return "location \@$name { timer $name every=366d enabled=off uri=/$do; $more $pass; }\n" }

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => "timer_capture 1k; timer_notify /told/http; server { listen 127.0.0.1:${\ free_port() }; server_name away; return 301 https://away/;"
        . ' location @away { timer away every=366d first=now; return 500; } location /told/ { internal; ' . "$pass/told/away; } }",
    server => join '',
    job( 'plain',  'html/x',  'timer_success 204; proxy_set_header X-Body "disk \"full\"";' ),
    job( 'row',    'turns/500/500/200/500/200/200', 'timer_notify /told/row after=2; timer_notify /told/each on=success;' ),
    job( 'quiet',  'status/500', 'timer_notify off;' ),
    job( 'named',  'status/503', 'timer_notify @told;' ),
    job( 'both',   'fail-first/1/ok', 'timer_notify /told/chat on=failed; timer_notify @told on=recovered,success;' ),
    job( 'bad',    'status/500', 'timer_notify /do/status/500;' ),
    job( 'hangs',  'status/500', 'timer_timeout 300ms; timer_notify /do/hang;' ),
    job( 'down',   'status/500', 'timer_notify /refused;' ),
    job( 'itself', 'itself', 'timer_notify @itself; rewrite ^ /status/500 break;' ),
    job( 'plainly', 'ok', 'proxy_set_header X-Event "[$timer_event$timer_status$timer_error$timer_response]";' ),
    ( map {"location \@many$_ { timer many$_ every=366d first=now; timer_notify /told/many; return 500; }\n"} 1 .. 80 ),
    ( map {"location \@stuck$_ { timer stuck$_ every=366d first=now; timer_notify /stuck; return 500; }\n"} 1 .. 40 ),
    <<"CONF",
    location /stuck { proxy_pass http://127.0.0.1:$port/hang/stuck; }
    location \@missed { timer missed every=500ms; timer_notify /told/missed on=missed; return 204; }
    location /told/ { internal; $pass; }
    location /do/ { $pass/; }
    location /refused { proxy_pass http://127.0.0.1:1; }
    location \@told {
        proxy_set_header Content-Type text/plain;
        proxy_set_body '\$timer_event|\$timer_name|\$timer_outcome|\$timer_status|\$timer_error|\$timer_failures|\$timer_duration|\$timer_run';
        $pass;
    }
    location /status/ { timer_api write=on; }
CONF
);
my $api = TimerTest::Api->new( $nginx, at => '/status' );
$nginx->start;

sub show { return json( $nginx->get("/status/timers/$_[0]") ) // {} }

# Has a timer run, and waits for its end.
sub run {
    my ($name) = @_;
    my $runs = show($name)->{counters}{runs};
    $api->order("/timers/$name/run");
    return wait_until { my $shown = show($name); !$shown->{running} && $shown->{counters}{runs} > $runs };
}

sub told { my ( $uri, $count ) = @_; return $backend->wait_requests( $count, uri => $uri, ended => 1 ) }

# Those that take their time.
run($_) for qw( bad hangs down itself );

# More at once than are told at once: none is forgotten, though another receiver does not answer.
my %many;
$many{ JSON::PP::decode_json( $_->{body} )->{timer} }++ for told( '/told/many', 80 );
is( scalar( keys %many ), 80, 'many fail at once: each is told of' );
my @stuck = $backend->wait_requests( 8, uri => '/hang/stuck' );
is( scalar( grep { $_->{ended} } @stuck ), 0, 'while another receiver holds as many as may tell it' );
is( scalar( () = $backend->requests( uri => '/hang/stuck' ) ), 8, 'eight, in the one worker that has all timers' );

# What is told: one request, by nginx itself, in the timer's server.
run('plain');
my ($r) = told( '/told/http', 1 );
is( $r->{method}, 'POST', 'the method' );
is( $r->{headers}{'content-type'}, 'application/json', 'the type' );
my $json = JSON::PP->new->utf8->decode( $r->{body} );
my $last = show('plain')->{last};
my $host = json( $nginx->get('/status/timers') )->{hostname};
is_deeply( $json, {
    event => 'failed', timer => 'plain', host => $host, server => 'localhost', run => $last->{run}, due => $last->{due},
    outcome => 'failure', status => 200, error => 'status 200', failures => 1, duration_ms => $last->{duration_ms}, response => 'disk "full"',
}, 'the body' );

# Once per row.
run('row') for 1 .. 6;
my @row  = map { JSON::PP::decode_json( $_->{body} ) } told( '/told/row', 2 );
is( join( ' ', map {"$_->{event} $_->{failures}"} @row ), 'failed 2 recovered 2', 'a row of two, and its end' );
is( $row[1]{error}, undef, 'which has no error' );
my @each = map { JSON::PP::decode_json( $_->{body} ) } told( '/told/each', 3 );
is( join( ' ', map {"$_->{event} $_->{outcome} $_->{status}"} @each ), join( ' ', ('success success 200') x 3 ), 'each success' );

# As text, to a named location.
run('named');
my ($named) = told( qr{^/told$}, 1 );
like( $named->{body}, qr/\Afailed\|named\|failure\|503\|status 503\|1\|\d+\.\d{3}\|[0-9a-f]{32}\z/, 'proxy_set_body, and the variables' );
is( $named->{headers}{'content-type'}, 'text/plain', 'its type' );
run('both') for 1 .. 2;
my @both = grep { $_->{body} =~ /\|both\|/ } told( qr{^/told$}, 3 );
is( join( ' ', map { ( split /\|/, $_->{body} )[0] } @both ), 'recovered success', 'two receivers: what one is told' );
is( scalar( () = told( '/told/chat', 1 ) ), 1, 'and the other' );

# Nothing is told of runs for whom nobody wants to be told, and the server's own return keeps nothing out.
run('quiet');
run('plainly');
is( ( $backend->wait_requests( 1, uri => qr{^/ok$} ) )[0]{headers}{'x-event'}, '[]', 'in a run there is no event' );
is( JSON::PP::decode_json( ( told( '/told/away', 1 ) )[0]{body} )->{timer}, 'away', 'a server that returns' );

# A standstill: what was missed is told, with its number.
my $worker = $nginx->worker_in_slot(0);
kill STOP => $worker;
sleep 3;
kill CONT => $worker;
my @missed = told( '/told/missed', 1 );
ok( wait_until {
    my $shown = show('missed');
    my $caught = grep { $_->{trigger} eq 'missed' } @{ $shown->{history} };
    my $sum    = 0;
    $sum += JSON::PP::decode_json( $_->{body} )->{missed} for $backend->requests( uri => '/told/missed', ended => 1 );
    $sum == $shown->{counters}{missed} + $caught;
}, 'all that was missed is told' );
$json = JSON::PP::decode_json( $missed[0]{body} );
is( $json->{error}, 'missed ' . $json->{missed} . ' due time' . ( $json->{missed} == 1 ? '' : 's' ), 'in words, too' );

# Three tries, and then one line.
for my $case ( [ 'bad', '/do/status/500', 'status 500' ], [ 'hangs', '/do/hang', 'timed out after 300ms' ], [ 'down', '/refused', 'status 502' ] ) {
    my ( $name, $to, $why ) = @$case;
    ok( $nginx->wait_log(qr/\[error\].*timer "$name": notification "failed" to "$to" failed: $why, try 3 of 3$/), "$name: one line" );
    is( scalar( my @lines = $nginx->log_lines(qr/timer "$name": notification/) ), 1, "$name: and no other" );
    is( show($name)->{counters}{runs}, 1, "$name: it is no run" );
}
for my $name (qw( bad hangs )) {
    my @tries = grep { ( $_->{body} // '' ) =~ /"timer":"$name"/ } $backend->requests;
    is( scalar @tries, 3, "$name: three tries" );
    cmp_ok( $tries[1]{arrived} - $tries[0]{arrived}, '>=', 1.9, 'with a distance' );
    cmp_ok( $tries[2]{arrived} - $tries[1]{arrived}, '>=', 9.9, 'that grows' );
}

# A location that fails when it is told is told of nothing by that.
$nginx->wait_log(qr/timer "itself": notification/);
is( show('itself')->{counters}{runs}, 1, 'an event of no event' );
is( scalar( my @itself = $nginx->log_lines(qr/timer "itself": notification/) ), 1, 'but one line' );

# What was told is told.
is( scalar( my @once = $backend->requests( uri => '/told/http' ) ), 1, 'once' );
is( scalar( my @twice = $backend->requests( uri => '/told/row' ) ), 2, 'once each' );
$nginx->stop;

done_testing;
