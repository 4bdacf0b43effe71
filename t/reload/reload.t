#!/usr/bin/perl

# HUP: timers go on in the new workers, runs in progress end in the old ones, which then leave, and
# which begin nothing any more. Until claims are kept in a file, a due time may run twice at a reload.

use strict;
use warnings;

use List::Util qw( max );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

sub location {
    my ( $name, $timer, $uri ) = @_;
    return "location \@$name { timer $name $timer uri=/$uri; proxy_set_header X-Timer $name; proxy_set_header X-Pid \$pid;"
        . " proxy_set_header X-Due \$timer_due; proxy_pass http://127.0.0.1:$port; }\n";
}

# Waits for N requests of a timer by a process.
sub wait_by {
    my ( $pid, $count, $timer ) = @_;
    return wait_until { $count <= grep { $_->{headers}{'x-pid'} == $pid } $backend->requests( timer => $timer ) };
}

# A reload while a run is in progress and others are due.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => location( often => 'every=50ms', 'ok' )
        . location( long  => 'every=366d first=now', 'delay/3/ok' )
        . location( daily => 'every=366d', 'ok' ),
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => 'long' ),  'a long run is in progress' );
ok( $backend->wait_requests( 5, timer => 'often' ), 'and others come and go' );
my $zero = $nginx->worker_in_slot(0);

my @old = $nginx->reload;
my $next = $nginx->worker_in_slot(0);
isnt( $next, $zero, 'there is a new worker 0' );
ok( wait_by( $next, 5, 'often' ), 'which goes on with the timers' );

ok( $nginx->wait_log(qr/ \Q$zero\E#\d+: gracefully shutting down/), 'the old one is told to leave' );
my $told = time;
ok( wait_by( $next, 5 + grep( { $_->{headers}{'x-pid'} == $next } $backend->requests( timer => 'often' ) ), 'often' ), 'time passes' );
none_of { $_->{headers}{'x-pid'} == $zero && $_->{headers}{'x-due'} > $told } 'the old one begins nothing', $backend->requests( timer => 'often' );

my ($long) = grep { $_->{headers}{'x-pid'} == $zero } $backend->wait_requests( 1, timer => 'long', ended => 1 );
is( $long->{how}, 'answered', 'the run in progress got its answer' );
ok( $nginx->wait_log(qr/ \Q$zero\E#\d+: .*timer "long": run succeeded: status 200/), 'and succeeded, in the old worker' );
ok( $nginx->wait_gone( \@old, 15 ), 'which leaves then, whatever is due tomorrow' );

# Each due time at most once by each of the two worker 0s.
my %seen;
$seen{"$_->{headers}{'x-due'} $_->{headers}{'x-pid'}"}++ for $backend->requests( timer => 'often' );
none_of { $_ > 1 } 'no due time twice in one worker', values %seen;

# Timers that come, go and change.
$nginx->write_conf( server => location( new => 'every=50ms', 'ok' ) . location( often => 'every=300ms offset=7ms', 'ok' ) );
@old = $nginx->reload;
$nginx->wait_gone( \@old );
ok( $backend->wait_requests( 3, timer => 'new' ) >= 3, 'a new timer runs' );
$next = $nginx->worker_in_slot(0);
ok( wait_by( $next, 3, 'often' ), 'a changed one too' );
my @dues = map { $_->{headers}{'x-due'} * 1000 % 300 } grep { $_->{headers}{'x-pid'} == $next } $backend->requests( timer => 'often' );
none_of { $_ != 7 } 'by its new schedule', @dues;
none_of { $_->{headers}{'x-pid'} == $next } 'one that was removed does not', $backend->requests( timer => 'long' );

# A bad configuration changes nothing.
my $good = $nginx->{server};
$nginx->write_conf( server => 'location @x { timer x every=0; }' );
$nginx->signal('HUP');
ok( $nginx->wait_log(qr/\[emerg\].*"(?:every=)?0".* in \S+nginx\.conf:\d+/), 'a bad configuration is refused' );
my $count = grep { $_->{headers}{'x-pid'} == $next } $backend->requests( timer => 'new' );
ok( wait_by( $next, $count + 3, 'new' ), 'and the old worker goes on' );
$nginx->{allow} = [qr/\[emerg\].*"(?:every=)?0"/];

# No timers at all, and some again.
$nginx->write_conf( server => '' );
@old = $nginx->reload;
ok( $nginx->wait_gone( \@old ), 'without timers' );
$nginx->write_conf( server => $good );
$nginx->reload;
ok( wait_by( $nginx->worker_in_slot(0), 3, 'new' ), 'and with some again' );

# A storm.
for ( 1 .. 20 ) {
    $nginx->signal('HUP');
    sleep 0.05;
}
my $settled = wait_until {
    my @workers = $nginx->workers;
    my @all     = children_of( $nginx->pid );
    @workers == 2 && @all == 2;
};
ok( $settled, 'after a storm of reloads there are two workers, and nothing else' );
# The last reload may still be to come.
my $goes_on = wait_until {
    my $now = $nginx->worker_in_slot(0) // 0;
    5 <= grep { $_->{headers}{'x-pid'} == $now } $backend->requests( timer => 'new' );
};
ok( $goes_on, 'that go on' );
$nginx->stop;

# An old worker that holds a run too long is made to leave by worker_shutdown_timeout.
$nginx = TimerTest::Nginx->new(
    main   => 'worker_shutdown_timeout 500ms;',
    server => location( hangs => 'every=1s', 'hang' ),
);
$nginx->start;
ok( $backend->wait_requests( 1, timer => 'hangs' ), 'a run hangs' );
$zero = $nginx->worker_in_slot(0);
$nginx->reload;
ok( $nginx->wait_gone( [$zero], 15 ), 'worker_shutdown_timeout: the old worker leaves' );
my ($hung) = $backend->wait_requests( 1, timer => 'hangs', ended => 1 );
is( $hung->{how}, 'peer', 'its connection is closed' );
ok( $nginx->wait_log(qr/ \Q$zero\E#\d+: .*timer "hangs": run interrupted: /), 'and it is said' ) or diag $nginx->log;
ok( $backend->wait_requests( 2, timer => 'hangs' ) >= 2, 'the new worker has its own run' );
$nginx->stop('TERM');

done_testing;
