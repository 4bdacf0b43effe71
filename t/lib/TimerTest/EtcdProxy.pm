package TimerTest::EtcdProxy;

# What lies between the hosts and etcd: it passes each request on to a member, writes it down, and does by rules what
# networks and machines do to requests and answers.
#
#     my $proxy = TimerTest::EtcdProxy->start($etcd);
#     ... upstream etcd { $etcd->servers( $proxy->ports ) } ...
#     ... proxy_set_header X-Host web0; ...                        # in the fleet's location: who asks
#     my $rule = $proxy->rule( do => 'cut', kind => 'claim', host => 'web1', times => 2 );
#     $proxy->wait_count( $rule, 2 ); $proxy->clear($rule);
#     for my $x ( $proxy->exchanges( kind => 'end' ) ) { $x->{at}; $x->{host}; $x->{member}; $x->{timer}; $x->{status}; $x->{rule} }
#
# A rule is for requests of one host, member (number), timer or kind (what a transaction does, see _kind below; a list
# in [ ... ] is any of these), all if none is told; for so many of them (times), or by chance (0.2). The first rule that is for a
# request is applied. What it does:
#
#     cut        the member applies it; its answer is cut off before the first byte (half => 1: in the middle)
#     mute       the member applies it; no answer comes, and the connection stays
#     delay      passed on after some seconds
#     behind     passed on once a claim of its timer by another host has succeeded
#     slow       passed on, and answered after some seconds
#     twice      passed on, and once more after some seconds; the first answer counts
#     again      passed on twice, one after the other; the second answer counts
#     late       the connection is closed at once, and the request is passed on after some seconds
#     refuse     the connection is closed, and nothing is passed on
#     hang       neither passed on nor answered
#     answer     not passed on; this is the answer: status (200), headers (lines), body
#     answered   passed on; and this is the answer, likewise
#     date       passed on; the answer's Date is so many seconds ahead, or is left out if none are told
#     pass       passed on

use strict;
use warnings;

use Carp qw( croak );
use HTTP::Date qw( str2time time2str );
use IO::Select ();
use IO::Socket::INET ();
use JSON::PP ();
use MIME::Base64 qw( decode_base64 );
use POSIX ();
use Socket qw( IPPROTO_TCP TCP_NODELAY SOL_SOCKET SO_LINGER );
use Time::HiRes qw( time );
use TimerTest;

# Asked first what is set last.
sub start {
    my ( $class, $etcd ) = @_;

    my $dir  = scratch_dir();
    my $self = bless { rules => [], next => 1, dir => $dir, etcd => $etcd, seen => [], read => 0 }, $class;
    my @listen;
    for ( $etcd->ports ) {
        my $socket = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1024 ) or croak "listen: $!";
        $socket->blocking(0);
        push @listen, $socket;
    }
    $self->{ports} = [ map { $_->sockport } @listen ];
    spew( "$dir/exchanges", '' );
    $self->_write;

    my $parent = $$;
    my $pid = fork // croak "fork: $!";
    if ( !$pid ) {
        open STDIN, '<', '/dev/null';
        $SIG{$_} = 'DEFAULT' for qw( INT TERM );
        $SIG{PIPE} = 'IGNORE';
        eval { _serve( $parent, $dir, \@listen, [ $etcd->ports ] ); 1 } or print STDERR "# proxy: $@";
        POSIX::_exit(1);
    }
    $self->{pid} = $pid;
    return $self;
}

sub ports { return @{ $_[0]{ports} } }
sub pid   { return $_[0]{pid} }

# The lines of an upstream block, by way of here.
sub servers { my ($self) = @_; return $self->{etcd}->servers( $self->ports ) }

# In force for all requests that come from now on; answers its number.
sub rule {
    my ( $self, %rule ) = @_;
    $rule{id} = $self->{next}++;
    unshift @{ $self->{rules} }, \%rule;
    $self->_write;
    return $rule{id};
}

# Ends these rules, or all.
sub clear {
    my ( $self, @ids ) = @_;
    my %gone = map { $_ => 1 } @ids;
    $self->{rules} = [ grep { @ids && !$gone{ $_->{id} } } @{ $self->{rules} } ];
    $self->_write;
    return;
}

sub _write {
    my ($self) = @_;
    my $file = "$self->{dir}/rules";
    spew( "$file.new", JSON::PP->new->ascii->encode( $self->{rules} ) );
    rename "$file.new", $file or croak "$file: $!";
    return;
}

# The requests that have come, each once it is known what becomes of it: rule (its number), done (what the rule did),
# kind, host, timer, member, path, at (Unix seconds); of a claim or an end, due (ms); of a read, timers (all that it is about); and, if
# an answer was passed on: status, after (seconds), succeeded (the conditions held) and revision.
sub exchanges {
    my ( $self, %match ) = @_;
    open my $fh, '<:raw', "$self->{dir}/exchanges" or croak "exchanges: $!";
    seek $fh, $self->{read}, 0;
    while ( my $line = <$fh> ) {
        last if $line !~ /\n\z/;
        $self->{read} += length $line;
        if ( $line eq "begun\n" ) { $self->{begun}++ }
        else                      { push @{ $self->{seen} }, JSON::PP::decode_json($line) }
    }
    return grep { _matches( $_, \%match ) } @{ $self->{seen} };
}

sub count { my ( $self, $rule ) = @_; return scalar( my @all = $self->exchanges( rule => $rule ) ) }

sub wait_count {
    my ( $self, $rule, $count, $seconds ) = @_;
    return poll_until( sub { $self->count($rule) >= $count }, $seconds ) || in_vain( "rule $rule", $self->count($rule) . " of $count" );
}

sub wait_exchanges {
    my ( $self, $count, %match ) = @_;
    my @found;
    poll_until( sub { ( @found = $self->exchanges(%match) ) >= $count } )
        || in_vain( "$count exchanges " . join( ' ', map {"$_ $match{$_}"} sort keys %match ), scalar(@found) . ' of these' );
    return @found;
}

# Waits until it is known of all requests that have come what becomes of them.
sub settle {
    my ($self) = @_;
    my $open = sub { my $known = $self->exchanges; return ( $self->{begun} // 0 ) - $known };
    return poll_until( sub { !$open->() } ) || in_vain( 'etcd to answer', $open->() . ' requests' );
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    return;
}

sub DESTROY { local ( $?, $!, $@ ); return $_[0]->stop }

sub _matches {
    my ( $exchange, $match ) = @_;
    for my $key ( keys %$match ) {
        my $want = $match->{$key};
        my $has  = $exchange->{$key} // '';
        return 0 if ref $want eq 'ARRAY' ? !grep { $_ eq $has } @$want : ref $want ? $has !~ $want : $has ne $want;
    }
    return 1;
}

# The side of the network: one process, one loop.

my ( $dir, $log, @members, %connection, @later, @rules, $version, %left, %claimed );

sub _serve {
    my ( $parent, $in, $listen, $ports ) = @_;
    $dir     = $in;
    @members = @$ports;
    open $log, '>>', "$dir/exchanges" or die "exchanges: $!";
    my %member = map { fileno( $listen->[$_] ) => $_ } 0 .. $#$listen;

    while ( getppid == $parent ) {
        my $reads  = IO::Select->new( @$listen, map { $_->{socket} } grep { !$_->{connecting} } values %connection );
        my $writes = IO::Select->new( map { $_->{socket} } grep { length $_->{out} || $_->{connecting} } values %connection );
        @later = sort { $a->[0] <=> $b->[0] } @later;
        my $wait = @later ? $later[0][0] - time : 1;
        my ( $readable, $writable ) = IO::Select->select( $reads, $writes, undef, $wait < 0 ? 0 : $wait > 1 ? 1 : $wait );
        while ( @later && $later[0][0] <= time ) { ( shift @later )->[1]->() }

        for my $socket ( @{ $writable // [] } ) {
            my $c = $connection{ fileno($socket) // -1 } or next;
            $c->{connecting} = 0;
            _write_out($c);
        }
        for my $socket ( @{ $readable // [] } ) {
            my $fd = fileno($socket) // next;
            if ( defined( my $member = $member{$fd} ) ) {
                while ( my $peer = $socket->accept ) {
                    $peer->blocking(0);
                    setsockopt $peer, IPPROTO_TCP, TCP_NODELAY, 1;
                    _connection( $peer, step => \&_request, member => $member );
                }
            }
            elsif ( my $c = $connection{$fd} ) {
                _read_in($c);
            }
        }
    }
    return;
}

sub _connection {
    my ( $socket, %more ) = @_;
    return $connection{ fileno $socket } = { socket => $socket, in => '', out => '', %more };
}

sub _read_in {
    my ($c) = @_;
    my $got;
    1 while $got = sysread $c->{socket}, $c->{in}, 65536, length $c->{in};
    my $ended = defined $got || !$!{EAGAIN} && !$!{EINTR};
    $c->{step}->( $c, $ended ) if $c->{step};
    _close($c) if $ended;
    return;
}

sub _write_out {
    my ($c) = @_;
    return if $c->{gone} || $c->{connecting} || !length $c->{out};
    my $done = syswrite $c->{socket}, $c->{out};
    if ( !defined $done ) {
        return if $!{EAGAIN} || $!{EINTR};
        $c->{step}->( $c, 1 ) if $c->{step} && $c->{to_member};
        return _close($c);
    }
    substr $c->{out}, 0, $done, '';
    _close($c) if !length $c->{out} && $c->{last};
    return;
}

sub _send { my ( $c, $text ) = @_; $c->{out} .= $text; return _write_out($c) }

sub _close {
    my ($c) = @_;
    return if $c->{gone}++;
    delete $connection{ fileno $c->{socket} };
    close $c->{socket};
    return;
}

# What was not passed on leaves no doubt.
sub _reset {
    my ($c) = @_;
    setsockopt $c->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0 if !$c->{gone};
    return _close($c);
}

sub _after { my ( $seconds, $do ) = @_; push @later, [ time + $seconds, $do ]; return }

# A whole request of a client, if it is there.
sub _request {
    my ($c) = @_;
    return if $c->{busy};
    $c->{in} =~ /\A(.*?\r\n)\r\n/s or return;
    my ( $head, $from ) = ( $1, $+[0] );
    my ($size) = $head =~ /^Content-Length: *(\d+)/mi;
    return if length( $c->{in} ) < $from + ( $size // 0 );
    my $body = substr $c->{in}, $from, $size // 0;
    substr $c->{in}, 0, $from + ( $size // 0 ), '';

    my ( $method, $path, $protocol ) = $head =~ /\A(\S+) (\S+) (\S+)/;
    my ($host) = $head =~ /^X-Host: *(\S+)/mi;
    my %exchange = ( at => time, member => $c->{member}, path => $path, host => $host // '', _kind( $path, $body ) );
    $c->{busy} = 1;
    $c->{last} = $protocol eq 'HTTP/1.0' || $head =~ /^Connection: *close/mi;
    my $text = "$method $path HTTP/1.0\r\nHost: etcd\r\nContent-Length: @{[ length $body ]}\r\n"
        . join( '', grep {/\A(?:Content-Type|Authorization):/i} $head =~ /^(.*?\r\n)/mg ) . "\r\n$body";
    return _apply( $c, \%exchange, $text );
}

# What a request does, by its body, and the timer it does that to:
#
#     read, authenticate           range, or a transaction of ranges only
#     init, claim, by-hand         put last, or run, where there is none; both where there is no run
#     again                        put both again, the compare is last's revision: a repetition, or a claim that had got lost
#     beat, attempt, end           put run, put run and last, or delete run, of a claim that is there
#     close, remove, order         put last while run is there; delete run that has not changed; anything else
sub _kind {
    my ( $path, $body ) = @_;
    return ( kind => 'authenticate' ) if $path =~ m{/auth/};
    my $json = eval { JSON::PP::decode_json($body) } // {};
    my $name = sub {
        my $key = decode_base64( $_[0] // '' );
        return $key =~ m{([^/]+)/(run|last|done|result|pause)\z} ? ( $1, $2 ) : ( '', '' );
    };
    my ( %put, %delete, %compare, %read, $timer );
    for my $compare ( @{ $json->{compare} // [] } ) {
        my ( $of, $key ) = $name->( $compare->{key} );
        my $value = $compare->{create_revision} // $compare->{mod_revision} // '';
        $compare{"$key $compare->{target}"} = $value;
    }
    for my $do ( @{ $json->{success} // [] } ) {
        for my $how (qw( put delete_range range )) {
            my $request = $do->{"request_$how"} // $do->{ 'request' . ucfirst( $how =~ s/_r/R/r ) } // next;
            my ( $of, $key ) = $name->( $request->{key} );
            $timer //= $of;
            $read{$of} = 1 if $how eq 'range' && length $of;
            $put{$key} = $request->{value} if $how eq 'put';
            $delete{$key} = 1 if $how eq 'delete_range';
        }
    }
    ($timer) = $name->( $json->{key} ) if !defined $timer && $json->{key};
    ($timer) = $name->( $json->{compare}[0]{key} ) if !defined $timer && @{ $json->{compare} // [] };
    my $run  = $compare{'run CREATE'};
    my $none = defined $run && !$run;
    my $kind
        = !%put && !%delete ? 'read'
        : $delete{run} ? ( defined $compare{'run MOD'} ? 'remove' : 'end' )
        : defined $put{run} && defined $put{last} ? ( $none ? ( $compare{'last MOD'} ? 'again' : 'claim' ) : 'attempt' )
        : defined $put{run}  ? ( $none ? 'by-hand' : 'beat' )
        : defined $put{last} ? ( defined $run ? 'close' : exists $compare{'last CREATE'} ? 'init' : 'order' )
        :                      'order';
    my ($due) = decode_base64( $put{run} // $put{result} // '' ) =~ /"due":"?(\d+)/;
    return (
        kind => $kind, timer => $timer // '',
        defined $due ? ( due => $due ) : (), $kind eq 'read' ? ( timers => [ sort keys %read ] ) : (),
    );
}

sub _rule_for {
    my ($exchange) = @_;
    my $now = ( stat "$dir/rules" )[1];
    if ( $now != ( $version // 0 ) ) {
        $version = $now;
        @rules   = @{ JSON::PP::decode_json( slurp("$dir/rules") ) };
        $left{ $_->{id} } //= $_->{times} for @rules;
    }
    for my $rule (@rules) {
        next if defined $left{ $rule->{id} } && !$left{ $rule->{id} };
        next if !_matches( $exchange, { map { exists $rule->{$_} ? ( $_ => $rule->{$_} ) : () } qw( host member kind timer ) } );
        next if defined $rule->{chance} && rand() >= $rule->{chance};
        $left{ $rule->{id} }-- if defined $left{ $rule->{id} };
        return $rule;
    }
    return { do => 'pass' };
}

sub _note {
    my ( $exchange, %more ) = @_;
    syswrite $log, JSON::PP->new->ascii->canonical->encode( { %$exchange, %more } ) . "\n";
    return;
}

sub _apply {
    my ( $c, $exchange, $text ) = @_;

    syswrite $log, "begun\n";
    my $rule    = _rule_for($exchange);
    my $do      = $rule->{do};
    my $seconds = $rule->{seconds} // 0;
    $seconds = $seconds->[0] + rand( $seconds->[1] - $seconds->[0] ) if ref $seconds;
    my $member = $c->{member};
    $exchange->{rule} = $rule->{id} // 0;
    $exchange->{done} = $do;
    my $answer = sub { _answer( $c, $exchange, @_ ) };
    my $cut = sub { _note($exchange); _close($c) };
    my $own = join '', "HTTP/1.1 ", $rule->{status} // 200, " Whatever\r\n", $rule->{headers} // "Content-Type: application/json\r\n", "\r\n", $rule->{body} // '';

    my %how = (
        pass   => sub { _ask( $member, $text, $answer ) },
        cut    => sub {
            _ask( $member, $text, sub {
                my $whole = _whole( $_[0] );
                _send( $c, substr $whole, 0, length($whole) / 2 ) if $rule->{half};
                $cut->();
            } );
        },
        mute   => sub { _ask( $member, $text, sub { _note($exchange) } ) },
        delay  => sub { _after( $seconds, sub { _ask( $member, $text, $answer ) } ) },
        behind => sub {
            my $go;
            $go = sub {
                return _after( 0.01, $go ) if ( $claimed{ $exchange->{timer} } // $exchange->{host} ) eq $exchange->{host};
                undef $go;
                _ask( $member, $text, $answer );
            };
            $go->();
        },
        slow   => sub { _ask( $member, $text, sub { my ($got) = @_; _after( $seconds, sub { $answer->($got) } ) } ) },
        twice  => sub {
            _ask( $member, $text, sub {
                $answer->(@_);
                _after( $seconds, sub { _ask( $member, $text, sub { } ) } );
            } );
        },
        again    => sub { _ask( $member, $text, sub { _ask( $member, $text, $answer ) } ) },
        late     => sub { $cut->(); _after( $seconds, sub { _ask( $member, $text, sub { } ) } ) },
        refuse   => sub { _note($exchange); _reset($c) },
        hang     => sub { _note($exchange) },
        answer   => sub { $answer->($own) },
        answered => sub { _ask( $member, $text, sub { $answer->($own) } ) },
        date     => sub {
            _ask( $member, $text, sub {
                my $to = sub { defined $rule->{seconds} ? 'Date: ' . time2str( str2time( $_[0] ) + $seconds ) . "\r\n" : '' };
                $answer->( $_[0] =~ s/^Date: *(.*?)\r\n/$to->($1)/mier );
            } );
        },
    );
    return ( $how{$do} // die "no such rule \"$do\"" )->();
}

# Passes a request on; what is done with the answer, whole, or empty if none came.
sub _ask {
    my ( $member, $text, $then ) = @_;
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $members[$member], Blocking => 0 ) or return $then->('');
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
    my $c = _connection( $socket, out => $text, to_member => 1, connecting => 1 );
    $c->{step} = sub {
        my ( undef, $ended ) = @_;
        return if !$ended || $c->{told}++;
        $c->{step} = undef;
        $then->( $c->{in} );
    };
    return;
}

# An answer as a client gets it.
sub _whole {
    my ($got) = @_;
    my ( $status, $lines, $body ) = $got =~ m{\AHTTP/\S+ ([^\r\n]*)\r\n((?:[^\r\n]+\r\n)*)\r\n(.*)\z}s or return '';
    $lines =~ s/^(?:Connection|Content-Length):.*?\r\n//mgi;
    return "HTTP/1.1 $status\r\n${lines}Content-Length: @{[ length $body ]}\r\n\r\n$body";
}

sub _answer {
    my ( $c, $exchange, $got ) = @_;
    my $whole = _whole($got);
    my ($status) = $whole =~ /\A\S+ (\d+)/;
    my ($revision) = $whole =~ /"revision": *"(\d+)"/;
    my $succeeded = $whole =~ /"succeeded": *true/ ? 1 : 0;
    $claimed{ $exchange->{timer} } = $exchange->{host} if $succeeded && $exchange->{kind} eq 'claim';
    _note( $exchange, status => $status // 0, after => time - $exchange->{at}, succeeded => $succeeded, revision => $revision // 0 );
    return if $c->{gone};
    return _close($c) if $whole eq '';
    $c->{busy} = 0;
    _send( $c, $whole );
    _request($c) if !$c->{gone} && length $c->{in};
    return;
}

1;
