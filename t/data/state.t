#!/usr/bin/perl

# The content of a zone over reload, restart and kills; what state files survive, and what they may not do to nginx.

use strict;
use warnings;

use Test::More;
use Time::HiRes ();
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;

my $dir = scratch_dir();
chmod 0777, $dir;
my $served = scratch_dir();
spew( "$served/content.txt", "a one\nb two\n" );

sub conf {
    my (%option) = @_;
    my %zone  = ( flags => "64k state=$dir/flags.json", ip => '64k type=ip', plain => '64k', %{ $option{zones} // {} } );
    my $zones = join '', map {"keyval_zone zone=$_:$zone{$_};\n"} sort keys %zone;
    return (
        http   => "types { } default_type text/plain;\n$zones keyval a \$flag zone=flags; keyval 10.1.1.1 \$net zone=ip; keyval \$arg_key \$plain zone=plain;",
        server => <<"CONF",
        location = /content.txt { timer flags every=366d first=now; timer_keyval flags; root $served; }
        location = /ip.txt      { timer ip every=366d first=now; timer_keyval ip; return 200 "10.0.0.0/8 net\\n"; }
        location = /plain.txt   { timer plain every=366d first=now; timer_keyval plain; return 200 "10.1.2.3 x\\n"; }
        location = /value { return 200 "\$flag|\$net|\$plain"; }
        location /status/ { timer_api write=on keyvals=on; }
        location /quiet/ { timer_api; }
CONF
    );
}

my $nginx = TimerTest::Nginx->new( workers => 2, conf() );
$nginx->start;
my $api = TimerTest::Api->new( $nginx, at => '/status' );

sub value { return $nginx->get("/value?key=10.1.2.3")->{body} }

sub wait_value {
    my ( $expected, $title ) = @_;
    wait_until { value() eq $expected };
    return is( value(), $expected, $title );
}

sub run {
    my ($name) = @_;
    my $before = json( $nginx->get("/status/timers/$name") )->{counters}{runs};
    $api->order("/timers/$name/run");
    my $now;
    wait_until { $now = json( $nginx->get("/status/timers/$name") ); $now->{counters}{runs} > $before && !$now->{running} };
    return $now->{last}{outcome};
}

sub saved { return -e "$dir/flags.json" ? slurp("$dir/flags.json") : '' }

wait_value( 'one|net|x', 'what was fetched' );
wait_until { saved() =~ /"a":"one"/ };
my $mode = sprintf '%o', ( stat "$dir/flags.json" )[2] & 07777;
is( $mode, '600', 'the state file is its owner\'s' );
is( JSON::PP::decode_json( saved() )->{content}{b}, 'two', 'and JSON' );

# The API.
my $list = json( $nginx->get('/status/keyvals') )->{keyvals};
is( join( ' ', map {"$_->{zone}:$_->{type}:$_->{keys}:$_->{timer}"} @$list ), 'flags:string:2:flags ip:ip:1:ip plain:string:1:plain', 'all zones' );
is( "$list->[0]{last_run}{outcome} $list->[0]{last_run}{status} $list->[0]{size}", 'success 200 65536', 'the last run' );
cmp_ok( $list->[0]{age}, '<', 60 * 60, 'and its age' );
is_deeply( json( $nginx->get('/status/keyvals/flags') ), { a => 'one', b => 'two' }, 'the content of one' );
is( $nginx->get('/status/keyvals/none')->{status}, 404, 'of none' );
is( $nginx->get('/quiet/keyvals/flags')->{status}, 403, 'values may be secret' );
is( $nginx->get('/quiet/keyvals')->{status},       200, 'what there is, is not' );
my $metrics = parse_metrics( $nginx->get('/status/metrics')->{body} );
is( $metrics->{'nginx_timer_keyval_entries{zone="flags"}'}, 2, 'entries' );
cmp_ok( $metrics->{'nginx_timer_keyval_bytes{zone="flags"}'}, '>', 100, 'bytes' );
ok( exists $metrics->{'nginx_timer_keyval_age_seconds{zone="flags"}'}, 'age' );
like( json( $nginx->get('/status/timers') )->{keyvals}[0], qr/\Akeyval flags: 2 keys, \d+ s old\z/, 'a line for the page' );
like( $nginx->get( '/status/', headers => "Accept: text/html\r\n" )->{body}, qr/<p>keyval flags: 2 keys, \d+ s old<\/p>/, 'on the page' );

# A reload keeps all of it: the same memory, or what fits.
$nginx->reload_all;
is( value(), 'one|net|x', 'over a reload' );
$nginx->write_conf( conf( zones => { flags => "1m state=$dir/flags.json", plain => '64k type=ip', ip => '128k type=ip' } ) )->reload_all;
is( value(), 'one|net|x', 'of another size, and of another type' );
$nginx->write_conf( conf( zones => { flags => "64k type=ip state=$dir/flags.json" } ) )->reload_all;
is( value(), '|net|x', 'what does not fit is not there' );
ok( $nginx->wait_log(qr/\[warn\].* keyval "flags": line \d+: "[ab]" is not an address and not a network, it is empty/), 'and this is told' );
sub refused { return ( map { $_->{error} } grep { $_->{zone} eq 'flags' } @{ json( $nginx->get('/status/keyvals') )->{keyvals} } )[0] }
like( refused(), qr/\Aline \d: "[ab]" is not an address and not a network\z/, 'and in the API' );
$nginx->write_conf( conf() )->reload_all;
wait_value( 'one|net|x', 'from the state file' );
is( refused(), undef, 'and that of it is over' );
spew( "$served/content.txt", "a\n" x 2 );
run('flags');
like( refused(), qr/line 2: duplicate key "a"/, 'what was refused' );
for my $size ( '64k', '1m' ) {
    $nginx->write_conf( conf( zones => { flags => "$size state=$dir/flags.json" } ) )->reload_all;
    like( refused(), qr/line 2: duplicate key "a"/, "is known after a reload, $size" );
}
$nginx->write_conf( conf() )->reload_all;

# A restart has what the file has.
my $restart = sub { $nginx->stop; $nginx->start; return };
unlink "$served/content.txt";
$restart->();
is( value() =~ s/\|.*//r, 'one', 'over a restart' );
is( run('flags'), 'failure', 'while there is nothing to fetch' );
is( value() =~ s/\|.*//r, 'one', 'still' );

# A test of the configuration, and a signal, leave damaged files where they are; nginx moves them aside.
$nginx->stop;
my $good = saved();
spew( "$dir/flags.json", $good =~ s/one/two/r );
$nginx->test_conf;
ok( !-e "$dir/flags.json.bad", 'nginx -t moves nothing' );
$nginx->start;
ok( $nginx->wait_log(qr/\[crit\].* keyval "flags": state file "\Q$dir\E\/flags\.json" is damaged, moved to "\Q$dir\E\/flags\.json\.bad"/), 'a damaged file' );
is( value() =~ s/\|.*//r, '', 'is no content' );
ok( -e "$dir/flags.json.bad" && !-e "$dir/flags.json", 'and is moved aside' );

for my $case (
    [ 'is a symbolic link',    sub { symlink '/etc/passwd', "$dir/flags.json" } ],
    [ 'is not a regular file', sub { system 'mkfifo', "$dir/flags.json" } ],
    [ 'has another link',      sub { spew( "$dir/flags.json", $good ); link "$dir/flags.json", "$dir/other" } ],
    [ 'is damaged',            sub { spew( "$dir/flags.json", '' ) } ],
    [ 'is damaged',            sub { spew( "$dir/flags.json", substr $good, 0, 40 ) } ],
    [ 'is damaged',            sub { spew( "$dir/flags.json", "\0" x 5000 ) } ],
    [ 'is too large',          sub { spew( "$dir/flags.json", 'x' x 500_000 ) } ],
    )
{
    my ( $what, $make ) = @$case;
    $nginx->stop;
    unlink "$dir/flags.json.bad";
    $make->();
    $nginx->start;
    ok( $nginx->wait_log(qr/\[crit\].* state file "\Q$dir\E\/flags\.json" $what, moved to/), "one that $what" );
    is( refused(), "state file $what", 'and the API says so' );
}
is( slurp('/etc/passwd') =~ /root/ ? 1 : 0, 1, 'what a link leads to is not touched' );

# A directory may be in use for something else.
$nginx->stop;
unlink "$dir/flags.json", "$dir/flags.json.bad";
mkdir "$dir/flags.json";
spew( "$dir/flags.json/other", 'x' );
$nginx->start;
ok( $nginx->wait_log(qr/\[crit\].* keyval "flags": state file "\Q$dir\E\/flags\.json" is not read \(21: Is a directory\)/), 'a directory' );
ok( -e "$dir/flags.json/other", 'stays where it is' );
{
    # What cannot be put in its place is told, and not tried again before the next content.
    spew( "$served/content.txt", "a directory\n" );
    run('flags');
    ok( $nginx->wait_log(qr/\[error\].* keyval "flags": state file "\Q$dir\E\/flags\.json" is not written \(21: Is a directory\)/), 'and is not written over' );
    wait_until { !glob "$dir/flags.json.tmp-*" };
    my $before = ( Time::HiRes::stat($dir) )[9];
    run('ip') for 1 .. 3;
    is( ( Time::HiRes::stat($dir) )[9], $before, 'no further try' );
    unlink "$served/content.txt";
}
unlink "$dir/flags.json/other";
rmdir "$dir/flags.json";

# What cannot be read or written is told, and no more.
spew( "$served/content.txt", "a three\n" );
$nginx->stop;
unlink "$dir/flags.json.bad";
spew( "$dir/flags.json", $good );
$nginx->start;
is( value() =~ s/\|.*//r, 'one', 'as it was' );
SKIP: {
    skip 'runs as another user', 4 if $> != 0;
    chmod 0755, $dir;
    is( run('flags'), 'success', 'a directory that workers may not write to any more' );
    ok( $nginx->wait_log(qr/\[error\].* keyval "flags": state file "\Q$dir\E\/flags\.json" is not written \(13: Permission denied\)/), 'is told' );
    is( value() =~ s/\|.*//r, 'three', 'the content is there all the same' );
    chmod 0777, $dir;
    run('flags');
    wait_until { saved() =~ /"a":"three"/ };
    ok( saved() =~ /"a":"three"/, 'and is written later, though it has not changed since' );
}

# Temporary files: what was left is removed, at a load and by a worker that writes for the first time; but not what
# somebody else may be writing now, such as an nginx in another container, whose workers may have the same pids.
sub temporary { my ( $number, $age ) = @_; my $path = spew( "$dir/flags.json.tmp-$number", $number ); utime time - $age, time - $age, $path; return $path }
my ( $old, $new, $other ) = ( temporary( '0123456789abcdef', 700 ), temporary( '0123456789abcde0', 300 ), temporary( 'mine', 7000 ) );
my $foreign = "$dir/flags.jsonx.tmp-0123456789abcdef";
spew( $foreign, 'x' );
utime 1, 1, $foreign;
my @same_pid = map { temporary( $_, 0 ) } $nginx->workers;
spew( "$served/content.txt", "a pids\n" );
run('flags');
wait_until { saved() =~ /"a":"pids"/ };
ok( saved() =~ /"a":"pids"/, 'written' );
is( join( ' ', map { slurp($_) } @same_pid ), join( ' ', $nginx->workers ), 'beside those of the same pids' );
$nginx->reload_all;
ok( !-e $old, 'what was left is removed' );
ok( -e $_, "$_ is not" ) for $new, $other, $foreign, @same_pid;
unlink $other, $foreign, @same_pid;
$old = temporary( '0123456789abcdef', 700 );
spew( "$served/content.txt", "a again\n" );
run('flags');
ok( ( wait_until { !-e $old } ), 'by a worker, too' );
wait_until { saved() =~ /"a":"again"/ };
ok( -e $new, 'not what is new' );
unlink $new;
is( join( ' ', glob "$dir/flags.json.tmp-*" ), '', 'and there are no others' );

# A worker is killed while it writes, again and again: there is the old content, or the new one.
spew( "$served/content.txt", join '', "a n0\n", map {"k$_ v\n"} 1 .. 900 );
run('flags');
for my $n ( 1 .. 8 ) {
    spew( "$served/content.new", join '', "a n$n\n", map {"k$_ v$n\n"} 1 .. 900 );
    rename "$served/content.new", "$served/content.txt";
    $api->order('/timers/flags/run');
    my $pid = ( $nginx->workers )[ $n % 2 ];
    $nginx->signal( KILL => $pid );
    $nginx->wait_gone( [$pid] );
    wait_until { scalar $nginx->workers == 2 };
    my $values = value();
    push @{ $nginx->{allow} }, qr/$pid exited on signal 9/;
    like( $values, qr/\An\d\|/, "content after a kill: $values" );
}
wait_until { run('flags') eq 'success' };
like( value(), qr/\An8\|/, 'and the newest one in the end' );
wait_until { saved() =~ /"a":"n8"/ };
$nginx->stop;
done_testing;
