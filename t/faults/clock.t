#!/usr/bin/perl

# A clock that jumps. However many due times lie in between, runs go on at once, and the number that was missed is
# whole and told once. What was given while the clock was ahead (a pause, a retry that waits, an order, a first
# run) is not put off when it is set back. The wall clock of nginx is libfaketime's; the backend's is real.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';
plan skip_all => 'libfaketime is not installed' if !$library;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

my $API  = 'location /status/ { timer_api write=on; }';
my $DAY  = 86_400;
my $RARE = 'every=300d offset=' . int( time + 150 * $DAY ) % ( 300 * $DAY ) . 's';

# An nginx whose clock differs from the real one by so many seconds.
sub new_nginx {
    my ( $offset, %option ) = @_;
    my $file  = scratch_dir() . '/offset';
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        wrapper => "env LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE=$file FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 "
            . ( $ENV{TEST_NGINX_WRAPPER} // '' ),
        main => "env LD_PRELOAD;\nenv FAKETIME_TIMESTAMP_FILE;\nenv FAKETIME_NO_CACHE;\nenv FAKETIME_DONT_FAKE_MONOTONIC;\nenv FAKETIME_SHARED;",
        %option,
    );
    $nginx->{offset_file} = $file;
    set_clock( $nginx, $offset );
    return $nginx;
}

sub set_clock {
    my ( $nginx, $offset ) = @_;
    my $file = $nginx->{offset_file};
    spew( "$file.new", sprintf "%+ds\n", $offset );
    rename "$file.new", $file or die "$file: $!";
    return time;
}

sub runs_after { my ( $at, $name ) = @_; return grep { $_->{arrived} > $at } $backend->requests( timer => $name ) }

# One test: the timer runs, or runs once more, before so many seconds have passed.
sub goes_on {
    my ( $title, $name, $at, $seconds, $count ) = @_;
    $count //= 1;
    my @runs;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok( wait_until( sub { ( @runs = runs_after( $at, $name ) ) >= $count } ), "$title: $name goes on" ) or return;
    my $end = $runs[ $count - 1 ]{arrived};
    return cmp_ok( $end - $at - $beat->still( $at, $end ), '<', $seconds * $TimerTest::SLOW, "$title: $name goes on at once" );
}

# Forward: ten days for a fixed rate with runs that take longer than a period, a day for one each second by cron,
# and from 1970 to now.
my @forward = (
    { title => 'ten days', from => 0, to => 10 * $DAY, every => 100, timers => { skip => '', queue => 'timer_overlap queue;', any => 'timer_worker any;', left => 'timer_missed skip;' }, uri => 'delay/0.25/ok' },
    { title => 'from 1970', from => 100 - int time, to => 0, every => 1000, timers => { second => '', secondany => 'timer_worker any;' } },
    { title => 'a day of cron', from => 0, to => $DAY, every => 1000, cron => '"cron=* * * * * *"', timers => { cron => '', cronany => 'timer_worker any;', cronleft => 'timer_missed skip;' }, uri => 'delay/1.5/ok' },
);

# Both while nginx runs, and while it is stopped.
for my $case (@forward) {
    for my $how (qw( live down )) {
        my $when   = $case->{cron} // "every=$case->{every}ms offset=0";
        my %timers = map { ( "$how-$_" => $case->{timers}{$_} ) } keys %{ $case->{timers} };
        my $nginx  = new_nginx( $case->{from}, server => $API . join '', map { timer( $backend, $_, $when, $case->{uri} // 'ok', $timers{$_} ) } sort keys %timers );
        $nginx->start;
        push @{ $case->{of} }, { nginx => $nginx, how => $how, names => [ sort keys %timers ], title => "$case->{title}, $how" };
    }
}

# Backward: what was given while the clock was ahead.
my @backward;
for my $step ( 3600, 3650 * $DAY ) {
    my $by  = $step == 3600 ? 'hour' : 'years';
    my $one = new_nginx(
        $step,
        server => $API . timer( $backend, "$by-tick", 'every=200ms offset=0' ) . timer( $backend, "$by-paused", 'every=200ms offset=0' )
            . timer( $backend, "$by-any",   'every=200ms offset=0', 'ok', 'timer_worker any;' )
            . timer( $backend, "$by-hours", 'every=200ms offset=0' )
            . timer( $backend, "$by-retry", $RARE, "by-turns/status/500?$by", 'timer_retry 2 backoff=3s;' ),
    );
    my $all   = new_nginx( $step, server => $API . timer( $backend, "$by-all", 'every=200ms offset=0' ) );
    my $waits = new_nginx(
        $step,
        workers => 1,
        http    => 'timer_max_running 1;',
        server  => $API . timer( $backend, "$by-blocker", "$RARE first=now", "held/$by/ok" ) . timer( $backend, "$by-first", "$RARE first=now" )
            . timer( $backend, "$by-order", $RARE ),
    );
    $_->start for $one, $all, $waits;
    push @backward, { step => $step, by => $by, one => $one, all => $all, waits => $waits };
}

for my $case (@forward) {
    for my $of ( @{ $case->{of} } ) {
        $backend->wait_requests( 2, timer => $_, ended => 1 ) for @{ $of->{names} };
        $of->{nginx}->stop if $of->{how} eq 'down';
    }
}
for my $of ( map { @{ $_->{of} } } @forward ) {
    my ($case) = grep { grep { $_ == $of } @{ $_->{of} } } @forward;
    $of->{log_from} = length $of->{nginx}->log;
    $of->{at}       = set_clock( $of->{nginx}, $case->{to} );
    $of->{at}       = time, $of->{nginx}->start if $of->{how} eq 'down';
}

for my $case (@backward) {
    my ( $by, $one, $all, $waits ) = @$case{qw( by one all waits )};
    my %api = map { $_ => TimerTest::Api->new( $case->{$_} ) } qw( one all waits );
    $backend->wait_requests( 2, timer => "$by-$_" ) for qw( tick paused any hours all );
    $backend->wait_requests( 1, timer => "$by-blocker" );
    is( ( $api{one}->order("/timers/$by-retry/run") )[0], 202, "$by: a run by hand that fails" );
    is( ( $api{waits}->order("/timers/$by-order/run") )[0], 202, "$by: one that waits for a place" );
    ok( wait_until( sub { ( $api{one}->show("$by-retry")->{running} // {} )->{attempt} || $backend->requests( timer => "$by-retry" ) } ), "$by: it has failed" );
    is( ( $api{one}->order("/timers/$by-hours/pause?for=1h") )[0], 200, "$by: hours is paused" );
    $backend->wait_requests( 1, timer => "$by-retry", ended => 1 );
    # Once more where that took this machine longer than the pause.
    my $pause = sub {
        my @status = map { ( $api{ $_->[0] }->order("$_->[1]/pause?for=2s") )[0] }[ one => "/timers/$by-any" ], [ all => '' ], [ one => "/timers/$by-paused" ];
        return "@status" eq '200 200 200' && $api{one}->show("$by-paused")->{status} eq 'paused';
    };
    ok( wait_until( sub { $pause->() } ), "$by: some are paused for a while, which is seen" );
    $case->{api} = \%api;
}
for my $case (@backward) {
    $case->{at} = time;
    set_clock( $case->{$_}, 0 ) for qw( one all waits );
    $backend->let_go( $case->{by} );
}
for my $case (@backward) {
    my ( $by, $at ) = @$case{qw( by at )};
    my $title = "set back by $case->{step}s";
    goes_on( $title, "$by-$_", $at, 7, $_ eq 'retry' || $_ eq 'first' || $_ eq 'order' ? 1 : 3 ) for qw( tick paused any all retry first order );
    my $paused = $case->{api}{one}->show("$by-hours")->{paused};
    ok( $paused && $paused->{until}, "$title: an hour's pause goes on" ) or diag explain $paused;
    is( scalar( runs_after( $at + 1, "$by-hours" ) ), 0, "$title: without runs" );
    my ( $since, $until ) = map { /T(\d+):(\d+):([\d.]+)/ ? 3600 * $1 + 60 * $2 + $3 : 0 } @{ $paused // {} }{qw( since until )};
    is( sprintf( "%.0f", $until - $since ) % $DAY, 3600, "$title: for an hour" );
    is( ( $case->{api}{one}->order("/timers/$by-hours/resume") )[0], 200, "$title: or until it is resumed" );
    goes_on( "$title: resumed", "$by-hours", $at, 30 );
    $case->{$_}->stop for qw( one all waits );
    is( scalar( $backend->requests( timer => "$by-$_" ) ), 1, "$title: $_ has run once" ) for qw( blocker first order );
    is( scalar( $backend->requests( timer => "$by-retry" ) ), 2, "$title: two attempts" );
}

for my $case (@forward) {
    for my $of ( @{ $case->{of} } ) {
        my ( $nginx, $title ) = @$of{qw( nginx title )};
        goes_on( $title, $_, $of->{at}, 4, 2 ) for @{ $of->{names} };
        my $file = $nginx->prefix . '/timers.state';
        my $in_between = int( 1000 * ( $case->{to} - $case->{from} ) / $case->{every} );
        for my $name ( @{ $of->{names} } ) {
            my $record = wait_record( $file, $name, sub { !$_->{uncounted} && $_->{missed} + $_->{overlaps} >= $in_between - 50 } ) or next;
            # It is told a moment after it is counted.
            my $told = sub { return map { /timer "\Q$name\E": missed (\d+) due times?,/ ? $1 : () } split /\n/, substr $nginx->log, $of->{how} eq 'down' ? $of->{log_from} : 0 };
            wait_until { scalar $told->() } if $record->{missed} > 1000;
            my @told = $told->();
            is( scalar( grep { $_ > 1000 } @told ), $record->{missed} > 1000 ? 1 : 0, "$title: $name: the number is told once" ) or diag "@told";
            cmp_ok( ( sort { $b <=> $a } @told )[0] // 0, '>=', $in_between - 50, "$title: $name: the whole number" ) if $of->{how} eq 'down';
            ok( $record->{missed} + $record->{overlaps} < $in_between + 1000 * ( 60 + $beat->still( $^T, time ) ) / $case->{every}, "$title: $name: and no more" );
        }
        $nginx->stop;
        my $records = read_state($file);
        for my $name ( @{ $of->{names} } ) {
            my ( $dues, $sum ) = account( $records->{$name}, $case->{every}, 0 );
            is( $sum, $dues, "$title: $name: each due time is accounted for" );
        }
        logged_times( $nginx, qr/locked for too long|not counted/, 0, "$title: nothing stands in the way" );
        no_doubles( $title, map { $backend->requests( timer => $_ ) } @{ $of->{names} } );
        no_overlaps( $title, {}, map { $backend->requests( timer => $_ ) } @{ $of->{names} } );
    }
}

done_testing;
