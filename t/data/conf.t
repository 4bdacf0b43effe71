#!/usr/bin/perl

# keyval_zone, keyval, timer_keyval: what a configuration may say of them. NGINX Plus' documented lines load
# unchanged.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Conf;

# The workers' user may write there.
my $dir = scratch_dir();
chmod 0777, $dir;

my $zone = "keyval_zone zone=z:32k;\n";
my $fill = "timer x every=1s;\ntimer_keyval z;";

# As NGINX Plus' reference has it, and its guides.
accepts( http => $_ ) for (
    "keyval_zone zone=one:32k state=$dir/one.keyval; keyval \$arg_text \$text zone=one;",
    'keyval_zone zone=one:32k timeout=30s type=string;',
    'keyval_zone zone=one:1m type=ip; keyval $remote_addr $target zone=one;',
    "keyval_zone zone=one:32k type=prefix timeout=1h state=$dir/one.json;",
    'keyval $uri:$arg_a $text zone=later; keyval_zone zone=later:64k;',
    "$zone map \$geo \$b { default 0; } keyval \$remote_addr \$geo zone=z;",
);

refuses( http => $_->[0], $_->[1] ) for (
    [ 'keyval_zone zone=z;',                       qr/invalid zone size "z"/ ],
    [ 'keyval_zone zone=z:;',                      qr/invalid zone size "z:"/ ],
    [ 'keyval_zone zone=z:12x;',                   qr/invalid zone size "z:12x"/ ],
    [ 'keyval_zone zone=:1m;',                     qr/invalid zone name ":1m"/ ],
    [ 'keyval_zone zone=z:31k;',                   qr/keyval_zone "z" is too small/ ],
    [ 'keyval_zone zone=z:0;',                     qr/keyval_zone "z" is too small/ ],
    [ 'keyval_zone state=x;',                      qr/"keyval_zone" must have "zone" parameter/ ],
    [ 'keyval_zone zone=z:1m type=list;',          qr/invalid type "list"/ ],
    [ 'keyval_zone zone=z:1m type=;',              qr/invalid type ""/ ],
    [ 'keyval_zone zone=z:1m timeout=x;',          qr/invalid value "x" in "timeout" parameter, it must be a time/ ],
    [ 'keyval_zone zone=z:1m timeout=0;',          qr/invalid value "0" in "timeout" parameter, it must be a time/ ],
    [ 'keyval_zone zone=z:1m state=;',             qr/invalid value ""/ ],
    [ 'keyval_zone zone=z:1m timeout=1h sync;',    qr/"sync" is not supported: each host fetches its own/ ],
    [ 'keyval_zone zone=z:1m more=x;',             qr/invalid parameter "more=x"/ ],
    [ 'keyval_zone zone=z:1m zone=y:1m;',          qr/duplicate "zone" parameter/ ],
    [ "$zone keyval_zone zone=z:1m type=ip; #!",   qr/duplicate keyval_zone "z"/ ],
    [ "$zone limit_req_zone \$uri zone=z:32k rate=1r/s; #!", qr/the shared memory zone "z" is already declared for a different use|the size \d+ of shared memory zone "z" conflicts/ ],
    [ 'keyval $uri $x;',                           qr/invalid number of arguments in "keyval" directive/ ],
    [ 'keyval $uri $x zone=none;',                 qr/unknown keyval zone "none"/ ],
    [ "$zone keyval \$uri x zone=z; #!",           qr/invalid variable name "x"/ ],
    [ "$zone keyval \$uri \$ zone=z; #!",          qr/invalid variable name "\$"/ ],
    [ "$zone keyval \$uri \$a-b zone=z; #!",       qr/invalid variable name "\$a-b"/ ],
    [ "$zone keyval \$uri \$x z; #!",              qr/invalid parameter "z"/ ],
    [ "$zone keyval \$uri \$x zone=; #!",          qr/"keyval" must have "zone" parameter/ ],
    [ "$zone keyval a \$x zone=z; keyval b \$x zone=z; #!", qr/the duplicate "x" variable/ ],
    [ "$zone keyval a \$timer_name zone=z; #!",    qr/the duplicate "timer_name" variable/ ],
);
refuses( location => 'timer x every=1s; timer_keyval none;', qr/unknown keyval zone "none"/ );

# With a zone, which stands before the server.
sub in_location {
    my ( $text, $expected ) = @_;
    my ( $location, @more ) = ref $text ? @$text : $text;
    my $server = "}\nserver { listen unix:/dev/null; location /x/ {\n$location\n} @more }\nserver { listen unix:/dev/null;";
    my ( $ok, $out, $file ) = check_conf( server => "}\n${zone}server { listen 127.0.0.1:1; location /x/ {\n$location\n} @more" );
    return $expected ? like( $out, $expected, "$location @more: refused" ) : ok( $ok, "$location @more" ) || diag $out;
}
in_location("$fill return 204;");
in_location('timer x every=1s; timer_keyval z min=0; return 204;');
in_location( "timer_keyval z;", qr/\[emerg\].* "timer_keyval" requires "timer" in \S+:\d+$/m );
in_location( "$fill timer_keyval z;", qr/"timer_keyval" directive is duplicate/ );
in_location( 'timer x every=1s; timer_keyval z more=1;', qr/invalid parameter "more=1"/ );
in_location( 'timer x every=1s; timer_keyval z min=x;',  qr/invalid value "x" in "min" parameter, it must be a number/ );
in_location( [ $fill, 'location /y/ { timer y every=1s; timer_keyval z; }' ], qr/zone "z" is already filled in \S+:\d+ in \S+:\d+$/m );
in_location( [ $fill, 'location /y/ { timer_api keyvals=on; }' ] );
in_location( 'timer x every=1s method=HEAD; timer_keyval z;', qr/"timer_keyval" has nothing to take with "method=HEAD" in \S+:\d+$/m );
in_location( [ $fill, 'location /y/ { timer_api keyvals=maybe; }' ], qr/invalid value "maybe" in "keyvals" parameter, it must be "on" or "off"/ );

# Where a state file is to be.
accepts( http => "keyval_zone zone=z:32k state=$dir/new.json;" );
{
    my ( $ok, $out ) = check_conf( http => "keyval_zone zone=z:32k state=$dir/none/x.json;" );
    like( $out, qr/\[emerg\].* directory of state file "\Q$dir\E\/none\/x\.json" is not writable in \S+:\d+ \(2: No such file or directory\)/, 'no such directory' );
    ok( !$ok, 'is refused' );
}
SKIP: {
    skip 'runs as another user', 1 if $> != 0;
    my $secret = "$dir/secret";
    mkdir $secret, 0700;
    my ( undef, $out ) = check_conf( http => "keyval_zone zone=z:32k state=$secret/x.json;" );
    like( $out, qr/directory of state file "\Q$secret\E\/x\.json" is not writable in \S+:\d+ \(13: Permission denied\)/, 'one that workers may not write to' );
}
# Each belongs to one alone, by whatever way.
mkdir "$dir/sub";
symlink $dir, "$dir/sub/link";
refuses( http => "keyval_zone zone=y:32k state=$dir/x.json;\nkeyval_zone zone=z:32k state=$dir/$_; #!", qr/state file "\Q$dir\/$_\E" is used by keyval_zone "y" already/ )
    for 'x.json', 'sub/link/x.json', 'sub/../x.json';
refuses( http => "timer_state $dir/timers.state;\nkeyval_zone zone=z:32k state=$dir/sub/link/timers.state; #!", qr/state file "\S+" is used by "timer_state" already/ );
spew( "$dir/bad.json", 'damaged' );
accepts( http => "keyval_zone zone=z:32k state=$dir/bad.json;" );
is( slurp("$dir/bad.json"), 'damaged', 'a test of a configuration leaves state files alone' );

done_testing;
