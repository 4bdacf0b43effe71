#!/usr/bin/perl

# Where the state is, whose it is, and what is kept in it by name: over reloads that add, remove, rename
# and reorder timers, over restarts and crashes.

use strict;
use warnings;

use Fcntl qw( :mode );
use IO::Socket::INET ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;

# One test each: the newest run of a timer knows the start of its last success; answers the run.
sub next_run {
    my ($name) = @_;
    my $seen   = $backend->requests( timer => $name );
    my @runs   = $backend->wait_requests( $seen + 1, timer => $name, ended => 1 );
    return $runs[-1];
}

# A file that is named, relative and absolute.
my ($configure)   = ( run_command( nginx_binary(), '-V' ) )[1] =~ /^configure arguments: (.*)/m;
my ($compiled_in) = $configure =~ m{--http-client-body-temp-path=(/\S+)/[^/\s]+};
for my $case ( [ 'relative.state', 'conf/relative.state' ], [ scratch_dir() . '/named.state' ], [ 'default', 'timers.state' ] ) {
    my ( $value, $relative ) = @$case;
    if ( $value eq 'default' && $compiled_in ) {
        next;    # not ours to write to
    }
    my $nginx = TimerTest::Nginx->new( state => $value, server => timer( $backend, "named-$value" =~ s/\W/-/gr, 'every=50ms' ) );
    my $path  = $relative ? $nginx->prefix . "/$relative" : $value;
    # nginx -V does not tell whether a relative path is one in the prefix or beside the configuration.
    $nginx->start;
    my $in_conf = $path;
    $path = $nginx->prefix . "/$value" if $relative && !-e $path && -e $nginx->prefix . "/$value";
    ok( -f $path, "timer_state $value: a file" ) or diag $in_conf;
    my @stat = stat $path;
    is( sprintf( '%04o', S_IMODE( $stat[2] ) ), '0600', 'for its owner alone' );
    my ($uid) = slurp( '/proc/' . $nginx->worker_in_slot(0) . '/status' ) =~ /^Uid:\s+(\d+)/m;
    is( $stat[4], $uid, 'who is the worker user' );
    is( $stat[7] % 4096, 0, 'whole pages' );
    logged( $nginx, qr/\[notice\].* timer: 1 timer in this worker, slot 0, state file "\Q$path\E"/, 'it is named at the start' );
    logged_times( $nginx, qr/\[(?:warn|error|crit)\](?!.*(?:due times?|run)[ ,])/, 0, 'there is nothing to warn of' );
    $nginx->stop;
    ok( -f $path && !-e "$path.new" && !-e "$path.bad", 'it is still there, and alone' );
}

# Each name keeps its record: its last success is what the timer's next run is told.
my $far   = 'every=366d first=now';
my $tick  = timer( $backend, 'tick', 'every=50ms' );
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => $tick . timer( $backend, 'a', 'every=300ms' ) . timer( $backend, 'b', 'every=400ms', 'status/500' ) . timer( $backend, 'c', $far ) . timer( $backend, 'd', $far ),
    allow   => [qr/exited on signal 9/],
);
my $file = $nginx->prefix . '/timers.state';
$nginx->start;
for my $name (qw( a b c d )) { ok( $backend->wait_requests( 2 - ( $name =~ /[cd]/ ), timer => $name, ended => 1 ), "$name runs" ) }
is( ( $backend->requests( timer => 'c' ) )[0]{headers}{'x-trigger'}, 'first',    'first=now at once' );
is( ( $backend->requests( timer => 'c' ) )[0]{headers}{'x-success'} // '', '',     'with no success before' );
is( ( $backend->requests( timer => 'a' ) )[0]{headers}{'x-trigger'}, 'schedule', 'others when they are due' );

my @steps = (
    [ 'reordered, and some more' => sub { join '', timer( $backend, 'new1', $far ), timer( $backend, 'd', $far ), timer( $backend, 'b', 'every=400ms', 'status/500' ), timer( $backend, 'a', 'every=300ms' ), timer( $backend, 'new2', $far ), timer( $backend, 'c', $far ), $tick } ],
    [ 'some removed'             => sub { join '', $tick, timer( $backend, 'a', 'every=300ms' ), timer( $backend, 'new2', $far ) } ],
    [ 'renamed'                  => sub { join '', $tick, timer( $backend, 'a', 'every=300ms' ), timer( $backend, 'renamed', $far ) } ],
    [ 'all back, and many more' => sub { join '', ( map { timer( $backend, "many$_", $far ) } 1 .. 40 ), timer( $backend, 'c', $far ), timer( $backend, 'd', $far ), timer( $backend, 'new1', $far ), timer( $backend, 'new2', $far ), timer( $backend, 'b', 'every=400ms', 'status/500' ), timer( $backend, 'a', 'every=300ms' ), $tick } ],
);
for my $step (@steps) {
    my ( $title, $server ) = @$step;
    my $before = read_records($file);
    $nginx->write_conf( server => $server->() );
    $nginx->reload_all;
    my $run = next_run('a');
    my ($last) = reverse grep { $_->{arrived} < $run->{arrived} } $backend->requests( timer => 'a' );
    ok( $run->{headers}{'x-success'} > $run->{arrived} - 60, "$title: a knows its last success" );
    cmp_ok( abs( 1000 * $run->{headers}{'x-success'} - start_ms($last) ), '<', 1.5, "$title: which was that before" );
    my $after = read_records($file);
    is( join( ' ', map {"$_:$after->{$_}{page}"} sort keys %$before ), join( ' ', map {"$_:$before->{$_}{page}"} sort keys %$before ), "$title: each record stays where it is" );
    is( $after->{c}{created}, $before->{c}{created}, "$title: and what it is" );
}
my $failing = next_run('b');
is( $failing->{headers}{'x-success'} // '', '', 'b, which fails, has had no success' );
ok( wait_until( sub { 40 == grep { $backend->requests( timer => "many$_" ) } 1 .. 40 } ), 'each of the many has its first run' );
my %firsts = map { $_ => scalar $backend->requests( timer => $_ ) } qw( c d new1 new2 renamed ), map {"many$_"} 1 .. 40;
is( join( ' ', grep { $firsts{$_} != 1 } sort keys %firsts ), '', 'first=now once for each name, whatever became of the configuration' );

# A restart, a crash, and a crash of all.
$nginx->stop;
$nginx->start;
my $run = next_run('a');
ok( $run->{headers}{'x-success'}, 'after a restart a knows its last success' );
kill 'KILL', $nginx->workers;
next_run('a') for 1 .. 2;
my @all = ( $nginx->pid, children_of( $nginx->pid ) );
kill 'KILL', @all;
$nginx->wait_exit;
$nginx->wait_gone( \@all );
unlink $nginx->prefix . '/logs/nginx.pid';
$nginx->start;
$run = next_run('a');
ok( $run->{headers}{'x-success'}, 'after a crash, too' );
is( join( ' ', grep { $backend->requests( timer => $_ ) != 1 } sort keys %firsts ), '', 'and no first run again' );
$nginx->stop;

# Descriptors: the master holds one, each worker one of its own, the cache manager none, after however
# many reloads.
sub held { my ( $pid, $file ) = @_; return scalar grep { ( readlink($_) // '' ) eq $file } glob "/proc/$pid/fd/*" }
$nginx = TimerTest::Nginx->new(
    workers => 2,
    http    => 'proxy_cache_path cache keys_zone=x:1m;',
    server  => timer( $backend, 'fd', 'every=50ms' ),
);
$file = $nginx->prefix . '/timers.state';
$nginx->start;
$nginx->reload_all for 1 .. 5;
next_run('fd');
# Who has just been started still has what the master has.
wait_until { 1 == held( $nginx->pid, $file ) && !grep { held( $_, $file ) != 1 } $nginx->workers };
is( held( $nginx->pid, $file ), 1, 'the master holds one descriptor' );
my @workers = $nginx->workers;
is( join( ' ', map { held( $_, $file ) } @workers ), '1 1', 'each worker one' );
my %worker = map { $_ => 1 } @workers;
my @helpers = grep { !$worker{$_} } children_of( $nginx->pid );
wait_until { !grep { held( $_, $file ) } @helpers };
is( join( ' ', map { held( $_, $file ) } @helpers ), join( ' ', map {0} @helpers ), 'cache manager and loader none: ' . @helpers );

# A reload that fails when everything was read, at a port that is taken, has changed nothing.
my $taken = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1 );
$nginx->write_conf( server => timer( $backend, 'fd', 'every=50ms' ) . timer( $backend, 'idle', $far ) . timer( $backend, 'off', "$far enabled=off" ) );
$nginx->reload_all;
ok( $backend->wait_requests( 1, timer => 'idle', ended => 1 ), 'a timer has had its first run' );
my $control = sub {
    my $records = read_records($file);
    return join ', ', map { my $r = $records->{$_}; "$_: @$r{qw( created not_before )}" } grep { $records->{$_} } qw( fd idle off new );
};
wait_until { read_records($file)->{idle}{progress} == 0 };
my $before = $control->();
my $other  = 'every=10h offset=' . ( ( int( time * 1000 ) - 60_000 ) % 36_000_000 ) . 'ms';
$nginx->write_conf( server => 'listen 127.0.0.1:' . $taken->sockport . ';' . timer( $backend, 'fd', 'every=50ms' ) . timer( $backend, 'idle', $other ) . timer( $backend, 'off', $other ) . timer( $backend, 'new', "$other first=now" ) );
$nginx->{allow} = [qr/\[emerg\].*(?:bind\(\) to|still could not bind)/];
$nginx->signal('HUP');
logged( $nginx, qr/\[emerg\].*still could not bind/, 'a reload fails at a port that is taken' );
next_run('fd');
# A record may have been allocated for the new name; nothing was said of it yet.
my $after = $control->();
$after =~ s/, new: .*//;
is( $after, $before, 'what the records say of the timers is as it was' );
is( scalar( $backend->requests( timer => 'new' ) ), 0, 'a new timer has not run' );
close $taken;
$nginx->reload_all;
ok( $backend->wait_requests( 1, timer => 'new' ), 'the same configuration is taken up when the port is free; its first=now runs' );
is( scalar( $backend->requests( timer => $_ ) ), $_ eq 'idle' ? 1 : 0, "$_ is not fired" ) for qw( idle off );
$nginx->stop;

done_testing;
