#!/usr/bin/perl

# Every due time is accounted for, over all policies and whatever happens: workers that are stopped and
# go on, that are killed, reloads, a restart; backends that are slow, hang and fail.
#
# The account: the due times in which a timer was configured, enabled and not paused = runs -
# unscheduled + overlaps + missed.  Read from the state file after nginx has ended, so that nothing is
# in motion.  Of which due times:
#
#   * from "created", the instant of the load that made the record, which is no due time of the
#     schedule even where one falls on it (the watermark is born there).  No timer is changed, disabled or
#     paused here, so there is no "not before" behind it.
#   * up to the newest that the record says has been handled: the later one of the watermark (a due
#     time that was taken) and of "left out up to".  What is later was still to come, or queued: none of
#     these has been counted as anything.
#
# "runs" has the one that waits for its next attempt, if nginx ended in between, as its due time has
# been taken.  A first run has no due time of the schedule: it is unscheduled, and its instant is not
# counted on either side.  A due time that the queue's one place lost to a newer one is an overlap.
#
# A due time that is contested in the very instant in which a run ends may be both an overlap and a
# run (it never runs twice): the right side may be more by that, at most by one for each reload.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time sleep );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $seed = $ENV{TEST_NGINX_SEED} // time ^ $$;
srand $seed;
note "TEST_NGINX_SEED=$seed";

my $seconds = $ENV{TEST_NGINX_ACCOUNT_SECONDS} // 14;
my $backend = TimerTest::Backend->start;

sub one_of { return $_[ int rand @_ ] }

# The timers: every policy with every other, at random.
my ( %every, %offset, %conf );
for my $n ( 1 .. 40 ) {
    my $name = "r$n";
    $every{$name}  = one_of( 50, 100, 130, 200, 500, 1000 );
    $offset{$name} = int rand $every{$name};
    my $uri = one_of( 'ok', 'ok', 'status/500', 'delay/0.03/ok', 'delay/0.15/ok', 'delay/0.7/status/502', 'hang', 'turns/500/200/503/200', 'reset', 'truncate', 'close' );
    my $parameters = "every=$every{$name}ms offset=$offset{$name}ms";
    $parameters .= ' first=now' if rand() < 0.3;
    $parameters .= ' jitter=' . ( 1 + int rand $every{$name} - 1 ) . 'ms' if rand() < 0.2;
    my @more = (
        'timer_timeout ' . one_of( '100ms', '400ms', '1s' ) . ';',
        'timer_overlap ' . one_of(qw( skip queue )) . ';',
        'timer_missed ' . one_of( 'skip', 'run', 'run within=1s', 'run within=3s' ) . ';',
        'timer_retry ' . one_of( '0', '2 backoff=20ms', '3 on=failure,timeout backoff=30ms max=50ms', '1 on=interrupted,error backoff=100ms' ) . ';',
        'timer_worker ' . one_of(qw( 0 auto any )) . ';',
    );
    $conf{$name} = timer( $backend, $name, $parameters, "$uri?$name", "@more" );
}

my $nginx = TimerTest::Nginx->new(
    workers   => 2,
    log_level => 'warn',
    http      => 'timer_max_running ' . one_of( 4, 16, 64 ) . ';',
    server    => join( '', map { $conf{$_} } sort keys %conf ),
    allow     => [qr/worker process \d+ exited on signal 9/],
);
my $state = $nginx->prefix . '/timers.state';
$nginx->start;

# Who may be told something: from the children, for the log is at "warn" here.
my $worker = sub { one_of( children_of( $nginx->pid ) ) };

my %events;
my $reloads = 0;
my $end     = time + $seconds * $TimerTest::SLOW;
while ( time < $end ) {
    my $do = one_of(qw( stop kill hup hup restart restart nothing nothing ));
    $do = 'nothing' if $do eq 'restart' && ( $events{restart} // 0 ) >= 3;
    $events{$do}++;
    if ( $do eq 'stop' ) {
        my $pid = $worker->() // next;
        kill 'STOP', $pid;
        sleep one_of( 0.05, 0.4, 1.5, 2.5 );
        kill 'CONT', $pid;
    }
    elsif ( $do eq 'kill' ) {
        my $pid = $worker->() // next;
        kill 'KILL', $pid;
    }
    elsif ( $do eq 'hup' ) {
        $nginx->signal('HUP');
        $reloads++;
    }
    elsif ( $do eq 'restart' ) {
        $nginx->signal( one_of(qw( QUIT TERM )) );
        defined $nginx->wait_exit or die 'nginx does not end';
        sleep one_of( 0, 0.3, 1.6 );
        $nginx->start;
        $reloads++;
    }
    sleep rand 0.6;
}
note join ', ', map {"$_: $events{$_}"} sort keys %events;

# All of them go on: a due time later than now is handled.
my $mark  = int( time * 1000 );
my @stuck = grep {
    my $name = $_;
    !wait_record( $state, $name, sub { $_->{handled} > $mark } );
} sort keys %conf;
is( scalar @stuck, 0, 'none has stopped' ) or diag "@stuck";

$nginx->signal('QUIT');
ok( defined $nginx->wait_exit, 'nginx has ended' );
$nginx->clean_log;

my $records = read_state($state);
is( scalar keys %$records, scalar keys %conf, 'a record each' );

my ( $exact, %sum ) = (0);
for my $name ( sort keys %conf ) {
    my $r = $records->{$name} // next;
    my ( $dues, $accounted ) = account( $r, $every{$name}, $offset{$name} );
    $exact++ if $dues == $accounted;
    ok( $accounted >= $dues && $accounted <= $dues + $reloads && !$r->{uncounted}, "$name: $dues due times" )
        or diag "$accounted of them accounted for\n$conf{$name}", join ' ', map {"$_=$r->{$_}"} grep { defined $r->{$_} && !ref $r->{$_} } sort keys %$r;
    ok( $r->{progress} != 1, "$name: nothing is running" );
    is( $r->{name_hash}, xxh64( $name, 0 ), "$name: both parts of the record are its own" );
    $sum{$_} += $r->{$_} for qw( runs success failure timeout cancelled interrupted error retries unscheduled overlaps missed );
    $sum{dues} += $dues;
}
note join ' ', map {"$_=$sum{$_}"} sort keys %sum;
cmp_ok( $exact, '>=', keys(%conf) * 0.9, "the account is exact ($exact of " . keys(%conf) . ')' );
cmp_ok( $sum{$_} // 0, '>', 0, "there were some: $_" ) for qw( success failure timeout retries unscheduled overlaps missed );
is( $sum{cancelled}, 0, 'nobody has cancelled anything' );

# The witness has seen no more runs than are told of, and none twice.
no_doubles( 'over everything', $backend->requests );
my %seen;
$seen{ $_->{headers}{'x-timer'} }{ $_->{headers}{'x-run'} }++ for $backend->requests;
none_of { keys %{ $seen{$_} } > $records->{$_}{runs} } 'no run that is not in the record', sort keys %seen;

done_testing;
