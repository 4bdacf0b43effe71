package TimerTest::Api;

# A client of timer_api at /status/, of any worker or of one that it stays with.
#
#     my $api = TimerTest::Api->new($nginx);                       # a connection for each request
#     my $one = TimerTest::Api->new( $nginx, worker => [$pid] );   # one, that one of these has accepted
#     $api->show('x')->{status};
#     my ( $status, $said ) = $one->order('/timers/x/run');
#
# Options: worker; port (the first server's); at (/status); socket (a connection to say() and hear() over).

use strict;
use warnings;

use Carp qw( croak );
use Exporter qw( import );
use IO::Select ();
use IO::Socket::INET ();
use JSON::PP ();
use Test::More ();
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Beat;

our @EXPORT = qw( json parse_metrics counters is_well );

# The JSON of an answer; undef if it is not exactly one JSON text.
sub json {
    my ($answer) = @_;
    return eval { JSON::PP->new->utf8->decode( $answer->{body} ) };
}

# The samples of Prometheus' text format, { 'name{labels}' => value }; nothing, with a remark, at the first
# line that is none: not well formed, there before, or without the HELP and TYPE of its family.
sub parse_metrics {
    my ($text) = @_;
    my ( %value, %type, %help );
    return Test::More::diag('it does not end with a line') if $text !~ /\n\z/;
    for my $line ( split /\n/, $text ) {
        if ( $line =~ /\A# HELP (\w+) \S/ ) { return if $help{$1}++; next }
        if ( $line =~ /\A# TYPE (\w+) (?:counter|gauge|summary)\z/ ) { return if $type{$1}++; next }
        my ( $name, $labels, $number )
            = $line =~ /\A(nginx_(?:timer|upstream)_\w+)((?:\{\w+="(?:[^"\\\n]|\\[\\"n])*"(?:,\w+="(?:[^"\\\n]|\\[\\"n])*")*\})?) (-?[0-9.]+)\z/
            or return Test::More::diag("not a sample: $line");
        my ($family) = grep { $type{$_} && $help{$_} } $name, $name =~ /\A(\w+)_(?:sum|count)\z/
            or return Test::More::diag("no family: $line");
        return Test::More::diag("twice: $line") if exists $value{"$name$labels"};
        $value{"$name$labels"} = $number;
    }
    return \%value;
}

# Of these, those that may only rise.
sub counters {
    my ($metrics) = @_;
    return { map { $_ => $metrics->{$_} } grep {/\A\w+(?:_total|_sum|_count)(?:\{|\z)/} keys %$metrics };
}

my $beat = TimerTest::Beat->start;

# One test: what is asked for is this, or like this. For what says that timers are well: only where this machine stood
# still for so long that they were late may they catch up first.
sub is_well {
    my ( $ask, $want, $title ) = @_;
    my $got;
    my $is = ref $want ? sub { $got =~ $want } : sub { $got eq $want };
    poll_until( sub { $got = $ask->() // ''; $is->() || $beat->still( $^T, time ) < 4 } );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ref $want ? Test::More::like( $got, $want, $title ) : Test::More::is( $got, $want, $title );
}

sub new {
    my ( $class, $nginx, %option ) = @_;
    my $self = bless { nginx => $nginx, at => '/status', port => $nginx->port, in => '', %option }, $class;
    $self->connect if $self->{worker};
    return $self;
}

# Connects, again and again, until a worker that is wanted has accepted; to be done while all of them live.
sub connect {
    my ($self) = @_;
    my %wanted = map { $_ => 1 } @{ $self->{worker} };
    wait_until {
        $self->{socket} = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $self->{port} ) or return;
        $self->{in} = '';
        $self->say( 'GET', '/ready' );
        my $answer = $self->hear('GET');
        $self->{pid} = $answer->{body} + 0 if $answer->{body} =~ /\A\d+\n\z/;
        $self->{pid} && $wanted{ $self->{pid} };
    } or croak "no worker of @{ $self->{worker} } accepts";
    return $self;
}

# The pid of the worker at the other end.
sub pid { return $_[0]{pid} }

sub socket { return $_[0]{socket} }

# Asks for a path below the API's own; answers as http_request.
sub ask {
    my ( $self, $path, %option ) = @_;
    my $whole = "$self->{at}$path";
    return $self->{nginx}->get( $whole, port => $self->{port}, %option ) if !$self->{worker};
    my $method = delete $option{method} // 'GET';
    $self->say( $method, $whole, %option );
    return $self->hear($method);
}

# Writes a request, but for the empty line that ends it with part => 1; end_request() writes that.
sub say {
    my ( $self, $method, $path, %option ) = @_;
    my $host = $option{host} // 'localhost';
    my $text = "$method $path HTTP/1.1\r\nHost: $host\r\n" . ( $option{headers} // '' );
    return $self->put( $option{part} ? $text : "$text\r\n" );
}

sub end_request { return $_[0]->put("\r\n") }

sub put {
    my ( $self, $text ) = @_;
    local $SIG{PIPE} = 'IGNORE';
    while ( length $text ) {
        my $written = syswrite $self->{socket}, $text or return 0;
        substr $text, 0, $written, '';
    }
    return 1;
}

# The next answer of the connection, as http_request answers it.
sub hear {
    my ( $self, $method ) = @_;
    my $answer = { status => 0, headers => '', body => '', raw => '' };

    my $want = sub {
        my ($enough) = @_;
        my $end      = deadline();
        my $select   = IO::Select->new( $self->{socket} );
        while ( !$enough->() ) {
            my $left = $end - time;
            return 0 if $left <= 0;
            $select->can_read($left) or next;
            sysread( $self->{socket}, $self->{in}, 65536, length $self->{in} ) or return 0;
        }
        return 1;
    };

    $want->( sub { $self->{in} =~ /\r\n\r\n/ } ) or return $answer;
    $self->{in} =~ s{\AHTTP/1\.1 (\d+)[^\r\n]*\r\n(.*?)\r\n\r\n}{}s or return $answer;
    my ( $status, $headers ) = ( $1, $2 );

    my $body = '';
    if ( ( $method // 'GET' ) eq 'HEAD' || $status == 204 || $status == 304 ) { }
    elsif ( my ($length) = $headers =~ /^Content-Length: (\d+)/mi ) {
        $want->( sub { length $self->{in} >= $length } ) or return $answer;
        $body = substr $self->{in}, 0, $length, '';
    }
    else {
        while (1) {
            $want->( sub { $self->{in} =~ /\r\n/ } ) or return $answer;
            $self->{in} =~ s/\A([0-9a-f]+)\r\n//i or return $answer;
            my $length = hex $1;
            $want->( sub { length $self->{in} >= $length + 2 } ) or return $answer;
            $body .= substr $self->{in}, 0, $length, '';
            substr $self->{in}, 0, 2, '';
            last if !$length;
        }
    }
    @$answer{qw( status headers body )} = ( $status, $headers, $body );
    return $answer;
}

# All timers.
sub all {
    my ($self) = @_;
    return json( $self->ask('/timers') ) // {};
}

# One timer.
sub show {
    my ( $self, $name ) = @_;
    return json( $self->ask("/timers/$name") ) // {};
}

# An order: its status, and what was said.
sub order {
    my ( $self, $path, %option ) = @_;
    my $answer = $self->ask( $path, %option, method => 'POST' );
    return ( $answer->{status}, json($answer) // {} );
}

# The samples, or nothing if there was no such answer.
sub metrics {
    my ($self) = @_;
    my $answer = $self->ask('/metrics');
    my $values = $answer->{status} == 200 ? parse_metrics( $answer->{body} ) : undef;
    return ref $values ? $values : undef;
}

1;
