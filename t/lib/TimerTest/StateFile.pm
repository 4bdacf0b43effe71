package TimerTest::StateFile;

# The state file, by the table in docs/state-file.md and by nothing else: what the records say while
# nginx runs, and after it has ended; and what another process may do to them, which holds a lock of
# theirs or is in the middle of writing.
#
#     my $record = read_state("$prefix/timers.state")->{NAME};
#     $record->{success}; $record->{overlaps}; $record->{progress};        # 0 none, 1 running, 2 waiting
#     wait_record( $path, 'NAME', sub { $_->{timeout} >= 2 } );
#     my $lock = lock_record( $path, 'NAME', 'control' );                  # kept until undef $lock
#     my $torn = tear_record( $path, 'NAME', 'control' ); $torn->();       # torn, and whole again
#
# An instant is a number of milliseconds, undef for never.  "runs" is the sum of the six outcomes and
# the one in progress, as in the API.  "dealt_with" is the newest instant up to which the record says
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

our @EXPORT = qw( read_state wait_record dues_between account lock_record tear_record );

use constant PAGE => 4096;

# Linux' <fcntl.h>; Fcntl has it not.
use constant F_OFD_SETLK => 37;

# Where a part of a record is, in its page; its lock byte is its first byte. "header" is the control part
# of the header, which has no name.
my %PART = ( run => 0, control => 2560, header => 2048 );

our @OUTCOMES = qw( success failure timeout cancelled interrupted error );

sub read_state {
    my ($path) = @_;

    my $file = slurp($path);
    my %record;
    return \%record if length $file < PAGE || substr( $file, 0, 8 ) ne "\x89NGXTMR\n";

    for ( my $at = PAGE; $at + PAGE <= length $file; $at += PAGE ) {
        my $page = substr $file, $at, PAGE;
        my ($name) = unpack 'x16 C/a', $page;
        next if !length $name;
        $record{$name} = _record( $name, $page );
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
        watermark      => $instant->(144),
        attempt        => $small->(152),
        progress       => ord( substr $page, 156, 1 ),
        due            => $instant->(192),
        pid            => $small->(216),
        last_success   => $instant->(312),
        failures       => $small->(336),
        retries        => $number->(288),
        unscheduled    => $number->(296),
        created        => $instant->(2720),
        not_before     => $instant->(2744),
        left_out_up_to => $instant->(2752),
        queued         => $instant->(2760),
        overlaps       => $number->(2832),
        missed         => $number->(2840),
        uncounted      => $small->(2848),
        control_name   => unpack( 'x2576 C/a', $page ),
    );
    @record{@OUTCOMES} = map { $number->( 240 + 8 * $_ ) } 0 .. $#OUTCOMES;

    $record{runs} = sum0( @record{@OUTCOMES} ) + ( $record{progress} ? 1 : 0 );
    $record{dealt_with} = max grep {defined} @record{qw( watermark left_out_up_to not_before )};

    my $results = $small->(340);
    $record{results} = [
        map {
            my $from = 512 + 48 * $_;
            {   due      => $instant->($from),
                start    => $instant->( $from + 8 ),
                run      => unpack( 'H*', substr $page, $from + 16, 16 ),
                duration => $small->( $from + 32 ),
                attempts => $small->( $from + 36 ),
                pid      => $small->( $from + 40 ),
                status   => unpack( 'v', substr $page, $from + 44, 2 ),
                outcome  => $OUTCOMES[ ord substr $page, $from + 46, 1 ],
                trigger  => ord( substr $page, $from + 47, 1 ),
            }
        } 0 .. ( $results > 32 ? 32 : $results ) - 1
    ];

    return \%record;
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

# The account of SPEC 2 for a timer of "every=N offset=O" that was configured, enabled and not paused
# since its record was made: (due times, what became of them).
sub account {
    my ( $record, $every, $offset ) = @_;
    my $dues = dues_between( $record->{created}, $record->{dealt_with}, $every, $offset );
    return ( $dues, $record->{runs} - $record->{unscheduled} + $record->{overlaps} + $record->{missed} );
}

# Where in the file a part begins.
sub _part_at {
    my ( $path, $name, $part ) = @_;
    return $PART{header} if $part eq 'header';
    my $file = slurp($path);
    for ( my $at = PAGE; $at + PAGE <= length $file; $at += PAGE ) {
        return $at + $PART{$part} if $name eq unpack 'C/a', substr $file, $at + 16, 128;
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

1;
