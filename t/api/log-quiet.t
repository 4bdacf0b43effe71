#!/usr/bin/perl

# Normal running: starts, reloads, runs that succeed, requests to the API, pages, QUIT. The whole log, each line
# of it, is known; of ours none is above info but the one at a worker's start. Minutes pass by libfaketime; between two
# steps its clock stands still, so that nothing is late, or missed, on a machine that is slow.

use strict;
use warnings;

use POSIX qw( strftime );
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1 /usr/lib64/faketime/libfaketime.so.1';
plan skip_all => 'libfaketime is not installed' if !$library;
plan skip_all => 'a sanitizer or valgrind wants to be the first library' if nginx_is_watched();

my $backend = TimerTest::Backend->start;
my $clock   = scratch_dir() . '/clock';
my $now     = 30 * int( time / 30 ) + 10;

# The time is this one until it is told another.
sub set_clock {
    my ($at) = @_;
    spew( "$clock.new", strftime( "%Y-%m-%d %H:%M:%S", localtime int $at ) . sprintf( ".%03d\n", 1000 * ( $at - int $at ) ) );
    rename "$clock.new", $clock or die "rename: $!";
    return;
}
set_clock($now);

# Due at each half minute, or each whole one.
my %timer = (
    ( map { ( "every$_" => 'every=30s offset=0' ) } 1 .. 10 ),
    minutely => '"cron=* * * * *"',
    seconds  => '"cron=*/30 * * * * *" tz=Europe/Berlin',
    jitter   => 'every=30s offset=0 jitter=300ms',
    head     => 'every=30s offset=0 method=HEAD',
    first    => 'every=366d first=now',
);
my %more = ( every1 => 'timer_worker any;', every2 => 'timer_worker auto;', every3 => 'timer_overlap queue;', every4 => 'timer_retry 3;', every5 => 'timer_missed skip;' );

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    wrapper => "env LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE=$clock FAKETIME_NO_CACHE=1",
    main    => join( ' ', map {"env $_;"} qw( LD_PRELOAD FAKETIME_TIMESTAMP_FILE FAKETIME_NO_CACHE FAKETIME_SHARED ) ),
    http    => 'timer_max_running 4;',
    server  => join( '', 'location /status/ { timer_api; }', map { timer( $backend, $_, $timer{$_}, 'ok', $more{$_} ) } sort keys %timer )
        . 'location @empty { timer empty every=30s offset=0; return 204; }'
        . 'location @static { timer static every=30s offset=0 uri=/index.html; root html; }'
        . 'location @off { timer off every=50ms enabled=off; return 204; }',
);
spew( $nginx->prefix . '/html/index.html', 'static' );
$nginx->start;

my @paths = ( '/', '/timers', '/timers/every1', '/timers/every1/next?count=3', '/next?cron=@daily', '/text', '/health', '/health/every1', '/metrics' );

sub ask_all {
    my $bad = 0;
    for my $path (@paths) {
        for my $accept ( '*/*', 'text/html' ) {
            my $answer = $nginx->get( "/status$path", headers => "Accept: $accept\r\n" );
            $bad++ if $answer->{status} != 200;
        }
    }
    return $bad;
}

my @half_minutely = grep { $timer{$_} !~ /366d|\* \* \* \* \*"/ } sort keys %timer;
my $file  = $nginx->prefix . '/timers.state';
my $wrong = 0;
for my $n ( 1 .. 10 ) {
    my $due = 30 * ( $n + int( $now / 30 ) );
    set_clock( $due - 1.5 );
    $wrong += ask_all();
    # Half a second later, when all jitter is over.
    set_clock( $due + 0.5 );
    my $ran = wait_until {
        @half_minutely == grep {
            grep { due_ms($_) == $due * 1000 && $_->{ended} } $backend->requests( timer => $_ )
        } @half_minutely;
    };
    # The others, too, before the time goes on.
    wait_until {
        my $records = read_records($file);
        !grep { $_->{progress} || $_->{watermark} < $due * 1000 } @$records{ @half_minutely, 'empty', 'static', $due % 60 ? () : 'minutely' };
    };
    ok( $ran, "half minute $n: all have run" );
    if ( $n % 4 == 0 ) {
        my @old = $nginx->reload;
        ok( $nginx->wait_gone( \@old ), 'a reload' );
    }
}
is( $wrong, 0, 'the API has answered' );
my $starts = $nginx->log_lines(qr/start worker process \d+/);
$nginx->stop;

my $id    = qr/[0-9a-f]{32}/;
my %known = (
    ours => [
        qr/\[info\] \d+#\d+: timer "([a-z0-9]+)": run succeeded: status 20[04], \d+ms, timer: "\1", run: $id/,
        qr/\[notice\] \d+#\d+: timer: \d+ timers in this worker, slot [01], state file "\Q$file\E"/,
    ],
    nginx => [
        qr/\[notice\] \d+#\d+: (?:using the "epoll" event method|nginx\/\S+|built by .*|OS: .*|getrlimit\(RLIMIT_NOFILE\): \S+)/,
        qr/\[notice\] \d+#\d+: (?:start worker processes|start worker process \d+|reconfiguring|gracefully shutting down|exiting|exit)/,
        qr/\[notice\] \d+#\d+: signal \d+ \(SIG(?:HUP|QUIT|CHLD|IO)\) received(?: from \d+)?(?:, reconfiguring|, shutting down)?/,
        qr/\[notice\] \d+#\d+: worker process \d+ exited with code 0/,
        qr/\[info\] \d+#\d+: (?:\*\d+ )?client 127\.0\.0\.1 closed (?:keepalive )?connection.*/,
        qr/\[info\] \d+#\d+: epoll_wait\(\) failed \(4: Interrupted system call\)/,
    ],
);
my %lines = map {
    my $whose = $_;
    $whose => [ grep { my $line = $_; grep { $line =~ /\A\S+ \S+ $_\z/ } @{ $known{$whose} } } $nginx->log_lines(qr/./) ];
} keys %known;
my %is_known = map { $_ => 1 } map {@$_} values %lines;
my @unknown  = grep { !$is_known{$_} } $nginx->log_lines(qr/./);
is( join( "\n", @unknown ), '', 'each line of the log is known' );

is( scalar( grep {/\[notice\]/} @{ $lines{ours} } ), $starts, "one line for each of $starts workers" );
cmp_ok( $starts, '>=', 6, 'two starts of each, and the first' );
my $records = read_records($file);
my $runs    = 0;
$runs += $_->{success} for values %$records;
is( scalar( grep {/run succeeded/} @{ $lines{ours} } ), $runs, "and one for each of $runs runs" );
is( join( ' ', grep { $records->{$_}{runs} - $records->{$_}{success} || $records->{$_}{missed} || $records->{$_}{overlaps} } sort keys %$records ),
    '', 'of which all went well' );
done_testing;
