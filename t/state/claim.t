#!/usr/bin/perl

# Whoever shares a state has one series: several workers, several nginx. The file of one instance is
# not for another one that has not been told so.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

# Two instances, with prefixes, ports and pid files of their own, on one named file: made by both at
# once, then with one that leaves, dies, comes back.
my $file   = scratch_dir() . '/shared.state';
my $server = join '', map { timer( $backend, "t$_", "every=${_}ms offset=0" ) } 50, 100, 500;
$server .= timer( $backend, 'busy', 'every=100ms offset=0', 'delay/0.25/ok' ) . timer( $backend, 'once', 'every=366d first=now' );
my @nginx = map { TimerTest::Nginx->new( workers => 2, state => $file, server => $server ) } 1, 2;
$_->start for @nginx;
ok( -s $file, 'two instances share a named file' );
my @zero = map { $_->worker_in_slot(0) } @nginx;
ok( $backend->wait_requests( 6, timer => 't500' ) >= 6, 'their timers run' );
my $began = ( $backend->requests( timer => 't500' ) )[0]{arrived};

# One is killed with all its workers: the other goes on.
my %killed;
my @victims = ( $nginx[0]->pid, children_of( $nginx[0]->pid ) );
$killed{$_} = time for @victims;
kill 'KILL', @victims;
$nginx[0]->wait_exit;
$nginx[0]->wait_gone( \@victims );
my $count = $backend->requests;
ok( wait_until( sub { requests_by( $zero[1], $backend->requests( timer => 't500' ) ) >= 3 } ), 'one is killed, the other goes on' );
my $pid_file = $nginx[0]->prefix . '/logs/nginx.pid';
unlink $pid_file;
$nginx[0]->start;
ok( $backend->wait_requests( $count + 20, ) >= $count + 20, 'the first is there again' );
my $zero = $nginx[0]->worker_in_slot(0);

# The other one leaves in peace.
$nginx[1]->stop;
$count = requests_by( $zero, $backend->requests( timer => 't500' ) );
ok( wait_until( sub { requests_by( $zero, $backend->requests( timer => 't500' ) ) >= $count + 3 } ), 'the other leaves, the first goes on' );
my $ended = ( $backend->requests( timer => 't500' ) )[-1]{arrived};
$nginx[0]->stop;

no_doubles( 'two instances', $backend->requests );
no_overlaps( 'two instances', \%killed, $backend->requests );
my $excused = { map { %{ $_->{t500} // {} } } map { interrupted_dues( $_->log ) } @nginx };
my @own  = $backend->requests( timer => 't500' );
my @lost = lost_awake( 500, [ grep { !$excused->{$_} } lost_dues( 500, $began, $ended, @own ) ], \@own, $beat );
is( scalar @lost, 0, 'no due time is lost' ) or diag "lost @lost";
is( scalar( $backend->requests( timer => 'once' ) ), 1, 'first=now is for one of them' );
for my $nginx (@nginx) {
    my @levels = grep { !/due times? left out|run interrupted|missed \d+ due times?/ } $nginx->log_lines(qr/\[(?:warn|error|crit)\]/);
    is( "@levels", '', 'nothing else to complain of' );
}

# Eight workers of two instances that all want each due time of short periods, while both are reloaded.
{
    my $shared = scratch_dir() . '/claimants.state';
    my %every  = ( c1 => 20, c2 => 20, c3 => 30, c4 => 100 );
    my $timers = join '', map { timer( $backend, $_, "every=$every{$_}ms offset=0", $_ eq 'c2' ? 'delay/0.015/ok' : 'ok', $_ eq 'c3' ? '' : 'timer_worker any;' ) } sort keys %every;
    my @pair   = map { TimerTest::Nginx->new( workers => 4, state => $shared, server => $timers ) } 1, 2;
    $_->start for @pair;
    for my $round ( 1 .. 10 ) {
        $pair[ $round % 2 ]->signal('HUP');
        my $seen = $backend->requests( timer => 'c1' );
        $backend->wait_requests( $seen + 15, timer => 'c1' );
    }
    $_->stop for @pair;
    my @runs = map { $backend->requests( timer => $_ ) } sort keys %every;
    no_doubles( 'many claimants', @runs );
    no_overlaps( 'many claimants', {}, @runs );
    my $records = read_records($shared);
    for my $name ( sort keys %every ) {
        is( $records->{$name}{interrupted}, 0, "$name: no run is taken for interrupted" );
        is( $records->{$name}{runs}, scalar( $backend->requests( timer => $name ) ), "$name: each run is in the record" );
        my $lost = accounted( $every{$name}, $records->{$name} );
        cmp_ok( $lost, '<=', 0,  "$name: every due time is accounted for" );
        cmp_ok( $lost, '>=', -5, "$name: hardly any twice" );
    }
}

# A master that is killed leaves its workers behind: they and another nginx have one series, too.
{
    my $shared  = scratch_dir() . '/orphans.state';
    my @timers  = map { timer( $backend, $_, /any/ ? 'every=100ms offset=0' : 'every=50ms offset=0', 'ok', /any/ ? 'timer_worker any;' : '' ) } qw( orphan orphan-any );
    my ( $dead, $heir ) = map { TimerTest::Nginx->new( workers => 2, state => $shared, server => join '', @timers ) } 1, 2;
    $dead->start;
    ok( $backend->wait_requests( 3, timer => 'orphan' ), 'an nginx' );
    my @orphans = children_of( $dead->pid );
    kill 'KILL', $dead->pid;
    wait_until { !$dead->alive };
    $heir->start;
    my $seen = $backend->requests( timer => 'orphan' );
    ok( $backend->wait_requests( $seen + 20, timer => 'orphan' ) >= $seen + 20, 'its master is killed, its workers and another nginx go on' );
    is( ( grep { is_alive($_) } @orphans ), 2, 'together' );
    my $at = time;
    kill 'KILL', @orphans;
    ok( wait_until( sub { requests_by( $heir->worker_in_slot(0), $backend->requests( timer => 'orphan' ) ) >= 3 } ), 'and when those are gone the other alone' );
    $heir->stop;
    my @runs = map { $backend->requests( timer => $_ ) } qw( orphan orphan-any );
    no_doubles( 'without a master', @runs );
    no_overlaps( 'without a master', { map { $_ => $at } @orphans }, @runs );
    $dead->kill_all;
}

# The default file belongs to one instance.
SKIP: {
    my ($configure) = ( run_command( nginx_binary(), '-V' ) )[1] =~ /^configure arguments: (.*)/m;
    skip 'the default place of this nginx is not in its prefix', 17 if $configure =~ /--http-client-body-temp-path=/;

    my $first = TimerTest::Nginx->new( state => 'default', server => timer( $backend, 'own', 'every=100ms' ) );
    $first->start;
    ok( $backend->wait_requests( 2, timer => 'own' ), 'an instance uses the default file' );
    my $prefix  = $first->prefix;
    my $default = "$prefix/timers.state";
    ok( -f $default, 'in its prefix' );

    # The same prefix, another pid file, another port.
    my $port = free_port();
    my $conf = slurp( $first->conf_file );
    $conf =~ s{/logs/nginx\.pid}{/logs/other.pid};
    $conf =~ s{/logs/error\.log}{/logs/other.log};
    $conf =~ s{127\.0\.0\.1:${\ $first->port }}{127.0.0.1:$port};
    my $other = spew( "$prefix/conf/other.conf", $conf );
    my @command = ( nginx_binary(), '-p', "$prefix/", '-c', $other, '-e', "$prefix/logs/other.log", '-g' );
    my ( $status, $out ) = run_command( @command, 'daemon off;' );
    isnt( $status, 0, 'another instance is refused' );
    like( $out, qr{\[emerg\].* state file "\Q$default\E" is in use by the nginx of "\Q$prefix\E/logs/nginx\.pid", set "timer_state"},
        'and told by whom, and what to do' );
    my $seen = $backend->requests( timer => 'own' );
    ok( $backend->wait_requests( $seen + 3, timer => 'own' ) >= $seen + 3, 'the first one goes on' );

    # It does as it was told.
    $conf =~ s/http \{/http { timer_state $prefix\/other.state;/;
    spew( $other, $conf );
    ( $status, $out ) = run_command( @command, 'daemon on;' );
    is( $status, 0, 'with a file of its own it starts' ) or diag $out;
    my ($pid) = wait_until { slurp("$prefix/logs/other.pid") =~ /(\d+)/ } ? slurp("$prefix/logs/other.pid") =~ /(\d+)/ : ();
    ok( wait_until( sub { http_request( $port, '/ready' )->{status} == 200 } ), 'and serves' );

    # A reload to the file of the other is refused as well.
    spew( $other, $conf =~ s/timer_state \S+;//r );
    my @workers = children_of($pid);
    kill 'HUP', $pid;
    ok( wait_until( sub { 2 <= grep {/\[emerg\].* is in use by the nginx of/} split /\n/, slurp("$prefix/logs/other.log") } ), 'a reload to the other\'s file is refused' );
    is( http_request( $port, '/ready' )->{status}, 200, 'it serves' );
    is( join( ' ', children_of($pid) ), "@workers", 'with the workers it had' );
    kill 'QUIT', $pid if $pid;
    ok( wait_until( sub { !is_alive($pid) } ), 'and ends' );

    # The file is free when its master has ended: then it is for whoever comes.
    $first->stop;
    $conf =~ s/timer_state \S+;//;
    spew( $other, $conf );
    ( $status, $out ) = run_command( @command, 'daemon on;' );
    is( $status, 0, 'when the first has ended, another may have the default file' ) or diag $out;
    ($pid) = wait_until { slurp("$prefix/logs/other.pid") =~ /(\d+)/ } ? slurp("$prefix/logs/other.pid") =~ /(\d+)/ : ();
    $seen = $backend->requests( timer => 'own' );
    ok( $backend->wait_requests( $seen + 2, timer => 'own' ) >= $seen + 2, 'and go on' );
    kill 'QUIT', $pid if $pid;
    ok( wait_until( sub { !is_alive($pid) } ), 'and ends' );
    my @bad = grep { /$TimerTest::Nginx::BAD_LINE/ && !/is in use by the nginx of/ } split /\n/, slurp("$prefix/logs/other.log");
    is( "@bad", '', 'with a clean log' );
}

done_testing;
