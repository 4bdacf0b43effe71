package TimerTest::Canned;

# A server of any protocol, as short as can be: what it sends is made by a function.
#
#     my $server = TimerTest::Canned->start(
#         greeting => "SSH-2.0-OpenSSH_9.2\r\n",              # sent at once
#         answer   => sub {
#             my ( $asked, $nth ) = @_;                        # all of this connection since the last answer
#             return if $asked !~ /\r\n\r\n\z/;                # not all yet
#             return ( "HTTP/1.1 200 OK\r\n\r\n", 'close' );   # or without 'close'
#         },
#     );
#     ... server 127.0.0.1:PORT; ...                           # $server->port
#     $server->asked;                                          # what it was asked, each with a number of its connection
#
# $nth is the number of this answer on its connection, from 1.

use strict;
use warnings;

use Carp qw( croak );
use IO::Select ();
use IO::Socket::INET ();
use IO::Socket::UNIX ();
use JSON::PP ();
use POSIX ();
use TimerTest;

my $creator = $$;
my @running;

sub start {
    my ( $class, %option ) = @_;

    my $socket = $option{path}
        ? IO::Socket::UNIX->new( Local => $option{path}, Listen => 128 )
        : IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => $option{port} // 0, Listen => 128, ReuseAddr => 1 );
    croak "listen: $!" if !$socket;
    chmod 0777, $option{path} if $option{path};
    my $self = bless { port => $option{path} ? 0 : $socket->sockport, record => scratch_dir() . '/asked' }, $class;
    spew( $self->{record}, '' );

    my $pid = fork // croak "fork: $!";
    if ( !$pid ) {
        open STDIN, '<', '/dev/null';
        $SIG{$_} = 'DEFAULT' for qw( INT TERM );
        $SIG{PIPE} = 'IGNORE';
        eval { _serve( $socket, $self->{record}, \%option ); 1 } or print STDERR "# canned: $@";
        POSIX::_exit(1);
    }
    $self->{pid} = $pid;
    push @running, $self;
    return $self;
}

sub port { return $_[0]{port} }

sub asked {
    my ($self) = @_;
    return map { JSON::PP::decode_json($_) } grep {length} split /\n/, slurp( $self->{record} );
}

# Waits for so many requests.
sub wait_asked {
    my ( $self, $count ) = @_;
    my @asked;
    poll_until( sub { ( @asked = $self->asked ) >= $count } ) || in_vain( "$count requests", scalar(@asked) . ' of those' );
    return @asked;
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    return;
}

sub _serve {
    my ( $listen, $record, $option ) = @_;

    open my $log, '>>', $record or croak "$record: $!";
    $log->autoflush(1);
    my $select = IO::Select->new($listen);
    my ( %connection, $number );
    while (1) {
        for my $socket ( $select->can_read ) {
            if ( $socket == $listen ) {
                my $new = $listen->accept or next;
                $select->add($new);
                $connection{$new} = { number => ++$number, in => '', answers => 0 };
                syswrite $new, $option->{greeting} if defined $option->{greeting};
                next;
            }
            my $c = $connection{$socket};
            my $close = !sysread $socket, $c->{in}, 65536, length $c->{in};
            my @answer = $close || !$option->{answer} ? () : $option->{answer}->( $c->{in}, $c->{answers} + 1 );
            if (@answer) {
                my $asked = $c->{in} =~ s/([^ -~\r\n])/sprintf '\\x%02x', ord $1/ger;
                print {$log} JSON::PP::encode_json( { connection => $c->{number}, asked => $asked } ), "\n";
                $c->{answers}++;
                $c->{in} = '';
                syswrite $socket, $answer[0] if length $answer[0];
                $close = ( $answer[1] // '' ) eq 'close';
            }
            if ($close) {
                $select->remove($socket);
                delete $connection{$socket};
                close $socket;
            }
        }
    }
    return;
}

END {
    if ( $$ == $creator ) {
        local ( $?, $!, $@ );
        $_->stop for @running;
    }
}

1;
