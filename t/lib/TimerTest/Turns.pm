package TimerTest::Turns;

# How long the turns of an nginx's event loop are, in the processor's time: by a library that is preloaded into
# it (turns.c). What else the machine does makes no difference.
#
#     my $turns = TimerTest::Turns->new;
#     my $nginx = TimerTest::Nginx->new( faults => $turns, ... );
#     $turns->longest($pid);      # milliseconds
#     $turns->count($pid);
#     $turns->most_read($pid);    # bytes that a turn has read from files (pread), at most
#     $turns->clear;              # the longest, and what was read, begin anew

use strict;
use warnings;

use Carp qw( croak );
use Fcntl qw( SEEK_SET );
use File::Basename qw( dirname );
use TimerTest;

my $PROCESSES = 64;
my $TURNS     = 'l L Q Q Q';
my $SIZE      = length pack $TURNS, (0) x 5;

my $library;

sub new {
    my ($class) = @_;
    my $self = bless { file => scratch_dir() . '/turns' }, $class;
    spew( $self->{file}, "\0" x ( $PROCESSES * $SIZE ) );
    chmod 0666, $self->{file};
    $library //= do {
        my $built  = scratch_dir() . '/turns.so';
        my $source = dirname(__FILE__) . '/turns.c';
        my ( $status, $out ) = run_command( qw( cc -O1 -Wall -fPIC -shared -o ), $built, $source, '-ldl' );
        $status eq '0' or croak "cc: $out";
        $built;
    };
    return $self;
}

sub environment {
    my ($self) = @_;
    my %more = ( LD_PRELOAD => join( ' ', grep {defined} $library, $ENV{LD_PRELOAD} ), TIMER_TEST_TURNS => $self->{file} );
    # The sanitizer wants to be the first library.
    $more{ASAN_OPTIONS} = join ':', grep {defined} $ENV{ASAN_OPTIONS}, 'verify_asan_link_order=0' if nginx_is_watched();
    return %more;
}

sub longest { my ( $self, $pid ) = @_; return $self->_of($pid)->{longest} / 1e6 }
sub count   { my ( $self, $pid ) = @_; return $self->_of($pid)->{count} }

sub most_read { my ( $self, $pid ) = @_; return $self->_of($pid)->{most_read} }

sub clear {
    my ($self) = @_;
    open my $fh, '+<:raw', $self->{file} or croak "$self->{file}: $!";
    for my $n ( 0 .. $PROCESSES - 1 ) {
        sysseek $fh, $n * $SIZE + 16, SEEK_SET;
        syswrite( $fh, pack 'Q Q', 0, 0 ) == 16 or croak "$self->{file}: $!";
    }
    return;
}

sub _of {
    my ( $self, $pid ) = @_;
    my $bytes = slurp( $self->{file} );
    for my $n ( 0 .. $PROCESSES - 1 ) {
        my %of;
        ( @of{qw( pid unused count longest most_read )} ) = unpack $TURNS, substr $bytes, $n * $SIZE, $SIZE;
        return \%of if $of{pid} == $pid;
    }
    return { count => 0, longest => 0, most_read => 0 };
}

1;
