#!/usr/bin/perl

# The page shows groups of servers that are checked, in a real browser: states, reasons, the strip of the last
# checks, what share is up; and nothing in it is taken for markup.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Nginx;
use TimerTest::Page;
use TimerTest::Servers;

TimerTest::Page->available or plan skip_all => 'chromium and chromedriver are not installed';

my $servers = TimerTest::Servers->start(2);
my ( $one, $two ) = map { '127.0.0.1:' . $servers->port($_) } 0, 1;
my $nginx = TimerTest::Nginx->new(
    main => 'worker_shutdown_timeout 1s;',
    http => <<"CONF",
    upstream b { zone b 64k; server $one weight=2 max_fails=0; server $two backup max_fails=0; }
    upstream '<b>"x"' { zone x 64k; server $one down; server 'unix:/no<i>such'; }
    upstream off { zone off 64k; server $one down; server $two down; }
CONF
    server => <<'CONF',
    location / { proxy_pass http://b; health_check interval=500ms; }
    location /x { proxy_pass 'http://<b>"x"'; health_check interval=100ms; }
    location /off { proxy_pass http://off; health_check interval=100ms; }
    location /status/ { timer_api; }
CONF
);
$nginx->start;

my $browser = TimerTest::Page->start( width => 1280, height => 900 );
$browser->go( 'http://127.0.0.1:' . $nginx->port . '/status/' );

# The texts of a group: its head, then each cell of each row.
my $TEXTS = 'const root = [...document.querySelectorAll("#upstreams .group")].find(it => it.dataset.group === arguments[0]);'
    . 'return root ? [root.querySelector("h3").innerText, ...[...root.querySelectorAll("tbody tr")]'
    . '.map(row => [...row.cells].map(cell => cell.innerText.replace(/\s+/g, " ").trim()).join("|"))].join("\n") : ""';

sub shows {
    my ( $group, $pattern, $title ) = @_;
    my $text;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( poll_until( sub { ( $text = $browser->js( $TEXTS, $group ) ) =~ $pattern } ), $title ) || diag $text;
}

shows( 'b', qr/\Ab\s+2 of 2 healthy, 100%/, 'what share is up' );
shows( 'b', qr/^up\|\Q$one\E weight 2\|pass \S.*took \d.*\|\|\d+/m, 'a server' );
shows( 'b', qr/^up\|\Q$two\E backup\|/m, 'which one is backup' );
$servers->set( 1, 503 );
shows( 'b', qr/^unhealthy for .*\|\Q$two\E backup\|fail: status 503 .*\|\|\d+ \d+ failed/m, 'why a server is unhealthy' );
shows( 'b', qr/1 of 2 healthy, 50%/, 'what share is up now' );
my $bars = $browser->js('return [...document.querySelectorAll("#upstreams .checks")].map(it => it.getAttribute("aria-label")).join("; ")');
like( $bars, qr/\A\d+ passed; \d+ passed, \d+ failed;/, 'the strip of the last checks' );
$servers->up(1);
shows( 'b', qr/2 of 2 healthy/, 'it is back' );

shows( '<b>"x"', qr/^down\|\Q$one\E\|none yet\|\|0$/m, 'a server that is not checked' );
shows( '<b>"x"', qr/^unhealthy for .*\|unix:\/no<i>such\|fail: /m, 'markup in a name is text' );
is( $browser->js('return document.querySelectorAll("#upstreams i, #upstreams h3 b b").length'), 0, 'and nothing else' );
if ( $ENV{TEST_NGINX_SCREENSHOTS} ) {
    $browser->screenshot("$ENV{TEST_NGINX_SCREENSHOTS}/upstreams.png");
}

shows( 'off', qr/\Aoff\s+all down$/m, 'a group that is out of use' );

# Without a check the part is gone.
$nginx->write_conf( http => "upstream b { server $one; }", server => 'location / { proxy_pass http://b; } location /status/ { timer_api; }' );
$nginx->reload;
ok( poll_until( sub { $browser->js('return document.getElementById("upstreams").hidden') } ), 'no group, no part of the page' );

$browser->clean_console('groups');
$browser->stop;
$nginx->stop;
$servers->stop;
done_testing();
