#!/usr/bin/perl

# What the API shows of a state that cannot be kept: a disk that is full when the file has to grow, or at run
# time. The runs happen all the same, and orders are followed or refused, never lost silently. This file
# runs in a mount namespace of its own.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Disk;
use TimerTest::Nginx;
use TimerTest::Series;

in_namespace();

my $backend = TimerTest::Backend->start;
my $rare    = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';
my $hangs   = 'timer_timeout 1h; proxy_read_timeout 1h;';

# Some more runs of a timer, one test.
sub goes_on {
    my ( $name, $title ) = @_;
    my $count = $backend->requests( timer => $name ) + 3;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return cmp_ok( scalar $backend->wait_requests( $count, timer => $name ), '>=', $count, $title );
}

# The request of a run, once the backend has had it.
sub request_of {
    my ( $name, $run ) = @_;
    my $found;
    wait_until { ($found) = grep { $_->{headers}{'x-run'} eq $run } $backend->requests( timer => $name ) };
    return $found;
}

# What a worker says of the state.
sub state_of {
    my ($api) = @_;
    my $health = $api->ask('/health');
    return join ', ', $api->all->{state}, $health->{status}, ( $health->{body} =~ /^the state is (.*)$/m ? $1 : '-' ),
        $api->metrics->{nginx_timer_state_ok}, ( $api->ask('/text')->{body} =~ /^the state is (.*)$/m ? $1 : '-' );
}
my $OK        = 'ok, 200, -, 1, -';
my $DEGRADED  = 'degraded, 503, degraded, 0, degraded';
my $RECOVERED = 'recovered, 200, -, 1, recovered';

sub by_slot {
    my ($nginx) = @_;
    return map { TimerTest::Api->new( $nginx, worker => [ $nginx->worker_in_slot($_) ] ) } 0, 1;
}

my $http = 'keepalive_timeout 1h; keepalive_requests 1000000;';

# No room for the records of new timers.
{
    my $disk  = small_disk();
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        state   => "$disk/grows.state",
        http    => $http,
        server  => 'location /status/ { timer_api write=on; }' . timer( $backend, 'old', 'every=100ms' ),
    );
    $nginx->start;
    my @api = by_slot($nginx);
    is_well( sub { state_of( $api[$_] ) }, $OK, "slot $_: with space, the state is ok" ) for 0, 1;
    fill_disk($disk);
    my @more = map {"more$_"} 1 .. 40;
    my $last = $more[-1];
    $nginx->write_conf( server => $nginx->{server}
            . join( '', map { timer( $backend, $_, 'every=100ms' ) } @more )
            . timer( $backend, 'idle', $rare )
            . timer( $backend, 'any',  $rare, 'ok', 'timer_worker any;' )
            . timer( $backend, 'hang', $rare, 'hang', $hangs ) );
    $nginx->reload_all;
    goes_on( $last, 'no room for more records: a timer without one runs' );
    goes_on( 'old', 'so does one that has its own' );
    @api = by_slot($nginx);
    for my $slot ( 0, 1 ) {
        is( state_of( $api[$slot] ), $DEGRADED, "slot $slot: JSON, health, metrics and the table say so" );
        is( $api[$slot]->all->{state_file}, "$disk/grows.state", "slot $slot: of this file" );
        is( scalar @{ $api[$slot]->all->{timers} }, 44, "slot $slot: all timers are there" );
        is( $api[$slot]->ask("/health/old")->{status}, 503, "slot $slot: for one timer, too" );
    }
    is_well( sub { $api[0]->show($last)->{status} =~ s/running/idle/r }, 'idle', 'its own worker knows that it is well' );
    cmp_ok( $api[0]->show($last)->{counters}{success}, '>=', 3, 'and how often it ran' );

    # Orders for a timer without a record: its own worker follows them, another one refuses them.
    my ( $status, $said ) = $api[0]->order('/timers/idle/run');
    is( $status, 202, 'its own worker takes an order' );
    ok( request_of( 'idle', $said->{run} ), 'and follows it' );
    ( $status, $said ) = $api[1]->order('/timers/idle/run');
    is( $status, 503, 'another one refuses it' );
    ok( $said->{error}, 'and says why' );
    ( $status, $said ) = $api[0]->order('/timers/hang/run');
    ok( request_of( 'hang', $said->{run} ), 'one hangs' );
    is( ( $api[0]->order('/timers/hang/run') )[0],    409, 'is not run twice' );
    is( ( $api[0]->order('/timers/hang/cancel') )[0], 202, 'and can be cancelled' );
    ok( wait_until { !$api[0]->show('hang')->{running} }, 'which ends it' );
    is( ( $api[0]->order("/timers/$last/pause") )[0], 200, 'a pause' );
    my $since = time;
    ok( wait_until { $api[0]->show($last)->{status} eq 'paused' }, 'is known' );
    goes_on( 'old', 'time passes' );
    none_of { $_ > $since + 0.5 } 'and holds', map { due_ms($_) / 1000 } $backend->requests( timer => $last );
    is( ( $api[0]->order("/timers/$last/resume") )[0], 200, 'until it is resumed' );
    goes_on( $last, 'then it goes on' );
    ( $status, $said ) = $api[1]->order('/timers/old/run');
    ok( $status == 202 || $status == 409, 'a timer with a record takes orders of any worker' );

    unlink "$disk/filler";
    $nginx->reload_all;
    @api = by_slot($nginx);
    is_well( sub { state_of( $api[$_] ) }, $OK, "slot $_: with space and a reload, all is well" ) for 0, 1;
    ( $status, $said ) = $api[1]->order('/timers/idle/run');
    is( $status, 202, 'any worker takes orders' );
    ok( request_of( 'idle', $said->{run} ), 'which are followed' );
    goes_on( $last, 'and all run' );
    $nginx->stop;
}

# Writing fails at run time.
{
    my $disk  = small_disk();
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        state   => "$disk/fails.state",
        http    => $http,
        server  => 'location /status/ { timer_api write=on; }' . timer( $backend, 'fails', 'every=100ms' ) . timer( $backend, 'rare', $rare ),
    );
    $nginx->start;
    my @api = by_slot($nginx);
    goes_on( 'fails', 'a disk with space' );
    is_well( sub { state_of( $api[$_] ) }, $OK, "slot $_: is ok" ) for 0, 1;
    # Nobody writes in between: what is in the file by then can be written again.
    my @workers = map { $_->pid } @api;
    ok( stand_still(@workers), 'for a moment nobody writes' );
    truncate "$disk/fails.state", 0;
    fill_disk($disk);
    $nginx->signal( 'CONT', $_ ) for @workers;
    goes_on( 'fails', 'without space it goes on' );
    for my $slot ( 0, 1 ) {
        my $said;
        ok( wait_until( sub { ( $said = state_of( $api[$slot] ) ) eq $DEGRADED }, 8 ), "slot $slot: JSON, health, metrics and the table say so" ) or diag $said, explain $api[$slot]->all;
    }
    my ( $status, $said ) = $api[0]->order('/timers/rare/run');
    is( $status, 202, 'its own worker takes an order' );
    ok( request_of( 'rare', $said->{run} ), 'and follows it' );
    is( ( $api[1]->order('/timers/rare/run') )[0], 503, 'another one refuses it' );
    is( ( $api[1]->order('/pause') )[0], 503, 'and a pause of all' );
    goes_on( 'fails', 'it goes on' );
    unlink "$disk/filler";
    $nginx->reload_all;
    @api = by_slot($nginx);
    is_well( sub { state_of( $api[$_] ) }, $RECOVERED, "slot $_: with space and a reload there is a new file" ) for 0, 1;
    goes_on( 'fails', 'and it goes on' );
    $nginx->reload_all;
    @api = by_slot($nginx);
    is_well( sub { state_of( $api[$_] ) }, $OK, "slot $_: another reload, and all is well" ) for 0, 1;
    $nginx->stop;
}

# A file that is cut short is seen by a worker that only reads, too, until it is whole again.
{
    my $disk  = small_disk();
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        state   => "$disk/cut.state",
        http    => $http,
        server  => 'location /status/ { timer_api write=on; }' . timer( $backend, 'cut', $rare ),
    );
    $nginx->start;
    my @api = by_slot($nginx);
    is( state_of( $api[$_] ), $OK, "slot $_: a whole file" ) for 0, 1;
    my $whole = slurp("$disk/cut.state");
    truncate "$disk/cut.state", 5000;
    is( state_of( $api[$_] ), $DEGRADED, "slot $_: one that is cut short" ) for 0, 1;
    spew( "$disk/cut.state", $whole );
    is( state_of( $api[$_] ), $OK, "slot $_: whole again" ) for 0, 1;
    $nginx->stop;
}

done_testing;
