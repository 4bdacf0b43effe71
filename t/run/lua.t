#!/usr/bin/perl

# Together with the distribution's Lua module: content handlers that sleep, open sockets, capture and
# redirect; and what is left of OpenResty's own timers beside ours.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my ( $ndk, $lua ) = map { other_module($_) } qw( ndk_http_module ngx_http_lua_module );
plan skip_all => 'the Lua module is not installed' if !$lua;

my $load = ( $ndk ? "load_module $ndk;" : '' ) . "load_module $lua;";
my ( $fits, $why ) = TimerTest::Nginx->new( main => $load )->test_conf;
plan skip_all => 'the Lua module is for another nginx' if !$fits && $why =~ /binary compatible|version \d+ instead of/;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

# Name of the timer, what it does, how it ends.
my @jobs = (
    [ say     => 'ngx.say(ngx.var.timer_name)', 'succeeded: status 200' ],
    [ nothing => 'local x = 1', 'succeeded: status 200' ],
    [ sleep   => 'ngx.sleep(0.3); ngx.log(ngx.NOTICE, "has slept"); ngx.say("slept")', 'succeeded: status 200' ],
    [ exit    => 'ngx.exit(503)', 'failed: status 503' ],
    [ created => 'ngx.status = 201; ngx.say("x"); ngx.exit(201)', 'succeeded: status 201' ],
    [ error   => 'error("broken")', 'failed: status 500' ],
    [ redirect => 'return ngx.redirect("/elsewhere")', 'failed: status 302' ],
    [ exec    => 'return ngx.exec("/target", { a = ngx.var.timer_name })', 'succeeded: status 200' ],
    [ socket  => <<"LUA", 'succeeded: status 200' ],
        local s = ngx.socket.tcp()
        s:settimeout(10000)
        assert(s:connect("127.0.0.1", $port))
        assert(s:send("GET /from-socket HTTP/1.0\\r\\nX-Timer: " .. ngx.var.timer_name .. "\\r\\n\\r\\n"))
        local body = assert(s:receive("*a"))
        s:close()
        ngx.say(#body)
LUA
    [ capture => <<'LUA', 'succeeded: status 200' ],
        local a = ngx.location.capture("/target", { args = { a = "1" } })
        local b, c = ngx.location.capture_multi({ { "/target?a=2" }, { "/target?a=3" } })
        assert(a.status == 200 and b.status == 200 and c.status == 200 and a.body == "ok\n")
        ngx.print(a.body, b.body, c.body)
LUA
    [ threads => <<'LUA', 'succeeded: status 200' ],
        local function f() ngx.sleep(0.05) end
        local a, b = ngx.thread.spawn(f), ngx.thread.spawn(f)
        ngx.thread.wait(a) ngx.thread.wait(b)
        ngx.say("ok")
LUA
    [ request => <<'LUA', 'succeeded: status 200' ],
        ngx.req.read_body()
        local h = ngx.req.get_headers()
        assert(ngx.req.get_method() == "GET")
        assert(h.host == "localhost", "host " .. tostring(h.host))
        assert(ngx.req.get_uri_args().task == "mail")
        assert(ngx.var.timer_run and #ngx.var.timer_run == 32)
        pcall(ngx.req.raw_header)
        pcall(ngx.req.socket)
        ngx.say("ok") ngx.flush(true) ngx.eof()
LUA
    [ raw     => 'local s = ngx.req.socket(true) if s then s:settimeout(100) s:receive(1) s:send("x") end', 'failed: ' ],
    [ background => 'ngx.timer.at(0, function() ngx.log(ngx.NOTICE, "lua timer fired") end) ngx.say("ok")', 'succeeded: status 200' ],
    [ afterwards => 'ngx.say("ok") ngx.eof() ngx.sleep(0.2)', 'succeeded: status 200' ],
    [ spins   => 'ngx.sleep(600)', 'failed: timed out after 300ms' ],
    [ deaf    => <<"LUA", 'failed: timed out after 300ms' ],
        local s = ngx.socket.tcp()
        s:settimeout(600000)
        assert(s:connect("127.0.0.1", $port))
        assert(s:send("GET /hang HTTP/1.0\\r\\nX-Timer: " .. ngx.var.timer_name .. "\\r\\n\\r\\n"))
        s:receive("*a")
LUA
    [ stuck   => 'ngx.location.capture("/stuck")', 'failed: timed out after 300ms' ],
);

my $locations = join "\n", map {
    my ( $name, $code ) = @$_;
    "location \@$name { timer $name every=366d first=now uri=/$name?task=mail; timer_timeout "
        . ( $name =~ /spins|deaf|stuck/ ? '300ms' : '30s' )
        . "; lua_check_client_abort on; content_by_lua_block {\n$code\n} }";
} @jobs;

my $nginx = TimerTest::Nginx->new(
    main    => $load,
    workers => 2,
    http    => lua_path() . 'lua_socket_log_errors off; init_worker_by_lua_block { ngx.timer.at(0, function() end) }',
    server  => <<"CONF",
    $locations
    location /target { internal; proxy_set_header X-Timer \$timer_name; proxy_set_header X-Run \$timer_run; proxy_set_header X-Do ok; proxy_pass http://127.0.0.1:$port; }
    location /stuck { internal; proxy_set_header X-Do hang; proxy_pass http://127.0.0.1:$port; }
    location \@phases {
        timer phases every=50ms;
        rewrite_by_lua_block { ngx.ctx.n = 1 }
        access_by_lua_block { ngx.exit(403) }
        content_by_lua_block { ngx.say("n", ngx.ctx.n) }
        header_filter_by_lua_block { ngx.header["X-A"] = "b" }
        body_filter_by_lua_block { ngx.arg[1] = (ngx.arg[1] or ""):upper() }
        log_by_lua_block { ngx.log(ngx.NOTICE, "log phase ran") }
    }
    location \@logged {
        timer logged every=366d first=now;
        log_subrequest on;
        log_by_lua_block { ngx.log(ngx.NOTICE, "log phase of ", ngx.var.timer_name) }
        content_by_lua_block { ngx.say("ok") }
    }
    location \@guarded {
        timer guarded every=366d first=now access=on;
        access_by_lua_block { ngx.exit(403) }
        content_by_lua_block { ngx.say("ok") }
    }
CONF
);
$nginx->start;

for my $job (@jobs) {
    my ( $name, undef, $end ) = @$job;
    ok( $nginx->wait_log(qr/timer "$name": run $end/), "$name: $end" )
        or diag join "\n", $nginx->log_lines(qr/timer: "$name"|timer "$name"/);
}

like( $nginx->log, qr/has slept.*timer "sleep": run succeeded/s, 'a run that sleeps ends when it has slept' );
ok( $nginx->wait_log( qr/timer "phases": run succeeded: status 200/, 5 ), 'the access phase is left out, over and over' );
logged_times( $nginx, qr/log phase ran/, 0, 'the log phase too' );
ok( $nginx->wait_log(qr/log phase of logged.*timer: "logged", run: [0-9a-f]{32}/), 'unless log_subrequest is on' );
ok( $nginx->wait_log(qr/timer "guarded": run failed: status 403/), 'access=on' );
ok( $nginx->wait_log(qr/lua timer fired/), "Lua's own timers fire" );

is( scalar $backend->requests( timer => 'socket' ),  1, 'a socket, once' );
is( scalar $backend->requests( timer => 'capture' ), 3, 'three captures' );
my %runs = map { $_->{headers}{'x-run'} => 1 } $backend->requests( timer => 'capture' );
is( scalar keys %runs, 1, 'of one run' );
is( scalar $backend->requests( timer => 'exec' ), 1, 'ngx.exec is still of the run' );
my ($deaf) = $backend->wait_requests( 1, timer => 'deaf', ended => 1 );
is( $deaf->{how}, 'peer', 'a socket of a run that was cut off is closed' );

# A run that sleeps is no obstacle to a reload, and ends.
my $quiet = TimerTest::Nginx->new(
    main    => $load,
    http    => lua_path(),
    server  => 'location @sleeper { timer sleeper every=366d first=now; content_by_lua_block { ngx.log(ngx.NOTICE, "asleep") ngx.sleep(1.5) ngx.say("ok") } }',
);
$quiet->start;
ok( $quiet->wait_log(qr/asleep/), 'a run sleeps' );
my @old = $quiet->reload;
ok( $quiet->wait_log(qr/\Q$old[0]\E#\d+: .*timer "sleeper": run succeeded: status 200/), 'and ends in the exiting worker' );
ok( $quiet->wait_gone( \@old ), 'which then leaves' );
$quiet->stop;

$nginx->stop;
done_testing;
