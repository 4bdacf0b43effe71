#!/usr/bin/perl

# QUIT, TERM, USR1, WINCH, USR2 to the master, KILL to workers: what becomes of runs in progress, and
# that timers go on afterwards where there is an afterwards.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;
my $case    = 0;

# Each case has timers of its own names: "often", "long" and more, with the number of the case.
sub location {
    my ( $name, $timer, $uri ) = @_;
    $name .= $case;
    return "location \@$name { timer $name $timer uri=/$uri; proxy_set_header X-Timer $name; proxy_set_header X-Pid \$pid;"
        . " proxy_pass http://127.0.0.1:$port; }\n";
}

sub wait_by {
    my ( $pid, $count, $timer ) = @_;
    return wait_until { $count <= grep { $_->{headers}{'x-pid'} == $pid } $backend->requests( timer => $timer ) };
}

# QUIT: the run in progress ends, then nginx does.
$case++;
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => location( long => 'every=366d first=now', 'delay/1.5/ok' ) . location( often => 'every=50ms', 'ok' ),
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => "long$case" ), 'QUIT: a run is in progress' );
$nginx->signal('QUIT');
is( $nginx->wait_exit, 0, 'nginx ends well' );
my ($long) = $backend->wait_requests( 1, timer => "long$case", ended => 1 );
is( $long->{how}, 'answered', 'after the run' );
like( $nginx->log, qr/timer "long$case": run succeeded: status 200/, 'which succeeded' );
$nginx->stop;

# QUIT with nothing but tomorrow's run, and with one every 10 ms.
$case++;
$nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => 'location @daily { timer daily every=24h; return 204; } location @y { timer yearly every=366d; return 204; }'
        . 'location @busy { timer busy every=10ms; return 204; }',
);
$nginx->start;
ok( $nginx->wait_log(qr/timer "busy": run succeeded/), 'QUIT: idle timers' );
my $began = time;
$nginx->signal('QUIT');
is( $nginx->wait_exit, 0, 'nginx ends well' );
cmp_ok( time - $began, '<', 10 * $TimerTest::SLOW, 'at once' );
$nginx->stop;

# TERM: the run is interrupted, and it is said.
for my $daemon ( 0, 1 ) {
    $case++;
    $nginx = TimerTest::Nginx->new(
        workers => 2,
        daemon  => $daemon,
        server  => location( hangs => 'every=1s', 'hang' ) . location( stalls => 'every=366d first=now', 'stall' )
            . location( often => 'every=20ms', 'ok' ),
    );
    $nginx->start;
    ok( $backend->wait_requests( 1, timer => "$_$case" ), "TERM: a run $_" ) for qw( hangs stalls );
    $began = time;
    $nginx->signal('TERM');
    ok( defined $nginx->wait_exit, 'nginx ends' );
    cmp_ok( time - $began, '<', 10 * $TimerTest::SLOW, 'at once' );
    for my $name (qw( hangs stalls )) {
        my ($run) = $backend->wait_requests( 1, timer => "$name$case", ended => 1 );
        is( $run->{how}, 'peer', "$name: its connection is closed" );
        like( $nginx->log, qr/\[error\].* timer "$name$case": run interrupted: worker was told to stop/, "$name: and it is said" );
    }
    $nginx->stop;
}

# USR1: the logs are opened anew, by their names, and a run goes on.
$case++;
$nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => 'log_format run "$timer_name";',
    server  => 'access_log logs/access.log run;' . location( long => 'every=366d first=now', 'held/usr1/ok' )
        . location( often => 'every=50ms', 'ok' )
        . 'location @logged { timer logged every=50ms; log_subrequest on; return 204; }',
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => "long$case" ), 'USR1: a run is in progress' );
my $zero = $nginx->worker_in_slot(0);
my $logs = $nginx->prefix . '/logs';
rename "$logs/error.log",  "$logs/error.log.1";
rename "$logs/access.log", "$logs/access.log.1";
$nginx->signal('USR1');
ok( wait_until { slurp("$logs/error.log") =~ / \Q$zero\E#/ }, 'its worker writes to the new log' );
$backend->let_go('usr1');
ok( wait_until { slurp("$logs/error.log") =~ /timer "long$case": run succeeded: status 200/ }, 'it ends, in the new log' );
ok( wait_until { slurp("$logs/access.log") =~ /^logged$/m }, 'the access log, too' );
my $count = $backend->requests( timer => "often$case" );
none_of { $_->{headers}{'x-pid'} != $zero } 'in the same worker', $backend->wait_requests( $count + 3, timer => "often$case" );
lacks( slurp("$logs/error.log.1"), qr/$TimerTest::Nginx::BAD_LINE/, 'the old log is clean' );
$nginx->stop;

# KILL to worker 0: its successor has its slot and goes on.
$case++;
$nginx = TimerTest::Nginx->new(
    workers => 3,
    server  => location( often => 'every=50ms', 'ok' ) . location( hangs => 'every=1s', 'hang' ),
    allow   => [qr/\[alert\].*worker process \d+ exited on signal 9/],
);
$nginx->start;
ok( $backend->wait_requests( 3, timer => "often$case" ) >= 3, 'KILL: it runs' );
for my $round ( 1, 2 ) {
    my $victim = $nginx->worker_in_slot(0);
    ok( wait_by( $victim, 1, "hangs$case" ), "round $round: a run is in progress" );
    kill 'KILL', $victim;
    my $heir;
    wait_until { $heir = $nginx->worker_in_slot(0) and $heir != $victim };
    isnt( $heir, $victim, "round $round: there is a new worker 0" );
    ok( wait_by( $heir, 5, "often$case" ), "round $round: it goes on" );
}
my ($victims) = grep { $_->{how} && $_->{how} eq 'peer' } $backend->wait_requests( 1, timer => "hangs$case", ended => 1 );
ok( $victims, "a victim's connection is closed by the kernel" );

# KILL to another worker: worker 0 does not notice.
$zero = $nginx->worker_in_slot(0);
my $one = $nginx->worker_in_slot(1);
kill 'KILL', $one;
ok( wait_until( sub { $nginx->workers == 3 && !grep { $_ == $one } $nginx->workers } ), 'another worker is killed and replaced' );
$count = $backend->requests( timer => "often$case" );
ok( $backend->wait_requests( $count + 5, timer => "often$case" ) >= $count + 5, 'it goes on' );
is( $nginx->worker_in_slot(0), $zero, 'in the same worker 0' );
none_of { $_->{headers}{'x-pid'} != $zero } 'and in no other', ( $backend->requests( timer => "often$case" ) )[ $count .. $count + 4 ];
$nginx->stop('TERM');

# STOP and CONT: what passed is not made up for one by one.
$case++;
$nginx = TimerTest::Nginx->new( workers => 2, server => location( often => 'every=100ms', 'ok' ) );
$nginx->start;
ok( $backend->wait_requests( 3, timer => "often$case" ) >= 3, 'STOP: it runs' );
$zero = $nginx->worker_in_slot(0);
kill 'STOP', $zero;
my $stopped = time;
wait_until { time > $stopped + 1.5 };
$count = $backend->requests( timer => "often$case" );
my $continued = time;
kill 'CONT', $zero;
ok( $backend->wait_requests( $count + 8, timer => "often$case" ) >= $count + 8, 'CONT: it goes on' );
my $took = ( $backend->requests( timer => "often$case" ) )[ $count + 7 ]{arrived} - $continued;
cmp_ok( $took, '>', 0.5, 'at its pace' );
$nginx->stop;

# WINCH and HUP, USR2 and QUIT: timers stop with their workers, and start with new ones.
$case++;
$nginx = TimerTest::Nginx->new( workers => 2, daemon => 1, server => location( often => 'every=50ms', 'ok' ) );
$nginx->start;
ok( $backend->wait_requests( 3, timer => "often$case" ) >= 3, 'WINCH: it runs' );
my @old = $nginx->workers;
$nginx->signal('WINCH');
ok( $nginx->wait_gone( \@old, 15 ), 'the workers leave' );
$count = $backend->requests( timer => "often$case" );
$nginx->signal('HUP');
ok( $backend->wait_requests( $count + 3, timer => "often$case" ) >= $count + 3, 'HUP: it runs again' );

my $master = $nginx->pid;
my $pids   = $nginx->prefix . '/logs/nginx.pid';
$nginx->signal('USR2');
ok( wait_until( sub { -s "$pids.oldbin" && slurp($pids) =~ /\d/ && slurp($pids) != $master } ), 'USR2: a second master' );
my ($second) = slurp($pids) =~ /(\d+)/;
ok( wait_until( sub { children_of($second) >= 2 } ), 'with workers' );
@old = $nginx->workers;
$nginx->signal('QUIT');
ok( wait_until( sub { !is_alive($master) } ), 'the first one leaves' );
$nginx->{pid} = $second;
my ($heir) = $nginx->worker_in_slot(0);
ok( wait_by( $heir, 5, "often$case" ), "the second one's worker goes on" );
$nginx->stop;

done_testing;
