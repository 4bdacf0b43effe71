#!/usr/bin/perl

# The address space is limited, a little less each time, from more than enough to nothing more: of a worker while
# its timers run and clients ask for everything, some without reading the answer; of the master while it reloads.
# nginx itself lives through this, and so it does with timers: what fails is a run, a request or a load, and when
# there is memory again all goes on.

use strict;
use warnings;

use IO::Socket::INET ();
use Test::More;
use Time::HiRes qw( time sleep );
use TimerTest;
use TimerTest::Nginx;

my $prlimit = program('prlimit');
plan skip_all => 'prlimit is not installed' if !$prlimit;
plan skip_all => 'a sanitizer or valgrind has a memory of its own' if nginx_is_watched();

# nginx's own words, and ours for a load.
my @allow = (
    qr/\[(?:emerg|alert)\].*(?:malloc|posix_memalign|memalign|mmap|fork|pthread_create|epoll_create|io_setup|calloc)\(.*failed \(12: Cannot allocate memory\)/,
    qr/\[emerg\].*no memory/,
    qr/\[emerg\].*(?:failed|error).* \(12: Cannot allocate memory\)/,
    # What one of these does to a worker or a cache process that is just starting.
    qr/exited with fatal code 2 and cannot be respawned/,
    qr/fork\(\) failed while spawning/,
    qr/could not (?:build|allocate)/,
);

# Kilobytes above what it has.
my @room = ( 16_384, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 0 );

sub limit {
    my ( $pid, $room ) = @_;
    my ($has) = slurp("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m or return fail("$pid has gone");
    my $limit = defined $room ? ( $has + $room ) * 1024 : 'unlimited';
    my ( $status, $out ) = run_command( $prlimit, '--pid', $pid, "--as=$limit:unlimited" );
    return $status eq '0' || fail("limited to $limit: $out");
}

sub timers {
    my ( $count, $parameters ) = @_;
    return join "\n", map {"location \@t$_ { timer t$_ $parameters; return 204; }"} 1 .. $count;
}

# Asks, and does not read the answer.
sub ask {
    my ( $nginx, $path ) = @_;
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port ) or return;
    $socket->syswrite("GET $path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    return $socket;
}

my @paths = qw( timers text metrics health timers/t1 timers/t1/next next?cron=0+3+*+*+*&tz=Europe/Berlin next?cron=*/7+*+*+*+*&tz=Asia/Tokyo );

sub in_a_worker {
    my ( $title, $readers ) = @_;
    my $nginx = TimerTest::Nginx->new(
        connections => 1024,
        main        => $> == 0 ? 'user root;' : '',
        http        => 'client_body_timeout 1s; send_timeout 1s;',
        server      => 'location /status/ { timer_api write=on; }'
            . timers( 1000, 'every=1s' )
            . join( "\n", map {"location \@f$_ { timer f$_ every=50ms; timer_retry 1 backoff=10ms; return @{[ $_ % 2 ? 204 : 500 ]}; }"} 1 .. 20 )
            . join( "\n", map {"location \@c$_ { timer c$_ 'cron=* * * * * *' tz=Europe/Berlin; return 204; }"} 1 .. 20 ),
        allow => \@allow,
    );
    $nginx->start;
    my $worker = $nginx->worker_in_slot(0);
    ok( $nginx->wait_log( qr/timer "[tfc]\d+": run succeeded/, 1020 ), "$title: all run" );
    my %answered;
    for my $room (@room) {
        limit( $worker, $room );
        my @asked = map { ask( $nginx, "/status/$paths[ $_ % 3 ]" ) } 1 .. $readers;
        my $until = time + 0.3;
        do {
            for my $path (@paths) {
                $answered{ $nginx->get( "/status/$path", seconds => 2 )->{status} }++;
            }
            $nginx->get( "/status/timers/f1/$_", method => 'POST', seconds => 2 ) for qw( run pause resume );
        } while time < $until && is_alive($worker);
        last if !is_alive($worker);
    }
    ok( is_alive($worker), "$title: the worker lives" );
    note join ', ', map {"$_: $answered{$_}"} sort keys %answered;
    limit( $worker, undef ) if is_alive($worker);
    my $count = () = $nginx->log_lines(qr/timer "f1": run succeeded/);
    ok( $nginx->wait_log( qr/timer "f1": run succeeded/, $count + 3 ), "$title: runs go on" );
    ok( wait_until( sub { $nginx->get("/status/timers")->{status} == 200 } ), "$title: answers, too" );
    is( $nginx->worker_in_slot(0), $worker, "$title: in the same worker" );
    $nginx->stop;
    return;
}

in_a_worker( 'timers alone', 0 );
in_a_worker( 'clients that do not read', 100 );

# The master reads a configuration with many timers again and again; the old one goes on if it cannot.
{
    my $nginx = TimerTest::Nginx->new(
        workers => 1,
        main    => $> == 0 ? 'user root;' : '',
        server  => 'location /status/ { timer_api write=on; } timer_timezone Europe/Berlin;'
            . timers( 2000, "'cron=0 3 * * *' tz=Asia/Tokyo" )
            . 'location @often { timer often every=50ms; return 204; }',
        allow => \@allow,
    );
    $nginx->start;
    # From now on it has what two configurations take.
    $nginx->reload_all;
    my ( $refused, $taken ) = ( 0, 0 );
    for my $room ( map { ( $_, int( $_ * 0.75 ), int( $_ * 0.6 ) ) } @room ) {
        limit( $nginx->pid, $room );
        my $before = $nginx->log_lines(qr/./);
        $nginx->signal('HUP');
        my $end = wait_until {
            my @new = $nginx->log_lines(qr/./);
            splice @new, 0, $before;
            !$nginx->alive ? 'dead' : ( grep {/\[emerg\]/} @new ) ? 'refused' : ( grep {/start worker process|fork\(\) failed/} @new ) ? 'taken' : '';
        };
        $refused++ if $end eq 'refused';
        $taken++   if $end eq 'taken';
        last if !$nginx->alive;
    }
    ok( $nginx->alive, 'the master lives' );
    cmp_ok( $refused, '>', 0, "loads are refused: $refused" );
    cmp_ok( $taken, '>', 0, "others are taken: $taken" );
    if ( $nginx->alive ) {
        limit( $nginx->pid, undef );
        $nginx->reload_all;
        my $count = () = $nginx->log_lines(qr/timer "often": run succeeded/);
        ok( $nginx->wait_log( qr/timer "often": run succeeded/, $count + 3 ), 'with memory, it is taken and runs' );
    }
    $nginx->stop;
}

done_testing;
