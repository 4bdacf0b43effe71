#!/usr/bin/perl

# Connections of checks: each its own, or kept for keepalive_time. Those of clients are never used.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Canned;
use TimerTest::Certificate;
use TimerTest::Nginx;

# nginx leaves TLS sessions to the kernel, which a sanitizer calls a leak.
$ENV{ASAN_OPTIONS} .= ':detect_leaks=0' if defined $ENV{ASAN_OPTIONS};

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;
my $tls     = free_port();

# Closes a connection without an answer when it is used for the second time.
my $once = TimerTest::Canned->start(
    answer => sub {
        my ( $asked, $nth ) = @_;
        return if $asked !~ /\r\n\r\n\z/;
        return $nth == 1 ? "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" : ( '', 'close' );
    },
);
# The same, and a new connection is closed, too.
my $closes = scratch_dir() . '/closes';
my $twice  = TimerTest::Canned->start(
    answer => sub {
        my ($asked) = @_;
        return if $asked !~ /\r\n\r\n\z/;
        return -e $closes ? ( '', 'close' ) : "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    },
);

# Its host is gone: nothing closes the connection, nothing comes over it any more.
my $gone   = scratch_dir() . '/gone';
my $silent = TimerTest::Canned->start(
    answer => sub {
        my ($asked) = @_;
        return $asked =~ /\r\n\r\n\z/ && !-e $gone ? "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" : ();
    },
);

my $nginx = TimerTest::Nginx->new( workers => 1 );
my ( $cert, $key ) = make_certificate( $nginx->prefix, 'app.test' );

my $alive = 'proxy_http_version 1.1; proxy_set_header Connection "";';
my %check = (
    fresh   => "health_check uri=/fresh interval=50ms; $alive proxy_pass http://fresh;",
    kept    => "health_check uri=/kept interval=50ms keepalive_time=1h; $alive proxy_pass http://kept;",
    a_while => "health_check uri=/a_while interval=50ms keepalive_time=400ms; $alive proxy_pass http://a_while;",
    http10  => 'health_check uri=/http10 interval=50ms keepalive_time=1h; proxy_http_version 1.0; proxy_pass http://http10;',
    tls     => "health_check uri=/tls interval=50ms keepalive_time=1h; $alive proxy_pass https://tls;",
    once    => "health_check uri=/once interval=50ms keepalive_time=1h; $alive proxy_pass http://once;",
    twice   => "health_check uri=/twice interval=50ms keepalive_time=1h; $alive proxy_pass http://twice;",
    silent  => "health_check uri=/silent interval=50ms timeout=300ms keepalive_time=1h; $alive proxy_pass http://silent;",
);
my %server = (
    ( map { $_ => $port } qw( fresh kept a_while http10 ) ),
    tls   => $tls,
    once  => $once->port,
    twice => $twice->port,
    silent => $silent->port,
);
my $upstreams = join "\n", map {"upstream $_ { zone $_ 64k; server 127.0.0.1:$server{$_}; keepalive 4; }"} sort keys %server;
my $locations = join "\n", map {"location /$_ { proxy_set_header X-Timer $_; $check{$_} }"} sort keys %check;

$nginx->write_conf(
    http => <<"CONF",
    log_format tls '\$connection \$ssl_session_reused';
    $upstreams
    server {
        listen 127.0.0.1:$tls ssl;
        ssl_certificate $cert;
        ssl_certificate_key $key;
        location / { return 200 "\$connection \$connection_requests \$ssl_session_reused\\n"; access_log ${\ $nginx->prefix }/logs/tls.log tls; }
    }
CONF
    server => $locations,
);
$nginx->start;

sub connections {
    my ($name) = @_;
    my %seen = map { $_->{connection} => 1 } $backend->requests( timer => $name );
    return scalar keys %seen;
}

# A client's connection is there to be taken.
is( $nginx->get('/fresh/client')->{status}, 200, 'a client has left a connection' );
my $checks = sub { grep { $_->{uri} !~ m{client\z} } $backend->requests( timer => $_[0] ) };
for my $name (qw( fresh kept a_while http10 )) {
    wait_until { $checks->($name) >= 12 };
}
my @fresh = $checks->('fresh');
my ($client) = grep { $_->{uri} eq '/fresh/client' } $backend->requests( timer => 'fresh' );
my %used = map { $_->{connection} => 1 } @fresh;
is( scalar keys %used, scalar @fresh, 'without keepalive_time: each check opens a connection' );
ok( !$used{ $client->{connection} }, 'a client\'s connection is not used' );
is( $nginx->get('/kept/client')->{status}, 200, 'a client of the other' );
my %kept = map { $_->{connection} => 1 } $checks->('kept');
is( scalar keys %kept, 1, 'keepalive_time: all checks use one' );
my ($other) = grep { $_->{uri} eq '/kept/client' } $backend->requests( timer => 'kept' );
ok( !$kept{ $other->{connection} }, 'which no client uses' );
is( connections('http10'), scalar( my @all = $backend->requests( timer => 'http10' ) ), 'HTTP/1.0: nothing is kept' );

# Its time over, a connection is opened anew.
wait_until { connections('a_while') >= 3 };
cmp_ok( connections('a_while'), '<', scalar( my @some = $checks->('a_while') ), 'kept for a while' );

my @tls = split /\n/, do { wait_until { slurp( $nginx->prefix . '/logs/tls.log' ) =~ tr/\n// >= 10 }; slurp( $nginx->prefix . '/logs/tls.log' ) };
my %tls = map { s/ .*//r => 1 } @tls;
is( scalar keys %tls, 1, 'TLS: all checks use one' );

# The server closes a connection when it is used again: that does not count.
my @asked = $once->wait_asked(9);
my @first = grep { /GET \/once/ } map { $_->{asked} } @asked;
is( scalar @first, scalar @asked, 'each is the request' );
my %of;
push @{ $of{ $_->{connection} } }, 1 for @asked;
ok( !( grep { @$_ > 2 } values %of ), 'a connection that was closed is not used again' );
lacks( $nginx->log, qr/in upstream "once" is unhealthy/, 'what a kept connection comes to is no failure' );

# It is down: over a new connection, too.
$twice->wait_asked(3);
spew( $closes, '' );
$nginx->wait_log(qr/in upstream "twice" is unhealthy: upstream prematurely closed connection.*, 1 failure/);
unlink $closes;
$nginx->wait_log(qr/in upstream "twice" is healthy/);

# A connection that is kept says nothing of the server behind it.
$silent->wait_asked(3);
spew( $gone, '' );
$nginx->wait_log(qr/in upstream "silent" is unhealthy: .*timed out while reading response header from upstream, 1 failure/);
unlink $gone;
$nginx->wait_log(qr/in upstream "silent" is healthy/);

# What is kept does not hold a worker.
$nginx->reload_all;
$nginx->wait_log( qr/\bexited with code 0/, 1 );
lacks( join( "\n", $nginx->log_lines(qr/open socket/) ) . '-', qr/open socket/, 'no socket is left open' );
$nginx->stop;
done_testing;
