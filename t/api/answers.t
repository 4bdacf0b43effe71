#!/usr/bin/perl

# The API's answers as nginx sends them: large ones in pieces, to clients that read slowly, go away or
# ask for more at once, as a part of another answer, and from a worker that is told to quit.

use strict;
use warnings;

use IO::Select ();
use IO::Socket::INET ();
use JSON::PP ();
use Socket qw( SOL_SOCKET SO_LINGER SO_RCVBUF );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Nginx;

my $TIMERS = 3000;

# To clients of this port the kernel takes little on its own account.
my $slow  = free_port();
my $nginx = TimerTest::Nginx->new(
    workers => 1,
    http    => 'gzip_types *; sub_filter_types *; ssi_types *; addition_types *;',
    server  => "listen 127.0.0.1:$slow sndbuf=32k; location = /ok { return 200 ok; }"
        . ' location /status/ { timer_api; }'
        . ' location /limited/ { limit_rate 2m; timer_api; }'
        . ' location /parts/ { ssi on; }'
        . ' location /ssi/ { ssi on; gzip on; timer_api; }'
        . ' location /sub/ { sub_filter "every=" "EVERY="; sub_filter_once off; timer_api; }'
        . ' location /add/ { add_before_body /ok; add_after_body /ok; timer_api; }'
        . ' location /missing/ { error_page 404 =200 /status/timers; }'
        . ' location /mirrored/ { mirror /status/metrics; alias html/parts/; }'
        . ' location /asks/ { auth_request /status/metrics; alias html/parts/; }'
        . join( '', map {"location \@t$_ { timer t$_ every=10h enabled=off; return 204; }\n"} 1 .. $TIMERS ),
);
my $prefix = $nginx->prefix;
mkdir "$prefix/html/parts";
spew( "$prefix/html/parts/ok.html",      'ok' );
spew( "$prefix/html/parts/timers.html",  '[<!--#include virtual="/status/timers" -->]' );
spew( "$prefix/html/parts/metrics.html", '<!--#include virtual="/status/metrics" -->' );
spew( "$prefix/html/parts/all.html",     join '|', map {"<!--#include virtual=\"/$_\" -->"} qw( ok status/text status/metrics ok status/timers status/ ) );
$nginx->start;
my $worker = $nginx->worker_in_slot(0);

sub connected {
    my ($port) = @_;
    my $socket = IO::Socket::INET->new( Proto => 'tcp' ) or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4096 if $port == $slow;
    connect $socket, Socket::pack_sockaddr_in( $port, Socket::inet_aton('127.0.0.1') ) or die "connect: $!";
    return $socket;
}

# A client that has asked, and not read.
sub asked {
    my ( $port, @paths ) = @_;
    my $socket = connected($port);
    my $last   = pop @paths;
    syswrite $socket, join '', ( map {"GET $_ HTTP/1.1\r\nHost: localhost\r\n\r\n"} @paths ), "GET $last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    return $socket;
}

# All that comes until the end of the connection.
sub rest {
    my ($socket) = @_;
    my $end      = deadline();
    my $select   = IO::Select->new($socket);
    my $got      = '';
    while ( ( my $left = $end - time ) > 0 ) {
        $select->can_read($left) or next;
        sysread( $socket, $got, 65536, length $got ) or last;
    }
    return $got;
}

# The bodies of the answers in a row, each complete; fewer where one is not.
sub bodies {
    my ($got) = @_;
    my @bodies;
    while ( $got =~ s{\AHTTP/1\.1 200 .*?\r\n\r\n}{}s ) {
        my $head = $&;
        if ( $head =~ /^Content-Length: (\d+)/mi ) {
            last if length $got < $1;
            push @bodies, substr $got, 0, $1, '';
            next;
        }
        my ( $body, $at ) = ( '', 0 );
        while ( substr( $got, $at, 20 ) =~ /\A([0-9a-f]+)\r\n/ ) {
            my ( $size, $skip ) = ( hex $1, length $& );
            $body .= substr $got, $at + $skip, $size;
            $at += $skip + $size + 2;
            last if !$size;
        }
        last if substr( $got, 0, $at ) !~ /0\r\n\r\n\z/;
        substr $got, 0, $at, '';
        push @bodies, $body;
    }
    return @bodies;
}

sub names {
    my ($body) = @_;
    my $json = eval { JSON::PP->new->utf8->decode( $body // '' ) } // {};
    return scalar grep { $_->{name} =~ /\At\d+\z/ } @{ $json->{timers} // [] };
}

my ($timers)  = bodies( rest( asked( $nginx->port, '/status/timers' ) ) );
my ($metrics) = bodies( rest( asked( $nginx->port, '/status/metrics' ) ) );
is( names($timers), $TIMERS, 'all timers' );
like( $metrics, qr/\Q{timer="t$TIMERS"}\E.*nginx_timer_state_ok 1\n\z/s, 'all metrics' );

# As a part of other answers, and through nginx's filters.
my ($parts) = bodies( rest( asked( $nginx->port, '/parts/all.html' ) ) );
$parts = [ split /\|/, $parts // '' ];
is( scalar @$parts,     6,        'six parts of one answer' );
is( $parts->[2],        $metrics, 'metrics are one, whole' );
is( names($parts->[4]), $TIMERS,  'all timers are another' );
is( "$parts->[0] $parts->[3]", 'ok ok', 'in their order' );
is( names( ( bodies( rest( asked( $nginx->port, "/$_/timers" ) ) ) )[0] ), $TIMERS, "through a filter: $_" ) for qw( ssi sub );
is( ( bodies( rest( asked( $nginx->port, '/sub/metrics' ) ) ) )[0], $metrics =~ s/every=/EVERY=/gr, 'of which each piece is filtered' );
is( ( bodies( rest( asked( $nginx->port, '/add/metrics' ) ) ) )[0], "ok${metrics}ok", 'between two others' );
is( names( ( bodies( rest( asked( $nginx->port, '/missing/x' ) ) ) )[0] ), $TIMERS, 'in the place of an error' );
is( join( ' ', bodies( rest( asked( $nginx->port, "/$_/ok.html" ) ) ) ), 'ok', "asked for by the way: $_" ) for qw( mirrored asks );

# One behind the other on a connection.
my @row = bodies( rest( asked( $slow, '/status/timers', '/ok', '/status/metrics', '/status/health', '/ok' ) ) );
is( scalar @row, 5, 'five requests at once' );
is( names( $row[0] ), $TIMERS, 'the first has all of its answer' );
is( "$row[1] $row[2] $row[3] $row[4]", "ok $metrics ok\n ok", 'and so have those behind it' );

# As fast as they may.
is( names( ( bodies( rest( asked( $slow, '/limited/timers' ) ) ) )[0] ), $TIMERS, 'a limited rate' );

# Clients that go away in the middle.
for my $path ( map { ( "/status/$_", "/parts/$_.html" ) } qw( timers metrics ) ) {
    for my $abort ( 0, 1 ) {
        my $socket = asked( $slow, $path );
        sysread $socket, my $first, 1000;
        setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0 if $abort;
        close $socket;
    }
}
is( ( bodies( rest( asked( $nginx->port, '/ok' ) ) ) )[0], 'ok', 'it goes on when clients have gone away' );

# Clients that do not read. What an answer consists of is made when it can be sent.
sub memory {
    my ($kb) = slurp("/proc/$worker/status") =~ /^VmRSS:\s+(\d+)/m;
    return $kb * 1024;
}

sub is_idle {
    my $ticks = sub { my @stat = split ' ', slurp("/proc/$worker/stat") =~ s/.*\)//sr; return $stat[11] + $stat[12] };
    my $before = $ticks->();
    sleep 1;
    return $ticks->() - $before <= 2;
}

SKIP: {
    skip 'memory is not what it is when somebody watches', 8 if nginx_is_watched() || $nginx->{wrapper};
    for my $path (qw( /status/timers /parts/timers.html )) {
        ok( wait_until { is_idle() }, 'nothing is going on' );
        my $before  = memory();
        my @sockets = map { asked( $slow, $path ) } 1 .. 16;
        sysread $_, my $first, 1 for @sockets;
        ok( wait_until { is_idle() }, '16 clients that do not read have been answered as far as they read' );
        cmp_ok( memory() - $before, '<', 16 * 500_000, "$path: none of them costs half of the " . length $timers );
        my ($body) = bodies( 'H' . rest( $sockets[0] ) );
        is( names( ( $body // '' ) =~ s/\A\[|\]\z//gr ), $TIMERS, 'and each has all of it in the end' );
    }
}

# A worker that is told to quit.
my @sockets = map { asked( $slow, $_ ) } qw( /status/timers /status/metrics /parts/all.html );
sysread $_, my $first, 1 for @sockets;
$nginx->signal('QUIT');
ok( $nginx->wait_log(qr/gracefully shutting down/), 'a worker is told to quit' );
my @last = map { ( bodies( 'H' . rest($_) ) )[0] // '' } @sockets;
is( names( $last[0] ), $TIMERS, 'what was begun is sent' );
is( $last[1], $metrics, 'in all its pieces' );
is( scalar( split /\|/, $last[2] ), 6, 'and parts' );
$nginx->stop;

# Metrics that fill a piece to its end, so that nothing is left for the last one.
my $PIECE = 65_536;

sub filling {
    my ( $count, $more ) = @_;
    my @timers = map {
        my $zeros = $more > 0 ? $more > 200 ? 100 : int $more / 2 : 0;
        $more -= 2 * $zeros;
        sprintf qq(location \@t%03d { timer t%03d "cron=0%s 0 * * *" enabled=off; return 204; }\n), $_, $_, ',0' x $zeros;
    } 1 .. $count;
    return join '', 'location /status/ { timer_api; } location /parts/ { ssi on; }', @timers;
}

$nginx = TimerTest::Nginx->new( server => filling( 30, 0 ) );
mkdir $nginx->prefix . '/html/parts';
spew( $nginx->prefix . '/html/parts/metrics.html', '[<!--#include virtual="/status/metrics" -->]' );
$nginx->start;

sub metrics_of {
    my @timers = @_;
    my @old    = $nginx->write_conf( server => filling(@timers) )->reload;
    $nginx->wait_gone( \@old );
    return $nginx->get('/status/metrics')->{body};
}
my ( $thirty, $forty ) = map { length metrics_of( $_, 0 ) } 30, 40;
my $each  = ( $forty - $thirty ) / 10;
my $count = 30 + int( ( $PIECE - $thirty ) / $each );
my ($end) = $metrics =~ /(# HELP nginx_timer_state_ok.*)/s;
$metrics = metrics_of( $count, $PIECE - $thirty - ( $count - 30 ) * $each + length($end) / 2 );
my $over = length($metrics) - $PIECE;
ok( $over >= 0 && $over < length $end, 'metrics end with the first piece' ) or diag $over;
is( $nginx->get('/parts/metrics.html')->{body}, "[$metrics]", 'and are a part of another answer' );

$nginx->stop;
done_testing;
