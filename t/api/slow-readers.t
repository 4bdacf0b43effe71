#!/usr/bin/perl

# Clients that do not read their answers, or read slowly: what the worker keeps for each is bounded, whatever it has
# asked for and however many timers there are; others are answered meanwhile, in turn; who reads in the end has a
# whole answer; and who goes away leaves nothing behind.

use strict;
use warnings;

use IO::Select ();
use IO::Socket::INET ();
use List::Util qw( min );
use POSIX ();
use Socket qw( MSG_PEEK SOL_SOCKET SO_RCVBUF );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;
use TimerTest::Turns;

plan skip_all => 'a sanitizer or valgrind has a pace and a memory of its own' if nginx_is_watched();

my $CLIENTS = 300;
# What an answer may keep, nginx's own part of it included.
my $MOST = 65_536;
my %html = ( headers => "Accept: text/html\r\n" );

my $turns = TimerTest::Turns->new;

# Nothing runs, so that an answer is the same each time; the kernel takes little of it on its own account.
sub started {
    my ($count) = @_;
    my $slow  = free_port();
    my $nginx = TimerTest::Nginx->new(
        faults      => $turns,
        workers     => 1,
        connections => 1024,
        http        => 'keepalive_timeout 1h; keepalive_requests 1000000;',
        server      => "listen 127.0.0.1:$slow sndbuf=16k; location /status/ { timer_api; }"
            . join( '', map {"location \@t$_ { timer task-$_ every=10h enabled=off; return 204; }\n"} 1 .. $count ),
    );
    $nginx->start;
    return ( $nginx, $slow, $nginx->worker_in_slot(0) );
}

# A client that has asked, and not read.
sub asked {
    my ( $port, $path, $headers ) = @_;
    my $socket = IO::Socket::INET->new( Proto => 'tcp' ) or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4096;
    connect $socket, Socket::pack_sockaddr_in( $port, Socket::inet_aton('127.0.0.1') ) or die "connect: $!";
    syswrite $socket, "GET $path HTTP/1.0\r\n" . ( $headers // '' ) . "\r\n";
    return $socket;
}

# The bodies that come until the end of each connection, read in turn, so much at a time.
sub bodies {
    my ( $each, $pause, @sockets ) = @_;
    my $select = IO::Select->new(@sockets);
    my %got    = map { $_ => '' } @sockets;
    my $end    = deadline();
    while ( $select->count && time < $end ) {
        for my $socket ( $select->can_read(1) ) {
            $end = deadline();
            my $read = sysread $socket, $got{$socket}, $each, length $got{$socket};
            $select->remove($socket) if !$read;
        }
        $pause->( \%got ) if $pause;
    }
    return map {s/\A.*?\r\n\r\n//sr} @got{@sockets};
}

# An answer but for its instant.
sub steady { my ($body) = @_; return $body =~ s/"now":"[^"]+"/"now":""/r }

# What the worker alone has.
sub memory {
    my ($worker) = @_;
    my $sum = 0;
    $sum += $_ for slurp("/proc/$worker/smaps_rollup") =~ /^Private_(?:Clean|Dirty): +(\d+)/mg;
    return $sum * 1024;
}

# Seconds of the processor.
sub cpu {
    my ($worker) = @_;
    my @stat = split ' ', slurp("/proc/$worker/stat") =~ s/.*\)//sr;
    return ( $stat[11] + $stat[12] ) / POSIX::sysconf(POSIX::_SC_CLK_TCK);
}

# Nothing is going on in the worker.
sub wait_idle {
    my ($worker) = @_;
    return wait_until { my $before = cpu($worker); sleep 0.25; cpu($worker) == $before };
}

sub connections { my ($worker) = @_; return scalar grep { ( readlink // '' ) =~ /\Asocket:/ } glob "/proc/$worker/fd/*" }

sub well {
    my ( $nginx, $worker, $title ) = @_;
    is( $nginx->get('/status/health')->{body}, "ok\n", "$title: others get the health" );
    is( json( $nginx->get('/status/timers/task-7') )->{name}, 'task-7', "$title: a timer" );
    is( $nginx->get($_)->{status}, 200, "$title: $_" ) for qw( /status/metrics /status/text );
    return is_deeply( [ $nginx->workers ], [$worker], "$title: of the same worker" );
}

sub longest_turn {
    my ( $worker, $title ) = @_;
    my $longest = $turns->longest($worker);
    return cmp_ok( $longest, '<=', 20, sprintf '%s: the longest turn takes %.1f ms', $title, $longest );
}

# As many as ask for everything and do not read. What the worker has grown to for one path it may use for the next: all
# is measured from the beginning.
for my $count ( 1000, 10_000 ) {
    my ( $nginx, $slow, $worker ) = started($count);
    my @paths = $count == 1000 ? qw( metrics text timers day / ) : qw( metrics text );
    my %body  = map { $_ => $nginx->get( "/status/$_", %html )->{body} } @paths;
    ok( wait_idle($worker), "$count timers: nothing is going on" );
    my ( $before, $free ) = ( memory($worker), connections($worker) );
    for my $path (@paths) {
        my $title   = "$count timers: $path";
        my @sockets = map { asked( $slow, "/status/$path", $html{headers} ) } 1 .. $CLIENTS;
        recv $_, my $first, 1, MSG_PEEK for @sockets;
        ok( wait_idle($worker), "$title: $CLIENTS clients do not read" );
        my $each = ( memory($worker) - $before ) / $CLIENTS;
        cmp_ok( $each, '<=', $MOST, sprintf '%s: each costs %.1f KiB, of an answer of %.1f', $title, $each / 1024, length( $body{$path} ) / 1024 );
        well( $nginx, $worker, "$title: meanwhile" );
        my @got = bodies( 65_536, undef, @sockets[ 0 .. 2 ] );
        is( scalar( grep { steady($_) eq steady( $body{$path} ) } @got ), 3, "$title: who reads in the end has all of it" );
        close $_ for @sockets;
        ok( wait_until { connections($worker) <= $free }, "$title: the others go away" );
    }
    longest_turn( $worker, "$count timers" );
    $nginx->stop;
}

# Ten thousand timers, a client that stops again and again for so long that nothing of what was read for it is kept,
# and many that read at once.
{
    my ( $nginx, $slow, $worker ) = started(10_000);
    for my $path (qw( metrics text timers )) {
        my $whole = $nginx->get("/status/$path")->{body};
        my $stops = 0;
        my ($got) = bodies( 1_000_000, sub {
            my ($got) = @_;
            return if length( ( values %$got )[0] ) < 300_000 * ( $stops + 1 ) || $stops++ > 1;
            sleep 2.5;
        }, asked( $slow, "/status/$path" ) );
        $_ = steady($_) for $got, $whole;
        is( length $got, length $whole, "10,000 timers: $path: a slow client has as much as a fast one" );
        ok( $got eq $whole, "10,000 timers: $path: and the same" );
        if ( $path eq 'metrics' ) {
            ok( ref parse_metrics($got), 'metrics: valid' );
            my $file = scratch_dir() . '/metrics';
            spew( $file, $got );
            my $promtool = program('promtool');
        SKIP: {
                skip 'promtool is not installed', 1 if !$promtool;
                my ( $status, $out ) = run_command( 'sh', '-c', "$promtool check metrics < $file" );
                is( $status, '0', 'metrics: promtool finds nothing wrong' ) or diag $out;
            }
        }
        is( scalar @{ json( { body => $got } )->{timers} // [] }, 10_000, 'JSON: valid' ) if $path eq 'timers';
    }

    is( scalar @{ ( json( $nginx->get('/status/day') ) // {} )->{timers} // [] }, 10_000, 'day: valid' );
    my $whole   = length $nginx->get('/status/metrics')->{body};
    my @sockets = map { asked( $nginx->port, '/status/metrics' ) } 1 .. 12;
    my ( $least, $health );
    my @got = bodies( 65_536, sub {
        my ($got) = @_;
        my @lengths = map {length} values %$got;
        $health //= $nginx->get('/status/health')->{body} if min(@lengths) > 0;
        $least  //= min(@lengths) if grep { $_ >= $whole } @lengths;
    }, @sockets );
    none_of { length != $whole } '12 at once: each has all of it', @got;
    cmp_ok( $least, '>', $whole / 2, '12 at once: when the first had all, the last had more than half' );
    is( $health, "ok\n", '12 at once: others are answered' );
    longest_turn( $worker, '10,000 timers' );

    # nginx accepts a connection in each turn: who is the last of many waits for as many turns, each with a part of
    # the answers before. What these cost is little.
    stand_still($worker);
    my ( $count, $cpu ) = ( $turns->count($worker), cpu($worker) );
    @sockets = map { asked( $nginx->port, '/status/metrics' ) } 1 .. 100;
    my $last = asked( $nginx->port, '/ready' );
    kill 'CONT', $worker;
    like( scalar( $last->getline ), qr/ 200 /, 'the last of 100 at once is answered' );
    ( $count, $cpu ) = ( $turns->count($worker) - $count, cpu($worker) - $cpu );
    cmp_ok( $cpu / $count, '<=', 0.002, sprintf '%d turns of %.1f ms each', $count, 1000 * $cpu / $count );
    close $_ for @sockets;
    $nginx->stop;
}

done_testing;
