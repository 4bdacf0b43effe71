#!/usr/bin/perl

# Who checks: one worker of many, and another one when that is killed or stopped; none that leaves, no
# helper, and nobody for "nginx -t".

use strict;
use warnings;

use List::Util qw( max );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Servers;

my $beat    = TimerTest::Beat->start;
my $servers = TimerTest::Servers->start(3);
my $nginx;

# An nginx that checks the group of these servers.
sub checking {
    my ( $check, %option ) = @_;
    my $list = join ' ', map {"server 127.0.0.1:${\ $servers->port($_) } max_fails=0 max_conns=2;"} @{ delete $option{of} // [ 0, 1 ] };
    my $more = delete $option{more} // '';
    return TimerTest::Nginx->new(
        http   => "$more upstream b { zone b 64k; $list }",
        server => "location / { proxy_set_header X-By \$pid; proxy_connect_timeout 60s; proxy_pass http://b; health_check $check; }",
        %option,
    );
}

# The checks of a server from the so-manieth on.
sub since { my ( $number, $from ) = @_; my @all = $servers->checks($number); return @all[ $from .. $#all ] }

# A worker may serve before the master has told of it.
sub first_worker {
    my $pid;
    wait_until { ($pid) = $nginx->workers };
    return $pid;
}

# How many were made for each interval in this time, which began sooner if the first came late.
sub rate {
    my ( $interval, @checks ) = @_;
    return 0 if @checks < 2;
    my ( $from, $to ) = map { $_->{at} } @checks[ 0, -1 ];
    return $#checks * $interval / ( $to - $from + $beat->still( $from - 2, $from + 0.1 ) );
}

# Eight workers and the cache's helpers make as many checks as one worker.
$nginx = checking( 'interval=100ms',
    workers => 8,
    allow   => [qr/exited on signal 9/],
    more    => "proxy_cache_path ${\ scratch_dir() } keys_zone=c:1m manager_sleep=50ms loader_sleep=1ms;" );
$nginx->start;
$servers->wait_checks( 0, 30 );
my @checks = since( 0, 1 );
cmp_ok( rate( 0.1, @checks ), '<=', 1.05, 'eight workers: no check is made twice' );
my %worker = map { $_ => 1 } $nginx->workers;
none_of { !$worker{ $_->{by} } } 'by workers alone', @checks;

# The worker that checks is killed, again and again: nothing waits, each costs a check at most.
my $from = $servers->checks(1);
for ( 1 .. 6 ) {
    $servers->wait_checks( 1, 2 );
    my ($last) = reverse $servers->checks(1);
    next if !is_alive( $last->{by} );
    # While it makes a check, or soon before or after.
    sleep rand 0.1;
    $nginx->signal( 'KILL', $last->{by} );
}
$servers->wait_checks( $_, 5 ) for 0, 1;
@checks = since( 1, $from );
cmp_ok( rate( 0.1, @checks ), '<=', 1.05, 'KILL: no check is made twice' );
is( $nginx->get('/')->{status}, 200, 'KILL: clients are served' ) for 1 .. 4;
is( $nginx->log_lines(qr/is unhealthy/), 0, 'KILL: no server is marked' );

# Workers are killed wherever they are, 150 times: no check is made twice, none is lost for good.
{
    $nginx->stop('QUIT');
    $nginx = checking( 'interval=20ms', workers => 4, allow => [qr/exited on signal 9/] );
    $nginx->start;
    $servers->wait_checks( $_, 5 ) for 0, 1;
    my @from = map { scalar $servers->checks($_) } 0, 1;
    my ( $killed, $end ) = ( 0, deadline(60) );
    while ( $killed < 150 && time < $end ) {
        my @pids = children_of( $nginx->pid );
        $killed += kill 'KILL', $pids[ rand @pids ] if @pids;
        sleep rand 0.02;
    }
    is( $killed, 150, 'so often a worker was killed' );
    $servers->wait_checks( $_, 20 ) for 0, 1;
    for my $number ( 0, 1 ) {
        my @made = since( $number, $from[$number] );
        cmp_ok( rate( 0.02, @made ), '<=', 1.05, "150 times KILL: no check of server $number is made twice" );
    }
    is( $nginx->log_lines(qr/is unhealthy/), 0, '150 times KILL: no server is marked' );
    is( $nginx->get('/')->{status}, 200, '150 times KILL: clients are served' ) for 1 .. 8;
}

# It is stopped with a check in progress: others go on after the deadline, and its own result is not heard of.
$nginx->stop('QUIT');
$nginx = checking( 'interval=100ms timeout=500ms', workers => 3 );
$nginx->start;
my $slot0 = first_worker();
TimerTest::poll_until( sub { my ($last) = reverse $servers->checks(0); $last->{by} == $slot0 } );
$nginx->signal( 'STOP', $slot0 );
$from = $servers->checks(0);
ok( TimerTest::poll_until( sub { ( grep { $_->{by} != $slot0 } since( 0, $from ) ) >= 5 } ), 'STOP: another worker checks' );
$nginx->signal( 'CONT', $slot0 );
ok( TimerTest::poll_until( sub { my ($last) = reverse $servers->checks(0); $last->{by} == $slot0 } ), 'CONT: it checks again' );
is( $nginx->log_lines(qr/is unhealthy/), 0, 'STOP: no server is marked' );
$nginx->stop;

# A worker that stood still: what timed out meanwhile proves nothing. Once more, if it timed out before that.
$servers->set( 2, 'hang' );
my $is_in_time;
for ( 1 .. 20 ) {
    $nginx = checking( 'interval=10s timeout=1s', of => [2] );
    $nginx->start;
    my $worker = first_worker();
    ok( TimerTest::poll_until( sub { grep {/:\Q${\ sprintf '%04X', $servers->port(2) }\E .* 01 /} split /\n/, slurp('/proc/net/tcp') } ), 'a check is in progress' );
    stand_still($worker);
    $is_in_time = !$nginx->log_lines(qr/is unhealthy/);
    sleep 2.5 if $is_in_time;
    $nginx->signal( 'CONT', $worker );
    last if $is_in_time;
    $nginx->stop;
}
ok( $is_in_time, 'a worker stood still' );
$nginx->wait_log(qr/\[warn\].* peer \S+ in upstream "b" was not checked: this worker was late, /);
is( $nginx->log_lines(qr/is unhealthy/), 0, 'a worker that was late marks no server' );
$nginx->stop;

# Told to leave with a check in progress: at once, and nothing is said of the server.
for my $signal (qw( QUIT TERM HUP )) {
    $nginx = checking( 'interval=10s timeout=60s', of => [2], log_level => 'debug' );
    $nginx->start;
    $nginx->wait_log(qr/connect to 127\.0\.0\.1:${\ $servers->port(2) }/);
    my $began = time;
    if ( $signal eq 'HUP' ) {
        $nginx->reload_all;
        $nginx->stop;
    }
    else {
        $nginx->stop($signal);
    }
    cmp_ok( time - $began, '<', 20, "$signal: a check in progress holds nothing up" );
    is( $nginx->log_lines(qr/is unhealthy/), 0, "$signal: no server is marked" );
}
$servers->up($_) for 0, 2;

# Alone, without a master.
for my $signal (qw( QUIT TERM )) {
    $nginx = checking( 'interval=50ms', master => 0 );
    $nginx->start;
    $servers->wait_checks( 1, 5 );
    $nginx->stop($signal);
    pass("master_process off, $signal");
}

# A test of the configuration checks nothing, and disturbs nobody.
$nginx = checking('interval=50ms');
$from  = $servers->checks;
for my $switch (qw( -t -T )) {
    my ( $status, $out ) = run_command( $nginx->command($switch) );
    is( $status, 0, "$switch: accepted" ) or diag $out;
}
$nginx->start;
$servers->wait_checks( 0, 3 );
my ($pid) = $nginx->workers;
is( ( run_command( $nginx->command($_) ) )[0], 0, "$_ beside it: accepted" ) for qw( -t -T );
$servers->wait_checks( 0, 3 );
none_of { $_->{by} != $pid } 'the worker alone has checked', since( undef, $from );

# A reload that fails changes nothing.
$servers->set( 1, 503 );
$nginx->wait_log(qr/127\.0\.0\.1:${\ $servers->port(1) } in upstream "b" is unhealthy/);
my $conf = slurp( $nginx->conf_file );
spew( $nginx->conf_file, $conf =~ s/health_check interval=50ms/health_check interval=0/r );
$nginx->signal('HUP');
$nginx->wait_log(qr/\[emerg\].* invalid value "0"/);
spew( $nginx->conf_file, $conf );
$servers->wait_checks( 0, 3 );
$from = $servers->clients(1);
is( $nginx->get('/')->{status}, 200, 'a reload that fails: clients are served' ) for 1 .. 5;
is( $servers->clients(1), $from, 'a reload that fails: by the healthy server alone' );
$servers->up(1);
$nginx->wait_log(qr/127\.0\.0\.1:${\ $servers->port(1) } in upstream "b" is healthy/);
$nginx->{allow} = [qr/invalid value "0"/];
$nginx->stop;

# Without a free connection nothing is learned of a server.
$nginx = checking( 'interval=100ms', connections => 24, allow => [qr/worker_connections are not enough/] );
$nginx->start;
my @held;
# A check that ends gives its own connections back: others have to take these.
my $hold = sub {
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port ) or return;
    push @held, $socket;
    print {$socket} "GET /ready HTTP/1.1\r\n";
};
$hold->() for 1 .. 60;
poll_until( sub { $hold->(); $nginx->log_lines(qr/was not checked: no free connection/) } ) || in_vain('a check without a connection');
undef @held;
$servers->wait_checks( $_, 3 ) for 0, 1;
is( $nginx->log_lines(qr/is unhealthy/), 0, 'no free connection: no server is marked' );
$nginx->stop;

$servers->stop;
done_testing();
