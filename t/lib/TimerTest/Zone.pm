package TimerTest::Zone;

# The upstream zones of a worker, as they are in its memory: what its balancers see, whatever anybody tells.
#
#     my $zone = TimerTest::Zone->of($pid);
#     $zone->tries('b');                                  # how many servers are counted as such that get requests
#     my $down = $zone->down( b => '127.0.0.1:8080' );    # "down" of a server
#     $down->();                                          # reads it
#     $down->(4);                                         # overwrites it, as another module might
#     $zone->free_pages;                                  # of each zone, how many pages are free
#
# For any nginx of 64 bits: what is looked for is found by where it leads to.

use strict;
use warnings;

use Carp qw( croak );
use Fcntl qw( SEEK_SET );
use TimerTest;

sub of {
    my ( $class, $pid ) = @_;
    open my $mem, '+<:raw', "/proc/$pid/mem" or croak "mem: $!";
    my @zones;
    for ( split /\n/, slurp("/proc/$pid/maps") ) {
        my ( $from, $to ) = m{\A([0-9a-f]+)-([0-9a-f]+) rw-s .*/dev/zero} or next;
        no warnings 'portable';
        ( $from, $to ) = map { hex } $from, $to;
        sysseek $mem, $from, SEEK_SET;
        sysread $mem, my $bytes, $to - $from;
        push @zones, { mem => $mem, from => $from, bytes => $bytes // '' };
    }
    return bless { zones => \@zones }, $class;
}

sub tries {
    my ( $self, $group ) = @_;
    my ( $zone, $name ) = _list( $self, $group );
    return _word( $zone, $name - 16 );
}

sub down {
    my ( $self, $group, $address ) = @_;
    my ( $zone, $name ) = _list( $self, $group );
    my $peer = _word( $zone, $name + 16 ) - $zone->{from};
    until ( _name( $zone, $peer ) eq $address ) {
        # The next one is behind "down", the session and the lock.
        my ($next) = grep { length _name( $zone, $_ ) } map { _word( $zone, $peer + $_ * 8 ) - $zone->{from} } 19 .. 27;
        $peer = $next // croak "no $address in $group";
    }
    my $place = $zone->{from} + $peer + 144;
    return sub {
        sysseek $zone->{mem}, $place, SEEK_SET;
        if (@_) { syswrite $zone->{mem}, pack 'Q', $_[0] or croak "mem: $!"; return }
        sysread $zone->{mem}, my $bytes, 8;
        return unpack 'Q', $bytes;
    };
}

# The pool of a zone is its beginning: "pfree", "start" and "end", after which there is nothing.
sub free_pages {
    my ($self) = @_;
    my @pages;
    for my $zone ( @{ $self->{zones} } ) {
        my $end = $zone->{from} + length $zone->{bytes};
        my ($at) = grep { _word( $zone, $_ ) == $end } map { $_ * 8 } 9 .. 16;
        push @pages, _word( $zone, $at - 16 ) if defined $at;
    }
    return @pages;
}

# The list of a group: its zone, and where "name" of ngx_http_upstream_rr_peers_t is, which "tries" is two
# words before; "next" and "peer" are behind it.
sub _list {
    my ( $self, $group ) = @_;
    for my $zone ( @{ $self->{zones} } ) {
        for ( my $at = index $zone->{bytes}, $group; $at >= 0; $at = index $zone->{bytes}, $group, $at + 1 ) {
            for my $string ( grep { $_ >= 8 && _word( $zone, $_ - 8 ) == length $group } _words( $zone, $zone->{from} + $at ) ) {
                my ($name) = sort { $a <=> $b } _words( $zone, $zone->{from} + $string - 8 );
                return ( $zone, $name ) if defined $name;
            }
        }
    }
    croak "no list of $group";
}

# The words of a zone that hold a value: their places in it.
sub _words {
    my ( $zone, $value ) = @_;
    my ( $word, @at ) = pack 'Q', $value;
    for ( my $at = index $zone->{bytes}, $word; $at >= 0; $at = index $zone->{bytes}, $word, $at + 1 ) {
        push @at, $at if $at % 8 == 0;
    }
    return @at;
}

sub _word { my ( $zone, $at ) = @_; return unpack 'Q', substr $zone->{bytes}, $at, 8 }

# The name of the server at this place; empty if there is none.
sub _name {
    my ( $zone, $at ) = @_;
    my $size = length $zone->{bytes};
    return '' if $at <= 0 || $at + 32 > $size;
    my ( $len, $data ) = map { _word( $zone, $at + $_ ) } 16, 24;
    $data -= $zone->{from};
    return '' if $len <= 8 || $len >= 64 || $data <= 0 || $data + $len > $size;
    my $name = substr $zone->{bytes}, $data, $len;
    return $name =~ /\A[0-9.]+:\d+\z/ ? $name : '';
}

1;
