#!/usr/bin/perl

# One check each through all kinds of locations: what the server gets, and what comes of it. The server
# is the pinned one, and nobody else is asked.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Canned;
use TimerTest::Certificate;
use TimerTest::Dns;
use TimerTest::Nginx;

# nginx leaves TLS sessions to the kernel, which a sanitizer calls a leak.
$ENV{ASAN_OPTIONS} .= ':detect_leaks=0' if defined $ENV{ASAN_OPTIONS};

my $backend = TimerTest::Backend->start;
my $other   = TimerTest::Backend->start;
my $dns     = TimerTest::Dns->start( 'app.test' => '127.0.0.1' );
my ( $port, $elsewhere ) = ( $backend->port, $other->port );
my ( $tls, $h2 ) = ( free_port(), free_port() );
my ( $listen, $http2 ) = nginx_version() >= 1025001 ? ( '', 'http2 on;' ) : ( 'http2', '' );

my $nginx  = TimerTest::Nginx->new( workers => 1, connections => 1024 );
my $prefix = $nginx->prefix;
my ( $cert, $key ) = make_certificate( $prefix, 'app.test' );
mkdir "$prefix/store";
chmod 0777, "$prefix/store";

my $http = qr/\r\n\r\n\z/;
my %canned = (
    scgi      => { answer => sub { $_[0] =~ /,\z/ ? ( "Status: 200 OK\r\nX-App: scgi\r\n\r\nok", 'close' ) : () } },
    memcached => { answer => sub { $_[0] =~ /\Aget (\S+)\r\n\z/ ? "VALUE $1 0 2\r\nok\r\nEND\r\n" : () } },
    not_found => { answer => sub { $_[0] =~ /\r\n\z/ ? "END\r\n" : () } },
    ssh       => { greeting => "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" },
    half_line => { answer => sub { $_[0] =~ $http ? ( 'HTTP/1.1 2', 'close' ) : () } },
    bad_chunk => { answer => sub { $_[0] =~ $http ? ( "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 'close' ) : () } },
    grpc_app  => { answer => sub { $_[0] =~ /\r\n\r\n.*\z/s ? ( "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n\0\0\0\0\2\b" . ( $_[0] =~ /sick/ ? "\2" : "\1" ), 'close' ) : () } },
    no_reason => { answer => sub { $_[0] =~ $http ? ( "HTTP/1.1 200\r\n\r\n", 'close' ) : () } },
    pieces    => { greeting => 'H', answer => sub { length $_[0] ? ( "ost: x\r\nStatus: 200 OK\r\n\r\nok", 'close' ) : () } },
    no_line   => { greeting => 'HTTP/1', answer => sub { length $_[0] ? ( "x\r\n\r\n", 'close' ) : () } },
    early     => { greeting => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" },
);
my %server = map { $_ => TimerTest::Canned->start( %{ $canned{$_} } ) } sort keys %canned;
my $unix   = TimerTest::Canned->start( path => "$prefix/app.sock", answer => sub { $_[0] =~ $http ? ( "HTTP/1.1 200 OK\r\n\r\n", 'close' ) : () } );

my $fastcgi = 'fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri; fastcgi_pass UP;';
my $uwsgi   = 'uwsgi_param REQUEST_METHOD $request_method; uwsgi_param REQUEST_URI $request_uri; uwsgi_pass UP;';
my $pass    = 'proxy_pass http://UP;';
my $verify  = "proxy_ssl_verify on; proxy_ssl_trusted_certificate $cert; proxy_ssl_server_name on; proxy_pass https://UP;";

# Name => what its location says, where UP is its upstream, and how it ends: "passes" (with the URI that the
# server was asked for), or why the server is unhealthy, or was not checked. Without health_check: uri=/NAME.
my %case = (
    plain      => [ $pass, passes => '/plain' ],
    uri        => [ 'health_check uri=/app/a%2Fb%20c?x=%41; proxy_pass http://UP/app/;', passes => '/app/a%2Fb%20c?x=%41' ],
    default    => [ 'health_check; proxy_pass http://UP/app/;', passes => '/' ],
    elsewhere  => [ 'health_check uri=/healthz/; proxy_pass http://UP;', passes => '/healthz/' ],
    rewritten  => [ "rewrite ^ /other break; $pass", passes => '/other' ],
    rewritten_p => [ 'health_check uri=/app/x; rewrite ^ /other break; proxy_pass http://UP/app/;', passes => '/other' ],
    regex      => [ $pass, passes => '/regex', place => '~ ^/regex/(.)' ],
    named      => [ $pass, passes => '/named', place => '@named' ],
    host       => [ "proxy_set_header Host \$host; access_log $prefix/logs/checked.log; $pass", passes => '/host' ],
    set        => [ "set \$x v; proxy_set_header X-Y \$x; $pass", passes => '/set' ],
    status_301 => [ "health_check uri=/status/301; $pass", passes => '/status/301' ],
    status_204 => [ "health_check uri=/status/204; $pass", passes => '/status/204' ],
    status_304 => [ "health_check uri=/status/304; $pass", passes => '/status/304' ],
    status_404 => [ "health_check uri=/status/404; $pass", unhealthy => 'status 404' ],
    status_500 => [ "health_check uri=/status/500; $pass", unhealthy => 'status 500' ],
    error_page => [ "health_check uri=/status/503; proxy_intercept_errors on; error_page 503 = \@fallback; $pass", unhealthy => 'status 503' ],
    refused    => [ 'error_page 502 504 = @fallback; proxy_pass http://UP;', unhealthy => 'connect\(\) failed \(111: Connection refused\) while connecting to upstream', server => 'refused' ],
    accel      => [ "health_check uri=/accel/fallback; $pass", passes => '/accel/fallback' ],
    next       => [ "health_check uri=/status/503; proxy_next_upstream error http_503; $pass", unhealthy => 'status 503' ],
    deny       => [ "deny all; auth_basic x; auth_basic_user_file /none; limit_req zone=rate; limit_conn conns 1; $pass", passes => '/deny' ],
    limited    => [ "limit_except POST { deny all; } $pass", passes => '/limited' ],
    mirror     => [ "mirror /mirrored; $pass", passes => '/mirror' ],
    try_files  => [ "try_files /none =418; $pass", passes => '/try_files' ],
    filters    => [ "health_check uri=/html; ssi on; gzip on; gzip_min_length 1; sub_filter ok no; addition_types *; add_after_body /mirrored; $pass", passes => '/html' ],
    post_action => [ "post_action /mirrored; $pass", passes => '/post_action' ],
    cached     => [ "proxy_cache c; proxy_cache_valid any 1h; $pass", passes => '/cached' ],
    stored     => [ "proxy_store $prefix/store/stored; $pass", passes => '/stored' ],
    unbuffered => [ "proxy_buffering off; proxy_request_buffering off; proxy_http_version 1.1; $pass", passes => '/unbuffered' ],
    in_file    => [ "client_body_in_file_only on; client_body_temp_path $prefix/bodies; $pass", passes => '/in_file' ],
    large      => [ "health_check uri=/big/2000000; $pass", passes => '/big/2000000' ],
    large_cut  => [ "health_check uri=/truncate; $pass", unhealthy => 'upstream prematurely closed connection while .*' ],
    chunk_cut  => [ "health_check uri=/cut; proxy_http_version 1.1; $pass", unhealthy => 'upstream prematurely closed connection while .*' ],
    until_end  => [ "health_check uri=/unsized; $pass", passes => '/unsized' ],
    closes     => [ "health_check uri=/close; $pass", unhealthy => 'upstream prematurely closed connection while reading response header from upstream' ],
    resets     => [ "health_check uri=/reset; $pass", unhealthy => 'recv\(\) failed \(104: Connection reset by peer\) while .*' ],
    resets_body => [ "health_check uri=/reset-body; $pass", unhealthy => '.*Connection reset by peer.*' ],
    too_large  => [ "health_check uri=/huge-header; $pass", unhealthy => 'upstream sent too big header while reading response header from upstream' ],
    hangs      => [ "health_check uri=/hang timeout=200ms; $pass", unhealthy => 'timed out while reading response header from upstream' ],
    hangs_less => [ "health_check uri=/hang timeout=1m; proxy_read_timeout 200ms; $pass", unhealthy => 'upstream timed out \(110: Connection timed out\) while reading response header from upstream' ],
    stalls     => [ "health_check uri=/stall timeout=200ms; $pass", unhealthy => 'timed out while .*' ],
    slow       => [ "health_check uri=/drip/100/0.1 timeout=300ms; $pass", unhealthy => 'timed out while .*' ],
    endless    => [ "health_check uri=/slow-header/100/0.1 timeout=300ms; $pass", unhealthy => 'timed out while .*' ],
    switches   => [ "health_check uri=/upgrade; proxy_http_version 1.1; proxy_set_header Upgrade x; proxy_set_header Connection upgrade; $pass", unhealthy => 'status 101' ],
    ssh        => [ 'proxy_pass http://UP;', unhealthy => 'invalid response', server => 'ssh' ],
    no_reason  => [ 'proxy_pass http://UP;', passes => undef, server => 'no_reason' ],
    half_line  => [ 'proxy_pass http://UP;', unhealthy => 'upstream prematurely closed connection while .*', server => 'half_line' ],
    bad_chunk  => [ 'proxy_http_version 1.1; proxy_pass http://UP;', unhealthy => 'upstream sent invalid chunked response while .*', server => 'bad_chunk' ],
    early      => [ 'proxy_pass http://UP;', passes => undef, server => 'early' ],
    unix       => [ 'proxy_pass http://UP;', passes => undef, server => 'unix' ],
    no_unix    => [ 'proxy_pass http://UP;', unhealthy => 'connect\(\) to unix:\S+ failed \(2: No such file or directory\) while connecting to upstream', server => 'no_unix' ],
    return     => [ "return 204; $pass", not_checked => 'the location answers by itself: status 204' ],
    redirect   => [ "rewrite ^ http://localhost/; $pass", not_checked => 'the location answers by itself: status 302' ],
    bind       => [ "proxy_bind 192.0.2.77; $pass", not_checked => 'bind\(192.0.2.77\) failed \(99: Cannot assign requested address\) while connecting to upstream' ],
    variable   => [ 'set $up UP; health_check uri=/variable upstream=UP; proxy_pass http://$up;', passes => '/variable' ],
    variables  => [ 'set $up UP; health_check uri=/variables?a upstream=UP; proxy_pass http://$up/v$uri?b;', passes => '/v/variables?b' ],
    variable_uri => [ 'health_check uri=/variable_uri upstream=UP; proxy_pass http://UP/v$uri;', passes => '/v/variable_uri' ],
    other      => [ 'set $up other; health_check uri=/other upstream=UP; proxy_pass http://$up;', not_checked => 'the location passes to another upstream' ],
    address    => [ "set \$up 127.0.0.1:$elsewhere; health_check uri=/address upstream=UP; proxy_pass http://\$up;", not_checked => 'the location passes to another upstream' ],
    looked_up  => [ "resolver 127.0.0.1:${\ $dns->port } ipv6=off; set \$up app.test; health_check uri=/looked_up upstream=UP; proxy_pass http://\$up:$elsewhere;", not_checked => 'the location passes to another upstream' ],
    tls        => [ "proxy_ssl_name app.test; $verify", passes => '/tls', server => 'tls' ],
    tls_name   => [ "proxy_ssl_name other.test; $verify", unhealthy => 'upstream SSL certificate does not match "other.test" while SSL handshaking to upstream', server => 'tls' ],
    tls_early  => [ 'proxy_pass https://UP;', unhealthy => '.*(?:SSL_do_handshake|prematurely).*', server => 'ssh' ],
    fastcgi    => [ $fastcgi, passes => '/fastcgi', server => 'fastcgi' ],
    fastcgi_cut => [ "health_check uri=/truncate; $fastcgi", unhealthy => 'response incomplete', server => 'fastcgi' ],
    fastcgi_empty => [ "health_check uri=/empty; $fastcgi", unhealthy => 'upstream prematurely closed FastCGI stdout while reading response header from upstream', server => 'fastcgi' ],
    fastcgi_cached => [ "fastcgi_cache f; fastcgi_cache_key \$uri; fastcgi_cache_valid any 1h; $fastcgi", passes => '/fastcgi_cached', server => 'fastcgi' ],
    uwsgi      => [ $uwsgi, passes => '/uwsgi', server => 'uwsgi' ],
    uwsgi_404  => [ "health_check uri=/status/404; $uwsgi", unhealthy => 'status 404', server => 'uwsgi' ],
    uwsgi_pieces => [ $uwsgi, passes => undef, server => 'pieces' ],
    uwsgi_no_line => [ $uwsgi, passes => undef, server => 'no_line' ],
    scgi       => [ 'scgi_pass UP;', passes => undef, server => 'scgi' ],
    scgi_pieces => [ 'scgi_pass UP;', passes => undef, server => 'pieces' ],
    scgi_no_line => [ 'scgi_pass UP;', passes => undef, server => 'no_line' ],
    memcached  => [ 'set $memcached_key check; memcached_pass UP;', passes => undef, server => 'memcached' ],
    memcached_404 => [ 'set $memcached_key check; memcached_pass UP;', unhealthy => 'status 404', server => 'not_found' ],
    grpc       => [ 'health_check type=grpc; grpc_pass grpc://UP;', passes => undef, server => 'grpc' ],
    grpc_sick  => [ 'health_check type=grpc grpc_service=sick; grpc_pass grpc://UP;', unhealthy => '.*NOT_SERVING.*', server => 'grpc' ],
    grpc_http  => [ 'health_check uri=/plain; grpc_pass grpc://UP;', passes => '/plain', server => 'grpc' ],
);

my %address = (
    refused => '127.0.0.1:1',
    fastcgi => "127.0.0.1:${\ $backend->fastcgi_port }",
    uwsgi   => "127.0.0.1:${\ $backend->uwsgi_port }",
    tls     => "127.0.0.1:$tls",
    grpc    => "127.0.0.1:$h2",
    unix    => "unix:$prefix/app.sock",
    no_unix => "unix:$prefix/none.sock",
    ( map { $_ => '127.0.0.1:' . $server{$_}->port } keys %server ),
);
$case{http2} = [ 'health_check uri=/http2?a; proxy_http_version 2; proxy_pass http://UP/;', passes => '/http2?a', server => 'grpc' ]
    if nginx_version() >= 1029004;

my ( $groups, $locations ) = ( '', '' );
for my $name ( sort keys %case ) {
    my ( $text, undef, undef, %more ) = @{ $case{$name} };
    $text = "health_check uri=/$name; $text" if $text !~ /health_check/;
    $text =~ s/health_check/health_check interval=300ms/;
    $text =~ s/\bUP\b/g_$name/g;
    my $place   = $more{place}               // "/$name/";
    my $address = $address{ $more{server} // '' } // "127.0.0.1:$port";
    my $known   = join ' ', map {"${_} X-Timer $name;"} qw( proxy_set_header grpc_set_header );
    $locations .= "location $place { $known $text }\n";
    $groups .= "upstream g_$name { zone g_$name 64k; server $address; server 127.0.0.1:$elsewhere down; keepalive 4; }\n";
}

$nginx->write_conf(
    http => <<"CONF",
    $groups
    upstream other { zone other 64k; server 127.0.0.1:$elsewhere; }
    proxy_cache_path $prefix/cache keys_zone=c:1m;
    fastcgi_cache_path $prefix/fastcgi keys_zone=f:1m;
    limit_req_zone \$host zone=rate:1m rate=1r/m;
    limit_conn_zone \$host zone=conns:1m;
    server {
        listen 127.0.0.1:$tls ssl;
        server_name app.test;
        ssl_certificate $cert;
        ssl_certificate_key $key;
        location / { proxy_set_header X-Timer \$http_x_timer; proxy_set_header X-Sni \$ssl_server_name; proxy_pass http://127.0.0.1:$port; }
    }
    server {
        listen 127.0.0.1:$h2 $listen;
        $http2
        default_type application/grpc;
        location / {
            proxy_set_header X-Timer \$http_x_timer;
            proxy_set_header X-Seen "\$request_method \$http_te \$content_type \$content_length";
            proxy_pass http://127.0.0.1:$port;
            add_trailer grpc-status 0;
        }
        location /grpc.health.v1.Health/ { proxy_set_header X-Te \$http_te; proxy_pass http://127.0.0.1:${\ $server{grpc_app}->port }; add_trailer grpc-status 0; }
    }
CONF
    server => <<"CONF",
    location /timers/ { timer_api; }
    location /run/ { timer run every=300ms; uwsgi_pass 127.0.0.1:${\ $server{no_line}->port }; }
    location = /mirrored { proxy_set_header X-Timer mirrored; proxy_pass http://127.0.0.1:$elsewhere; }
    location \@fallback { proxy_set_header X-Timer fallback; proxy_pass http://127.0.0.1:$elsewhere; }
    location /fallback { proxy_set_header X-Timer fallback; proxy_pass http://127.0.0.1:$elsewhere; }
    $locations
CONF
);
$nginx->start;

# What the API shows of a group's first server.
sub checks {
    my ($name) = @_;
    my $group = JSON::PP::decode_json( $nginx->get("/timers/upstreams/g_$name")->{body} );
    return $group->{peers}[0]{health_checks};
}

for my $name ( sort keys %case ) {
    my ( undef, $how, $what, %more ) = @{ $case{$name} };
    my $of = qr/in upstream "g_$name"/;
    if ( $how eq 'unhealthy' ) {
        ok( $nginx->wait_log(qr/\[error\] .* $of is unhealthy: $what, 1 failure, /), "$name: unhealthy: $what" )
            or diag join "\n", $nginx->log_lines($of);
        next;
    }
    if ( $how eq 'not_checked' ) {
        ok( $nginx->wait_log(qr/\[warn\] .* $of was not checked: $what, /), "$name: $what" ) or diag join "\n", $nginx->log_lines($of);
        next;
    }
    my $checks;
    wait_until { ( $checks = checks($name) )->{checks} >= 2 };
    ok( $checks->{fails} == 0 && $checks->{last_passed}, "$name: passes" ) or diag explain( $checks, $nginx->log_lines($of) );
    next if !defined $what;
    my $protocol = $more{server} // 'http';
    my @asked = $backend->wait_requests( 2, $protocol =~ /fastcgi|uwsgi/ ? ( protocol => $protocol, uri => qr{\A/$name\z} ) : ( timer => $name ) );
    is( $asked[0]{uri}, $what, "$name: the URI" );
}

# A run has nothing but its own request to tell of a header that was never whole. What comes of it is nginx's: if it
# has read both pieces at once, it takes them for a header.
ok( $nginx->wait_log(qr/timer "run": run (?:failed: status 502|succeeded: status 200)/), 'a timer: the first line in pieces, which is none' );

# What the servers were asked.
my ($plain) = $backend->requests( timer => 'plain' );
is( $plain->{method}, 'GET', 'the method' );
is( $plain->{headers}{host}, 'g_plain', 'Host, as proxy_pass sets it' );
like( $plain->{headers}{'user-agent'}, qr{\Anginx/[\d.]+ \(health check\)\z}, 'User-Agent' );
ok( !exists $plain->{headers}{'content-length'}, 'no body' );
is( ( $backend->requests( timer => 'host' ) )[0]{headers}{host},   'localhost', 'Host, where the location sends that of its client' );
is( ( $backend->requests( timer => 'set' ) )[0]{headers}{'x-y'}, 'v',         'the rewrite phase has run' );
is( ( $backend->requests( timer => 'tls' ) )[0]{headers}{'x-sni'}, 'app.test',  'SNI' );
my ($called) = grep { $_->{asked} =~ /^x-timer: grpc\r$/m } $server{grpc_app}->asked;
like( $called->{asked}, qr{\APOST /grpc\.health\.v1\.Health/Check HTTP}, 'gRPC: the call' );
like( $called->{asked}, qr{\r\n\r\n\\x00\\x00\\x00\\x00\\x00\z},       'gRPC: its message' );
like( $called->{asked}, qr{^content-type: application/grpc\r$}mi,          'gRPC: Content-Type' );
like( $called->{asked}, qr{^x-te: trailers\r$}mi,                            'gRPC: TE' );

# A cache neither answers nor learns.
is( $nginx->get('/cached/')->{status}, 200, 'a client fills the cache' );
my $before = $backend->requests( timer => 'cached', uri => qr{\A/cached\z} );
$backend->wait_requests( $before + 3, timer => 'cached', uri => qr{\A/cached\z} );
pass('checks go on to ask the server');
my @files = grep {-f} map { glob "$prefix/$_" } 'bodies/*', 'fastcgi/*', 'store/*', 'cache/*', 'cache/*/*';
is( scalar @files, 1, 'what the client asked for is stored, and nothing else' ) or diag "@files";

# Nobody else was asked.
my @others = $other->requests;
is( scalar @others, 0, 'no other server was asked, nor a server that is down' )
    or diag explain \@others;
my @queries = $dns->queries;
is( scalar @queries, 0, 'no name was looked up' );
is( -s "$prefix/logs/checked.log" // 0, 0, 'no check is in the access log' );

# A failing check is no error of nginx's.
my @errors = grep { !/is unhealthy|bind\(|timer:? "run"/ } $nginx->log_lines(qr/\[(?:error|crit)\]/);
is( "@errors", '', 'no other line at error or above' );

$nginx->stop;
done_testing;
