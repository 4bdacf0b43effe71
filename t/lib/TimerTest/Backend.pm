package TimerTest::Backend;

# The upstream, and the witness: it writes down when each request arrived, what it said, when and
# how it ended.  How many, when and by whom is judged by this record, not by what nginx says.
#
#     my $backend = TimerTest::Backend->start;
#     ... proxy_pass http://127.0.0.1:PORT; ...         # $backend->port
#     $backend->wait_requests( 3, timer => 'x' );       # at least 3, or the deadline
#     for my $r ( $backend->requests( timer => 'x' ) ) { $r->{arrived}; $r->{uri}; $r->{headers}{host}; }
#
# A record: arrived, ended (Unix seconds; undef while it is in progress), how ("answered", "peer":
# nginx closed first, "reset": we did), protocol, method, uri, headers (names in lower case), body,
# connection (a number).  For FastCGI and uwsgi the parameters stand in headers as they came.  It ended
# not before "ended", and not after "over".
#
# What it does is told by the path, or by a header X-Do, with the same words:
#
#     ok                     200, "ok"; also for every path not listed here
#     status/N               N, with a short body where one is allowed, Location for 3xx
#     delay/S/...            ... after S seconds
#     hang                   never answers
#     held/NAME/...          ... once the test has called let_go( NAME )
#     by-turns/...           ... for the first, third, ... request of this very path, "ok" for the others
#     close, reset           closes, or resets, without a word
#     stall                  header and a part of the body, then nothing
#     truncate, cut          the body ends early: Content-Length not reached, no last chunk
#     reset-body             header and a part of the body, then reset
#     drip/N/S               a body of N bytes, one every S seconds
#     big/N                  a body of N bytes
#     unsized                a body that ends with the connection
#     slow-header/N/S        N header lines, one every S seconds, then "ok"
#     upgrade                101, and the connection stays open
#     garbage, huge-header   what no HTTP client accepts
#     accel/PATH             200 with X-Accel-Redirect: /PATH
#     turns/N/M/...          status N, then M, ..., then from the beginning, for this very path
#     fail-first/N/...       500 for the first N requests of this very path, then as ...
#     accel-expires/N        "ok" with X-Accel-Expires: N
#     html/...               text/html whose body is the X-Body header
#     fenced/...             409 for a fence (X-Fence) that is smaller than one seen of the same X-Timer and X-Cluster

use strict;
use warnings;

use Carp qw( croak );
use IO::Select ();
use IO::Socket::INET ();
use JSON::PP ();
use POSIX qw( WNOHANG );
use Socket qw( SOL_SOCKET SO_LINGER IPPROTO_TCP TCP_NODELAY );
use Time::HiRes qw( sleep time );
use TimerTest;

my $creator = $$;
my @running;

# The witness' side.

sub start {
    my ( $class, %option ) = @_;

    my $self = bless { record => scratch_dir() . '/backend.jsonl' }, $class;

    my %socket;
    for my $protocol (qw( http fastcgi uwsgi )) {
        my $socket = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1024 )
            or croak "listen: $!";
        $socket->blocking(0);
        $socket{$protocol} = $socket;
        $self->{$protocol} = $socket->sockport;
    }

    spew( $self->{record}, '' );
    my $pid = fork // croak "fork: $!";
    if ( !$pid ) {
        open STDIN, '<', '/dev/null';
        $SIG{$_} = 'DEFAULT' for qw( INT TERM );
        $SIG{PIPE} = 'IGNORE';
        eval { _serve( \%socket, $self->{record} ); 1 } or print STDERR "# backend: $@";
        POSIX::_exit(1);
    }

    $self->{pid} = $pid;
    push @running, $self;
    return $self;
}

sub pid          { return $_[0]{pid} }
sub port         { return $_[0]{http} }
sub fastcgi_port { return $_[0]{fastcgi} }
sub uwsgi_port   { return $_[0]{uwsgi} }

# All requests so far, in the order of arrival, or those that match: timer => NAME (the X-Timer
# header, where the location sets one), uri => qr//, protocol => NAME.
sub requests {
    my ( $self, %match ) = @_;

    # The record only grows: what was read is kept.
    open my $fh, '<:raw', $self->{record} or croak "$self->{record}: $!";
    seek $fh, $self->{read} //= 0, 0;
    while ( my $line = <$fh> ) {
        last if $line !~ /\n\z/;
        $self->{read} += length $line;
        my $event = JSON::PP::decode_json($line);
        if ( $event->{event} eq 'request' ) {
            push @{ $self->{requests} }, $self->{by_id}{ $event->{id} } = $event;
        }
        else {
            @{ $self->{by_id}{ $event->{id} } }{qw( ended over how )} = @$event{qw( ended over how )};
        }
    }

    return grep { _matches( $_, \%match ) } @{ $self->{requests} // [] };
}

sub _matches {
    my ( $request, $match ) = @_;
    return 0 if defined $match->{timer}    && ( $request->{headers}{'x-timer'} // '' ) ne $match->{timer};
    return 0 if defined $match->{uri}      && $request->{uri} !~ $match->{uri};
    return 0 if defined $match->{protocol} && $request->{protocol} ne $match->{protocol};
    return 1;
}

# Waits for N such requests (ended => 1: that have ended); answers those there are. Fewer are a failed
# test.
sub wait_requests {
    my ( $self, $count, %match ) = @_;
    my ( $ended, $within ) = delete @match{qw( ended within )};
    my @found;
    my $enough = poll_until(
        sub {
            @found = grep { !$ended || $_->{ended} } $self->requests(%match);
            @found >= $count;
        },
        $within
    );
    if ( !$enough ) {
        my @like = map {"$_ $match{$_}"} sort keys %match;
        my $had  = join ', ', scalar(@found) . ' of those', scalar( $self->requests ) . ' in all';
        in_vain( join( ' ', "$count requests", $ended ? 'that have ended' : (), @like ), $had );
    }
    return @found;
}

# The most requests that were in progress at one time.
sub most_at_once {
    my ( $self, %match ) = @_;

    # At one instant: ends of what was there before, beginnings, ends of what began right then.  A request
    # whose peer had gone when it was seen first may have been over before any other of that instant began.
    my @requests = $self->requests(%match) or return 0;
    my @edges;
    for my $r (@requests) {
        next if $r->{ended} && $r->{ended} == $r->{arrived} && $r->{how} eq 'peer';
        push @edges, [ $r->{arrived}, 1, 1 ];
        push @edges, [ $r->{ended}, $r->{ended} == $r->{arrived} ? 2 : 0, -1 ] if $r->{ended};
    }

    my ( $now, $most ) = ( 0, 1 );
    for my $edge ( sort { $a->[0] <=> $b->[0] || $a->[1] <=> $b->[1] } @edges ) {
        $now += $edge->[2];
        $most = $now if $now > $most;
    }
    return $most;
}

# Lets the requests go on, those to come too, that are held under this name.
sub let_go {
    my ( $self, $name ) = @_;
    spew( "$self->{record}.$name", '' );
    return;
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    @running = grep { $_ != $self } @running;
    return;
}

END {
    if ( $$ == $creator ) {
        local ( $?, $!, $@ );
        my @all = @running;
        $_->stop for @all;
    }
}

# The upstream's side: one process, one loop.

my ( $record, $record_path, %connection, @later, $next_id, $next_connection, %seen, %fence );

# All that one turn of the loop finds has happened at one time: its order is not known.
my $turn = time;

sub _serve {
    my ( $listen, $path ) = @_;

    $record_path = $path;
    open $record, '>>', $path or die "$path: $!";
    $record->autoflush(1);
    my %protocol_of = map { fileno( $listen->{$_} ) => $_ } keys %$listen;
    my $parent      = getppid;

    while ( getppid == $parent ) {
        my $reads  = IO::Select->new( values %$listen, map { $_->{socket} } values %connection );
        my $writes = IO::Select->new( map { $_->{socket} } grep { length $_->{out} } values %connection );

        @later = sort { $a->[0] <=> $b->[0] } @later;
        my $wait = @later ? $later[0][0] - time : 1;
        $wait = $wait < 0 ? 0 : $wait > 1 ? 1 : $wait;

        my ( $readable, $writable ) = IO::Select->select( $reads, $writes, undef, $wait );
        $turn = time;

        while ( @later && $later[0][0] <= time ) {
            my ( undef, $c, $do ) = @{ shift @later };
            $do->() if !$c->{gone};
        }

        for my $socket ( @{ $writable // [] } ) {
            my $c = $connection{ fileno($socket) // -1 };
            _write($c) if $c;
        }

        # In the order in which they have connected.
        my $number = sub { ( $connection{ fileno( $_[0] ) // -1 } // { number => 0 } )->{number} };
        for my $socket ( sort { $number->($a) <=> $number->($b) } @{ $readable // [] } ) {
            my $fd = fileno($socket) // next;
            if ( my $protocol = $protocol_of{$fd} ) {
                while ( my $peer = $socket->accept ) {
                    $peer->blocking(0);
                    setsockopt $peer, IPPROTO_TCP, TCP_NODELAY, 1;
                    $connection{ fileno $peer } = {
                        socket => $peer, protocol => $protocol, number => ++$next_connection,
                        in => '', out => '', step => __PACKAGE__->can("_parse_$protocol"),
                    };
                }
            }
            elsif ( my $c = $connection{$fd} ) {
                _read($c);
            }
        }
    }

    return;
}

sub _read {
    my ($c) = @_;

    # To the end of what is there: a peer that has gone already is not to be taken for one that waits.
    my $got;
    while (1) {
        $got = sysread $c->{socket}, $c->{in}, 65536, length $c->{in};
        next if !defined $got && $!{EINTR};
        last if !$got;
    }
    $c->{left} = defined $got || !$!{EAGAIN};

    if ( length $c->{in} ) {
        $c->{arrived} //= $turn;
        $c->{step}->($c) if $c->{step};
    }
    _close( $c, 'peer' ) if $c->{left};
    return;
}

sub _write {
    my ($c) = @_;
    return if $c->{gone};
    my $done = syswrite $c->{socket}, $c->{out};
    if ( !defined $done ) {
        return if $!{EAGAIN} || $!{EINTR};
        return _close( $c, 'peer' );
    }
    substr $c->{out}, 0, $done, '';
    if ( !length $c->{out} && ( my $then = delete $c->{drained} ) ) {
        $then->();
    }
    return;
}

# Sends text, then does something (nothing, if not told).
sub _send {
    my ( $c, $text, $then ) = @_;
    return if $c->{left};
    $c->{out} .= $text;
    $c->{drained} = $then // sub { };
    _write($c);
    return;
}

sub _after {
    my ( $c, $seconds, $do ) = @_;
    push @later, [ time + $seconds, $c, $do ];
    return;
}

sub _note {
    my ($event) = @_;
    syswrite $record, JSON::PP->new->ascii->canonical->encode($event) . "\n";
    return;
}

sub _arrived {
    my ( $c, %request ) = @_;
    $c->{id} = ++$next_id;
    $c->{request} = \%request;
    _note(
        {   event => 'request', id => $c->{id}, arrived => $c->{arrived}, ended => undef, how => undef,
            protocol => $c->{protocol}, connection => $c->{number}, %request,
        }
    );
    return;
}

sub _ended {
    my ( $c, $how ) = @_;
    my $id = delete $c->{id} or return;
    _note( { event => 'end', id => $id, ended => $turn, over => time, how => $how } );
    return;
}

sub _close {
    my ( $c, $how ) = @_;
    return if $c->{gone};
    $how = 'peer' if $c->{left};
    $c->{gone} = 1;
    _ended( $c, $how );
    delete $connection{ fileno $c->{socket} };
    setsockopt $c->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0 if $how eq 'reset';
    close $c->{socket};
    %$c = ( gone => 1 );    # what is still to come holds on to the connection
    return;
}

sub _answered {
    my ($c) = @_;
    return sub {
        return _close( $c, 'answered' ) if !$c->{keepalive};
        _ended( $c, 'answered' );
        delete @$c{qw( arrived keepalive )};
        $c->{step} = \&_parse_http;
        return;
    };
}

# HTTP.

sub _parse_http {
    my ($c) = @_;

    $c->{in} =~ /\A(.*?)\r\n\r\n/s or return;
    my $head = $1;
    my ( $line, @lines ) = split /\r\n/, $head;
    my %header = map { /\A([^:]+):\s*(.*)\z/ ? ( lc $1 => $2 ) : () } @lines;

    my $from = length($head) + 4;
    my $body;
    if ( ( $header{'transfer-encoding'} // '' ) =~ /chunked/i ) {
        $body = '';
        while (1) {
            substr( $c->{in}, $from ) =~ /\A([0-9a-fA-F]+)[^\r\n]*\r\n/ or return;
            my ( $size, $skip ) = ( hex $1, length $& );
            return if length( $c->{in} ) < $from + $skip + $size + 2;
            $body .= substr $c->{in}, $from + $skip, $size;
            $from += $skip + $size + 2;
            last if !$size;
        }
    }
    else {
        my $size = $header{'content-length'} // 0;
        return if length( $c->{in} ) < $from + $size;
        $body = substr $c->{in}, $from, $size;
        $from += $size;
    }
    substr $c->{in}, 0, $from, '';

    my ( $method, $uri, $version ) = split / /, $line;
    $c->{step}      = undef;
    $c->{keepalive} = $version eq 'HTTP/1.1' && ( $header{connection} // '' ) !~ /close/i;
    _arrived( $c, method => $method, uri => $uri, version => $version, headers => \%header, body => $body );

    my $do = $header{'x-do'} // $uri;
    $do =~ s{\A/+|\?.*}{}gs;
    return _answer( $c, split m{/}, $do );
}

sub _head {
    my ( $c, $status, @lines ) = @_;
    my $alive = $c->{keepalive} ? 'keep-alive' : 'close';
    return join "\r\n", "HTTP/1.1 $status Whatever", "Connection: $alive", @lines, '', '';
}

sub _full {
    my ( $c, $status, $body, @lines ) = @_;
    $body = '' if $status =~ /\A(?:1..|204|304)\z/;
    my $length = length $body;
    my $head   = _head( $c, $status, $status =~ /\A(?:1..|204)\z/ ? () : "Content-Length: $length", @lines );
    $body = '' if $c->{request}{method} eq 'HEAD';
    _send( $c, $head . $body, _answered($c) );
    return;
}

sub _answer {
    my ( $c, $do, @more ) = @_;
    $do //= '';

    if ( $do eq 'status' ) {
        my @lines = $more[0] =~ /\A3/ ? ('Location: /ok') : ();
        push @lines, 'WWW-Authenticate: Basic' if $more[0] eq '401';
        return _full( $c, $more[0], "status $more[0]\n", @lines );
    }
    if ( $do eq 'delay' ) {
        my $seconds = shift @more;
        return _after( $c, $seconds, sub { _answer( $c, @more ) } );
    }
    if ( $do eq 'held' ) {
        my $name = shift @more;
        return _answer( $c, @more ) if -e "$record_path.$name";
        return _after( $c, 0.01, sub { _answer( $c, 'held', $name, @more ) } );
    }
    if ( $do eq 'fenced' ) {
        my ( $timer, $cluster, $fence ) = map { $c->{request}{headers}{$_} // '' } qw( x-timer x-cluster x-fence );
        my $newest = \$fence{"$timer $cluster"};
        return _full( $c, 409, "fence $fence is older than $$newest\n" ) if $fence !~ /\A\d+\z/ || $fence < ( $$newest // 0 );
        $$newest = $fence;
        return _answer( $c, @more );
    }
    if ( $do eq 'by-turns' ) {
        return _answer( $c, $seen{ $c->{request}{uri} }++ % 2 ? 'ok' : @more );
    }
    if ( $do eq 'turns' ) {
        return _answer( $c, 'status', $more[ $seen{ $c->{request}{uri} }++ % @more ] );
    }
    if ( $do eq 'fail-first' ) {
        my $key   = $c->{request}{uri};
        my $limit = shift @more;
        return ++$seen{$key} <= $limit ? _full( $c, 500, "failed\n" ) : _answer( $c, @more );
    }
    return if $do eq 'hang';
    return _close( $c, 'answered' ) if $do eq 'close';
    return _close( $c, 'reset' )    if $do eq 'reset';

    if ( $do eq 'stall' ) {
        return _send( $c, _head( $c, 200, 'Content-Length: 1000' ) . 'part' );
    }
    if ( $do eq 'truncate' ) {
        return _send( $c, _head( $c, 200, 'Content-Length: 1000' ) . 'part', sub { _close( $c, 'answered' ) } );
    }
    if ( $do eq 'cut' ) {
        my $chunk = "4\r\npart\r\n";
        return _send( $c, _head( $c, 200, 'Transfer-Encoding: chunked' ) . $chunk, sub { _close( $c, 'answered' ) } );
    }
    if ( $do eq 'reset-body' ) {
        # The pause lets nginx see the header first.
        return _send( $c, _head( $c, 200, 'Content-Length: 1000' ) . 'part',
            sub { _after( $c, 0.1, sub { _close( $c, 'reset' ) } ) } );
    }
    if ( $do eq 'drip' ) {
        my ( $size, $pause ) = @more;
        return _send( $c, _head( $c, 200, "Content-Length: $size" ),
            sub { _drip( $c, $pause, _answered($c), ('.') x $size ) } );
    }
    if ( $do eq 'big' ) {
        return _full( $c, 200, 'x' x ( $more[0] // 1 ) );
    }
    if ( $do eq 'unsized' ) {
        $c->{keepalive} = 0;
        return _send( $c, _head( $c, 200 ) . "ok\n", _answered($c) );
    }
    if ( $do eq 'slow-header' ) {
        my ( $lines, $pause ) = @more;
        return _send( $c, "HTTP/1.1 200 OK\r\nConnection: close\r\n",
            sub { _drip( $c, $pause, _answered($c), ("X-Line: .\r\n") x $lines, "Content-Length: 3\r\n\r\nok\n" ) } );
    }
    if ( $do eq 'upgrade' ) {
        return _send( $c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\nhello" );
    }
    if ( $do eq 'garbage' ) {
        return _send( $c, "this is not HTTP\r\n\r\n", sub { _close( $c, 'answered' ) } );
    }
    if ( $do eq 'huge-header' ) {
        return _full( $c, 200, "ok\n", 'X-Huge: ' . 'x' x 100_000 );
    }
    if ( $do eq 'accel' ) {
        return _full( $c, 200, "ok\n", 'X-Accel-Redirect: /' . join '/', @more );
    }
    if ( $do eq 'accel-expires' ) {
        return _full( $c, 200, "ok $next_id\n", "X-Accel-Expires: $more[0]" );
    }
    if ( $do eq 'html' ) {
        return _full( $c, 200, $c->{request}{headers}{'x-body'} // '', 'Content-Type: text/html' );
    }
    return _full( $c, 200, "ok\n" );
}

# Sends piece after piece, with pauses, then does something.
sub _drip {
    my ( $c, $pause, $then, @pieces ) = @_;
    return $then->() if !@pieces;
    my $piece = shift @pieces;
    return _send( $c, $piece, sub { _after( $c, $pause, sub { _drip( $c, $pause, $then, @pieces ) } ) } );
}

# uwsgi: a packet of parameters, then an HTTP answer.

sub _parse_uwsgi {
    my ($c) = @_;

    return if length $c->{in} < 4;
    my ( undef, $size ) = unpack 'CvC', $c->{in};
    return if length $c->{in} < 4 + $size;
    my @pairs = unpack '(v/a)*', substr $c->{in}, 4, $size;
    my %param = @pairs;
    my $body  = substr $c->{in}, 4 + $size;
    return if length $body < ( $param{CONTENT_LENGTH} || 0 );
    $c->{step} = undef;

    _arrived( $c, method => $param{REQUEST_METHOD}, uri => $param{REQUEST_URI}, headers => \%param, body => $body );
    my $do = $param{HTTP_X_DO} // $param{REQUEST_URI};
    $do =~ s{\A/+|\?.*}{}gs;
    return _answer( $c, split m{/}, $do );
}

# FastCGI: "ok", "status/N", "hang", "truncate" (no end of the request), "empty" (no header at all).

sub _parse_fastcgi {
    my ($c) = @_;

    my ( $params, $body, $complete ) = ( '', '', 0 );
    my $from = 0;
    while ( length( $c->{in} ) >= $from + 8 ) {
        my ( undef, $type, undef, $size, $padding ) = unpack 'CCnnC', substr $c->{in}, $from, 8;
        return if length( $c->{in} ) < $from + 8 + $size + $padding;
        my $content = substr $c->{in}, $from + 8, $size;
        $params .= $content if $type == 4;
        $body   .= $content if $type == 5;
        $complete = 1 if $type == 5 && !$size;
        $from += 8 + $size + $padding;
    }
    return if !$complete;
    $c->{step} = undef;

    my ( %param, $at );
    $at = 0;
    while ( $at < length $params ) {
        my @length;
        for ( 1, 2 ) {
            my $first = ord substr $params, $at, 1;
            push @length, $first < 128 ? $first : unpack( 'N', substr $params, $at, 4 ) & 0x7fff_ffff;
            $at += $first < 128 ? 1 : 4;
        }
        $param{ substr $params, $at, $length[0] } = substr $params, $at + $length[0], $length[1];
        $at += $length[0] + $length[1];
    }

    _arrived( $c, method => $param{REQUEST_METHOD}, uri => $param{REQUEST_URI}, headers => \%param, body => $body );
    my ( $do, @more ) = split m{/}, ( $param{HTTP_X_DO} // $param{REQUEST_URI} ) =~ s{\A/+|\?.*}{}gsr;
    $do //= '';
    return if $do eq 'hang';

    my $status = $do eq 'status' ? $more[0] : 200;
    my $text   = $do eq 'empty' ? '' : "Status: $status Whatever\r\nContent-Type: text/plain\r\n\r\nok\n";
    my $out    = length $text ? pack( 'CCnnCC', 1, 6, 1, length $text, 0, 0 ) . $text : '';
    $out .= pack( 'CCnnCC', 1, 6, 1, 0, 0, 0 ) . pack( 'CCnnCCNCa3', 1, 3, 1, 8, 0, 0, 0, 0, '' ) if $do ne 'truncate';
    return _send( $c, $out, sub { _close( $c, 'answered' ) } );
}

1;
