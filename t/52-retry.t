#!/usr/bin/perl

# timer_retry: attempts after a failure, when they come, what they say, and that they outlive the
# worker that made the first one.

use strict;
use warnings;

use List::Util qw( max min );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Conf;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;

# What may be written.
accepts( http => "timer_retry $_;" )
    for '0', '2', '1000', '3 on=failure', '3 on=failure,error,timeout,interrupted', '3 backoff=10ms', '3 backoff=1m max=10s',
    '3 max=5m backoff=500ms on=timeout';
accepts( server => 'timer_retry 3; location @x { timer x every=1s; timer_retry 0; }', 'overridden' );
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
    timer( $backend, 'fails',    'every=1h first=now', 'status/502', 'timer_retry 2 backoff=200ms;' ),
    timer( $backend, 'doubles',  'every=1h first=now', 'status/500', 'timer_retry 5 backoff=200ms max=900ms;' ),
    timer( $backend, 'recovers', 'every=1h first=now', 'turns/503/503/200', 'timer_retry 5 backoff=100ms;' ),
    timer( $backend, 'off',      'every=1h first=now', 'status/502' ),
    timer( $backend, 'only',     'every=1h first=now', 'status/502', 'timer_retry 3 on=timeout backoff=50ms;' ),
    timer( $backend, 'slow',     'every=1h first=now', 'hang', 'timer_timeout 300ms; timer_retry 1 on=timeout backoff=100ms;' ),
    timer( $backend, 'hangs',    'every=1h first=now', 'hang', 'timer_timeout 300ms; timer_retry 3 backoff=100ms;' ),
    timer( $backend, 'cut',      'every=1h first=now', 'truncate', 'timer_retry 1 backoff=100ms;' ),
    "location \@error { timer error every=1h first=now uri=\$no_uri; timer_retry 1 on=error backoff=100ms; return 200; }\n",
    "location \@refused { timer refused every=1h first=now; timer_retry 1 backoff=100ms; proxy_pass http://127.0.0.1:$closed; }\n",
    # Due again and again: the next due time takes over.
    timer( $backend, 'next',     'every=1s offset=0', 'status/502', 'timer_retry 50 backoff=200ms max=200ms;' ),
    timer( $backend, 'never',    'every=500ms offset=0', 'status/502', 'timer_retry 50 backoff=10s;' ),
    timer( $backend, 'lasts',    'every=1s offset=0', 'turns/502/200/200', 'timer_retry 1 backoff=300ms;' ),
    timer( $backend, 'queue',    'every=400ms offset=0', 'delay/0.5/status/502', 'timer_overlap queue; timer_retry 50 backoff=50ms;' ),
    # As short as can be: not a tight loop.
    timer( $backend, 'tight',    'every=1h first=now', 'status/502', 'timer_retry 1000 backoff=10ms max=10ms;' ),
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
    my @runs = runs($timer);
    is( scalar @runs, 1, "$timer: one run" );
    my @attempts = map { $_->{headers}{'x-attempt'} } @{ $runs[0] };
    is_deeply( \@attempts, [ 1 .. $count{$timer} ], "$timer: $count{$timer} attempt(s), numbered" );
    my %same = map { join( " ", @{ $_->{headers} }{qw( x-due x-trigger )} ) => 1 } @{ $runs[0] };
    is( scalar keys %same, 1, "$timer: of one due time, with one trigger" );
}

# When.  By +-10 %, on the upper side as much more as a slow machine needs.
my @pauses = pauses( @{ ( runs('doubles') )[0] } );
my @base   = ( 200, 400, 800, 900, 900 );
for my $n ( 0 .. 4 ) {
    cmp_ok( $pauses[$n], '>=', $base[$n] * 0.9 - 3, "doubles: pause $n is not too short" );
    cmp_ok( $pauses[$n], '<=', $base[$n] * 1.1 + 300 * $TimerTest::SLOW, "doubles: nor too long" );
}
my $lateness = ( runs('doubles') )[0][-1]{headers}{'x-late'};
cmp_ok( $lateness, '>=', 2.8, 'lateness counts from the due time' );

# Never past the next due time.
$backend->wait_requests( 12, timer => 'next' );
$backend->wait_requests( 6,  timer => 'queue', ended => 1 );
my @next = runs('next');
my $last = pop @next;
cmp_ok( scalar @next, '>=', 2, 'next: run after run' );
for my $run (@next) {
    my @late = grep { $_->{arrived} * 1000 > due_ms($_) + 1000 + 250 * $TimerTest::SLOW } @$run;
    is( scalar @late, 0, 'next: no attempt after the next due time' );
}
cmp_ok( max( map { scalar @$_ } @next ), '>=', 3, 'next: but attempts before it' );
my %due = map { due_ms( $_->[0] ) => 1 } @next;
is( scalar keys %due, scalar @next, 'next: each its own due time' );
for my $run ( runs('never') ) {
    is( scalar @$run, 1, 'never: where the next due time comes first there is no second attempt' );
}
logged_times( $nginx, qr/\[warn\].*timer "never": attempt/, 0, 'never: and none is promised' );
is( ( grep { $_->[0]{headers}{'x-attempt'} != 1 } runs('queue') ), 0, 'queue: what is queued takes over' );
my @queued = grep { $_->[0]{headers}{'x-trigger'} eq 'queue' } runs('queue');
cmp_ok( scalar @queued, '>=', 2, 'queue: from the queue' );

# Not a tight loop: there is a pause before each attempt, and others live.
my @tight = $backend->wait_requests( 40, timer => 'tight' );
my @ended = grep { $_->{ended} } @tight;
# Nine of whole milliseconds.
my @gaps = grep { $_ < 8 } pauses(@ended);
is( scalar @gaps, 0, 'tight: a pause before each attempt' ) or diag "@gaps";
my $ticks = $backend->requests( timer => 'tick' );
ok( $backend->wait_requests( $ticks + 5, timer => 'tick' ) >= $ticks + 5, 'tight: other timers live' );
no_overlaps( 'retries', {}, $backend->requests );
no_doubles( 'retries', $backend->requests );

# Told to leave while all of them wait: at once.
my $zero = $nginx->worker_in_slot(0);
$nginx->stop;

# The account in the state of what is told here is in t/serial/84-account.t.

# Between two attempts the worker is killed, told to leave by HUP, or by QUIT: the successor
# makes the next attempt, of the same run, in its time.
sub waits {
    my ( $title, $wait_ms, $do, %option ) = @_;

    $backend->stop;
    $backend = TimerTest::Backend->start;
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        allow   => [qr/worker process \d+ exited on signal 9/],
        server  => timer( $backend, 'again', 'every=10h first=now', 'turns/502/200', "timer_retry 3 backoff=${wait_ms}ms;" )
            . timer( $backend, 'tick', 'every=50ms' ),
    );
    $nginx->start;
    my ($first) = $backend->wait_requests( 1, timer => 'again', ended => 1 );
    $nginx->wait_log(qr/timer "again": attempt 1 of 4 failed: status 502/);
    my $old = $nginx->worker_in_slot(0);
    is( $first->{headers}{'x-pid'}, $old, "$title: the first attempt is made by the old worker" );

    my $told = time;
    $do->( $nginx, $old );
    ok( $nginx->wait_gone( [$old] ), "$title: it leaves" );
    my $left = time - $told;
    cmp_ok( $left, '<', $wait_ms / 1000 - 0.2, "$title: before the next attempt" );

    my @attempts = $backend->wait_requests( 2, timer => 'again', ended => 1 );
    is( scalar @attempts, 2, "$title: the next attempt is made" );
    my $second = $attempts[1] // { headers => {} };
    isnt( $second->{headers}{'x-pid'}, $old, "$title: by the successor" );
    is( $second->{headers}{'x-run'}, $first->{headers}{'x-run'}, "$title: it belongs to the same run" );
    is( $second->{headers}{'x-attempt'}, 2, "$title: and is its second attempt" );
    is( $second->{headers}{'x-due'}, $first->{headers}{'x-due'}, "$title: for the same due time" );
    my ($pause) = pauses( $first, $second );
    cmp_ok( $pause, '>=', $wait_ms * 0.9 - 3, "$title: not before its time" );
    cmp_ok( $pause, '<=', $wait_ms * 1.1 + 1500 * $TimerTest::SLOW, "$title: nor long after it" );
    logged( $nginx, qr/\[info\] $second->{headers}{'x-pid'}#\d+: timer "again": run succeeded/, "$title: and succeeds" );
    logged_times( $nginx, qr/run interrupted/, 0, "$title: nothing was interrupted" );

    my $ticks = $backend->requests( timer => 'tick' );
    $backend->wait_requests( $ticks + 5, timer => 'tick' );
    is( scalar( () = $backend->requests( timer => 'again' ) ), 2, "$title: no attempt more" );
    $nginx->stop;
    no_doubles( $title, $backend->requests( timer => 'again' ) );
    return;
}

my $wait = 2000 * $TimerTest::SLOW;
waits( 'KILL between attempts', $wait, sub { kill 'KILL', $_[1] } );
waits( 'HUP between attempts',  $wait, sub { $_[0]->signal('HUP') } );
waits( 'QUIT between attempts', $wait, sub { kill 'QUIT', $_[1] } );

# The first attempt itself is interrupted.
sub interrupted {
    my ( $title, $on, $signal ) = @_;

    $backend->stop;
    $backend = TimerTest::Backend->start;
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        allow   => [qr/worker process \d+ exited on signal 9/],
        server  => timer( $backend, 'dies', 'every=10h first=now', 'fail-first/0/delay/1/ok', "timer_retry 2 on=$on backoff=300ms;" )
            . timer( $backend, 'tick', 'every=50ms' ),
    );
    $nginx->start;
    my ($first) = $backend->wait_requests( 1, timer => 'dies' );
    my $old = $nginx->worker_in_slot(0);
    kill $signal, $old;
    logged( $nginx, qr/timer "dies": .*(?:process $old died|worker was told to stop)/, "$title: is told" );
    my $next = $nginx->worker_in_slot(0);
    if ( $on =~ /interrupted/ ) {
        my @attempts = $backend->wait_requests( 2, timer => 'dies', ended => 1 );
        my $second   = $attempts[1] // { headers => {} };
        is( $second->{headers}{'x-run'}, $first->{headers}{'x-run'}, "$title: the run goes on" );
        is( $second->{headers}{'x-attempt'}, 2, "$title: with its second attempt" );
        is( $second->{headers}{'x-pid'}, $next, "$title: in the successor" );
        logged( $nginx, qr/timer "dies": run succeeded/, "$title: to its end" );
    }
    else {
        my $ticks = $backend->requests( timer => 'tick' );
        $backend->wait_requests( $ticks + 20, timer => 'tick' );
        is( scalar( () = $backend->requests( timer => 'dies' ) ), 1, "$title: there is no second attempt" );
    }
    logged_times( $nginx, qr/run interrupted: process $old died, due \d+\.\d{3}/, 1, "$title: once" ) if $on !~ /interrupted/;
    $nginx->stop;
    return;
}

interrupted( 'KILL, on=interrupted', 'interrupted',   'KILL' );
interrupted( 'KILL, on=failure',     'failure,error', 'KILL' );
interrupted( 'TERM, on=interrupted', 'interrupted',   'TERM' );

# Killed again and again while it waits, and due again meanwhile: the next due time takes over.
$backend->stop;
$backend = TimerTest::Backend->start;
$nginx = TimerTest::Nginx->new(
    workers => 1,
    allow   => [qr/worker process \d+ exited on signal 9/],
    server  => timer( $backend, 'over', 'every=1s offset=0', 'status/502', 'timer_retry 50 backoff=400ms max=400ms on=failure,interrupted;' ),
);
$nginx->start;
for my $n ( 1 .. 3 ) {
    my $before = $backend->requests( timer => 'over' );
    $backend->wait_requests( $before + 1, timer => 'over' );
    kill 'KILL', $nginx->worker_in_slot(0);
}
my $before = $backend->requests( timer => 'over' );
ok( $backend->wait_requests( $before + 5, timer => 'over' ) >= $before + 5, 'killed again and again: it goes on' );
my @runs = runs('over');
pop @runs;
is( ( grep { my $r = $_; grep { $_->{arrived} * 1000 > due_ms($_) + 1000 + 250 * $TimerTest::SLOW } @$r } @runs ), 0, 'and no attempt comes after the next due time' );
$nginx->stop;
no_doubles( 'killed again and again', $backend->requests( timer => 'over' ) );

done_testing;
