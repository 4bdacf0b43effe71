package TimerTest::StateFile;

# The state file, by the table in docs/state-file.md and by nothing else: what the records say while
# nginx runs, and after it has ended; and what another process may do to them, which holds a lock of
# theirs or is in the middle of writing.
#
#     my $record = read_state("$prefix/timers.state")->{NAME};
#     $record->{success}; $record->{overlaps}; $record->{progress};        # 0 none, 1 running, 2 waiting, 3 claiming
#     wait_record( $path, 'NAME', sub { $_->{timeout} >= 2 } );
#     my $lock = lock_record( $path, 'NAME', 'control' );                  # kept until undef $lock
#     my $torn = tear_record( $path, 'NAME', 'control' ); $torn->();       # torn, and whole again
#
# An instant is a number of milliseconds, undef for never.  "runs" is the sum of the seven outcomes and
# the one in progress, as in the API.  "handled" is the newest instant up to which the record says
# that every due time has been taken, left out, or was none of the timer's.

use strict;
use warnings;

use Carp qw( croak );
use Exporter qw( import );
use Fcntl qw( :DEFAULT :seek );
use List::Util qw( max sum0 );
use POSIX ();
use Test::More ();
use TimerTest;

our @EXPORT = qw( read_state wait_record dues_between account lock_record tear_record xxh64 );

use constant PAGE => 4096;

# Linux' <fcntl.h>; Fcntl has it not.
use constant F_OFD_SETLK => 37;

# Where a part of a record is, in its page; its lock byte is its first byte. "header" is the control part
# of the header, which has no name.
my %PART = ( run => 0, control => 320, header => 2048 );

our @OUTCOMES = qw( success failure timeout cancelled interrupted error lost );

sub read_state {
    my ($path) = @_;

    my $file = slurp($path);
    my %record;
    return \%record if length $file < PAGE || substr( $file, 0, 8 ) ne "\x89NGXTMR\n";

    for ( my $at = PAGE; $at + PAGE <= length $file; $at += PAGE ) {
        my $page = substr $file, $at, PAGE;
        next if $page =~ /NGXTTEXT\z/;
        my ($name) = unpack 'x336 C/a', $page;
        next if !length $name;
        $record{$name} = { _record( $name, $page ), page => $at / PAGE };
    }

    return \%record;
}

sub _record {
    my ( $name, $page ) = @_;

    my $instant = sub {
        my $ms = unpack 'q<', substr $page, $_[0], 8;
        return $ms < -4e18 ? undef : $ms;
    };
    my $number = sub { return unpack 'Q<', substr $page, $_[0], 8 };
    my $small  = sub { return unpack 'V',  substr $page, $_[0], 4 };

    my %record = (
        name           => $name,
        name_hash      => $number->(16),
        watermark      => $instant->(24),
        attempt        => $small->(32),
        progress       => ord( substr $page, 36, 1 ),
        due            => $instant->(72),
        pid            => $small->(96),
        retries        => $number->(168),
        unscheduled    => $number->(176),
        last_success   => $instant->(224),
        failures       => $small->(248),
        created        => $instant->(480),
        not_before     => $instant->(504),
        left_out_up_to => $instant->(512),
        queued         => $instant->(520),
        overlaps       => $number->(592),
        missed         => $number->(600),
        uncounted      => $small->(608),
        elsewhere      => $number->(824),
    );
    @record{@OUTCOMES} = map { $number->( $_ < 6 ? 120 + 8 * $_ : 184 ) } 0 .. $#OUTCOMES;

    $record{runs} = sum0( @record{@OUTCOMES} ) + ( $record{progress} == 1 || $record{progress} == 2 ? 1 : 0 );
    $record{handled} = max grep {defined} @record{qw( watermark left_out_up_to not_before )};

    # The newest has the number that the claim part says, and a place has the result of one number.
    my $ever   = $number->(256);
    my $oldest = $ever > 32 ? $ever - 31 : 1;
    $record{results} = [
        map {
            my $from = 1024 + 64 * ( $_ % 32 );
            {   due      => $instant->( $from + 16 ),
                start    => $instant->( $from + 24 ),
                run      => unpack( 'H*', substr $page, $from + 32, 16 ),
                duration => $small->( $from + 48 ),
                attempts => $small->( $from + 52 ),
                pid      => $small->( $from + 56 ),
                status   => unpack( 'v', substr $page, $from + 60, 2 ),
                outcome  => $OUTCOMES[ ord substr $page, $from + 62, 1 ],
                trigger  => ord( substr $page, $from + 63, 1 ),
            }
        } grep { $number->( 1024 + 64 * ( $_ % 32 ) + 8 ) == $_ } reverse $oldest .. $ever
    ];

    return %record;
}

# Waits until the condition holds for a timer's record, in $_; answers the record, or nothing, with a
# failed test.
sub wait_record {
    my ( $path, $name, $condition, $seconds ) = @_;
    my $record;
    my $holds = sub {
        $record = read_state($path)->{$name};
        local $_ = $record;
        $record && $condition->();
    };
    return $record if poll_until( $holds, $seconds );
    in_vain( "a record of \"$name\"", Test::More::explain($record) );
    return undef;
}

# How many due times of "every=N offset=O" lie later than FROM, and not later than TO; milliseconds.
sub dues_between {
    my ( $from, $to, $every, $offset ) = @_;
    return 0 if $to <= $from;
    return POSIX::floor( ( $to - $offset ) / $every ) - POSIX::floor( ( $from - $offset ) / $every );
}

# The account for a timer of "every=N offset=O" that was configured, enabled and not paused
# since its record was made: (due times, what became of them).
sub account {
    my ( $record, $every, $offset ) = @_;
    my $dues = dues_between( $record->{created}, $record->{handled}, $every, $offset );
    return ( $dues, $record->{runs} - $record->{unscheduled} + $record->{overlaps} + $record->{missed} + $record->{elsewhere} );
}

# Where in the file a part begins.
sub _part_at {
    my ( $path, $name, $part ) = @_;
    return $PART{header} if $part eq 'header';
    my $file = slurp($path);
    for ( my $at = PAGE; $at + PAGE <= length $file; $at += PAGE ) {
        return $at + $PART{$part} if $name eq unpack 'C/a', substr $file, $at + 336, 128;
    }
    croak "no record of \"$name\"";
}

sub _open {
    my ($path) = @_;
    sysopen my $fh, $path, O_RDWR or croak "$path: $!";
    return $fh;
}

# Takes the lock of a part, once it is free, and keeps it until the answer is dropped.
sub lock_record {
    my ( $path, $name, $part ) = @_;
    my $fh    = _open($path);
    my $flock = pack 's! s! x![q] q q i x![q]', F_WRLCK, SEEK_SET, _part_at( $path, $name, $part ), 1, 0;
    wait_until { fcntl $fh, F_OFD_SETLK, $flock } or croak "fcntl: $!";
    return $fh;
}

# Makes the checksum of a part wrong, as it is while somebody writes; calling the answer makes it right. To
# be done under the part's lock.
sub tear_record {
    my ( $path, $name, $part ) = @_;
    my $at   = _part_at( $path, $name, $part );
    my $flip = sub {
        my $fh = _open($path);
        sysseek $fh, $at, SEEK_SET;
        sysread $fh, my $byte, 1;
        sysseek $fh, $at, SEEK_SET;
        syswrite $fh, chr( 255 ^ ord $byte );
        return;
    };
    $flip->();
    return $flip;
}

# XXH64: <https://github.com/Cyan4973/xxHash>, doc/xxhash_spec.md.
sub xxh64 {
    my ( $bytes, $seed ) = @_;
    use integer;
    no warnings qw( portable );
    my @p = map { unpack 'q<', pack 'Q<', $_ } do { no integer; ( 0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x85ebca77c2b2ae63, 0x27d4eb2f165667c5 ) };
    my $left  = sub { my ( $x, $n ) = @_; no integer; my $u = $x & ~0; return unpack 'q<', pack 'Q<', ( ( $u << $n ) | ( $u >> ( 64 - $n ) ) ) };
    my $right = sub { my ( $x, $n ) = @_; no integer; my $u = $x & ~0; return unpack 'q<', pack 'Q<', $u >> $n };
    my $round = sub { my ( $lane, $word ) = @_; return $left->( $lane + $word * $p[1], 31 ) * $p[0] };
    my ( $hash, $at ) = ( $seed + $p[4], 0 );
    if ( length $bytes >= 32 ) {
        my @lanes = ( $seed + $p[0] + $p[1], $seed + $p[1], $seed, $seed - $p[0] );
        for ( ; $at + 32 <= length $bytes; $at += 32 ) {
            my @words = unpack 'q<4', substr $bytes, $at, 32;
            $lanes[$_] = $round->( $lanes[$_], $words[$_] ) for 0 .. 3;
        }
        $hash = $left->( $lanes[0], 1 ) + $left->( $lanes[1], 7 ) + $left->( $lanes[2], 12 ) + $left->( $lanes[3], 18 );
        for my $lane (@lanes) { $hash = ( $hash ^ $round->( 0, $lane ) ) * $p[0] + $p[3] }
    }
    $hash += length $bytes;
    for ( ; $at + 8 <= length $bytes; $at += 8 ) {
        $hash = $left->( $hash ^ $round->( 0, unpack 'q<', substr $bytes, $at, 8 ), 27 ) * $p[0] + $p[3];
    }
    if ( $at + 4 <= length $bytes ) {
        $hash = $left->( $hash ^ ( unpack 'V', substr $bytes, $at, 4 ) * $p[0], 23 ) * $p[1] + $p[2];
        $at += 4;
    }
    for my $byte ( unpack 'C*', substr $bytes, $at ) { $hash = $left->( $hash ^ $byte * $p[4], 11 ) * $p[0] }
    $hash = ( $hash ^ $right->( $hash, 33 ) ) * $p[1];
    $hash = ( $hash ^ $right->( $hash, 29 ) ) * $p[2];
    $hash ^= $right->( $hash, 32 );
    { no integer; return $hash & ~0; }
}

1;
