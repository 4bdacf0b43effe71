package TimerTest::BenchCleanup;

# For how long clients wait while old files are removed, by a thread and on the event loop: for tools/bench.pl.
# Each measurement hands its numbers to a function: $record->( KEY => NUMBER, ... ).

use strict;
use warnings;

use Exporter qw( import );
use IO::Socket::INET ();
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;

our @EXPORT = qw( measure_cleanup );

# So many old files in one directory.
sub lay_files {
    my ( $dir, $count ) = @_;
    mkdir $dir;
    chmod 0777, $dir;
    my $old = time - 9 * 86_400;
    for my $n ( 1 .. $count ) {
        open my $file, '>', "$dir/$n" or die "$dir/$n: $!";
        close $file;
        utime $old, $old, "$dir/$n";
    }
    return;
}

# Milliseconds that a client waits for each of its answers, which it asks for one after the other until $over.
sub waits_until {
    my ( $nginx, $over ) = @_;
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port ) or die "connect: $!";
    my @waits;
    until ( @waits % 20 == 0 && $over->() ) {
        my $asked = time;
        syswrite $socket, "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
        my $answer = '';
        sysread( $socket, $answer, 65536, length $answer ) || die 'no answer' until $answer =~ /\r\n\r\n/;
        push @waits, 1000 * ( time - $asked );
    }
    return @waits;
}

sub percentile { my ( $part, @numbers ) = @_; return ( sort { $a <=> $b } @numbers )[ $part * $#numbers ] }

sub measure_cleanup {
    my ( $record, $size ) = @_;
    for my $mode ( map { ( 'threads', 'slices' ) } 1 .. $size->{starts} ) {
        my $dir   = scratch_dir();
        my $nginx = TimerTest::Nginx->new(
            log_level => 'notice',
            http      => 'keepalive_requests 100000000;',
            server    => "location \@old { timer old every=366d; timer_timeout 1000s; timer_cleanup $dir/old older=1d max=100000000; }\n"
                . 'location /status/ { timer_api write=on; }',
        );
        # What follows "http" is not known when the directive is read: no threads are asked for.
        if ( $mode eq 'slices' ) {
            my $text = slurp( $nginx->conf_file );
            $text =~ s/^(events \{.*?^\}\n)(.*)\z/$2$1/ms;
            $nginx->write_conf( conf => $text );
        }
        lay_files( "$dir/old", $size->{cleaned} );
        $nginx->start;
        my $api   = TimerTest::Api->new( $nginx, at => '/status' );
        my $end   = time + $size->{calm};
        my @calm  = waits_until( $nginx, sub { time > $end } );
        my $began = time;
        $api->order('/timers/old/run');
        my @busy = waits_until( $nginx, sub { $nginx->log =~ /clean-up of "\S+old": removed $size->{cleaned} files/ || time > $began + 600 } );
        $record->( "cleanup.$mode.seconds", time - $began );
        $record->( "cleanup.$mode.without", percentile( 0.99, @calm ) );
        $record->( "cleanup.$mode.with",    percentile( 0.99, @busy ) );
        $record->( "cleanup.$mode.more",    percentile( 0.99, @busy ) - percentile( 0.99, @calm ) );
        $nginx->signal('QUIT');
        $nginx->wait_exit;
        $nginx->kill_all;
        opendir my $left, "$dir/old" or die "$dir/old: $!";
        my @left = grep { !/\A\.\.?\z/ } readdir $left;
        die "$mode: " . @left . ' files are left' if @left;
    }
    return;
}

1;
