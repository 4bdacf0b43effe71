#!/usr/bin/perl

# Nothing leaks and nothing drifts: 100,000 runs and more, good and bad, leave memory, descriptors,
# connections and stub_status' gauges as they were.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;

sub rss { my ($pid) = @_; return slurp("/proc/$pid/status") =~ /^VmRSS:\s+(\d+) kB/m ? $1 : 0 }
sub fds { my ($pid) = @_; my @fds = glob "/proc/$pid/fd/*"; return scalar @fds }

# Runs until there were so many requests, with few connections, so that a lost one is missed. The
# gauges are judged when the timers are gone: they live in memory that survives a reload.
sub load {
    my ( $title, $runs, $nginx ) = @_;

    $nginx->start;
    my $worker = $nginx->worker_in_slot(0);
    my $until  = sub {
        my ($target) = @_;
        return wait_until { $nginx->stub_status('/status')->{requests} >= $target } 120;
    };

    ok( $until->( $runs / 10 ), "$title: a tenth of the runs" );
    my ( $rss, $fds ) = ( rss($worker), fds($worker) );
    ok( $until->($runs), "$title: $runs runs" );

    my $grown = rss($worker) - $rss;
    cmp_ok( $grown, '<=', 512, "$title: memory ($grown kB more than $rss kB)" ) if !nginx_is_watched();
    # More or fewer upstreams may be connected at this moment; the hundreds of a leak they are not.
    cmp_ok( fds($worker) - $fds, '<=', 30, "$title: descriptors" );
    is( $nginx->worker_in_slot(0), $worker, "$title: the same worker" );

    $nginx->write_conf( server => 'location = /status { stub_status; }' );
    my @old = $nginx->reload;
    ok( $nginx->wait_gone( \@old ), "$title: reloaded without timers" );
    my $idle;
    wait_until { $idle = $nginx->stub_status('/status'); $idle->{active} == 1 };
    is( $idle->{active},  1, "$title: active, the asking connection alone" );
    is( $idle->{writing}, 1, "$title: writing, too" );
    is( $idle->{reading}, 0, "$title: reading" );
    is( $idle->{waiting}, 0, "$title: waiting" );
    $nginx->stop;
    return;
}

sub many {
    my ( $count, $body, $every ) = @_;
    return join "\n", map {"location \@n$_ { timer n$_ every=$every; $body }"} 1 .. $count;
}

load(
    'return',
    100_000,
    TimerTest::Nginx->new(
        connections => 32, log_level => 'notice',
        server      => 'location = /status { stub_status; }' . many( 120, 'return 204;', '10ms' ),
    )
) if !$ENV{TEST_NGINX_WRAPPER};

# Failures of every kind, files, redirects, subrequests.
my $kinds = 'location = /status { stub_status; } location = /file { } location /part { internal; return 200 x; } ssi_types *;';
my $n     = 0;
for my $body (
    'return 444;',
    'error_page 500 = /file; return 500;',
    'error_page 500 @fallback; return 500;',
    'try_files /none /file =404;',
    'try_files /none =404;',
    'rewrite ^ /file last;',
    'rewrite ^ /rewritten break; proxy_pass http://127.0.0.1:1;',
    'error_page 502 = /file; proxy_pass http://127.0.0.1:1;',
    'ssi on; try_files /ssi.html =404;',
    'auth_request /part; return 204;',
    'mirror /part; return 204;',
    'mirror /part; try_files /file =404;',
    )
{
    my $access = $body =~ /auth_request/ ? 'access=on' : '';
    $kinds .= "\nlocation \@k${\ ++$n }-$_ { timer k$n-$_ every=20ms uri=/x/\$timer_run $access; $body }" for 1 .. 3;
}
$kinds .= "\nlocation \@fallback { return 204; }";
$kinds .= "\nlocation /u/$_/ { timer u$_ every=20ms uri=\$arg_none; return 204; }" for 1 .. 3;
my $nginx = TimerTest::Nginx->new( connections => 128, log_level => 'alert', server => $kinds );
spew( $nginx->prefix . '/html/file',     'x' x 100_000 );
spew( $nginx->prefix . '/html/ssi.html', '<!--#include virtual="/part/1" --><!--#include virtual="/part/2" -->' );
{
    # worker_in_slot reads a notice.
    $nginx->write_conf( log_level => 'notice', server => "error_log logs/runs.log alert; $kinds" );
}
load( 'all kinds', 20_000, $nginx ) if !$ENV{TEST_NGINX_WRAPPER};
is( slurp( $nginx->prefix . '/logs/runs.log' ), '', 'no alert in a run' );

# Real upstreams: answers, timeouts, truncated ones, a body that is spooled.
my $upstreams = "location = /status { stub_status; } error_log logs/runs.log alert;\n";
$n = 0;
for my $do (qw( ok status/500 reset truncate cut stall hang drip/600/0.05 big/300000 upgrade )) {
    $n++;
    $upstreams .= "location \@p$n { timer p$n every=30ms; timer_timeout 20ms; proxy_set_header X-Do $do; proxy_http_version 1.1;"
        . " proxy_pass http://127.0.0.1:${\ $backend->port }; }\n";
}
load( 'upstreams', 1_000, TimerTest::Nginx->new( connections => 128, log_level => 'notice', server => $upstreams ) )
    if !$ENV{TEST_NGINX_WRAPPER};

# "requests" grows by one a run, with the witness counting.
$nginx = TimerTest::Nginx->new(
    log_level => 'notice',
    server    => 'location = /status { stub_status; } location @x { timer x every=20ms; proxy_set_header X-Timer counted;'
        . " proxy_pass http://127.0.0.1:${\ $backend->port }; }",
);
my $asked = $TimerTest::REQUESTS;
$nginx->start;
my ( $least, $reported, $most );
wait_until {
    $least    = $backend->requests( timer => 'counted' );
    $reported = $nginx->stub_status('/status')->{requests} - ( $TimerTest::REQUESTS - $asked );
    $most     = $backend->requests( timer => 'counted' );
    $least >= 50;
};
# The last one may be on its way to the witness; and the request that asks was not answered yet.
cmp_ok( $reported, '>=', $least,    "requests grows by one a run: $least, $reported, $most" );
cmp_ok( $reported, '<=', $most + 2, 'and by no more' );
$nginx->stop;

done_testing;
