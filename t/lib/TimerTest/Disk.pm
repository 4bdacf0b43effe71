package TimerTest::Disk;

# Small disks, for files in a mount namespace of their own (TimerTest::Series::in_namespace).

use strict;
use warnings;

use Exporter qw( import );
use Test::More ();
use TimerTest;

our @EXPORT = qw( small_disk fill_disk );

# A disk of so many kilobytes (256); answers where it is mounted. One test.
sub small_disk {
    my $kilobytes = shift // 256;
    my $disk      = scratch_dir() . '/disk';
    mkdir $disk;
    my ( $status, $out ) = run_command( 'mount', '-t', 'tmpfs', '-o', "size=${kilobytes}k,mode=755", 'none', $disk );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    Test::More::is( $status, 0, "a disk of ${kilobytes}k" ) or Test::More::diag($out);
    return $disk;
}

# Leaves no room on it, until "$disk/filler" is removed.
sub fill_disk {
    my ($disk) = @_;
    open my $fh, '>', "$disk/filler" or return;
    1 while syswrite $fh, "\0" x 4096;
    return;
}

1;
