#!/usr/bin/perl

# Reads that fail, parts that are damaged, writes that fail. What cannot be read is not new: no due time is
# requested twice, no run by hand and no first run again, nothing is missed that was not, and counters and results
# are there afterwards. "health" tells within two seconds, whichever worker is asked, also where no timer is due.

use strict;
use warnings;

use List::Util qw( max );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Faults;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;

my $backend = TimerTest::Backend->start;
my $beat    = TimerTest::Beat->start;
my $STATE   = 'timers.state';

# An nginx of a case: each worker has a socket of its own, so that each is found among few connections.
sub new_nginx {
    my (%option) = @_;
    my $faults = TimerTest::Faults->new;
    my $port   = free_port();
    my $nginx  = TimerTest::Nginx->new(
        workers => 2, faults => $faults, %option,
        http => "server { listen 127.0.0.1:$port reuseport; location = /ready { return 200 \"\$pid\\n\"; } location /status/ { timer_api write=on; } }",
    );
    $nginx->start;
    my @apis = map { TimerTest::Api->new( $nginx, worker => [ $nginx->worker_in_slot($_) ], port => $port ) } 0, 1;
    return { nginx => $nginx, faults => $faults, apis => \@apis, api => TimerTest::Api->new( $nginx, port => $port ), file => $nginx->prefix . "/$STATE" };
}

# One test: each worker's health is this, and nothing else to who asks after so many seconds.
sub all_say {
    my ( $title, $status, $since, $seconds, @of ) = @_;
    my @left = map { my $of = $_; map { [ $of->{title}, $_ ] } @{ $of->{apis} } } @of;
    my @late;
    my $told = poll_until(
        sub {
            @left = grep {
                my $asked = time;
                my $said  = $_->[1]->ask('/health');
                my $took  = $asked - $since - $beat->still( $since, $asked );
                push @late, sprintf '%s: %.1fs', $_->[0], $took if $said->{status} != $status && $took > $seconds * $TimerTest::SLOW;
                $said->{status} != $status;
            } @left;
            !@left;
        }
    );
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok( $told, "$title: every worker says $status" ) or diag "not: @{[ map { $_->[0] } @left ]}";
    return is( "@late", '', "$title: in time" );
}

# Reads that fail. One that fails once does so at the second ... call from now on, one after the other.
my %cases = (
    all   => {},
    zero  => { whose => 1 },
    other => { whose => -1 },
    short => { short => 100 },
    once  => { once => [ 1 .. 20 ] },
    twice => { once => [ 1 .. 10 ], times => 2 },
);
my @names = sort keys %cases;

for my $name (@names) {
    my $any = 'timer_worker any;';
    my $server = join '', timer( $backend, "$name-tick", 'every=500ms offset=0' ),
        timer( $backend, "$name-any",   'every=500ms offset=0', 'delay/0.1/ok',               $any ),
        timer( $backend, "$name-busy",  'every=200ms offset=0', 'delay/0.5/ok',               $any ),
        timer( $backend, "$name-retry", 'every=500ms offset=0', "by-turns/status/500?$name", "$any timer_retry 1 backoff=50ms;" ),
        timer( $backend, "$name-hand",  'every=366d' ), timer( $backend, "$name-handany", 'every=366d', 'ok', $any ),
        timer( $backend, "$name-first", 'every=366d first=now' );
    $cases{$name} = { %{ $cases{$name} }, title => $name, %{ new_nginx( server => $server ) } };
}

sub since {
    my ( $at, $timer ) = @_;
    return grep { due_ms($_) > 1000 * $at } $backend->requests( timer => $timer );
}

# One test: all of these run, once more.
sub all_go_on {
    my ( $title, $at ) = @_;
    my %missing;
    my $go_on = sub {
        %missing = map { my $name = $_; map { ( "$name-$_" => 1 ) } qw( tick any busy retry ) } @names;
        delete @missing{ grep { since( $at, $_ ) >= 2 } keys %missing };
        return !%missing;
    };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( wait_until { $go_on->() }, "$title: all go on" ) || diag "not: @{[ sort keys %missing ]}";
}

all_go_on( 'without faults', time );
all_say( 'without faults', 200, time, 60, values %cases );
for my $name (@names) {
    my $case = $cases{$name};
    for my $hand (qw( hand handany )) {
        my ($status) = $case->{api}->order("/timers/$name-$hand/run");
        is( $status, 202, "$name: a run by hand" );
    }
    $backend->wait_requests( 1, timer => "$name-$_", ended => 1 ) for qw( hand handany first );
    # So that it is written, too.
    wait_until( sub { ( $case->{api}->show("$name-$_")->{counters} // {} )->{success} } ) for qw( hand handany first );
    $case->{since}  = time - 1;
    $case->{before} = { map { $_->{name} => $case->{api}->show( $_->{name} ) } @{ $case->{api}->all->{timers} } };
}

for my $name ( grep { !$cases{$_}{once} } @names ) {
    my $case = $cases{$name};
    my $how  = $case->{short} ? { short => $case->{short} } : { error => 'EIO' };
    $case->{rule} = $case->{faults}->fail( 'pread', %$how, name => $STATE, pid => $case->{apis}[0]->pid * ( $case->{whose} // 0 ) );
}
my $failed = time;
all_say( 'reads fail', 503, $failed, 2.5, @cases{qw( all zero other )} );
for my $case ( grep { $_->{once} } values %cases ) {
    for my $nth ( @{ $case->{once} } ) {
        my $rule = $case->{faults}->fail( 'pread', error => 'EIO', name => $STATE, nth => $nth, times => $case->{times} // 1 );
        wait_until { $case->{faults}->failures($rule) >= ( $case->{times} // 1 ) };
        $case->{faults}->clear($rule);
    }
}
all_go_on( 'reads fail', $failed );
for my $name ( grep { !$cases{$_}{once} } @names ) {
    cmp_ok( $cases{$name}{faults}->failures( $cases{$name}{rule} ), '>', 0, "$name: calls fail" );
}
my $cleared = time;
$_->{faults}->clear for values %cases;
all_say( 'reads work', 200, $cleared, 6, values %cases );
all_go_on( 'reads work', $cleared );

for my $name (@names) {
    my $case = $cases{$name};
    for my $before ( values %{ $case->{before} } ) {
        my $after = $case->{api}->show( $before->{name} );
        my $less  = join ' ', grep { ( $after->{counters}{$_} // -1 ) < $before->{counters}{$_} } sort keys %{ $before->{counters} };
        is( $less, '', "$before->{name}: counters are there" );
        my %there = map { $_->{run} => 1 } @{ $after->{history} };
        my @lost  = grep { !$there{ $_->{run} } } @{ $before->{history} };
        ok( !@lost || @{ $after->{history} } == 32, "$before->{name}: results are there" ) or diag explain $after->{history};
        # What had its run was not missed; and however slow this machine is, it has done something.
        my $missed = $after->{counters}{missed} - $before->{counters}{missed};
        my ($every) = $before->{schedule} =~ /\Aevery=(\d+)ms\b/;
        my %ran = map { due_ms($_) => 1 } my @runs = $backend->requests( timer => $before->{name} );
        my @without = $every ? lost_dues( $every, $case->{since}, time, @runs ) : ();
        cmp_ok( $missed, '<=', scalar @without, "$before->{name}: nothing was missed that had its run" );
        cmp_ok( $missed, '<', scalar keys %ran, "$before->{name}: most had it" ) if $every;
    }
}

# A new run by hand, so that all orders have been looked at.
for my $name (@names) {
    is( ( $cases{$name}{api}->order("/timers/$name-$_/run") )[0], 202, "$name: another run by hand" ) for qw( hand handany );
    $backend->wait_requests( 2, timer => "$name-$_" ) for qw( hand handany );
}

# A claim part is damaged just after what it tells of: nothing of that is done again, by this nginx nor by one that
# is started anew.
my $damaged = $cases{all};
for my $name (qw( hand handany first )) {
    my $seen = $backend->requests( timer => "all-$name" );
    if ( $name ne 'first' ) {
        is( ( $damaged->{api}->order("/timers/all-$name/run") )[0], 202, "damaged: a run by hand of $name" );
        $backend->wait_requests( ++$seen, timer => "all-$name", ended => 1 );
        wait_until { ( $damaged->{api}->show("all-$name")->{counters} // {} )->{success} == $seen };
    }
    tear_record( $damaged->{file}, "all-$name", 'run' );
    $damaged->{seen}{"all-$name"} = $seen;
}
{
    my $lock = lock_record( $damaged->{file}, 'all-tick', 'run' );
    tear_record( $damaged->{file}, 'all-tick', 'run' );
}
# Has all records looked at.
is( ( $damaged->{api}->order('/resume') )[0], 200, 'damaged: an order' );
all_go_on( 'a damaged part', time );
logged( $damaged->{nginx}, qr/\[warn\].* timer "all-$_": record is damaged, starting anew/, "damaged: $_: it is said" ) for qw( hand handany tick );
is( scalar( $backend->requests( timer => $_ ) ), $damaged->{seen}{$_}, "damaged: $_ does not run again" ) for sort keys %{ $damaged->{seen} };

my $restarted = $cases{short};
$restarted->{seen}{"short-first"} = 1;
for my $name (qw( hand handany )) {
    is( ( $restarted->{api}->order("/timers/short-$name/run") )[0], 202, "restarted: a run by hand of $name" );
    ( $restarted->{seen}{"short-$name"} ) = scalar $backend->wait_requests( 3, timer => "short-$name", ended => 1 );
}
$restarted->{nginx}->stop;
tear_record( $restarted->{file}, "short-$_", 'run' ) for qw( hand handany first tick );
$restarted->{nginx}->start;
is( ( $restarted->{api}->order('/resume') )[0], 200, 'restarted: an order' );
all_go_on( 'a damaged part and a restart', time );
logged( $restarted->{nginx}, qr/\[warn\].* timer "short-$_": record is damaged, starting anew/, "restarted: $_: it is said" ) for qw( hand handany tick );
is( scalar( $backend->requests( timer => $_ ) ), $restarted->{seen}{$_}, "restarted: $_ does not run again" ) for sort keys %{ $restarted->{seen} };

# Where no timer is due, calls that fail are seen as soon; and when they work again.
my @idle = map { { %$_, %{ new_nginx( server => timer( $backend, 'idle', 'every=366d' ) ) } } } (
    { title => 'ENOSPC', calls => 'pwrite', error => 'ENOSPC' },
    { title => 'EROFS',  calls => 'pwrite', error => 'EROFS' },
    { title => 'EIO',    calls => [qw( pread pwrite fcntl )], error => 'EIO' },
    { title => 'reads',  calls => 'pread',  error => 'EIO' },
    { title => 'locks',  calls => 'fcntl',  error => 'ENOLCK' },
);
all_say( 'idle', 200, time, 60, @idle );
$_->{faults}->fail( $_->{calls}, error => $_->{error}, name => $STATE ) for @idle;
$failed = time;
all_say( 'idle, calls fail', 503, $failed, 2.5, @idle );
for my $of (@idle) {
    my ( $status, $state, $ok ) = ( $of->{api}->ask('/health/idle')->{status}, $of->{api}->all->{state}, ( $of->{api}->metrics // {} )->{nginx_timer_state_ok} );
    is( "$status $state $ok", '503 degraded 0', "$of->{title}: health of one timer, JSON and metrics say so" );
}
$cleared = time;
$_->{faults}->clear for @idle;
all_say( 'idle, calls work', 200, $cleared, 6, @idle );
$_->{nginx}->stop for @idle;

for my $name (@names) {
    $cases{$name}{nginx}->stop;
    # (Of two of them the counters were damaged.)
    for my $timer ( grep { !/\A(?:all|short)-tick\z/ } map {"$name-$_"} qw( tick any busy retry ) ) {
        my ( $dues, $sum ) = account( read_state( $cases{$name}{file} )->{$timer}, $timer =~ /busy/ ? 200 : 500, 0 );
        is( $sum, $dues, "$timer: each due time is accounted for" );
    }
    my @runs = map { $backend->requests( timer => "$name-$_" ) } qw( tick any busy retry );
    no_doubles( $name, @runs );
    no_overlaps( $name, {}, @runs );
    is( scalar( $backend->requests( timer => "$name-first" ) ), 1, "$name: one first run" );
    for my $hand (qw( hand handany )) {
        my %times;
        $times{ $_->{headers}{'x-run'} }++ for $backend->requests( timer => "$name-$hand" );
        is( join( ' ', grep { $times{$_} > 1 } keys %times ), '', "$name: no run by hand twice" );
    }
    logged_times( $cases{$name}{nginx}, qr/process \d+ died/, 0, "$name: nobody has died" );
}

done_testing;
