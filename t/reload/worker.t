#!/usr/bin/perl

# Which worker runs what: slot 0 by default, the name's slot with "auto"; nobody else.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

sub location {
    my ( $name, $more ) = @_;
    return "location \@$name { timer $name every=100ms; $more proxy_set_header X-Timer $name; proxy_set_header X-Slot \$timer_worker;"
        . " proxy_set_header X-Pid \$pid; proxy_pass http://127.0.0.1:$port; }\n";
}

my $nginx = TimerTest::Nginx->new(
    workers => 4,
    server  => 'timer_worker auto; location = /slot { return 200 "$timer_worker $pid\n"; }'
        . join( '', map { location( "auto$_", '' ) } 1 .. 30 )
        . join( '', map { location( "zero$_", 'timer_worker 0;' ) } 1 .. 5 ),
);
$nginx->start;

# The slots of the workers, by what they say themselves.
my %pid_of;
wait_until {
    my ( $slot, $pid ) = $nginx->get('/slot')->{body} =~ /(\d+) (\d+)/;
    $pid_of{$slot} = $pid if defined $slot;
    keys %pid_of == 4 || $backend->requests > 1000;
};
for my $slot ( sort keys %pid_of ) {
    is( $pid_of{$slot}, $nginx->worker_in_slot($slot), "slot $slot is the worker that says so" );
}

# Where each timer runs: answers { name => slot }, after tests that it is one slot and one process.
sub slots_since {
    my ( $seen, $title ) = @_;

    my %slots;
    wait_until {
        %slots = ();
        my @all = $backend->requests;
        for my $r ( @all[ $seen .. $#all ] ) {
            $slots{ $r->{headers}{'x-timer'} }{ $r->{headers}{'x-slot'} . ' ' . $r->{headers}{'x-pid'} }++;
        }
        35 == grep { 2 <= max_of(%$_) } values %slots;
    };
    is( scalar keys %slots, 35, "$title: all timers run" );
    is( ( grep { keys %$_ != 1 } values %slots ), 0, "$title: each in one worker" )
        or diag explain { map { $_ => $slots{$_} } grep { keys %{ $slots{$_} } != 1 } keys %slots };
    return { map { $_ => ( keys %{ $slots{$_} } )[0] =~ /\A(\d+)/ ? $1 : '' } keys %slots };
}

sub max_of { my (%count) = @_; my $most = 0; $_ > $most and $most = $_ for values %count; return $most }

my $slots = slots_since( 0, 'four workers' );
none_of { $slots->{$_} != 0 } 'timer_worker 0 in a location wins over auto in its server', grep {/^zero/} keys %$slots;
my %used = map { $slots->{$_} => 1 } grep {/^auto/} keys %$slots;
is_deeply( [ sort keys %used ], [ 0 .. 3 ], 'auto uses all workers' );

# The same after a reload.
my @old = $nginx->reload;
$nginx->wait_gone( \@old );
is_deeply( slots_since( scalar $backend->requests, 'after a reload' ), $slots, 'the same slots' );

# Fewer workers: nobody is left behind.
$nginx->write_conf( workers => 2 );
@old = $nginx->reload;
$nginx->wait_gone( \@old );
my $fewer = slots_since( scalar $backend->requests, 'two workers' );
none_of { $fewer->{$_} > 1 } 'slots that are there', keys %$fewer;
none_of { $fewer->{$_} != 0 } 'slot 0 for timer_worker 0', grep {/^zero/} keys %$fewer;
$nginx->stop;

done_testing;
