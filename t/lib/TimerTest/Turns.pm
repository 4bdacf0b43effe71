package TimerTest::Turns;

# How long the turns of an nginx's event loop are, in the processor's time: by a library that is preloaded into
# it (turns.c). What else the machine does makes no difference.
#
#     my $turns = TimerTest::Turns->new;
#     my $nginx = TimerTest::Nginx->new( faults => $turns, ... );
#     $turns->longest($pid);      # milliseconds
#     $turns->count($pid);
#     $turns->clear;              # the longest begins anew

use strict;
use warnings;

use Carp qw( croak );
use Fcntl qw( SEEK_SET );
use File::Basename qw( dirname );
use TimerTest;

my $PROCESSES = 64;
my $TURNS     = 'l L Q Q';
my $SIZE      = length pack $TURNS, (0) x 4;

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
    return ( LD_PRELOAD => join( ' ', grep {defined} $library, $ENV{LD_PRELOAD} ), TIMER_TEST_TURNS => $self->{file} );
}

sub longest { my ( $self, $pid ) = @_; return $self->_of($pid)->{longest} / 1e6 }
sub count   { my ( $self, $pid ) = @_; return $self->_of($pid)->{count} }

sub clear {
    my ($self) = @_;
    open my $fh, '+<:raw', $self->{file} or croak "$self->{file}: $!";
    for my $n ( 0 .. $PROCESSES - 1 ) {
        sysseek $fh, $n * $SIZE + 16, SEEK_SET;
        syswrite( $fh, pack 'Q', 0 ) == 8 or croak "$self->{file}: $!";
    }
    return;
}

sub _of {
    my ( $self, $pid ) = @_;
    my $bytes = slurp( $self->{file} );
    for my $n ( 0 .. $PROCESSES - 1 ) {
        my %of;
        ( @of{qw( pid unused count longest )} ) = unpack $TURNS, substr $bytes, $n * $SIZE, $SIZE;
        return \%of if $of{pid} == $pid;
    }
    return { count => 0, longest => 0 };
}

1;
