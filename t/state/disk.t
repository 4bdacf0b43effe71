#!/usr/bin/perl

# What becomes of the state file while nginx runs: deleted, replaced, cut short; a disk that is full, or
# read-only. Nothing of it keeps nginx from reloading, serving or running timers. This file runs in a mount
# namespace of its own.

use strict;
use warnings;

use Fcntl qw( :mode );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Cases;
use TimerTest::Disk;
use TimerTest::Nginx;
use TimerTest::Series;

in_namespace();

my $backend = TimerTest::Backend->start;
my $cases   = TimerTest::Cases->new($backend);

sub new_nginx {
    my (%option) = @_;
    my $nginx = TimerTest::Nginx->new( workers => 2, %option );
    return ( $nginx, $nginx->prefix . '/timers.state' );
}

# A whole file of another life.
my $whole;
{
    my ( $nginx, $file ) = new_nginx( server => $cases->timers('whole') );
    $nginx->start;
    $cases->goes_on( $nginx, 'whole', 'a new file' );
    $nginx->stop;
    $whole = slurp($file);
}

# The file is deleted while nginx runs: workers go on with what the master holds open, respawned ones
# too; the next reload makes a new file, with all records, and says so once.
{
    my ( $nginx, $file ) = new_nginx( server => $cases->timers('deleted'), allow => [qr/exited on signal 9/] );
    $nginx->start;
    $cases->goes_on( $nginx, 'deleted', 'before' );
    my $before = read_records($file)->{'deleted-tick'}{runs};
    unlink $file;
    $cases->goes_on( $nginx, 'deleted', 'a deleted file' );
    my $zero = $nginx->worker_in_slot(0);
    kill 'KILL', $zero;
    ok( wait_until( sub { requests_by( $nginx->worker_in_slot(0) // 0, $backend->requests( timer => 'deleted-tick' ) ) >= 2 } ), 'a respawned worker goes on' );
    ok( !-e $file, 'without the file' );
    logged_times( $nginx, qr/\[crit\]/, 0, 'nobody complains yet' );
    no_doubles( 'a deleted file', $backend->requests( timer => 'deleted-tick' ), $backend->requests( timer => 'deleted-any' ) );
    $nginx->reload_all;
    my @after = $backend->requests;
    $cases->goes_on( $nginx, 'deleted', 'after a reload' );
    ok( -s $file, 'the file is there again' );
    logged_times( $nginx, qr/\[crit\].*state file "\Q$file\E"/, 1, 'it is said once' );
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'deleted', 'after another' );
    logged_times( $nginx, qr/\[crit\]/, 1, 'and not again' );
    is( $cases->first_runs('deleted'), 1, 'no first run again' );
    cmp_ok( read_records($file)->{'deleted-tick'}{runs}, '>', $before, 'the records were kept' );
    # While old and new workers live side by side at that reload they do not know of each other.
    my @all = $backend->requests;
    no_doubles( 'after the reload', @all[ scalar @after .. $#all ] );
    $nginx->stop;
}

# The same with another file, a whole one, in its place.
{
    my ( $nginx, $file ) = new_nginx( server => $cases->timers('replaced') );
    $nginx->start;
    $cases->goes_on( $nginx, 'replaced', 'before' );
    my $before = read_records($file)->{'replaced-tick'}{runs};
    spew( "$file.other", $whole );
    chmod 0600, "$file.other";
    rename "$file.other", $file;
    $cases->goes_on( $nginx, 'replaced', 'a replaced file' );
    logged_times( $nginx, qr/\[crit\]/, 0, 'nobody complains yet' );
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'replaced', 'after a reload' );
    logged_times( $nginx, qr/\[crit\].*state file "\Q$file\E" was replaced while in use/, 1, 'it is said once' );
    my $records = read_records($file);
    cmp_ok( $records->{'replaced-tick'}{runs}, '>', $before, 'our records were written into it' );
    ok( $records->{'whole-tick'}, 'beside those that it had' );
    is( $cases->first_runs('replaced'), 1, 'no first run again' );
    $nginx->stop;
}

# A file cut short while nginx runs is not a crash.
{
    my ( $nginx, $file ) = new_nginx( server => $cases->timers('cut') );
    $nginx->start;
    $cases->goes_on( $nginx, 'cut', 'before' );
    truncate $file, 0;
    $cases->goes_on( $nginx, 'cut', 'a file that was cut to nothing' );
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'cut', 'after a reload' );
    $nginx->stop;
}

# A full disk: at the start, when growing, at run time.
{
    my $disk = small_disk(256);
    fill_disk($disk);
    my $file = "$disk/full.state";
    my ($nginx) = new_nginx();
    $nginx->write_conf( state => $file, server => $cases->timers('full') );
    $nginx->start;
    $cases->goes_on( $nginx, 'full', 'a full disk at the start' );
    logged( $nginx, qr/\[crit\].*state file: pwrite\(\) "\Q$file\E" failed, state is kept in memory \(28: No space left on device\)/, 'it is said' );
    cmp_ok( scalar( $nginx->log_lines(qr/\[crit\]/) ), '<=', 3 * $TimerTest::SLOW, 'not again and again' );
    unlink "$disk/filler";
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'full', 'with space again' );
    ok( -s $file, 'the file is made' );
    $nginx->stop;
}
{
    my $disk = small_disk(256);
    my $file = "$disk/grows.state";
    my ($nginx) = new_nginx();
    $nginx->write_conf( state => $file, server => $cases->timers('grows') );
    $nginx->start;
    $cases->goes_on( $nginx, 'grows', 'a disk with space' );
    fill_disk($disk);
    $cases->goes_on( $nginx, 'grows', 'a disk that is full at run time' );
    logged_times( $nginx, qr/\[crit\]/, 0, 'which harms nothing that has its place' );
    $nginx->write_conf( server => $cases->timers( 'grows', join '', map { timer( $backend, "grows-more$_", 'every=200ms', 'ok', $_ % 2 ? '' : 'timer_worker any;' ) } 1 .. 40 ) );
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'grows', 'a disk that is full when growing' );
    logged( $nginx, qr/\[crit\].*state file: pwrite\(\) "\Q$file\E" failed \(28: No space left on device\)/, 'it is said' );
    my $run = wait_until { 40 == grep { $backend->requests( timer => "grows-more$_" ) } 1 .. 40 };
    ok( $run, 'timers without a record run all the same' );
    no_doubles( 'without a record', grep { $_->{headers}{'x-timer'} =~ /^grows/ } $backend->requests );
    unlink "$disk/filler";
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'grows', 'with space again' );
    is( scalar( grep {/^grows/} keys %{ read_records($file) } ), 43, 'each has a record' );
    $nginx->stop;
}

# A write that fails at run time: the pages are gone, and there is no room for new ones.
{
    my $disk = small_disk(256);
    my $file = "$disk/fails.state";
    my ($nginx) = new_nginx();
    $nginx->write_conf( state => $file, server => $cases->timers('fails') );
    $nginx->start;
    $cases->goes_on( $nginx, 'fails', 'a disk with space' );
    # Between the two nobody may get back what is cut off.
    my @workers = children_of( $nginx->pid );
    stand_still(@workers);
    truncate $file, 0;
    fill_disk($disk);
    $nginx->signal( 'CONT', $_ ) for @workers;
    $cases->goes_on( $nginx, 'fails', 'a file that cannot be written' );
    logged( $nginx, qr/\[crit\].*state file: pwrite\(\) "\Q$file\E" failed \(28: No space left on device\)/, 'it is said' );
    $cases->goes_on( $nginx, 'fails', 'and then' );
    cmp_ok( scalar( $nginx->log_lines(qr/\[crit\]/) ), '<=', 4, 'once a minute by each worker' );
    no_doubles( 'without a state', grep { $_->{headers}{'x-timer'} eq 'fails-tick' } $backend->requests );
    unlink "$disk/filler";
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'fails', 'with space again' );
    is( $cases->first_runs('fails'), 1, 'no first run again' );
    $nginx->stop;
}

# A file system that becomes read-only: what is open goes on, what is opened anew cannot be written.
{
    my $disk = small_disk(1024);
    my $file = "$disk/ro.state";
    my ($nginx) = new_nginx( allow => [qr/exited on signal 9/] );
    $nginx->write_conf( state => $file, server => $cases->timers('ro') );
    $nginx->start;
    $cases->goes_on( $nginx, 'ro', 'a disk' );
    my ( $status, $out ) = run_command( 'mount', '--bind', $disk, $disk );
    ( $status, $out ) = run_command( 'mount', '-o', 'remount,bind,ro', $disk ) if $status eq '0';
    is( $status, 0, 'is made read-only' ) or diag $out;
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'ro', 'after a reload' );
    logged( $nginx, qr/\[crit\].*state file: \w+\(\) "\Q$file\E" failed \(30: Read-only file system\)/, 'it is said' );
    kill 'KILL', $nginx->worker_in_slot(0);
    $cases->goes_on( $nginx, 'ro', 'with a respawned worker' );
    is( $cases->first_runs('ro'), 1, 'no first run again' );
    no_doubles( 'a read-only disk', grep { $_->{headers}{'x-timer'} =~ /^ro-/ } $backend->requests );
    $nginx->stop;

    # And a start on it.
    $nginx->start;
    $cases->goes_on( $nginx, 'ro', 'a start on a read-only disk' );
    $nginx->stop;
    run_command( 'mount', '-o', 'remount,bind,rw', $disk );
    $nginx->start;
    $cases->goes_on( $nginx, 'ro', 'writable again' );
    $nginx->stop;
}

done_testing;
