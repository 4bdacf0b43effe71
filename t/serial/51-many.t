#!/usr/bin/perl

# Ten thousand timers in one nginx (a thousand under valgrind): nginx -t takes hardly longer, all of them run, a reload and a
# stop are prompt.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Nginx;

my $count = nginx_is_watched() ? 1000 : 10_000;

sub locations {
    my ($timer) = @_;
    return join "\n", map { "location \@n$_ { " . ( $timer =~ s/N/$_/r ) . ' return 204; }' } 1 .. $count;
}

my $without = TimerTest::Nginx->new( server => locations('') );
my $with    = TimerTest::Nginx->new(
    workers => 2, log_level => 'info',
    server  => 'location = /status { stub_status; }' . locations('timer nN every=5s;'),
);

# In seconds of the processor: what else the machine does is not nginx's doing.
sub seconds_of_test {
    my ($nginx) = @_;
    my $best;
    for ( 1 .. 3 ) {
        my $began = cpu_of_children();
        my ( $ok, $out ) = $nginx->test_conf;
        my $took = cpu_of_children() - $began;
        $ok or diag $out;
        $best = $took if $ok && ( !defined $best || $took < $best );
    }
    return $best // die 'refused';
}

sub cpu_of_children { my ( undef, undef, $user, $system ) = times; return $user + $system }

my ( $plain, $timers ) = map { seconds_of_test($_) } $without, $with;
cmp_ok( $timers - $plain, '<', 1 * $TimerTest::SLOW, sprintf 'nginx -t: %.2fs with, %.2fs without timers', $timers, $plain );

$with->start;
ok( $with->wait_log(qr/timer: $count timers in this worker, slot 0/), 'all are in worker 0' );
my %seen;
wait_until {
    $seen{$_} = 1 for map { /timer "n(\d+)"/ } $with->log_lines(qr/run succeeded/);
    keys %seen == $count;
} 60;
is( scalar keys %seen, $count, 'all run' );
is( scalar $with->log_lines(qr/run failed|left out/), 0, 'none fails, none is left out' );

my $began = time;
is( $with->get('/ready')->{status}, 200, 'clients are served' );
cmp_ok( time - $began, '<', 2 * $TimerTest::SLOW, 'at once' );
my @old = $with->reload;
ok( $with->wait_gone( \@old, 20 ), 'it is reloaded' );
$with->stop;

done_testing;
