package TimerTest::RunQueue;

# How long processes were ready to run and had no processor, by the kernel's count (/proc/PID/schedstat), written down
# by another process twenty times a second. What a process waits for by itself is not in it.
#
#     my $queue = TimerTest::RunQueue->start( $nginx->workers );
#     my $seconds = $queue->waited( $pid, $from, $to );

use strict;
use warnings;

use TimerTest;

my $EVERY = 0.05;

sub start {
    my ( $class, @pids ) = @_;
    my $self = bless { file => scratch_dir() . '/waits', pids => \@pids }, $class;
    spawn( "$self->{file}.log", $^X, '-MTime::HiRes=time,sleep', '-e', <<'PERL', $self->{file}, $EVERY, $$, @pids );
my ( $file, $every, $parent, @pids ) = @ARGV;
open my $out, '>', $file or die;
while ( getppid == $parent ) {
    my @waited = map { open my $fh, '<', "/proc/$_/schedstat" or undef; ( split ' ', $fh && <$fh> || '' )[1] // 0 } @pids;
    syswrite $out, pack 'd*', time, map { $_ / 1e9 } @waited;
    sleep $every;
}
PERL
    wait_until { -s $self->{file} } or die 'nothing is written down';
    return $self;
}

# Of one of them, between two instants that lie before now; none of one that is over.
sub waited {
    my ( $self, $pid, $from, $to ) = @_;
    my ($n) = grep { $self->{pids}[$_] == $pid } 0 .. $#{ $self->{pids} };
    my ( $before, $after ) = map { $self->_up_to($_)->[ 1 + $n ] } $from, $to + $EVERY;
    return $after > $before ? $after - $before : 0;
}

# What was written down last, up to an instant: the time, and what each had waited by then.
sub _up_to {
    my ( $self, $time ) = @_;
    my $size = 8 * ( 1 + @{ $self->{pids} } );
    if ( !$self->{seen} || $self->{seen}[-1][0] < $time ) {
        my $bytes = slurp( $self->{file} );
        $self->{seen} = [ map { [ unpack 'd*', substr $bytes, $_ * $size, $size ] } 0 .. length($bytes) / $size - 1 ];
    }
    my ( $low, $high ) = ( 0, $#{ $self->{seen} } );
    while ( $low < $high ) {
        my $middle = int( ( $low + $high + 1 ) / 2 );
        if   ( $self->{seen}[$middle][0] <= $time ) { $low  = $middle }
        else                                        { $high = $middle - 1 }
    }
    return $self->{seen}[$low];
}

1;
