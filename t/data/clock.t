#!/usr/bin/perl

# The clock is set while nginx is not running: how old the content of a state file is does not depend on it within
# one boot. The clock is libfaketime's.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;

my ($faketime) = glob '/usr/lib/*/faketime/libfaketime.so.1 /usr/lib64/faketime/libfaketime.so.1';
plan skip_all => 'libfaketime is not installed' if !$faketime;
plan skip_all => 'a sanitizer or valgrind wants to be the first library' if nginx_is_watched();

my $dir = scratch_dir();
chmod 0777, $dir;
my $served = scratch_dir();
my $clock  = spew( scratch_dir() . '/clock', "+0\n" );

$ENV{FAKETIME_TIMESTAMP_FILE}      = $clock;
$ENV{FAKETIME_NO_CACHE}            = 1;
$ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;

# Workers drop the environment that is not named.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    main    => join( ' ', map {"env $_;"} qw( LD_PRELOAD FAKETIME_TIMESTAMP_FILE FAKETIME_NO_CACHE FAKETIME_DONT_FAKE_MONOTONIC ) ),
    http    => "types { } default_type text/plain; keyval_zone zone=flags:64k state=$dir/flags.json timeout=1h; keyval a \$flag zone=flags;",
    server  => <<"CONF",
    location = /content.txt { timer flags every=366d first=now; timer_keyval flags; root $served; }
    location = /value { return 200 "\$flag"; }
    location /status/ { timer_api write=on; }
CONF
);
my $api = TimerTest::Api->new( $nginx, at => '/status' );

sub start_at {
    my ($offset) = @_;
    my $new = spew( "$clock.new", sprintf "%+d\n", $offset );
    rename $new, $clock or die "rename: $!";
    local $ENV{LD_PRELOAD} = $faketime;
    $nginx->start;
    return;
}

sub value { return $nginx->get('/value')->{body} }
sub saved { return -e "$dir/flags.json" ? slurp("$dir/flags.json") : '' }
sub view  { return json( $nginx->get('/status/keyvals') )->{keyvals}[0] }

# Fetched once, at a known time; from then on there is nothing to fetch.
spew( "$served/content.txt", "a one\n" );
start_at(0);
wait_until { saved() =~ /"a":"one"/ };
my $fetched = time;
is( value(), 'one', 'fetched' );
like( saved(), qr/\A\{"keyval":1,"time":\d+,"boot":\{"id":"[0-9a-f]{32}","ms":\d+\},/, 'its file has both clocks' );
unlink "$served/content.txt";

for my $step ( 7200, -7200, 400 * 86_400 ) {
    $nginx->stop;
    start_at($step);
    my $least = time - $fetched;
    my $view  = view();
    is( value(), 'one', "the content is there, $step seconds away" );
    cmp_ok( $view->{age}, '>', $least - 0.002, 'and as old as it is' );
    cmp_ok( $view->{age}, '<', 3600, 'not older' );
}

done_testing;
