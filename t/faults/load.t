#!/usr/bin/perl

# Reloads that are refused, or have no room: what was claimed stays claimed, and nginx lives.

use strict;
use warnings;

use IO::Socket::INET ();
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Faults;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;

# A reload that has another timer and is refused, then a good one during a run, while locks fail.
{
    my $faults = TimerTest::Faults->new;
    my $busy   = IO::Socket::INET->new( LocalAddr => '127.0.0.1', Listen => 1 );
    my $timer  = sub { return timer( $backend, $_[0], 'every=200ms offset=0', "held/$_[0]/ok", 'timer_timeout 30s;' ) };
    my $nginx  = TimerTest::Nginx->new( workers => 1, faults => $faults, server => $timer->('stays'), allow => [qr/bind\(\)|still could not bind/] );
    $nginx->start;
    $backend->wait_requests( 1, timer => 'stays' );
    $faults->fail( 'lock', error => 'EIO', name => 'timers.state' );
    $nginx->write_conf( server => $timer->('other'), http => 'server { listen 127.0.0.1:' . $busy->sockport . '; }' );
    $nginx->signal('HUP');
    $nginx->wait_log( qr/still could not bind/, 1 );
    $nginx->write_conf( server => $timer->('stays'), http => '' );
    my ($old) = $nginx->reload;

    # The run in the old worker goes on over many due times of the new one.
    $nginx->wait_log( qr/timer "stays": due time left out: last run in progress/, 1 );
    is( scalar $backend->requests( timer => 'stays' ), 1, 'the old worker has the run, and the new one none' );
    $backend->let_go('stays');
    $backend->wait_requests( 3, timer => 'stays' );
    $nginx->wait_gone( [$old] );
    no_overlaps( 'a refused reload', {}, $backend->requests( timer => 'stays' ) );
    no_doubles( 'a refused reload', $backend->requests( timer => 'stays' ) );
    lacks( $nginx->log, qr/died/, 'nobody is called dead' );
    $faults->clear;
    $nginx->stop;
}

# A file that must not grow is a full disk, not the end of the master.
{
    my $timers = sub {
        return join '', map { timer( $backend, "size$_", 'every=200ms' ) } 1 .. $_[0];
    };
    my $nginx = TimerTest::Nginx->new( workers => 1, log_level => 'crit', server => $timers->(2) );
    $nginx->start( ready => sub { $backend->requests( timer => 'size2' ) } );
    my $size = -s $nginx->prefix . '/timers.state';
    run_command( 'prlimit', '--pid', $nginx->pid, "--fsize=$size" );
    $nginx->write_conf( server => $timers->(40) );
    $nginx->signal('HUP');
    $nginx->wait_log( qr/\[crit\].*: timer: state file: pwrite\(\) .* failed \(27: File too large\)/, 1 );
    $backend->wait_requests( 3, timer => 'size40' );
    ok( $nginx->alive, 'the master lives' );
    $nginx->stop;
}

done_testing;
