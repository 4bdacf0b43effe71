package TimerTest::Dns;

# A name server for nginx's "resolver": answers A and SRV questions from a table, over UDP on loopback.
#
#     my $dns = TimerTest::Dns->start( 'app.test' => '127.0.0.1', 'slow.test' => '',
#         '_http._tcp.app.test' => '0/5/8080/one.test 1/5/8080/two.test' );      # priority, weight, port, target
#
#     $dns->set( 'app.test' => '127.0.0.1 127.0.0.2' );      # from the next question on
#     $dns->set( 'app.test' => undef );                      # does not exist any more
#
# A name with an empty address is never answered; one that is not in the table does not exist.

use strict;
use warnings;

use Carp qw( croak );
use IO::Socket::INET ();
use POSIX ();
use Socket qw( inet_aton );
use TimerTest;

my $creator = $$;
my @running;

sub start {
    my ( $class, %table ) = @_;

    my $socket = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'udp' )
        or croak "udp: $!";
    my $dir  = scratch_dir();
    my $self = bless {
        port    => $socket->sockport,
        record  => spew( "$dir/dns.log", '' ),
        changes => "$dir/changes",
        changed => {},
    }, $class;

    my $pid = fork // croak "fork: $!";
    if ( !$pid ) {
        eval { _serve( $socket, \%table, @$self{qw( record changes )} ) };
        POSIX::_exit(1);
    }
    $self->{pid} = $pid;
    push @running, $self;
    return $self;
}

sub port { return $_[0]{port} }

# Another answer, from now on.
sub set {
    my ( $self, $name, $addresses ) = @_;
    $self->{changed}{$name} = $addresses // 'none';
    my $new = spew( "$self->{changes}.new", join '', map {"$_ $self->{changed}{$_}\n"} sort keys %{ $self->{changed} } );
    rename $new, $self->{changes} or croak "rename: $!";
    return $self;
}

# The names asked for, in order.
sub queries { my ($self) = @_; return split /\n/, slurp( $self->{record} ) }

sub _serve {
    my ( $socket, $table, $record, $changes ) = @_;

    my $parent = getppid;
    while ( getppid == $parent ) {
        my $ready = '';
        vec( $ready, fileno $socket, 1 ) = 1;
        next if select( $ready, undef, undef, 1 ) <= 0;

        $socket->recv( my $query, 512 ) // next;
        my ( $id, undef, $count ) = unpack 'nnn', $query;
        my @labels = unpack '(C/a)*', substr $query, 12;
        my ( $name, $end ) = ( '', 12 );
        for my $label (@labels) {
            $end += 1 + length $label;
            last if $label eq '';
            $name .= ( $name eq '' ? '' : '.' ) . lc $label;
        }
        my $question = substr $query, 12, $end - 12 + 4;
        my ($type) = unpack 'n', substr $question, -4, 2;

        open my $log, '>>', $record or next;
        syswrite $log, "$name\n";
        close $log;

        my %changed = -e $changes ? map { split / /, $_, 2 } split /\n/, slurp($changes) : ();
        my $address = $changed{$name} // $table->{$name};
        $address = undef if defined $address && $address eq 'none';
        next if defined $address && $address eq '';

        my @found = grep { m{/} ? $type == 33 : $type == 1 } split / /, $address // '';
        my $flags = 0x8580 | ( defined $address ? 0 : 3 );
        my $reply = pack( 'n6', $id, $flags, 1, scalar @found, 0, 0 ) . $question;
        for my $record (@found) {
            my @service = split m{/}, $record;
            my $data    = @service > 1
                ? pack( 'nnn', @service[ 0 .. 2 ] ) . join( '', map { pack 'C/a*', $_ } split( /\./, $service[3] ), '' )
                : inet_aton($record);
            $reply .= pack( 'nnnNn/a*', 0xc00c, $type, 1, 60, $data );
        }
        $socket->send($reply);
    }
    return;
}

END {
    if ( $$ == $creator ) {
        local ( $?, $!, $@ );
        for my $self (@running) {
            kill 'KILL', $self->{pid};
            waitpid $self->{pid}, 0;
        }
    }
}

1;
