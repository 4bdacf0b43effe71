package TimerTest::Faults;

# System calls of one nginx that fail, fall short or wait: by a library that is preloaded into it (faults.c), and
# by rules that may change while it runs.
#
#     my $faults = TimerTest::Faults->new;
#     my $nginx  = TimerTest::Nginx->new( faults => $faults, ... );
#     my $rule   = $faults->fail( 'pwrite', error => 'EIO', name => 'timers.state' );
#     $faults->calls($rule); $faults->failures($rule);
#     $faults->clear;                                            # or clear($rule)
#
# Calls are these, each with all its variants (pread64, openat, statx, linkat, ...); "lock", "unlock" and
# "getlock" are fcntl's, "fcntl" is all three, and "ofd" are those for locks of open file descriptions. More than one are given as [ ... ], and counted together.
#
# A rule counts the calls that it is for, from now on. Options: error (a name of errno; without one the call
# is made), nth (1: the first that is changed), times (without end), short (bytes that are read or written at
# most), delay (seconds), pid (of the process; -PID for any but this), name (what the path, or the descriptor's
# link in /proc, has to contain; any; of no matter to memfd_create, eventfd and getrandom).

use strict;
use warnings;

use Carp qw( croak );
use Errno ();
use Fcntl qw( SEEK_SET );
use File::Basename qw( dirname );
use TimerTest;

# The order is enum call of faults.c.
our @CALLS = qw(
    pread pwrite read write lock unlock getlock open stat truncate link rename unlink sync chown chmod memfd_create
    eventfd getrandom ofd
);

my %BIT = map { $CALLS[$_] => 1 << $_ } 0 .. $#CALLS;
$BIT{fcntl} = $BIT{lock} | $BIT{unlock} | $BIT{getlock};
my $MOST = 16;

# struct rule: the first word says whether the rule is in force.
my $RULE    = 'L L l l l L Q Q Q Q Z192';
my $SIZE    = length pack $RULE, (0) x 10, '';
my $COUNTED = length pack 'L L l l l L Q Q', (0) x 8;

my $library;

sub new {
    my ($class) = @_;
    my $self = bless { file => scratch_dir() . '/faults', next => 0 }, $class;
    spew( $self->{file}, "\0" x ( $MOST * $SIZE ) );
    chmod 0666, $self->{file};
    _library();
    return $self;
}

# Built once for each test.
sub _library {
    $library //= do {
        my $built  = scratch_dir() . '/faults.so';
        my $source = dirname(__FILE__) . '/faults.c';
        my ( $status, $out ) = run_command( qw( cc -O1 -Wall -fPIC -shared -o ), $built, $source, '-ldl' );
        $status eq '0' or croak "cc: $out";
        $built;
    };
    return $library;
}

# What nginx's environment has to have, at its start and for a binary that it starts.
sub environment {
    my ($self) = @_;
    my %more = ( LD_PRELOAD => join( ' ', grep {defined} _library(), $ENV{LD_PRELOAD} ), TIMER_TEST_FAULTS => $self->{file} );
    # The sanitizer wants to be the first library.
    $more{ASAN_OPTIONS} = join ':', grep {defined} $ENV{ASAN_OPTIONS}, 'verify_asan_link_order=0' if nginx_is_watched();
    return %more;
}

# Sets a rule; answers its number.
sub fail {
    my ( $self, $calls, %option ) = @_;

    my $bits = 0;
    for my $call ( ref $calls ? @$calls : $calls ) {
        $bits |= $BIT{$call} // croak "no call \"$call\"";
    }
    my $error = 0;
    if ( my $name = delete $option{error} ) {
        $error = Errno->can($name) ? Errno->$name : croak "no errno \"$name\"";
    }
    my %rule = ( nth => 1, times => 1 << 62, short => -1, delay => 0, pid => 0, name => '', %option );
    keys %rule == 6 or croak "options: @{[ sort keys %option ]}";

    my $number = $self->{next}++ % $MOST;
    my $bytes  = pack $RULE, 0, $bits, $error, $rule{short}, $rule{pid}, int( 1000 * $rule{delay} ), $rule{nth},
        $rule{times}, 0, 0, $rule{name};
    $self->_write( $number, $bytes );
    $self->_write( $number, pack 'L', 1 );
    return $number;
}

# Counts calls, and changes none of them.
sub count {
    my ( $self, $calls, %option ) = @_;
    return $self->fail( $calls, %option, nth => 1 << 62 );
}

# How many calls a rule has seen, and how many of them it has changed.
sub calls    { my ( $self, $rule ) = @_; return ( $self->_counters($rule) )[0] }
sub failures { my ( $self, $rule ) = @_; return ( $self->_counters($rule) )[1] }

# Ends a rule, or all.
sub clear {
    my ( $self, @rules ) = @_;
    $self->_write( $_, pack 'L', 0 ) for @rules ? @rules : 0 .. $MOST - 1;
    return;
}

sub _counters {
    my ( $self, $rule ) = @_;
    open my $fh, '<:raw', $self->{file} or croak "$self->{file}: $!";
    sysseek $fh, $rule * $SIZE + $COUNTED, SEEK_SET;
    sysread $fh, my $bytes, 16;
    return unpack 'Q Q', $bytes;
}

sub _write {
    my ( $self, $rule, $bytes ) = @_;
    open my $fh, '+<:raw', $self->{file} or croak "$self->{file}: $!";
    sysseek $fh, $rule * $SIZE, SEEK_SET;
    syswrite( $fh, $bytes ) == length $bytes or croak "$self->{file}: $!";
    return;
}

1;
