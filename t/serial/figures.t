#!/usr/bin/perl

# The figures: 200 reloads and 50 killed workers in one run. No two requests of a timer at once, no due
# time twice, none lost but those whose run was killed. And the time from the KILL of worker 0 to the
# start of the next due time: not later than that plus 150 ms, or the respawn plus 150 ms.
#
# 150 ms is what is measured and reported; a machine that is busy with other things may leave any process
# off its processors for longer, so each may take 1 s, and nine of ten must keep to it.

use strict;
use warnings;

use List::Util qw( max shuffle );
use Test::More;
use Time::HiRes qw( clock_gettime CLOCK_BOOTTIME sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $reloads = $ENV{FIGURES_RELOADS} || 200;
my $kills   = $ENV{FIGURES_KILLS}   || 50;
my $seed    = $ENV{STRESS_SEED}     || int( time * 1000 ) % 1_000_000;
srand $seed;
note "STRESS_SEED=$seed";

my %every = ( s50 => 50, s100 => 100, s500 => 500, s1000 => 1000, any100 => 100, any500 => 500, any1000 => 1000, busy => 200, auto500 => 500, jitter => 1000 );
my %more = map { $_ => /^any/ ? 'timer_worker any;' : /^auto/ ? 'timer_worker auto;' : '' } keys %every;
my $backend = TimerTest::Backend->start;
my $nginx   = TimerTest::Nginx->new(
    workers => 4,
    server  => join( '', map { timer( $backend, $_, "every=$every{$_}ms offset=0" . ( /jitter/ ? ' jitter=800ms' : '' ), /busy/ ? 'delay/0.15/ok' : 'ok', $more{$_} ) } sort keys %every ),
    allow   => [qr/\[alert\].*worker process \d+ exited on signal 9/],
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => 's1000' ), 'it runs' );
my $began = time;

# When a process was started, to 10 ms.
sub started_at {
    my ($pid) = @_;
    my @fields = split ' ', ( slurp("/proc/$pid/stat") =~ /\A\d+ .*\) (.*)/s )[0] // '';
    return @fields ? time - clock_gettime(CLOCK_BOOTTIME) + $fields[19] / 100 : undef;
}

my ( %killed, @takeover );

# KILL to worker 0, alone; waits for the successor, and notes how long after it could have begun the
# next due time of each timer in slot 0 was started.
sub kill_zero {
    my $zero = newest_in_slot(0) or return;
    my $at = time;
    kill 'KILL', $zero;
    $killed{$zero} = $at;
    my $heir;
    wait_until { $heir = newest_in_slot(0) and $heir != $zero } or return;
    my $respawned_at = started_at($heir) // return;
    for my $name (qw( s100 s500 )) {
        my $next;
        wait_until { ($next) = sort { $a->{arrived} <=> $b->{arrived} } grep { due_ms($_) > $at * 1000 } $backend->requests( timer => $name ) } or next;
        my $from = max( int( $at * 1000 / $every{$name} + 1 ) * $every{$name} / 1000, $respawned_at );
        push @takeover, [ $next->{arrived} - $from, $name, $at ];
    }
    return;
}

# The living worker that was started last in a slot; reads only what is new in the log.
my ( @started, $read );
sub newest_in_slot {
    my ($slot) = @_;
    open my $fh, '<', $nginx->error_log or return;
    seek $fh, $read //= 0, 0;
    while (<$fh>) {
        last if !/\n\z/;
        $read += length;
        push @started, [ $1, $2 ] if /(\d+)#\d+: timer: \d+ timers? in this worker, slot (\d+)\b/;
    }
    for my $start ( reverse @started ) {
        return $start->[0] if $start->[1] == $slot && is_alive( $start->[0] );
    }
    return;
}

my @todo = shuffle( ('HUP') x $reloads, ('KILL 0') x int( $kills * 0.6 ), ('KILL') x ( $kills - int( $kills * 0.6 ) ) );
my $limit = deadline(400);
for my $do (@todo) {
    last if time > $limit;
    if ( $do eq 'HUP' ) {
        $nginx->signal('HUP');
    }
    elsif ( $do eq 'KILL 0' ) {
        # Alone: no old worker 0 is there any more that could take the due time.
        wait_until { children_of( $nginx->pid ) == 4 };
        kill_zero();
    }
    else {
        # Any worker, in whatever state of a reload.
        my @workers = children_of( $nginx->pid ) or redo;
        my $victim = $workers[ rand @workers ];
        $killed{$victim} = time;
        kill 'KILL', $victim;
    }
    my $until = time + 0.03 + rand 0.25;
    sleep 0.01 while time < $until;
}
pass( sprintf '%d reloads and %d killed workers in %.0f s', $reloads, scalar keys %killed, time - $began );
cmp_ok( scalar keys %killed, '>=', $kills * 0.9, 'as many as asked for' );

# Afterwards it goes on.
wait_until { children_of( $nginx->pid ) == 4 };
my $over = time;
for my $name ( sort keys %every ) {
    ok( wait_until( sub { 2 <= grep { due_ms($_) / 1000 > $over } $backend->requests( timer => $name ) } ), "$name goes on" );
}
$nginx->stop;

my @requests = $backend->requests;
no_doubles( 'figures', @requests );
no_overlaps( 'figures', \%killed, @requests );

my $interrupted = interrupted_dues( $nginx->log );
my $lost_in_all = 0;
for my $name (qw( s500 s1000 any500 any1000 auto500 jitter )) {
    my $excused = $interrupted->{$name} // {};
    my @lost    = grep { !$excused->{$_} } lost_dues( $every{$name}, $began, $over, $backend->requests( timer => $name ) );
    $lost_in_all += @lost;
    is( scalar @lost, 0, "$name: no due time lost but those whose run was killed (" . keys(%$excused) . ')' )
        or diag "lost: @lost\n", join "\n", grep { !/succeeded/ } $nginx->log_lines(qr/timer "$name"/);
}

# What was cut off is known by the witness, too: each of its requests that was cut off is told of.
for my $name ( sort keys %every ) {
    my @untold = grep { $_->{how} && $_->{how} eq 'peer' && $killed{ $_->{headers}{'x-pid'} } && !$interrupted->{$name}{ due_ms($_) } }
        $backend->requests( timer => $name );
    is( scalar @untold, 0, "$name: each run that was killed is told of" ) or diag explain [ map { $_->{headers} } @untold ];
}

# The account.
my $records = read_records( $nginx->prefix . '/timers.state' );
for my $name ( sort keys %every ) {
    my $r    = $records->{$name};
    my $lost = accounted( $every{$name}, $r );
    note "$name: $r->{runs} runs, $r->{interrupted} interrupted, $r->{overlaps} overlaps, $r->{missed} missed; not accounted for: $lost";
    cmp_ok( $lost, '<=', 0, "$name: every due time is accounted for" );
    cmp_ok( $lost, '>=', -keys %killed, "$name: hardly any twice" );
}

my @late = sort { $a <=> $b } map { $_->[0] } @takeover;
cmp_ok( scalar @late, '>=', $kills * 0.5, 'takeovers were measured' );
diag sprintf '%d reloads, %d kills: %d requests, %d overlaps, %d doubles, %d due times lost; '
    . 'from KILL of worker 0, or its respawn, to the next due time\'s start: median %.0f ms, 90 %% %.0f ms, max %.0f ms, of %d',
    $reloads, scalar keys %killed, scalar @requests, scalar overlaps( \%killed, @requests ), scalar doubles(@requests), $lost_in_all, map( { $_ * 1000 } $late[ @late / 2 ], $late[ @late * 0.9 ], $late[-1] ), scalar @late;
cmp_ok( $late[ @late * 0.9 ], '<=', 0.15 * $TimerTest::SLOW, 'nine of ten takeovers within 150 ms' );
cmp_ok( $late[-1], '<=', 1 * $TimerTest::SLOW, 'all within a second' );

done_testing;
