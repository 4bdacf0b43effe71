#!/usr/bin/perl

# timer_max_running under load: five hundred timers that are due in the same millisecond, in a worker
# with 256 connections.  All of them run, each once; what has waited says so; clients are served.

use strict;
use warnings;

use List::Util qw( max sum );
use POSIX ();
use Test::More;
use Time::HiRes qw( time sleep );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Conf;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;
my $count   = 500;

refuses( http   => "timer_max_running $_;", qr/invalid value "\Q$_\E"/ ) for qw( 0 -1 x 1.5 99999999999999999999 );
refuses( server => 'timer_max_running 1;', qr/"timer_max_running" directive is not allowed here/ );
refuses( http   => "timer_max_running 1;\ntimer_max_running 1; #!", qr/"timer_max_running" directive is duplicate/, 'duplicate' );

# The same due time for all, four seconds from now and, should this machine be so slow that nginx is
# not up by then, every fifteen seconds.
my $period = 15_000 * $TimerTest::SLOW;
my $offset = ( int( time * 1000 ) + 4000 ) % $period;

my $nginx = TimerTest::Nginx->new(
    workers     => 1,
    connections => 256,
    server      => join( '', map { timer( $backend, "t$_", "every=${period}ms offset=${offset}ms", 'delay/0.15/ok' ) } 1 .. $count )
        . 'location /page { return 200 "page\n"; }',
);
$nginx->start;

# Clients, three at once, from before the due time until all have run: how long each answer took.
my $results = scratch_dir() . '/clients';
my $stop    = "$results.stop";
my @clients;
for my $n ( 1 .. 3 ) {
    my $pid = fork // die "fork: $!";
    if ( !$pid ) {
        open my $out, '>>', "$results.$n" or POSIX::_exit(1);
        $out->autoflush(1);
        my $until = deadline(90);
        while ( !-e $stop && time < $until ) {
            my $began  = time;
            my $answer = http_request( $nginx->port, '/page' );
            printf {$out} "%.3f %d %.4f\n", $began, $answer->{status}, time - $began;
            sleep 0.01;
        }
        POSIX::_exit(0);
    }
    push @clients, $pid;
}

# All that belong to the first due time that none has missed: a worker that stands still for a second when
# it comes has missed it, and the next one is as good.
my ( $due, @runs );
my $all_ran = wait_until {
    my %of;
    push @{ $of{ due_ms($_) } }, $_ for $backend->requests;
    for my $this ( sort { $a <=> $b } keys %of ) {
        ( $due, @runs ) = ( $this, @{ $of{$this} } );
        return 1 if @runs >= $count && !grep { !$_->{ended} || $_->{headers}{'x-trigger'} ne 'schedule' } @runs;
    }
    return 0;
}
60;
ok( $all_ran, 'all of them run' ) or diag scalar(@runs) . ' of them';
spew( $stop, '' );
is( scalar( grep { defined reap($_) } @clients ), 3, 'the clients have ended' );

my %who = map { $_->{headers}{'x-timer'} => 1 } @runs;
is( scalar keys %who, $count, 'each of them' );
is( scalar @runs, $count, 'once' );
none_of { $_->{how} ne 'answered' } 'to its end', @runs;
none_of { $_->{headers}{'x-trigger'} ne 'schedule' } 'by schedule: who waits in the line has missed nothing', @runs;

my $most = $backend->most_at_once;
cmp_ok( $most, '<=', 64, 'no more than 64 at once' );
cmp_ok( $most, '>=', 33, 'but a good part of them' );

# Eight turns of 150 ms: the last ones have waited for seven.
my @late = sort { $a <=> $b } map { $_->{headers}{'x-late'} } @runs;
cmp_ok( $late[0],  '<',  1 * $TimerTest::SLOW, "the first ones are in time ($late[0]s)" );
cmp_ok( $late[-1], '>=', 0.9, "the last ones say that they are late ($late[-1]s)" );
# The witness sees them when they have started, and soon after.
none_of { 1000 * $_->{arrived} < start_ms($_) - 2 } 'not later than they are', @runs;
my @seen_after = map { $_->{arrived} - start_ms($_) / 1000 - $beat->still( start_ms($_) / 1000, $_->{arrived} ) } @runs;
cmp_ok( ( grep { $_ > 0.3 * $TimerTest::SLOW } @seen_after ) + 0, '<', $count / 10, 'nor much earlier' );

logged_times( $nginx, qr/run failed|no free connection|worker_connections are not enough|left out/, 0, 'none failed, none was left out' );

# The clients.
my @answers = map { [split] } map { split /\n/, slurp("$results.$_") } 1 .. 3;
my ( $from, $to ) = ( $due / 1000, max( map { $_->{ended} } @runs ) );
my @meanwhile = grep { $_->[0] >= $from && $_->[0] <= $to } @answers;
cmp_ok( scalar @meanwhile, '>=', 10, 'clients ask meanwhile (' . @meanwhile . ' requests)' );
none_of { $_->[1] != 200 } 'all are answered', @answers;
my @took = sort { $a <=> $b } map { $_->[2] } @meanwhile;
my $p50 = $took[ @took / 2 ];
cmp_ok( $p50, '<', 0.25 * $TimerTest::SLOW, sprintf 'soon: half of them within %.0fms, the longest %.0fms', $p50 * 1000, $took[-1] * 1000 );
$nginx->stop;

# None starves: more timers than places, again and again, each of which takes longer than the line
# moves.  All have had their turns before any has had very many.
$backend->stop;
$backend = TimerTest::Backend->start;
$nginx = TimerTest::Nginx->new(
    workers => 1,
    http    => 'timer_max_running 4;',
    server  => join '',
    map { timer( $backend, "s$_", 'every=100ms offset=0', 'delay/0.05/ok' ) } 1 .. 40,
);
$nginx->start;
my %turns;
my $all_had_turns = wait_until {
    undef %turns;
    $turns{ $_->{headers}{'x-timer'} }++ for $backend->requests;
    keys %turns == 40 && !grep { $_ < 3 } values %turns;
};
ok( $all_had_turns, 'a line that never empties: all have their turns' );
my @turns = sort { $a <=> $b } values %turns;
cmp_ok( $turns[-1], '<=', 3 * $turns[0] + 3, "none much more often than others ($turns[0] to $turns[-1])" );
cmp_ok( $backend->most_at_once, '<=', 4, 'never more than four' );
$nginx->stop;
no_doubles( 'in line', $backend->requests );

# A place is given back however a run ends: timeouts, failures, refused and reset connections.
$backend->stop;
$backend = TimerTest::Backend->start;
my $closed = free_port();
$nginx = TimerTest::Nginx->new(
    workers => 1,
    http    => 'timer_max_running 2; map "" $no_uri { default "x"; }',
    server  => 'timer_timeout 100ms;'
        . join( '', map { timer( $backend, "hang$_", 'every=300ms', 'hang' ), timer( $backend, "reset$_", 'every=300ms', 'reset' ),
            timer( $backend, "cut$_", 'every=300ms', 'truncate' ), timer( $backend, "retry$_", 'every=300ms', 'status/500', 'timer_retry 2 backoff=20ms;' ) } 1 .. 2 )
        . "location \@refused { timer refused every=100ms; proxy_pass http://127.0.0.1:$closed; }\n"
        . "location \@error { timer error every=100ms uri=\$no_uri; return 200; }\n"
        . timer( $backend, 'good', 'every=300ms', 'ok' ),
);
$nginx->start;
ok( $backend->wait_requests( 8, timer => 'good' ) >= 8, 'places come back whatever becomes of the runs' );
cmp_ok( $backend->most_at_once, '<=', 2, 'two at once' );
$nginx->stop;

done_testing;
