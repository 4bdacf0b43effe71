#!/usr/bin/perl

# What passes: the default, and each form of "match", with real responses; and what is told of those that do not.

use strict;
use warnings;

use JSON::PP qw( decode_json );
use Test::More;
use TimerTest;
use TimerTest::Nginx;

# What the server answers, by path.
my %answer = (
    ok       => 'return 200 "all is ok\n";',
    json     => 'default_type application/json; return 200 "{\"status\":\"ok\"}";',
    empty    => 'return 204;',
    moved    => 'return 301 /ok;',
    multiple => 'return 300;',
    missing  => 'return 404;',
    broken   => 'return 500;',
    teapot   => 'return 418;',
    headers  => 'add_header X-One a; add_header X-One b; add_header X-Two ""; add_header X-Accel-Buffering no; return 200;',
    hidden   => 'add_header X-Accel-Redirect /ok; add_header X-Powered-By p; return 200;',
    # The body is 300,000 bytes long, with a word before and one behind the first 256k.
    large => 'rewrite ^ /large.txt break;',
);

# name, path, tests, and the reason, if it does not pass.
my @case = (
    [ ok       => undef ],
    [ empty    => undef ],
    [ moved    => undef ],
    [ multiple => undef ],
    [ missing  => undef, 'status 404' ],
    [ broken   => undef, 'status 500' ],
    [ ok       => 'status 100-999;' ],
    [ broken   => 'status 100-999;' ],
    [ ok       => 'status 200;' ],
    [ empty    => 'status 200;', 'status 204' ],
    [ empty    => 'status 200 204;' ],
    [ broken   => 'status ! 500;', 'status 500' ],
    [ missing  => 'status ! 500;' ],
    [ moved    => 'status ! 301 302;', 'status 301' ],
    [ moved    => 'status 200-399;' ],
    [ missing  => 'status 200-399;', 'status 404' ],
    [ missing  => 'status ! 400-599;', 'status 404' ],
    [ teapot   => 'status 301-303 418;' ],
    [ json     => 'header Content-Type = application/json;' ],
    [ json     => 'header content-type = application/json;' ],
    [ ok       => 'header Content-Type = application/json;', 'header "Content-Type" does not match' ],
    [ json     => 'header Content-Type = application;', 'header "Content-Type" does not match' ],
    [ ok       => 'header Content-Type != application/json;' ],
    [ json     => 'header Content-Type != application/json;', 'header "Content-Type" does not match' ],
    [ json     => 'header Content-Type ~ ^app.*json$;' ],
    [ json     => 'header Content-Type ~ JSON;', 'header "Content-Type" does not match' ],
    [ json     => 'header Content-Type ~ (?i)JSON;' ],
    [ json     => 'header Content-Type !~ json;', 'header "Content-Type" does not match' ],
    [ ok       => 'header Content-Type !~ json;' ],
    [ ok       => 'header X-One != a;',   'header "X-One" is missing' ],
    [ ok       => 'header X-One !~ a;',   'header "X-One" is missing' ],
    [ ok       => 'header X-One;',        'header "X-One" is missing' ],
    [ ok       => 'header ! X-One;' ],
    [ headers  => 'header ! X-One;',      'header "X-One" is present' ],
    [ headers  => 'header X-One = a; header X-One = b; header X-One ~ ^b$;' ],
    [ headers  => 'header X-One != a;',   'header "X-One" does not match' ],
    [ headers  => 'header X-One != c; header X-One !~ c;' ],
    [ headers  => 'header X-Accel-Buffering = no;' ],
    [ hidden   => 'header X-Accel-Redirect = /ok; header X-Powered-By; header Date; header Server;' ],
    [ ok       => 'body ~ "is ok";' ],
    [ ok       => 'body ~ "^all is ok\n$";' ],
    [ json     => 'body ~ "\"status\":\"ok\"";' ],
    [ ok       => 'body ~ "is not ok";',  'body does not match "is not ok"' ],
    [ ok       => 'body !~ "is ok";',     'body matches "is ok"' ],
    [ ok       => 'body !~ "maintenance";' ],
    [ empty    => 'body ~ "^$";' ],
    [ large    => 'body ~ "before";' ],
    [ large    => 'body ~ "behind";',     'body does not match "behind"' ],
    [ large    => 'body !~ "behind";' ],
    [ ok       => 'require $good_status;' ],
    [ empty    => 'require $good_status $upstream_status;' ],
    [ missing  => 'require $good_status;', 'variable "$good_status" is empty or 0' ],
    [ missing  => 'require $zero;',        'variable "$zero" is empty or 0' ],
    [ missing  => 'require $upstream_status $args;', 'variable "$args" is empty or 0' ],
    [ ok       => 'require $upstream_http_content_type $upstream_addr;' ],
    [ ok       => 'status 200; header Content-Type = text/plain; body ~ ok; require $good_status;' ],
    [ broken   => 'body ~ .; status 200; header X;', 'status 500' ],
);

my $port    = free_port();
my $backend = join "\n", map {"location /$_ { $answer{$_} }"} sort keys %answer;
my ( $http, $server ) = ( '', '' );
for my $n ( 0 .. $#case ) {
    my ( $path, $tests ) = @{ $case[$n] };
    my $match = defined $tests ? "match=m$n" : '';
    $http   .= "match m$n { $tests }\n" if defined $tests;
    $http   .= "upstream u$n { zone u$n 64k; server 127.0.0.1:$port; }\n";
    $server .= "location /$n/ { proxy_pass http://u$n; health_check uri=/$path interval=10s $match; }\n";
}
my $nginx = TimerTest::Nginx->new(
    server => "$server location /status/ { timer_api; }",
    http   => <<"CONF",
    gzip on;
    gzip_min_length 1;
    gzip_types *;
    map \$upstream_status \$good_status { 200 1; 204 1; }
    map \$upstream_status \$zero { default 0; }
    $http
    server { listen 127.0.0.1:$port; default_type text/plain; $backend }
CONF
);
spew( $nginx->prefix . '/html/large.txt',
    'x' x ( 256 * 1024 - 6 ) . 'before' . 'behind' . 'x' x 40_000 );
$nginx->start;

my %group;
my $all = sub {
    for my $n ( grep { !$group{$_} } 0 .. $#case ) {
        my $body = $nginx->get("/status/upstreams/u$n")->{body};
        my $peer = eval { decode_json($body)->{peers}[0] } or next;
        $group{$n} = $peer if $peer->{health_checks}{checks};
    }
    return keys %group == @case;
};
ok( TimerTest::poll_until($all), 'all were checked' ) or diag explain [ grep { !$group{$_} } 0 .. $#case ];
for my $n ( 0 .. $#case ) {
    my ( $path, $tests, $reason ) = @{ $case[$n] };
    my $peer = $group{$n} // {};
    my $said = $peer->{last}{reason} // '';
    is( ( $peer->{state} // '' ) . " $said", $reason ? "unhealthy $reason" : 'up ', "$path: " . ( $tests // 'the default' ) );
}
$nginx->stop;
done_testing();
