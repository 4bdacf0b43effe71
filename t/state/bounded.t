#!/usr/bin/perl

# What somebody else's file, or somebody else's locks, may cost: a start, a reload and a test of the
# configuration take two seconds at most for it, however large the file says it is.

use strict;
use warnings;

use Fcntl qw( SEEK_SET F_SETLK F_WRLCK );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Cases;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $cases   = TimerTest::Cases->new($backend);

# The two seconds, and what a slow machine needs to start nginx at all.
my $limit = 20;

# A file whose header claims as many pages as a number can say, and is as long, without taking any room.
my $nginx = TimerTest::Nginx->new( workers => 2, server => $cases->timers('huge') );
my $file  = $nginx->prefix . '/timers.state';
$nginx->start;
$cases->goes_on( $nginx, 'huge', 'a file of ours' );
$nginx->stop;
my $whole = slurp($file);
for my $pages ( 4 << 20, 0xffff_ffff ) {
    spew( $file, crafted( $whole, $pages ) );
    truncate $file, $pages * 4096 or truncate $file, 1 << 40 or diag "truncate: $!";
    my ( $ok, $out ) = $nginx->test_conf;
    ok( $ok, "$pages pages: a test of the configuration" ) or diag $out;
    my $began = time;
    $nginx->start;
    cmp_ok( time - $began, '<', $limit, 'a start' );
    $cases->goes_on( $nginx, 'huge', 'the timers' );
    logged( $nginx, qr/\[crit\].*state file "\Q$file\E" is (?:damaged|truncated), moved to "\Q$file\E\.bad"/, 'it is said' );
    unlink "$file.bad";
    $nginx->stop;
}
is( $cases->first_runs('huge'), 1, 'nothing is new after that' );

# A file that is somebody else's, and as large.
my $image = $nginx->prefix . '/disk.img';
spew( $image, "a disk image\n" x 10_000 );
truncate $image, 1 << 40 or truncate $image, 1 << 34;
my $other = TimerTest::Nginx->new( state => $image, server => 'location @x { timer x every=1s; return 204; }' );
my $began = time;
my ( $ok, $out ) = $other->test_conf;
ok( !$ok, 'somebody else\'s file is refused by a test of the configuration' );
like( $out, qr/\[emerg\].*state file "\Q$image\E" is not a state file/, 'in these words' );
cmp_ok( time - $began, '<', $limit, 'at once' );
ok( !-e "$image.bad", 'and left alone' );

# All of the file is locked by a process that does not let go: forty timers wait no longer than one.
my $forty = join '', map { timer( $backend, "locked-$_", 'every=50ms' ) } 1 .. 40;
$nginx = TimerTest::Nginx->new( workers => 2, server => $forty );
$file = $nginx->prefix . '/timers.state';
$nginx->start;
ok( $backend->wait_requests( 1, timer => 'locked-40' ), 'forty timers' );
$nginx->stop;
{
    open my $fh, '+<', $file or die "$file: $!";
    my $lock = pack 's! s! l! l! i', F_WRLCK, SEEK_SET, 0, 0, 0;
    fcntl $fh, F_SETLK, $lock or die "fcntl: $!";
    my $since = time;
    $nginx->write_conf( server => $forty =~ s/every=50ms/every=60ms/gr );
    $nginx->start;
    cmp_ok( time - $since, '<', $limit, 'a start with a locked file' );
    is( $nginx->get('/ready')->{status}, 200, 'nginx serves' );
    logged( $nginx, qr/\[error\].*timer "locked-1": record is locked, not updated/, 'it is said of one timer' );
    logged( $nginx, qr/\[error\].*timer: 39 more records are locked, not updated/, 'and how many more there are' );
    logged_times( $nginx, qr/locked, not updated/, 2, 'in two lines' );
}
ok( $backend->wait_requests( 1 + $backend->requests( timer => 'locked-7' ), timer => 'locked-7' ), 'runs go on when it has let go' );
$nginx->stop;

done_testing;

# A header that claims so many pages, with a right checksum.
sub crafted {
    my ( $bytes, $pages ) = @_;
    substr $bytes, 24, 4, pack 'V', $pages;
    substr $bytes, 8, 8, pack 'Q<', xxh64( substr( $bytes, 16, 2032 ), 1 );
    return $bytes;
}
