#!/usr/bin/perl

# The first, second, third ... system call of the state layer fails, once or from then on, while an nginx goes
# through all that its state is there for: a start, runs, overlaps, retries, a manual run, a pause, a reload, a
# worker that is killed, a restart. Whatever fails, no two runs of a timer are in progress at once, no due time is
# requested twice, the series goes on, and "health" says within two seconds that something is wrong.
#
# A sample; TEST_NGINX_FAULTS="pwrite EIO 3 once" tries one case, and "pwrite" all cases of a call.

use strict;
use warnings;

use List::Util qw( first );
use POSIX ();
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Faults;
use TimerTest::Nginx;
use TimerTest::Series;

# So many nginx at a time.
my $AT_ONCE = 10;

# What a call may fail with, and which calls are to fail: of those that the scenario makes, the first is 1. "tells":
# as long as such calls fail nothing can be kept, or excluded, and health has to say so. "root": nobody else makes it.
my @CALLS = (
    { call => 'pread',   error => 'EIO',    once => [ 1, 64 ], on => [ 1, 100 ], tells => 1 },
    { call => 'pread',   short => 100,      once => [2],       on => [] },
    { call => 'pread',   short => 0,        once => [3],       on => [20], tells => 1 },
    { call => 'pwrite',  error => 'EIO',    once => [ 1, 30 ], on => [ 1, 20 ], tells => 1 },
    { call => 'pwrite',  error => 'ENOSPC', once => [],        on => [40], tells => 1 },
    { call => 'pwrite',  short => 100,      once => [],        on => [30] },
    { call => 'lock',    error => 'ENOLCK', once => [20],      on => [20] },
    { call => 'lock',    error => 'EIO',    once => [2],       on => [40], tells => 1 },
    { call => 'lock',    error => 'EPERM',  once => [30],      on => [1], tells => 1 },
    { call => 'unlock',  error => 'EIO',    once => [10],      on => [1] },
    { call => 'getlock', error => 'EIO',    once => [],        on => [1] },
    { call => 'open',    error => 'EIO',    once => [2],       on => [3] },
    { call => 'stat',    error => 'EIO',    once => [2],       on => [] },
    { call => 'sync',    error => 'EIO',    once => [],        on => [1] },
    { call => 'chown',   error => 'EPERM',  once => [],        on => [1], root => 1 },
    { call => 'memfd_create', error => 'EPERM', once => [], on => [1], state => 'memory' },
    { call => 'pwrite', error => 'EIO',    once => [], on => [60], state => 'memory', tells => 1 },
    { call => 'lock',   error => 'ENOLCK', once => [], on => [60], state => 'memory', tells => 1 },
    { call => 'eventfd',   error => 'EMFILE', once => [], on => [1] },
    { call => 'getrandom', error => 'ENOSYS', once => [], on => [1] },
);

sub cases {
    my @cases;
    for my $how (@CALLS) {
        my $what = join ' ', $how->{call}, $how->{error} // 'short', $how->{state} // ();
        push @cases, map { { %$how, nth => $_, times => 1, title => "$what, call $_" } } @{ $how->{once} };
        push @cases, map { { %$how, nth => $_, times => undef, title => "$what, from call $_ on" } } @{ $how->{on} };
    }
    if ( my $wanted = $ENV{TEST_NGINX_FAULTS} ) {
        my ( $call, $error, $nth, $times ) = split ' ', $wanted;
        @cases = grep { $_->{call} eq $call && ( !$error || ( $_->{error} // 'short' ) eq $error ) } @cases;
        @cases = map { { %$_, nth => $nth, times => $times && $times eq 'once' ? 1 : undef, title => $wanted } } $cases[0] if $nth;
    }
    return @cases;
}

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Timers whose names begin with the number of their case.
sub timers {
    my ($case) = @_;
    return 'location /status/ { timer_api write=on; }'
        . timer( $backend, "$case-tick",   'every=100ms offset=0', 'delay/0.01/ok' )
        . timer( $backend, "$case-slow",   'every=100ms offset=0', 'delay/0.25/ok', 'timer_worker any; timer_timeout 2s;' )
        . timer( $backend, "$case-retry",  'every=400ms offset=0', 'by-turns/status/500', 'timer_worker any; timer_retry 2 backoff=20ms;' )
        . timer( $backend, "$case-manual", 'every=366d' );
}

# The scenario, in a process of its own, whose tests are counted there.
sub scenario {
    my ( $number, $case, $nginx, $faults ) = @_;

    local $TimerTest::DEADLINE = 20;
    my $api  = TimerTest::Api->new($nginx);
    my $of   = sub { return map { $backend->requests( timer => "$number-$_" ) } @_ };
    my $rule = $faults->fail(
        $case->{call}, name => 'timers.state', nth => $case->{nth},
        ( $case->{error} ? ( error => $case->{error} ) : ( short => $case->{short} ) ), ( $case->{times} ? ( times => 1 ) : () )
    );
    my $lasts = !$case->{times};
    my %killed;

    # Since when calls fail, as far as seen here; when health was asked last before it said so, and whether it did.
    my ( $failed, $not_yet, $told );
    my $look = sub {
        $failed //= time if $faults->failures($rule);
        return if $told || !$failed || !$lasts;
        my $asked = time;
        $told = $api->ask('/health')->{status} == 503;
        $not_yet = $asked if !$told;
    };
    my $later = sub {
        my ($condition) = @_;
        return poll_until( sub { $look->(); $condition->() } );
    };
    # Two timers run, in workers that live now.
    my $goes_on = sub {
        my ($title) = @_;
        my %before = map { $_ => scalar $of->($_) } qw( tick slow );
        my $ok = $later->(
            sub {
                my %worker = map { $_ => 1 } $nginx->workers;
                2 == grep {
                    my @all = $of->($_);
                    2 <= grep { $worker{ $_->{headers}{'x-pid'} } } @all[ $before{$_} .. $#all ];
                } keys %before;
            }
        );
        ok( $ok, "goes on: $title" );
    };

    $nginx->start;
    $goes_on->('a start');

    my ( $status, $said ) = $api->order("/timers/$number-manual/run");
    ok( $status == 202 || $status == 503, "a manual run: $status" );
    if ( $status == 202 && !$lasts ) {
        ok( $later->( sub { grep { $_->{headers}{'x-run'} eq $said->{run} } $of->('manual') } ), 'is requested' );
    }

    ($status) = $api->order("/timers/$number-tick/pause");
    my $since = time;
    ok( $status == 200 || $status == 503, "a pause: $status" );
    my $slow = $of->('slow') + 2;
    $later->( sub { $of->('slow') >= $slow } ) or fail('goes on: a pause of another');
    if ( $status == 200 && !$lasts ) {
        my @late = grep { due_ms($_) > 1000 * $since + 1 } $of->('tick');
        is( scalar @late, 0, 'no run while paused' );
    }
    $later->( sub { ($status) = $api->order("/timers/$number-tick/resume"); $status == 200 } ) if !$lasts;
    $api->order("/timers/$number-tick/resume");

    $nginx->reload;
    $goes_on->('a reload');

    my $zero = $nginx->worker_in_slot(0);
    $killed{$zero} = time;
    kill 'KILL', $zero;
    $nginx->wait_gone( [$zero] );
    $goes_on->('a killed worker');

    $nginx->signal('QUIT');
    defined $nginx->wait_exit or fail('ends');
    $nginx->start;
    $goes_on->('a restart');

    ok( $later->( sub { $failed && ( $told || !$lasts || !$case->{tells} ) } ), 'calls have failed, and health tells' ) or diag( $faults->calls($rule) . ' calls' );
    if ( $lasts && $case->{tells} && $told ) {
        my $last = $not_yet // $failed;
        cmp_ok( $last - $failed, '<', 2.5 + $beat->still( $failed, $last ), 'within two seconds' );
    }

    # The fault is gone.
    $faults->clear;
    $nginx->reload;
    $api->order("/timers/$number-tick/resume");
    $goes_on->('without faults');
    my $health;
    ok( $later->( sub { $health = $api->ask('/health'); $health->{status} == 200 } ), 'health is ok' ) or diag( $health->{body} );

    my $file = $nginx->prefix . '/timers.state';
    $nginx->stop;
    my @all = $of->(qw( tick slow retry manual ));
    no_doubles( 'in all', @all );
    no_overlaps( 'in all', \%killed, @all );
    return;
}

# Starts a case; answers what has to be known of it.
my $number = 0;

sub begin {
    my ($case) = @_;
    my $name   = 'c' . ++$number;
    my $faults = TimerTest::Faults->new;
    my $nginx  = TimerTest::Nginx->new( workers => 2, faults => $faults, server => timers($name), allow => [ qr/exited on signal 9/, qr/\[emerg\] \d+#\d+: eventfd\(\) failed/ ], ( $case->{state} ? ( state => $case->{state} ) : () ) );
    my $report = $nginx->prefix . '/report';
    my $pid    = fork // die "fork: $!";
    if ( !$pid ) {
        setpgrp;
        open my $out, '>', $report or die "$report: $!";
        my $test = Test::More->builder;
        $test->reset;
        $test->$_($out) for qw( output failure_output todo_output );
        eval { scenario( $name, $case, $nginx, $faults ); 1 } or fail("the scenario: $@");
        $nginx->kill_all;
        done_testing;
        close $out;
        POSIX::_exit(0);
    }
    return { %$case, pid => $pid, report => $report, log => $nginx->error_log };
}

# Waits for one that has ended, and takes it out of those that run.
my %running;

sub finish {
    my $pid;
    wait_until { $pid = first { waitpid( $_, POSIX::WNOHANG ) == $_ } keys %running } 180 or ($pid) = keys %running;
    kill 'KILL', -$pid;
    my $case   = delete $running{$pid};
    my $report = slurp( $case->{report} );
    my @failed = $report =~ /^(not ok .*\n(?:#.*\n)*)/mg;
    push @failed, $report if !@failed && $report !~ /^1\.\.\d+$/m;
    my @log = grep {/\[(?:warn|error|crit|alert|emerg)\]/} split /\n/, slurp( $case->{log} );
    ok( !@failed, $case->{title} ) or diag join "\n", @failed, @log[ 0 .. ( @log > 8 ? 7 : $#log ) ];
    return;
}

for my $case ( cases() ) {
    if ( $case->{root} && $> != 0 ) {
    SKIP: { skip 'not root', 1 }
        next;
    }
    finish() if keys %running >= $AT_ONCE;
    my $begun = begin($case);
    $running{ $begun->{pid} } = $begun;
}
finish() while %running;
done_testing;

my $creator;
BEGIN { $creator = $$ }

END {
    if ( $$ == $creator ) { kill 'KILL', -$_ for keys %running }
}
