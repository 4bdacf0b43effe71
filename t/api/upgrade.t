#!/usr/bin/perl

# Orders while the masters before and after a binary upgrade live side by side, and afterwards: given to a
# worker of either, they hold for the timers of both.

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

my @masters;
END { local ( $?, $! ); kill 'KILL', map { ( $_, children_of($_) ) } grep { is_alive($_) } @masters }

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    daemon  => 1,
    http    => 'keepalive_timeout 1h; keepalive_requests 1000000;',
    server  => 'location /status/ { timer_api write=on; }'
        . timer( $backend, 'idle', $rare )
        . timer( $backend, 'any',  $rare, 'ok', 'timer_worker any;' )
        . timer( $backend, 'off',  'every=100ms enabled=off' )
        . timer( $backend, 'tick', 'every=100ms' )
        . timer( $backend, 'both', 'every=100ms', 'ok', 'timer_worker any;' )
        . timer( $backend, 'first', "$rare first=now", 'hang', $hangs )
        . timer( $backend, 'hang',  $rare, 'hang', $hangs ),
);
$nginx->start;
push @masters, $nginx->pid;
ok( $backend->wait_requests( 1, timer => 'first' ), 'a run is in progress in the old master' );

my $new = start_upgrade( $nginx, $nginx->pid );
push @masters, $new;
isnt( $new, $masters[0], 'two masters' );
my @workers = map {
    my $master = $_;
    [ grep { $_ != $new } children_of($master) ]
} @masters;
is( join( ' ', map { scalar @$_ } @workers ), '2 2', 'with two workers each' );
# Once their timers are armed.
for my $worker ( map {@$_} @workers ) {
    ok( $nginx->wait_log(qr/ $worker#\d+: timer: \d+ timers? in this worker, slot /), "worker $worker has begun" );
}
my %generation = ( ( map { $_ => 'old' } @{ $workers[0] } ), map { $_ => 'new' } @{ $workers[1] } );
my %api = ( old => TimerTest::Api->new( $nginx, worker => $workers[0] ), new => TimerTest::Api->new( $nginx, worker => $workers[1] ) );

# The request of a run, once the backend has had it.
sub request_of {
    my ( $name, $run ) = @_;
    my $found;
    wait_until { ($found) = grep { $_->{headers}{'x-run'} eq $run } $backend->requests( timer => $name ) };
    return $found;
}

# Time passes: by timers that nobody steers.
sub time_passes {
    my $count = $backend->requests( timer => 'both' ) + 8;
    return scalar $backend->wait_requests( $count, timer => 'both' );
}

# Run: each order is followed, once.
my %orders;
for my $round ( 1 .. 4 ) {
    for my $to (qw( old new )) {
        for my $name (qw( idle any off )) {
            my $title = "round $round: to the $to master: $name";
            my $sent  = time;
            my ( $status, $said ) = $api{$to}->order("/timers/$name/run");
            is( $status, 202, "$title is run by hand" );
            my $request = request_of( $name, $said->{run} );
            ok( $request, 'and runs' ) or next;
            push @{ $orders{$name} }, $said->{run};
            note sprintf '%s: by the %s one, after %.0f ms', $title, $generation{ $request->{headers}{'x-pid'} } // '?', 1000 * ( $request->{arrived} - $sent );
            cmp_ok( $request->{arrived} - $sent - $beat->still( $sent, $request->{arrived} ), '<', 5 * $TimerTest::SLOW, 'soon' );
            ok( wait_until { !$api{$to}->show($name)->{running} }, 'to its end' );
        }
    }
}
time_passes();
for my $name ( sort keys %orders ) {
    is( join( ' ', map { $_->{headers}{'x-run'} } $backend->requests( timer => $name ) ), "@{ $orders{$name} }", "$name: one run for each order" );
}

# Cancel: a run of the old master, by a worker of the new one.
for my $to (qw( new old )) {
    is( $generation{ $api{$to}->show('first')->{running}{pid} }, 'old', "the $to master knows of the run in the old one" );
}
my ( $status, $said ) = $api{new}->order('/timers/first/cancel');
is( $status, 202, 'a worker of the new master cancels it' );
my ($ended) = $backend->wait_requests( 1, timer => 'first', ended => 1 );
is( ( $ended // {} )->{headers}{'x-run'}, $said->{run}, 'it ends' );
ok( wait_until { ( $api{old}->show('first')->{last} // {} )->{outcome} }, 'and is recorded' );
is( $api{$_}->show('first')->{last}{outcome}, 'cancelled', "as the $_ master knows" ) for qw( old new );

# And whichever master runs it, by a worker of the other one.
my %cancelled;
for my $round ( 1 .. 6 ) {
    my $to = $round % 2 ? 'old' : 'new';
    my ( undef, $ordered ) = $api{$to}->order('/timers/hang/run');
    my $request = request_of( 'hang', $ordered->{run} );
    ok( $request, "round $round: to the $to master: a run is in progress" ) or next;
    my $by    = $generation{ $request->{headers}{'x-pid'} };
    my $other = $by eq 'old' ? 'new' : 'old';
    $cancelled{$by}++;
    ok( wait_until { $api{$other}->show('hang')->{running} }, "in the $by one, as the other knows" );
    is( ( $api{$_}->order('/timers/hang/run') )[0], 409, "the $_ master does not run it twice" ) for qw( old new );
    my $sent = time;
    ( $status, $said ) = $api{$other}->order('/timers/hang/cancel');
    is( "$status $said->{run}", "202 $ordered->{run}", 'the other one cancels it' );
    ok( wait_until { !$api{$other}->show('hang')->{running} }, 'it ends' );
    my $now = time;
    cmp_ok( $now - $sent - $beat->still( $sent, $now ), '<', 5 * $TimerTest::SLOW, 'soon' );
    is( $api{$other}->show('hang')->{last}{outcome}, 'cancelled', 'as ordered' );
}
note join ', ', map {"$cancelled{$_} in the $_ master"} sort keys %cancelled;

# Pause: holds for both.
my ( $since, $resumed );
for my $case ( [ 'old', '/timers/tick', 'tick' ], [ 'new', '/timers/tick', 'tick' ], [ 'old', '', 'tick', 'both' ], [ 'new', '', 'tick', 'both' ] ) {
    my ( $to, $path, @names ) = @$case;
    ( $status, $said ) = $api{$to}->order("$path/pause");
    $since = time;
    is( $status, 200, "POST $path/pause to the $to master" );
    for my $who (qw( old new )) {
        my $shown = @names == 1 ? $api{$who}->show('tick') : $api{$who}->all;
        is_deeply( $shown->{paused}, $said->{paused}, "the $who one knows" );
    }
    if ( @names == 1 ) { time_passes() }
    else               { wait_until { time > $since + 1.5 } }
    my $until = time;
    for my $name (@names) {
        none_of { $_ > $since + 0.5 && $_ < $until } "$name does not run", map { due_ms($_) / 1000 } $backend->requests( timer => $name );
    }
    my $other = $to eq 'old' ? 'new' : 'old';
    is( ( $api{$other}->order("$path/resume") )[0], 200, 'the other one resumes' );
    $resumed = time;
    for my $name (@names) {
        ok( wait_until { grep { due_ms($_) > 1000 * $resumed } $backend->requests( timer => $name ) }, "$name goes on" );
    }
}

# The old master leaves: what was ordered holds, and orders are taken.
( $status, $said ) = $api{old}->order('/timers/tick/pause');
$since = time;
is( $status, 200, 'a pause by the old master' );
my ( undef, $last ) = $api{old}->order('/timers/idle/run');
$nginx->signal( 'QUIT', $masters[0] );
$_->socket->close for delete $api{old};
ok( wait_until( sub { !is_alive( $masters[0] ) } ), 'which then leaves' );
$nginx->{pid} = $new;
ok( request_of( 'idle', $last->{run} ), 'its last order is followed' );
is_deeply( $api{new}->show('tick')->{paused}, $said->{paused}, 'its pause goes on' );
time_passes();
none_of { $_ > $since + 0.5 } 'nothing runs meanwhile', map { due_ms($_) / 1000 } $backend->requests( timer => 'tick' );
is( ( $api{new}->order('/timers/tick/resume') )[0], 200, 'the new one resumes' );
$resumed = time;
ok( wait_until { grep { due_ms($_) > 1000 * $resumed } $backend->requests( timer => 'tick' ) }, 'it runs' );
( $status, $said ) = $api{new}->order('/timers/any/run');
my $request = request_of( 'any', $said->{run} );
is( $generation{ $request->{headers}{'x-pid'} }, 'new', 'and what is run by hand' );
( $status, $said ) = $api{new}->order('/timers/hang/run');
ok( request_of( 'hang', $said->{run} ), 'what hangs' );
is( ( $api{new}->order('/timers/hang/cancel') )[0], 202, 'is cancelled' );
ok( wait_until { !$api{new}->show('hang')->{running} }, 'and ends' );

is( scalar( $backend->requests( timer => 'first' ) ), 1, 'first=now once' );
no_doubles( 'orders in an upgrade', $backend->requests );
no_overlaps( 'orders in an upgrade', {}, $backend->requests );
logged_times( $nginx, qr/order was taken by no worker|record is locked for too long/, 0, 'no order was lost' );
$nginx->stop;

done_testing;
