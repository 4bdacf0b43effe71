#!/usr/bin/perl

# Bad content of the state file never keeps nginx from starting, reloading, serving or running timers: it is
# moved aside, in one line, and a new file made; one damaged record is one timer's. This file runs in a mount namespace of its own.

use strict;
use warnings;

use Fcntl qw( :mode );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Cases;
use TimerTest::Nginx;
use TimerTest::Series;

in_namespace();

my $backend = TimerTest::Backend->start;
my $cases   = TimerTest::Cases->new($backend);

# Bad content: moved aside, said in one line, and a new file made. It is not "never seen": first=now has
# run already, as far as one can know.
my $whole;
{
    my $nginx = TimerTest::Nginx->new( server => $cases->timers('whole') );
    $nginx->start;
    $cases->goes_on( $nginx, 'whole', 'a new file' );
    $nginx->stop;
    $whole = slurp( $nginx->prefix . '/timers.state' );
    is( length($whole) % 4096, 0, 'the file is whole pages' );
    is( $cases->first_runs('whole'), 1, 'a first run where the state has never seen the timer' );
}

# Where the default place can be made ours: in the prefix, or bound over the compiled-in one.
my ($configure) = ( run_command( nginx_binary(), '-V' ) )[1] =~ /^configure arguments: (.*)/m;
my ($compiled_in) = $configure =~ m{--http-client-body-temp-path=(/\S+)/[^/\s]+};

sub new_nginx {
    my ( $where, %option ) = @_;
    my $nginx = TimerTest::Nginx->new( workers => 2, %option );
    my $file  = $nginx->prefix . '/timers.state';
    $nginx->write_conf( state => $where eq 'default' ? 'default' : $file );
    if ( $where eq 'default' && $compiled_in ) {
        my ( $status, $out ) = run_command( 'mount', '--bind', $nginx->prefix, $compiled_in );
        diag $out if $status ne '0';
        $file = "$compiled_in/timers.state";
    }
    return ( $nginx, $file );
}

my $header_damaged = $whole;
substr $header_damaged, 30, 1, chr( 1 ^ ord substr $header_damaged, 30, 1 );
my $newer = $whole;
substr $newer, 16, 4, pack 'V', 99;
my %content = (
    short     => substr( $whole, 0, 100 ),
    truncated => substr( $whole, 0, length($whole) - 5000 ),
    header    => $header_damaged,
    newer     => $newer,
    zeros     => "\0" x 8192,
);
for my $where (qw( named default )) {
    for my $kind ( sort keys %content ) {
        my $case = "$where-$kind";
        my ( $nginx, $file ) = new_nginx( $where, server => $cases->timers($case) );
        spew( $file, $content{$kind} );
        chmod 0600, $file;
        $nginx->start;
        $cases->goes_on( $nginx, $case, "$case" );
        logged_times( $nginx, qr/\[crit\]/, 1, "$case: one crit line" );
        logged( $nginx, qr/\[crit\].*state file "\Q$file\E" .*, moved to "\Q$file\E\.bad"/, "$case: that names both" );
        is( slurp("$file.bad"), $content{$kind}, "$case: and nothing is lost of it" );
        is( $cases->first_runs($case), 0, "$case: after that, nothing is never seen" );
        if ( $kind eq 'newer' ) {
            # And at a reload, while the state is in use: the bad one is ours, so it is not moved while
            # another nginx uses it; here nobody does.
            unlink "$file.bad";
            spew( "$file.tmp", $content{newer} );
            rename "$file.tmp", $file;
            $nginx->reload_all;
            logged( $nginx, qr/\[crit\].*state file "\Q$file\E" .*, moved to "\Q$file\E\.bad"/, "$case: at a reload, too", 2 );
            $cases->goes_on( $nginx, $case, "$case, at a reload" );
        }
        $nginx->stop;
        run_command( 'umount', $compiled_in ) if $where eq 'default' && $compiled_in;
    }
}

# An empty file is a new one: made beforehand, for the one user or as a mount of that file, or by a master that was
# killed in the making.
for my $mounted ( 0, 1 ) {
    my $case = $mounted ? 'mounted' : 'made';
    my ( $nginx, $file ) = new_nginx( 'named', server => $cases->timers($case) );
    spew( $file, '' );
    if ($mounted) {
        my $source = scratch_dir() . '/source';
        spew( $source, '' );
        my ( $status, $out ) = run_command( 'mount', '--bind', $source, $file );
        is( $status, 0, 'a mount of one file' ) or diag $out;
    }
    my $inode = ( stat $file )[1];
    $nginx->start;
    $cases->goes_on( $nginx, $case, "an empty file, $case" );
    is( $cases->first_runs($case), 1, 'is a new one' );
    $nginx->reload_all;
    $cases->goes_on( $nginx, $case, 'after a reload' );
    logged_times( $nginx, qr/\[(?:warn|error|crit)\].*state/, 0, 'there is nothing to warn of' );
    is( ( stat $file )[1], $inode, 'it is the same file' );
    is( $cases->first_runs($case), 1, 'and no first run again' );
    $nginx->stop;
}

# A bad file that is a mount point of its own, as in a container, cannot be renamed: it gets a new header
# and keeps its records.
{
    my $nginx = TimerTest::Nginx->new( server => $cases->timers('bound') );
    my $file  = $nginx->prefix . '/timers.state';
    spew( $_, '' ) for $file, "$file.outside";
    is( ( run_command( 'mount', '--bind', "$file.outside", $file ) )[0], 0, 'a file is mounted' );
    $nginx->start;
    $cases->goes_on( $nginx, 'bound', 'an empty file that is mounted' );
    $nginx->stop;
    my $runs = read_records($file)->{'bound-tick'}{runs};
    cmp_ok( $runs, '>=', 3, 'its record' );
    spew( $file, substr( slurp($file), 0, 30 ) . "\xff" . substr slurp($file), 31 );
    my $bad = slurp($file);
    $nginx->start;
    $cases->goes_on( $nginx, 'bound', 'a damaged file that is mounted' );
    logged( $nginx, qr/\[crit\].*state file "\Q$file\E" is damaged, copied to "\Q$file\E\.bad", header is written anew/, 'it is said' );
    is( slurp("$file.bad"), $bad, 'what it was is kept' );
    cmp_ok( read_records($file)->{'bound-tick'}{runs}, '>', $runs, 'so are its records' );
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'bound', 'a reload after that' );
    logged_times( $nginx, qr/\[crit\]/, 1, 'has nothing more to say' );
    is( $cases->first_runs('bound'), 1, 'and no first run' );
    $nginx->stop;
    run_command( 'umount', $file );
}

# What is not ours at the default place is moved aside, not refused: the place is ours.
{
    my ( $nginx, $file ) = new_nginx( 'default', server => $cases->timers('text') );
    spew( $file, "not a state file\n" x 1000 );
    $nginx->start;
    $cases->goes_on( $nginx, 'text', 'a text at the default place' );
    logged( $nginx, qr/\[crit\].*state file "\Q$file\E" .*, moved to "\Q$file\E\.bad"/, 'is moved aside' );
    is( slurp("$file.bad"), "not a state file\n" x 1000, 'as it was' );
    $nginx->stop;
    run_command( 'umount', $compiled_in ) if $compiled_in;
}

# One damaged record: that timer starts anew, the others go on with theirs.
{
    my ( $nginx, $file ) = new_nginx( 'named', server => $cases->timers('record') );
    $nginx->start;
    $cases->goes_on( $nginx, 'record', 'before the damage' );
    $nginx->stop;
    my $records = read_records($file);
    my $bytes   = slurp($file);
    my $at      = 4096 * $records->{'record-tick'}{page};
    substr $bytes, $at + 30, 1, chr( 255 ^ ord substr $bytes, $at + 30, 1 );    # the watermark
    spew( $file, $bytes );
    $nginx->start;
    $cases->goes_on( $nginx, 'record', 'one damaged record' );
    logged( $nginx, qr/\[warn\].*timer "record-tick": record is damaged, starting anew/, 'it is said' );
    logged_times( $nginx, qr/damaged/, 1, 'once, and of no other' );
    is( $cases->first_runs('record'), 1, 'no first run again' );
    my $after = read_records($file);
    cmp_ok( $after->{'record-any'}{runs}, '>', $records->{'record-any'}{runs}, 'the others go on with their records' );
    $nginx->stop;
}

# The same for the part that others write: what starts anew is not new, and waits for its next due time.
{
    my ( $nginx, $file ) = new_nginx( 'named', server => $cases->timers( 'part', timer( $backend, 'part-rare', 'every=366d' ) ) );
    $nginx->start;
    $cases->goes_on( $nginx, 'part', 'before the damage to a part' );
    $nginx->stop;
    my $rare  = scalar $backend->requests( timer => 'part-rare' );
    my $bytes = slurp($file);
    for my $name (qw( part-rare part-first )) {
        my $at = 4096 * read_records($file)->{$name}{page} + 560;
        substr $bytes, $at, 1, chr( 255 ^ ord substr $bytes, $at, 1 );
    }
    spew( $file, $bytes );
    $nginx->start;
    $cases->goes_on( $nginx, 'part', 'a damaged part' );
    logged( $nginx, qr/\[warn\].*timer "part-$_": record is damaged, starting anew/, "it is said of $_" ) for qw( rare first );
    is( scalar $backend->requests( timer => 'part-rare' ), $rare, 'no run that is not due' );
    is( $cases->first_runs('part'), 1, 'nor a first run again' );
    $nginx->stop;
}

# A header that is damaged while two nginx use the file: neither may take it away from the other.
{
    my ( $nginx, $file ) = new_nginx( 'named', server => $cases->timers('shared') );
    my $other = TimerTest::Nginx->new( state => $file, server => $cases->timers('shared') );
    $_->start for $nginx, $other;
    $cases->goes_on( $nginx, 'shared', 'a shared file' );
    open my $fh, '+<', $file or die;
    sysseek $fh, 30, 0;
    syswrite $fh, "\xff";
    close $fh;
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'shared', 'a damaged header, in use by another' );
    logged( $nginx, qr/\[crit\].*state file "\Q$file\E" /, 'it is said' );
    ok( -e $file && !-e "$file.bad", 'and left to the other' );
    $other->stop;
    $nginx->reload_all;
    $cases->goes_on( $nginx, 'shared', 'when the other has gone' );
    logged( $nginx, qr/\[crit\].*state file "\Q$file\E" .*, moved to "\Q$file\E\.bad"/, 'it is moved aside' );
    is( $cases->first_runs('shared'), 1, 'no first run again' );
    $nginx->stop;
}

done_testing;
