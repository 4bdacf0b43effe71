#!/usr/bin/perl

# The API and its orders with each event method that this nginx has: the notifier wakes the workers, large answers wait
# for slow clients, and nothing spins.

use strict;
use warnings;

use IO::Socket::INET ();
use Socket qw( SOL_SOCKET SO_RCVBUF );
use Test::More;
use Time::HiRes qw( time );
use POSIX ();
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;

my $rare  = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';
my $count = 3000;
my $beat  = TimerTest::Beat->start;

# Seconds of processor time that these processes have had.
sub cpu {
    my $ticks = 0;
    for my $pid (@_) {
        my @fields = split ' ', slurp("/proc/$pid/stat") =~ s/\A.*\) //sr;
        $ticks += ( $fields[11] // 0 ) + ( $fields[12] // 0 );
    }
    return $ticks / POSIX::sysconf( POSIX::_SC_CLK_TCK() );
}

for my $method (qw( poll select epoll )) {
    my $backend = TimerTest::Backend->start;
    my $nginx   = TimerTest::Nginx->new(
        workers => 2,
        events  => "use $method;",
        http    => 'keepalive_timeout 1h; keepalive_requests 1000000;',
        server  => 'location /status/ { timer_api write=on; }'
            . timer( $backend, 'zero', $rare )
            . timer( $backend, 'any',  $rare, 'ok', 'timer_worker any;' )
            . timer( $backend, 'tick', 'every=200ms' )
            . timer( $backend, 'hang', $rare, 'hang', 'timer_timeout 1h; proxy_read_timeout 1h;' )
            . join( '', map {"location \@f$_ { timer f$_ $rare; return 204; }\n"} 1 .. $count ),
    );
    my ( $ok, $out ) = $nginx->test_conf;
    if ( !$ok && $out =~ /invalid event type/ ) {
        pass("this nginx has no $method");
        next;
    }
    $nginx->start;

    my $generation = sub {
        my ($title) = @_;
        my @workers = map { $nginx->worker_in_slot($_) } 0, 1;
        my @api     = map { TimerTest::Api->new( $nginx, worker => [$_] ) } @workers;

        # Orders, taken by the owner and by another one: the notifier wakes the workers.
        for my $slot ( 0, 1 ) {
            my @took;
            for my $round ( 1 .. 10 ) {
                my $begun = time;
                my ( $status, $said ) = $api[$slot]->order('/timers/zero/run');
                my $found;
                wait_until { ($found) = grep { $_->{headers}{'x-run'} eq ( $said->{run} // '' ) } $backend->requests( timer => 'zero' ) };
                push @took, $found ? $found->{arrived} - $begun - $beat->still( $begun, $found->{arrived} ) : 9e9;
                wait_until { !$api[$slot]->show('zero')->{running} };
            }
            @took = sort { $a <=> $b } @took;
            cmp_ok( $took[5], '<', 0.3 * $TimerTest::SLOW, "$title: orders that slot $slot takes are followed at once" ) or diag "@took";
            my ( $status, $said ) = $api[$slot]->order('/timers/any/run');
            is( $status, 202, "$title: slot $slot: a timer of any worker" );
            ok( wait_until { grep { $_->{headers}{'x-run'} eq $said->{run} } $backend->requests( timer => 'any' ) }, 'runs' );
            ok( wait_until { !$api[$slot]->show('any')->{running} }, 'and ends' );

            ( $status, $said ) = $api[$slot]->order('/timers/hang/run');
            ok( wait_until { $api[$slot]->show('hang')->{running} }, "$title: slot $slot: one hangs" );
            ( $status, $said ) = $api[$slot]->order('/timers/hang/cancel');
            is( $status, 202, 'is cancelled' );
            ok( wait_until { !$api[$slot]->show('hang')->{running} }, 'and ends' );
            is( $api[$slot]->show('hang')->{last}{outcome}, 'cancelled', 'by that' );
        }
        is( scalar( grep { $_->{headers}{'x-pid'} == $workers[0] } ( $backend->requests( timer => 'zero' ) )[ -20 .. -1 ] ), 20, "$title: all in their own worker" );
        is( ( $api[1]->order('/timers/tick/pause') )[0], 200, "$title: a pause" );
        my $since = time;
        wait_until { time > $since + 1 };
        none_of { $_ > $since + 0.5 } 'holds', map { due_ms($_) / 1000 } $backend->requests( timer => 'tick' );
        is( ( $api[1]->order('/timers/tick/resume') )[0], 200, 'and ends' );
        ok( wait_until { grep { due_ms($_) / 1000 > $since + 1 } $backend->requests( timer => 'tick' ) }, 'it goes on' );

        # Nobody spins: not after bells were rung, not while a client does not read.
        my $idle = sub {
            my ($when) = @_;
            my ( $at, $used ) = ( time, cpu(@workers) );
            wait_until { time > $at + 1 };
            my $share = ( cpu(@workers) - $used ) / ( time - $at );
            cmp_ok( $share, '<', 0.5 * $TimerTest::SLOW, sprintf '%s: %s nobody spins (%.2f)', $title, $when, $share );
        };
        $idle->('after orders');
        my $socket = IO::Socket::INET->new( Proto => 'tcp' ) or die;
        setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 4096;
        $socket->connect( $nginx->port, IO::Socket::INET::inet_aton('127.0.0.1') ) or die "connect: $!";
        my $slow = TimerTest::Api->new( $nginx, socket => $socket );
        $slow->say( 'GET', '/status/timers' );
        $idle->('while a client does not read');
        is( $api[$_]->show('zero')->{status}, 'idle', "$title: slot $_ answers others meanwhile" ) for 0, 1;
        my $all = json( $slow->hear );
        is( scalar @{ ( $all // {} )->{timers} // [] }, $count + 4, "$title: then it reads all of it" );
        return @workers;
    };

    my @old = $generation->("$method");
    $nginx->reload;
    ok( $nginx->wait_gone( \@old ), "$method: a reload" );
    $generation->("$method, after a reload");
    no_doubles( $method, $backend->requests );
    logged_times( $nginx, qr/\[(?:error|crit)\](?!.* due times?\b)/, 0, "$method: nothing to complain of" );
    $nginx->stop;
    $backend->stop;
}

done_testing;
