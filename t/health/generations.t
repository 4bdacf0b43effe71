#!/usr/bin/perl

# What outlives a reload: an old worker that a client holds keeps the marks of its own zone right; records that
# need more room move, claims and all; "fail_open" lifts the marks while too few servers are healthy.

use strict;
use warnings;

use IO::Socket::INET ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api qw( json );
use TimerTest::Canned;
use TimerTest::Nginx;
use TimerTest::Servers;
use TimerTest::Zone;

my $servers = TimerTest::Servers->start(4);
# It says again what it hears.
my $socket = TimerTest::Canned->start( answer => sub {
    my ($asked) = @_;
    return $asked =~ /\AGET / ? "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" : $asked;
} );
my @server  = map { '127.0.0.1:' . $servers->port($_) } 0 .. 3;

sub configured {
    my ( $open, $more ) = @_;
    my @list = map {"server $_ max_fails=0;"} @server;
    return (
        http => "upstream b { zone b 64k; @list[ 0, 1 ] } upstream open { zone open 64k; @list } " . ( $more // '' ),
        server => <<"CONF",
        proxy_next_upstream off;
        location / { proxy_pass http://b; health_check interval=100ms uri=/check; }
        location /open/ { proxy_pass http://open; health_check interval=50ms uri=/open-check fail_open=$open; }
        location /more/ { proxy_pass http://${\ ( $more ? 'more' : 'b' ) }; ${\ ( $more ? 'health_check interval=1000s uri=/more;' : '' ) } }
        location /socket/ { proxy_pass http://127.0.0.1:${\ $socket->port }; proxy_read_timeout 1000s; proxy_http_version 1.1;
            proxy_set_header Upgrade \$http_upgrade; proxy_set_header Connection Upgrade; }
        location /status/ { timer_api; }
CONF
    );
}

my $nginx = TimerTest::Nginx->new( workers => 1, configured(50) );
$nginx->start;
sub peers { my ($group) = @_; return @{ json( $nginx->get("/status/upstreams/$group") )->{peers} } }

# "fail_open": below one half the marks are lifted, above it they are back.
{
    $servers->set( $_, 503 ) for 0, 1;
    # Both groups check them, each at its own times.
    for my $group (qw( b open )) { $nginx->wait_log(qr/peer \Q$server[$_]\E in upstream "$group" is unhealthy/) for 0, 1 }
    is( $nginx->get('/open/')->{status}, 200, 'half of them are healthy: requests go to these' ) for 1 .. 4;
    $servers->set( 2, 503 );
    $nginx->wait_log(qr/\[crit\].* 1 of 4 servers in upstream "open" are healthy, less than 50%, requests are passed to all/);
    my %seen = map { $nginx->get('/open/')->{status} => 1 } 1 .. 8;
    is_deeply( \%seen, { 200 => 1, 503 => 1 }, 'less than half: requests are passed to all' );
    my $group = json( $nginx->get('/status/upstreams/open') );
    ok( $group->{fail_open}, 'which the API tells' );
    is( ( join ' ', map { $_->{state} } @{ $group->{peers} } ), 'unhealthy unhealthy unhealthy up', 'beside what the checks say' );
    like( $nginx->get('/status/metrics')->{body}, qr/^nginx_upstream_fail_open\{upstream="open"\} 1$/m, 'and metrics' );
    is( $nginx->log_lines(qr/\[crit\]/), 1, 'one line tells of it' );
    my ($third) = $nginx->log =~ /(peer \Q$server[2]\E in upstream "open" is unhealthy.* 1 of 4 servers)/s;
    ok( $third, 'behind that of the server by which they are too few' );
    $servers->up($_) for 1, 2;
    $nginx->wait_log(qr/\[notice\].* \d of 4 servers in upstream "open" are healthy, requests are passed to these/);
    ok( $nginx->log =~ /peer \S+ in upstream "open" is healthy [^\n]*\n(?:.*\n)*?.* \d of 4 servers in upstream "open" are healthy, requests/, 'and so is the other one' );
    is( $nginx->get('/open/')->{status}, 200, 'and to no other' ) for 1 .. 8;
    $servers->up(0);
    for my $group (qw( b open )) { $nginx->wait_log(qr/peer \Q$server[$_]\E in upstream "$group" is healthy/) for 0, 1 }
}

# A websocket holds an old worker: its zone is another, which it goes on marking.
{
    my ($old) = $nginx->workers;
    my $client = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port ) or die "connect: $!";
    my $says = sub {
        my ( $text, $answer ) = @_;
        syswrite $client, $text;
        my $heard = '';
        poll_until( sub { sysread $client, $heard, 4096, length $heard; $heard =~ $answer } ) || in_vain( 'an answer', $heard );
    };
    $client->blocking(0);
    $says->( "GET /socket/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", qr/\AHTTP\/1\.1 101 .*\r\n\r\n/s );
    $nginx->reload;
    ok( is_alive($old), 'an old worker is held' );
    my ($new) = grep { $_ != $old } $nginx->workers;
    ok( $new, 'beside a new one' );
    my ( $in_old, $in_new ) = map { zone_of($_)->down( b => $server[1] ) } $old, $new;
    is( $_->(), 0, 'no mark yet' ) for $in_old, $in_new;
    $servers->set( 1, 503 );
    poll_until( sub { $in_new->() } ) || in_vain('the mark in the zone of the new worker');
    ok( poll_until( sub { $in_old->() } ), 'the old worker marks its own zone' );
    $servers->up(1);
    poll_until( sub { !$in_new->() } ) || in_vain('the mark to go');
    ok( poll_until( sub { !$in_old->() } ), 'and takes the mark away' );
    # Soon: not when it looks at all marks the next time, a second later at most. Four in a row are no chance.
    my ( $row, $is, @took ) = ( 0, 0 );
    poll_until( sub {
        $is ? $servers->up(1) : $servers->set( 1, 503 );
        $is = !$is;
        poll_until( sub { !$in_new->() == !$is } );
        my $began = time;
        poll_until( sub { !$in_old->() == !$is } );
        push @took, time - $began;
        $row = $took[-1] < 0.3 ? $row + 1 : 0;
        return $row == 4;
    } );
    is( $row, 4, 'soon after the new one' ) or diag "@took";
    $servers->up(1);
    poll_until( sub { !$in_old->() } ) || in_vain('the last mark to go');
    $says->( 'still there', qr/\Astill there\z/ );
    close $client;
    $nginx->wait_gone( [$old] );
}

# More room is needed: what is known moves there.
{
    $servers->set( 1, 503 );
    my ($before) = ();
    ok( poll_until( sub { ($before) = ( peers('b') )[1]; $before->{state} eq 'unhealthy' } ), 'a server is unhealthy' );
    my $more = join ' ', map { "server 127.0.0." . ( 2 + int( $_ / 250 ) ) . ':' . ( 10_000 + $_ ) . ';' } 1 .. 1000;
    $nginx->write_conf( configured( 0, "upstream more { zone more 4m; $more }" ) );
    my $from = $servers->clients(1);
    $nginx->reload_all;
    $nginx->get('/') for 1 .. 6;
    is( $servers->clients(1), $from, 'no request reaches it' );
    is( scalar peers('more'), 1000, 'there are many more servers' );
    my $after = ( peers('b') )[1];
    is( $after->{downstart}, $before->{downstart}, 'it is unhealthy since the same instant' );
    cmp_ok( $after->{health_checks}{checks}, '>=', $before->{health_checks}{checks}, 'no count is lost' );
    is( $after->{health_checks}{unhealthy}, $before->{health_checks}{unhealthy}, 'nor begins anew' );
    $servers->up(1);
    ok( poll_until( sub { ( peers('b') )[1]{state} eq 'up' } ), 'and is healthy again' );
}

$nginx->stop;
$servers->stop;
done_testing();

sub zone_of { my ($pid) = @_; return TimerTest::Zone->of($pid) }
