#!/usr/bin/perl

# How a run ends, whatever the upstream does: its outcome, its message, and that it ends at all and
# the next due time is served. The witness says when each request was over.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

# Large bodies keep a witness busy; this one has nothing else to do.
my $heavy = TimerTest::Backend->start;

# What the upstream does, what else the location says, how the run ends. What has to begin within a second
# comes by turns with a success: the next row of failures has a line again if the first was of another kind.
my @cases = (
    [ 'ok',            '', 'succeeded: status 200, \d+ms' ],
    [ 'status/201',    '', 'succeeded: status 201, \d+ms' ],
    [ 'status/204',    '', 'succeeded: status 204, \d+ms' ],
    [ 'status/301',    '', 'failed: status 301, \d+ms' ],
    [ 'status/302',    '', 'failed: status 302, \d+ms' ],
    [ 'status/304',    '', 'failed: status 304, \d+ms' ],
    [ 'status/400',    '', 'failed: status 400, \d+ms' ],
    [ 'status/401',    '', 'failed: status 401, \d+ms' ],
    [ 'status/404',    '', 'failed: status 404, \d+ms' ],
    [ 'status/500',    '', 'failed: status 500, \d+ms' ],
    [ 'status/503',    '', 'failed: status 503, \d+ms' ],
    [ 'status/999',    '', 'failed: status 999, \d+ms' ],
    [ 'close',         '', 'failed: status 502, \d+ms' ],
    [ 'reset',         '', 'failed: status 502, \d+ms' ],
    [ 'garbage',       '', 'failed: (?:status \d+|no response)' ],
    [ 'huge-header',   '', 'failed: status 502, \d+ms' ],
    [ 'truncate',      '', 'failed: response incomplete, status 200' ],
    [ 'truncate',      'proxy_buffering off;', 'failed: response incomplete, status 200' ],
    [ 'cut',           'proxy_http_version 1.1;', 'failed: response incomplete, status 200' ],
    [ 'cut',           'proxy_http_version 1.1; proxy_buffering off;', 'failed: response incomplete, status 200' ],
    [ 'reset-body',    '', 'failed: response incomplete, status 200' ],
    [ 'reset-body',    'proxy_buffering off;', 'failed: response incomplete, status 200' ],
    [ 'by-turns/stall', 'proxy_read_timeout 1s;', 'failed: response incomplete, status 200' ],
    [ 'by-turns/stall', 'proxy_read_timeout 1s; proxy_buffering off;', 'failed: response incomplete, status 200' ],
    [ 'hang',          'proxy_read_timeout 1s;', 'failed: status 504, \d+ms' ],
    [ 'hang',          'timer_timeout 300ms;', 'failed: timed out after 300ms' ],
    [ 'stall',         'timer_timeout 300ms;', 'failed: timed out after 300ms' ],
    [ 'stall',         'timer_timeout 300ms; proxy_buffering off;', 'failed: timed out after 300ms' ],
    [ 'drip/600/0.1',  'timer_timeout 300ms;', 'failed: timed out after 300ms' ],
    [ 'drip/600/0.1',  'timer_timeout 300ms; proxy_buffering off;', 'failed: timed out after 300ms' ],
    [ 'slow-header/600/0.1', 'timer_timeout 300ms;', 'failed: timed out after 300ms' ],
    [ 'hang',          'timer_timeout 300ms; error_page 494 500 502 504 = /ok;', 'failed: timed out after 300ms' ],
    [ 'hang',          'timer_timeout 300ms; post_action /ok;', 'failed: timed out after 300ms' ],
    [ 'drip/10/0.05',  '', 'succeeded: status 200, \d+ms' ],
    [ 'drip/10/0.05',  'proxy_buffering off;', 'succeeded: status 200, \d+ms' ],
    [ 'slow-header/5/0.05', '', 'succeeded: status 200, \d+ms' ],
    [ 'unsized',       '', 'succeeded: status 200, \d+ms' ],
    [ 'big/10485760',  '', 'succeeded: status 200, \d+ms' ],
    [ 'big/10485760',  'proxy_buffering off;', 'succeeded: status 200, \d+ms' ],
    [ 'big/10485760',  'proxy_max_temp_file_size 0; limit_rate 1k;', 'succeeded: status 200, \d+ms' ],
    [ 'upgrade',       'proxy_http_version 1.1; proxy_set_header Upgrade test; proxy_set_header Connection upgrade; timer_timeout 500ms;', 'failed: ' ],
    [ 'upgrade',       'timer_timeout 500ms;', 'failed: ' ],
    [ 'accel/local/none', '', 'failed: status 404' ],
    [ 'accel/local/ok', '', 'succeeded: status 200' ],
);

my $n = 0;
for my $case (@cases) {
    my ( $do, $more, $end ) = @$case;
    my $name = sprintf 't%02d', ++$n;
    push @$case, $name;
}

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => 'proxy_set_header X-Timer $timer_name;',
    server  => join( "\n", map {
        my ( $do, $more, undef, $name ) = @$_;
        my $headers = $more =~ /proxy_set_header/ ? 'proxy_set_header X-Timer $timer_name;' : '';
        "location \@$name { timer $name every=2s first=now; $headers proxy_set_header X-Timer \$timer_name;"
            . " proxy_set_header X-Do $do; $more proxy_pass http://127.0.0.1:${\( $do =~ /^big/ ? $heavy->port : $port )}; }"
    } @cases ) . <<"CONF",
    location \@refused { timer refused every=2s first=now; proxy_pass http://127.0.0.1:1; }
    location \@no_socket { timer no_socket every=2s first=now; proxy_pass http://unix:/nonexistent/socket; }
    location \@unresolved { timer unresolved every=2s first=now; resolver 127.0.0.1:1 ipv6=off; resolver_timeout 300ms; set \$u no.test; proxy_pass http://\$u; }
    location \@no_upstream { timer no_upstream every=2s first=now; proxy_pass http://all_down; }
    location \@unset { timer unset every=2s first=now; set \$u ""; proxy_pass http://\$u; }
    location /local/ { internal; }
    location = /local/ok { internal; return 200; }
    location /ok { return 200; }
CONF
);
$nginx->{http} .= ' upstream all_down { server 127.0.0.1:1 down; server 127.0.0.1:1 down; }';
s/proxy_set_header X-Timer \$timer_name; proxy_set_header X-Timer \$timer_name;/proxy_set_header X-Timer \$timer_name;/g for $nginx->{server};
$nginx->write_conf;
$nginx->start;

for my $case (@cases) {
    my ( $do, $more, $end, $name ) = @$case;
    ok( $nginx->wait_log(qr/timer "$name": run $end.*timer: "$name", run: [0-9a-f]{32}/), "$do, $more: $end" )
        or diag join "\n", $nginx->log_lines(qr/timer: "$name"|timer "$name"/);
}
for my $name (qw( refused no_socket unresolved no_upstream unset )) {
    my $status = $name eq 'unset' ? 500 : 502;
    ok( $nginx->wait_log(qr/timer "$name": run failed: status $status, \d+ms/), "$name: status $status" )
        or diag join "\n", $nginx->log_lines(qr/timer: "$name"|timer "$name"/);
}

# All of them go on, one at a time, and no request outlives its run for long.
for my $case (@cases) {
    my ( $do, $more, undef, $name ) = @$case;
    next if $do =~ /^big/;
    my $runs = $backend->wait_requests( 2, timer => $name, ended => 1 );
    ok( $runs >= 2, "$do, $more: the next due time is served" );
    is( $backend->most_at_once( timer => $name ), 1, "$do, $more: one at a time" );
}

# nginx's own messages carry the run.
my $first = sub { return ( $nginx->log_lines(shift) )[0] // '' };
like( $first->(qr/connect\(\) failed.*timer: "refused"/), qr/timer: "refused", run: [0-9a-f]{32}.*upstream: "/, 'the context of a line of nginx' );
like( $first->(qr/upstream prematurely closed connection while reading response header/),
    qr/timer: "t\d\d", run: [0-9a-f]{32}, server: localhost.*upstream: "/, 'and of another' );
lacks( $first->(qr/timer "t02": run/), qr/client: /, 'there is no client' );

$nginx->stop;
done_testing;
