#!/usr/bin/perl

# A state file in the format of an older module: taken over at a start; and left alone, without a run, for as long as
# masters of that module use it. An old master is played by a lock: it shares byte 0 of the file while it lives.

use strict;
use warnings;

use Fcntl qw( :DEFAULT :seek );
use FindBin;
use Test::More;
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $old     = slurp("$FindBin::Bin/data/version1.state");
my @names   = qw( history paused ordered waiting running queued cancelled );

my $server = join '', 'location /status/ { timer_api write=on; }', map { timer( $backend, $_, 'every=100ms' ) } @names, 'new';

# What the old file says of a timer: outcomes, and those that nobody is to run again.
my %ended = ( history => 40, map { $_ => 1 } @names[ 1 .. 4 ], 'cancelled' );
$ended{queued} = 2;

# nginx beside an old file, as its master would have left it to the workers.
sub new_nginx {
    my (%option) = @_;
    my $nginx = TimerTest::Nginx->new( workers => 2, server => $server, %option );
    my $file  = $nginx->prefix . '/timers.state';
    $nginx->start;
    my ( $uid, $gid ) = ( stat $file )[ 4, 5 ];
    $nginx->stop;
    spew( $file, $old );
    chown $uid, $gid, $file;
    return ( $nginx, $file );
}

# Holds the use lock as an old master does, until the answer is dropped.
sub old_master {
    my ($file) = @_;
    sysopen my $fh, $file, O_RDWR or die "$file: $!";
    my $flock = pack 's! s! x![q] q q i x![q]', F_RDLCK, SEEK_SET, 0, 1, 0;
    fcntl $fh, 37, $flock or die "fcntl: $!";
    return $fh;
}

# Runs of a timer since an instant.
sub runs_of { my ( $name, $before ) = @_; return scalar( $backend->requests( timer => $name ) ) - $before->{$name} }

sub runs_now {
    return { map { $_ => scalar $backend->requests( timer => $_ ) } @names, 'new' };
}

# The file was taken over: what it said is there still, and goes on.
sub is_taken_over {
    my ( $nginx, $file, $before, $title ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    for my $name ( grep { $_ ne 'paused' } @names, 'new' ) {
        ok( wait_until( sub { runs_of( $name, $before ) >= 2 } ), "$title: $name runs" );
    }
    is( unpack( 'V', substr slurp($file), 16, 4 ), 2, "$title: the file has the new format" );
    for my $name (@names) {
        my $want   = $ended{$name} + ( $name =~ /running|cancelled|waiting/ ? 1 : 0 );
        my $record = wait_record( $file, $name, sub { $_->{runs} >= $want + ( $name eq 'paused' ? 0 : 1 ) } ) or next;
        is( $record->{created}, 1_764_000_000_500, "$title: $name has its record" );
        cmp_ok( scalar @{ $record->{results} }, '>=', $want > 32 ? 32 : $want, "$title: and its history" );
    }
    my $records = read_state($file);
    is( $records->{running}{interrupted}, 1, "$title: the run of a process that has died was interrupted" );
    my $api = TimerTest::Api->new($nginx);
    # Each worker comes to the file by itself, within a second.
    my $status;
    wait_until { $status = $api->show('paused')->{status}; $status ne 'unknown' };
    is( $status, 'paused', "$title: what was paused is" );
    is( runs_of( 'paused', $before ), 0, "$title: and has not run" );
    my ($by_hand) = grep { $_->{headers}{'x-trigger'} eq 'manual' } $backend->requests( timer => 'ordered' );
    ok( !$by_hand, "$title: an order of long ago is not carried out" );
    my ($retry) = grep { $_->{headers}{'x-attempt'} > 1 } $backend->requests( timer => 'waiting' );
    ok( !$retry, "$title: nor a retry that another due time has taken over from" );
    is_well( sub { $nginx->get('/status/health')->{body} }, "ok\n", "$title: all is well" );
    no_doubles( $title, $backend->requests );
    no_overlaps( $title, {}, $backend->requests );
    return;
}

# What the old file says of lost runs is told, and nothing else.
sub is_quiet {
    my ($nginx) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    logged_times( $nginx, qr/\[error\].*"(?:running|cancelled)": run interrupted: process 4000001 died/, 2, 'runs of a dead process' );
    logged_times( $nginx, qr/\[error\].*"ordered": order was taken by no worker/, 1, 'an order of long ago' );
    # But for what a slow machine does: a few due times, and none of the years since the file was written.
    my $slow = qr/due time left out|missed \d{1,3} due times?, left out/;
    logged_times( $nginx, qr{\[(?:crit|error|alert)\](?!.*$slow)}, 3, 'there is nothing else to complain of' );
    return;
}

# A start that finds nobody at it.
{
    my ( $nginx, $file ) = new_nginx();
    my $before = runs_now();
    my ( $ok, $out ) = $nginx->test_conf;
    ok( $ok, 'a test of the configuration' ) or diag $out;
    is( slurp($file), $old, 'changes nothing' );
    $nginx->start;
    is_taken_over( $nginx, $file, $before, 'a start' );
    is_quiet($nginx);
    my $runs = read_state($file)->{history}{runs};
    $nginx->stop;
    $nginx->start;
    ok( wait_record( $file, 'history', sub { $_->{runs} > $runs } ), 'the next start goes on with it' );
    $nginx->stop;
}

# Beside an old master.
{
    my ( $nginx, $file ) = new_nginx();
    my $before = runs_now();
    my $master = old_master($file);
    my $waits  = qr/\[warn\] \d+#\d+: timer: state file "\Q$file\E" is in use by an nginx with an older module, timers are not running\z/m;

    my $is_waiting = sub {
        my ($title) = @_;
        my $api = TimerTest::Api->new($nginx);
        is( $nginx->get('/status/health')->{status}, 503, "$title: not well" );
        like( $nginx->get('/status/health')->{body}, qr/degraded/, "$title: since the state is degraded" );
        is( ( $api->order("/timers/history/$_") )[0], 503, "$title: no $_" ) for qw( run cancel pause resume );
        is( ( $api->order('/pause') )[0], 503, "$title: no pause of all" );
        is( $api->show('history')->{status}, 'unknown', "$title: what a timer does is not known" );
        # Longer than it takes workers to look at the file a few times.
        select undef, undef, undef, 2.5;
        is( scalar( grep { runs_of( $_, $before ) } @names, 'new' ), 0, "$title: no run" );
        ok( slurp($file) eq $old, "$title: the file is byte for byte what it was" );
        return;
    };

    $nginx->start;
    logged_times( $nginx, $waits, 1, 'it is said once' );
    $is_waiting->('beside an old master');
    $nginx->reload_all;
    logged_times( $nginx, $waits, 2, 'a reload says so again' );
    $is_waiting->('after a reload');

    # The new master goes instead.
    $nginx->stop;
    ok( slurp($file) eq $old, 'the new one goes: the file is the old one\'s as it was' );

    # The old master goes.
    $nginx->start;
    logged_times( $nginx, $waits, 3, 'again beside it' );
    close $master;
    is_taken_over( $nginx, $file, $before, 'the old one goes' );
    is_quiet($nginx);

    # Another of the old module sees that it is in use: it asks for the lock alone.
    sysopen my $fh, $file, O_RDWR or die "$file: $!";
    my $alone = pack 's! s! x![q] q q i x![q]', F_WRLCK, SEEK_SET, 0, 1, 0;
    ok( !fcntl( $fh, 37, $alone ), 'the new master uses it now' );
    close $fh;
    my $runs = read_state($file)->{history}{runs};
    $nginx->reload_all;
    ok( wait_record( $file, 'history', sub { $_->{runs} > $runs } ), 'a reload goes on' );
    $nginx->stop;
}

# A reload of the new master, too, takes the file over; and one process alone.
for my $case ( [ 'a reload', reload => 1 ], [ 'one process', master => 0, workers => 1 ] ) {
    my ( $title, %option ) = @$case;
    my $reload = delete $option{reload};
    my ( $nginx, $file ) = new_nginx(%option);
    my $before = runs_now();
    my $master = old_master($file);
    $nginx->start;
    ok( wait_until( sub { $nginx->log =~ /older module, timers are not running/ } ), "$title: it waits" );
    close $master;
    $nginx->reload_all if $reload;
    is_taken_over( $nginx, $file, $before, $title );
    $nginx->stop;
}

done_testing;
