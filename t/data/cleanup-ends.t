#!/usr/bin/perl

# A clean-up that takes long, and what comes in between: other requests, a cancel, a timeout, a reload, the end of
# nginx and of a worker. Each removal takes a while, which a library sees to.

use strict;
use warnings;

use File::Path qw( make_path );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Faults;
use TimerTest::Nginx;

my $dir = scratch_dir();

# Lays so many old files.
sub lay {
    my ( $name, $count ) = @_;
    make_path("$dir/$name");
    chmod 0777, "$dir/$name";
    my @files = map {"$dir/$name/slow$_"} 1 .. $count;
    spew( $_, '' ) for @files;
    utime time - 9000, time - 9000, @files;
    return;
}

sub left { my @files = glob "$dir/$_[0]/slow*"; return scalar @files }

my $FILES  = 400;
# Where there is an event method that threads cannot call.
my $poll   = ( run_command( nginx_binary(), '-V' ) )[1] =~ /--with-poll_module/;
my %events = ( threads => '', slices => $poll ? 'use poll;' : '' );

for my $mode ( sort keys %events ) {
    my $faults = TimerTest::Faults->new;
    $faults->fail( unlink => delay => 0.05, name => 'slow' );
    my @names = qw( cancelled late reloaded killed quit );
    my $tree  = sub {"$mode/$_[0]"};
    lay( $tree->($_), $FILES ) for @names, 'short';
    unlink map {"$dir/$mode/short/slow$_"} 6 .. $FILES;
    my $nginx = TimerTest::Nginx->new(
        workers => 1,
        faults  => $faults,
        events  => $events{$mode},
        server  => join( '', map {"location \@$_ { timer $_ every=366d; timer_timeout 60s; timer_cleanup $dir/$mode/$_ older=1h; }\n"} @names )
            =~ s/(timer late .*?timeout) 60s/$1 500ms/r
            . "location \@short { timer short every=366d; timer_cleanup $dir/$mode/short older=1h; }"
            . 'location /status/ { timer_api write=on; }',
    );
    # What follows "http" is not known when the directive is read: no threads are asked for.
    if ( $mode eq 'slices' && !$poll ) {
        my $text = slurp( $nginx->conf_file );
        $text =~ s/^(events \{.*?^\}\n)(.*)\z/$2$1/ms;
        $nginx->write_conf( conf => $text );
    }
    my $api = TimerTest::Api->new($nginx);
    $nginx->start;
    my $begin = sub {
        my ($name) = @_;
        $api->order("/timers/$name/run");
        return wait_until { left( $tree->($name) ) < $FILES };
    };

    # Others are served meanwhile; without threads no removal waits for another in the same turn.
    $begin->('cancelled');
    is( $nginx->get('/ready')->{status}, 200, "$mode: clients are served" ) for 1 .. 3;
    is( ( $api->show('cancelled') )->{status}, 'running', 'while it is running' );
    is( ( $api->order('/timers/cancelled/cancel') )[0], 202, 'it is cancelled' );
    $nginx->wait_log(qr/timer "cancelled": run cancelled/);
    my $left = left( $tree->('cancelled') );
    cmp_ok( $left, '>', $FILES / 2, 'and ends soon' );
    is( $api->show('cancelled')->{running}, undef, 'it is not running any more' );

    # Neither does a timeout wait for the end; what was cut off goes on next time.
    $begin->('late');
    my $timeout = sub { my $last = $api->show('late')->{last} // {}; return ( $last->{outcome} // '' ) eq 'timeout' ? $last->{run} : '' };
    my $first = wait_until { $timeout->() };
    my $late = left( $tree->('late') );
    cmp_ok( $late, '>', 0, 'a timeout ends it' );
    $api->order('/timers/late/run');
    wait_until { $timeout->() && $timeout->() ne $first };
    cmp_ok( left( $tree->('late') ), '<', $late, 'it goes on the next time' );
    lacks( $nginx->log, qr/clean-up of \S+late"/, 'without an answer' );
    is( left( $tree->('cancelled') ), $left, 'what was cancelled did not go on' );

    # A worker that is killed leaves nothing behind that keeps the next one.
    $begin->('killed');
    my ($worker) = $nginx->workers;
    kill 'KILL', $worker;
    push @{ $nginx->{allow} }, qr/worker process $worker exited on signal 9/;
    wait_until { my ($new) = $nginx->workers; $new && $new != $worker };
    $nginx->wait_log(qr/timer "killed": run interrupted|"killed": .*interrupted/);
    $faults->clear;
    $api->order('/timers/killed/run');
    $nginx->wait_log(qr/clean-up of \S+killed": removed \d+ files/);
    is( left( $tree->('killed') ), 0, 'another worker does the rest' );

    # A reload: the old worker finishes it, while the new ones work.
    $faults->fail( unlink => delay => 0.02, name => 'slow' );
    lay( $tree->('reloaded'), 100 );
    unlink map {"$dir/$mode/reloaded/slow$_"} 101 .. $FILES;
    $api->order('/timers/reloaded/run');
    wait_until { left( $tree->('reloaded') ) < 100 };
    my @old = $nginx->reload;
    is( $nginx->get('/ready')->{status}, 200, 'clients are served after a reload' );
    $nginx->wait_log(qr/clean-up of \S+reloaded": removed 100 files/);
    $nginx->wait_gone( \@old );
    is( left( $tree->('reloaded') ), 0, 'the old worker has done all' );
    $nginx->wait_log(qr/timer "reloaded": run succeeded: status 200/);

    # The end of nginx: QUIT waits for the run, TERM for no more than a file.
    $api->order('/timers/short/run');
    wait_until { left( $tree->('short') ) < 5 };
    $begin->('quit') if $mode eq 'threads';
    my $signal = $mode eq 'threads' ? 'TERM' : 'QUIT';
    $nginx->stop($signal);
    is( left( $tree->('short') ), 0, 'QUIT: a run is finished' ) if $signal eq 'QUIT';
    cmp_ok( left( $tree->('quit') ), '>', 0, 'TERM: a run is cut off' ) if $signal eq 'TERM';
}

done_testing;
