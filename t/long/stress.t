#!/usr/bin/perl

# Everything an operator or a fault does to processes, at random, for STRESS_SECONDS (60): HUP, KILL of
# any worker, STOP and CONT of any worker, USR2 with QUIT of the old master after a while. Then the
# backend's record is judged: no two requests of a timer at once, no due time twice, no gap longer than
# the takeover allows. STRESS_SEED repeats what was done, though not what came of it.
#
# What a gap may be. A due time is taken by the first worker that may run the timer, when no run of it
# is in progress. So time does not count while
#   - a run is in progress: from its due time to its end; if its process was stopped then, to the CONT;
#     if it was killed, to the KILL (the log tells of such a run even if it never reached the backend);
#   - for a timer of one slot: a worker of that slot is stopped (others of the slot, in the new
#     generation or under the other master, may well run it; that is not asked for).
# What remains between the ends and starts of two runs is at most a period (to the next due time), half a
# period (the spread of a catch-up, if what passed was missed), and SLACK for the respawn, the start of
# an nginx, and a machine that is busy.

use strict;
use warnings;

use List::Util qw( max min sum0 );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $seconds = $ENV{STRESS_SECONDS} || 60;
my $seed    = $ENV{STRESS_SEED}    || int( time * 1000 ) % 1_000_000;
my $SLACK   = 1.5 * $TimerTest::SLOW;
srand $seed;
diag "STRESS_SEED=$seed STRESS_SECONDS=$seconds";

my %timers = (
    s50     => [ 50,   'ok',              '0' ],
    s200    => [ 200,  'delay/0.05/ok',   '0' ],
    s500    => [ 500,  'ok',              '0' ],
    s2000   => [ 2000, 'ok',              '0' ],
    long    => [ 1000, 'delay/1.4/ok',    '0' ],
    auto100 => [ 100,  'ok',              'auto' ],
    auto700 => [ 700,  'delay/0.2/ok',    'auto' ],
    any50   => [ 50,   'ok',              'any' ],
    any300  => [ 300,  'delay/0.1/ok',    'any' ],
    any1000 => [ 1000, 'ok',              'any' ],
    any2000 => [ 2000, 'delay/0.5/ok',    'any' ],
    anylong => [ 500,  'delay/0.8/ok',    'any' ],
    fails   => [ 300,  'turns/200/500/0', 'any' ],
);
my $backend = TimerTest::Backend->start;
my $nginx   = TimerTest::Nginx->new(
    workers => 4,
    daemon  => 1,
    server  => join( '', map { timer( $backend, $_, "every=$timers{$_}[0]ms offset=0", $timers{$_}[1], "timer_worker $timers{$_}[2];" ) } sort keys %timers ),
    allow   => [qr/\[alert\].*worker process \d+ exited on signal 9/],
);

my @masters;
END { local ( $?, $! ); kill 'KILL', map { ( children_of($_), $_ ) } grep { is_alive($_) } @masters }

$nginx->start;
my $master = $nginx->pid;
push @masters, $master;
ok( $backend->wait_requests( 1, timer => 's2000' ), 'it runs' );
my $began = time;

my ( %killed, %stopped, %cont_at, %did );    # %stopped: pid => [ from, to ] ...
my ( $old_master, $quit_old_at );

# The workers of all masters.
sub workers {
    my %is_master = map { $_ => 1 } @masters;
    return grep { !$is_master{$_} } map { children_of($_) } grep { is_alive($_) } @masters;
}

sub cont {
    my ($pid) = @_;
    delete $cont_at{$pid};
    $stopped{$pid}[-1][1] = time;    # before it is, so that what it does is not exempt
    kill 'CONT', $pid;
    return;
}

sub housekeeping {
    for my $pid ( keys %cont_at ) { cont($pid) if time >= $cont_at{$pid} }
    if ( $old_master && time >= $quit_old_at ) {
        kill 'QUIT', $old_master;
        $old_master = undef;
        $did{'QUIT old'}++;
    }
    return;
}

while ( time < $began + $seconds ) {
    my $dice = rand;
    if ( $dice < 0.40 ) {
        kill 'HUP', $master;
        $did{HUP}++;
    }
    elsif ( $dice < 0.68 ) {
        my @workers = workers() or next;
        # One, or all at once.
        for my $victim ( rand() < 0.1 ? @workers : $workers[ rand @workers ] ) {
            $killed{$victim} //= time;
            $stopped{$victim}[-1][1] = time if delete $cont_at{$victim};
            kill 'KILL', $victim;
            $did{KILL}++;
        }
    }
    elsif ( $dice < 0.93 ) {
        my @workers = grep { !$cont_at{$_} && !$killed{$_} } workers() or next;
        if ( keys %cont_at < 2 ) {
            my $pid = $workers[ rand @workers ];
            kill 'STOP', $pid or next;
            push @{ $stopped{$pid} }, [ time, 9e99 ];
            $cont_at{$pid} = time + 0.1 + rand 2;
            $did{STOP}++;
        }
    }
    elsif ( !$old_master && 2 > grep { is_alive($_) } @masters ) {
        my $new = start_upgrade( $nginx, $master ) or last;
        push @masters, $new;
        ( $old_master, $master ) = ( $master, $new );
        $quit_old_at = time + rand 2;
        $did{USR2}++;
    }

    # At times nothing else happens until all is as it should be.
    my $until = time + 0.02 + rand 0.3;
    $until = max( $until, map { $_ + 0.3 } values %cont_at ) if rand() < 0.3;
    while ( time < $until ) {
        housekeeping();
        sleep 0.01;
    }
}
cont($_) for keys %cont_at;
$quit_old_at = 0;
housekeeping();
my $over = time;
note sprintf '%.0f s: %s', $over - $began, join ', ', map {"$did{$_} $_"} sort keys %did;
cmp_ok( sum0( values %did ), '>=', $seconds, 'much was done' );
ok( wait_until( sub { 1 == grep { is_alive($_) } @masters } ), 'one master is left' );
$nginx->{pid} = $master;
for my $name ( sort keys %timers ) {
    ok( wait_until( sub { 2 <= grep { due_ms($_) / 1000 > $over } $backend->requests( timer => $name ) } ), "$name goes on" );
}
my $finish = time;
$nginx->stop;

my @requests = $backend->requests;
no_doubles( 'stress', @requests );
no_overlaps( 'stress', \%killed, @requests );

# The stretches of time that do not count for a timer, by the rules above.
my $log         = $nginx->log;
my $slot_of     = slots_in($log);
my $interrupted = interrupted_dues($log);

sub exempt {
    my ( $name, @runs ) = @_;

    my @stretches;
    for my $r (@runs) {
        my $pid = $r->{headers}{'x-pid'};
        my ( $from, $to ) = ( min( due_ms($r) / 1000, $r->{arrived} ), min( $r->{ended} // $finish, $killed{$pid} // 9e99 ) );
        for my $stop ( @{ $stopped{$pid} // [] } ) {
            $to = max( $to, min( $stop->[1], $killed{$pid} // 9e99 ) ) if $stop->[0] < $to + 0.1 && $stop->[1] > $from;
        }
        # A late run's claim is no older than its worker's last look: what lies before its due time's
        # start and its arrival is to be explained, unless its own worker was stopped between the two.
        if ( $r->{arrived} - $from > 0.1 ) {
            my ($own) = grep { $_->[0] < $r->{arrived} && $_->[1] > $from } @{ $stopped{$pid} // [] };
            $from = $own ? max( $from, $own->[0] ) : $r->{arrived};
        }
        push @stretches, [ $from, $to ];
    }
    for my $due ( keys %{ $interrupted->{$name} // {} } ) {
        my $pid = $interrupted->{$name}{$due};
        next if !$killed{$pid};
        push @stretches, [ min( $due / 1000, $killed{$pid} ), $killed{$pid} ];
    }
    if ( $timers{$name}[2] ne 'any' ) {
        my ($slot) = map { $slot_of->{ $_->{headers}{'x-pid'} } } @runs;
        push @stretches, map { @{ $stopped{$_} } } grep { ( $slot_of->{$_} // $slot ) == $slot } keys %stopped;
    }
    elsif ( $log =~ /timer "$name": record is locked for too long/ ) {
        push @stretches, map {@$_} values %stopped;
    }
    return sort { $a->[0] <=> $b->[0] } @stretches;
}

my $worst = 0;
for my $name ( sort keys %timers ) {
    my $period = $timers{$name}[0] / 1000;
    my @runs   = $backend->requests( timer => $name );
    my ( @gaps, $longest );
    my $covered = $runs[0]{arrived};
    for my $stretch ( exempt( $name, @runs ), [ $finish, $finish ] ) {
        my $gap = $stretch->[0] - $covered;
        $longest = [ $gap, $covered ] if !$longest || $gap > $longest->[0];
        push @gaps, sprintf 'no run from %.3f to %.3f, %.0f ms', $covered, $stretch->[0], $gap * 1000 if $gap > 1.5 * $period + $SLACK;
        $covered = $stretch->[1] if $stretch->[1] > $covered;
    }
    $worst = max( $worst, $longest->[0] - $period );
    my @ran = sort { $a <=> $b } map { $_->{arrived} } @runs;
    my $raw = max( map { $ran[$_] - $ran[ $_ - 1 ] } 1 .. $#ran );
    note sprintf '%s: the longest time between two runs, all included, is %.0f ms', $name, $raw * 1000;
    is( scalar @gaps, 0, sprintf '%s: no gap longer than the takeover allows (longest %.0f ms, period %.0f ms)', $name, map { $_ * 1000 } $longest->[0], $period )
        or diag join( "\n", @gaps ), "\n", join "\n", ( grep { !/succeeded/ } $nginx->log_lines(qr/timer "$name"/) )[ 0 .. 10 ];
}

# What was left out is accounted for.
my $records = read_records( $nginx->prefix . '/timers.state' );
for my $name ( sort keys %timers ) {
    my $r    = $records->{$name};
    my $lost = accounted( $timers{$name}[0], $r );
    note sprintf '%-8s %d runs, %d interrupted, %d overlaps, %d missed; not accounted for: %d', $name, @$r{qw( runs interrupted overlaps missed )}, $lost;
    cmp_ok( $lost, '<=', 0, "$name: every due time is accounted for" );
    cmp_ok( $lost, '>=', -$did{KILL} - $did{STOP}, "$name: hardly any twice" );
}
logged_times( $nginx, qr/\[crit\]|damaged|clock was set back/, 0, 'the state is whole' );
diag sprintf '%.0f s, %s: %d requests, %d overlaps, %d doubles; longest wait beyond a period, exemptions left out: %.0f ms',
    $over - $began, join( ', ', map {"$did{$_} $_"} sort keys %did ), scalar @requests, scalar overlaps( \%killed, @requests ),
    scalar doubles(@requests), $worst * 1000;

done_testing;
