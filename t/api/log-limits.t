#!/usr/bin/perl

# How often a line is written: the first of a row, then one a minute, with the number of those that were left
# out. The minutes pass by libfaketime: nginx's clocks, the monotonic one too, are set forward; the witness'
# is real.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1 /usr/lib64/faketime/libfaketime.so.1';
plan skip_all => 'libfaketime is not installed' if !$library;
plan skip_all => 'a sanitizer or valgrind wants to be the first library' if nginx_is_watched();

my $backend = TimerTest::Backend->start;

# Each nginx has a clock of its own: { nginx, file, passed }.
sub start_nginx {
    my ( $server, %option ) = @_;
    my $clock = { file => scratch_dir() . '/clock', passed => 0 };
    spew( $clock->{file}, "+0s\n" );
    $clock->{nginx} = TimerTest::Nginx->new(
        wrapper => "env LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE=$clock->{file} FAKETIME_NO_CACHE=1",
        main    => join( ' ', map {"env $_;"} qw( LD_PRELOAD FAKETIME_TIMESTAMP_FILE FAKETIME_NO_CACHE FAKETIME_SHARED ) ),
        server  => "location /status/ { timer_api write=on; }\n$server",
        %option,
    );
    $clock->{nginx}->start;
    return $clock;
}

sub pass_seconds {
    my ( $clock, $seconds ) = @_;
    $clock->{passed} += $seconds;
    spew( "$clock->{file}.new", "+$clock->{passed}s\n" );
    rename "$clock->{file}.new", $clock->{file} or die "rename: $!";
    return;
}

sub timer_shown {
    my ( $nginx, $name ) = @_;
    my $answer = $nginx->get("/status/timers/$name");
    return eval { JSON::PP->new->utf8->decode( $answer->{body} ) } // {};
}

sub counters { return timer_shown(@_)->{counters} // {} }

# For what must not happen meanwhile: a timer has done something for a while.
sub goes_on {
    my ( $timer, $more ) = @_;
    my $count = ( $more // 10 ) + $backend->requests( timer => $timer );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( $backend->wait_requests( $count, timer => $timer, ended => 1 ) >= $count, "$timer goes on" );
}

# One test: a line of each of the numbers, in this order; answers the lines.
sub lines_with {
    my ( $nginx, $pattern, $count, $title ) = @_;
    $nginx->wait_log( $pattern, $count );
    my @lines = $nginx->log_lines($pattern);
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is( scalar @lines, $count, $title ) or diag join "\n", @lines[ 0 .. ( $#lines > 9 ? 9 : $#lines ) ];
    return @lines;
}

# An attempt that is in progress while the clock is set forward is not cut off.
my $long = 'timer_timeout 10h; proxy_read_timeout 10h; proxy_send_timeout 10h; proxy_connect_timeout 10h;';

# A row of failures; the end of a row.
{
    my $clock = start_nginx( timer( $backend, 'fails', 'every=50ms', 'status/500', $long ) );
    my $nginx = $clock->{nginx};
    my $fails = qr/\[error\] \d+#\d+: timer "fails": run failed: /;

    ok( $backend->wait_requests( 20, timer => 'fails', ended => 1 ) >= 20, 'twenty failures' );
    my ($first) = lines_with( $nginx, $fails, 1, 'one line' );
    like( $first, qr/: run failed: status 500, \d+ms, timer: "fails", run: [0-9a-f]{32}\z/, 'in its words' );

    pass_seconds( $clock, 30 );
    goes_on('fails');
    lines_with( $nginx, $fails, 1, 'after 30 s, no other' );

    my $before = $backend->requests( timer => 'fails' );
    pass_seconds( $clock, 31 );
    my ( undef, $second ) = lines_with( $nginx, $fails, 2, 'after a minute, the second' );
    my $after = $backend->requests( timer => 'fails' );
    my ($number) = ( $second // '' ) =~ /: run failed: status 500, \d+ms, (\d+) more left out, timer: "fails", run: [0-9a-f]{32}\z/;
    ok( $number, 'with the number of those that were left out' ) or diag $second;
    # The first, the last, and one that is in progress, are not among them.
    cmp_ok( $number // 0, '>=', $before - 3, "which is right: $number of $before to $after" );
    cmp_ok( $number // 0, '<=', $after - 2,  'and not too high' );

    goes_on('fails');
    lines_with( $nginx, $fails, 2, 'and then no other' );
    $before = $backend->requests( timer => 'fails' );
    pass_seconds( $clock, 61 );
    my ( undef, undef, $third ) = lines_with( $nginx, $fails, 3, 'another minute, another line' );
    my ($other) = ( $third // '' ) =~ /, (\d+) more left out, timer: /;
    # With the three lines it makes all that have failed by then.
    my $sum = ( $number // 0 ) + ( $other // 0 ) + 3;
    cmp_ok( $sum, '>=', $before - 2, "which counts anew: $sum in all" );
    cmp_ok( $sum, '<=', scalar $backend->requests( timer => 'fails' ), 'and not too high' );
    $nginx->stop;
}

# The end of a row, within its minute.
{
    my $nginx = start_nginx( timer( $backend, 'mends', 'every=50ms', 'fail-first/20/turns/200/500/500' ) )->{nginx};

    # The next failure after a success is told at once, and of none that were left out before.
    ok( $nginx->wait_log( qr/\[notice\] \d+#\d+: timer "mends": succeeded after \d+ failures, timer: "mends", run: [0-9a-f]{32}\z/, 3 ),
        'rows end' );
    my @mends = $nginx->log_lines(qr/timer "mends": (?:run failed|succeeded after)/);
    my @rows  = map { /succeeded/ ? '|' : 'F' } @mends;
    like( join( '', @rows ), qr/\AF\|(?:F\|){2,}F?\z/, 'each further row has its first line at once' ) or diag join "\n", @mends;
    none_of {/more left out/} 'and tells of none before it', @mends;
    $nginx->stop;
}

# Due times that are left out: the number is theirs.
{
    my $clock = start_nginx( timer( $backend, 'hangs', 'every=50ms', 'hang', $long ) . timer( $backend, 'ticks', 'every=50ms', 'ok', $long ) );
    my $nginx = $clock->{nginx};
    my $left_out = qr/timer "hangs": due time left out: /;
    my $counted  = sub { return counters( $nginx, 'hangs' )->{overlaps} // 0 };

    my ($first) = lines_with( $nginx, $left_out, 1, 'a due time is left out' );
    my $words = qr/\[error\] \d+#\d+: timer "hangs": due time left out: last run in progress for \d+ms/;
    like( $first, qr/$words(?:, \d+ more left out)?\z/, 'in these words' );
    ok( wait_until { $counted->() >= 10 }, 'ten are' );
    lines_with( $nginx, $left_out, 1, 'that is one line' );
    pass_seconds( $clock, 30 );
    goes_on('ticks');
    lines_with( $nginx, $left_out, 1, 'after 30 s, no other' );

    my $before = $counted->();
    pass_seconds( $clock, 31 );
    my ( undef, $second ) = lines_with( $nginx, $left_out, 2, 'after a minute, another' );
    like( $second, qr/$words, \d+ more left out\z/, 'with the number of others' );
    my $sum = 0;
    $sum += 1 + ( /, (\d+) more left out/ ? $1 : 0 ) for $first, $second // ();
    cmp_ok( $sum, '>=', $before, "with those it makes all of them: $sum" );
    ok( wait_until { $counted->() >= $sum }, 'which are counted' );

    # The run ends, and so does the row.
    is( $nginx->get( '/status/timers/hangs/cancel', method => 'POST' )->{status}, 202, 'the run is cancelled' );
    my ($third) = ( lines_with( $nginx, $left_out, 3, 'the next row has its first line at once' ) )[2];
    like( $third, qr/last run in progress for \d{1,4}ms/, 'which is of another run' );
    logged( $nginx, qr/\[info\] \d+#\d+: timer "hangs": run cancelled after \d+ms, timer: "hangs", run: [0-9a-f]{32}\z/, 'a cancelled run is told of, as info' );
    $nginx->stop('TERM');
}

# Due times that are missed: while no run is in progress, else they would be overlaps.
{
    # Its runs end in the turn of the event loop in which they begin.
    my $clock = start_nginx('location @misses { timer misses every=1s; timer_missed skip; return 204; }');
    my $nginx = $clock->{nginx};
    my $lines = qr/timer "misses": missed \d+ due times?, left out/;
    my $said  = sub {
        my $sum = 0;
        /missed (\d+) due times?, left out\z/ and $sum += $1 for $nginx->log_lines($lines);
        return $sum;
    };
    my $missed = sub { return counters( $nginx, 'misses' )->{missed} };
    my $misses = sub {
        my ($seconds) = @_;
        my $runs = $nginx->log_lines(qr/timer "misses": run succeeded/);
        ok( $nginx->wait_log( qr/timer "misses": run succeeded/, $runs + 1 ), 'misses goes on' );
        my $before = $missed->();
        pass_seconds( $clock, $seconds );
        ok( wait_until { $missed->() >= $before + $seconds - 2 }, "$seconds s are missed" );
    };

    $misses->(10);
    my ($first) = lines_with( $nginx, $lines, 1, 'which is said' );
    like( $first, qr/\[error\] \d+#\d+: timer "misses": missed \d+ due times, left out\z/, 'in these words' );
    $misses->(15) for 1 .. 2;
    lines_with( $nginx, $lines, 1, 'of more that are, nothing' );
    my $before = $missed->();
    $misses->(31);
    lines_with( $nginx, $lines, 2, 'until the minute is over' );
    cmp_ok( $said->(), '>', $before, 'then all of them' );
    cmp_ok( $said->(), '<=', $missed->(), 'and no more than were counted' );
    $nginx->stop;
}

# A worker that hangs in a run: the others say so.
{
    my $clock = start_nginx( timer( $backend, 'stuck', 'every=366d first=now', 'hang', 'timer_worker any; timer_timeout 20s;' )
            . join( '', map { timer( $backend, "auto$_", 'every=50ms', 'ok', "timer_worker auto; $long" ) } 1 .. 6 ), workers => 2 );
    my $nginx = $clock->{nginx};
    my $stuck = qr/timer "stuck": run in progress for \d+ms in process \d+ does not end/;
    my ($run) = $backend->wait_requests( 1, timer => 'stuck' );
    my $pid = $run->{headers}{'x-pid'};
    # One that the other worker has.
    my $other;
    ok( wait_until { ($other) = grep { $_->{headers}{'x-timer'} =~ /^auto/ && $_->{headers}{'x-pid'} != $pid } $backend->requests },
        'both workers have timers' );
    $other = $other->{headers}{'x-timer'};
    $nginx->signal( 'STOP', $pid );
    goes_on($other);
    pass_seconds( $clock, 31 );
    my ($first) = lines_with( $nginx, $stuck, 1, 'a run that exceeds its timeout by 10 s is stuck' );
    like( $first, qr/\[error\] (?!$pid#)\d+#\d+: timer "stuck": run in progress for [3-9]\d{4}ms in process $pid does not end\z/,
        'the other worker says so' );
    # It looks once a second.
    for ( 1 .. 5 ) {
        pass_seconds( $clock, 2 );
        goes_on( $other, 3 );
    }
    lines_with( $nginx, $stuck, 1, 'and not again' );
    pass_seconds( $clock, 60 );
    lines_with( $nginx, $stuck, 2, 'within a minute' );
    $nginx->signal( 'CONT', $pid );
    logged( $nginx, qr/ $pid#\d+: timer "stuck": run failed: timed out after 20000ms/, 'it ends' );
    $nginx->stop;
}

# A record that somebody holds, and one that is another timer's.
{
    my $clock = start_nginx( join '', map { timer( $backend, $_, 'every=200ms', 'ok', $long ) } qw( held robbed robber free ) );
    my $nginx = $clock->{nginx};
    my $file  = $nginx->prefix . '/timers.state';
    goes_on($_) for qw( held robbed robber );
    my $records = read_records($file);

    my $lock = hold_lock( $file, 4096 * $records->{held}{page} );
    my $held = qr/timer "held": record is locked for too long/;
    my ($first) = lines_with( $nginx, $held, 1, 'a record that is locked' );
    like( $first, qr/\[error\] \d+#\d+: timer "held": record is locked for too long\z/, 'is told of' );
    # It is tried again and again; how often that is, is the machine's to say.
    goes_on('free') for 1 .. 4;
    lines_with( $nginx, $held, 1, 'that is one line' );
    pass_seconds( $clock, 61 );
    my ( undef, $second ) = lines_with( $nginx, $held, 2, 'in a minute' );
    like( $second, qr/: record is locked for too long, \d+ more left out\z/, 'with the number of others' );
    my ($number) = ( $second // '' ) =~ /, (\d+) more left out/;
    cmp_ok( $number // 0, '>=', 2, 'which is right' );
    close $lock;
    goes_on('held');

    # The page of one has the contents of another's, while no run is in progress, whose end would write
    # its own.
    my $still = hold_lock( $file, 4096 * $records->{robbed}{page} );
    my $lost = qr/timer "robbed": record belongs to another timer/;
    open my $fh, '+<:raw', $file or die "$file: $!";
    sysseek $fh, 4096 * $records->{robber}{page}, 0;
    sysread $fh, my $page, 4096;
    sysseek $fh, 4096 * $records->{robbed}{page}, 0;
    syswrite $fh, $page;
    close $fh;
    close $still;
    ($first) = lines_with( $nginx, $lost, 1, 'a record that is not its own' );
    like( $first, qr/\[error\] \d+#\d+: timer "robbed": record belongs to another timer\z/, 'is told of' );
    goes_on('robbed');
    lines_with( $nginx, $lost, 1, 'once' );
    pass_seconds( $clock, 61 );
    goes_on('robbed');
    lines_with( $nginx, $lost, 2, 'a minute' );
    $nginx->stop;
}

# A file that cannot be written: beyond the first megabyte, as the process may have no larger files.
{
    local $SIG{XFSZ} = 'IGNORE';
    my $server = join '', ( map {"location \@rare$_ { timer rare$_ every=366d; return 204; }\n"} 1 .. 300 ), timer( $backend, 'last', 'every=100ms', 'ok', $long );
    my $clock  = start_nginx($server);
    my $nginx  = $clock->{nginx};
    my $file   = $nginx->prefix . '/timers.state';
    my $crit   = sub { return qr/\[crit\] $_[0]#\d+: timer: state file: pwrite\(\) "\Q$file\E" failed \(27: File too large\)\z/ };
    my $limit  = sub {
        my ( $pid, $bytes ) = @_;
        my ( $status, $out ) = run_command( 'prlimit', "--pid=$pid", "--fsize=$bytes:" );
        is( $status, 0, "process $pid may write files of $bytes" ) or diag $out;
    };
    goes_on('last');
    cmp_ok( read_records($file)->{last}{page}, '>', 256, 'a record beyond the first megabyte' );

    # A load writes to all records; the worker that it starts may not write either.
    $nginx->write_conf( server => $nginx->{server} =~ s/every=366d/every=365d/gr );
    $limit->( $nginx->pid, 1 << 20 );
    my @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    lines_with( $nginx, $crit->( $nginx->pid ), 1, 'a load that cannot write says so once' );
    my $worker = $nginx->worker_in_slot(0);
    lines_with( $nginx, $crit->($worker), 1, 'a worker that cannot write says so' );
    goes_on('last');
    lines_with( $nginx, $crit->($worker), 1, 'once' );
    pass_seconds( $clock, 61 );
    lines_with( $nginx, $crit->($worker), 2, 'a minute' );
    goes_on('last');

    $limit->( $nginx->pid, 'unlimited' );
    @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    my $said = $nginx->log_lines(qr/\[crit\]/);
    goes_on('last');
    lines_with( $nginx, qr/\[crit\]/, $said, 'when it can be written again nobody complains' );
    $nginx->stop;
}

done_testing;
