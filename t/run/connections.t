#!/usr/bin/perl

# worker_connections used up: runs end in an error that is told, not in silence or an alert of ours,
# and the next due time is served once there are connections again.

use strict;
use warnings;

use IO::Socket::INET ();
use Test::More;
use TimerTest;
use TimerTest::Nginx;
use TimerTest::Series;

my $nginx = TimerTest::Nginx->new(
    connections => 24,
    http        => 'client_header_timeout 300s;',
    server      => 'location @a { timer a every=50ms; return 204; } location @b { timer b every=70ms; return 204; }',
    # nginx's own words for a client that it has to turn away.
    allow => [qr/worker_connections are not enough(?:, reusing connections)? while accepting new connection/,
        qr/worker_connections are not enough$/],
);
$nginx->start;
ok( $nginx->wait_log( qr/timer "$_": run succeeded/, 3 ), "$_ runs" ) for qw( a b );

# Clients that have begun to speak cannot be turned out, as idle ones can; those that nginx has not
# heard yet can, so more and more of them come until there is no connection left.
my @clients;
my $refused = sub { my ($name) = @_; return scalar $nginx->log_lines(qr/\[error\].* timer "$name": run failed: no free connection/) };
wait_until {
    my $client = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port, Timeout => 10 );
    if ($client) {
        local $SIG{PIPE} = 'IGNORE';
        syswrite $client, "GET / HTTP/1.1\r\nHost: l";
        push @clients, $client;
    }
    $refused->('a') && $refused->('b');
};
ok( $refused->($_), "$_: no free connection" ) for qw( a b );

# Time passes; the log of a row of failures is limited.
my $more = wait_until { $refused->('a') > 1 + $nginx->log_lines(qr/timer "a": succeeded after/) } 1;
ok( !$more, 'one line for the row' );

close $_ for @clients;
@clients = ();

ok( $nginx->wait_log(qr/\[notice\].* timer "$_": succeeded after \d+ failures/), "$_ runs again" ) for qw( a b );
my $succeeded = () = $nginx->log_lines(qr/timer "a": run succeeded/);
ok( $nginx->wait_log( qr/timer "a": run succeeded/, $succeeded + 5 ), 'and again' );
is( $nginx->get('/ready')->{status}, 200, 'clients are served' );
logged_times( $nginx, qr/\[alert\].*timer: "/, 0, 'no alert in a run' );

$nginx->stop;

# Idle clients are turned out for a run, as nginx does for any connection.
$nginx = TimerTest::Nginx->new(
    connections => 16,
    server      => 'location @a { timer a every=50ms; return 204; }',
);
$nginx->start;
for ( 1 .. 30 ) {
    my $client = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port, Timeout => 10 ) or next;
    push @clients, $client;
    $nginx->get('/ready') if $_ % 5 == 0;
}
$succeeded = () = $nginx->log_lines(qr/timer "a": run succeeded/);
ok( $nginx->wait_log( qr/timer "a": run succeeded/, $succeeded + 10 ), 'runs go on beside idle clients' );
logged_times( $nginx, qr/run failed/, 0, 'none fails' );
close $_ for @clients;
$nginx->stop;

done_testing;
