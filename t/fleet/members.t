#!/usr/bin/perl

# What becomes of timers when members of etcd are not there, are killed or stopped, when a majority of them is lost, and
# when all that they knew is: whatever happens, nothing is started twice, and afterwards all goes on by itself, but
# where the fence would go back.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Etcd;
use TimerTest::Fleet;
use TimerTest::Series;

my @names   = map {"t$_"} 1 .. 6;
my $beat    = TimerTest::Beat->start;
my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start( standstill => 1 );
my $timers  = join( '', map { fleet_timer( $backend, $_, 'every=1s offset=0' ) } @names )
    # Runs that are longer than it takes to choose a leader, with beats meanwhile.
    . fleet_timer( $backend, 'long', 'every=9s offset=0', 'fenced/delay/7/ok' )
    . fleet_timer( $backend, 'held', 'every=5s offset=0', 'fenced/held/held/ok', 'timer_timeout 10m;' )
    . timer( $backend, 'alone', 'every=1s' );

sub runs { return grep { $_->{headers}{'x-fleet'} } $backend->requests(@_) }

my $fleet;

sub more {
    my ( $count, $title ) = @_;
    my $at = time;
    my $newer = sub { my ($name) = @_; return grep { $_->{arrived} > $at } $backend->requests( timer => $name ) };
    my @behind;
    # Each may take as long as is promised: about twice the ttl, which is ten seconds.
    ok( wait_until( sub { !( @behind = grep { $newer->($_) < $count } @names ) }, 24 * $count ), "$title: all timers go on" )
        or diag join "\n", explain( $etcd->keys("/nginx-timer/prod/$behind[0]/") ), map { $_->log_lines(qr/"$behind[0]"|fleet "prod"/) } $fleet->hosts;
    return $at;
}

# All hosts have another timer, which is due at this time.
sub with_yearly {
    my ( $name, $reload, $due, $try ) = @_;
    my $yearly = fleet_timer( $backend, "$name$try", 'every=366d offset=' . $due % ( 366 * 86_400 ) . 's' );
    $fleet->change( $_, timers => $timers . $yearly )->$reload for 0 .. 2;
    wait_until { ( $fleet->show( $_, "$name$try" )->{fleet}{state} // '' ) eq 'ok' } for 0 .. 2;
    return;
}

# etcd is not there at the start: nginx is, and all that has nothing to do with it.
$fleet = TimerTest::Fleet->start( hosts => 3, etcd => $etcd, timers => $timers );
$backend->wait_requests( 3 * 3, timer => 'alone' );
logged( $fleet->host($_), qr/\[error\].* fleet "prod" is unreachable: /, "no etcd: web$_ says so" ) for 0 .. 2;
is( $fleet->host(0)->get('/ready')->{status}, 200, 'no etcd: nginx serves' );
$fleet->host(1)->reload_all;
is( scalar( runs() ), 0, 'no etcd: nothing is run' );
is( $fleet->show( 0, 't1' )->{fleet}{state}, 'unreachable', 'no etcd: it is shown' );
is( $fleet->api(0)->ask('/health')->{status}, 503, 'no etcd: health says so' );
is( $fleet->api(0)->ask('/health?scope=host')->{status}, 200, 'no etcd: that of the host does not' );
$etcd->start_all->watch;
more( 2, 'etcd is there' );
logged( $fleet->host($_), qr/\[notice\].* fleet "prod" is reachable/, "etcd is there: web$_ says so" ) for 0, 2;
is( $fleet->api(0)->ask('/health')->{status}, 200, 'etcd is there: and health, too' ) if wait_until { $fleet->api(0)->ask('/health')->{status} == 200 };

# One member of three, and one that is the leader.
$etcd->kill( $etcd->follower );
more( 3, 'a member is killed' );
$etcd->start_all;
$etcd->kill( $etcd->wait_leader );
more( 3, 'the leader is killed' );
$etcd->start_all;

# A leader that is stopped: requests to it hang, those to others wait for the election.
my $stopped = $etcd->wait_leader;
my $at      = time;
$etcd->stop($stopped);
more( 2, 'the leader is stopped' );
wait_until { sleep 0.2; time > $at + 14 };
# nginx leaves it alone: a timer that is due each second does not wait for it each time.
{
    my ( $from, $to ) = ( $at + 3, time );
    my @due = map { my $name = $_; due_times( [ runs( timer => $name ) ], sub { $etcd->leaderless(@_) + $beat->still(@_) }, every => 1000, offset => 0, from => $from, to => $to - 2 ) } @names;
    my ( $all, $missed ) = map { my $key = $_; my $sum = 0; $sum += ref $_->{$key} ? @{ $_->{$key} } : $_->{$key} for @due; $sum } qw( all missed );
    cmp_ok( $missed, '<=', $all / 2, "it stands still: most due times are run ($missed of $all are not)" );
}
$etcd->continue($stopped);
more( 3, 'it goes on' );

# The long runs went on over all that: none was lost but those whose beats could not be told.
my @long = grep { $_->{ended} } runs( timer => 'long' );
is( scalar( grep { $_->{how} ne 'answered' && !$etcd->leaderless( $_->{arrived}, $_->{ended} ) && !$beat->still( $_->{arrived}, $_->{ended} ) } @long ), 0, 'runs of seven seconds end well' )
    or diag explain \@long;
cmp_ok( scalar @long, '>', 0, 'there are such runs' );

# Two of three: no start, a run in progress is given up, and of what was due meanwhile there is one run on one host.
my ($held) = $backend->wait_requests( 1, timer => 'held' );
my ( $due, $try ) = before_due( 12, sub { with_yearly( daily => 'reload', @_ ) } );
my $daily = "daily$try";
$etcd->kill( 0, 1 );
$at = time;
wait_until { ( [ runs( timer => 'held' ) ]->[0]{how} // '' ) eq 'peer' };
my $given_up = [ runs( timer => 'held' ) ]->[0]{ended};
cmp_ok( $given_up - $at - $beat->still( $at, $given_up ), '<', 10, 'no majority: a run is given up within ttl' );
logged( ( grep { $_->log_lines(qr/timer "held": run lost/) } $fleet->hosts )[0] // $fleet->host(0), qr/\[error\].* timer "held": run lost: /, 'and said to be lost' );
wait_until { sleep 0.2; time > $at + 20 };
my $back = time;
# What was claimed before may be started as late as this machine stood still.
my $last = $at + 3 + $beat->still( $at, $back );
my @late = grep { ( $_->{arrived} > $last || $_->{headers}{'x-due'} > $at ) && $_->{arrived} < $back } runs();
is( scalar @late, 0, 'no majority: nothing is started' ) or diag explain [ map { $_->{headers} } @late ];
ok( wait_until( sub { $fleet->show( $_, $daily )->{late_seconds} > 0 } ), "no majority: the daily timer is late on web$_" ) for 0 .. 2;
$backend->let_go('held');
$etcd->start_all;
my ($caught_up) = $backend->wait_requests( 1, timer => $daily );
is( $caught_up->{headers}{'x-due'}, "$due.000", 'a majority: what was due is run' );
more( 3, 'a majority is back' );
is( scalar( runs( timer => $daily ) ), 1, 'once' );
is( scalar( grep { $_->{headers}{'x-due'} > $at + 3 && $_->{headers}{'x-due'} < $back - 3 } runs( timer => 't1' ) ) <= 1, 1, 'of what was due each second, one is made up for' );

# A timer that somebody has removed from etcd is forgotten, and made anew.
$etcd->delete('/nginx-timer/prod/t2/last');
my $forgotten = qr/\[error\].* fleet "prod" has forgotten timer "t2"/;
ok( wait_until( sub { grep { $_->log_lines($forgotten) } $fleet->hosts } ), 'a timer that was removed is said to be' );
more( 2, 'and goes on' );

# A copy of yesterday: the fence would go back, so nothing is run until somebody says so. web2 has not seen what was
# run since, and what was due then is run by nobody again.
my ( $copy, @stopped );
( $due, $try ) = before_due(
    10,
    sub {
        kill 'CONT', @stopped;
        with_yearly( since => 'reload_all', @_ );
        $copy    = $etcd->snapshot;
        @stopped = ( $fleet->host(2)->pid, $fleet->host(2)->workers );
        kill 'STOP', @stopped;
    }
);
my $since = "since$try";
$backend->wait_requests( 1, timer => $since );
$etcd->restore($copy);
kill 'CONT', @stopped;
$at = time;
for my $n ( 0 .. 2 ) {
    ok( wait_until( sub { $fleet->show( $n, 't1' )->{fleet}{state} eq 'refused' } ), "a copy: refused by web$n" );
}
logged( $fleet->host($_), qr/\[error\].* fleet "prod" refuses: cluster is another one/, "a copy: web$_ says so" ) for 0 .. 2;
my $refused = time;
more_requests( $backend, 6, timer => 'alone' );
is( scalar( grep { $_->{arrived} > $refused } runs() ), 0, 'a copy: nothing is run' );
for my $n ( reverse 0 .. 2 ) {
    my ( $status, $said ) = $fleet->order( $n, '/timers/t1/reset' );
    like( $status, qr/\A(?:200|409)\z/, "a copy: reset on web$n" ) or diag explain $said;
}
my $t1 = $backend->requests( timer => 't1' );
$backend->wait_requests( $t1 + 2, timer => 't1' );
for my $n ( 0 .. 2 ) {
    ok( wait_until( sub { $fleet->show( $n, $since )->{late_seconds} == 0 } ), "a copy: nothing is late on web$n" );
}
is( scalar( runs( timer => $since ) ), 1, 'a copy: what was run since is not run again' );

$fleet->stop;
my @all = runs();
no_start_twice( 'members', @all );
fences_grow( 'members', grep { $_->{arrived} < $at } @all );
done_testing;
