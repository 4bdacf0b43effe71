#!/usr/bin/perl

# timer_api write=on: run, cancel, pause, resume, of one and of all. Any worker takes an order, the
# timer's own worker follows it at once.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use Time::HiRes qw( time );
use Time::Local qw( timegm );
use TimerTest;
use TimerTest::Api qw( is_well );
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Due an hour ago, and in nine.
my $rare = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';

my $server = join '', 'location /status/ { timer_api write=on; add_header X-Worker $pid always; }',
    timer( $backend, 'hangs', "$rare first=now", 'hang',       'timer_timeout 1h; proxy_read_timeout 1h;' ),
    timer( $backend, 'fails', "$rare first=now", 'status/500', 'timer_retry 3 backoff=1h max=1h;' ),
    timer( $backend, 'off',   'every=50ms enabled=off' ),
    timer( $backend, 'tick',  'every=100ms' ),
    timer( $backend, 'tock',  'every=100ms' ),
    map { timer( $backend, "auto$_", $rare, 'ok', 'timer_worker auto;' ) } 1 .. 12;
my $nginx = TimerTest::Nginx->new( workers => 2, server => $server );
$nginx->start;

sub json {
    my ($answer) = @_;
    return eval { JSON::PP->new->utf8->decode( $answer->{body} ) } // {};
}

sub post {
    my ( $path, %option ) = @_;
    return $nginx->get( "/status$path", method => 'POST', %option );
}

# An order for a timer: "STATUS" and what was said.
sub order {
    my ($path) = @_;
    my $answer = post($path);
    return ( $answer->{status}, json($answer) );
}

sub show {
    my ($name) = @_;
    return json( $nginx->get("/status/timers/$name") );
}

# Waits until the other timer has gone on for a while; for what must not happen meanwhile.
sub time_passes {
    my ($timer) = @_;
    my $count = $backend->requests( timer => $timer ) + 8;
    return scalar $backend->wait_requests( $count, timer => $timer );
}

sub dues_after {
    my ( $name, $from ) = @_;
    return grep { $_ > $from } map { $_->{headers}{'x-due'} } $backend->requests( timer => $name );
}

# An instant of the API in Unix seconds.
sub unix {
    my ($instant) = @_;
    my ( $year, $month, @rest ) = $instant =~ /\A(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)(\.\d+)Z\z/ or return 0;
    my $fraction = pop @rest;
    return timegm( reverse(@rest), $month - 1, $year ) + $fraction;
}

my $client = qr/, client: 127\.0\.0\.1, server: localhost, request: "POST /;

# Run.
my $first = show('auto1');
my $sent  = time;
my ( $status, $said ) = order('/timers/auto1/run');
is( $status, 202, 'run: 202' );
like( $said->{run}, qr/\A[0-9a-f]{32}\z/, 'with the id of the run' );
my ($run) = $backend->wait_requests( 1, timer => 'auto1', ended => 1 );
is( $run->{headers}{'x-run'},     $said->{run}, 'which it has' );
is( $run->{headers}{'x-trigger'}, 'manual',     'and is a manual one' );
is( $run->{headers}{'x-attempt'}, 1,            'its first attempt' );
cmp_ok( $run->{headers}{'x-due'}, '>=', $sent - 0.002,          'due at the order' );
cmp_ok( $run->{headers}{'x-due'}, '<=', $run->{arrived} + 0.002, 'and no later' );
ok( wait_until { ( show('auto1')->{last} // {} )->{run} }, 'it ends' );
my $then = show('auto1');
is( $then->{next_due}, $first->{next_due}, 'the schedule is not moved' );
is_deeply(
    [ @{ $then->{last} }{qw( run outcome trigger )}, @{ $then->{counters} }{qw( runs unscheduled )} ],
    [ $said->{run}, 'success', 'manual', 1, 1 ],
    'it is recorded, as unscheduled'
);
ok( $nginx->wait_log(qr/\[notice\] .*timer "auto1": run by hand, run: $said->{run}$client/), 'and logged, with the client' );

# How fast: of timers of both workers, so that one order of each pair is taken by the other worker.
# 100 ms are promised; a noisy machine has to make the median in 300, less the time in which it stood still.
my %owner = map { $_ => $nginx->worker_in_slot($_) } 0, 1;
my %of;
for my $name ( map {"auto$_"} 2 .. 12 ) {
    $of{ show($name)->{worker} } //= $name;
}
is( join( ' ', sort keys %of ), '0 1', 'there are timers in both workers' );
my ( %took, $lost );
for my $round ( 1 .. 10 ) {
    for my $slot ( 0, 1 ) {
        my $begun  = time;
        my $answer = post("/timers/$of{$slot}/run");
        my $id     = json($answer)->{run} // '';
        my ($by)   = $answer->{headers} =~ /^X-Worker: (\d+)/mi;
        my $found;
        wait_until { ($found) = grep { $_->{headers}{'x-run'} eq $id } $backend->requests( timer => $of{$slot} ) };
        if ( !$found ) { $lost++; next }
        $lost++ if $found->{headers}{'x-pid'} != $owner{$slot};
        push @{ $took{ $by == $owner{$slot} ? 'own' : 'other' } }, $found->{arrived} - $begun - $beat->still( $begun, $found->{arrived} );
        wait_until { !show( $of{$slot} )->{running} };
    }
}
is( $lost // 0, 0, 'each order is followed by the owner' );
my @took = sort { $a <=> $b } @{ $took{other} };
cmp_ok( scalar @took, '>=', 1, 'some were taken by another worker' );
note sprintf 'taken by another worker: %d, median %.0f ms, longest %.0f ms', scalar @took, 1000 * $took[ @took / 2 ], 1000 * $took[-1];
cmp_ok( $took[ @took / 2 ], '<', 0.3 * $TimerTest::SLOW, 'these are followed in less than 300 ms' ) or diag "@took";

# Not while it is running; cancel.
ok( $backend->wait_requests( 1, timer => 'hangs' ), 'a run hangs' );
( $status, $said ) = order('/timers/hangs/run');
is( $status, 409, 'run: 409 while it is running' );
ok( $said->{error}, 'and says why' );
my $hangs = show('hangs')->{running};
$sent = time;
( $status, $said ) = order('/timers/hangs/cancel');
is( $status,      202,           'cancel: 202' );
is( $said->{run}, $hangs->{run}, 'with the id of the run' );
my ($hung) = $backend->wait_requests( 1, timer => 'hangs', ended => 1 );
is( $hung->{how}, 'peer', 'its connection is closed' );
cmp_ok( $hung->{ended} - $sent - $beat->still( $sent, $hung->{ended} ), '<', 5, 'at once' );
ok( wait_until { ( show('hangs')->{last} // {} )->{outcome} }, 'and it is over' );
my $shown = show('hangs');
is_deeply(
    [ @$shown{qw( status recent running consecutive_failures )}, $shown->{last}{outcome}, $shown->{counters}{cancelled} ],
    [ 'idle', 'C', undef, 0, 'cancelled', 1 ],
    'cancelled, which is no failure'
);
ok( $nginx->wait_log(qr/\[notice\] .*timer "hangs": cancelled.*$client/), 'and logged, with the client' );
is( ( order('/timers/hangs/cancel') )[0], 409, 'cancel: 409 if nothing runs' );

# It runs again, by hand, and is cancelled again: no order is taken twice.
for my $n ( 2 .. 4 ) {
    ( $status, $said ) = order('/timers/hangs/run');
    is( $status, 202, 'run: once more' );
    is( ( $backend->wait_requests( $n, timer => 'hangs' ) )[-1]{headers}{'x-run'}, $said->{run}, 'it does' );
    ok( wait_until { show('hangs')->{running} }, 'is seen' );
    is( ( order('/timers/hangs/cancel') )[0], 202, 'cancel: once more' );
    ok( wait_until { !show('hangs')->{running} }, 'it ends' );
}
is( scalar( $backend->requests( timer => 'hangs' ) ), 4, 'one run for each order' );
is( show('hangs')->{recent}, 'CCCC', 'each cancelled' );

# One that waits for its next attempt.
ok( wait_until { ( show('fails')->{running} // {} )->{next_attempt} }, 'one waits for its next attempt' );
is( ( order('/timers/fails/run') )[0],    409, 'run: 409' );
is( ( order('/timers/fails/cancel') )[0], 202, 'cancel: 202' );
ok( wait_until { !show('fails')->{running} }, 'it waits no longer' );

# enabled=off.
is( ( order('/timers/off/run') )[0], 202, 'a disabled one can be run' );
my ($off) = $backend->wait_requests( 1, timer => 'off', ended => 1 );
is( $off->{headers}{'x-trigger'}, 'manual', 'by hand' );
is( show('off')->{status} =~ s/running/disabled/r, 'disabled', 'and stays disabled' );

# Pause one.
ok( $backend->wait_requests( 3, timer => 'tick' ), 'a timer ticks' );
( $status, $said ) = order('/timers/tick/pause');
my $since = time;
is( $status, 200, 'pause: 200' );
like( $said->{paused}{since}, qr/\A\d{4}-.*Z\z/, 'since when' );
is( $said->{paused}{until}, undef, 'without an end' );
ok( wait_until { show('tick')->{status} eq 'paused' }, 'it is paused' );
$shown = show('tick');
is_deeply( [ @$shown{qw( next_due late_seconds paused )} ], [ undef, 0, $said->{paused} ], 'and shows it' );
is_well( sub { $nginx->get('/status/health')->{body} }, "ok\n", 'which is well' );
like( $nginx->get('/status/text')->{body},    qr/^- +paused .* tick$/m,                 'the table shows it' );
like( $nginx->get('/status/metrics')->{body}, qr/^nginx_timer_paused\{timer="tick"\} 1$/m, 'metrics, too' );
time_passes('tock');
my $still = sub { none_of { $_ > $since + 0.3 } shift, map { dues_after( $_, 0 ) } @_ };
$still->( 'it does not tick', 'tick' );
ok( $nginx->wait_log(qr/\[notice\] .*timer "tick": paused$client/), 'logged, with the client' );

# Over a reload and a restart.
my $quiet = sub {
    my ($title) = @_;
    is( show('tick')->{status}, 'paused', "$title: paused" );
    is_deeply( show('tick')->{paused}, $said->{paused}, 'since then' );
    time_passes('tock');
    $still->( 'it does not tick', 'tick' );
};
my @old = $nginx->reload;
ok( $nginx->wait_gone( \@old ), 'a reload' );
$quiet->('after a reload');
ok( $nginx->wait_log(qr/\[warn\] .*timer "tick": is paused since \d{4}-/), 'which warns' );
$nginx->stop;
$nginx->start;
$quiet->('after a restart');

# By hand.
my $ran = $backend->requests( timer => 'tick' );
( $status, my $manual ) = order('/timers/tick/run');
is( $status, 202, 'it can be run by hand while paused' );
my @ticks = $backend->wait_requests( $ran + 1, timer => 'tick', ended => 1 );
is( $ticks[-1]{headers}{'x-run'}, $manual->{run}, 'and does' );
ok( wait_until { !show('tick')->{running} }, 'ends' );
is( show('tick')->{status}, 'paused', 'and stays paused' );

# Resume.
my $resuming = time;
is( ( order('/timers/tick/resume') )[0], 200, 'resume: 200' );
ok( $backend->wait_requests( $ran + 4, timer => 'tick' ) >= $ran + 4, 'it ticks again' );
is( show('tick')->{paused}, undef, 'and shows it' );
none_of { $_->{headers}{'x-trigger'} ne 'manual' && $_->{headers}{'x-due'} > $since + 0.3 && $_->{headers}{'x-due'} < $resuming }
'nothing is made up for', $backend->requests( timer => 'tick' );
ok( $nginx->wait_log(qr/\[notice\] .*timer "tick": resumed$client/), 'logged, with the client' );
is( ( order('/timers/tick/resume') )[0], 200, 'resume: again' );

# For a time.
( $status, $said ) = order('/timers/tick/pause?for=1s');
is( $status, 200, 'pause for a time: 200' );
like( $said->{paused}{until} // '', qr/\A\d{4}-.*Z\z/, 'until when' );
isnt( $said->{paused}{until}, $said->{paused}{since}, 'which is later' );
$since = time;
my $until = unix( $said->{paused}{until} );
ok( wait_until { dues_after( 'tick', $until ) }, 'it ends by itself' );
none_of { $_ <= $until } 'not before', dues_after( 'tick', $since );
for my $for ( '0', '', 'x', '-1s', '1y1', '%zz', '999999999d', '9223372036854775s' ) {
    is( ( order("/timers/tick/pause?for=$for") )[0], 400, "for=$for: 400" );
}
# A mistyped argument is not what was asked for.
for my $path ( 'timers/tick/pause?fro=2h', 'timers/tick/pause?for=1h&for=2h', 'timers/tick/pause?_=1', 'pause?fro=2h', 'resume?for=2h', 'timers/tick/resume?x',
    'timers/tick/run?at=1', 'timers/hangs/cancel?for=1h' )
{
    my ($wrong) = $path =~ /.*[?&](\w+)/;
    ( $status, $said ) = order("/$path");
    is( $status, 400, "$path: 400" );
    like( $said->{error} // '', qr/"$wrong" argument/, 'and it is named' );
}
is( show('tick')->{paused}, undef, 'it is not paused' );
is( json( $nginx->get('/status/timers') )->{paused}, undef, 'nor are all' );
is( $nginx->get('/status/timers?_=123')->{status}, 200, 'who reads may have others' );

# All.
is( ( order('/timers/tick/pause') )[0], 200, 'one is paused' );
( $status, $said ) = order('/pause');
$since = time;
is( $status, 200, 'then all are' );
my $all = json( $nginx->get('/status/timers') );
is_deeply( $all->{paused}, $said->{paused}, 'since then' );
ok( wait_until { !grep { $_->{status} !~ /\A(?:paused|disabled)\z/ || $_->{next_due} } @{ json( $nginx->get('/status/timers') )->{timers} } },
    'each timer is paused or disabled' );
ok( $nginx->wait_log(qr/\[notice\] .*timer: all timers paused$client/), 'logged, with the client' );
@old = $nginx->reload;
ok( $nginx->wait_gone( \@old ), 'a reload' );
is_deeply( json( $nginx->get('/status/timers') )->{paused}, $said->{paused}, 'after it, too' );
is( ( order('/timers/off/run') )[0], 202, 'one is run by hand' );
ok( $backend->wait_requests( 2, timer => 'off', ended => 1 ) == 2, 'and that is all that runs' );
$still->( 'no other does', 'tick', 'tock' );
( $status, $said ) = order('/resume');
is( $status, 200, 'all are resumed' );
is( $said->{paused}, undef, 'and it says so' );
time_passes('tock');
ok( wait_until { show('tock')->{status} =~ /idle|running/ }, 'they run' );
is( show('tick')->{status}, 'paused', 'but for the one that was paused by itself' );
is( ( order('/timers/tick/resume') )[0], 200, 'until it is resumed' );
time_passes('tick');
ok( $nginx->wait_log(qr/\[notice\] .*timer: all timers resumed$client/), 'logged, with the client' );

# In the middle of a reload.
my $count = $backend->requests( timer => 'auto1' );
@old = $nginx->workers;
$nginx->signal('HUP');
( $status, $said ) = order('/timers/auto1/run');
is( $status, 202, 'an order in the middle of a reload' );
ok( $backend->wait_requests( $count + 1, timer => 'auto1' ) > $count, 'is followed' );
$nginx->wait_gone( \@old );

# Wrong methods, paths.
for my $path ( '/timers/tick/run', '/timers/tick/cancel', '/timers/tick/pause', '/timers/tick/resume', '/pause', '/resume' ) {
    my $answer = $nginx->get("/status$path");
    is( $answer->{status}, 405, "GET $path: 405" );
    like( $answer->{headers}, qr/^Allow: POST\r?$/mi, 'with Allow' );
    is( $answer->{body}, qq({"error":"method not allowed, use POST"}\n), 'and what to do' );
}
is( ( order($_) )[0], 404, "$_: 404" ) for '/timers/none/run', '/timers/none/pause', '/run', '/cancel', '/timers/tick/stop';
is( ( order($_) )[0], 405, "$_: 405" ) for '/', '/timers', '/timers/tick', '/metrics';
is( show('tick')->{paused}, undef, 'and nothing has changed' );
my $answer = post('/timers/auto1/cancel');
like( $answer->{headers}, qr/^$_\r?$/mi, $_ ) for 'Content-Type: application/json', 'Cache-Control: no-store', 'X-Content-Type-Options: nosniff';

# The owner hangs, the worker that took the order dies: the order is followed all the same. (An
# order that got no answer in a second is given again: the hanging worker may be the one that the
# kernel woke. It stays one order.)
sub insist {
    my ($path) = @_;
    my $taken;
    wait_until { local $TimerTest::DEADLINE = 1; $taken = post($path); $taken->{status} };
    return $taken;
}
wait_until { 2 == $nginx->workers };
my $zero = $nginx->worker_in_slot(0);
my $one  = $nginx->worker_in_slot(1);
my $n    = $backend->requests( timer => 'off' );
$nginx->signal( 'STOP', $zero );
$answer = insist('/timers/off/run');
is( $answer->{status}, 202, 'the owner hangs: another worker takes the order' );
$nginx->{allow} = [qr/exited on signal 9/];
$nginx->signal( 'KILL', $one );
$nginx->signal( 'CONT', $zero );
my @offs = $backend->wait_requests( $n + 1, timer => 'off' );
is( $offs[-1]{headers}{'x-run'}, json($answer)->{run}, 'dies, and the order is followed' );
is( $offs[-1]{headers}{'x-pid'}, $zero, 'by the owner' );

# It hangs too long: the order is dropped.
ok( wait_until { !show('off')->{running} && 2 == $nginx->workers }, 'there are two workers again' );
$one = $nginx->worker_in_slot(1);
$n   = $backend->requests( timer => 'off' );
$nginx->signal( 'STOP', $zero );
$answer = insist('/timers/off/run');
is( $answer->{status}, 202, 'the owner hangs again' );
my $taken = time;
wait_until { time > $taken + 10.5 };
$nginx->signal( 'CONT', $zero );
ok( $nginx->wait_log(qr/\[error\] .*timer "off": .*order was taken by no worker/), 'for 10 s: the order is dropped, and logged' );
time_passes('tock');
is( scalar( $backend->requests( timer => 'off' ) ), $n, 'and not followed' );

no_doubles( 'all of it', $backend->requests );
$nginx->stop;
done_testing;
