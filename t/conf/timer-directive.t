#!/usr/bin/perl

# The directive "timer": every parameter, with good and with bad values, and where it may stand.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Conf;

my $long = 'n' x 127;

# Names.
accepts( location => "timer $_ every=1s;" ) for qw( x X9 a.b a-b a_b 0 _x x. x- ), $long;
refuses( location => "timer $_ every=1s;", qr/invalid .*"\Q$_\E"/ )
    for qw( .x -x a/b a:b a@b ), 'a,b', "n$long";
refuses( location => 'timer "a b" every=1s;', qr/invalid .*"a b"/ );
refuses( location => 'timer "" every=1s;',    qr/invalid .*""/ );
refuses( location => "timer \xc3\xa9 every=1s;", qr/invalid / );

# $server_name in a name, and nothing else with "$".
accepts( location => 'timer x.$server_name every=1s;' );
accepts( location => 'timer $server_name every=1s;' );
refuses( location => 'timer x.$host every=1s;',         qr/invalid .*"x\.\$host"/ );
refuses( location => 'timer x.$server_names every=1s;', qr/invalid .*\$server_names/ );
refuses( location => 'timer x.$ every=1s;',             qr/invalid .*"x\.\$"/ );

sub server { my ( $names, $timer ) = @_; return "server {\nserver_name $names;\nlocation /x/ {\n$timer #!\n}\n}" }
for my $names ( '*.example.org', '.example.org', '"~^www"', '""', '_[]' ) {
    refuses( http => server( $names, 'timer x.$server_name every=1s;' ), qr/server.name|timer name|invalid/ );
}
accepts( http => server( 'a.example.org *.example.org ~^b', 'timer x.$server_name every=1s;' ) );
refuses( http => "server {\nlocation /x/ {\ntimer x.\$server_name every=1s; #!\n}\n}", qr/server.name|timer name|invalid/ );
accepts( http => "server {\nlocation /x/ {\ntimer x.\$server_name every=1s;\n}\nserver_name later.example.org;\n}",
    'the server\'s name may come after the timer' );
refuses( http => server( 'a' x 126, 'timer x.$server_name every=1s;' ), qr/timer name|invalid|too long/,
    'a name that is too long with the server\'s name in it' );

# The same name twice, wherever it stands; and one by $server_name.
for my $second ( 'timer x every=2s;', 'timer x.$server_name every=2s;' ) {
    my $name = $second =~ /(x\S*)/ ? $1 =~ s/\$server_name/b.example.org/r : '';
    my $text = "server {\nlocation /x/ {\ntimer $name every=1s;\n}\n}\n"
        . "server {\nserver_name b.example.org;\nlocation /y/ {\n$second #!\n}\n}";
    my ( $ok, $out, $file, $line ) = check_conf( http => $text );
    my $first = $line - 6;
    like( $out, qr/\[emerg\].* duplicate timer "\Q$name\E", first in \Q$file\E:$first in \Q$file\E:$line\n/,
        "duplicate: $second" );
}
refuses( location => "timer x every=1s;\ntimer y every=1s; #!", qr/"timer" directive is duplicate/ );
accepts( http => server( 'a.example.org', 'timer x.$server_name every=1s;' )
        . server( 'b.example.org', 'timer x.$server_name every=1s;' ) );

# every
accepts( location => "timer x $_;" )
    for qw( every=10ms every=1s every=30 every=90s every=15m every=1h30m every=1d every=1w every=1m30 every=366d ),
    '"every=1h 30m"', '"every=1m 500ms"';
refuses( location => "timer x every=$_;", qr/invalid .*"(?:every=)?\Q$_\E"/ )
    for qw( 0 0s 9ms 367d 366d1ms 1.5s -1 -1s 1x s 1s1h 1M 99999999999999999999d 9223372036854775807 106751991168d ), '';
refuses( location => 'timer x;',                 qr/"timer" must have "every"|invalid number of arguments in "timer" directive/ );
refuses( location => 'timer x uri=/x/;',         qr/"timer" must have "every"/ );
refuses( location => 'timer;',                   qr/invalid number of arguments in "timer" directive/ );
refuses( location => 'timer every=1s;',          qr/invalid|must have/ );

# offset: 0 up to, not including, the period.
accepts( location => "timer x every=30s offset=$_;" ) for qw( 0 0s 1ms 29s 29999ms );
refuses( location => "timer x every=30s offset=$_;", qr/offset/ ) for qw( 30s 31s 1h -1 -1s 1.5s x ), '';
accepts( location => 'timer x offset=20s every=30s;', 'offset before every' );
refuses( location => 'timer x offset=30s every=30s;', qr/offset/ );

# jitter: below the period.
accepts( location => "timer x every=30s jitter=$_;" ) for qw( 0 1ms 29s 29999ms );
refuses( location => "timer x every=30s jitter=$_;", qr/jitter/ ) for qw( 30s 31s 1h -1 1.5s x ), '';
refuses( location => 'timer x jitter=30s every=30s;', qr/jitter/ );

# first, access, enabled
accepts( location => "timer x every=1s $_;" )
    for qw( first=now first=due access=on access=off enabled=on enabled=off );
refuses( location => "timer x every=1s $_;", qr/invalid .*"(?:\w+=)?\Q${\( s{.*=}{}r )}\E"/ )
    for qw( first=then first= first=NOW access=1 access=yes access= enabled=maybe enabled= );

# uri: within the location.
my @locations = (
    [ '/x/',         [qw( /x/ /x/y /x/y?a=b&c=d /x/y%20z /x//y /x/./y /x/a/../b /%78/ )],
        [qw( /x /y/ / /x/../y /x/%2e%2e/y )] ],
    [ '/x',          [qw( /x /xy /x/y /x?a )],   [qw( /y / )] ],
    [ '^~ /x/',      [qw( /x/y )],               [qw( /y )] ],
    [ '= /x',        [qw( /x /x?a=b )],          [qw( /x/ /x/y /y )] ],
    [ '~ \.php$',    [qw( /cron.php /a/b.php?x=.html )], [qw( /cron.PHP /cron.html /cron.html?x=.php )] ],
    [ '~* \.php$',   [qw( /cron.php /cron.PHP )], [qw( /cron.html )] ],
    [ '@x',          [qw( / /anything /anything/at/all?a=b )], [] ],
    [ '/',           [qw( / /anything )],        [] ],
);
for my $row (@locations) {
    my ( $location, $good, $bad ) = @$row;
    accepts( server => "location $location {\ntimer x every=1s uri=$_; return 204;\n}" ) for @$good;
    my $name = $location =~ s/.* //r;
    refuses( server => "location $location {\ntimer x every=1s uri=$_; #!\n}", qr/"uri" must be within location "\Q$name\E"/ )
        for @$bad;
    refuses( server => "location $location {\ntimer x every=1s uri=$_; #!\n}", qr/invalid|"uri" must / )
        for qw( x http://127.0.0.1/x/ ?a ), '';
    refuses( server => "location $location {\ntimer x every=1s uri=$_; #!\n}", qr/invalid|unsafe|"uri" must / )
        for qw( /x/../../y /x/%00 /x/%zz );
    refuses( server => qq{location $location {\ntimer x every=1s "uri=$_"; #!\n}}, qr/invalid value "\Q$_\E" in "uri" parameter, it must be without blanks, write "%20"/ )
        for '/x/a b', '/x/a?b=c d', 'x y', '/x/ ';
}
refuses( server => "location ~ ^/x {\ntimer x every=1s; #!\n}", qr/uri/, 'a regex location must give a URI' );
accepts( server => "location / {\nlocation /x/ {\ntimer x every=1s uri=/x/y;\n}\n}" );
refuses( server => "location / {\nlocation /x/ {\ntimer x every=1s uri=/y; #!\n}\n}", qr{"uri" must be within location "/x/"} );

# uri with variables, which are looked up at run time.
accepts( location => 'timer x every=1s uri=/x/$timer_run;' );
accepts( location => 'timer x every=1s uri=$arg_u;' );
accepts( http     => "map \$timer_name \$u { x /x/y; }\nserver { location /x/ { timer x every=1s uri=\$u?a=\$timer_due; } }" );
{
    # nginx names no line for this one.
    my ( $ok, $out ) = check_conf( location => 'timer x every=1s uri=/x/$no_such;' );
    ok( !$ok && $out =~ /unknown "no_such" variable/, 'a variable that does not exist' ) or diag $out;
}
refuses( location => 'timer x every=1s uri=/x/$;',        qr/invalid variable name/ );

# method and host
accepts( location => "timer x every=1s method=$_;" ) for qw( GET HEAD POST PUT DELETE PURGE PROPFIND );
refuses( location => "timer x every=1s method=$_;", qr/invalid .*"(?:method=)?\Q$_\E"/ ) for qw( get Get G/T 1 ), '';
refuses( location => 'timer x every=1s "method=G T";', qr/invalid / );
accepts( location => "timer x every=1s host=$_;" ) for qw( example.org a localhost 127.0.0.1 EXAMPLE.org );
refuses( location => "timer x every=1s $_;", qr/invalid / )
    for qw( host= host=a/b ), '"host=a b"', "\"host=a\tb\"";
{
    my ( $ok, $out ) = check_conf( location => "timer x every=1s \"host=a\r\nX: y\";" );
    ok( !$ok && $out =~ /\[emerg\].*invalid /, 'a header of its own' ) or diag $out;
}

# Parameters: unknown, twice, in any order.
refuses( location => "timer x every=1s $_;", qr/invalid parameter "\Q$_\E"/ ) for qw( x=1 every evry=1s EVERY=1s = uri );
my %once = (
    every => '1s', offset => '0', jitter => '0', first => 'now', uri => '/x/', method => 'GET',
    host  => 'a',  access => 'on', enabled => 'on',
);
refuses( location => "timer x every=1s $_=$once{$_} $_=$once{$_};", qr/duplicate|"\Q$_\E=/ ) for sort keys %once;
accepts( location => 'timer x enabled=on access=off host=a method=GET uri=/x/ first=now jitter=1s offset=1s every=1m;' );
accepts( location => "timer x\n  every=1m\n  uri=/x/;" );

# What is not UTF-8 can be told from what is.
refuses( location => "timer x every=1s \xff\xc3\xa9=1;", qr/invalid parameter "\\xFF\xc3\xa9=1"/, 'refuses: no UTF-8' );

# Context: a location, and nothing else.
refuses( http     => 'timer x every=1s;',                             qr/"timer" directive is not allowed here/ );
refuses( server   => 'timer x every=1s;',                             qr/"timer" directive is not allowed here/ );
refuses( location => "if (\$arg_a) {\ntimer x every=1s; #!\n}",       qr/"timer" directive is not allowed here/ );
refuses( location => "limit_except GET {\ntimer x every=1s; #!\n}",   qr/"timer" directive is not allowed here/ );
accepts( location => 'internal; timer x every=1s;' );
accepts( server   => 'location @x { timer x every=1s; return 204; }' );
accepts( server   => 'location @x { timer x every=1s; return 204; } location /y/ { timer y every=1s; location /y/z { } }' );

# The second error of a file is not lost, and a reload's bad configuration is no worse than any.
refuses( server => "location /a { timer a every=1s; }\nlocation /b { timer b every=0; } #!", qr/invalid .*"(?:every=)?0"/ );

done_testing;
