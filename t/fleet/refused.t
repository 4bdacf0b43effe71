#!/usr/bin/perl

# An etcd that refuses: users without rights, tokens that expire, a gateway that is off, a quota that is used up; and
# certificates. It is said, nothing is run meanwhile, and when it is over all goes on. Secrets are never told.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Etcd;
use TimerTest::Fleet;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;

# The same timers for each cluster, by other names.
sub timers { my ($prefix) = @_; return join '', map { fleet_timer( $backend, "$prefix-$_", 'every=1s offset=0' ) } 1 .. 2 }

sub goes_on {
    my ( $prefix, $title ) = @_;
    my %had = map { $_ => scalar( my @r = $backend->requests( timer => "$prefix-$_" ) ) } 1, 2;
    $backend->wait_requests( $had{$_} + 2, timer => "$prefix-$_" ) for 1, 2;
    pass("$title: goes on");
    return;
}

sub state_of { my ( $fleet, $timer ) = @_; return $fleet->show( 0, $timer )->{fleet} // {} }

sub password_file {
    my $file = scratch_dir() . '/password';
    spew( $file, "not-a-secret\n" );
    chmod 0600, $file;
    return $file;
}

# Tokens of five seconds, and a user without rights.
{
    my $secret = password_file();
    my $etcd  = TimerTest::Etcd->start( members => 1, user => 'nginx', password => 'not-a-secret', options => [ 'auth-token-ttl' => 2 ] );
    my $fleet = TimerTest::Fleet->start( hosts => 2, etcd => $etcd, timers => timers('user'), fleet => "user=nginx password_file=$secret", options => { log_level => 'debug' } );
    goes_on( 'user', 'a user' ) for 1 .. 3;
    $etcd->revoke;
    my $refuses = qr/\[error\].* fleet "prod" refuses: .*permission denied/;
    logged( $fleet->host(0), $refuses, 'no rights: it is said' );
    ok( wait_until( sub { state_of( $fleet, 'user-1' )->{state} eq 'refused' } ), 'and shown' );
    like( state_of( $fleet, 'user-1' )->{why}, qr/permission denied/, 'why' );
    # What is so now is what is said.
    $etcd->stop(0);
    ok( wait_until( sub { ( state_of( $fleet, 'user-1' )->{state} // '' ) eq 'unreachable' } ), 'nor does it answer any more: it is shown' );
    like( $fleet->api(0)->ask('/health')->{body}, qr/^fleet "prod" is unreachable: upstream timed out/m, 'in health, too' );
    $etcd->continue(0);
    ok( wait_until( sub { ( state_of( $fleet, 'user-1' )->{why} // '' ) =~ /permission denied/ } ), 'it answers again: it is shown that it refuses' );
    $etcd->grant;
    goes_on( 'user', 'rights again' );
    $etcd->ask( '/v3/auth/user/changepw', { name => 'nginx', password => 'another' } );
    ok( wait_until( sub { ( state_of( $fleet, 'user-1' )->{why} // '' ) =~ /authentication failed/ } ), 'another password: it is shown' );
    $etcd->ask( '/v3/auth/user/changepw', { name => 'nginx', password => 'not-a-secret' } );
    goes_on( 'user', 'the password again' );
    my $told = join '', map { slurp("/proc/$_/cmdline") } map { ( $_->pid, $_->workers ) } $fleet->hosts;
    $told .= $fleet->api(0)->ask($_)->{body} for qw( /timers /metrics /text / );
    $fleet->stop;
    # Debug builds of nginx write bodies to the log.
    $told .= join '', grep { !/\[debug\]/ } $fleet->host(0)->log_lines(qr/./);
    my ($token) = $etcd->ask( '/v3/auth/authenticate', { name => 'nginx', password => 'not-a-secret' } )->{token};
    lacks( $told, qr/not-a-secret|${\ TimerTest::Etcd::base64('not-a-secret') }/, 'the password is never told' );
    ok( $token, 'there are tokens' );
    lacks( $told, qr/\b[A-Za-z]{16}\.\d+\b/, 'nor is a token' );
    $etcd->kill_all;
}

# Certificates, a gateway that is off, and a quota.
{
    my $tls     = TimerTest::Etcd->start( members => 1, tls => 1, user => 'nginx', password => 'not-a-secret', options => [ 'auth-token-ttl' => 2 ] );
    my $secret  = password_file();
    my @options = ( etcd => $tls, fleet => "user=nginx password_file=$secret" );
    my $by_user = TimerTest::Fleet->start( hosts => 2, timers => timers('tls'), @options );
    goes_on( 'tls', 'certificates and users' ) for 1 .. 2;
    $by_user->stop;

    # The gateway takes no certificate that names a user.
    my $named = TimerTest::Fleet->start( hosts => 1, timers => timers('named'), @options, named => 1 );
    logged( $named->host(0), qr/\[error\].* fleet "prod" refuses: the client certificate has a common name/, 'a certificate with a name: it is said' );
    $named->stop;
    $tls->kill_all;

    my $off   = TimerTest::Etcd->start( members => 1, config_file => 1 );
    my $fleet = TimerTest::Fleet->start( hosts => 1, etcd => $off, timers => timers('off') );
    logged( $fleet->host(0), qr/\[error\].* fleet "prod" refuses: JSON gateway is off/, 'no gateway: it is said' );
    ok( wait_until( sub { ( state_of( $fleet, 'off-1' )->{state} // '' ) eq 'refused' } ), 'and shown' );
    $fleet->stop;
    $off->kill_all;

    my $full = TimerTest::Etcd->start( members => 1, options => [ 'quota-backend-bytes' => 2_000_000 ] );
    $fleet = TimerTest::Fleet->start( hosts => 2, etcd => $full, timers => timers('full') );
    goes_on( 'full', 'a quota' );
    my $many = 0;
    wait_until { $full->call( '/v3/kv/put', { key => TimerTest::Etcd::base64('/other/' . $many++), value => TimerTest::Etcd::base64( 'x' x 50_000 ) } )->{status} != 200 };
    logged( $fleet->host(0), qr/\[error\].* fleet "prod" is unreachable: .*database space exceeded/, 'used up: it is said' );
    like( $fleet->api(0)->ask('/health')->{body}, qr/database space exceeded/, 'in health, too' );
    $full->ask( '/v3/kv/deleterange', { key => TimerTest::Etcd::base64('/other/'), range_end => TimerTest::Etcd::base64('/other0') } );
    $full->compact;
    $full->ask( '/v3/maintenance/defragment', {} );
    $full->ask( '/v3/maintenance/alarm', { action => 'DEACTIVATE', %$_ } ) for @{ $full->ask( '/v3/maintenance/alarm', { action => 'GET' } )->{alarms} };
    goes_on( 'full', 'room again' );
    $fleet->stop;
    $full->kill_all;
}

my @runs = $backend->requests;
no_start_twice( 'refused', @runs );
fences_grow( 'refused', grep { $_->{headers}{'x-timer'} !~ /full/ } @runs );
done_testing;
