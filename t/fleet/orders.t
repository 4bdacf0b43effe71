#!/usr/bin/perl

# What people do with the timers of a fleet: a pause of the fleet, and of one host; runs by hand; a run that is on
# another host; hosts whose configurations differ; and what is shown of all that.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Api ();
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Etcd;
use TimerTest::Fleet;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;
my $etcd    = TimerTest::Etcd->start( members => 1 );
my $timers  = join '',
    fleet_timer( $backend, 't', 'every=1s offset=0' ),
    fleet_timer( $backend, 'other', 'every=1s offset=0' ),
    fleet_timer( $backend, 'held', 'every=366d offset=0', 'fenced/held/held/ok' ),
    fleet_timer( $backend, 'failing', 'every=1s offset=0', 'fenced/status/500' ),
    fleet_timer( $backend, 'queued', 'every=5s offset=0', 'fenced/by-turns/held/queued/ok', 'timer_overlap queue;' );
my $fleet = TimerTest::Fleet->start( hosts => 3, etcd => $etcd, timers => $timers, workers => 2 );
$backend->wait_requests( 2, timer => $_ ) for qw( t other failing );

sub timer_json { my ( $n, $name ) = @_; return $fleet->show( $n, $name // 't' ) }
sub more { my ( $name, $count ) = @_; return more_requests( $backend, $count // 2, timer => $name ) }

# What is shown.
my ($run) = more( 't', 1 );
for my $n ( 0 .. 2 ) {
    wait_until { timer_json($n)->{fleet}{last} };
    my $shown = timer_json($n)->{fleet};
    is( "@$shown{qw( name state node )}", "prod ok web$n", "web$n: its fleet" );
    is( $shown->{last}{outcome}, 'success', "web$n: the last run" );
    like( $shown->{last}{node}, qr/\Aweb[012]\z/, "web$n: where it was" );
    is( timer_json( $n, 'failing' )->{health}, 'failing', "web$n: health is the fleet's" ) if wait_until { timer_json( $n, 'failing' )->{health} eq 'failing' };
    cmp_ok( timer_json( $n, 'failing' )->{consecutive_failures}, '>=', 1, "web$n: and failures in a row" );
}
my $metrics = $fleet->api(0)->metrics;
ok( $metrics, 'metrics' );
is( $metrics->{'nginx_timer_fleet_up{fleet="prod"}'}, 1, 'the fleet is up' );
ok( ( grep {/\Anginx_timer_elsewhere_total\{.*timer="t"/} keys %$metrics ), 'elsewhere' );
ok( ( grep {/\Anginx_timer_fleet_requests_total\{fleet="prod",result="\w+"\}/} keys %$metrics ), 'requests' );
like( $fleet->api(1)->ask('/text')->{body}, qr/web[012]/, 'the table says where' );
like( $fleet->api(1)->ask( '/', headers => "Accept: text/html\r\n" )->{body}, qr/web[012]/, 'the page, too' );
my %h = %{ $run->{headers} };
like( "$h{'x-fence'} $h{'x-cluster'} $h{'x-fleet'} $h{'x-node'}", qr/\A\d+ \d+ prod web[012]\z/, 'variables' );

# The fleet is paused, on any host; all hosts stand still, and know it.
my ( $status, $said ) = $fleet->order( 0, '/timers/t/pause?scope=fleet' );
is( $status, 200, 'a pause of the fleet' ) or diag explain $said;
my $paused = time + 1;
more( 'other', 3 );
for my $n ( 0 .. 2 ) {
    ok( wait_until( sub { timer_json($n)->{fleet}{paused} } ), "paused: web$n knows it" ) or diag explain timer_json($n);
}
for my $n ( 0 .. 2 ) {
    my $shown = timer_json($n);
    is( "$shown->{status} " . ( $shown->{next_due} // '-' ) . " @{ $shown->{next} }", 'paused - ', "paused: web$n says so, and that nothing is due" );
    is( $shown->{late_seconds}, 0, "paused: it is not late" );
}
is( $fleet->api(1)->metrics->{'nginx_timer_paused{timer="t"}'} // 'none', 1, 'paused: metrics, too' ) or diag explain [ grep {/paused/} keys %{ $fleet->api(1)->metrics } ];
like( $fleet->api(0)->ask('/text')->{body}, qr/ paused in the fleet .* t\n/, 'paused: the table says so' );
like( $fleet->api(2)->ask( '/', headers => "Accept: text/html\r\n" )->{body}, qr/>paused in the fleet</, 'paused: the page, too' );
$fleet->host(1)->reload;
more( 'other', 2 );
none_of { $_->{headers}{'x-due'} > $paused } 'paused: no run', $backend->requests( timer => 't' );
( $status, $said ) = $fleet->order( 2, '/timers/t/resume?scope=fleet' );
is( $status, 200, 'resumed on another host' ) or diag explain $said;
my $resumed = time;
my @after = more('t');
none_of { $_->{headers}{'x-due'} > $paused && $_->{headers}{'x-due'} < $resumed - 1 } 'resumed: nothing is made up for', @after;
my %was = %{ timer_json(0)->{counters} };

# All timers, for some seconds.
( $status, $said ) = $fleet->order( 1, '/pause?scope=fleet&for=3s' );
is( $status, 200, 'a pause of all timers, for some seconds' ) or diag explain $said;
my $of_all;
ok( wait_until( sub { $of_all = timer_json( 2, 'other' ); $of_all->{fleet}{paused} } ), 'it is known' );
cmp_ok( $of_all->{next}[0] // '', 'gt', $of_all->{fleet}{paused}{until}, 'what is due next is due after it' );
more( 'other', 2 );
pass('and ends by itself');

# One host is drained; others take over.
( $status, $said ) = $fleet->order( 0, '/pause' );
is( $status, 200, 'a pause of one host' ) or diag explain $said;
my $drained = time + 1;
more( 't', 4 );
none_of { host_of($_) eq 'web0' && $_->{headers}{'x-due'} > $drained } 'drained: it runs nothing', $backend->requests( timer => 't' );
$fleet->order( 0, '/resume' );

# By hand: where it was asked for; not twice; and cancelled there only.
( $status, $said ) = $fleet->order( 1, '/timers/held/run' );
like( $status, qr/\A20[02]\z/, 'by hand' ) or diag explain $said;
my ($held) = $backend->wait_requests( 1, timer => 'held' );
is( host_of($held) . " $held->{headers}{'x-trigger'}", 'web1 manual', 'where it was asked for' );
is( wait_until( sub { my $holder = timer_json( 0, 'held' )->{fleet}{holder}; $holder && $holder->{node} } ), 'web1', 'others see where it runs' );
( $status, $said ) = $fleet->order( 0, '/timers/held/cancel' );
is( $status, 409, 'cancelled elsewhere: 409' );
like( JSON::PP::encode_json($said), qr/web1/, 'with the node' );
( $status, $said ) = $fleet->order( 0, '/timers/held/run' );
is( $status, 409, 'run while it runs elsewhere: 409' );
( $status, $said ) = $fleet->order( 1, '/timers/held/cancel' );
like( $status, qr/\A20[02]\z/, 'cancelled where it runs' ) or diag explain $said;
ok( wait_until( sub { !$etcd->keys->{'/nginx-timer/prod/held/run'} } ), 'and ended' );
is( $fleet->show( 1, 'held' )->{last}{outcome}, 'cancelled', 'as cancelled' );
( $status, $said ) = $fleet->order( 2, '/timers/held/run' );
like( $status, qr/\A20[02]\z/, 'then it can be run elsewhere' );
is( host_of( ( $backend->wait_requests( 2, timer => 'held' ) )[1] ), 'web2', 'and is' );

# A due time that is queued until the end of a run elsewhere, for which hosts look every second, or until the next one.
my ($first) = $backend->wait_requests( 1, timer => 'queued' );
wait_until { time > $first->{headers}{'x-due'} + 5.3 && time - 5 * int( time / 5 ) < 1.3 };
my $let_go = time;
$backend->let_go($_) for qw( held queued );
my ( undef, $second ) = $backend->wait_requests( 2, timer => 'queued' );
my $still = $beat->still( $let_go, $second->{arrived} );
cmp_ok( $second->{headers}{'x-due'}, '<', $let_go + ( $still > 1 ? 5 + $still : 0 ), 'queued: it is run when the run has ended, for the due time that waited' );

# A configuration that differs, of which both are told, once.
$fleet->change( 2, timers => $timers =~ s/timer other every=1s offset=0/timer other every=2s offset=0/r )->reload_all;
more( 'other', 4 );
logged( $fleet->host(2), qr/\[warn\].*timer "other".*schedule/, 'another schedule: it is said' );
my $lines = $fleet->host(2)->log_lines(qr/\[warn\].*timer "other".*schedule/);
is( $lines, 1, 'once' );

$fleet->stop;
my @runs = $backend->requests;
no_start_twice( 'orders', @runs );
fences_grow( 'orders', @runs );
done_testing;
