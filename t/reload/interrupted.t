#!/usr/bin/perl

# A worker that dies in a run: its successor tells of the run, by pid and due time, and goes on with
# the next due time. So does a whole nginx that is killed and started again.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my ( %killed, @killed_dues );

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => timer( $backend, 'hangs', 'every=700ms offset=0', 'hang' )
        . timer( $backend, 'once', 'every=366d first=now', 'hang' )
        . timer( $backend, 'idle', 'every=366d first=now' )
        . timer( $backend, 'tick', 'every=50ms' ),
    allow => [qr/\[alert\].*worker process \d+ exited on signal 9/],
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => $_ ), "a run of $_ is in progress" ) for qw( hangs once );

ok( $nginx->wait_log(qr/timer "idle": run succeeded/), 'that of idle has ended' );

for my $round ( 1 .. 3 ) {
    my $zero = $nginx->worker_in_slot(0);
    ok( wait_until( sub { requests_by( $zero, $backend->requests( timer => 'hangs' ) ) } ), "round $round: worker 0 has a run in progress" );
    my ($run) = requests_by( $zero, $backend->requests( timer => 'hangs' ) );
    my $due = $run->{headers}{'x-due'};
    $killed{$zero} = time;
    kill 'KILL', $zero;
    push @killed_dues, $due;

    logged( $nginx, qr/\[error\] (?!$zero#)\d+#.* timer "hangs": run interrupted: process $zero died, due \Q$due\E/,
        "round $round: its successor tells of it" );
    my $next;
    ok( wait_until( sub { ($next) = grep { due_ms($_) > due_ms($run) } $backend->requests( timer => 'hangs' ) } ),
        "round $round: and takes the next due time" );
    isnt( $next->{headers}{'x-pid'}, $zero, "round $round: itself" );
    isnt( $next->{headers}{'x-run'}, $run->{headers}{'x-run'}, "round $round: as a run of its own" );
}
logged_times( $nginx, qr/timer "hangs": run interrupted/, 3, 'each is told once' );
logged_times( $nginx, qr/timer "once": run interrupted: process \d+ died/, 1, 'the first run of another timer, too' );
is( scalar( $backend->requests( timer => 'once' ) ), 1, 'first=now is not repeated after a crash' );
is( scalar( $backend->requests( timer => 'idle' ) ), 1, 'nor that which had ended well' );
logged_times( $nginx, qr/timer "idle": run interrupted/, 0, 'of which nothing is told' );

# All of nginx is killed in a run, and started again.
my $zero = $nginx->worker_in_slot(0);
ok( wait_until( sub { requests_by( $zero, $backend->requests( timer => 'hangs' ) ) } ), 'a run is in progress' );
my ($run)   = requests_by( $zero, $backend->requests( timer => 'hangs' ) );
my @victims = ( $nginx->pid, children_of( $nginx->pid ) );
$killed{$_} = time for @victims;
kill 'KILL', @victims;
ok( wait_until( sub { !grep { is_alive($_) } @victims } ), 'nginx is killed' );
$nginx->wait_exit;
unlink $nginx->prefix . '/logs/nginx.pid';
$nginx->start;
logged( $nginx, qr/\[error\].* timer "hangs": run interrupted: process $zero died, due \Q$run->{headers}{'x-due'}\E/, 'the next nginx tells of it' );
ok( wait_until( sub { grep { due_ms($_) > due_ms($run) && $_->{headers}{'x-pid'} != $zero } $backend->requests( timer => 'hangs' ) } ), 'and goes on' );

# A worker that is told to TERM says so itself, and its successor does not.
$zero = $nginx->worker_in_slot(0);
ok( wait_until( sub { requests_by( $zero, $backend->requests( timer => 'hangs' ) ) } ), 'a run is in progress' );
kill 'TERM', $zero;
logged( $nginx, qr/\[error\] $zero#.* timer "hangs": run interrupted: worker was told to stop/, 'a worker that is told to TERM says so' );
ok( wait_until( sub { my $heir = $nginx->worker_in_slot(0) // 0; $heir != $zero && requests_by( $heir, $backend->requests( timer => 'hangs' ) ) } ),
    'the next one goes on' );
logged_times( $nginx, qr/run interrupted: process $zero died/, 0, 'and does not tell it again' );

$nginx->stop('TERM');
no_doubles( 'killed workers', $backend->requests );
no_overlaps( 'killed workers', \%killed, $backend->requests( timer => 'hangs' ), $backend->requests( timer => 'tick' ) );

done_testing;
