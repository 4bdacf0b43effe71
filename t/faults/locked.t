#!/usr/bin/perl

# Records that another process holds locked, for as long as it likes: the run lock, the edit lock, both, the whole
# file, the header. Nothing is silent: a timer that cannot run is late, wherever one looks, and an order that nobody
# could carry out is refused. When the locks are free again all is well.

use strict;
use warnings;

use Fcntl qw( SEEK_SET F_WRLCK );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;

sub new_nginx {
    my ($server) = @_;
    my $nginx = TimerTest::Nginx->new( workers => 2, server => "location /status/ { timer_api write=on; }$server" );
    $nginx->start;
    return ( $nginx, $nginx->prefix . '/timers.state', TimerTest::Api->new($nginx) );
}

# Two timers, one of each worker and one of all, for each thing that is locked.
sub timers {
    my ($what) = @_;
    return timer( $backend, "$what-own", 'every=500ms offset=0' ) . timer( $backend, "$what-any", 'every=500ms offset=0', 'ok', 'timer_worker any;' )
        . timer( $backend, "$what-hand", 'every=366d' );
}
my ( $one,   $file,  $api )   = new_nginx( join '', map { timers($_) } qw( free run edit both ) );
my ( $two,   $whole, $other ) = new_nginx( timers('whole') );
my ( $three, $third, $head )  = new_nginx( timers('header') );
my %api_of = ( ( map { $_ => $api } qw( free run edit both ) ), whole => $other, header => $head );
my @what   = sort keys %api_of;
my @due    = map { ( "$_-own", "$_-any" ) } @what;
$backend->wait_requests( 2, timer => $_ ) for @due;

sub since { my ( $at, $name ) = @_; return grep { due_ms($_) > 1000 * $at } $backend->requests( timer => $name ) }

my $PAGE  = sub { my ( $of, $name ) = @_; return $of->ask( '/', headers => "Accept: text/html\r\n" )->{body} =~ /\Q$name\E.{0,1000}late/s };
my $TABLE = sub { my ( $of, $name ) = @_; return $of->ask('/text')->{body} =~ /\blate \d.*\b\Q$name\E$/m };
is_well( sub { join ' ', map { $_->( $api, 'run-own' ) || 0 } $PAGE, $TABLE }, '0 0', 'page and table do not say late of one that is well' );

my %lock;
my $locking = time;
for my $part (qw( run control )) {
    for my $what ( $part eq 'run' ? qw( run both ) : qw( edit both ) ) {
        push @{ $lock{locks} }, map { lock_record( $file, "$what-$_", $part ) } qw( own any hand );
    }
}
sysopen $lock{whole}, $whole, 2 or die "$whole: $!";
# (Of the header the master holds a byte itself.)
my $all_of_it = pack 's! s! x![q] q q i x![q]', F_WRLCK, SEEK_SET, 2048, 0, 0;
wait_until { fcntl $lock{whole}, 37, $all_of_it } or die "fcntl: $!";
$lock{header} = lock_record( $third, '', 'header' );
my $locked = time;

# Those that cannot run are late; those that can run on.
my %runs_on = map { $_ => 1 } grep {/\A(?:free|edit|header)-/} @due;
for my $name ( grep { $runs_on{$_} } @due ) {
    ok( wait_until( sub { since( $locked, $name ) >= 3 } ), "$name runs on" );
}
for my $name ( grep { !$runs_on{$_} } @due ) {
    my ($what) = $name =~ /\A(\w+)-/;
    my ( $ask, $shown ) = ( $api_of{$what} );
    ok( wait_until( sub { ( ( $shown = $ask->show($name) )->{status} // '' ) eq 'late' } ), "$name is late" ) or diag explain $shown;
    my $took = time - $locked;
    cmp_ok( $took - $beat->still( $locked, time ), '<', 12 * $TimerTest::SLOW, "$name: soon" );
    cmp_ok( $shown->{late_seconds}, '>=', 5, "$name: by that much" );
    is( scalar( since( $locked, $name ) ), 0, "$name does not run" );
    my $health = $ask->ask("/health/$name");
    is( $health->{status}, 503, "$name: health is 503" );
    like( $health->{body}, qr/late by \d+s/, "$name: and says why" );
    my $due = ( $ask->metrics // {} )->{"nginx_timer_next_due_timestamp_seconds{timer=\"$name\"}"};
    cmp_ok( $due // 0, '<', time - 4, "$name: metrics say when it was due" );
    ok( $TABLE->( $ask, $name ), "$name: so does the table" );
    ok( $PAGE->( $ask, $name ), "$name: and the page" );
}
is( $_->ask('/health')->{status}, 503, 'health is 503' ) for $api, $other;
logged( $one, qr/\[error\].* timer "run-own": .*lock/, 'the log says it' );
logged( $two, qr/\[error\].* timer "whole-own": .*lock/, 'the log says it of a whole file' );

# Orders that nobody could carry out.
for my $what (qw( run both whole )) {
    for my $name ( "$what-hand", "$what-own" ) {
        my ( $status, $said ) = $api_of{$what}->order("/timers/$name/run");
        is( $status, 503, "$name: an order is refused" ) or diag explain $said;
        ok( $said->{error}, "$name: and it is said why" );
    }
}
is( ( $api_of{edit}->order("/timers/edit-$_/pause") )[0], 503, "edit-$_: a pause is refused" ) for qw( own hand );
is( ( $api_of{edit}->order('/timers/edit-hand/run') )[0],     503, 'edit-hand: an order is refused' );
is( ( $api_of{header}->order('/timers/header-hand/run') )[0], 503, 'header-hand: an order is refused' );
is( ( $api_of{header}->order('/pause') )[0],                  503, 'header: a pause of all is refused' );
is( ( $api_of{free}->order('/timers/free-hand/run') )[0],     202, 'free-hand: an order is taken' );

my $freed = time;
%lock = ();
for my $name (@due) {
    ok( wait_until( sub { since( $freed, $name ) >= 2 } ), "$name: free, it runs" );
}
my $now = time;
cmp_ok( $now - $freed - $beat->still( $freed, $now ), '<', 4 * $TimerTest::SLOW, 'at once' );
for my $what (@what) {
    my $said;
    ok( wait_until( sub { ( $said = $api_of{$what}->ask('/health') )->{status} == 200 } ), "$what: health is ok" ) or diag $said->{body};
    is( scalar( $backend->requests( timer => "$what-hand" ) ), $what eq 'free' ? 1 : 0, "$what-hand: what was refused is not done" );
    is( ( $api_of{$what}->order("/timers/$what-hand/run") )[0], 202, "$what-hand: an order is taken" );
    $backend->wait_requests( $what eq 'free' ? 2 : 1, timer => "$what-hand" );
}
$_->stop for $one, $two, $three;
no_doubles( 'in all', map { $backend->requests( timer => $_ ) } @due );
no_overlaps( 'in all', {}, map { $backend->requests( timer => $_ ) } @due );
for my $of ( [ $one, $file, qw( free run edit both ) ], [ $two, $whole, 'whole' ], [ $three, $third, 'header' ] ) {
    my ( $nginx, $path, @of ) = @$of;
    my $records = read_state($path);
    for my $name ( map { ( "$_-own", "$_-any" ) } @of ) {
        my ( $dues, $sum ) = account( $records->{$name}, 500, 0 );
        # What was missed while it could not be counted, the log tells of.
        my $told      = $nginx->log_lines(qr/timer "$name": record is locked, due times left out are not counted/);
        my $uncounted = $told ? lost_dues( 500, $locking, $freed, $backend->requests( timer => $name ) ) : 0;
        ok( $sum <= $dues && $sum >= $dues - $uncounted, "$name: each due time is accounted for" ) or diag "$sum, and $uncounted, of $dues";
    }
}

done_testing;
