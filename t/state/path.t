#!/usr/bin/perl

# Where the state may be kept: what is no place for a state file is a configuration error, at a test, at
# a start and at a reload, after which master and workers are as they were. nginx -t, -T and -s write
# nothing and need no right to read the file.

use strict;
use warnings;

use Fcntl qw( :mode );
use Socket qw( AF_UNIX SOCK_STREAM );
use POSIX ();
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Conf;
use TimerTest::Nginx;
use TimerTest::Series;

share_binaries();

my $backend = TimerTest::Backend->start;
my $timer   = 'server { listen 127.0.0.1:1; location @y { timer y every=1s; return 204; } }';
my $root    = scratch_dir();

# The directive.
my $conf = TimerTest::Nginx->new( state => 'default', wrapper => '' );

sub judge {
    my ($http) = @_;
    $conf->write_conf( http => $http, server => 'location @x { timer x every=1s; return 204; }' );
    return $conf->test_conf;
}
for (
    [ 'timer_state memory; timer_state memory;' => qr/"timer_state" directive is duplicate/ ],
    [ 'timer_state;'                            => qr/invalid number of arguments in "timer_state" directive/ ],
    [ 'timer_state a b;'                        => qr/invalid number of arguments in "timer_state" directive/ ],
    [ 'timer_state "";'                         => qr/invalid value ""/ ],
    [ 'timer_state state/;'                     => qr/invalid value "state\/"|is not a regular file|is a directory/ ],
    )
{
    my ( $ok, $out ) = judge( $_->[0] );
    ok( !$ok, "refused: $_->[0]" );
    like( $out, qr/\[emerg\].*$_->[1].* in \S+nginx\.conf:\d+/, 'in nginx\'s words' );
}
for my $where (qw( server location )) {
    my $line = 'timer_state memory;';
    $conf->write_conf( http => '', server => $where eq 'server' ? $line : "location /x/ { $line }" );
    my ( $ok, $out ) = $conf->test_conf;
    like( $out, qr/"timer_state" directive is not allowed here/, "not in $where" );
}
for my $good ( 'timer_state memory;', "timer_state $root/good.state;", 'timer_state conf/relative.state;' ) {
    my ( $ok, $out ) = judge($good);
    ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, "accepted: $good" ) or diag $out;
}
ok( !-e "$root/good.state",                          'a test makes no file' );
ok( !-e $conf->prefix . '/conf/relative.state',      'nor a relative one' );
ok( !-e $conf->prefix . '/timers.state',             'nor the default one' );

# What stands at the path, and the words for it.
mkdir "$root/directory.state";
spew( "$root/elsewhere", '' );
symlink "$root/elsewhere", "$root/link.state";
symlink "$root/nowhere",   "$root/dangling.state";
spew( "$root/linked.state", '' );
link "$root/linked.state", "$root/linked.too";
POSIX::mkfifo( "$root/fifo.state", 0600 );
socket my $socket, AF_UNIX, SOCK_STREAM, 0;
bind $socket, Socket::pack_sockaddr_un("$root/socket.state");
spew( "$root/foreign.state", '' );
spew( "$root/text.state", "not a state file\n" x 1000 );
spew( "$root/file", '' );

my @bad = (
    [ "$root/none/x.state",    qr/failed \(2: No such file or directory\)/, 'state file: open() ' ],
    [ "$root/file/x.state",    qr/failed \(20: Not a directory\)/,          'state file: open() ' ],
    [ "$root/directory.state", qr/is not a regular file/ ],
    [ "$root/link.state",      qr/is a symbolic link/ ],
    [ "$root/dangling.state",  qr/is a symbolic link/ ],
    [ "$root/linked.state",    qr/has 2 links/ ],
    [ "$root/fifo.state",      qr/is not a regular file/ ],
    [ "$root/socket.state",    qr/is not a regular file/ ],
    [ '/dev/null',             qr/is not a regular file/ ],
);
push @bad, [ "$root/text.state", qr/is not a state file/ ];
my $root_only = $> == 0;
# Who will start nginx, a test cannot know; a start can.
my @by_a_start;
if ($root_only) {
    chown 12345, 12345, "$root/foreign.state";
    push @by_a_start, [ "$root/foreign.state", qr/is owned by user 12345, neither by root nor by the worker user, give it to user \d+ with "chown"/ ];
}
# Each is a path, what is said of it, and what comes before it.
$_->[2] //= 'state file ' for @bad, @by_a_start;

sub shape {
    my ($path) = @_;
    my @stat = lstat $path or return 'nothing';
    return join ',', @stat[ 0 .. 5, 7, 9, 10 ];
}

# At a test, which finds what a start would.
for my $bad (@bad) {
    my ( $path, $words, $what ) = @$bad;
    my $before = shape($path);
    my ( $ok, $out ) = judge("timer_state $path;");
    ok( !$ok, "-t refuses $path" );
    like( $out, qr/\[emerg\].*\Q$what\E"\Q$path\E" $words/, 'and says why' );
    is( shape($path), $before, 'and leaves it as it is' );
}
for my $bad (@by_a_start) {
    my ( $path, $words ) = @$bad;
    my ( $ok, $out ) = judge("timer_state $path;");
    ok( $ok, '-t does not refuse the file of another user' ) or diag $out;
    like( $out, qr/\[warn\].*state file "\Q$path\E" $words/, 'but warns' );
    unlike( $out, qr/\[(?:error|crit|alert|emerg)\]/, 'and no more' );
}

# At a start.
for my $bad ( @bad, @by_a_start ) {
    my ( $path, $words, $what ) = @$bad;
    my $before = shape($path) . slurp( -f $path ? $path : '/dev/null' );
    $conf->write_conf( http => "timer_state $path;", server => 'location @x { timer x every=1s; return 204; }' );
    my ( $status, $out ) = run_command( nginx_binary(), '-p', $conf->prefix . '/', '-c', $conf->conf_file, '-e', $conf->error_log, '-g', 'daemon off;' );
    is( $status, 256, "a start refuses $path" );
    like( $out, qr/\[emerg\].*\Q$what\E"\Q$path\E" $words/, 'and says why' );
    is( shape($path) . slurp( -f $path ? $path : '/dev/null' ), $before, 'and leaves it as it is' );
}

# At a reload: master and workers, and the timers in them, go on.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    state   => 'memory',
    server  => timer( $backend, 'tick', 'every=50ms' ),
    allow   => [qr/\[emerg\].*state file(?:: open\(\))? "/],
);
$nginx->start;
ok( $backend->wait_requests( 3, timer => 'tick' ), 'an nginx that runs' );
my @workers = $nginx->workers;
my $master  = $nginx->pid;
for my $bad ( @bad, @by_a_start ) {
    my ( $path, $words, $what ) = @$bad;
    my $before = shape($path);
    $nginx->write_conf( state => $path );
    $nginx->signal('HUP');
    logged( $nginx, qr/\[emerg\].*\Q$what\E"\Q$path\E" $words/, "a reload refuses $path" );
    my $seen = $backend->requests( timer => 'tick' );
    ok( $backend->wait_requests( $seen + 3, timer => 'tick' ) >= $seen + 3, 'the timers go on' );
    is( shape($path), $before, 'the file is as it was' );
}
is( join( ' ', $nginx->workers ), "@workers", 'the workers are the same' );
is( $nginx->get('/ready')->{status}, 200, 'and serve' );
ok( $nginx->alive, 'the master is the same' );

# A reload that is refused for another reason has changed nothing in the state, and made no file.
my $later = "$root/later.state";
$nginx->write_conf( state => $later, server => timer( $backend, 'tick', 'every=50ms' ) . 'bad_directive;' );
$nginx->signal('HUP');
logged( $nginx, qr/\[emerg\].*unknown directive "bad_directive"/, 'a configuration that is bad elsewhere' );
ok( !-e $later, 'makes no state file' );
$nginx->{allow} = [ qr/\[emerg\].*state file(?:: open\(\))? "/, qr/unknown directive "bad_directive"/ ];
$nginx->write_conf( state => $later, server => timer( $backend, 'tick', 'every=50ms' ) );
my @old = $nginx->reload;
ok( $nginx->wait_gone( \@old ), 'a good one is taken up' );
my $seen = $backend->requests( timer => 'tick' );
ok( $backend->wait_requests( $seen + 3, timer => 'tick' ) >= $seen + 3, 'and runs' );
my @stat = stat $later;
is( sprintf( '%04o', S_IMODE( $stat[2] ) ), '0600', 'the new file is for its owner alone' );
my $worker = $nginx->worker_in_slot(0);
my ($uid) = slurp("/proc/$worker/status") =~ /^Uid:\s+(\d+)/m;
is( $stat[4], $uid, 'who is the worker' );
is( $stat[3], 1, 'it has one link' );
ok( !-e "$later.new", 'and nothing is left of its making' );

# nginx -t, -T, -s write nothing.
SKIP: {
    stand_still( @workers = $nginx->workers );
    my $before = shape($later) . slurp($later);
    for my $option ( ['-t'], ['-T'], [qw( -s reopen )] ) {
        my ( $status, $out ) = run_command( nginx_binary(), '-p', $nginx->prefix . '/', '-c', $nginx->conf_file, '-e', $nginx->error_log, @$option );
        is( $status, 0, "nginx @$option" ) or diag $out;
        is( shape($later) . slurp($later), $before, 'writes nothing' );
    }
    $nginx->signal('CONT', $_) for @workers;

    # By somebody who may not read it.
    my ($user) = grep { my @pw = getpwnam $_; @pw && $pw[2] != $uid && $pw[2] } qw( daemon bin games );
    skip 'not root', 4 if !$root_only || !$user;
    skip 'no setpriv', 4 if !grep { -x "$_/setpriv" } split /:/, $ENV{PATH};
    chown 0, 0, $later;
    my $prefix = scratch_dir();
    mkdir "$prefix/$_" for qw( logs conf html );
    my $text = slurp( $nginx->conf_file );
    $text =~ s/\Q${\ $nginx->prefix }\E/$prefix/g;
    spew( "$prefix/conf/nginx.conf", $text );
    my ( undef, undef, $id ) = getpwnam $user;
    chown $id, $id, $prefix, glob "$prefix/*";
    for my $option (qw( -t -T )) {
        my ( $status, $out )
            = run_command( 'setpriv', "--reuid=$id", "--regid=$id", '--clear-groups', nginx_binary(), '-p', "$prefix/", '-c', "$prefix/conf/nginx.conf", '-e', "$prefix/logs/e.log", $option );
        is( $status, 0, "nginx $option by another user" ) or diag $out;
        lacks( $out, qr/\Q$later\E" \w+ failed/, 'needs no right to read the file' );
    }
}
$nginx->stop;

done_testing;
