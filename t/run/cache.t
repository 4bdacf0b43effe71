#!/usr/bin/perl

# proxy_cache: a run fills what clients then hit; cache locks, stale answers and background updates
# end like everything else; cache manager and loader run no timer.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => 'proxy_cache_path cache keys_zone=c:1m loader_sleep=1ms manager_sleep=10ms; proxy_set_header X-Timer $timer_name;',
    server  => <<"CONF",
    # The key is made of what client and timer have in common.
    location /page {
        timer warm every=200ms uri=/page/accel-expires/60;
        proxy_cache c;
        proxy_cache_key \$uri\$is_args\$args;
        proxy_cache_bypass \$timer_name;
        proxy_set_header X-Do accel-expires/60;
        proxy_set_header X-Timer \$timer_name;
        add_header X-Cache \$upstream_cache_status always;
        proxy_pass http://127.0.0.1:$port;
    }
    # One fills the cache for a second and more; the other waits for it.
    location /lock {
        timer first every=366d first=now uri=/lock/a;
        proxy_cache c;
        proxy_cache_key \$uri;
        proxy_cache_lock on;
        proxy_cache_valid 200 60s;
        proxy_set_header X-Do delay/1.5/ok;
        proxy_pass http://127.0.0.1:$port;
        location /lock/a {
            timer second every=366d first=now uri=/lock/a;
            timer_timeout 20s;
            proxy_cache c;
            proxy_cache_key \$uri;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 15s;
            proxy_cache_valid 200 60s;
            proxy_set_header X-Do delay/1.5/ok;
            proxy_pass http://127.0.0.1:$port;
        }
    }
    # It waits for a lock longer than it may, however long this machine takes.
    location /late {
        timer late-holder every=366d first=now uri=/late/key;
        proxy_cache c;
        proxy_cache_key late;
        proxy_cache_lock on;
        proxy_cache_lock_age 60s;
        proxy_cache_valid 200 60s;
        proxy_set_header X-Do held/late/ok;
        proxy_pass http://127.0.0.1:$port;
        location /late/wait {
            timer late-waiter every=100ms;
            timer_timeout 300ms;
            proxy_cache c;
            proxy_cache_key late;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 60s;
            proxy_cache_lock_age 60s;
            proxy_cache_valid 200 60s;
            proxy_pass http://127.0.0.1:$port;
        }
    }
    # Stale at once, brought up to date behind the answer.
    location /stale {
        timer stale every=100ms;
        proxy_cache c;
        proxy_cache_key stale;
        proxy_cache_valid 200 1s;
        proxy_cache_use_stale updating error timeout;
        proxy_cache_background_update on;
        proxy_pass http://127.0.0.1:$port;
    }
    location /revalidated {
        timer revalidated every=100ms;
        proxy_cache c;
        proxy_cache_revalidate on;
        proxy_cache_valid 200 1s;
        proxy_pass http://127.0.0.1:$port;
    }
CONF
);

$nginx->start;

# What the timer fetched is what a client gets, without a request of the client's own.
ok( $backend->wait_requests( 2, timer => 'warm', ended => 1 ) >= 2, 'each run of "warm" goes to the upstream' );
my $answer;
wait_until { $answer = $nginx->get('/page/accel-expires/60'); $answer->{headers} =~ /X-Cache: HIT/ };
like( $answer->{headers}, qr/X-Cache: HIT/, 'a client hits what a run has fetched' );
none_of { !$_->{headers}{'x-timer'} } 'no client had to fetch it', $backend->requests( uri => qr{^/page} );

ok( $nginx->wait_log(qr/timer "first": run succeeded: status 200/),  'the holder of a cache lock' );
ok( $nginx->wait_log(qr/timer "second": run succeeded: status 200/), 'and who waited for it' );

# It ends once the lock comes back, which is when its time has been over for long.
ok( wait_record( $nginx->prefix . '/timers.state', 'late-waiter', sub { $_->{overlaps} >= 5 } ), 'a run waits for the lock too long' );
$backend->let_go('late');
ok( $nginx->wait_log(qr/timer "late-waiter": run failed: timed out after 300ms/), 'and is cut off' );
ok( $nginx->wait_log(qr/timer "late-waiter": (?:run succeeded|succeeded after)/), 'and a later run goes well' );

my @stale = $backend->wait_requests( 3, timer => 'stale' );
ok( @stale >= 3, 'background updates go on' );
ok( $nginx->wait_log( qr/timer "stale": run succeeded: status 200/, 10 ), 'and the runs with them' );
ok( $backend->wait_requests( 2, timer => 'revalidated' ) >= 2, 'revalidation' );

# Manager and loader have come to life by now, and only workers have run anything.
ok( $nginx->wait_log(qr/start cache manager process/), 'there is a cache manager' );
my %worker  = map { $_ => 1 } $nginx->workers;
my @foreign = grep { /\A\S+ \S+ \[\w+\] (\d+)#/ && !$worker{$1} } $nginx->log_lines(qr/timer[: ]/);
is_deeply( \@foreign, [], 'no process but a worker has to do with timers' );
is( $backend->most_at_once( timer => 'warm' ), 1, 'one at a time' );

$nginx->stop;
done_testing;
