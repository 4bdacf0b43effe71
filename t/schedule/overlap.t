#!/usr/bin/perl

# timer_overlap: what becomes of a due time that comes while the last run is still in progress, in the
# same worker, and in an old one that is going away.

use strict;
use warnings;

use List::Util qw( max );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Conf;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Once, at its first load: the next due time is nine hours away.
my $once = 'every=10h offset=' . ( int( time - 3600 ) % 36_000 ) . 's first=now';

# What may be written, and where.
accepts( http => "timer_overlap $_;" ) for qw( skip queue );
accepts( server   => 'timer_overlap queue; location @x { timer_overlap skip; timer x every=1s; return 204; }', 'overridden' );
accepts( location => 'timer x every=1s; timer_overlap queue;',                                      'after the timer' );
refuses( http => 'timer_overlap wait;',                      qr/invalid value "wait"/ );
refuses( http => 'timer_overlap "";',                        qr/invalid value ""/ );
refuses( http => 'timer_overlap Skip;',                      qr/invalid value "Skip"/ );
refuses( http => 'timer_overlap skip queue;',                qr/invalid number of arguments in "timer_overlap"/ );
refuses( http => "timer_overlap skip;\ntimer_overlap skip; #!", qr/"timer_overlap" directive is duplicate/, 'duplicate' );

sub trigger { return $_[0]{headers}{'x-trigger'} }

# The requests of a timer that have ended, in their order, at least COUNT of them.
sub ended {
    my ( $timer, $count ) = @_;
    return $backend->wait_requests( $count, timer => $timer, ended => 1 );
}

# In one worker.  Each run takes more than two periods, and none ends when a due time comes.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => timer( $backend, 'skips', 'every=400ms offset=0', 'delay/0.93/ok' )
        . timer( $backend, 'queues', 'every=400ms offset=0',     'delay/0.93/ok', 'timer_overlap queue;' )
        . timer( $backend, 'alone',  'every=400ms offset=0 first=now', 'ok',   'timer_overlap queue;' ),
);
$nginx->start;

my @skips = ended( skips => 3 );
my @queues = ended( queues => 5 );
$nginx->stop;
@skips  = $backend->requests( timer => 'skips' );
@queues = $backend->requests( timer => 'queues' );
no_doubles( 'in one worker', $backend->requests );
no_overlaps( 'in one worker', {}, $backend->requests );

# skip
none_of { trigger($_) ne 'schedule' } 'skip: none but by schedule', @skips;
none_of { $_->{arrived} * 1000 < due_ms($_) - 1 } 'skip: none before its due time', @skips;
for my $n ( 1 .. $#skips ) {
    my ( $ended, $due ) = ( $skips[ $n - 1 ]{ended}, due_ms( $skips[$n] ) / 1000 );
    # One that comes while nginx stands still, as the end does, is seen after that.
    my $still = $due < $ended ? $beat->still( $due, $ended ) : 0;
    cmp_ok( $due, '>', $ended - 0.4 * $TimerTest::SLOW - $still, "skip: run $n is for a due time at or after the end of the last" );
}
ok( $nginx->wait_log(qr/\[error\] \d+#\d+: timer "skips": due time left out: last run in progress for \d+ms$/), 'skip: is said' );
my $since = max( map {/in progress for (\d+)ms/} $nginx->log_lines(qr/timer "skips": due time left out/) );
cmp_ok( $since, '>', 0, 'skip: with the time that the run has taken' );
my $said = $nginx->log_lines(qr/timer "skips": due time left out/);
cmp_ok( $said, '<=', scalar @skips, 'skip: once a row' );

# queue
is( trigger( $queues[0] ), 'schedule', 'queue: the first by schedule' );
my @queued = @queues[ 1 .. $#queues ];
cmp_ok( ( grep { trigger($_) eq 'queue' } @queued ), '>=', 2, 'queue: those after it from the queue' );
for my $n ( 1 .. $#queues ) {
    my ( $last, $this ) = @queues[ $n - 1, $n ];
    next if trigger($this) ne 'queue';
    cmp_ok( due_ms($this), '<=', $last->{over} * 1000 + 1, "queue: run $n is for a due time that came while the last run was on" );
    cmp_ok( due_ms($this), '>', due_ms($last), "queue: and a newer one" );
    # The newest that had come when the last run ended: no whole period, but for the machine's slowness,
    # lies between them.  A place that keeps the oldest would be off by two periods each time.
}
my @stale = grep { $queues[ $_ - 1 ]{ended} * 1000 - due_ms( $queues[$_] ) > 650 } 1 .. $#queues;
cmp_ok( scalar @stale, '<', @queued / 2 + 0.5, 'queue: the newest wins' ) or diag map { due_ms($_) . " $_->{arrived} $_->{ended}\n" } @queues;
my @slow = sort { $a <=> $b } map { $queues[$_]{arrived} - $queues[ $_ - 1 ]{ended} } 1 .. $#queues;
cmp_ok( $slow[0], '<', 0.15, 'queue: as soon as the last one ends' ) or diag "@slow";

# A due time may come while the first run is in progress, or one that a slow machine has in progress for long.
my @alone = $backend->requests( timer => 'alone' );
none_of { trigger( $alone[$_] ) eq 'queue' && due_ms( $alone[$_] ) > $alone[ $_ - 1 ]{over} * 1000 + 1 } 'queue: nothing waits there without need', 1 .. $#alone;

# What a queued run says.
my ($one) = grep { trigger($_) eq 'queue' } @queues;
like( $one->{headers}{'x-run'}, qr/\A[0-9a-f]{32}\z/, 'a queued run has its own id' );
is( $one->{headers}{'x-attempt'}, 1, 'and is a first attempt' );
my @early_said = grep {
    trigger( $queues[$_] ) eq 'queue'
        && $queues[$_]{headers}{'x-late'} < $queues[ $_ - 1 ]{ended} - due_ms( $queues[$_] ) / 1000 - 0.002
} 1 .. $#queues;
is( scalar @early_said, 0, 'the waiting counts as lateness' );
cmp_ok( max( map { $_->{headers}{'x-late'} } @queued ), '>', 0.05, 'and there is some' );

# The run in progress belongs to an old worker: HUP in the middle of it.  What the new worker sees
# due meanwhile is left out, or waits, and gets exactly one run as soon as that one ends.
$backend->stop;
$backend = TimerTest::Backend->start;
$nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => timer( $backend, 'skips', $once, 'ok' ),
);
$nginx->start;
# What is queued is due in three seconds, and not again before twenty more have passed.
my $held   = 'held/reload/ok';
my $offset = ( int( time * 1000 ) + 3000 ) % 20_000;
$nginx->write_conf(
    server => timer( $backend, 'skips', 'every=500ms offset=0', $held )
        . timer( $backend, 'queues', "every=20s offset=${offset}ms first=now", $held, 'timer_overlap queue;' )
);
$nginx->reload;
ok( $backend->wait_requests( 1, timer => $_, uri => qr/held/ ), "$_: a run is in progress" ) for qw( skips queues );
my $zero = $nginx->worker_in_slot(0);
my %old  = map {
    my $timer = $_;
    $timer => ( $backend->requests( timer => $timer, uri => qr/held/ ) )[0]
} qw( skips queues );
$nginx->reload;
my $next = $nginx->worker_in_slot(0);
isnt( $next, $zero, 'there is a new worker' );
logged( $nginx, qr/\[error\] $next#\d+: timer "skips": due time left out: last run in progress for \d+ms/, 'skip: the new worker says what it left out' );
my $state  = $nginx->prefix . '/timers.state';
my $record = wait_record( $state, 'queues', sub { ( $_->{queued} // 0 ) > $_->{watermark} } );
ok( $record, 'queue: a due time comes, and waits' );
$backend->let_go('reload');

my %new;
for my $timer (qw( skips queues )) {
    ok( wait_until { ( $new{$timer} ) = requests_by( $next, $backend->requests( timer => $timer ) ) }, "$timer: it runs the timer in its turn" );
    # From the record, which has its end by now.
    ( $old{$timer} ) = grep { $_->{headers}{'x-run'} eq $old{$timer}{headers}{'x-run'} } $backend->requests( timer => $timer );
    is( $old{$timer}{headers}{'x-pid'}, $zero, "$timer: the run in progress was the old worker's" );
    is( $old{$timer}{how}, 'answered', "$timer: which ends it in peace" );
    cmp_ok( $new{$timer}{arrived}, '>=', $old{$timer}{ended}, "$timer: before the next one begins" );
}

is( trigger( $new{queues} ), 'queue', 'queue: it comes from the queue' );
is( due_ms( $new{queues} ), $record->{queued}, 'queue: for the due time that came meanwhile' );
my $waited = $new{queues}{arrived} - $old{queues}{over} - $beat->still( $old{queues}{ended}, $new{queues}{arrived} );
cmp_ok( $waited, '<', 0.5 * $TimerTest::SLOW, 'queue: at once, not at the next due time alone' );
is( trigger( $new{skips} ), 'schedule', 'skip: it comes by schedule' );

# Exactly one run of what was queued.
my $skipped = $backend->requests( timer => 'skips' );
$backend->wait_requests( $skipped + 3, timer => 'skips' );
is( ( grep { due_ms($_) == due_ms( $new{queues} ) } $backend->requests( timer => 'queues' ) ), 1, 'queue: exactly one run' );
ok( $nginx->wait_gone( [$zero], 15 ), 'the old worker has left' );
$nginx->stop;
no_doubles( 'over a reload', $backend->requests );
no_overlaps( 'over a reload', {}, $backend->requests );

# One that was queued by the old worker itself, before it was told to go: the new one runs it.
$backend->stop;
$backend = TimerTest::Backend->start;
$nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => timer( $backend, 'tick', 'every=50ms' ),
);
$nginx->start;
# It is first run now, and due in two seconds, and not again before twenty more have passed.
$offset = ( int( time * 1000 ) + 2000 ) % 20_000;
$nginx->write_conf(
    server => timer( $backend, 'once', "every=20s offset=${offset}ms first=now", 'held/once/ok', 'timer_overlap queue;' )
        . timer( $backend, 'tick', 'every=50ms' )
);
$nginx->reload;
ok( $backend->wait_requests( 1, timer => 'once' ), 'a first run is in progress' );
my ($first) = $backend->requests( timer => 'once' );
$zero = $first->{headers}{'x-pid'};
isnt( trigger($first), 'queue', 'as such' );
$state = $nginx->prefix . '/timers.state';
$record = wait_record( $state, 'once', sub { ( $_->{queued} // 0 ) > $_->{watermark} } );
ok( $record, 'its due time comes' );
is( scalar( () = $backend->requests( timer => 'once' ) ), 1, 'and waits' );
my $due = $record->{queued};
$nginx->reload;
ok( $nginx->wait_log(qr/ $zero#\d+: gracefully shutting down/), 'the old worker is told to leave' );
$backend->let_go('once');
my @once = $backend->wait_requests( 2, timer => 'once' );
( $first, my $second ) = @once;
is( $first->{how}, 'answered', 'the run in progress ends' );
SKIP: {
    skip 'no second run', 4 if !$second;
    isnt( $second->{headers}{'x-pid'}, $zero, 'the new worker runs what was queued by the old one' );
    is( trigger($second), 'queue', 'as queued' );
    is( due_ms($second), $due, 'for its due time' );
    $waited = $second->{arrived} - $first->{over} - $beat->still( $first->{ended}, $second->{arrived} );
    cmp_ok( $waited, '<', 2 * $TimerTest::SLOW, 'as soon as that one has ended' );
}
ok( $nginx->wait_gone( [$zero], 15 ), 'the old worker leaves' );
$nginx->stop('TERM');
is( scalar( () = $backend->requests( timer => 'once' ) ), 2, 'once' );

done_testing;
