#!/usr/bin/perl

# A thousand due times of twenty timers on five hosts, all up: each has one start, fences grow, and none is missed but
# while this machine stood still. Each host accounts for all of them, and all hosts together for each start. What that
# costs: two exchanges of the host that wins and at most one read of each other, and none for a timer without a fleet.

use strict;
use warnings;

use List::Util qw( first max min sum0 );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Beat;
use TimerTest::Etcd;
use TimerTest::EtcdProxy;
use TimerTest::Fleet;
use TimerTest::RunQueue;
use TimerTest::Series;
use TimerTest::StateFile;

my $seconds = 50;
# Of an exchange: a sixth of the ttl.
my $LIMIT = 10 / 6;
my @names   = map {"t$_"} 1 .. 20;
# Due times in groups of five, 250 ms apart.
sub offset { my ($n) = $_[0] =~ /(\d+)/; return 250 * ( $n % 4 ) }

my $beat    = TimerTest::Beat->start;
my $backend = TimerTest::Backend->start;
my $etcd    = TimerTest::Etcd->start;
my $proxy   = TimerTest::EtcdProxy->start($etcd);
my $fleet   = TimerTest::Fleet->start(
    hosts  => 5,
    etcd   => $etcd,
    proxy  => $proxy,
    timers => join( '', map { fleet_timer( $backend, $_, 'every=1s offset=' . offset($_) . 'ms' ) } @names )
        . timer( $backend, 'alone', 'every=1s' ),
);

# A process that asks by the same way as hosts do.
$etcd->watch( $proxy->ports );
$backend->wait_requests( 1, timer => $_ ) for @names;
# The first host that was there has all of them; who has none of another's due times before takes those that are its own.
$_->reload_all for $fleet->hosts;
$backend->wait_requests( 1 + $backend->requests( timer => $_ ), timer => $_ ) for @names;
my @workers = map { $_->worker_in_slot(0) } $fleet->hosts;
my $queue   = TimerTest::RunQueue->start( @workers, $proxy->pid, $backend->pid );
my $from    = time;
wait_until { sleep 0.5; time > $from + $seconds } 2 * $seconds;
my $to = time;
$fleet->stop;
$proxy->settle;

my @exchanges = grep { $_->{host} } $proxy->exchanges;
my @all       = $backend->requests;
my @runs      = grep { $_->{headers}{'x-fleet'} } @all;
no_start_twice( 'a thousand', @runs );
fences_grow( 'a thousand', @runs );
is( scalar( grep { $_->{how} && $_->{how} eq 'answered' } @runs ), scalar @runs, 'all runs ended' );
is( scalar keys %{ holders(@runs) }, 5, 'each host has some' ) or diag explain holders(@runs);
is( scalar( grep { !$_->{headers}{'x-fleet'} } @all ) > 4 * $seconds ? 1 : 0, 1, 'a timer without a fleet is run by each host' );
is( scalar( grep { $_->{timer} eq 'alone' || grep { $_ eq 'alone' } @{ $_->{timers} // [] } } @exchanges ), 0, 'it makes no exchange' );

# For how long nobody could have started a timer's run, by what others than nginx say: a process that only looks at the clock
# stood still; one that only asks etcd by the same way waited; etcd, or the network that is the proxy, took its time for
# what claims or ends this timer's run, or nobody heard the answer, until that host has asked again; the upstream was
# busy with the run before.
my $SLOW = 0.05;
my @still = $beat->pauses( time, 0.1 );
my %away = map { $_ => [ $beat->pauses( $to, $SLOW ), $etcd->waits($to) ] } @names;
my %next;
for my $x ( sort { $b->{at} <=> $a->{at} } grep { $_->{kind} ne 'read' } @exchanges ) {
    my $next = \$next{ $x->{timer} // '' }{ $x->{host} };
    my $end = is_known($x) ? $x->{at} + $x->{after} : min( $x->{at} + 8, $$next // $to );
    push @{ $away{ $x->{timer} } }, [ $x->{at}, $end ] if $end > $x->{at} + $SLOW;
    $$next = is_known($x) ? $end : $$next;
    $x->{over} = $end;
}
# A host to which answers did not come in time does not ask for a while: nginx leaves members alone (fail_timeout=3s, by
# whole seconds), and it looks for one after one, two, three and five seconds.
my ( %down, %late );
for my $host ( map {"web$_"} 0 .. 4 ) {
    my @mine  = sort { $a->{at} <=> $b->{at} } grep { $_->{host} eq $host } @exchanges;
    my @known = map { $_->{at} } grep { is_known($_) } @mine;
    for my $x (@mine) {
        if ( is_known($x) ) {
            $x->{over} //= $x->{at} + $x->{after};
            next if $x->{over} <= $x->{at} + $SLOW;
            push @{ $late{$_} }, [ @{$x}{qw( at over )} ] for @{ $x->{timers} // [ $x->{timer} ] };
            next;
        }
        my $ended = $x->{at} + $LIMIT;
        my $again = min( ( first { $_ > $ended } @known ) // $to, $ended + 5.5 );
        $x->{over} //= $again;
        my $last = $down{$host}[-1];
        if   ( $last && $last->[1] >= $x->{at} ) { $last->[1] = max( $last->[1], $again ) }
        else                                     { push @{ $down{$host} }, [ $x->{at}, $again ] }
    }
}
for (@runs) {
    my $end = $_->{ended} // $to;
    push @{ $away{ $_->{headers}{'x-timer'} } }, [ $_->{arrived}, $end ] if $end > $_->{arrived} + $SLOW;
}

sub away {
    my ( $name, $begin, $end ) = @_;
    my ( $sum, $up_to ) = ( 0, $begin );
    for ( sort { $a->[0] <=> $b->[0] } all_down( $begin, $end ), grep { $_->[1] > $begin && $_->[0] < $end } @{ $away{$name} } ) {
        my ( $x, $y ) = ( max( $_->[0], $up_to ), min( $_->[1], $end ) );
        ( $sum, $up_to ) = ( $sum + $y - $x, $y ) if $y > $x;
    }
    return $sum;
}

# How long nobody was there to start it: each host was down.
sub all_down {
    my ( $begin, $end ) = @_;
    my @common = ( [ $begin, $end ] );
    for my $host ( map {"web$_"} 0 .. 4 ) {
        @common = map { my $of = $_; map { [ max( $of->[0], $_->[0] ), min( $of->[1], $_->[1] ) ] } grep { $_->[1] > $of->[0] && $_->[0] < $of->[1] } @{ $down{$host} // [] } } @common;
    }
    return @common;
}

# The kernel knows how long those were kept waiting for a processor through which each start goes: the way to etcd, the
# upstream, and whichever host; none of them for long enough to be seen by others.
sub queued {
    my ( $begin, $end ) = @_;
    my ( $proxied, $served, @hosts ) = map { $queue->waited( $_, $begin, $end ) } $proxy->pid, $backend->pid, @workers;
    return $proxied + $served + min(@hosts);
}

# A due time has one second, and so has the run before it: whoever had half of each to work in is late, but misses none.
my ( @missed, @excused, $dues );
for my $name (@names) {
    my $due = due_times( [ grep { $_->{headers}{'x-timer'} eq $name } @runs ], sub {0}, every => 1000, offset => offset($name), from => $from, to => $to - 2 );
    for my $ms ( @{ $due->{missed} } ) {
        my ( $gone, $queued ) = ( away( $name, $ms / 1000 - 1, $ms / 1000 + 1 ), queued( $ms / 1000 - 1, $ms / 1000 + 1 ) );
        push @{ $gone + $queued > 0.5 ? \@excused : \@missed }, sprintf '%s %d (%.3f s, queued for %.3f s)', $name, $ms, $gone, $queued;
    }
    $dues += $due->{all};
}
note scalar(@excused), ' missed while this machine stood still: ', join ', ', @excused;
is( join( ', ', @missed ), '', "none of $dues is missed" );
cmp_ok( $dues, '>=', 940, 'these are many' );

# The account of each host, and of all together: what they say they ran is what was started.
my @records = map { read_state( $_->prefix . '/timers.state' ) } $fleet->hosts;
for my $name (@names) {
    for my $n ( 0 .. $#records ) {
        my ( $of, $counted ) = account( $records[$n]{$name}, 1000, offset($name) );
        is( $counted, $of, "web$n: all due times of $name are accounted for" );
    }
    my $started = grep { $_->{headers}{'x-timer'} eq $name } @runs;
    my ( $ran, $lost ) = map { my $what = $_; sum0( map { $_->{$name}{$what} } @records ) } qw( runs lost );
    # A run is lost after its start, or before.
    ok( $started <= $ran && $ran <= $started + $lost, "$name: each start is one host's run" ) or diag "$started started, $ran runs, $lost lost";
}

# What it costs. It is known of a claim and of an end which due time it is of, of a read only when it came.
my ( %claims, %reads, %ends, %others, %trouble );
for my $x (@exchanges) {
    my $of    = $x->{kind} eq 'read' ? \%reads : $x->{kind} eq 'claim' ? \%claims : $x->{kind} eq 'end' ? \%ends : \%others;
    my @names = @{ $x->{timers} // [ $x->{timer} ] };
    for my $name ( grep {/\At\d/} @names ) {
        my $in = floor_due( $name, $x->{at} );
        push @{ $of->{$name}{ $x->{due} // $in } }, $x;
        # Not over before the next due time.
        for ( my $due = $in; $due + 1000 <= 1000 * $x->{over}; $due += 1000 ) { $trouble{$name}{$due} = 1 }
    }
}

sub floor_due { my ( $name, $at ) = @_; my $ms = int( 1000 * $at ) - offset($name); return $ms - $ms % 1000 + offset($name) }
# Whether a host was there to take an answer: it waits for a sixth of the ttl, with its ways to and from here, for which
# it may have had no processor, or the proxy none.
sub is_known {
    my ($x) = @_;
    return 0 if ( $x->{status} // 0 ) != 200 || $x->{after} >= 1.2;
    my ($n) = $x->{host} =~ /(\d+)\z/;
    my ( $from, $to ) = ( $x->{at} - $LIMIT, $x->{at} + $LIMIT );
    my $queued = sum0( map { $queue->waited( $_, $from, $to ) } $workers[$n], $proxy->pid );
    return $x->{known} //= $x->{after} + max( $queued, sum0( map { max( 0, min( $to, $_->[1] ) - max( $from, $_->[0] ) ) } @still ) ) < 1.2;
}

# Who claims in vain has won the due time before, or has read that this one was open, or was when it was read: the winner's
# claim is of a later revision than the read, however long anything took.
my ( @twice, @blind, @ended );
my ( $in_vain, $ended ) = ( 0, 0 );
for my $name (@names) {
    my $won_of = {};
    for my $due ( sort keys %{ $claims{$name} } ) {
        my ( $won, @more ) = grep { $_->{succeeded} } @{ $claims{$name}{$due} };
        push @twice, "$name $due" if @more;
        $won_of->{$due} = $won if $won;
    }
    my %of_host;
    push @{ $of_host{ $_->{host} } }, $_ for sort { $a->{at} <=> $b->{at} } map {@$_} values %{ $claims{$name} }, values %{ $reads{$name} };
    for my $host ( keys %of_host ) {
        my ( @reads, %claimed );
        for my $x ( @{ $of_host{$host} } ) {
            if ( $x->{kind} eq 'read' ) { push @reads, $x; next }
            my $due = $x->{due};
            # One that watches a run may lie in between; and what was read later than this due time is of use once more.
            my @used = grep { $_->{revision} } @reads;
            @reads = grep { floor_due( $name, $_->{at} ) > $due } @reads;
            my $winner = $won_of->{$due};
            # Up to then a host may have had two workers, of which one has read and the other claims.
            next if $claimed{$due}++ || !$winner || $winner->{host} eq $host || !is_known($x) || $x->{at} < $from;
            $in_vain++;
            next if $won_of->{ $due - 1000 } && $won_of->{ $due - 1000 }{host} eq $host;
            my $was_open = sub {
                my ($read) = @_;
                my ($first) = grep {defined} map { $won_of->{ floor_due( $name, $read->{at} ) + 1000 * $_ } } 0 .. 9;
                return $read->{revision} < ( $first // $winner )->{revision};
            };
            push @blind, "$name $due $host" if !grep { $was_open->($_) } @used;
        }
    }
    # One end of each, if the answers to it and to its claim came; a host that did not come to read one sends it again, but
    # only after the limit of an exchange.
    for my $due ( grep { $_ > 1000 * $from && $_ < 1000 * ( $to - 2 ) } keys %$won_of ) {
        my @ends = @{ $ends{$name}{$due} // [] };
        next if $won_of->{$due}{at} > $to - 2 || grep { !is_known($_) } @ends, @{ $claims{$name}{$due} };
        $ended++;
        my $early = grep { $ends[$_]{at} - $ends[ $_ - 1 ]{at} < 1 } 1 .. $#ends;
        push @ended, "$name $due: " . join ' ', map { sprintf '%s %d at %.3f', @{$_}{qw( host succeeded at )} } @ends
            if $early || 1 != grep { $_->{succeeded} } @ends;
    }
}
is( join( ', ', @twice ), '', 'no due time is won twice' );
is( join( ', ', @blind ), '', 'nobody claims what was seen to be taken, or without having looked' );
is( join( ', ', @ended ), '', "$ended runs have one end" );

# Of due times before whose end all was answered, as was all of the one before: exact counts. A read may have been sent
# just before the due time in which it came, so that so many due times in a row have at most one read more.
my ( $calm, $quiet, @much, @uneasy, %row ) = ( 0, 0 );
for my $name (@names) {
    for ( my $due = floor_due( $name, $from ) + 2000; $due < 1000 * ( $to - 2 ); $due += 1000 ) {
        my ($won) = grep { $_->{succeeded} } @{ $claims{$name}{$due} // [] };
        # Where nobody else has seen anything, nothing is excused.
        my ( $begin, $end ) = ( $due / 1000 - 1.5, $due / 1000 + 1 );
        my $is_quiet = !away( $name, $begin, $end ) && !grep { $_->[1] > $begin && $_->[0] < $end } @{ $late{$name} // [] }, map {@$_} values %down;
        $quiet++ if $is_quiet;
        if ( !$won || grep { $trouble{$name}{$_} || $others{$name}{$_} || floor_due( $name, $won->{at} ) != $due } $due - 1000, $due ) {
            delete $row{$name};
            push @uneasy, "$name $due: " . join ' ', map { "$_->{host} $_->{kind} " . sprintf '%.3f', $_->{at} - $due / 1000 } map { @{ $_->{$name}{$due} // [] } } \( %claims, %reads, %ends, %others ) if $is_quiet;
            next;
        }
        $calm++;
        my $row = $row{$name} //= { dues => 0 };
        $row->{dues}++;
        my %claim;
        $claim{ $_->{host} }++ for @{ $claims{$name}{$due} };
        $row->{ $_->{host} }++ for @{ $reads{$name}{$due} // [] };
        push @much, "$name $due: claims of $_: $claim{$_}" for grep { $claim{$_} > 1 } keys %claim;
        push @much, "$name $due: reads of $_: $row->{$_} of $row->{dues}" for grep { $_ ne 'dues' && $row->{$_} > $row->{dues} + 1 } keys %$row;
    }
}
is( join( ', ', @much ), '', "$calm due times: at most a claim and a read of each host" );
is( join( "\n", @uneasy ), '', "of $quiet due times where all others went on, none was late" );
ok( $calm + @excused >= $dues / 4, 'these are enough' );
cmp_ok( $ended, '>=', $dues / 4, 'and those were' );
note join ', ', map { my $kind = $_; "$kind " . grep { $_->{kind} eq $kind } @exchanges } qw( claim read end );
note scalar(@runs), ' starts, ', $in_vain, ' claims in vain';
done_testing;
