#!/usr/bin/perl

# What the other tests rely on: calls that are to fail do so, in each process of nginx, and those only.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Faults;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $faults  = TimerTest::Faults->new;
my $state   = scratch_dir() . '/timers.state';

# Seen from the first call on: a start makes the file with all of these.
my %made = map { $_ => $faults->count( $_, name => $_ eq 'open' ? "$state" : 'timers.state' ) } qw( open stat lock pwrite sync );
my %any  = map { $_ => $faults->count($_) } qw( eventfd getrandom );

my $nginx = TimerTest::Nginx->new( faults => $faults, daemon => 1, workers => 2, state => $state, server => timer( $backend, 'x', 'every=50ms' ) );
$nginx->start;
$backend->wait_requests( 3, timer => 'x' );
cmp_ok( $faults->calls( $made{$_} ), '>', 0, "$_ is seen" ) for sort keys %made;
cmp_ok( $faults->calls( $any{$_} ),  '>', 0, "$_ is seen" ) for sort keys %any;
is( $faults->failures( $made{$_} ), 0, "$_ is not changed" ) for sort keys %made;
$faults->clear;

# Only the calls of one worker; others go on.
my ( $zero, $one ) = map { $nginx->worker_in_slot($_) } 0, 1;
my $mine  = $faults->count( 'pwrite', pid => $zero, name => $state );
my $other = $faults->count( 'pwrite', pid => $one,  name => $state );
my $not   = $faults->count( 'pwrite', pid => -$zero, name => 'nothing of this name' );
ok( wait_until( sub { $faults->calls($mine) >= 3 } ), 'the calls of a worker' );
is( $faults->calls($not),   0, 'not of files with other names' );
cmp_ok( $faults->calls($other), '<', $faults->calls($mine), 'not of other workers' );

# The second call from now on, and the one by which it is tried once more; and bytes fewer than asked for.
my $second = $faults->fail( 'pwrite', error => 'EIO', nth => 2, times => 2, name => $state );
ok( wait_until( sub { $faults->calls($second) >= 4 } ), 'calls go on after two that failed' );
is( $faults->failures($second), 2, 'two have failed' );
logged( $nginx, qr/\[crit\].* state file: pwrite\(\) "\Q$state\E" failed \(5: Input\/output error\)/, 'and nginx says so' );
my $short = $faults->fail( 'pwrite', short => 16, name => $state, times => 3 );
ok( wait_until( sub { $faults->failures($short) == 3 } ), 'writes may fall short' );
my $seen = $backend->requests( timer => 'x' );
ok( $backend->wait_requests( $seen + 3, timer => 'x' ) >= $seen + 3, 'and do no harm' );

# A binary that nginx itself starts, too.
my $old   = $nginx->pid;
my $new   = start_upgrade( $nginx, $old );
my $there = $faults->count( 'lock', pid => $new );
$nginx->{pid} = $new;
$nginx->signal( 'QUIT', $old );
$nginx->wait_gone( [$old] );
$nginx->reload;
cmp_ok( $faults->calls($there), '>', 0, 'a new binary has the library, too' );
$nginx->stop;
done_testing;
