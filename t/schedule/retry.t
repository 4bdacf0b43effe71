#!/usr/bin/perl

# timer_retry: attempts after a failure, when they come and what they say. That they outlive the worker
# that made the first one is in t/schedule/retry-successor.t.

use strict;
use warnings;

use List::Util qw( max );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Conf;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Once, at its first load: the next due time is nine hours away.
my $once = 'every=10h offset=' . ( int( time - 3600 ) % 36_000 ) . 's first=now';

# What may be written.
accepts( http => "timer_retry $_;" )
    for '0', '2', '1000', '3 on=failure', '3 on=failure,error,timeout,interrupted', '3 backoff=10ms', '3 backoff=1m max=10s',
    '3 max=5m backoff=500ms on=timeout';
accepts( server => 'timer_retry 3; location @x { timer x every=1s; timer_retry 0; return 204; }', 'overridden' );
refuses( http => "timer_retry $_->[0];", $_->[1] )
    for [ '',                          qr/invalid number of arguments in "timer_retry"/ ],
    [ '-1',                            qr/invalid value "-1"/ ],
    [ 'x',                             qr/invalid value "x"/ ],
    [ '1.5',                           qr/invalid value "1\.5"/ ],
    [ '99999999999',                   qr/invalid value "99999999999"/ ],
    [ '3 on=',                         qr/invalid value "" in "on" parameter/ ],
    [ '3 on=success',                  qr/invalid value "success" in "on" parameter/ ],
    [ '3 on=failure,',                 qr/invalid value "failure," in "on" parameter/ ],
    [ '3 on=failure,failure',          qr/invalid value "failure,failure" in "on" parameter/ ],
    [ '3 on=cancelled',                qr/invalid value "cancelled" in "on" parameter/ ],
    [ '3 backoff=0',                   qr/invalid value "0" in "backoff" parameter/ ],
    [ '3 backoff=x',                   qr/invalid value "x" in "backoff" parameter/ ],
    [ '3 max=0',                       qr/invalid value "0" in "max" parameter/ ],
    [ '3 backoff=1s backoff=2s',       qr/duplicate/ ],
    [ '3 again=1',                     qr/invalid parameter "again=1"/ ];
refuses( http => "timer_retry 1;\ntimer_retry 1; #!", qr/"timer_retry" directive is duplicate/, 'duplicate' );

# What an upstream of nginx does that cannot be tried here: a port where nobody listens.
my $closed = free_port();

# The requests of a timer, by run, each run's in order.
sub runs {
    my ($timer) = @_;
    my ( %run, @order );
    for my $r ( sort { $a->{arrived} <=> $b->{arrived} } $backend->requests( timer => $timer ) ) {
        my $id = $r->{headers}{'x-run'};
        push @order, $id if !$run{$id};
        push @{ $run{$id} }, $r;
    }
    return map { $run{$_} } @order;
}

# Pauses in ms between attempts that are answered at once.  From arrival to arrival: when an answer
# has left, nginx may know it before the witness has written it down.
sub pauses {
    my (@attempts) = @_;
    return map { ( $attempts[$_]{arrived} - $attempts[ $_ - 1 ]{arrived} ) * 1000 } 1 .. $#attempts;
}

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => 'map "" $no_uri { default "x"; }',
    server  => join( '',
    timer( $backend, 'fails',    $once, 'status/502', 'timer_retry 2 backoff=200ms;' ),
    timer( $backend, 'doubles',  $once, 'status/500', 'timer_retry 5 backoff=200ms max=900ms;' ),
    timer( $backend, 'recovers', $once, 'turns/503/503/200', 'timer_retry 5 backoff=100ms;' ),
    timer( $backend, 'off',      $once, 'status/502' ),
    timer( $backend, 'only',     $once, 'status/502', 'timer_retry 3 on=timeout backoff=50ms;' ),
    timer( $backend, 'slow',     $once, 'hang', 'timer_timeout 300ms; timer_retry 1 on=timeout backoff=100ms;' ),
    timer( $backend, 'hangs',    $once, 'hang', 'timer_timeout 300ms; timer_retry 3 backoff=100ms;' ),
    timer( $backend, 'cut',      $once, 'truncate', 'timer_retry 1 backoff=100ms;' ),
    "location \@error { timer error $once uri=\$no_uri; timer_retry 1 on=error backoff=100ms; return 200; }\n",
    "location \@refused { timer refused $once; timer_retry 1 backoff=100ms; proxy_pass http://127.0.0.1:$closed; }\n",
    # Due again and again: the next due time takes over.
    timer( $backend, 'next',     'every=1s offset=0', 'status/502', 'timer_retry 50 backoff=200ms max=200ms;' ),
    timer( $backend, 'never',    'every=500ms offset=0', 'status/502', 'timer_retry 50 backoff=10s;' ),
    timer( $backend, 'lasts',    'every=1s offset=0', 'turns/502/200/200', 'timer_retry 1 backoff=300ms;' ),
    timer( $backend, 'queue',    'every=400ms offset=0', 'delay/0.5/status/502', 'timer_overlap queue; timer_retry 50 backoff=50ms;' ),
    # As short as can be: not a tight loop.
    timer( $backend, 'tight',    $once, 'status/502', 'timer_retry 1000 backoff=10ms max=10ms;' ),
    timer( $backend, 'tick',     'every=100ms' ),
    ),
);
$nginx->start;

# The last attempt of those that end by themselves.
logged( $nginx, qr/\[error\] \d+#\d+: timer "$_->[0]": run failed: $_->[1]/, "$_->[0]: ends" )
    for [ fails => 'status 502, attempt 3 of 3, \d+ms, timer: "fails", run: [0-9a-f]{32}' ],
    [ doubles => 'status 500, attempt 6 of 6, \d+ms' ],
    [ off     => 'status 502, \d+ms' ],
    [ only    => 'status 502, attempt 1 of 4, \d+ms' ],
    [ slow    => 'timed out after 300ms, attempt 2 of 2' ],
    [ hangs   => 'timed out after 300ms, attempt 1 of 4' ],
    [ cut     => 'response incomplete, status 200, attempt 2 of 2' ],
    [ refused => 'status 502, attempt 2 of 2, \d+ms' ],
    [ error   => '.*attempt 2 of 2' ];
logged( $nginx, qr/\[info\] \d+#\d+: timer "recovers": run succeeded: status 200/, 'recovers: succeeds' );

# The words of those before the last.
logged_times( $nginx, qr/\[warn\] \d+#\d+: timer "fails": attempt [12] of 3 failed: status 502, \d+ms, timer: "fails", run: [0-9a-f]{32}$/, 2, 'fails: two are told of as warnings' );
logged_times( $nginx, qr/\[warn\] \d+#\d+: timer "fails": attempt 1 of 3 failed/, 1, 'fails: the first' );
logged_times( $nginx, qr/timer "fails": run failed/,   1, 'fails: one failure' );
logged_times( $nginx, qr/timer "recovers": run failed/, 0, 'recovers: no failure' );
logged_times( $nginx, qr/\[warn\].*timer "recovers": attempt \d of 6 failed: status 503/, 2, 'recovers: two attempts failed' );
logged_times( $nginx, qr/timer "recovers": succeeded after/, 0, 'recovers: the runs before it had not failed' );
logged_times( $nginx, qr/\[warn\].*timer "slow": attempt 1 of 2 failed: timed out after 300ms/, 1, 'slow: a timeout' );
logged_times( $nginx, qr/\[warn\].*timer "cut": attempt 1 of 2 failed: response incomplete, status 200/, 1, 'cut: an incomplete response' );
logged_times( $nginx, qr/\[warn\].*timer "error": attempt 1 of 2 failed: /, 1, 'error: an error' );
logged_times( $nginx, qr/\[warn\].*timer "$_": attempt/, 0, "$_: is not repeated" ) for qw( off only hangs );

# How often, by the witness.
my %count = ( fails => 3, doubles => 6, recovers => 3, off => 1, only => 1, slow => 2, hangs => 1, cut => 2 );
for my $timer ( sort keys %count ) {
    # What was cut off may be known to nginx before the witness has seen it.
    $backend->wait_requests( $count{$timer}, timer => $timer );
    my @runs = runs($timer);
    is( scalar @runs, 1, "$timer: one run" );
    my @attempts = map { $_->{headers}{'x-attempt'} } @{ $runs[0] };
    is_deeply( \@attempts, [ 1 .. $count{$timer} ], "$timer: $count{$timer} attempt(s), numbered" );
    my %same = map { join( " ", @{ $_->{headers} }{qw( x-due x-trigger )} ) => 1 } @{ $runs[0] };
    is( scalar keys %same, 1, "$timer: of one due time, with one trigger" );
}

# When.  By +-10 %, on the upper side as much more as a slow machine needs.
my @doubles = @{ ( runs('doubles') )[0] };
my @pauses  = pauses(@doubles);
my @base    = ( 200, 400, 800, 900, 900 );
for my $n ( 0 .. 4 ) {
    cmp_ok( $pauses[$n], '>=', $base[$n] * 0.9 - 3, "doubles: pause $n is not too short" );
    my $still = $beat->still( map { $_->{arrived} } @doubles[ $n, $n + 1 ] );
    cmp_ok( $pauses[$n], '<=', $base[$n] * 1.1 + 300 * $TimerTest::SLOW + 1000 * $still, "doubles: nor too long" );
}
my $lateness = ( runs('doubles') )[0][-1]{headers}{'x-late'};
cmp_ok( $lateness, '>=', 2.8, 'lateness counts from the due time' );

# Never past the next due time.  When an attempt started is what it says; it may be seen later.
wait_until { 3 <= ( () = runs('next') ) };
$backend->wait_requests( 6,  timer => 'queue', ended => 1 );
my @next = runs('next');
my $last = pop @next;
cmp_ok( scalar @next, '>=', 2, 'next: run after run' );
for my $run (@next) {
    none_of { $_->{headers}{'x-late'} > 1 || $_->{arrived} - due_ms($_) / 1000 - $beat->still( due_ms($_) / 1000, $_->{arrived} ) > 1 + 0.25 * $TimerTest::SLOW } 'next: no attempt after the next due time', @$run;
}
cmp_ok( max( map { scalar @$_ } @next ), '>=', 3, 'next: but attempts before it' );
my %due = map { due_ms( $_->[0] ) => 1 } @next;
is( scalar keys %due, scalar @next, 'next: each its own due time' );
for my $run ( runs('never') ) {
    is( scalar @$run, 1, 'never: where the next due time comes first there is no second attempt' );
}
logged_times( $nginx, qr/\[warn\].*timer "never": attempt/, 0, 'never: and none is promised' );
none_of { $_->[0]{headers}{'x-attempt'} != 1 } 'queue: what is queued takes over', runs('queue');
my @queued = grep { $_->[0]{headers}{'x-trigger'} eq 'queue' } runs('queue');
cmp_ok( scalar @queued, '>=', 2, 'queue: from the queue' );

# Not a tight loop: there is a pause before each attempt, and others live.
my @tight = $backend->wait_requests( 40, timer => 'tight' );
my @ended = grep { $_->{ended} } @tight;
# Nine of whole milliseconds.
none_of { $_ < 8 } 'tight: a pause before each attempt', pauses(@ended);
my $ticks = $backend->requests( timer => 'tick' );
ok( $backend->wait_requests( $ticks + 5, timer => 'tick' ) >= $ticks + 5, 'tight: other timers live' );
no_overlaps( 'retries', {}, $backend->requests );
no_doubles( 'retries', $backend->requests );

# Told to leave while all of them wait: at once.
$nginx->stop;

# The account in the state of what is told here is in t/long/account.t.

# Never after the next due time, neither where that one was missed and is left out.
$backend->stop;
$backend = TimerTest::Backend->start;
my $tick = timer( $backend, 'tick', 'every=100ms' );
$nginx = TimerTest::Nginx->new(
    workers => 1,
    server  => timer( $backend, 'misses', 'every=3s offset=0', 'status/502', 'timer_missed skip; timer_retry 3 backoff=1s;' )
        . $tick,
);
$nginx->start;
my ($missing) = $backend->wait_requests( 1, timer => 'misses', ended => 1 );
logged( $nginx, qr/timer "misses": attempt 1 of 4 failed/, 'it is to be repeated' );
my $worker = $nginx->worker_in_slot(0);
kill 'STOP', $worker;
wait_until { time * 1000 > due_ms($missing) + 4500 };
kill 'CONT', $worker;
my $later = wait_until {
    my ($it) = grep { due_ms($_) > due_ms($missing) + 3000 } $backend->requests( timer => 'misses' );
    $it;
};
ok( $later, 'a due time was missed, and the one after it runs' );
none_of { $_->{headers}{'x-run'} eq $missing->{headers}{'x-run'} && $_->{headers}{'x-late'} > 3 } 'no attempt comes after the missed one', $backend->requests( timer => 'misses' );
$nginx->stop;

# A reload that brings another schedule, or none, neither hurries the next attempt nor takes its time for a
# step of the clock.
$backend->stop;
$backend = TimerTest::Backend->start;
$tick    = timer( $backend, 'tick', 'every=100ms' );
$nginx   = TimerTest::Nginx->new(
    workers => 1,
    server  => timer( $backend, 'changes', $once, 'status/502', 'timer_retry 3 backoff=50s;' )
        . timer( $backend, 'disabled', $once, 'status/502', 'timer_retry 1000 backoff=4s max=4s;' )
        . $tick,
);
$nginx->start;
my ($changed) = $backend->wait_requests( 1, timer => 'changes' );
logged( $nginx, qr/timer "$_": attempt 1 of \d+ failed/, "$_: is to be repeated" ) for qw( changes disabled );
$nginx->write_conf(
    server => timer( $backend, 'changes', 'every=2s offset=0', 'status/502', 'timer_retry 3 backoff=50s;' )
        . timer( $backend, 'disabled', "$once enabled=off", 'status/502', 'timer_retry 1000 backoff=4s max=4s;' )
        . $tick
);
# The old worker may still make an attempt, until it leaves.
$nginx->reload_all;
my @before = $backend->requests( timer => 'disabled' );
ok( wait_until { grep { $_->{headers}{'x-trigger'} eq 'schedule' } $backend->requests( timer => 'changes' ) }, 'a changed schedule: its next due time takes over' );
ok( wait_until { grep { $_->{arrived} > $before[-1]{arrived} + 4 * 1.1 + 0.5 } $backend->requests( timer => 'tick' ) }, 'time passes' );
is( ( grep { $_->{headers}{'x-run'} eq $changed->{headers}{'x-run'} } $backend->requests( timer => 'changes' ) ), 1, 'a changed schedule: the attempt is not hurried' );
logged_times( $nginx, qr/clock was set back/, 0, 'a changed schedule: the clock was not set back' );
is( scalar( () = $backend->requests( timer => 'disabled' ) ), scalar @before, 'enabled=off: there is no further attempt by schedule' );
$nginx->stop;

# By hand: what is disabled has no next due time, so that none takes over, neither from a run that failed nor from one
# that was interrupted.
my $off = 'every=1s offset=0 enabled=off';
$nginx = TimerTest::Nginx->new(
    workers => 1,
    allow   => [qr/exited on signal 9/],
    server  => timer( $backend, 'hand', $off, 'status/502', 'timer_retry 2 backoff=1500ms max=1500ms;' )
        . timer( $backend, 'killed', $off, 'held/killed/ok', 'timer_retry 1 on=interrupted backoff=1500ms;' )
        . 'location /status/ { timer_api write=on; }',
);
$nginx->start;
my $api = TimerTest::Api->new( $nginx, at => '/status' );
is( ( $api->order("/timers/$_/run") )[0], 202, "disabled: $_: by hand" ) for qw( hand killed );
$backend->wait_requests( 1, timer => 'killed' );
$backend->wait_requests( 3, timer => 'hand' );
kill KILL => $nginx->worker_in_slot(0);
$backend->wait_requests( 2, timer => 'killed' );
$backend->let_go('killed');
is( join( ' ', map {"$_->{headers}{'x-trigger'} $_->{headers}{'x-attempt'}"} $backend->requests( timer => 'hand' ) ), 'manual 1 manual 2 manual 3', 'disabled: all attempts' );
is( join( ' ', map {"$_->{headers}{'x-trigger'} $_->{headers}{'x-attempt'}"} $backend->requests( timer => 'killed' ) ), 'manual 1 manual 2', 'disabled: the one after the interrupted one' );
$nginx->stop;

done_testing;
