#!/usr/bin/perl

# What the API shows of states that are rare: a state in memory, one that was recovered, a timer that is
# stuck, one whose record cannot be read; and an order for a record that somebody else has locked.

use strict;
use warnings;

use IO::Select ();
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Due an hour ago, and in nine.
my $rare = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';
my $api  = 'location /status/ { timer_api write=on; }';

# One test: a timer has some more runs.
sub goes_on {
    my ( $name, $title ) = @_;
    my $count = $backend->requests( timer => $name ) + 3;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return cmp_ok( scalar $backend->wait_requests( $count, timer => $name ), '>=', $count, $title );
}

# Stuck takes its timeout and 10 s: it begins here, and is looked at when the rest has been seen. Worker 0
# is stopped in the middle of two attempts, one of a timer of its own and one of a timer of any worker, and not
# in the middle of one of "well". Where it was too late for these, or in the middle of that: once more.
my $timeout = 5 * $TimerTest::SLOW;
my $hangs   = "timer_unhealthy_after 9; timer_timeout ${timeout}s; proxy_read_timeout 1h;";
my $stuck   = TimerTest::Nginx->new(
    workers => 2,
    http    => 'keepalive_timeout 1h; keepalive_requests 1000000;',
    server  => $api
        . timer( $backend, 'own',    $rare, 'hang', $hangs )
        . timer( $backend, 'any',    $rare, 'hang', "$hangs timer_worker any;" )
        . timer( $backend, 'behind', 'every=100ms' )
        . timer( $backend, 'well',   'every=100ms', 'ok', 'timer_worker any;' ),
);
$stuck->start;
my $zero  = $stuck->worker_in_slot(0);
my $mine  = TimerTest::Api->new( $stuck, worker => [$zero] );
my $other = TimerTest::Api->new( $stuck, worker => [ $stuck->worker_in_slot(1) ] );
my ( %runs, $stopped );
for my $try ( 1 .. 20 ) {
    for my $name (qw( own any )) {
        wait_until { !$other->show($name)->{running} };
        my ( $status, $said ) = $mine->order("/timers/$name/run");
        is( $status, 202, "$name is run by hand" );
        push @{ $runs{$name} }, $said->{run};
        my $count = @{ $runs{$name} };
        ok( $backend->wait_requests( $count, timer => $name ) == $count, 'and its attempt is in progress' );
    }
    $stuck->signal( 'STOP', $zero );
    $stopped = time;
    my $well = requests_by( $other->pid, $backend->requests( timer => 'well' ) );
    my @held = grep { ( ( $other->show($_)->{running} // {} )->{pid} // 0 ) == $zero } qw( own any );
    my $goes = wait_until { requests_by( $other->pid, $backend->requests( timer => 'well' ) ) >= $well + 3 } 3;
    last if @held == 2 && $goes;
    note "not this time ($try)";
    $stuck->signal( 'CONT', $zero );
    $mine->order("/timers/$_/cancel") for qw( own any );
}
for my $name (qw( own any )) {
    my $shown = $other->show($name);
    is( $shown->{status}, 'running', "worker 0 is stopped in the middle of $name" );
    is_deeply( [ @{ $shown->{running} }{qw( run pid )} ], [ $runs{$name}[-1], $zero ], 'which is its run' );
}

# In memory.
{
    my $nginx = TimerTest::Nginx->new( workers => 2, state => 'memory', server => $api . timer( $backend, 'm', 'every=100ms' ) );
    $nginx->start;
    goes_on( 'm', 'memory: it runs' );
    my $any = TimerTest::Api->new($nginx);
    my $all = $any->all;
    is( $all->{state}, 'ok', 'memory: the state is ok' );
    ok( exists $all->{state_file} && !defined $all->{state_file}, 'memory: and no file' );
    is_well( sub { $any->ask('/health')->{body} }, "ok\n", 'memory: which is well' );
    is( $any->metrics->{nginx_timer_state_ok}, 1, 'memory: for metrics, too' );
    is( ( $any->order('/timers/m/pause') )[0], 200, 'memory: orders are taken' );
    my @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    is( $any->show('m')->{status}, 'paused', 'memory: and kept over a reload' );
    is( $any->all->{state_file}, undef, 'memory: still no file' );
    $nginx->stop;
}

# Recovered: the file was damaged, and a new one is in its place until the next load.
{
    my $nginx = TimerTest::Nginx->new( workers => 2, server => $api . timer( $backend, 'r', 'every=100ms' ), allow => [qr/exited on signal 9/] );
    my $file  = $nginx->prefix . '/timers.state';
    $nginx->start;
    goes_on( 'r', 'recovered: it runs' );
    $nginx->stop;
    my $bytes = slurp($file);
    substr $bytes, 8, 1, chr( 255 ^ ord substr $bytes, 8, 1 );
    spew( $file, $bytes );
    $nginx->start;
    my $any      = TimerTest::Api->new($nginx);
    my $recovered = sub {
        my ($title) = @_;
        is_deeply( [ @{ $any->all }{qw( state state_file )} ], [ 'recovered', $file ], "$title: it is said" );
        is_well( sub { my $health = $any->ask('/health'); "$health->{status} $health->{body}" }, "200 ok\n", "$title: it is well" );
        is( $any->metrics->{nginx_timer_state_ok}, 1, "$title: for metrics, too" );
        like( $any->ask('/text')->{body}, qr/^1 timer\n.*recovered\n\z/m, "$title: the table remarks it" );
    };
    $recovered->('a damaged file');
    goes_on( 'r', 'recovered: it runs' );
    my @workers = $nginx->workers;
    kill 'KILL', @workers;
    ok( $nginx->wait_gone( \@workers ), 'all workers are killed' );
    goes_on( 'r', 'their successors go on' );
    ok( wait_until { 2 == $nginx->workers }, 'both of them' );
    $recovered->('after a crash');
    my @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    is( $any->all->{state}, 'ok', 'a reload clears it' );
    lacks( $any->ask('/text')->{body}, qr/recovered/, 'the remark, too' );
    logged_times( $nginx, qr/\[crit\]/, 1, 'the log has told of it once' );
    $nginx->stop;
}

# What another process has locked, or writes for long.
{
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        http    => 'keepalive_timeout 1h; keepalive_requests 1000000;',
        server  => $api . timer( $backend, 'rec', "$rare first=now" ) . timer( $backend, 'tick', 'every=100ms' ) . timer( $backend, 'tock', 'every=100ms' ),
    );
    my $file = $nginx->prefix . '/timers.state';
    $nginx->start;
    ok( wait_record( $file, 'rec', sub { $_->{success} == 1 } ), 'a first run' );
    my $any    = TimerTest::Api->new($nginx);
    my $before = $any->show('rec');

    # Its record cannot be read: another process is writing the one part or the other, for long.
    for my $part (qw( run control )) {
        my $lock = lock_record( $file, 'rec', $part );
        ok( $lock, "$part: another process has its lock" );
        my $whole = tear_record( $file, 'rec', $part );
        my $shown = $any->show('rec');
        is( "$shown->{status} $shown->{health}", 'unknown unknown', "$part: status and health are unknown" );
        none_of { defined $shown->{$_} } "$part: and nothing is made up", qw( next_due last_due last running paused last_success );
        my %all = map { $_->{name} => $_->{status} } @{ $any->all->{timers} };
        is( join( ' ', map {"$_=$all{$_}"} sort keys %all ) =~ s/running|late/idle/gr, 'rec=unknown tick=idle tock=idle', "$part: the others are known" );
        like( $any->ask('/text')->{body}, qr/^- +unknown +unknown +- +- +- +rec$/m, "$part: the table says so" );
        my $metrics = $any->metrics;
        my @samples = grep {/timer="rec"/} keys %$metrics;
        is( scalar( grep { !/^nginx_timer_health\{/ } @samples ), 0, "$part: metrics have no sample of it" );
        is( join( ' ', grep { $metrics->{$_} } @samples ), 'nginx_timer_health{timer="rec",state="unknown"}', "$part: but its health" );
        ok( exists $metrics->{'nginx_timer_running{timer="tick"}'}, "$part: but of the others" );
        is( $any->all->{state}, 'ok', "$part: the state is ok" );
        my $unwell = "rec: unknown, record cannot be read\n";
        for my $path (qw( /health /health/rec )) {
            is_well( sub { my $health = $any->ask($path); "$health->{status} $health->{body}" }, "503 $unwell", "$part: $path says so" );
        }
        is_well( sub { $any->ask('/health/tick')->{body} }, "ok\n", "$part: the others are well" );
        like( $any->ask( '/', headers => "Accept: text/html\r\n" )->{body}, qr/rec<.*unknown/s, "$part: the page says so" );
        for my $what (qw( run cancel pause resume )) {
            my ( $status, $said ) = $any->order("/timers/rec/$what");
            is( $status, 503, "$part: $what: 503" );
            ok( $said->{error}, 'and says why' );
        }
        goes_on( 'tick', "$part: the others go on" );
        is( $any->show('rec')->{status}, 'unknown', "$part: unknown as long as that takes" );
        $whole->();
        is( $any->show('rec')->{status}, 'idle', "$part: known as soon as it is over" );
        undef $lock;
        my ( $status, $said ) = $any->order('/timers/rec/run');
        is( $status, 202, "$part: and can be run" );
        ok( wait_until { grep { $_->{headers}{'x-run'} eq $said->{run} } $backend->requests( timer => 'rec' ) }, 'and does' );
        ok( wait_until { !$any->show('rec')->{running} }, 'to its end' );
    }
    my $after = $any->show('rec');
    is( $after->{$_}, $before->{$_}, "nothing is lost: $_" ) for qw( next_due last_due consecutive_failures paused );
    is( $after->{counters}{success}, 3, 'nothing is lost: counters' );
    is_well( sub { $any->ask('/health')->{body} }, "ok\n", 'all is well' );
    logged_times( $nginx, qr/damaged|is locked for too long/, 0, 'nobody takes it for damage' );

    # Its edit lock, or the header's, is held by another process: an order waits, and is refused. The worker
    # that it waits in goes on with all else: other requests over another connection to it, and its timers.
    my @workers = ( $nginx->worker_in_slot(0), $nginx->worker_in_slot(1) );
    for my $slot ( 0, 1 ) {
        my $gives = TimerTest::Api->new( $nginx, worker => [ $workers[$slot] ] );
        my $asks  = TimerTest::Api->new( $nginx, worker => [ $workers[$slot] ] );
        my @cases = (
            ( map { [ control => "/timers/tick/$_" ] } qw( run pause resume ) ),
            ( map { [ header => $_ ] } qw( /pause /resume /timers/rec/run /timers/rec/pause ) )
        );
        # Once more if this machine stood still.
        my $meanwhile;
        for ( 1 .. 10 ) {
            my $began = time;
            $meanwhile = 0;
            for my $case (@cases) {
                my ( $part, $path ) = @$case;
                my $lock = lock_record( $file, 'tick', $part );
                ok( $lock, "slot $slot, $path: another process has the $part lock" );
                $gives->say( 'POST', "/status$path" );
                my $wait = IO::Select->new( $gives->socket );
                while ( !$wait->can_read(0) ) {
                    last if $asks->ask('/timers/tock')->{status} != 200;
                    $meanwhile++ if !$wait->can_read(0);
                }
                my $answer = $gives->hear;
                is( $answer->{status}, 503, "slot $slot, $path: 503" );
                ok( ( json($answer) // {} )->{error}, 'and says why' );
                goes_on( 'tock', "slot $slot, $path: timers run" );
                undef $lock;
            }
            last if $meanwhile >= 5 || !$beat->still( $began, time );
        }
        cmp_ok( $meanwhile, '>=', 5, "slot $slot: other requests are answered meanwhile ($meanwhile)" );
        is( $any->all->{paused}, undef, "slot $slot: what was refused is not done: all are not paused" );
        is( $any->show($_)->{paused}, undef, "slot $slot: $_ is not paused" ) for qw( tick rec );
        is( $any->show('rec')->{counters}{runs}, 3, "slot $slot: nothing has run" );
        my ( $status, $said ) = $gives->order('/timers/tick/pause');
        is( $status, 200, "slot $slot: with the lock free, an order is taken" );
        ok( wait_until { $any->show('tick')->{status} eq 'paused' }, 'and followed' );
        is( ( $gives->order('/timers/tick/resume') )[0], 200, 'so is the next' );
        goes_on( 'tick', "slot $slot: it goes on" );
    }

    # Due times that nobody took in time cannot be counted meanwhile: the timer goes on without.
    my $lock = lock_record( $file, 'tick', 'control' );
    $nginx->signal( 'STOP', $workers[0] );
    my $stopped_at = time;
    wait_until { time > $stopped_at + 1 };
    $nginx->signal( 'CONT', $workers[0] );
    goes_on( 'tick', 'a timer whose record stays locked goes on' );
    logged( $nginx, qr/\[error\].* timer "tick": record is locked, due times left out are not counted/, 'the log tells what is lost' );
    undef $lock;
    logged_times( $nginx, qr/\[(?:crit|alert|emerg)\]/, 0, 'nothing above error is logged' );
    is_deeply( [ sort $nginx->workers ], [ sort @workers ], 'by the same workers' );
    $nginx->stop;
}

# A record that is damaged, in a timer that is due in hours: that can be seen, and an order puts it right, unless
# its own worker has looked at it before. The lock keeps everybody from that as long as it is to be seen.
{
    my $nginx = TimerTest::Nginx->new( workers => 2, server => $api . join '', map { timer( $backend, "bad-$_", $rare ) } qw( run control ) );
    my $file  = $nginx->prefix . '/timers.state';
    $nginx->start;
    my $one = TimerTest::Api->new( $nginx, worker => [ $nginx->worker_in_slot(1) ] );
    for my $part (qw( run control )) {
        my $name = "bad-$part";
        my $lock = lock_record( $file, $name, $part );
        ok( $lock, "$name: nobody writes" );
        tear_record( $file, $name, $part );
        is( $one->show($name)->{status}, 'unknown', "a damaged $part part: the status is unknown" );
        like( $one->ask('/health')->{body}, qr/^$name: unknown, record cannot be read$/m, 'health says so' );
        undef $lock;
        my ( $status, $said ) = $one->order("/timers/$name/run");
        is( $status, 202, 'it can be run by hand' );
        my @requests = $backend->wait_requests( 1, timer => $name );
        is( join( ' ', map { $_->{headers}{'x-run'} } @requests ), $said->{run}, 'and runs' );
        ok( wait_until { $one->show($name)->{last} }, 'to its end' );
        is( $one->show($name)->{status}, 'idle', 'its status is known' );
        logged( $nginx, qr/\[warn\].* timer "$name": record is damaged, starting anew/, 'as the log tells' );
    }
    is( $one->ask('/health')->{body}, "ok\n", 'all is well' );

    # Where another process is in the way for longer than an order waits for a lock, as one that is about to mend the
    # record may be, the order comes once more. From 127 to 191 ms: on a slow machine not at the first try.
    my $given;
    for ( 1 .. 50 ) {
        my $lock = lock_record( $file, 'bad-run', 'run' );
        tear_record( $file, 'bad-run', 'run' ) if $one->show('bad-run')->{status} ne 'unknown';
        $one->say( 'POST', '/status/timers/bad-run/run' );
        sleep 0.16;
        undef $lock;
        $given = $one->hear;
        last if $given->{status} == 202;
    }
    is( $given->{status}, 202, 'an order comes again after who was in the way' );
    is( scalar( $backend->wait_requests( 2, timer => 'bad-run' ) ), 2, 'and is followed' );
    $nginx->stop;
}

# Now it is.
ok( wait_until( sub { time > $stopped + $timeout + 10 }, 20 + $timeout ), 'the timeout and 10 s have passed' );
for my $name (qw( own any )) {
    ok( wait_until { ( $other->show($name)->{status} // '' ) eq 'stuck' }, "$name is stuck" );
    my $shown = $other->show($name);
    is_deeply( [ @{ $shown->{running} }{qw( run pid )} ], [ $runs{$name}[-1], $zero ], 'the run is told, and whose it is' );
    my $health = $other->ask("/health/$name");
    is( $health->{status}, 503, 'health: 503' );
    like( $health->{body}, qr/\A$name: stuck, attempt in progress for \d+s\n\z/, 'and why' );
    like( $other->ask('/health')->{body}, qr/^$name: stuck, attempt in progress for \d+s$/m, 'health of all, too' );
    my $last = @{ $runs{$name} } > 1 ? '\S+' : '-';
    like( $other->ask('/text')->{body}, qr/^\S+ \S+ +stuck +stuck +$last .* $name$/m, 'the table says so' );
    my $metrics = $other->metrics;
    is( $metrics->{"nginx_timer_running{timer=\"$name\"}"}, 1, 'metrics: running' );
    my $since = time - $metrics->{"nginx_timer_last_start_timestamp_seconds{timer=\"$name\"}"};
    cmp_ok( $since, '>', 10 + $metrics->{"nginx_timer_timeout_seconds{timer=\"$name\"}"}, 'for longer than its timeout' );
    is( ( $other->order("/timers/$name/run") )[0], 409, 'it is not run a second time' );
}
is_well( sub { $other->show('well')->{status} =~ s/running/idle/r }, 'idle', 'a timer that another worker may run is well' );
goes_on( 'well', 'and runs' );
like( $other->ask('/health')->{body}, qr/^behind: late by \d+s$/m, q{one of the stuck worker's own is late} );
logged( $stuck, qr/\[error\].* timer "any": run in progress for \d+ms in process $zero does not end/, 'the log tells of it' );
cmp_ok( scalar( $stuck->log_lines(qr/does not end/) ), '<=', 1 + ( time - $stopped ) / 60, 'once a minute' );
is( ( $other->order('/timers/own/cancel') )[0], 202, 'it can be cancelled' );
$stuck->signal( 'CONT', $zero );
ok( wait_until { !grep { $other->show($_)->{running} } qw( own any ) }, 'it ends as soon as its worker goes on' );
is( $other->show('any')->{last}{outcome}, 'timeout', 'by its timeout' );
like( $other->show('own')->{last}{outcome}, qr/\A(?:timeout|cancelled)\z/, 'or by the order' );
ok( wait_until { $other->ask('/health')->{body} =~ /\Aok\n(?:(?:own|any): failed \w+.*\n)+\z/ }, 'all is well again, but for what failed' ) or diag $other->ask('/health')->{body};
goes_on( 'behind', 'what was late runs' );
is( join( ' ', map { $_->{headers}{'x-run'} } $backend->requests( timer => $_ ) ), "@{ $runs{$_} }", "$_ has run once for each order" ) for qw( own any );
$stuck->stop;

done_testing;
