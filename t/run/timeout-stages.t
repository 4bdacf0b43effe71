#!/usr/bin/perl

# timer_timeout cuts an attempt off wherever it is: while a name is asked for, while it connects, sends,
# waits, reads, fills a cache, sleeps in Lua, waits for another location's word, or for a thread.  Its
# connection is closed, and the next due time is unharmed.

use strict;
use warnings;

use IO::Socket::INET ();
use Socket qw( SOL_SOCKET SO_RCVBUF );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Dns;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Once, at its first load: the next due time is nine hours away.
my $once = 'every=10h offset=' . ( int( time - 3600 ) % 36_000 ) . 's first=now';
my $port    = $backend->port;
my $dns     = TimerTest::Dns->start( 'never.test' => '' );

# An upstream to which no connection comes about: its backlog is full.
my $full = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1 ) or die "listen: $!";
my @filling;
for ( 1 .. 8 ) {
    push @filling, IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0 );
}

# One that accepts, and never reads.
my $deaf = IO::Socket::INET->new( Proto => 'tcp', Type => Socket::SOCK_STREAM() ) or die "socket: $!";
setsockopt $deaf, SOL_SOCKET, SO_RCVBUF, 2048;
bind $deaf, Socket::pack_sockaddr_in( 0, Socket::INADDR_LOOPBACK() ) or die "bind: $!";
listen $deaf, 100 or die "listen: $!";

my $nginx  = TimerTest::Nginx->new( workers => 2 );
my $prefix = $nginx->prefix;
my ($built) = ( run_command( nginx_binary(), '-V' ) )[1];
my $threads = $built =~ /--with-threads/;

# A file whose reading takes seconds at any speed: 64 GB of nothing.
open my $sparse, '>', "$prefix/html/sparse" or die "sparse: $!";
truncate $sparse, 64 * 2**30 or die "truncate: $!";
close $sparse;
spew( "$prefix/html/page.shtml", '<!--#include virtual="/hang" -->' );

# A location that hangs in some way.
sub hanging {
    my ( $name, $parameters, $body ) = @_;
    return "location \@$name { timer $name every=1s offset=0 $parameters; proxy_set_header X-Timer $name; $body }\n";
}

my $patient = 'proxy_connect_timeout 60s; proxy_send_timeout 60s; proxy_read_timeout 60s;';
my %server  = (
    resolving    => [ '', 'set $up never.test; proxy_pass http://$up;' ],
    connecting   => [ '', "proxy_pass http://127.0.0.1:${\ $full->sockport };" ],
    handshake    => [ '', "proxy_pass https://127.0.0.1:${\ $deaf->sockport };" ],
    sending      => [ 'method=POST', "proxy_set_body \$much; proxy_pass http://127.0.0.1:${\ $deaf->sockport };" ],
    waiting      => [ 'uri=/hang',              "proxy_pass http://127.0.0.1:$port;" ],
    header       => [ 'uri=/slow-header/100/0.5', "proxy_pass http://127.0.0.1:$port;" ],
    stalled      => [ 'uri=/stall',             "proxy_pass http://127.0.0.1:$port;" ],
    dripping     => [ 'uri=/drip/1000/0.02',    "proxy_pass http://127.0.0.1:$port;" ],
    unbuffered   => [ 'uri=/drip/1000/0.02',    "proxy_buffering off; proxy_pass http://127.0.0.1:$port;" ],
    kept         => [ 'uri=/drip/1000/0.02',    'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://kept;' ],
    caching      => [ 'uri=/drip/1000/0.02',    "proxy_cache cache; proxy_cache_valid 1m; proxy_pass http://127.0.0.1:$port;" ],
    storing      => [ 'uri=/drip/1000/0.02',    "proxy_store $prefix/stored; proxy_pass http://127.0.0.1:$port;" ],
    next         => [ 'uri=/hang',              'proxy_next_upstream error timeout; proxy_pass http://two;' ],
    accel        => [ 'uri=/accel/hang',        "proxy_pass http://127.0.0.1:$port;" ],
    fastcgi      => [ 'uri=/hang',              "fastcgi_param REQUEST_URI \$request_uri; fastcgi_param HTTP_X_TIMER fastcgi; fastcgi_read_timeout 60s; fastcgi_pass 127.0.0.1:${\ $backend->fastcgi_port };" ],
    uwsgi        => [ 'uri=/hang',              "uwsgi_param REQUEST_URI \$request_uri; uwsgi_param HTTP_X_TIMER uwsgi; uwsgi_read_timeout 60s; uwsgi_pass 127.0.0.1:${\ $backend->uwsgi_port };" ],
    auth_request => [ 'access=on',              'auth_request /hang; return 204;' ],
    limit_req    => [ 'access=on',              'limit_req zone=once burst=1000; return 204;' ],
    ssi          => [ 'uri=/page.shtml',        "ssi on; default_type text/html; root $prefix/html;" ],
    mirror       => [ '',                       'mirror /hang; root html; try_files /page.shtml =404;' ],
);
# auth_request comes before the content, where "return" would be too early.
$server{$_}[1] =~ s{return 204;}{root $prefix/html; try_files /page.shtml =404;} for qw( auth_request limit_req );
$server{file} = [ 'uri=/sparse', "aio threads; sendfile off; output_buffers 2 256k; root $prefix/html;" ] if $threads;

$nginx->write_conf(
    connections => 512,
    http => "timer_timeout 300ms; $patient"
        . ' resolver 127.0.0.1:' . $dns->port . ' ipv6=off; resolver_timeout 60s;'
        . ' map "" $k { default "' . 'x' x 1000 . '"; } map "" $m { default "' . '$k' x 50 . '"; } map "" $much { default "' . '$m' x 100 . '"; }'
        . " proxy_cache_path $prefix/cache keys_zone=cache:1m; limit_req_zone \$server_name zone=once:1m rate=1r/m;"
        . " upstream kept { server 127.0.0.1:$port; keepalive 4; } upstream two { server 127.0.0.1:$port; server 127.0.0.1:$port; }",
    server => join( '', map { hanging( $_, @{ $server{$_} } ) } sort keys %server )
        . "location = /hang { internal; proxy_set_header X-Timer hang; proxy_pass http://127.0.0.1:$port/hang; }\n"
        . 'location = /stub { stub_status; }'
        . timer( $backend, 'tick', 'every=100ms' ),
);
my $state = "$prefix/timers.state";
my $began = time;
$nginx->start;

# By the record: timeouts, due time after due time, and nothing else.
for my $timer ( sort keys %server ) {
    my $least = $timer eq 'limit_req' ? 2 : 3;
    my $record = wait_record( $state, $timer, sub { $_->{timeout} >= $least } );
    ok( $record, "$timer: is cut off, due time after due time" );
    if ( !$record ) {
        my $seen = read_state($state)->{$timer};
        diag join ' ', map {"$_=" . ( $seen->{$_} // '-' )} sort keys %$seen;
        next;
    }
    my $others = $record->{runs} - $record->{timeout} - ( $record->{progress} ? 1 : 0 );
    cmp_ok( $others, '<=', ( $timer eq 'limit_req' ? 1 : 0 ), "$timer: and ends in no other way" );
    my $still = $beat->still( $began, time );
    cmp_ok( $record->{overlaps}, '<=', $record->{timeout} / 2 + $still, "$timer: the due times are not in each other's way" );
    my @took = map { $_->{duration} } grep { $_->{outcome} eq 'timeout' } @{ $record->{results} };
    # nginx counts from the beginning of the event loop's round, which may be older than the attempt.
    none_of { $_ < 200 } "$timer: not before its time", @took;
    cmp_ok( ( sort { $a <=> $b } @took )[0], '<', 300 + 300 * $TimerTest::SLOW, "$timer: nor long after it" ) or diag "@took";
    logged( $nginx, qr/\[error\] \d+#\d+: timer "$timer": run failed: timed out after 300ms, timer: "$timer", run: [0-9a-f]{32}/, "$timer: is told of" );
}

# By the witness: nginx has closed the connections, at that time.
for my $timer (qw( waiting header stalled dripping unbuffered kept caching storing next accel fastcgi uwsgi )) {
    my %match    = $timer =~ /cgi|uwsgi/ ? ( protocol => $timer ) : ( timer => $timer );
    my @requests = $backend->wait_requests( 3, %match, ended => 1 );
    cmp_ok( scalar @requests, '>=', 3, "$timer: the upstream sees each end" );
    none_of { $_->{how} ne 'peer' } "$timer: by nginx", @requests if $timer ne 'accel';
    next if !@requests || $timer eq 'accel';
    my ($shortest) = sort { $a <=> $b } map { $_->{ended} - $_->{arrived} } @requests;
    cmp_ok( $shortest, '<', 0.3 + 0.4 * $TimerTest::SLOW, "$timer: when its time is over" );
}
my @hung = $backend->wait_requests( 6, timer => 'hang', ended => 1 );
cmp_ok( scalar @hung, '>=', 6, 'a connection of a subrequest is closed, too' );

# The one that never reads gets less than there was.
my $cut;
wait_until {
    my $peer = $deaf->accept or return 0;
    my ( $got, $end, $start ) = ( 0, deadline(10), '' );
    my $select = IO::Select->new($peer);
    while ( time < $end && $select->can_read(1) ) {
        my $read = sysread $peer, my $buffer, 65536;
        last if !$read;
        $start = $buffer if !$got;
        $got += $read;
    }
    return 0 if $start !~ /\APOST/;
    $cut = $got;
    return 1;
};
ok( defined $cut, 'sending: its connection is there' );
cmp_ok( $cut // 9e9, '<', 5_000_000, 'sending: and was closed in the middle of the body' );

ok( ( grep { $_ eq 'never.test' } $dns->queries ) >= 1, 'resolving: the name was asked for' );

# Of the one that is full there are connections that never came about: between two due times none is
# left, though nginx would have waited a minute for each.  (Of the worker's own: another file's nginx may
# be looking for a backend that has left it this port.)
close $_ for grep {$_} @filling;
my $hex = sprintf ':%04X', $full->sockport;
my $worker = $nginx->worker_in_slot(0);
my $given_up = wait_until {
    my %half = map { ( (split)[9] => 1 ) } grep {/^\s*\d+: \S+ \S+$hex 02 /} split /\n/, slurp('/proc/net/tcp');
    !grep { ( readlink($_) // '' ) =~ /\Asocket:\[(\d+)\]/ && $half{$1} } glob "/proc/$worker/fd/*";
};
ok( $given_up, 'connecting: the connection is given up' );

# Nothing was kept or left behind: no half a file, no half an entry of the cache, no connection.
ok( !-e "$prefix/stored", 'storing: nothing is stored of what was cut off' );
my $ticks = $backend->requests( timer => 'tick' );
ok( $backend->wait_requests( $ticks + 5, timer => 'tick' ) >= $ticks + 5, 'other timers go on' );
my $most = keys(%server) * 3 + 10;
my ($active) = $nginx->get('/stub')->{body} =~ /Active connections: (\d+)/;
cmp_ok( $active, '<', $most, "no connection is kept ($active are active)" );
$began = time;
$nginx->stop;
cmp_ok( time - $began, '<', 10 * $TimerTest::SLOW, 'it leaves without ado' );
my $after = read_state($state);
none_of { $after->{$_}{progress} } 'nothing is in progress after its end', keys %$after;

# What waits for a cache lock, or holds it: the waiting one is cut off as soon as the lock comes back,
# and the timer lives.
$backend->stop;
$backend = TimerTest::Backend->start;
$port    = $backend->port;
$nginx   = TimerTest::Nginx->new(
    workers => 1,
    http    => '',
);
$prefix = $nginx->prefix;
my $cached = 'proxy_cache cache; proxy_cache_key $arg_key; proxy_cache_valid 200 1s; proxy_cache_lock on;'
    . " proxy_cache_lock_timeout 60s; proxy_cache_lock_age 60s; proxy_pass http://127.0.0.1:$port;";
$nginx->write_conf(
    http   => "proxy_cache_path $prefix/cache keys_zone=cache:1m;",
    server => "location \@fills { timer fills $once uri=/held/fill/ok?key=a; timer_timeout 60s; proxy_set_header X-Timer fills; $cached }\n"
        . "location \@waits { timer waits every=1s offset=0 uri=/ok?key=a; timer_timeout 300ms; proxy_set_header X-Timer waits; $cached }\n",
);
$nginx->start;
$state = "$prefix/timers.state";
# It ends once the lock comes back, which is when its time has been over for long.
ok( wait_record( $state, 'waits', sub { $_->{overlaps} >= 2 } ), 'cache lock: one waits for it too long' );
$backend->let_go('fill');
ok( wait_record( $state, 'waits', sub { $_->{timeout} >= 1 } ), 'cache lock: and is cut off' )
    or diag join "\n", $nginx->log_lines(qr/"waits"/);
ok( wait_record( $state, 'fills', sub { $_->{success} == 1 } ), 'cache lock: the one that holds it is not' );
ok( wait_record( $state, 'waits', sub { $_->{success} >= 2 } ), 'cache lock: it runs again' );
$nginx->stop;

# Lua.
SKIP: {
    my ($path) = $built =~ /--modules-path=(\S+)/;
    my @modules = grep {-e} map { my $file = $_; map {"$_/$file"} grep {$_} $path, '/usr/share/nginx/modules', '/usr/lib/nginx/modules' }
        qw( ndk_http_module.so ngx_http_lua_module.so );
    my ( $ndk, $lua ) = ( ( grep {/ndk/} @modules )[0], ( grep {/lua/} @modules )[0] );
    skip 'no Lua module for this nginx', 1 if !$lua || !$ndk;

    my %lua = (
        sleeping    => 'ngx.sleep(60)',
        reading     => "local s = ngx.socket.tcp() s:settimeout(60000) s:connect('127.0.0.1', $port) s:send('GET /hang HTTP/1.0\\r\\nX-Timer: reading\\r\\n\\r\\n') s:receive('*a')",
        capturing   => 'ngx.location.capture("/hang")',
        semaphore   => 'local s = require("ngx.semaphore").new(0) s:wait(60)',
        threads     => 'local t = ngx.thread.spawn(function() ngx.sleep(60) end) ngx.thread.wait(t)',
    );
    delete $lua{semaphore} if !glob '/usr/share/lua/*/ngx/semaphore.lua';
    my $it = TimerTest::Nginx->new(
        main   => "load_module $ndk; load_module $lua;",
        http   => "timer_timeout 300ms; lua_socket_log_errors off; $patient",
        server => join( '', map {"location \@$_ { timer $_ every=1s offset=0; content_by_lua_block { $lua{$_} ngx.say('ok') } }\n"} sort keys %lua )
            . "location \@access { timer access every=1s offset=0 access=on; access_by_lua_block { ngx.sleep(60) } root html; }\n"
            . "location \@rewrite { timer rewrite every=1s offset=0; rewrite_by_lua_block { ngx.sleep(60) } root html; }\n"
            . "location = /hang { internal; proxy_set_header X-Timer captured; proxy_pass http://127.0.0.1:$port/hang; }\n",
    );
    my ( $good, $out ) = $it->test_conf;
    skip 'the Lua module does not load here', 1 if !$good;
    $it->start;
    for my $timer ( sort( keys %lua ), qw( access rewrite ) ) {
        my $record = wait_record( $it->prefix . '/timers.state', $timer, sub { $_->{timeout} >= 2 } );
        ok( $record, "Lua, $timer: is cut off" ) or diag join "\n", $it->log_lines(qr/"$timer"/);
        is( $record->{runs} - $record->{timeout} - ( $record->{progress} ? 1 : 0 ), 0, "Lua, $timer: and ends in no other way" );
    }
    my @captured = $backend->wait_requests( 2, timer => 'captured', ended => 1 );
    none_of { $_->{how} ne 'peer' } 'Lua: the connection of a capture is closed', @captured;
    $it->stop;
}

done_testing;
