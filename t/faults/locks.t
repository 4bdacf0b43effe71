#!/usr/bin/perl

# Locks that fail while nginx runs, in one way or another, with workers that all want each due time: one run of
# a timer at a time, no due time twice, nobody is called dead who lives, "health" tells; a reload changes nothing
# of that; and all is well again when they work again.

use strict;
use warnings;

use List::Util qw( max );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Faults;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# What fails, with what, and in which processes. "none": nobody can lock, so that the owner's slot runs alone.
my %cases = (
    enolck  => { calls => 'fcntl',             error => 'ENOLCK', none => 1 },
    eio     => { calls => 'fcntl',             error => 'EIO',    none => 1 },
    eperm   => { calls => 'fcntl',             error => 'EPERM',  none => 1 },
    einval  => { calls => 'fcntl',             error => 'EINVAL', none => 1 },
    memory  => { calls => 'fcntl',             error => 'ENOLCK', none => 1, state => 'memory', name => 'timer' },
    lock    => { calls => 'lock',              error => 'EIO',    none => 1 },
    unlock  => { calls => 'unlock',            error => 'EIO' },
    getlock => { calls => 'getlock',           error => 'EIO' },
    zero    => { calls => 'fcntl',             error => 'EIO', whose => 1 },
    others  => { calls => 'fcntl',             error => 'EIO', whose => -1 },
    writes  => { calls => [qw( fcntl pwrite )], error => 'EIO', none => 1 },
);
my @names = sort keys %cases;

sub timers {
    my ($name) = @_;
    my $more = 'timer_worker any; timer_timeout 20s;';
    return timer( $backend, "$name-fast", 'every=200ms offset=0', 'delay/0.02/ok', $more )
        . timer( $backend, "$name-slow", 'every=300ms offset=0', 'delay/0.7/ok',  $more );
}

for my $name (@names) {
    my $case = $cases{$name};
    $case->{faults} = TimerTest::Faults->new;
    # Each worker has a socket of its own, so that each is found among few connections.
    $case->{port}  = free_port();
    $case->{nginx} = TimerTest::Nginx->new(
        workers => 4, faults => $case->{faults}, server => timers($name), state => $case->{state},
        http => "server { listen 127.0.0.1:$case->{port} reuseport; location = /ready { return 200 \"\$pid\\n\"; } location /status/ { timer_api; } }",
    );
    $case->{nginx}->start;
}

# Runs of due times that are newer than an instant, of a timer or of both.
sub since {
    my ( $at, $name, @of ) = @_;
    return grep { due_ms($_) > 1000 * $at } map { $backend->requests( timer => "$name-$_" ) } @of ? @of : qw( fast slow );
}

# One test: both timers run, in workers that live now, once more.
sub all_go_on {
    my ( $title, $at ) = @_;
    my %missing;
    my $go_on = sub {
        %missing = ();
        for my $name (@names) {
            my %worker = map { $_ => 1 } $cases{$name}{nginx}->workers;
            my %runs;
            $runs{ $_->{headers}{'x-timer'} }++ for grep { $worker{ $_->{headers}{'x-pid'} } && $_->{ended} } since( $at, $name );
            $missing{"$name-$_"} = 1 for grep { ( $runs{"$name-$_"} // 0 ) < 2 } qw( fast slow );
        }
        return !%missing;
    };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( wait_until { $go_on->() }, "$title: all go on" ) || diag "not: @{[ sort keys %missing ]}";
}

# A connection to each worker.
sub connect_all {
    for my $name (@names) {
        my $nginx = $cases{$name}{nginx};
        $cases{$name}{apis} = [ map { TimerTest::Api->new( $nginx, worker => [$_], port => $cases{$name}{port} ) } $nginx->workers ];
    }
    return;
}

# One test: whichever worker is asked, health answers this, and nothing else to who asks after so many seconds.
sub all_say {
    my ( $title, $status, $since, $seconds ) = @_;
    my @left = map { my $name = $_; map { [ $name, $_ ] } @{ $cases{$name}{apis} } } @names;
    my ( @late, $said );
    my $told = poll_until(
        sub {
            @left = grep {
                my ( $name, $api ) = @$_;
                my $asked = time;
                $said = $api->ask('/health');
                my $by = max( $since, $cases{$name}{failed} // 0 );
                push @late, sprintf '%s: after %.1fs', $name, $asked - $by
                    if $said->{status} != $status && $asked - $by > $seconds + $beat->still( $by, $asked );
                $said->{status} != $status;
            } @left;
            !@left;
        }
    );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok( $told, "$title: every worker says $status" ) or diag "not: @{[ map { $_->[0] } @left ]}, $said->{body}";
    return is( "@late", '', "$title: in time" );
}

# Beside all that: a worker that does not come to the end of its run, and a reload.
my $stuck        = timer( $backend, 'stuck', 'every=300ms', 'held/stuck/ok', 'timer_timeout 1s;' );
my $stuck_faults = TimerTest::Faults->new;
my $stuck_nginx  = TimerTest::Nginx->new( workers => 2, faults => $stuck_faults, server => $stuck );
$stuck_nginx->start;
my ($first)  = $backend->wait_requests( 1, timer => 'stuck' );
my $stopped = $first->{headers}{'x-pid'};
stand_still($stopped);
$stuck_faults->fail( 'fcntl', error => 'EIO', name => 'timers.state' );
$stuck_nginx->signal('HUP');

connect_all();
my $began = time;
all_go_on( 'without faults', $began );
all_say( 'without faults', 200, $began, 60 );

my %slots;
for my $name (@names) {
    my ( $case, $zero ) = ( $cases{$name}, $cases{$name}{nginx}->worker_in_slot(0) );
    $case->{rule}
        = $case->{faults}->fail( $case->{calls}, error => $case->{error}, name => $case->{name} // 'timers.state', pid => $zero * ( $case->{whose} // 0 ) );
    $case->{failed} = time;
}
my $failed = time;
all_say( 'locks fail', 503, $failed, 2.5 * $TimerTest::SLOW );
all_go_on( 'locks fail', $failed );
cmp_ok( $cases{$_}{faults}->failures( $cases{$_}{rule} ), '>', 0, "$_: calls fail" ) for @names;

logged_times( $cases{$_}{nginx}, qr/process \d+ died/, 0, "$_: who lives has not died" ) for @names;

# A reload in the middle of a run: the new workers start none beside it.
for my $name (@names) {
    my $case = $cases{$name};
    my $in_progress = sub { grep { !$_->{ended} && time - $_->{arrived} < 0.3 } $backend->requests( timer => "$name-slow" ) };
    ok( wait_until( sub { $in_progress->() } ), "$name: a run in progress" );
    $case->{nginx}->signal('HUP');
}
$_->{nginx}->wait_log( qr/: timer: \d+ timers? in this worker, slot \d/, 8 ) for values %cases;
my $reloaded = time;
all_go_on( 'a reload', $reloaded );
connect_all();
# Only the owner's slot has run what came due meanwhile.
for my $name ( grep { $cases{$_}{none} } @names ) {
    none_of { $_->{headers}{'x-slot'} != 0 } "$name: only slot 0 runs", since( $cases{$name}{failed}, $name );
}

# All is well.
my $cleared = time;
$cases{$_}{faults}->clear for @names;
$_->{failed} = undef for values %cases;
all_say( 'locks work', 200, $cleared, 6 * $TimerTest::SLOW );
all_go_on( 'locks work', $cleared );

# The one that stands still was waited for, until its run could be thought to have ended.
{
    my ( undef, $next ) = $backend->wait_requests( 2, timer => 'stuck' );
    my $waited = $next->{arrived} - $first->{arrived};
    isnt( $next->{headers}{'x-pid'}, $stopped, 'stuck: another worker goes on' );
    cmp_ok( $waited, '>', 10.5, 'stuck: not before the timeout and ten seconds' );
    cmp_ok( $waited - $beat->still( $first->{arrived}, $next->{arrived} ), '<', 11 + 5 * $TimerTest::SLOW, 'stuck: but then' );
    logged( $stuck_nginx, qr/\[error\].* timer "stuck": run in progress for 1\d{4}ms in process $stopped is not waited for/, 'stuck: it is said' );
    logged_times( $stuck_nginx, qr/is not waited for|process \d+ died/, 1, 'stuck: once' );
    kill 'CONT', $stopped;
    $backend->let_go('stuck');
    $backend->wait_requests( 5, timer => 'stuck' );
    $stuck_nginx->stop;
    my @runs = $backend->requests( timer => 'stuck' );
    no_doubles( 'stuck', @runs );
    no_overlaps( 'stuck', { $stopped => $next->{arrived} }, @runs );
}

for my $name (@names) {
    my $nginx = $cases{$name}{nginx};
    # A worker that leaves without having been able to write the end of its run has died, to others.
    logged_times( $nginx, qr/process \d+ died/, 0, "$name: nobody has died" ) if $name ne 'writes';
    logged( $nginx, qr/\[crit\].*fcntl\(\).* failed/, "$name: the log says it" );
    $nginx->stop;
    my @runs = map { $backend->requests( timer => "$name-$_" ) } qw( fast slow );
    no_doubles( $name, @runs );
    no_overlaps( $name, {}, @runs );
}

done_testing;
