#!/usr/bin/perl

# The clock is set forward, and back, by an hour, a day: no burst, and the next run no later than three
# periods after it. The wall clock of nginx is libfaketime's; this test's own and the backend's is real.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;

my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';
plan skip_all => 'libfaketime is not installed' if !$library;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;
my $file    = scratch_dir() . '/offset';

# Steps are of whole hours: each passes one due time of "hourly", and none comes by itself meanwhile. That of
# "once" is months away, whatever the step.
my $half = ( time + 1800 ) % 3600 . 's';
my $far  = int( time + 150 * 86_400 ) % ( 300 * 86_400 ) . 's';

sub set_clock { my ($offset) = @_; spew( "$file.new", sprintf "%+ds\n", $offset ); rename "$file.new", $file or die; return time }
set_clock(0);

my %every = ( fast => 50, mid => 300, any => 300, slow => 900, jitter => 400 );
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    wrapper => "env LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE=$file FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 "
        . ( $ENV{TEST_NGINX_WRAPPER} // '' ),
    main => "env LD_PRELOAD;\nenv FAKETIME_TIMESTAMP_FILE;\nenv FAKETIME_NO_CACHE;\nenv FAKETIME_DONT_FAKE_MONOTONIC;\nenv FAKETIME_SHARED;",
    server => join( '', map { timer( $backend, $_, "every=$every{$_}ms offset=0", 'ok', /any/ ? 'timer_worker any;' : '' ) } grep { !/jitter/ } sort keys %every )
        . timer( $backend, 'jitter', 'every=400ms offset=0 jitter=200ms' )
        . timer( $backend, 'hourly', "every=1h offset=$half" )
        . timer( $backend, 'once', "every=300d offset=$far first=now" ),
);
$nginx->start;
ok( $backend->wait_requests( 2, timer => $_ ) >= 2, "$_ runs" ) for sort keys %every;
cmp_ok( abs( due_ms( ( $backend->requests( timer => 'mid' ) )[-1] ) / 1000 - time ), '<', 30, 'at the real time' );

sub check_step {
    my ( $title, $offset, $back ) = @_;
    my $hourly = $backend->requests( timer => 'hourly' );
    my $at     = set_clock($offset);
    for my $name ( sort keys %every ) {
        my $period = $every{$name} / 1000;
        # What was in the making at the step may still say the old time.
        my @runs;
        ok( wait_until( sub { @runs = grep { $_->{arrived} > $at && abs( due_ms($_) / 1000 - $_->{arrived} - $offset ) < 60 } $backend->requests( timer => $name ); @runs >= 3 } ),
            "$title: $name goes on, by the new time" )
            or next;
        cmp_ok( $runs[0]{arrived} - $at - $beat->still( $at, $runs[0]{arrived} ), '<', 3 * $period + 0.5 * $TimerTest::SLOW, "$title: $name: the next run within three periods" );
        my @all = grep { $_->{arrived} > $at && $_->{arrived} <= $runs[2]{arrived} } $backend->requests( timer => $name );
        cmp_ok( scalar @all, '<=', ( $runs[2]{arrived} - $at ) / $period + 3, "$title: $name: no burst" );
    }
    cmp_ok( $backend->requests( timer => 'hourly' ) - $hourly, '<=', 1, "$title: one hourly run at most" );
    return;
}

check_step( 'an hour forward', 3600 );
logged_times( $nginx, qr/clock was set back/, 0, 'that is no set back' );
check_step( 'an hour back', 0 );
logged( $nginx, qr/\[warn\].* timer "$_": clock was set back by 3[56]\d{5}ms/, "$_: it is said" ) for sort keys %every;
logged_times( $nginx, qr/timer "$_": clock was set back/, 1, "$_: once" ) for sort keys %every;
check_step( 'a day forward', 86_400 );
check_step( 'a month back', -30 * 86_400 );
is( scalar( $backend->requests( timer => 'once' ) ), 1, 'first=now is not repeated' );

# A reload and a killed worker in the past do not mind.
my @old = $nginx->reload;
$nginx->wait_gone( \@old );
check_step( 'a reload', -30 * 86_400 );
is( $nginx->get('/ready')->{status}, 200, 'nginx serves' );
$nginx->stop;
no_overlaps( 'a clock that is set', {}, $backend->requests );

# A restart with a clock that was set back while nginx was stopped.
set_clock( -60 * 86_400 );
$nginx->start;
check_step( 'a restart in the past', -60 * 86_400 );
$nginx->stop;

done_testing;
