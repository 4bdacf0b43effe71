package TimerTest::Beat;

# A process that does nothing but write down the time, fifty times a second. Where it did not come to that, this
# machine stood still, and what was late by as much, or lost, was not nginx's doing. It knows nothing of nginx:
# workers that stand still all together are no excuse for each other.
#
#     my $beat = TimerTest::Beat->start;
#     my $seconds = $beat->still( $from, $to );

use strict;
use warnings;

use List::Util qw( max min sum0 );
use TimerTest;

# Seconds: between two beats, and from when on a pause is one.
my $EVERY = 0.02;
my $PAUSE = 0.1;

sub start {
    my ($class) = @_;
    my $self = bless { file => scratch_dir() . '/beat' }, $class;

    # Not by its output: whatever perl itself has to say goes there, too.
    spawn( "$self->{file}.log", $^X, '-MTime::HiRes=time,sleep', '-e',
        "open OUT, '>', shift or die; while (getppid == $$) { syswrite OUT, pack 'd', time; sleep $EVERY }", $self->{file} );
    wait_until { -s $self->{file} } or die 'no beat';
    return $self;
}

# The pauses longer than this, each [ from, to ] in Unix seconds, up to an instant that has come.
sub pauses {
    my ( $self, $to, $longer ) = @_;
    my @beats;
    wait_until { @beats = unpack 'd*', slurp( $self->{file} ); @beats && $beats[-1] > $to } or die 'no beat';
    return grep { $_->[1] - $_->[0] > $longer } map { [ @beats[ $_ - 1, $_ ] ] } 1 .. $#beats;
}

# For how many seconds between two instants this machine stood still.
sub still {
    my ( $self, $from, $to ) = @_;
    return sum0( map { max( 0, min( $to, $_->[1] ) - max( $from, $_->[0] ) ) } $self->pauses( $to, $PAUSE ) );
}

1;
