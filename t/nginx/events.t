#!/usr/bin/perl

# The events block and what else steers nginx's loop: every event method that this nginx has, the
# accept mutex, timer_resolution, many accepts at once, thread pools, CPU affinity, debug_connection.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

my @ways = (
    [ 'select',            events => 'use select;' ],
    [ 'poll',              events => 'use poll;' ],
    [ 'epoll',             events => 'use epoll;' ],
    [ 'several accepts',   events => 'multi_accept on;' ],
    [ 'debugging clients', events => 'debug_connection 127.0.0.1;', log_level => 'debug' ],
    [ 'coarse timers',     main   => 'timer_resolution 100ms;' ],
    [ 'affinity',          main   => 'worker_cpu_affinity auto;' ],
    [ 'thread pool',       main   => 'thread_pool default threads=2;', http => 'aio threads; sendfile on;' ],
    [ 'two listeners',     http   => 'server { listen 127.0.0.1:PORT reuseport; return 204; }' ],
);

for my $way (@ways) {
    my ( $title, %option ) = @$way;
    my $name = 't-' . $title =~ s/ /-/gr;
    $option{http} =~ s/PORT/free_port()/e if $option{http};

    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        server  => <<"CONF",
    proxy_set_header X-Timer $name;
    location \@a { timer a every=50ms; proxy_pass http://127.0.0.1:$port; }
    location \@b { timer b every=50ms; proxy_buffering off; proxy_http_version 1.1; proxy_pass http://127.0.0.1:$port; }
    location \@c { timer c every=50ms; return 204; }
    location \@d { timer d every=500ms first=now uri=/hang; timer_timeout 200ms; proxy_pass http://127.0.0.1:$port; }
    location /e/ { timer e every=50ms uri=/e/page; alias html/; }
CONF
        %option,
    );
    spew( $nginx->prefix . '/html/page', 'x' x 300_000 );

    my ( $ok, $out ) = $nginx->test_conf;
    if ( !$ok && $out =~ /invalid event type/ ) {
        pass("this nginx has no $title");
        next;
    }

    $nginx->start;
    ok( $nginx->wait_log( qr/timer "$_": run succeeded/, 5 ), "$title: $_ runs" ) for qw( a b c e );
    ok( $nginx->wait_log(qr/timer "d": run failed: timed out after 200ms/), "$title: d is cut off" );
    is( $nginx->get('/ready')->{status}, 200, "$title: clients are served" );
    my @old = $nginx->reload;
    ok( $nginx->wait_gone( \@old ), "$title: it is reloaded" );
    my $count = $nginx->log_lines(qr/timer "c": run succeeded/);
    ok( $nginx->wait_log( qr/timer "c": run succeeded/, $count + 5 ), "$title: and goes on" );
    $nginx->stop;
}

done_testing;
