#!/usr/bin/perl

# The log: which line, at which level, how often, with which context.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    server  => <<"CONF",
    proxy_set_header X-Timer \$timer_name;
    location \@fails { timer fails every=20ms uri=/status/500; proxy_pass http://127.0.0.1:$port; }
    location \@five { timer five every=50ms uri=/fail-first/5/five; proxy_pass http://127.0.0.1:$port; }
    location \@one { timer one every=50ms uri=/fail-first/1/one; proxy_pass http://127.0.0.1:$port; }
    location \@turns { timer turns every=50ms uri=/turns/503/503/503/200; proxy_pass http://127.0.0.1:$port; }
    location \@slow { timer slow every=100ms uri=/delay/1.2/ok; proxy_pass http://127.0.0.1:$port; }
    location \@never { timer never every=1h enabled=off; return 204; }
    location \@daily { timer daily every=366d; return 204; }
CONF
);
$nginx->start;

# Once per worker start: how many, and where. One that is switched off does not count as armed or
# does, which is the module's to say.
ok( $nginx->wait_log(qr/\[notice\] \d+#\d+: timer: [67] timers in this worker, slot 0/), 'slot 0 says how many timers it has' );
is( scalar $nginx->log_lines(qr/timers? in this worker, slot 0/), 1, 'once' );

# A row of failures: the first, not the others.
ok( $backend->wait_requests( 60, timer => 'fails', ended => 1 ) >= 60, 'sixty failures' );
my @lines = $nginx->log_lines(qr/timer "fails": run failed/);
is( scalar @lines, 1, 'one line' );
like( $lines[0], qr/\[error\] \d+#\d+: (?:\*\d+ )?timer "fails": run failed: status 500, \d+ms/, 'its words' );
like( $lines[0], qr/, timer: "fails", run: [0-9a-f]{32}\b/, 'its context: the run' );
lacks( $lines[0], qr/client:/, 'there is no client' );

# The end of a row.
ok( $nginx->wait_log(qr/\[notice\] \d+#\d+: (?:\*\d+ )?timer "five": succeeded after 5 failures/), 'the end of a row' );
ok( $nginx->wait_log(qr/timer "one": succeeded after 1 failure/), 'of one' );
is( scalar $nginx->log_lines(qr/timer "five": succeeded after/), 1, 'once' );
ok( $nginx->wait_log(qr/\[info\] \d+#\d+: (?:\*\d+ )?timer "five": run succeeded: status 200, \d+ms/), 'success is info' );

# Row after row, each with its first line and its end.
ok( $nginx->wait_log( qr/timer "turns": succeeded after 3 failures/, 3 ), 'row after row' );
my @turns = $nginx->log_lines(qr/timer "turns": /);
my ( $first, $end ) = ( scalar( grep {/run failed: status 503/} @turns ), scalar( grep {/succeeded after 3/} @turns ) );
ok( $first >= $end && $first <= $end + 1, "each row has one line ($first, $end)" );

# What is left out.
ok( $nginx->wait_log(qr/\[error\] \d+#\d+: (?:\*\d+ )?timer "slow": due time left out: last run in progress for \d+ms/), 'a due time left out' );
my @slow = $backend->wait_requests( 3, timer => 'slow', ended => 1 );
ok( @slow >= 3, 'the run ends and the next follows' );
my $left_out = $nginx->log_lines(qr/timer "slow": due time left out/);
# The witness may be about to write the request of the last row down.
cmp_ok( $left_out, '<=', scalar( () = $backend->wait_requests( $left_out, timer => 'slow' ) ), 'one line a row, at most' );
is( $backend->most_at_once( timer => 'slow' ), 1, 'one at a time' );

# nginx's own lines of a run carry its context, too.
none_of { !/timer: "\w+", run: [0-9a-f]{32}/ } 'no line of a run without its context', $nginx->log_lines(qr/run (?:failed|succeeded)/);

$nginx->stop;

# At level "error" there is what went wrong, and nothing else.
$nginx = TimerTest::Nginx->new(
    log_level => 'error',
    server    => <<"CONF",
    location \@bad { timer bad every=50ms uri=/status/500; proxy_set_header X-Timer bad; proxy_pass http://127.0.0.1:$port; }
    location \@good { timer good every=50ms uri=/ok; proxy_set_header X-Timer good; proxy_pass http://127.0.0.1:$port; }
CONF
);
$nginx->start;
ok( $backend->wait_requests( 10, timer => $_, ended => 1 ) >= 10, "$_ runs" ) for qw( bad good );
ok( $nginx->wait_log(qr/timer "bad": run failed/), 'the failure is there' );
none_of { !/\[error\]/ } 'and no other line', $nginx->log_lines(qr/./);
$nginx->stop;

# A log of its own for a location is used for its runs.
$nginx = TimerTest::Nginx->new(
    server => "location \@own { timer own every=50ms uri=/status/500; error_log logs/own.log info; proxy_pass http://127.0.0.1:$port; }",
);
$nginx->start;
ok( wait_until { slurp( $nginx->prefix . '/logs/own.log' ) =~ /timer "own": run failed: status 500/ }, 'the error_log of the location' );
$nginx->stop;

done_testing;
