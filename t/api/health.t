#!/usr/bin/perl

# How well a timer is: the same word in JSON, table, metrics, page and "health"; after how many failures in a
# row it is failing; that a run that is cancelled, and a pause, change nothing of it.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;

# Due in half a period or more, at whatever time this is run.
sub every {
    my ($minutes) = @_;
    my $offset = ( time + 30 * $minutes ) % ( 60 * $minutes );
    return sprintf 'every=%dm offset=%ds', $minutes, $offset;
}

my $nginx = TimerTest::Nginx->new(
    workers => 1,
    http    => 'timer_unhealthy_after 5;',
    server  => 'location /status/ { timer_api write=on; }'
        . timer( $backend, 'from-http', every(600) )
        . timer( $backend, 'own',       every(600), 'status/500', 'timer_unhealthy_after 2;' ),
);
my $api = TimerTest::Api->new($nginx);
$nginx->start;
is( $api->show('from-http')->{unhealthy_after}, 5, 'timer_unhealthy_after is inherited' );
is( $api->show('own')->{unhealthy_after},       2, 'and replaced' );
$nginx->stop;

# Without it: by the period, or by the distance of the next two due times.
my %default = (
    'every=1h'                    => 1,
    'every=59m'                   => 3,
    'every=1d'                    => 1,
    'every=1s enabled=off'        => 3,
    '"cron=0 3 * * *"'            => 1,
    '"cron=0 * * * *"'            => 1,
    '"cron=*/30 * * * *"'         => 3,
    '"cron=0 0 1 1 *"'            => 1,
    '"cron=@monthly" tz=Asia/Tokyo' => 1,
);
my @schedules = sort keys %default;
$nginx->write_conf(
    http   => '',
    server => 'location /status/ { timer_api write=on; }'
        . join( '', map { timer( $backend, "default-$_", $schedules[$_] ) } 0 .. $#schedules )
        . timer( $backend, 'nightly', every( 24 * 60 ), 'turns/500/500/200' )
        . timer( $backend, 'often',   every(50), 'turns/500/500/500/200' )
        . timer( $backend, 'hangs',   every( 24 * 60 ), 'hang' )
);
$nginx->start;
is( $api->show("default-$_")->{unhealthy_after}, $default{ $schedules[$_] }, "$schedules[$_]: its default" ) for 0 .. $#schedules;

# The word, wherever there is one; and whether "health" says that all is well.
sub everywhere {
    my ( $name, $health, $title ) = @_;
    my $shown   = $api->show($name);
    my ($all)   = grep { $_->{name} eq $name } @{ $api->all->{timers} };
    my $metrics = $api->metrics // {};
    my @states  = grep { $metrics->{"nginx_timer_health{timer=\"$name\",state=\"$_\"}"} } qw( unknown stuck late failing failed ok );
    my ($row)   = grep {/ \Q$name\E$/} split /\n/, $api->ask('/text')->{body};
    my ($word)  = ( $row // '' ) =~ / (unknown|stuck|late|failing|failed|ok)  /;
    my ($cells) = $api->ask( '/', headers => "Accept: text/html\r\n" )->{body} =~ m{^<tr><th scope="row">\Q$name\E<td>(\w+)<td>}m;
    my $said    = $api->ask("/health/$name");
    my ($says)  = $said->{body} =~ /^\Q$name\E: (\w+)/m;
    my %said    = (
        JSON    => $shown->{health}, list => $all->{health}, metrics => "@states", text => $word, page => $cells,
        health  => $says // ( $said->{body} eq "ok\n" ? 'ok' : undef ),
        status  => $said->{status}, of_all => $api->ask('/health')->{status},
    );
    my $status = $health =~ /^(?:ok|failed)$/ ? 200 : 503;
    my %wanted = ( ( map { $_ => $health } qw( JSON list metrics text page health ) ), status => $status, of_all => $status );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_deeply( \%said, \%wanted, "$title: $health" );
}

# One run by hand, to its end.
my %ended;

sub run_once {
    my ($name) = @_;
    is( ( $api->order("/timers/$name/run") )[0], 202, "$name: one run" );
    my $count = ++$ended{$name};
    return ok( wait_until { my $timer = $api->show($name); $timer->{counters}{runs} == $count && !$timer->{running} }, 'to its end' );
}

everywhere( 'nightly', 'ok', 'before its first run' );
run_once('nightly');
everywhere( 'nightly', 'failing', 'nightly: one failure is too many' );
is( $api->ask('/health')->{body}, "nightly: failing, failed once\n", 'health says why' );
is( $api->show('nightly')->{status}, 'idle', 'its status is another thing' );

is( ( $api->order('/timers/nightly/pause') )[0], 200, 'nightly is paused' );
is( $api->show('nightly')->{status}, 'paused', 'and shown so' );
everywhere( 'nightly', 'failing', 'and no better for that' );
is( ( $api->order('/pause') )[0],                 200, 'all are paused' );
is( ( $api->order('/timers/nightly/resume') )[0], 200, 'it is not any more' );
everywhere( 'nightly', 'failing', 'paused with all' );
is( ( $api->order('/resume') )[0], 200, 'all are resumed' );
run_once('nightly');
is( $api->ask('/health')->{body}, "nightly: failing, failed 2 times in a row\n", 'once more' );
run_once('nightly');
everywhere( 'nightly', 'ok', 'a success' );

run_once('often');
everywhere( 'often', 'failed', 'often: one failure' );
is( $api->ask('/health')->{body}, "ok\noften: failed once\n", 'which is told' );
run_once('often');
everywhere( 'often', 'failed', 'two' );
run_once('often');
everywhere( 'often', 'failing', 'three' );
run_once('often');
everywhere( 'often', 'ok', 'a success' );

# Cancelled.
is( ( $api->order('/timers/hangs/run') )[0], 202, 'one that hangs' );
ok( $backend->wait_requests( 1, timer => 'hangs' ), 'is in progress' );
is( ( $api->order('/timers/hangs/cancel') )[0], 202, 'and is cancelled' );
ok( wait_until { my $last = $api->show('hangs')->{last}; $last && $last->{outcome} eq 'cancelled' }, 'and ends' );
everywhere( 'hangs', 'ok', 'that is no failure' );
$nginx->stop;

# After a failure.
$nginx->write_conf( server => 'location /status/ { timer_api write=on; }'
        . timer( $backend, 'hangs', every( 24 * 60 ), 'hang', 'timer_timeout 300ms;' ) );
$nginx->start;
$ended{hangs} = 1;
run_once('hangs');
everywhere( 'hangs', 'failing', 'a timeout' );
$nginx->write_conf( server => 'location /status/ { timer_api write=on; }' . timer( $backend, 'hangs', every( 24 * 60 ), 'hang' ) );
my @old = $nginx->reload;
$nginx->wait_gone( \@old );
my $requests = $backend->requests( timer => 'hangs' );
is( ( $api->order('/timers/hangs/run') )[0], 202, 'it is run again' );
ok( $backend->wait_requests( $requests + 1, timer => 'hangs' ), 'and in progress' );
everywhere( 'hangs', 'failing', 'while it runs' );
is( ( $api->order('/timers/hangs/cancel') )[0], 202, 'and cancelled' );
ok( wait_until { $api->show('hangs')->{last}{outcome} eq 'cancelled' }, 'and ends' );
everywhere( 'hangs', 'failing', 'which is no success' );
$nginx->stop;

done_testing;
