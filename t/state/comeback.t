#!/usr/bin/perl

# Nothing is missed by a timer that comes back into the configuration: it was taken out together with its
# module, with its timer_state, or while nginx was started without it. What was not taken while nginx was
# stopped is missed, as ever.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;

my $timers = timer( $backend, 'tick', 'every=50ms' ) . timer( $backend, 'rare', 'every=366d' );
my $nginx  = TimerTest::Nginx->new( server => $timers );
my $file   = $nginx->prefix . '/named.state';
my %with    = ( no_module => 0, state => $file,     server => $timers );
my %without = ( no_module => 1, state => undef,     server => '' );
my %idle    = ( no_module => 0, state => 'default', server => '' );
my %memory  = ( no_module => 0, state => 'memory',  server => $timers );

sub record { return read_state($file)->{rare} // {} }

sub runs {
    my $seen = $backend->requests( timer => 'tick' );
    return $backend->wait_requests( $seen + 3, timer => 'tick' ) >= $seen + 3;
}

# The descriptors of the state file that the master has.
sub held {
    my $pid = $nginx->pid;
    return grep { ( readlink // '' ) =~ /^\Q$file\E/ } glob "/proc/$pid/fd/*";
}

sub gone_and_back {
    my ( $case, $out, $back ) = @_;
    $out->();
    is( held() + 0, 0, "$case: the master lets go of the file" );
    my $before = int 1000 * time;
    $back->();
    ok( runs(), "$case: the timers run again" );
    cmp_ok( record()->{not_before} // 0, '>=', $before, "$case: nothing before the comeback is missed" );
    is( scalar( held() ), 1, "$case: the master has the file" );
    return;
}

sub reload_with { $nginx->write_conf(@_)->reload_all; return }

$nginx->write_conf(%with)->start;
ok( runs(), 'timers' );
is( record()->{not_before}, undef, 'a record of which nothing is left out' );

# An ordinary reload, and a restart: what is missed is missed.
$nginx->reload_all;
ok( runs(), 'a reload' );
is( record()->{not_before}, undef, 'changes nothing in this' );
$nginx->stop;
$nginx->start;
ok( runs(), 'a restart' );
is( record()->{not_before}, undef, 'neither' );

# A reload that is refused: they were never away.
$nginx->write_conf( %without, server => 'bad_directive;' )->signal('HUP');
logged( $nginx, qr/unknown directive "bad_directive"/, 'a reload without the module that is refused' );
$nginx->{allow} = [qr/unknown directive "bad_directive"/];
reload_with(%with);
ok( runs(), 'and one with it' );
is( record()->{not_before}, undef, 'change nothing, too' );

gone_and_back( 'without the module', sub { reload_with(%without) }, sub { reload_with(%with) } );
gone_and_back( 'once more', sub { reload_with(%without); reload_with(%without) }, sub { reload_with(%with) } );
gone_and_back( 'without timer_state', sub { reload_with(%idle) }, sub { reload_with(%with) } );
gone_and_back( 'in memory for a while', sub { reload_with(%memory) }, sub { reload_with(%with) } );
gone_and_back(
    'started without the module',
    sub { $nginx->stop; $nginx->write_conf(%without)->start },
    sub { reload_with(%with) },
);
$nginx->stop;

done_testing;
