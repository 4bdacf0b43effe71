#!/usr/bin/perl

# An event is told once per host, whoever dies, leaves or comes while it is being told: a worker that is killed in the
# middle, a reload, an exiting worker, a stop, a second master at the same file.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $pass    = 'proxy_pass http://127.0.0.1:' . $backend->port;

sub conf {
    my ($more) = @_;
    return <<"CONF" . ( $more // '' );
    timer_notify /told;
    location \@kill { timer kill every=366d enabled=off uri=/status/500; timer_notify /held/kill/ok; $pass; }
    location \@reload { timer reload every=366d enabled=off uri=/status/500; timer_notify /held/reload/ok; $pass; }
    location \@exiting { timer exiting every=366d enabled=off uri=/held/exiting/status/500; timer_notify /told/exiting; $pass; }
    location \@stop { timer stop every=366d enabled=off uri=/status/500; timer_notify /held/stop/ok; $pass; }
    location \@shared { timer shared every=500ms uri=/turns/500/200/200; timer_worker any; timer_notify /told/shared on=failed,recovered,success; $pass; }
    location \@plain { timer plain every=366d enabled=off uri=/status/500; timer_notify /told/plain on=failed,success; $pass; }
    location /held/ { internal; $pass; }
    location /told/ { internal; $pass; }
    location /status/ { timer_api write=on; }
CONF
}

my $dir   = scratch_dir();
my $state = "$dir/shared.state";
chmod 0777, $dir;
my $nginx = TimerTest::Nginx->new( state => $state, server => conf() );
my $api   = TimerTest::Api->new( $nginx, at => '/status' );
$nginx->start;

sub show { return json( $nginx->get("/status/timers/$_[0]") ) // {} }

sub told { my ( $uri, $count ) = @_; return $backend->wait_requests( $count, uri => $uri, @_ > 2 ? ( ended => 1 ) : () ) }

# Killed in the middle: its successor makes the next try, and that is all.
$api->order('/timers/kill/run');
told( '/held/kill/ok', 1 );
$nginx->{allow} = [qr/exited on signal 9/];
kill KILL => $nginx->worker_in_slot(0);
told( '/held/kill/ok', 2 );
$backend->let_go('kill');

# A reload: the old worker goes on telling, and the new one does not begin.
$api->order('/timers/reload/run');
told( '/held/reload/ok', 1 );
my @before = $nginx->workers;
$nginx->reload;
$api->order('/timers/exiting/run');
told( '/held/exiting/status/500', 1 );
$nginx->reload;
$backend->let_go('reload');

# A run that fails in an exiting worker is told of by the one that has come.
$backend->let_go('exiting');
told( '/told/exiting', 1, 'ended' );
$nginx->wait_gone( \@before );

# Stopped at once in the middle: the next try is made after the start.
$api->order('/timers/stop/run');
told( '/held/stop/ok', 1 );
$nginx->signal('TERM');
$nginx->wait_exit;
$backend->let_go('stop');
$nginx->start;
told( '/held/stop/ok', 2, 'ended' );

# A second master at the same file: each run is told of once, by whichever of the two has made it, or sees it first.
# What was being told when a worker was killed above may have been told twice.
my $from  = time;
my $other = TimerTest::Nginx->new( state => $state, server => conf() )->start;
my $seen  = show('shared')->{counters}{runs};
wait_until { show('shared')->{counters}{runs} >= $seen + 8 };
$other->stop;
$nginx->stop;
my @ended = map { JSON::PP::decode_json( $_->{body} ) } grep { $_->{arrived} > $from } $backend->requests( uri => '/told/shared', ended => 1 );
my %times;
$times{"$_->{run} $_->{event}"}++ for @ended;
cmp_ok( scalar( keys %times ), '>=', 8, 'two masters: events' );
none_of { $times{$_} > 1 } 'each once', sort keys %times;
for my $name (qw( kill reload stop )) {
    is( scalar( my @all = $backend->requests( uri => "/held/$name/ok" ) ), $name eq 'reload' ? 1 : 2, "$name: as often as was tried" );
}
is( scalar( my @exiting = $backend->requests( uri => '/told/exiting' ) ), 1, 'exiting: once' );

# In memory.
my $memory = TimerTest::Nginx->new( state => 'memory', server => conf() )->start;
TimerTest::Api->new( $memory, at => '/status' )->order('/timers/plain/run');
told( '/told/plain', 1, 'ended' );
$memory->reload_all;
TimerTest::Api->new( $memory, at => '/status' )->order('/timers/plain/run');
wait_until { json( $memory->get('/status/timers/plain') )->{counters}{failure} == 2 };
$memory->stop;
is( scalar( my @plain = $backend->requests( uri => '/told/plain' ) ), 1, 'memory: once per row, over a reload' );

done_testing;
