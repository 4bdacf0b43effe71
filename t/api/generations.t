#!/usr/bin/perl

# Orders that a worker of an old generation takes after a reload, from a client that was slow: the new
# generation's timers follow them, also when the worker that took them has gone or died. And orders for
# runs that are in progress in an old worker.

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

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;
my $rare    = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';
my $hangs   = 'timer_timeout 1h; proxy_read_timeout 1h;';

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => 'client_header_timeout 1h; keepalive_timeout 1h; keepalive_requests 1000000;',
    server  => 'location /status/ { timer_api write=on; } location = /stub { stub_status; }'
        . timer( $backend, 'idle', $rare )
        . timer( $backend, 'other', $rare )
        . timer( $backend, 'any',  $rare, 'ok', 'timer_worker any;' )
        . timer( $backend, 'tick', 'every=100ms' )
        . timer( $backend, 'tock', 'every=100ms' )
        . timer( $backend, 'hang1', "$rare first=now", 'hang', $hangs )
        . timer( $backend, 'hang2', "$rare first=now", 'hang', $hangs )
        . timer( $backend, 'hang3', $rare, 'hang', $hangs ),
    allow => [qr/exited on signal 9/],
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => $_ ), "$_ is in progress" ) for qw( hang1 hang2 );

# Requests that have begun when the reload comes, and end after it. They are begun one by one, as an idle
# connection would be closed.
my @old = ( $nginx->worker_in_slot(0), $nginx->worker_in_slot(1) );
my %begun;

sub begin {
    my ( $slot, $path ) = @_;
    my $client  = $begun{"$slot$path"} = TimerTest::Api->new( $nginx, worker => [ $old[$slot] ] );
    my $reading = keys %begun;
    $client->say( 'POST', "/status$path", part => 1 );
    return ok( wait_until { $nginx->stub_status('/stub')->{reading} >= $reading }, "old slot $slot: POST $path has begun" );
}

# The end of it: its status, and what was said.
sub end {
    my ( $slot, $path ) = @_;
    my $client = delete $begun{"$slot$path"};
    $client->end_request;
    my $answer = $client->hear;
    return ( $answer->{status}, json($answer) // {} );
}

for my $slot ( 0, 1 ) {
    begin( $slot, $_ ) for map( {"/timers/$_"} qw( idle/run any/run hang3/cancel tick/pause tick/resume ) ), '/pause', '/resume', '/timers/other/run';
}
begin( 1, '/timers/hang1/cancel' );
# This one never ends: it keeps the worker until that is killed.
begin( 0, '/timers/hang2/cancel' );
$nginx->reload;
ok( $nginx->wait_log(qr/ $_#\d+: gracefully shutting down/), "worker $_ leaves" ) for @old;
my @new = ( $nginx->worker_in_slot(0), $nginx->worker_in_slot(1) );
my $api = TimerTest::Api->new( $nginx, worker => [ $new[1] ] );

# The request of a run, once the backend has had it.
sub request_of {
    my ( $name, $run ) = @_;
    my $found;
    wait_until { ($found) = grep { $_->{headers}{'x-run'} eq $run } $backend->requests( timer => $name ) };
    return $found;
}

# A run that was ordered, by whom, how soon.
sub ran {
    my ( $title, $name, $run, $sent, @by ) = @_;
    my $found = request_of( $name, $run );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok( $found, "$title: it runs" ) or return;
    ok( ( grep { $found->{headers}{'x-pid'} == $_ } @by ), "$title: in a new worker" ) or diag explain $found;
    note sprintf '%s: after %.0f ms', $title, 1000 * ( $found->{arrived} - $sent );
    cmp_ok( $found->{arrived} - $sent - $beat->still( $sent, $found->{arrived} ), '<', 5 * $TimerTest::SLOW, "$title: in about 1 s" );
    ok( wait_until { !$api->show($name)->{running} }, "$title: to its end" );
    return;
}

# One test: a timer has come to due times later than this.
sub passes {
    my ( $name, $instant, $title ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( wait_until { grep { due_ms($_) > $instant * 1000 } $backend->requests( timer => $name ) }, $title );
}

sub dues_between {
    my ( $name, $from, $to ) = @_;
    return grep { $_ > $from && $_ < $to } map { due_ms($_) / 1000 } $backend->requests( timer => $name );
}

for my $slot ( 0, 1 ) {
    my $title = "old slot $slot";

    # Run.
    for my $name (qw( idle any )) {
        my $sent = time;
        my ( $status, $said ) = end( $slot, "/timers/$name/run" );
        is( $status, 202, "$title: $name is run by hand" );
        ran( "$title: $name", $name, $said->{run}, $sent, $name eq 'any' ? @new : $new[0] );
    }

    # Cancel what runs in a new worker.
    my ( undef, $ordered ) = $api->order('/timers/hang3/run');
    my $request = request_of( 'hang3', $ordered->{run} );
    is( ( $request // {} )->{headers}{'x-pid'}, $new[0], "$title: a new worker has a run in progress" );
    my $sent = time;
    my ( $status, $said ) = end( $slot, '/timers/hang3/cancel' );
    is( $status,      202,             "$title: which is cancelled" );
    is( $said->{run}, $ordered->{run}, 'and named' );
    ok( wait_until { !$api->show('hang3')->{running} }, 'it ends' );
    is( $api->show('hang3')->{last}{outcome}, 'cancelled', 'cancelled' );
    my ($ended) = grep { $_->{headers}{'x-run'} eq $ordered->{run} } $backend->wait_requests( $slot + 1, timer => 'hang3', ended => 1 );
    cmp_ok( $ended->{ended} - $sent - $beat->still( $sent, $ended->{ended} ), '<', 5 * $TimerTest::SLOW, 'in about 1 s' );

    # Pause and resume, one and all.
    for my $case ( [ '/timers/tick', 'tick' ], [ '', 'tick', 'tock' ] ) {
        my ( $path, @names ) = @$case;
        ( $status, $said ) = end( $slot, "$path/pause" );
        my $since = time;
        is( $status, 200, "$title: POST $path/pause" );
        is_deeply( ( @names == 1 ? $api->show('tick') : $api->all )->{paused}, $said->{paused}, 'the new workers know' );
        if   ( @names == 1 ) { passes( 'tock', $since + 1.5, 'time passes' ) }
        else                 { ok( wait_until { time > $since + 1.5 }, 'time passes' ) }
        my $until = time;
        for my $name (@names) {
            my @late = dues_between( $name, $since + 0.5, $until );
            is( "@late", '', "$name is paused" );
        }
        ( $status, $said ) = end( $slot, "$path/resume" );
        is( $status, 200, "$title: POST $path/resume" );
        my $resumed = time;
        passes( $_, $resumed, "$_ goes on" ) for @names;
        for my $name (@names) {
            my ($first) = sort { $a <=> $b } dues_between( $name, $resumed, 9e9 );
            cmp_ok( $first - $resumed - $beat->still( $resumed, $first ), '<', 5 * $TimerTest::SLOW, 'in about 1 s' );
        }
    }
}

# What runs in an old worker: cancelled by way of another old one, and of a new one.
my %canceller = ( hang1 => sub { end( 1, '/timers/hang1/cancel' ) }, hang2 => sub { $api->order('/timers/hang2/cancel') } );
for my $name ( sort keys %canceller ) {
    is( $api->show($name)->{running}{pid}, $old[0], "$name runs in the old worker still" );
    my $sent = time;
    my ( $status, $said ) = $canceller{$name}->();
    is( $status, 202, 'it is cancelled' );
    my ($ended) = $backend->wait_requests( 1, timer => $name, ended => 1 );
    is( ( $ended // {} )->{headers}{'x-run'}, $said->{run}, 'it ends' );
    cmp_ok( $ended->{ended} - $sent - $beat->still( $sent, $ended->{ended} ), '<', 5 * $TimerTest::SLOW, 'in about 1 s' );
    ok( wait_until { ( $api->show($name)->{last} // {} )->{outcome} }, 'and is recorded' );
    is( $api->show($name)->{last}{outcome}, 'cancelled', 'as cancelled' );
}

# The owner hangs, and the old worker that took the order ends by itself, or is killed.
my @orders;
for my $slot ( 1, 0 ) {
    is( scalar( $backend->requests( timer => 'other' ) ), @orders, 'it has run for each order' );
    $nginx->signal( 'STOP', $new[0] );
    my ( $status, $said ) = end( $slot, '/timers/other/run' );
    is( $status, 202, "old slot $slot: takes an order while the new owner hangs" );
    $nginx->signal( 'KILL', $old[0] ) if $slot == 0;
    ok( $nginx->wait_gone( [ $old[$slot] ] ), $slot ? 'and ends with its last client' : 'and is killed' );
    my $continued = time;
    $nginx->signal( 'CONT', $new[0] );
    ran( "old slot $slot", 'other', $said->{run}, $continued, $new[0] );
    push @orders, $said->{run};
}
passes( 'tock', time, 'time passes' );
is( join( ' ', map { $_->{headers}{'x-run'} } $backend->requests( timer => 'other' ) ), "@orders", 'each order was followed once' );
is( scalar( $backend->requests( timer => $_ ) ), 2, "$_ has run twice" ) for qw( idle any hang3 );
is( scalar( $backend->requests( timer => $_ ) ), 1, "$_ has run once" ) for qw( hang1 hang2 );
logged_times( $nginx, qr/\[notice\].* timer "idle": run by hand, run: [0-9a-f]{32}, client: 127\.0\.0\.1,/, 2, 'old workers log orders, too' );
logged_times( $nginx, qr/order was taken by no worker/, 0, 'no order was dropped' );
no_doubles( 'orders in a reload', $backend->requests );
no_overlaps( 'orders in a reload', {}, $backend->requests );
$nginx->stop;

done_testing;
