#!/usr/bin/perl

# The short form of "make bench": it works, and what does not depend on the machine's pace keeps to its
# limits: system calls per run, and the instructions that a client's request costs with timers and without.

use strict;
use warnings;

use File::Basename qw( dirname );
use List::Util qw( min );
use Test::More;
use TimerTest;

# System calls per run of "return 204", state in a file, but for those that the runs of one turn of the
# event loop share: epoll_wait(), and the clock that bounds a turn.
my $CALLS = 7.2;

# The same of instructions in user space, nginx's request included. nginx and the C library have their share
# in it, and differ from one version to the next.
my $INSTRUCTIONS = 16_000;

# Of a request in which a key is looked up, beyond the same without.
my $LOOKUP = 600;

# Of one: how much more a request may cost with the module than without, and with 1,000 timers that wait.
my $MORE = 0.01;

plan skip_all => 'nginx is watched: its instructions and memory are not its own' if nginx_is_watched();
for my $needed (qw( strace valgrind )) { plan skip_all => "$needed is not installed" if !program($needed) }

my $file = scratch_dir() . '/benchmarks.md';
my @groups = qw( run proxied client lateness scale takeover check servers death keyval cleanup );
$TimerTest::DEADLINE = 280;
my ( $status, $out ) = run_command( $^X, dirname(__FILE__) . '/../../tools/bench.pl',
    '--short', '--only', join( ',', @groups ), '--write', '--file', $file );
is( $status, 0, 'it ends well' ) or diag $out;

my %numbers = map { /\A([\w.]+): ([-\d. e+]+)\z/ ? ( $1 => [ split ' ', $2 ] ) : () } split /\n/, slurp($file);
my $median = sub {
    my ($key) = @_;
    my @sorted = sort { $a <=> $b } @{ $numbers{$key} // [] };
    return @sorted ? $sorted[ $#sorted / 2 ] : fail("there is no $key");
};

for my $key ( qw( cpu.file cpu.memory calls.file instructions.file proxied.cpu.run proxied.cpu.client client.all.without
    lateness.arrival.median scale.100.test.timers scale.100.start.timers scale.100.memory.private scale.100.cpu takeover.KILL takeover.HUP takeover.STOP
    check.cpu.check check.cpu.client servers.checked servers.rate.least servers.late.99th death.last_client keyval.10000.request keyval.10000.lookup keyval.100000.turn
    cleanup.threads.with cleanup.slices.seconds ) )
{
    cmp_ok( $median->($key), '>', 0, "$key is measured" );
}
like( $out, qr/^\| CPU time per run of .* \| *\| \d+(?:\.\d+)? \|$/m, 'a table' );
like( slurp($file), qr/^\| CPU time per run of .* \| *\| \d+(?:\.\d+)? \|$/m, 'the same in the file' );

my $calls = min @{ $numbers{'calls.file.own'} // [ 9e9 ] };
cmp_ok( $calls, '<=', $CALLS, sprintf 'system calls per run: %.2f', $calls )
    or diag join ' ', map { sprintf '%s=%.2f', $_, $median->($_) } grep {/^calls\.file\./} sort keys %numbers;

my $instructions = $median->('instructions.file');
cmp_ok( $instructions, '<=', $INSTRUCTIONS, sprintf 'instructions in user space per run: %.0f', $instructions );

cmp_ok( $median->('keyval.10000.lookup'), '<=', $LOOKUP, sprintf 'instructions of a key that is looked up: %.0f', $median->('keyval.10000.lookup') );
cmp_ok( $median->('keyval.100000.turn'), '<=', 20, sprintf '100,000 keys hold the event loop for %.1f ms', $median->('keyval.100000.turn') );

my ( $without, $with, $idle ) = map { $median->("client.all.$_.nginx") } qw( without with idle );
cmp_ok( $with, '<=', $without * ( 1 + $MORE ), "instructions per request: $with with the module, $without without" );
cmp_ok( $idle, '<=', $without * ( 1 + $MORE ), "and $idle with 1,000 timers that wait" );

done_testing;
