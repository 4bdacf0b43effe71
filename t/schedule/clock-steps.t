#!/usr/bin/perl

# The wall clock is set forward, and back: no burst, and the next run comes no later than three
# periods. The clock is libfaketime's.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;

my ($faketime) = glob '/usr/lib/*/faketime/libfaketime.so.1 /usr/lib64/faketime/libfaketime.so.1';
plan skip_all => 'libfaketime is not installed' if !$faketime;
plan skip_all => 'a sanitizer or valgrind wants to be the first library' if nginx_is_watched();

my $every   = 0.4;
my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;
my $clock   = spew( scratch_dir() . '/clock', "+0\n" );

$ENV{FAKETIME_TIMESTAMP_FILE}      = $clock;
$ENV{FAKETIME_NO_CACHE}            = 1;
$ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;

# Workers drop the environment that is not named.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    main    => join( ' ', map {"env $_;"} qw( LD_PRELOAD FAKETIME_TIMESTAMP_FILE FAKETIME_NO_CACHE FAKETIME_DONT_FAKE_MONOTONIC ) ),
    server  => <<"CONF",
    proxy_set_header X-Timer \$timer_name;
    proxy_set_header X-Due \$timer_due;
    proxy_set_header X-Late \$timer_lateness;
    location \@x { timer x every=400ms offset=200ms; proxy_pass http://127.0.0.1:${\ $backend->port }; }
    location \@jittered { timer jittered every=400ms jitter=300ms; proxy_pass http://127.0.0.1:${\ $backend->port }; }
    location \@hourly { timer hourly every=1h; proxy_pass http://127.0.0.1:${\ $backend->port }; }
CONF
);

{
    local $ENV{LD_PRELOAD} = $faketime;
    $nginx->start;
}
ok( $backend->wait_requests( 3, timer => $_ ) >= 3, "$_ runs" ) for qw( x jittered );

my $shift = 0;

sub set_clock {
    my ($seconds) = @_;
    $shift += $seconds;
    my $new = spew( "$clock.new", sprintf "%+d\n", $shift );
    rename $new, $clock or die "rename: $!";
    return time;
}

# For a step: the next runs, and how they follow each other.
for my $step ( 3600, -3600, 5, -5, 86_400 * 400, -86_400 * 400 ) {
    my $at = set_clock($step);

    for my $name (qw( x jittered )) {
        # One run may have been on its way while the clock was set.
        my ( @after, $new );
        wait_until {
            @after = grep { $_->{arrived} > $at } $backend->requests( timer => $name );
            ($new) = grep { abs( $_->{headers}{'x-due'} - $_->{arrived} - $shift ) < 5 } @after;
            @after >= 4 && $new;
        };
        cmp_ok( scalar @after, '>=', 4, "$step: $name goes on" ) or last;
        my $first = $after[0]{arrived} - $at;
        cmp_ok( $first - $beat->still( $at, $after[0]{arrived} ), '<', 3 * $every + 5, sprintf "$step: $name comes soon (%.1fs)", $first );
        ok( $new, "$step: $name, by the new clock" );
    }

    # No more runs than periods, with one for the step and one for the edge.
    my $runs = grep { $_->{arrived} > $at } $backend->requests( timer => 'x' );
    cmp_ok( $runs, '<=', ( time - $at ) / $every + 3, "$step: no burst ($runs)" );
}

none_of { $_->{headers}{'x-late'} =~ /-/ } 'none is early', $backend->requests( timer => 'x' );
cmp_ok( scalar $backend->requests( timer => 'hourly' ), '<=', 8, 'an hourly one runs at most once a step' );

$nginx->stop;
done_testing;
