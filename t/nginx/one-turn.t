#!/usr/bin/perl

# What timers take of one turn of the event loop, in which no client is served: 20 ms of the processor's time
# at most, and no more than a run of its own takes where that is more. Many are due at once, with places for all of
# them or for a few; many wait for a place and get them all at once; clients ask for everything meanwhile.

use strict;
use warnings;

use Fcntl qw( :DEFAULT :seek );
use FindBin;
use Test::More;
use Time::HiRes qw( time sleep );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Faults;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::Turns;

plan skip_all => 'a sanitizer or valgrind has a pace of its own' if nginx_is_watched();

my $LIMIT   = 20;
my $backend = TimerTest::Backend->start;
my $turns   = TimerTest::Turns->new;

# A second that is still to come when nginx has read its configuration, and all of its like.
sub due_at { my ($seconds) = @_; return ( int( time * 1000 ) + 1000 * $seconds ) % 60_000 }

sub many {
    my ( $count, $parameters, $body ) = @_;
    return join "\n", map {"location \@n$_ { timer n$_ $parameters; $body }"} 1 .. $count;
}

sub longest_turn {
    my ( $nginx, $title ) = @_;
    my $pid = $nginx->worker_in_slot(0);
    cmp_ok( $turns->count($pid), '>', 0, "$title: turns are counted" );
    my $longest = $turns->longest($pid);
    return cmp_ok( $longest, '<=', $LIMIT, sprintf '%s: the longest turn takes %.1f ms', $title, $longest );
}

# 8,000 at one instant.
my $count = 8_000;
for my $places ( 64, 20_000 ) {
    my $offset = due_at(3);
    my $nginx  = TimerTest::Nginx->new(
        faults => $turns,
        http   => "timer_max_running $places;",
        server => 'location /status/ { timer_api; }' . many( $count, "every=1m offset=${offset}ms", 'return 204;' ),
    );
    $nginx->start;
    my %ran;
    my $all = wait_until {
        $nginx->get("/status/$_")->{status} == 200 or die for qw( timers text metrics );
        $ran{$_}++ for map {/timer "(\w+)"/} $nginx->log_lines(qr/run succeeded/);
        keys %ran == $count;
    }
    90;
    ok( $all, "$places places: all run" ) or diag keys(%ran) . ' of them';
    longest_turn( $nginx, "$places places" );
    $nginx->stop;
}

# A state file of an older module, which that module leaves while this one waits for it: converted, and so many records
# added to it, by a worker that serves clients.
{
    my $nginx = TimerTest::Nginx->new(
        faults => $turns,
        server => 'location /status/ { timer_api; }' . many( $count, 'every=1h', 'return 204;' ),
    );
    my $file = $nginx->prefix . '/timers.state';
    $nginx->start;
    my ( $uid, $gid ) = ( stat $file )[ 4, 5 ];
    $nginx->stop;
    spew( $file, slurp("$FindBin::Bin/../state/data/version1.state") );
    chown $uid, $gid, $file;
    sysopen my $old_master, $file, O_RDWR or die "$file: $!";
    my $flock = pack 's! s! x![q] q q i x![q]', F_RDLCK, SEEK_SET, 0, 1, 0;
    fcntl $old_master, 37, $flock or die "fcntl: $!";
    $nginx->start;
    ok( $nginx->wait_log(qr/older module, timers are not running/), 'it waits for an older module' );
    my $began = qr/$count timers in this worker/;
    my $times = $nginx->log_lines($began);
    $turns->clear;
    close $old_master;
    ok( $nginx->wait_log( $began, $times + 1 ), 'and goes on when that has left the file' );
    is( $nginx->get('/status/health')->{body}, "ok\n", 'all is well' );
    longest_turn( $nginx, 'a file is taken over' );
    $nginx->stop;
}

# What could not be written is tried again each second, and is written when that can be.
{
    my $faults = TimerTest::Faults->new;
    local %ENV = ( %ENV, $faults->environment );
    my $nginx = TimerTest::Nginx->new(
        faults => $turns,
        http   => 'timer_max_running 20000;',
        server => 'location /status/ { timer_api; }' . many( $count, 'every=10s', 'return 204;' ),
    );
    $nginx->start;
    my $fails = $faults->fail( 'pwrite', error => 'EIO', name => 'timers.state' );
    my %ran;
    wait_until {
        $ran{$_}++ for map {/timer "(\w+)"/} $nginx->log_lines(qr/run succeeded/);
        keys %ran == $count;
    }
    90;
    my $failed = $faults->failures($fails);
    wait_until { $faults->failures($fails) >= $failed + 2 * $count } 90;
    my $written = $faults->fail( 'pwrite', name => 'timers.state' );
    $faults->clear($fails);
    wait_until { $faults->calls($written) >= $count } 90;
    wait_until { $nginx->get('/status/health')->{body} eq "ok\n" } 90;
    longest_turn( $nginx, 'what could not be written is written' );
    $nginx->stop;
}

# Sixty-four hold all places; those that wait get them in one instant, and each gives its own back at once.
# What they do takes two milliseconds of the processor.
my $includes = join '', map {"<!--# set var=\"a$_\" value=\"\$a\$a\" --><!--# include virtual=\"/part\" -->"} 1 .. 60;
my $offset   = due_at(2);
my $nginx    = TimerTest::Nginx->new(
    faults      => $turns,
    connections => 1024,
    http        => 'timer_max_running 64;',
    server      => 'location = /part { return 200 part; } ssi_types *;'
        . join( '', map { timer( $backend, "held$_", "every=1m offset=${offset}ms", 'held/go/ok' ) } 1 .. 64 )
        . join( '', map {"location \@n$_ { timer n$_ every=1m offset=@{[ ( $offset + 500 ) % 60_000 ]}ms; ssi on; try_files /ssi.html =404; }"} 1 .. 300 ),
);
spew( $nginx->prefix . '/html/ssi.html', $includes );
$nginx->start;
# Where nginx took too long to start, in the next minute.
is( $backend->wait_requests( 64, within => 90 ), 64, 'all places are taken' );
my $ran  = $nginx->log_lines(qr/timer "n\d+": run succeeded/);
my $then = time;
# Their due time comes.
wait_until { time > $then + 1 };
is( scalar $nginx->log_lines(qr/timer "n\d+": run succeeded/), $ran, 'others wait' );
$turns->clear;
$backend->let_go('go');
ok( $nginx->wait_log( qr/timer "n\d+": run succeeded/, $ran + 300 ), 'and run when places come free' );
longest_turn( $nginx, 'places come free' );
$nginx->stop;

done_testing;
