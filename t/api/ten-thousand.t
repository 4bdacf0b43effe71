#!/usr/bin/perl

# 10,000 timers and the API: all that it answers is complete and valid, other requests of the same worker
# are not held up by it, and an order for the last of them is followed.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $rare    = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';
my $count   = 10_000;
my $last    = "t$count";
my $order   = scratch_dir() . '/order.log';

my $nginx = TimerTest::Nginx->new(
    workers => 1,
    http    => "log_format path '\$uri'; keepalive_timeout 1h; keepalive_requests 1000000;",
    server  => "location /status/ { timer_api write=on; access_log $order path; } location = /small { access_log $order path; return 200; }"
        . timer( $backend, 'tick', 'every=200ms' )
        . join( '', map {"location \@t$_ { timer t$_ $rare; return 204; }\n"} 1 .. $count - 2 )
        . timer( $backend, $last, $rare ),
);
$nginx->start;
my $worker = $nginx->worker_in_slot(0);
my $api    = TimerTest::Api->new( $nginx, worker => [$worker] );
my $other  = TimerTest::Api->new( $nginx, worker => [$worker] );
my %names  = map { $_ => 1 } 'tick', $last, map {"t$_"} 1 .. $count - 2;

# One test: each name once, and no other.
sub all_of_them {
    my ( $title, @names ) = @_;
    my %seen;
    $seen{$_}++ for @names;
    my @wrong = ( grep { $seen{$_} != 1 || !$names{$_} } keys %seen ), grep { !$seen{$_} } keys %names;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is( scalar @wrong, 0, "$title: $count timers" ) || diag "@wrong[ 0 .. ( @wrong > 9 ? 9 : $#wrong ) ]";
}

# Reading so much JSON takes this test seconds: once is enough.
my $all = $api->all;
is( $all->{state}, 'ok', 'JSON: the state is ok' );
all_of_them( 'JSON', map { $_->{name} } @{ $all->{timers} } );
none_of { keys %$_ != keys %{ $all->{timers}[0] } } 'JSON: with the same fields', @{ $all->{timers} };

my $metrics = $api->metrics;
ok( $metrics, 'metrics: valid' );
my %families;
for my $series ( keys %$metrics ) {
    push @{ $families{$1} }, $2 if $series =~ /\A(\w+)\{timer="([^"]+)"/ && $1 !~ /\Anginx_timer_(?:runs_total|health)\z/;
}
none_of { @{ $families{$_} } != $count } 'metrics: no family lacks a timer', sort keys %families;
all_of_them( 'metrics', @{ $families{nginx_timer_info} } );
is( scalar( grep {/\Anginx_timer_runs_total\{/} keys %$metrics ), 6 * $count, 'metrics: six outcomes each' );
is( scalar( grep {/\Anginx_timer_health\{/} keys %$metrics ),     6 * $count, 'metrics: and six states of health' );

my $text = $api->ask('/text')->{body};
like( $text, qr/^$count timers\n\z/m, 'text: how many' );
all_of_them( 'text', map { /(\S+)\z/ } ( split /\n/, $text )[ 1 .. $count ] );
is_well( sub { $api->ask('/health')->{body} }, "ok\n", 'health' );

my $page = $api->ask( '/', headers => "Accept: text/html\r\n" );
is( $page->{status}, 200, 'the page' );
like( $page->{body}, qr/<\/html>\s*\z/, 'the page: whole' );
cmp_ok( length $page->{body}, '<', 2_000_000, 'the page: its script gets the rest' );
is( json( $api->ask("/timers/$last") )->{name}, $last, 'the last of them' );

# Another request of this worker is answered before the answer that takes many turns, though it came later: nginx's
# own log says which ended first. It came too late if this test stood still in between.
for my $path (qw( /timers /day /metrics /text /health / )) {
    my $before = 0;
    for ( 1 .. 10 ) {
        spew( $order, '' );
        my $large = TimerTest::Api->new( $nginx, worker => [$worker] );
        $large->say( 'GET', "/status$path", headers => "Connection: close\r\n" . ( $path eq '/' ? "Accept: text/html\r\n" : '' ) );
        $other->say( 'GET', '/small' );
        1 while sysread $large->socket, my $in, 65536;
        $other->hear;
        $before = wait_until { slurp($order) =~ m{\A/small\n/status} ? 1 : slurp($order) =~ m{\A/status.*\n/small} ? -1 : 0 };
        last if $before > 0;
    }
    cmp_ok( $before, '>', 0, "beside $path: before it was complete" );
}

# While a client has not read its answer to the end, others are answered, as many as come.
my $large = TimerTest::Api->new( $nginx, worker => [$worker] );
$large->say( 'GET', '/status/timers' );
none_of { $other->ask("/timers/t$_")->{status} != 200 } 'others are answered while it waits', 1 .. 50;
all_of_them( 'and then', $large->hear->{body} =~ /^\{"name":"([^"]+)"/mg );

# Orders.
for my $round ( 1 .. 3 ) {
    my ( $status, $said ) = $api->order("/timers/$last/run");
    is( $status, 202, 'an order for the last of them' );
    my $found;
    ok( wait_until { ($found) = grep { $_->{headers}{'x-run'} eq $said->{run} } $backend->requests( timer => $last ) }, 'is followed' );
    ok( wait_until { !$api->show($last)->{running} }, 'to its end' );
}
is( $api->show($last)->{counters}{runs}, 3, 'and counted' );
is( ( $api->order('/pause') )[0], 200, 'all are paused' );
ok( wait_until { !$api->show('tick')->{running} }, 'what was in progress ends' );
my @statuses = $api->ask('/timers')->{body} =~ /^\{"name":.*?"status":"(\w+)"/mg;
is( scalar( grep { $_ eq 'paused' } @statuses ), $count, 'and all are shown so' );
is( ( $api->order('/resume') )[0], 200, 'and resumed' );
my $ticks = $backend->requests( timer => 'tick' );
ok( $backend->wait_requests( $ticks + 3, timer => 'tick' ) >= $ticks + 3, 'they go on' );
is_deeply( [ $nginx->workers ], [$worker], 'in the same worker' );
$nginx->stop;

done_testing;
