package TimerTest::RunQueue;

# How long processes were ready to run and had no processor, by the kernel's count (/proc/PID/schedstat), written down
# by another process twenty times a second. What a process waits for by itself is not in it.
#
#     my $queue = TimerTest::RunQueue->start( $nginx->workers );
#     my $seconds = $queue->waited( $pid, $from, $to );

use strict;
use warnings;

use List::Util qw( max min );
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

# Of one of them, between two instants that lie before now; none of one that is over. The kernel adds a wait up when it
# ends: it lies just before the instant at which it was found.
sub waited {
    my ( $self, $pid, $from, $to ) = @_;
    my $sum = 0;
    for my $wait ( @{ $self->_waits($pid) } ) {
        my ( $begin, $end ) = ( max( $from, $wait->[0] ), min( $to, $wait->[1] ) );
        $sum += $end - $begin if $end > $begin;
    }
    return $sum;
}

# The waits of a process that can be told from none, each [ from, to ].
sub _waits {
    my ( $self, $pid ) = @_;
    my ($n)  = grep { $self->{pids}[$_] == $pid } 0 .. $#{ $self->{pids} };
    my $size = 8 * ( 1 + @{ $self->{pids} } );
    my $file = -s $self->{file};
    return $self->{waits}[$n] if ( $self->{read}[$n] // -1 ) == $file;
    my $bytes = slurp( $self->{file} );
    my @seen  = map { [ ( unpack 'd*', substr $bytes, $_ * $size, $size )[ 0, 1 + $n ] ] } 0 .. length($bytes) / $size - 1;
    my @waits = map { [ $seen[$_][0] - ( $seen[$_][1] - $seen[ $_ - 1 ][1] ), $seen[$_][0] ] } grep { $seen[$_][1] - $seen[ $_ - 1 ][1] > 0.001 } 1 .. $#seen;
    $self->{read}[$n] = $file;
    return $self->{waits}[$n] = \@waits;
}

1;
