#!/usr/bin/perl

# "timer_state memory", and memory for want of a place: the same promises but for restarts.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

in_namespace() if $> == 0;
share_binaries();

my $backend = TimerTest::Backend->start;
my $far     = 'every=366d first=now';

sub next_run {
    my ($name) = @_;
    my $seen   = $backend->requests( timer => $name );
    my @runs   = $backend->wait_requests( $seen + 1, timer => $name, ended => 1 );
    return $runs[-1];
}

# Memory: no file; kept over a reload and a crash of all workers, forgotten over a restart.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    state   => 'memory',
    server  => timer( $backend, 'm', 'every=200ms' ) . timer( $backend, 'mf', $far ) . timer( $backend, 'mh', 'every=500ms', 'hang' ) . timer( $backend, 'many', 'every=100ms', 'ok', 'timer_worker any;' ),
    allow   => [qr/exited on signal 9/],
);
$nginx->start;
ok( $backend->wait_requests( 3, timer => 'm' ), 'memory: it runs' );
ok( $backend->wait_requests( 1, timer => 'mf' ), 'memory: first=now, too' );
logged( $nginx, qr/\[notice\].* timer: \d timers in this worker, slot 0(?!.*state file)/, 'memory: without a file' );
ok( !glob( $nginx->prefix . '/*.state*' ), 'there is none' );
for ( 1 .. 3 ) {
    $nginx->reload;
    next_run('m');
}
ok( next_run('m')->{headers}{'x-success'}, 'memory: a reload keeps the records' );
my $zero = $nginx->worker_in_slot(0);
my $dead_at = time;
my @workers = children_of( $nginx->pid );
kill 'KILL', @workers;
logged( $nginx, qr/timer "mh": run interrupted: process \d+ died/, 'memory: a killed run is told of' );
ok( wait_until( sub { my $heir = $nginx->worker_in_slot(0) // 0; requests_by( $heir, $backend->requests( timer => 'm' ) ) && $heir != $zero } ), 'memory: its successor goes on' );
is( scalar( $backend->requests( timer => 'mf' ) ), 1, 'memory: no first run again' );
logged_times( $nginx, qr/\[(?:warn|crit)\](?!.* due times? )/, 0, 'memory: nothing to warn of' );
my %killed = map { $_ => $dead_at } @workers;
my @mine = map { $backend->requests( timer => $_ ) } qw( m mf many );
no_doubles( 'memory', @mine );
no_overlaps( 'memory', \%killed, @mine );
$nginx->stop('TERM');
$nginx->start;
ok( $backend->wait_requests( 2, timer => 'mf' ) >= 2, 'memory: a restart forgets' );
$nginx->stop('TERM');

# From memory to a file and back.
$nginx = TimerTest::Nginx->new( workers => 2, state => 'memory', server => timer( $backend, 'moves', 'every=100ms' ) . timer( $backend, 'movesf', $far ) );
$nginx->start;
ok( $backend->wait_requests( 1, timer => 'movesf' ), 'a state in memory' );
$nginx->write_conf( state => undef );
$nginx->reload_all;
$nginx->wait_log( qr/timer "moves": run succeeded/, 3 + $nginx->log_lines(qr/timer "moves": run succeeded/) );
ok( -s $nginx->prefix . '/timers.state', 'is a file after a reload' );
$nginx->stop;

# The default directory cannot be written: memory, with one warning, and again at each load.
sub judge_fallback {
    my ( $title, $nginx, $file, $errno ) = @_;
    my $name = 'fb-' . $title =~ s/\W/-/gr;
    $nginx->write_conf( state => 'default', server => timer( $backend, $name, 'every=100ms' ) . timer( $backend, "$name-f", $far ) );
    $nginx->start;
    ok( $backend->wait_requests( 3, timer => $name ), "$title: timers run" );
    is( $nginx->get('/ready')->{status}, 200, "$title: nginx serves" );
    logged( $nginx, qr/\[warn\].* state file: open\(\) "\Q$file\E" failed, state is kept in memory \($errno\)/, "$title: it is said" );
    logged_times( $nginx, qr/\[(?:warn|error|crit)\].*state/, 1, "$title: once" );
    $nginx->reload_all;
    my $worker = $nginx->worker_in_slot(0);
    ok( wait_until( sub { requests_by( $worker, $backend->requests( timer => $name ) ) >= 2 } ), "$title: they go on after a reload" );
    is( scalar( $backend->requests( timer => "$name-f" ) ), 1, "$title: which keeps the records" );
    no_doubles( $title, $backend->requests( timer => $name ) );
    $nginx->stop;
    return;
}

my ($configure)   = ( run_command( nginx_binary(), '-V' ) )[1] =~ /^configure arguments: (.*)/m;
my ($compiled_in) = $configure =~ m{--http-client-body-temp-path=(/\S+)/[^/\s]+};
SKIP: {
    skip 'not root', 16 if $> != 0;

    # A disk that is read-only, but for the logs and what nginx makes at its start.
    my $nginx     = TimerTest::Nginx->new( workers => 2 );
    my $directory = $compiled_in // $nginx->prefix;
    my @writable  = $compiled_in ? () : ( 'logs', 'conf', map {"${_}_temp"} qw( client_body proxy fastcgi uwsgi scgi ) );
    mkdir "$directory/$_" for @writable;
    my @mounts = ( [ '--bind', $directory, $directory ], [ '-o', 'remount,bind,ro', $directory ] );
    # The writable ones first by the outer mount, which the bind makes a copy of.
    my $aside = scratch_dir();
    for my $name (@writable) {
        mkdir "$aside/$name";
        push @mounts, [ '--bind', "$aside/$name", "$directory/$name" ];
    }
    my $failed = 0;
    for (@mounts) { my ( $status, $out ) = run_command( 'mount', @$_ ); $failed++, diag $out if $status ne '0' }
    skip 'cannot mount', 16 if $failed;
    chmod 0777, map {"$aside/$_"} @writable;
    judge_fallback( 'a read-only disk', $nginx, "$directory/timers.state", '30: Read-only file system' );

    # A user that may not write there.
    my ( $user, undef, $uid, $gid ) = getpwnam('daemon');
    skip 'the default place of this nginx is not in its prefix', 8 if $compiled_in;
    skip 'no user "daemon"', 8 if !$user;
    skip 'no setpriv', 8 if !grep { -x "$_/setpriv" } split /:/, $ENV{PATH};
    $nginx = TimerTest::Nginx->new( workers => 2, wrapper => "setpriv --reuid=$uid --regid=$gid --clear-groups" );
    my $prefix = $nginx->prefix;
    for my $name ( 'logs', 'conf', map {"${_}_temp"} qw( client_body proxy fastcgi uwsgi scgi ) ) {
        mkdir "$prefix/$name";
        chown $uid, $gid, "$prefix/$name";
    }
    judge_fallback( 'a user that may not', $nginx, "$prefix/timers.state", '13: Permission denied' );

    # The same user, with a directory of its own.
    $nginx = TimerTest::Nginx->new( workers => 2, wrapper => "setpriv --reuid=$uid --regid=$gid --clear-groups" );
    $prefix = $nginx->prefix;
    mkdir "$prefix/${_}_temp" for qw( client_body proxy fastcgi uwsgi scgi );
    chown $uid, $gid, $prefix, glob "$prefix/*";
    $nginx->write_conf( state => 'default', server => timer( $backend, 'own-user', 'every=100ms' ) );
    $nginx->start;
    ok( $backend->wait_requests( 3, timer => 'own-user' ), 'a user that may: timers run' );
    is( ( stat "$prefix/timers.state" )[4], $uid, 'with a file of its own' );
    logged_times( $nginx, qr/\[(?:warn|error|crit)\].*state/, 0, 'and nothing to warn of' );
    $nginx->stop;
}

done_testing;
