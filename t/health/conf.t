#!/usr/bin/perl

# The directives "health_check" and "match": every parameter and form, with good and with bad values,
# where they may stand, and which groups can be checked.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Conf;

my $zone  = "upstream b {\nzone b 64k;\nserver 127.0.0.1:1;\n}";
my $plain = "upstream b {\nserver 127.0.0.1:1;\n}";
my $pass  = 'proxy_pass http://b;';

# The text of an http block in which a location has these lines.
sub location {
    my ( $lines, %other ) = @_;
    my $name     = $other{name}     // '/x/';
    my $upstream = $other{upstream} // $zone;
    my $matches  = $other{matches}  // '';
    return "$upstream\nserver {\nlocation $name {\n$lines\n}\n}\n$matches";
}

sub good {
    my ( $lines, %other ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return accepts( http => location( $lines, %other ), $other{name_of_test} // "accepts: $lines" );
}

# The line of "health_check" is the one that is named.
sub bad {
    my ( $lines, $why, %other ) = @_;
    $lines =~ s/(health_check.*;)\z/$1 #!/ if $lines !~ /#!/ && ( $other{matches} // '' ) !~ /#!/;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return refuses( http => location( $lines, %other ), $why );
}

# All parameters.
good("$pass health_check;");
good("health_check; $pass");
good("$pass health_check $_;") for split /\n/, <<'END';
interval=10ms
interval=366d
interval=5
interval=1m30s jitter=500ms fails=3 passes=2
jitter=0
jitter=10s interval=1s
fails=1 passes=1
fails=1000000 passes=1000000
uri=/
uri=/healthz?a=b&c=%20
uri=/other/../place
mandatory
mandatory persistent
port=1
port=65535
timeout=1ms
timeout=1h
upstream=b
upstream=B
fail_open=0
fail_open=100
keepalive_time=60s
type=grpc
mandatory type=grpc
type=grpc mandatory
type=grpc grpc_service=a.B
type=grpc grpc_service=a.B grpc_status=12
type=grpc grpc_status=0
grpc_status=16 grpc_service=a.B type=grpc
type=grpc interval=2s
grpc_status=12 interval=2s type=grpc persistent mandatory grpc_service=a.B port=8080
interval=1s port=8080 type=grpc grpc_status=12
END

# No parameter, or not a value of one.
bad( "$pass health_check $_;", qr/invalid parameter "\Q$_\E"/ ) for qw( x on interval Interval=1s uri mandatory=on persistent=1 = );
for my $of (
    [ interval       => qw( 0 9ms 9 9x -1s 367d 1.5s ) ],
    [ jitter         => qw( x -1 1y ) ],
    [ fails          => qw( 0 -1 +1 1000001 x 1x 4294967296 99999999999999999999 ) ],
    [ passes         => qw( 0 1000001 x ) ],
    [ uri            => qw( x x/y http://b/ /%zz /../x ) ],
    [ port           => qw( 0 65536 x -1 99999999999999999999 ) ],
    [ timeout        => qw( 0 x ) ],
    [ fail_open      => qw( 101 -1 x 50% 256 ) ],
    [ keepalive_time => qw( 0 x ) ],
    [ type           => qw( http tcp GRPC ) ],
    )
{
    my ( $name, @values ) = @$of;
    bad( "$pass health_check $name=$_;", qr/invalid value "\Q$_\E" in "$name" parameter/ )
        for grep { $_ ne '9' } @values;
    bad( "$pass health_check $name=;", qr/invalid value "" in "$name" parameter/ );
}
bad( "$pass health_check $_;", qr/invalid value "(?:x|-1|17|99999)" in "grpc_status" parameter, it must be between 0 and 16/ )
    for map { ( "type=grpc grpc_status=$_", "grpc_status=$_" ) } qw( x -1 17 99999 );
bad( "$pass health_check interval=1s interval=2s;",        qr/duplicate "interval" parameter/ );
bad( "$pass health_check mandatory mandatory;",            qr/duplicate "mandatory" parameter/ );
bad( "$pass health_check mandatory persistent persistent;", qr/duplicate "persistent" parameter/ );
# In whatever order they stand, they mean the same, and are refused for the same reason.
for my $of (
    [ qr/"persistent" requires "mandatory"/                             => qw( persistent interval=1s type=grpc ) ],
    [ qr/"uri" and "match" are not allowed with "type=grpc"/            => qw( uri=/ type=grpc interval=1s ) ],
    [ qr/"uri" and "match" are not allowed with "type=grpc"/            => qw( match=m type=grpc grpc_service=x ) ],
    [ qr/"grpc_service" and "grpc_status" require "type=grpc"/          => qw( grpc_service=x mandatory ) ],
    [ qr/"grpc_service" and "grpc_status" require "type=grpc"/          => qw( grpc_status=12 interval=1s ) ],
    [ qr/invalid value "x" in "interval" parameter, it must be/         => qw( interval=x type=grpc mandatory ) ],
    )
{
    my ( $why, @words ) = @$of;
    for ( 0 .. $#words ) {
        push @words, shift @words;
        bad( "$pass health_check @words;", $why );
    }
}

# Where it may stand, and how often.
refuses( http     => "$zone\nhealth_check; #!", qr/"health_check" directive is not allowed here/ );
refuses( server   => 'health_check; #!',        qr/"health_check" directive is not allowed here/ );
refuses( location => "if (\$args) {\nhealth_check; #!\n}", qr/"health_check" directive is not allowed here/ );
bad( "$pass\nhealth_check;\nhealth_check;",                 qr/duplicate health_check/ );
bad( "$pass\nhealth_check uri=/a interval=1s;\nhealth_check uri=/a interval=2s;", qr/duplicate health_check/ );
bad( "$pass\nhealth_check type=grpc;\nhealth_check interval=1s type=grpc;",       qr/duplicate health_check/ );
good(     "$pass health_check; health_check uri=/a; health_check port=80; health_check match=m; health_check match=n;"
        . 'health_check uri=/a port=80 match=m; health_check type=grpc; health_check type=grpc grpc_service=x;',
    matches => 'match m { status 200; } match n { status 200; }' );
accepts(
    http => "$zone server { location /a { $pass health_check; } location /b { $pass health_check; } }",
    'the same in two locations'
);

# The group.
bad( "$_\nhealth_check;", qr/"health_check" requires an upstream group in/ )
    for '', 'return 200;', 'proxy_pass http://127.0.0.1:1;', 'return 200; #';
bad( "$_\nhealth_check;", qr/"health_check" requires an upstream group, name it with "upstream=" where variables are passed to/ )
    for 'proxy_pass http://$arg_x;', 'fastcgi_pass $arg_x;';
bad( "empty_gif;\nhealth_check upstream=c;", qr/upstream "c" not found/ );
bad( "return 200;\nhealth_check upstream=b;", qr/"health_check" requires an upstream group/ );
bad( "proxy_pass http://\$arg_x;\nhealth_check upstream=c;", qr/upstream "c" not found/ );
bad( "$pass\nhealth_check upstream=c;", qr/invalid value "c" in "upstream" parameter, it must be "b"/,
    upstream => "$zone\nupstream c {\nzone c 64k;\nserver 127.0.0.1:1;\n}" );
good('proxy_pass http://$arg_x; health_check upstream=b;');
good('set $x b; proxy_pass http://$x$request_uri; health_check upstream=b;');
bad( "$pass\nhealth_check;", qr/"health_check" requires "zone" in upstream "b"/, upstream => $plain );
accepts(
    http => "server { location / { $pass health_check; } } upstream b { server 127.0.0.1:1; zone b 64k; }",
    'the group may come after, and its zone last'
);
accepts( http => "$zone server { location / { $_; health_check; } }", "group of \"$_\"" )
    for 'proxy_pass http://b/app/', 'proxy_pass https://b', 'proxy_pass http://B', 'fastcgi_pass b', 'uwsgi_pass b',
    'uwsgi_pass suwsgi://b', 'scgi_pass b', 'set $memcached_key x; memcached_pass b', 'grpc_pass b',
    'grpc_pass grpcs://b';
bad( "$pass\nhealth_check port=80;", qr/"port" is not allowed with "unix:" servers/,
    upstream => "upstream b {\nzone b 64k;\nserver 127.0.0.1:1;\nserver unix:/tmp/x backup;\n}" );
good( "$pass health_check;", upstream => "upstream b {\nzone b 64k;\nserver unix:/tmp/x;\n}" );

# proxy_pass with a URI of its own; the default is sent everywhere.
my $app = 'proxy_pass http://b/app/;';
good("$app health_check uri=/app/healthz?a=b;");
good("$app health_check;");
bad( "$app\nhealth_check uri=/healthz;", qr{"uri" cannot be sent by this "proxy_pass", it must begin with "/app/"} );
good('proxy_pass http://b; health_check uri=/healthz;');
good('proxy_pass http://b/; health_check uri=/healthz;');
good('set $b b; proxy_pass http://$b/app/; health_check uri=/healthz upstream=b;');
good( 'proxy_pass http://b; health_check uri=/healthz;', name => '~ ^/x/' );

# A location with "alias".
bad( "alias /tmp/;\n$pass\nhealth_check;",          qr{"uri" must be within location "/x/"} );
bad( "alias /tmp/;\n$pass\nhealth_check uri=/y/a;", qr{"uri" must be within location "/x/"} );
good("alias /tmp/; $pass health_check uri=/x/a;");
good( "$pass health_check uri=/other;", name => '@named' );
good( "$pass health_check uri=/other;", name => '= /exact' );
good( "$pass health_check uri=/other;", name => '~ ^/regex' );

# match: every form.
sub match {
    my ( $lines, $name ) = @_;
    return "match " . ( $name // 'm' ) . " {\n$lines\n}";
}
accepts( http => match($_) ) for split /\n/, <<'END';
status 200;
status 100;
status 999;
status ! 500;
status 200 204;
status ! 301 302;
status 200-399;
status ! 400-599;
status 301-303 307;
status 200-200;
header Content-Type = text/html;
header Content-Type != text/html;
header Connection ~ close;
header Connection !~ close;
header Host;
header ! X-Accel-Redirect;
header X = "";
header X = "a b";
header X ~ "^a.*\d{2}$";
body ~ "Welcome to nginx!";
body !~ "maintenance mode";
body ~ "\"status\":\"ok\"";
body ~ (?i)ok;
require $upstream_status;
require $upstream_status $args;
require $host; require $args;
require $HTTP_x $arg_a $cookie_B $sent_http_c $upstream_http_d $upstream_trailer_e;
status 200; header A; header B; header ! C; body ~ x; require $host;
END
refuses( http => match($_) =~ s/\n\}/ #!\n}/r, qr/^invalid parameter "(?:[^"]*)"/, "match: $_" ) for split /\n/, <<'END';
status x;
status 20;
status 2000;
status 99;
status 399-200;
status 200-;
status -200;
status 200-300-400;
status !200;
status 200 ! 300;
status 200,204;
header A == b;
header A ~* b;
header "";
header "a b";
header a: = b;
body = x;
body ~* x;
require host;
require $;
require "";
require $a-b;
fails 3;
Status 200;
include x;
END
refuses( http => match($_) =~ s/\n\}/ #!\n}/r, qr/^invalid number of arguments in "\w+" directive/, "match: $_" )
    for 'status;', 'status !;', 'header;', 'header A =;', 'header A !;', 'header A = b c;', 'body;', 'body ~;', 'body ~ a b;', 'require;';
refuses( http => match($_) =~ s/\n\}/ #!\n}/r, qr/^pcre2?_compile\(\) failed/, "match: $_" )
    for 'body ~ "(";', 'body !~ "[a";', 'header A ~ "*";';
refuses( http => match("status 200;\nstatus 204; #!"), qr/duplicate "status" in match "m"/ );
refuses( http => match("body ~ a;\nbody !~ b; #!"),    qr/duplicate "body" in match "m"/ );
refuses( http => match('status 200;') . "\nmatch m { #!\nstatus 200;\n}", qr/duplicate match "m"/ );
refuses( http => "match m {\nstatus 200 { #!\n}\n}", qr/unexpected "\{"/ );
refuses( http     => 'match m; #!',          qr/directive "match" has no opening "\{"/ );
refuses( http     => "match { #!\n}",        qr/invalid number of arguments in "match" directive/ );
refuses( http     => "match a b { #!\n}",    qr/invalid number of arguments in "match" directive/ );
refuses( http     => "match \"\" { #!\n}",   qr/invalid parameter ""/ );
refuses( server   => "match m { #!\n}",      qr/"match" directive is not allowed here/ );
refuses( location => "match m { #!\n}",      qr/"match" directive is not allowed here/ );
accepts( http => match('status 200;') . match( 'status 200;', 'M' ) . match( 'status 200;', '"a b"' ) );

accepts( http => match('require $mine $of_map $of_server;')
        . 'map $host $mine { default 1; } map $mine $of_map { default 1; } server { set $of_server 1; }' );
refuses( http => match("require \$host;\nrequire \$args \$$_; #!"), qr/unknown "$_" variable/ ) for 'no_such_variable', '1', 'http';
refuses( http => "match m { } #!", qr/no tests are inside match "m"/ );
refuses( http => "match m {\n# status 200;\n} #!", qr/no tests are inside match "m"/ );

good( "$pass health_check match=m;", matches => match('status 200;') );
accepts( http => match('status 200;') . location("$pass health_check match=m;") );
bad( "$pass\nhealth_check match=m;", qr/match "m" not found/ );
bad( "$pass\nhealth_check match=M;", qr/match "M" not found/, matches => match('status 200;') );
bad( "$pass\nhealth_check match=;",  qr/match "" not found/ );

# NGINX Plus' documented examples, as they stand there but for "slow_start", which is another module's, and
# for the names, which must be found in DNS.
my $dynamic = <<'END';
upstream dynamic {
    zone upstream_dynamic 64k;

    server localhost      weight=5;
    server localhost:8080 fail_timeout=5s;
    server 192.0.2.1                 max_fails=3;

    server localhost:8081  backup;
    server localhost:8082  backup;
}
END
accepts( http => <<"END", 'the first example' );
$dynamic
server {
    location / {
        proxy_pass http://dynamic;
        health_check;
    }
}
END
accepts( http => <<'END', 'the second example' );
    upstream backend { zone backend 64k; server 127.0.0.1:1; }
    server {
        location / {
            proxy_pass http://backend;
            health_check match=welcome;
        }
    }

    match welcome {
        status 200;
        header Content-Type = text/html;
        body ~ "Welcome to nginx!";
    }
END
good('proxy_pass http://b; health_check mandatory type=grpc grpc_status=12;');
accepts( http => $_, 'an example of "match"' ) for <<'END1', <<'END2', <<'END3', <<'END4';
# status is 200, content type is "text/html",
# and body contains "Welcome to nginx!"
match welcome {
    status 200;
    header Content-Type = text/html;
    body ~ "Welcome to nginx!";
}
END1
# status is not one of 301, 302, 303, or 307, and header does not have "Refresh:"
match not_redirect {
    status ! 301-303 307;
    header ! Refresh;
}
END2
# status ok and not in maintenance mode
match server_ok {
    status 200-399;
    body !~ "maintenance mode";
}
END3
# status is 200 or 204
map $upstream_status $good_status {
    200 1;
    204 1;
}

match server_ok {
    require $good_status;
}
END4

# Where the timeouts of the location are not waited for, a test of the configuration tells.
my $told = qr/\[notice\].* "health_check" without "timeout" waits for (\d+)ms,.* in \S+:\d+\n/;
for my $of ( [ '', 5000 ], [ 'interval=7s', 7000 ], [ 'timeout=1s', undef ], [ 'interval=60s', undef ] ) {
    my ( $parameters, $ms ) = @$of;
    my $text = location("$pass health_check $parameters;");
    my ( $ok, $out ) = check_conf( http => "error_log stderr notice;\n$text" );
    my ($shown) = $out =~ $told;
    is( $shown, $ms, "the notice of \"health_check $parameters\"" ) or diag $out;
}

done_testing();
