package TimerTest::Series;

# What the backend's record and the log say of a timer's series: that no due time ran twice, that no
# two of its requests were in progress at once, and which due times had none.
#
#     server => timer( $backend, 'x', 'every=100ms offset=0', 'delay/0.2/ok' )
#     no_doubles( 'after a reload', $backend->requests );
#     no_overlaps( 'after a reload', { PID => KILLED AT }, $backend->requests );
#     my @lost = lost_dues( 100, FROM, TO, $backend->requests( timer => 'x' ) );
#
# Due times are whole milliseconds here.

use strict;
use warnings;

use Exporter qw( import );
use Fcntl qw( F_WRLCK SEEK_SET );
use POSIX qw( ceil );
use Test::More ();
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::StateFile ();

our @EXPORT = qw(
    timer due_ms start_ms requests_by no_doubles no_overlaps doubles overlaps lost_dues lost_awake interrupted_dues
    start_upgrade in_namespace logged logged_times read_records accounted
    slots_in hold_lock
);

# A named location with a timer whose requests say all that the module's variables do.
sub timer {
    my ( $backend, $name, $parameters, $uri, $more ) = @_;

    my $port    = $backend->port;
    my %headers = (
        'X-Timer'   => $name,
        'X-Pid'     => '$pid',
        'X-Slot'    => '$timer_worker',
        'X-Due'     => '$timer_due',
        'X-Run'     => '$timer_run',
        'X-Attempt' => '$timer_attempt',
        'X-Trigger' => '$timer_trigger',
        'X-Late'    => '$timer_lateness',
        'X-Success' => '$timer_last_success',
    );
    my $headers = join ' ', map {"proxy_set_header $_ $headers{$_};"} sort keys %headers;
    $uri  //= 'ok';
    $more //= '';
    return "location \@$name { timer $name $parameters uri=/$uri; $more $headers proxy_pass http://127.0.0.1:$port; }\n";
}

sub due_ms {
    my ($request) = @_;
    my ( $seconds, $ms ) = ( $request->{headers}{'x-due'} // '' ) =~ /\A(\d+)\.(\d{3})\z/ or return -1;
    return $seconds * 1000 + $ms;
}

# When nginx began the attempt, by its own word.
sub start_ms {
    my ($request) = @_;
    return due_ms($request) + 1000 * ( $request->{headers}{'x-late'} // 0 );
}

# The requests that a process made.
sub requests_by {
    my ( $pid, @requests ) = @_;
    return grep { ( $_->{headers}{'x-pid'} // '' ) eq $pid } @requests;
}

# Due times (of one timer, one attempt) that were requested more than once, one line each.
sub doubles {
    my (@requests) = @_;
    my %seen;
    push @{ $seen{"$_->{headers}{'x-timer'} due $_->{headers}{'x-due'} attempt $_->{headers}{'x-attempt'}"} }, $_
        for @requests;
    return map {
        my $what = $_;
        @{ $seen{$what} } > 1 ? "$what: " . join ', ', map { _who($_) } @{ $seen{$what} } : ();
    } sort keys %seen;
}

sub _who {
    my ($r) = @_;
    my $ended = defined $r->{ended} ? sprintf '%.3f', $r->{ended} : '-';
    return sprintf '%s by %s at %.3f to %s %s', $r->{headers}{'x-trigger'}, $r->{headers}{'x-pid'}, $r->{arrived},
        $ended, $r->{how} // '';
}

# Requests of one timer that were in progress at once, one line each.  A request of a process that
# was killed ended with it: the witness may see the closed connection after the successor's request.
sub overlaps {
    my ( $killed, @requests ) = @_;

    my ( %last, @found );
    for my $r ( sort { $a->{arrived} <=> $b->{arrived} } @requests ) {
        my $timer   = $r->{headers}{'x-timer'};
        my $end     = $r->{ended} // 9e99;
        my $died_at = $killed->{ $r->{headers}{'x-pid'} };
        $end = $died_at if defined $died_at && $died_at < $end;
        my $last = $last{$timer};
        push @found, "$timer: " . _who( $last->{request} ) . ' and ' . _who($r) if $last && $last->{end} > $r->{arrived};
        $last{$timer} = { end => $end, request => $r } if !$last || $end > $last->{end};
    }
    return @found;
}

# One test each, of requests that there are.
sub no_doubles {
    my ( $title, @requests ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return _none_found( "$title: no due time twice", \@requests, doubles(@requests) );
}

sub no_overlaps {
    my ( $title, $killed, @requests ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return _none_found( "$title: one at a time", \@requests, overlaps( $killed, @requests ) );
}

sub _none_found {
    my ( $title, $requests, @found ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::fail($title) || Test::More::diag('there are no requests of a timer') if !grep { $_->{headers}{'x-timer'} } @$requests;
    return Test::More::is( scalar @found, 0, $title ) || Test::More::diag( join "\n", _few(@found) );
}

sub _few { return @_ > 10 ? ( @_[ 0 .. 9 ], '...' ) : @_ }

# The due times of "every=N offset=0" in milliseconds that lie in FROM .. TO (seconds) and have no
# request among these. A time in which there is no due time at all is a failed test.
sub lost_dues {
    my ( $every, $from, $to, @requests ) = @_;
    my %seen = map { due_ms($_) => 1 } @requests;
    my @lost;
    in_vain("a due time of every=${every}ms from $from to $to") if ceil( $from * 1000 / $every ) * $every > $to * 1000;
    for ( my $due = ceil( $from * 1000 / $every ) * $every; $due <= $to * 1000; $due += $every ) {
        push @lost, $due if !$seen{$due};
    }
    return @lost;
}

# Of due times of "every=EVERY" that are lost (milliseconds) those for which there is no excuse: the timer's last
# run was not in progress, nor did this machine stand still for half of the time that there was to take it in:
# the last WINDOW milliseconds before the next one, or all of them.
sub lost_awake {
    my ( $every, $lost, $own, $beat, $window ) = @_;
    $window //= $every;
    my @runs = map { [ start_ms($_), defined $_->{ended} ? 1000 * $_->{ended} + 100 : 9e99 ] } @$own;
    my @found;
    for my $due (@$lost) {
        next if grep { $_->[0] <= $due && $due <= $_->[1] } @runs;
        my $next = $due + $every;
        push @found, $due if 2000 * $beat->still( ( $next - $window ) / 1000, $next / 1000 ) < $window;
    }
    Test::More::note( sprintf 'lost while nobody could take them: %d of %d', @$lost - @found, scalar @$lost ) if @$lost > @found;
    return @found;
}

# One test: the log has, or within the deadline gets, at least COUNT such lines.
sub logged {
    my ( $nginx, $pattern, $title, $count ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok( $nginx->wait_log( $pattern, $count ), $title )
        || Test::More::diag( join "\n", "no $pattern in", _few( $nginx->log_lines(qr/\[(?:warn|error|crit|alert|emerg)\]/) ) );
}

# One test: the log has exactly so many such lines; none only if it has others of this module.
sub logged_times {
    my ( $nginx, $pattern, $count, $title ) = @_;
    my @lines = $nginx->log_lines($pattern);
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::fail($title) || Test::More::diag('the log has no line of a timer')
        if !$count && !$nginx->log_lines(qr/\d+#\d+: (?:\*\d+ )?timer(?:: | ")/);
    return Test::More::is( scalar @lines, $count, $title ) || Test::More::diag( join "\n", _few(@lines) );
}

# The runs that the log calls interrupted: { TIMER => { DUE in ms => pid } }.
sub interrupted_dues {
    my ($log) = @_;
    my %dues;
    while ( $log =~ /timer "([^"]+)": run interrupted: process (\d+) died, due (\d+)\.(\d{3})/g ) {
        $dues{$1}{ $3 * 1000 + $4 } = $2;
    }
    return \%dues;
}

# The slot of each worker, by what it says at its start: { PID => SLOT }.
sub slots_in {
    my ($log) = @_;
    return { $log =~ /(\d+)#\d+: timer: \d+ timers? in this worker, slot (\d+)\b/g };
}

# What a state file says, by the table in docs/state-file.md: { NAME => { watermark, created, runs, ... } }.
sub read_records {
    my ($path) = @_;

    my $records = TimerTest::StateFile::read_state($path);
    for my $record ( values %$records ) {
        $record->{$_} //= -2**63 for qw( watermark created not_before left_out_up_to );
        $record->{left_out} = $record->{left_out_up_to};
        $record->{gaps}     = $record->{uncounted};
        $record->{runs}-- if $record->{progress} == 1 || $record->{progress} == 2;
    }
    return $records;
}

# The account of a timer of "every=N offset=0": the due times that have been handled since its
# record was made, less those that it has counted.  0 is a balance; above, due times are lost silently.
sub accounted {
    my ( $every, $record ) = @_;
    my ($up_to) = sort { $b <=> $a } @$record{qw( watermark left_out )};
    my $dues = int( $up_to / $every ) - int( $record->{created} / $every );
    return $dues - ( $record->{runs} - $record->{unscheduled} + $record->{overlaps} + $record->{missed} );
}

# Holds a lock byte of a state file, by the table in docs/state-file.md, until what is answered is closed:
# an open file description lock (F_OFD_SETLK; struct flock of a 64-bit Linux).
sub hold_lock {
    my ( $path, $byte ) = @_;
    open my $fh, '+<', $path or die "$path: $!";
    my $flock = pack 's s x4 q q l x4', F_WRLCK, SEEK_SET, $byte, 1, 0;
    wait_until { fcntl $fh, 37, $flock } or die "fcntl: $!";
    return $fh;
}

# USR2 to a daemon's master; answers the pid of the new master once it has all its workers.
sub start_upgrade {
    my ( $nginx, $old ) = @_;
    my $pids = $nginx->prefix . '/logs/nginx.pid';
    $nginx->signal( 'USR2', $old );
    my $new;
    my $there = sub {
        ($new) = slurp($pids) =~ /(\d+)/;
        $new && $new != $old && is_alive($new) && children_of($new) >= $nginx->{workers};
    };
    poll_until($there) || in_vain( 'a new master', $nginx->log_lines(qr/\[(?:error|crit|alert|emerg)\]/) );
    return $new;
}

# Runs this test again in a mount namespace of its own, where mounts end with it; skips it where
# that is not possible.
sub in_namespace {
    return if $^C || ( $ENV{TIMER_TEST_NAMESPACE} // '' ) eq $0;
    my @unshare = qw( unshare --mount --propagation private );
    my ($status) = run_command( @unshare, 'mount', '-t', 'tmpfs', 'none', '/mnt' );
    Test::More::plan( skip_all => 'no mount namespace: not root, or not permitted' ) if $status ne '0';
    $ENV{TIMER_TEST_NAMESPACE} = $0;
    exec @unshare, $^X, $0, @ARGV or die "unshare: $!";
}

# What was mounted goes first, so that the scratch directories can be removed.
my $creator = $$;

END {
    if ( $$ == $creator && ( $ENV{TIMER_TEST_NAMESPACE} // '' ) eq $0 ) {
        local ( $?, $!, $@ );
        my @points = map { ( split ' ' )[4] } grep {/timer-test-/} split /\n/, slurp('/proc/self/mountinfo');
        run_command( 'umount', '--lazy', $_ ) for reverse @points;
    }
}

1;
