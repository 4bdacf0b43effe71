#!/usr/bin/perl

# Counters never go back, whichever worker is asked: metrics are scraped all the time while nginx is
# reloaded, its workers are killed, it is stopped in both ways, started and upgraded.

use strict;
use warnings;

use List::Util qw( sum0 );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;

my @masters;
END { local ( $?, $! ); kill 'KILL', map { ( $_, children_of($_) ) } grep { is_alive($_) } @masters }

my @names = qw( good any bad slow hangs );
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    daemon  => 1,
    http    => 'timer_missed skip;',
    server  => 'location /status/ { timer_api write=on; }'
        . timer( $backend, 'good',  'every=50ms first=now' )
        . timer( $backend, 'any',   'every=50ms', 'ok',           'timer_worker any;' )
        . timer( $backend, 'bad',   'every=150ms', 'status/500',  'timer_retry 2 backoff=10ms max=10ms;' )
        . timer( $backend, 'slow',  'every=50ms', 'delay/0.12/ok' )
        . timer( $backend, 'hangs', 'every=200ms', 'hang',        'timer_timeout 100ms;' )
        . timer( $backend, 'held',  'every=10h enabled=off', 'hang', 'timer_timeout 1h; proxy_read_timeout 1h;' ),
    allow => [ qr/exited on signal 9/, qr/open socket #\d+ left in connection/, qr/\[alert\] \d+#\d+: aborting/ ],
);
my $api = TimerTest::Api->new($nginx);

# One scrape: what it found wrong is kept.
my ( $last, $scrapes, @wrong ) = ( undef, 0 );

sub scrape {
    my ($title) = @_;
    my $metrics = $api->metrics or return;
    my $now     = counters($metrics);
    $scrapes++;
    for my $series ( sort keys %{ $last // {} } ) {
        push @wrong, "$title: $series is gone" if !exists $now->{$series};
        push @wrong, "$title: $series was $last->{$series}, is $now->{$series}" if ( $now->{$series} // 9e99 ) < $last->{$series};
    }
    for my $name (@names) {
        my $runs = sum0( map { $now->{$_} } grep {/\Anginx_timer_runs_total\{timer="$name",/} keys %$now );
        my $count = $now->{"nginx_timer_run_duration_seconds_count{timer=\"$name\"}"};
        push @wrong, "$title: $name: $count durations of $runs runs" if $count != $runs;
    }
    $last = { %{ $last // {} }, %$now };
    return $now;
}

# Scrapes until something has happened.
sub scrape_until(&$) {
    my ( $condition, $title ) = @_;
    my $from = $scrapes;
    my $end  = deadline();
    my $came = 0;
    while ( !$came && time < $end ) {
        $came = $condition->();
        scrape($title);
    }
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok( $came, $title );
    note $scrapes - $from . ' scrapes';
    return;
}

# Some more runs of all timers.
sub goes_on {
    my ($title) = @_;
    my %seen = map { $_ => scalar $backend->requests( timer => $_ ) } @names;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return scrape_until { @names == grep { $backend->requests( timer => $_ ) >= $seen{$_} + 3 } @names } "$title: timers go on";
}

sub value {
    my ( $family, $name, $more ) = @_;
    return $last->{ "nginx_timer_$family\{timer=\"$name\"" . ( $more // '' ) . '}' } // 0;
}

$nginx->start;
push @masters, $nginx->pid;
goes_on('a start');

for my $round ( 1 .. 3 ) {
    my @old = $nginx->workers;
    $nginx->signal('HUP');
    scrape_until { $nginx->workers == 2 && !grep { is_alive($_) } @old } "reload $round";
    goes_on("reload $round");
}

for my $round ( 1 .. 3 ) {
    my @victims = $nginx->workers;
    @victims = $victims[ $round - 1 ] if $round < 3;
    if ( $round == 3 ) {
        is( ( $api->order('/timers/held/run') )[0], 202, 'one more run' );
        scrape_until { $api->show('held')->{running} } 'is in progress';
    }
    kill 'KILL', @victims;
    scrape_until { $nginx->workers == 2 && !grep { is_alive($_) } @victims } "KILL $round";
    goes_on("KILL $round");
}

for my $signal (qw( QUIT TERM )) {
    my @old = ( $nginx->pid, $nginx->workers );
    $nginx->signal($signal);
    scrape_until { !grep { is_alive($_) } @old } "$signal";
    my $gone = time;
    wait_until { time > $gone + 0.5 };
    my $missed = value( 'missed_total', 'good' );
    $nginx->start;
    push @masters, $nginx->pid;
    scrape_until { value( 'missed_total', 'good' ) > $missed } "$signal and a start: what was missed is counted";
    goes_on("$signal and a start");
}

my $new = start_upgrade( $nginx, $nginx->pid );
push @masters, $new;
goes_on('two masters');
$nginx->signal( 'QUIT', $nginx->pid );
my $left = $nginx->pid;
scrape_until { !is_alive($left) } 'the old master leaves';
$nginx->{pid} = $new;
goes_on('the new one alone');

# Each of them has risen.
scrape('at the end');
cmp_ok( value( 'runs_total', @$_ ), '>', 0, join ' ', 'runs', @$_ )
    for [ 'good', ',outcome="success"' ], [ 'bad', ',outcome="failure"' ], [ 'hangs', ',outcome="timeout"' ], [ 'held', ',outcome="interrupted"' ];
cmp_ok( value( 'retries_total', 'bad' ),   '>',  0, 'retries' );
cmp_ok( value( 'overlaps_total', 'slow' ), '>',  0, 'overlaps' );
cmp_ok( value( 'missed_total', 'good' ),   '>',  0, 'missed' );
cmp_ok( value( 'run_duration_seconds_sum', 'slow' ), '>', 1, 'durations' );
is( value( 'unscheduled_total', 'good' ), 1, 'a first run' );

# And when nothing moves, they are what the backend has seen: a run that a signal ended may not have come
# that far, and one that has timed out may come to it later.
is( ( $api->order('/pause') )[0], 200, 'all are paused' );
scrape_until { !grep { $_->{running} } @{ $api->all->{timers} } } 'nothing runs';
for my $name (@names) {
    my ( $runs, $cut, %runs );
    wait_until {
        scrape('at rest');
        %runs = map { $_->{headers}{'x-run'} => 1 } $backend->requests( timer => $name );
        $runs = value( 'run_duration_seconds_count', $name );
        $cut  = value( 'runs_total', $name, ',outcome="interrupted"' );
        $runs >= keys %runs && $runs - $cut <= keys %runs;
    };
    cmp_ok( $runs, '>=', keys %runs, "$name: all runs are counted" );
    cmp_ok( $runs - $cut, '<=', keys %runs, "$name: and no others" );
}
is( scalar @wrong, 0, "no counter goes back in $scrapes scrapes" ) or diag join "\n", @wrong > 10 ? @wrong[ 0 .. 9 ] : @wrong;
cmp_ok( $scrapes, '>=', 30, 'which are some' );
$nginx->stop;

done_testing;
