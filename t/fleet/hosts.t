#!/usr/bin/perl

# Hosts that are cut off, stand still, die, or are reloaded in the middle of runs, all of them at once: a host that is
# cut off gives its run up before another one starts it, one that stood still when it goes on; what has died is
# removed after ttl, at once if only the worker died; and repeated where timer_retry says so. A host that was away
# counts what others have run meanwhile.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;
use TimerTest::Fleet;
use TimerTest::Series;
use TimerTest::StateFile;

my %node = ( cut => 0, stopped => 1, worker => 2, dead => 3, reloaded => 4, orphaned => 5 );
# Of each host: timers of which a run is made once, and those of which it is repeated.
my %of = map { my $what = $_; $what => { map { my $how = $_; $how => [ map {"$what-$how-$_"} 1, 2 ] } qw( once repeat ) } } keys %node;
my @once   = map { @{ $_->{once} } } values %of;
my @repeat = map { @{ $_->{repeat} } } values %of;
my $ttl     = 10;
my $beat    = TimerTest::Beat->start;
my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start->watch;
my $proxy   = TimerTest::EtcdProxy->start($etcd);

# Who claims for another comes after it.
my @late = map {
    my $what = $_;
    $proxy->rule( kind => 'claim', host => "web$node{$what}", timer => [ map { @{ $_->{once} }, @{ $_->{repeat} } } @of{ grep { $_ ne $what } keys %of } ], do => 'behind' );
} keys %node;

# One due time, in a moment, and no other before the end; two seconds later for each host, which all the others ask etcd
# for, and wait: then they are free again.
# A first attempt lasts until it is let go, a second does not.
my $due    = int( time + 8 );
my $period = sub { my ($what) = $_[0] =~ /(\w+)/; return 'every=600s offset=' . ( $due + 2 * $node{$what} ) % 600 . 's' };
my $fleet  = TimerTest::Fleet->start(
    hosts   => 6,
    etcd    => $etcd,
    proxy   => $proxy,
    options => { allow => [qr/exited on signal 9/] },
    timers  => join( '', map { fleet_timer( $backend, $_, $period->($_), "fenced/held/$_/ok", 'timer_timeout 5m;' ) } @once )
        . join( '', map { fleet_timer( $backend, $_, $period->($_), "fenced/by-turns/held/$_/ok", 'timer_timeout 5m; timer_retry 2 on=interrupted;' ) } @repeat )
        . fleet_timer( $backend, 'tick', 'every=1s offset=0' ),
);
my %first = map { $_ => ( $backend->wait_requests( 1, timer => $_ ) )[0] } @once, @repeat;
is( host_of( $first{$_} ), 'web' . $node{ /(\w+)/ && $1 }, "$_: where it is to be" ) for sort keys %first;
$proxy->clear(@late);

# All of it at once.
my $at      = time;
my $cut     = $proxy->rule( do => 'hang', host => 'web0' );
my $stopped = $fleet->host(1)->worker_in_slot(0);
stand_still($stopped);
kill KILL => $fleet->host(2)->worker_in_slot(0);
my $state  = $fleet->host(3)->prefix . '/timers.state';
my $ticked = read_state($state)->{tick};
$fleet->host(3)->kill_all;
$fleet->host(4)->reload for 1 .. 4;
kill KILL => $fleet->host(5)->pid;
my $struck = time;

# On the one that was cut off: within ttl of its last beat, by itself; and before anyone else.
my $slow = sub { return $beat->still( $_[0], $_[1] ) + $etcd->leaderless( $_[0], $_[1] ) };
# The first request of a timer, once it has ended; the second one may have done so before.
sub first_ended {
    my ($name) = @_;
    my $run;
    ok( wait_until( sub { ($run) = $backend->requests( timer => $name ); $run && $run->{ended} } ), "$name: the first run ends" );
    return $run;
}

sub second { return ( $backend->wait_requests( 2, timer => $_[0] ) )[1] }
for my $name ( @{ $of{cut}{once} }, @{ $of{cut}{repeat} } ) {
    my $run = first_ended($name);
    is( $run->{how}, 'peer', "cut off: $name is given up" );
    cmp_ok( $run->{ended} - $struck - $slow->( $struck, $run->{ended} ), '<', $ttl, 'within ttl' );
}
for my $name ( @{ $of{cut}{repeat} }, @{ $of{stopped}{repeat} }, @{ $of{worker}{repeat} }, @{ $of{dead}{repeat} } ) {
    my $again = second($name);
    my %h     = %{ $again->{headers} };
    is( "$h{'x-attempt'} $h{'x-run'}", "2 $first{$name}{headers}{'x-run'}", "$name: the same run again" );
    cmp_ok( $h{'x-fence'}, '>', $first{$name}{headers}{'x-fence'}, 'with a larger fence' );
    is( $h{'x-due'}, $first{$name}{headers}{'x-due'}, 'for the same due time' );
}
for my $name ( @{ $of{cut}{repeat} } ) {
    cmp_ok( ( [ $backend->requests( timer => $name ) ]->[0] )->{ended}, '<', second($name)->{arrived}, "cut off: $name is started only then" );
    isnt( host_of( second($name) ), 'web0', 'elsewhere' );
}
for my $name ( @{ $of{dead}{repeat} }, @{ $of{stopped}{repeat} } ) {
    cmp_ok( second($name)->{arrived} - $at, '>', $ttl - $ttl / 3 - 1, "$name: not before ttl has passed since a beat" );
    ok( scalar( $proxy->exchanges( kind => 'remove', timer => $name ) ), 'once it was removed' );
}
for my $name ( @{ $of{worker}{repeat} }, @{ $of{worker}{once} } ) {
    wait_until { !$etcd->keys->{"/nginx-timer/prod/$name/run"} };
    is( scalar( my @removed = $proxy->exchanges( kind => 'remove', timer => $name ) ), 0, "a worker that was killed: nobody had to wait for $name" );
}
is( $fleet->show( 2, $_ )->{last}{outcome}, 'interrupted', "a worker that was killed: $_ was interrupted" ) for @{ $of{worker}{once} };

# The one that stood still sends nothing more of what it had.
wait_until { sleep 0.2; time > $struck + 2 * $ttl };
kill CONT => $stopped;
for my $name ( @{ $of{stopped}{once} }, @{ $of{stopped}{repeat} } ) {
    my $run = first_ended($name);
    is( $run->{how}, 'peer', "stopped: $name is given up when it goes on" );
}
for my $n ( 0, 1 ) {
    for my $name ( @{ $of{ $n ? 'stopped' : 'cut' }{once} } ) {
        logged( $fleet->host($n), qr/\[error\].* timer "$name": run lost: /, "web$n: $name is lost" );
        ok( wait_record( $fleet->host($n)->prefix . '/timers.state', $name, sub { $_->{lost} == 1 } ), 'and counted' );
    }
}
$proxy->clear($cut);

# Those that were reloaded, or lost their master, know nothing of it: their runs end well, beats and all.
for my $what (qw( reloaded orphaned )) {
    for my $name ( @{ $of{$what}{once} }, @{ $of{$what}{repeat} } ) {
        is( [ $backend->requests( timer => $name ) ]->[0]{ended}, undef, "$what: $name goes on" );
        $backend->let_go($name);
        is( ( $backend->wait_requests( 1, timer => $name, ended => 1 ) )[0]{how}, 'answered', 'to its end' );
        ok( wait_until( sub { !$etcd->keys->{"/nginx-timer/prod/$name/run"} } ), 'of which all are told' );
        like( $etcd->get("/nginx-timer/prod/$name/done") // '', qr/\A$first{$name}{headers}{'x-run'} \S+ success\z/, 'how it was' );
    }
}

# The one that died is back: what was due meanwhile was run elsewhere.
my $before = $backend->requests( timer => 'tick' );
$fleet->host(3)->start;
$backend->wait_requests( $before + 3, timer => 'tick' );
my $gone   = time - $struck;
my $record = wait_record( $state, 'tick', sub { $_->{elsewhere} >= $ticked->{elsewhere} + $gone - 5 } );
cmp_ok( $record->{missed} - $ticked->{missed}, '<=', 1 + $slow->( $struck, time ), 'and not missed' );

# A run by hand of what has died, and of what goes on.
$backend->let_go($_) for @once, @repeat;
my $died = $of{dead}{once}[0];
my ( $status, $said ) = $fleet->order( 0, "/timers/$died/run" );
like( $status, qr/\A20[02]\z/, 'by hand' ) or diag explain $said;
my $by_hand = second($died);
is( $by_hand->{headers}{'x-trigger'} . ' ' . host_of($by_hand), 'manual web0', 'on the host that was asked' );

# The workers whose master was killed stay; they are this test's.
$fleet->host(5)->{allow} = [qr/./];
my @left = map { $fleet->host(5)->log =~ /start worker process (\d+)$/mg } 1;
kill KILL => grep { is_alive($_) } @left;
for my $n ( 0 .. 4 ) { $fleet->host($n)->stop }

my @runs = $backend->requests;
no_start_twice( 'hosts', @runs );
fences_grow( 'hosts', @runs );
for my $name ( map { @{ $_->{once} } } @of{qw( cut stopped worker dead reloaded orphaned )} ) {
    is( scalar( starts( $backend->requests( timer => $name ) ) ), 1, "$name: is started once" );
}
done_testing;
