#!/usr/bin/perl

# Timers without a record, for want of room in the file, over reloads: one run at a time, no due time twice, no other
# worker says that anything was missed, or shows a state of a timer that it knows nothing of. With room again each has
# a record. This file runs in a mount namespace of its own.

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
my $disk    = small_disk(256);
my $port    = free_port();

# Enough timers with records that the others need more room than there is.
my $old  = join '', map { timer( $backend, "old$_", 'every=1s' ) } 1 .. 3;
my %more = (
    fast  => [ 'every=100ms offset=0', 'delay/0.02/ok' ],
    slow  => [ 'every=300ms offset=0', 'delay/0.7/ok' ],
    wait  => [ 'every=300ms offset=0', 'delay/0.7/ok', 'timer_overlap queue;' ],
    any   => [ 'every=200ms offset=0', 'delay/0.45/ok', 'timer_worker any;' ],
    auto  => [ 'every=200ms offset=0', 'delay/0.02/ok', 'timer_worker auto;' ],
    retry => [ 'every=400ms offset=0', 'by-turns/status/500', 'timer_retry 1 backoff=50ms;' ],
    rare  => ['every=366d'],
    first => ['every=366d first=now'],
);
my @more = sort keys %more;
my $fill = join '', map { timer( $backend, "fill$_", 'every=366d' ) } 1 .. 40;
my $new  = join '', map { timer( $backend, $_, @{ $more{$_} } ) } @more;

my $nginx = TimerTest::Nginx->new(
    workers => 3,
    state   => "$disk/timers.state",
    http    => "server { listen 127.0.0.1:$port reuseport; location = /ready { return 200 \"\$pid\\n\"; } location /status/ { timer_api write=on; } }",
    server  => $old,
);
$nginx->start;
$backend->wait_requests( 1, timer => 'old1' );
fill_disk($disk);
$nginx->write_conf( server => $old . $fill . $new );

# One test: all run in workers that live now.
sub all_go_on {
    my ($title) = @_;
    my $at      = time;
    my %zero    = map { $_ => 1 } $nginx->workers;
    my %missing;
    my $go_on = sub {
        %missing = ();
        for my $name ( grep { !/rare|first/ } @more ) {
            my @runs = grep { due_ms($_) > 1000 * $at && $zero{ $_->{headers}{'x-pid'} } } $backend->requests( timer => $name );
            $missing{$name} = 1 if @runs < 2;
        }
        return !%missing;
    };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( wait_until { $go_on->() }, "$title: all go on" ) || diag "not: @{[ sort keys %missing ]}";
}

# Reloads, each in the middle of a run.
for my $round ( 1 .. 4 ) {
    $nginx->reload;
    all_go_on("reload $round");
    my $name = ( qw( slow wait any ) )[ $round % 3 ];
    wait_until { grep { !$_->{ended} && time - $_->{arrived} < 0.3 } $backend->requests( timer => $name ) };
}
logged( $nginx, qr/\[crit\].*pwrite\(\) "\Q$disk\E\/timers\.state" failed \(28: No space left on device\)/, 'there was no room' );

# What a worker says of a timer that it knows nothing of.
my %api = map { $_ => TimerTest::Api->new( $nginx, worker => [ $nginx->worker_in_slot($_) ], port => $port ) } 0 .. 2;
my %runs_in;
for my $name ( grep { !/rare/ } @more ) {
    $runs_in{$name}{ $_->{headers}{'x-slot'} } = 1 for $backend->requests( timer => $name );
}
for my $name ( grep { !/first/ } @more ) {
    my @slots = $name eq 'rare' ? (0) : sort keys %{ $runs_in{$name} };
    is( scalar @slots, 1, "$name: one slot runs it" ) or diag "@slots";
    for my $slot ( 0 .. 2 ) {
        my $shown = $api{$slot}->show($name);
        if ( $slot == $slots[0] ) {
            isnt( $shown->{status}, 'unknown', "$name: its owner knows" );
            next;
        }
        is( $shown->{status}, 'unknown', "$name: slot $slot does not" );
        ok( !$shown->{counters}, "$name: and tells no numbers" );
        is( ( $api{$slot}->order("/timers/$name/run") )[0], 503, "$name: and takes no orders" );
    }
}
is( ( $api{0}->order('/timers/rare/run') )[0], 202, 'its owner takes an order' );
$backend->wait_requests( 1, timer => 'rare', ended => 1 );
is( $api{$_}->ask('/health')->{status}, 503, "slot $_: health is 503" ) for 0 .. 2;

# Nothing was missed that had its run, and nobody tells of what was another worker's.
my %owner = map { $_ => 1 } map { $_->{headers}{'x-pid'} } map { $backend->requests( timer => $_ ) } @more;
for my $name ( grep { !/rare|first/ } @more ) {
    my ($every) = $more{$name}[0] =~ /every=(\d+)ms/;
    my @runs    = $backend->requests( timer => $name );
    my %ran     = map { $_->{headers}{'x-pid'} => 1 } @runs;
    my ( $missed, @false ) = (0);
    for my $line ( $nginx->log_lines(qr/ timer "$name": missed \d+ due time/) ) {
        my ( $pid, $count ) = $line =~ / (\d+)#\d+: timer "[^"]+": missed (\d+) /;
        push @false, $line if !$ran{$pid};
        # (The newest of these gets its run.)
        $missed += $line =~ /running once/ ? $count - 1 : $count;
    }
    is( join( "\n", @false ), '', "$name: nobody else says that anything was missed" );
    cmp_ok( $missed, '<=', scalar lost_dues( $every, $runs[0]{arrived}, time, @runs ), "$name: nothing was missed that had its run" );
}
none_of { my ($pid) = / (\d+)#\d+: /; !$owner{$pid} } 'only owners tell of these timers', grep { /timer "([^"]+)"/ && $more{$1} } $nginx->log_lines(qr/\[(?:warn|error)\]/);
logged_times( $nginx, qr/process \d+ died/, 0, 'nobody has died' );

unlink "$disk/filler";
$nginx->reload_all;
all_go_on('with room');
%api = map { $_ => TimerTest::Api->new( $nginx, worker => [ $nginx->worker_in_slot($_) ], port => $port ) } 0 .. 2;
for my $slot ( 0 .. 2 ) {
    my $health;
    ok( wait_until( sub { ( $health = $api{$slot}->ask('/health') )->{status} == 200 } ), "slot $slot: with room health is ok" ) or diag $health->{body};
    isnt( $api{$slot}->show($_)->{status}, 'unknown', "slot $slot: $_ is known" ) for @more;
}
$nginx->stop;
is( scalar( $backend->requests( timer => 'first' ) ), 1, 'one first run' );
is( scalar( $backend->requests( timer => 'rare' ) ), 1, 'one run by hand' );
for my $name ( grep { !/rare|first/ } @more ) {
    no_doubles( $name, $backend->requests( timer => $name ) );
    no_overlaps( $name, {}, $backend->requests( timer => $name ) );
}

done_testing;
