#!/usr/bin/perl

# The directive "timer_fleet" and the parameter "fleet": every parameter, with good and with bad values,
# where they may stand, and what the location of a fleet may not do.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Conf;
use TimerTest::Nginx;

my $scratch = TimerTest::Nginx->new( wrapper => '' )->prefix;

# A server in which a named location has these lines.
sub location {
    my ( $lines, $more ) = @_;
    return "location \@etcd {\n$lines\n}\n" . ( $more // '' );
}

sub good {
    my ( $lines, $more ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return accepts( server => location( $lines, $more ), "accepts: $lines" );
}

# The line of "timer_fleet" is the one that is named.
sub bad {
    my ( $lines, $why, $more ) = @_;
    $lines =~ s/(timer_fleet.*;)/$1 #!/ if ( $lines . ( $more // '' ) ) !~ /#!/;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return refuses( server => location( $lines, $more ), $why, "refuses: $lines" );
}

sub password_file {
    my ( $name, $text, $mode ) = @_;
    my $path = "$scratch/$name";
    open my $file, '>', $path or die "$path: $!";
    print $file $text;
    close $file or die "$path: $!";
    chmod $mode, $path or die "$path: $!";
    return $path;
}

my $pass = 'proxy_pass http://127.0.0.1:1;';
my $secret = password_file( 'password', "s3cret\n", 0640 );

# All parameters.
good("timer_fleet $_; $pass") for split /\n/, <<"END";
prod
a.B_c-1
prod prefix=/a/ ttl=10s node=web1
prod ttl=10m
prod ttl=90
prod node=${\ ( 'n' x 64 )}
prod user=timer password_file=$secret
prod password_file=$secret node=a.b_c-D prefix=x user=timer ttl=1m30s
END

# No name, no parameter, or not a value of one.
bad( "timer_fleet $_; $pass", qr/invalid fleet name "\Q$_\E"/ ) for qw( .a -a a/b ), 'n' x 128, 'a$b';
bad( "timer_fleet prod $_; $pass", qr/invalid parameter "\Q$_\E"/ ) for qw( x ttl name=a Ttl=10s = );
for my $of (
    [ ttl    => qw( 5s 0 9999ms 601s 11m x -1 ), '' ],
    [ node   => qw( a/b a:b ), 'n' x 65, '' ],
    [ prefix => 'x' x 256, '' ],
    [ user   => '' ],
    )
{
    my ( $name, @values ) = @$of;
    bad( "timer_fleet prod $name=$_; $pass", qr/invalid value "\Q$_\E" in "$name" parameter, it must be / ) for @values;
}
bad( "timer_fleet prod \"$_=a b\"; $pass", qr/invalid value "a b" in "$_" parameter/ ) for qw( node prefix user );
bad( "timer_fleet prod ttl=10s ttl=20s; $pass", qr/duplicate "ttl" parameter/ );

# User and password.
bad( "timer_fleet prod $_; $pass", qr/"user" and "password_file" require each other/ )
    for 'user=timer', "password_file=$secret";
my %refused = (
    'is read by others' => [ password_file( 'open', "s3cret\n", 0644 ), qr/may be read by others/ ],
    'is empty'          => [ password_file( 'empty', "\n",            0600 ), qr/must have one line/ ],
    'has two lines'     => [ password_file( 'two', "s3cret\nline\n",  0600 ), qr/must have one line/ ],
    'is a directory'    => [ $scratch,        qr/must have one line/ ],
);
for my $how ( sort keys %refused ) {
    my ( $path, $why ) = @{ $refused{$how} };
    chmod 0750, $path if -d $path;
    bad( "timer_fleet prod user=timer password_file=$path; $pass", qr/password file "\Q$path\E" $why/ );
    my ( undef, $out ) = check_conf( server => location("timer_fleet prod user=timer password_file=$path; $pass") );
    unlike( $out, qr/s3cret/, "a password file that $how is not shown" );
}

bad( "timer_fleet prod user=timer password_file=$scratch/none; $pass", qr/^\Qopen() "$scratch\E\/none" failed \(2: No such file or directory\) in / );

# Where it may stand, and how often.
refuses( http     => 'timer_fleet prod; #!',       qr/"timer_fleet" directive is not allowed here/ );
refuses( server   => 'timer_fleet prod; #!',       qr/"timer_fleet" directive is not allowed here/ );
refuses( location => "timer_fleet prod; #!\n$pass", qr/"timer_fleet" requires a named location/ );
bad( "timer_fleet prod;\ntimer_fleet other; #!\n$pass", qr/"timer_fleet" directive is duplicate/ );
bad( "timer_fleet prod; $pass", qr/duplicate fleet "prod", first in \S+:\d+/, "location \@other {\ntimer_fleet prod; #!\n$pass\n}" );
good( "timer_fleet prod; $pass", "location \@other { timer_fleet other; $pass }" );

# A run of the timer would be a request to etcd.
bad( @$_ ) for (
    [ "timer x every=1s;\ntimer_fleet prod; #!\n$pass",            qr/"timer_fleet" is not allowed in the location of a timer/ ],
    [ "timer_fleet prod;\ntimer x every=1s; #!\n$pass",            qr/"timer" is not allowed in the location of a fleet/ ],
    [ "timer_fleet prod;\ntimer x every=1s fleet=prod; #!\n$pass", qr/"timer" is not allowed in the location of a fleet/ ],
);

# What its location may not do, be it said there or around it.
my %altered = (
    'proxy_cache zone'                          => '"proxy_cache"',
    'proxy_intercept_errors on'                 => '"proxy_intercept_errors"',
    'post_action /other'                        => '"post_action"',
    'proxy_set_body x'                          => '"proxy_set_body"',
    'proxy_method PUT'                          => '"proxy_method"',
    'proxy_pass_request_headers off'            => '"proxy_pass_request_headers off"',
    'proxy_pass_request_body off'               => '"proxy_pass_request_body off"',
    'proxy_next_upstream error non_idempotent'  => '"proxy_next_upstream" with "non_idempotent"',
);
my $cache = "proxy_cache_path $scratch/cache keys_zone=zone:64k;";
for my $directive ( sort keys %altered ) {
    my $why = qr/\Q$altered{$directive}\E is not allowed in the location of a fleet in \S+:\d+/;
    my $lines = "timer_fleet prod; #!\n$pass";
    refuses( http => "$cache\nserver {\n" . location("$lines\n$directive;") . '}',   $why, "refuses: $directive" );
    refuses( http => "$cache\n$directive;\nserver {\n" . location($lines) . '}', $why, "refuses: $directive around it" );
}
accepts( http => "$cache proxy_cache zone; server { " . location("timer_fleet prod; proxy_cache off; $pass") . '}' );
good("timer_fleet prod; proxy_next_upstream error timeout http_503; $pass");
good('timer_fleet prod; set $etcd 127.0.0.1:1; proxy_pass http://$etcd;');
{
    my ( $ok, $out ) = check_conf( server => location('timer_fleet prod;') );
    ok( $ok && $out =~ /\[warn\].*fleet "prod": location "\@etcd" has no content handler/, 'a location that leads nowhere' ) or diag $out;
}

# The timers of a fleet.
sub timer {
    my ($parameters) = @_;
    return "location \@task {\ntimer task $parameters; #!\nreturn 204;\n}\n";
}
my $fleet = "timer_fleet prod; $pass";
good( $fleet, timer($_) ) for 'every=1s fleet=prod', 'fleet=prod "cron=* * * * * *"', 'every=1m jitter=10s first=due fleet=prod';
bad( $fleet, qr/unknown fleet "other" in \S+:\d+/, timer('every=1s fleet=other') );
bad( $fleet, qr/unknown fleet ""/, timer('every=1s fleet=') );
bad( $fleet, qr/"fleet" requires "every" of 1s or more/, timer($_) ) for 'every=999ms fleet=prod', 'fleet=prod every=10ms first=now';
bad( $fleet, qr/"first=now" is not allowed with "fleet"/, timer($_) ) for 'every=1s first=now fleet=prod', 'fleet=prod first=now "cron=0 3 * * *"';
bad( $fleet, qr/duplicate "fleet" parameter/, timer('every=1s fleet=prod fleet=prod') );
accepts( server => timer('every=1s fleet=prod') . location($fleet), 'a fleet that is defined behind its timer' );

done_testing;
