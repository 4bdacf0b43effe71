#!/usr/bin/perl

# Ten thousand timers in one nginx (a thousand under valgrind): nginx -t takes hardly longer, all of them
# run, an order is followed within 100 ms, a reload and a stop are prompt.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $count = nginx_is_watched() ? 1000 : 10_000;

sub locations {
    my ($timer) = @_;
    return join "\n", map { "location \@n$_ { " . ( $timer =~ s/N/$_/r ) . ' return 204; }' } 1 .. $count;
}

my $backend = TimerTest::Backend->start;
my $without = TimerTest::Nginx->new( server => locations('') );
my $with    = TimerTest::Nginx->new(
    workers => 2, log_level => 'info',
    server  => 'location /status/ { timer_api write=on; add_header X-Worker $pid always; }'
        . locations('timer nN every=5s;')
        . timer( $backend, 'last', 'every=366d' ),
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
my $all = $count + 1;
ok( $with->wait_log(qr/timer: $all timers in this worker, slot 0/), 'all are in worker 0' );
my %seen;
wait_until {
    $seen{$_} = 1 for map { /timer "n(\d+)"/ } $with->log_lines(qr/run succeeded/);
    keys %seen == $count;
} 60;
is( scalar keys %seen, $count, 'all run' );
logged_times( $with, qr/run failed|left out/, 0, 'none fails, none is left out' );

# An order that the other worker takes, for the last of them all.
my $owner = $with->worker_in_slot(0);
my ( @took, $lost );
for ( 1 .. 200 ) {
    my $ordered = time;
    my $answer  = $with->get( '/status/timers/last/run', method => 'POST' );
    my $run     = eval { JSON::PP::decode_json( $answer->{body} )->{run} } // '';
    my ($by)    = $answer->{headers} =~ /^X-Worker: (\d+)/mi;
    my ($request);
    wait_until { ($request) = grep { $_->{headers}{'x-run'} eq $run } $backend->requests( timer => 'last' ) };
    if ( !$request ) { $lost++; last }
    push @took, $request->{arrived} - $ordered if $by != $owner;
    last if @took == 10;
    wait_until { $with->log_lines(qr/run succeeded.*, run: $run/) };
}
is( $lost // 0, 0, 'orders are followed' );
@took = sort { $a <=> $b } @took;
cmp_ok( $took[ @took / 2 ] // 99, '<', 0.1 * $TimerTest::SLOW, 'within 100 ms' ) or diag "@took";
note sprintf '%d taken by the other worker: median %.0f ms, longest %.0f ms', scalar @took, 1000 * $took[ @took / 2 ], 1000 * $took[-1];

my $began = time;
is( $with->get('/ready')->{status}, 200, 'clients are served' );
cmp_ok( time - $began, '<', 2 * $TimerTest::SLOW, 'at once' );
# What a reload costs the master, as nanoseconds of the processor.
sub reloaded {
    my ($title) = @_;
    my $cpu    = sub { ( split ' ', slurp( '/proc/' . $with->pid . '/schedstat' ) )[0] };
    my $before = $cpu->();
    my @old    = $with->reload;
    ok( $with->wait_gone( \@old, 20 ), $title );
    return $cpu->() - $before;
}
my $same = reloaded('it is reloaded');
$with->write_conf( server => $with->{server} =~ s/every=5s/every=6s/gr );
my $changed = reloaded('it is reloaded with other schedules');
is( $with->log_lines(qr/timer "n\d+": schedule has changed/), $count, 'which is told' );
cmp_ok( $changed, '<', 1.6 * $same, sprintf 'the master takes %.2f s for that, and %.2f s for the same ones', $changed / 1e9, $same / 1e9 );
$with->stop;

done_testing;
