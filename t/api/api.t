#!/usr/bin/perl

# timer_api, what it shows: JSON, due times, table, health and metrics, by any worker, also after a
# reload and while the timers' own worker hangs.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $instant = qr/\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\z/;

# Due once, at the start, and not again while this test runs.
my $once = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's first=now';
my $rare = 'every=10h offset=' . ( ( time - 3600 ) % 36_000 ) . 's';

# The type and the headers that all answers have, one test.
sub headers_ok {
    my ( $title, $answer, $type ) = @_;
    my @wrong;
    push @wrong, 'type'    if $answer->{headers} !~ /^Content-Type: \Q$type\E\r?$/mi;
    push @wrong, 'store'   if $answer->{headers} !~ /^Cache-Control: no-store\r?$/mi;
    push @wrong, 'nosniff' if $answer->{headers} !~ /^X-Content-Type-Options: nosniff\r?$/mi;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is( "@wrong", '', "$title: $type, no-store, nosniff" ) || diag $answer->{headers};
}

my $JSON    = 'application/json';
my $TEXT    = 'text/plain; charset=utf-8';
my $METRICS = 'text/plain; version=0.0.4; charset=utf-8';

my $api   = 'location /status/ { timer_api; add_header X-Worker $pid always; } location /bare { timer_api; }';
# nginx 1.22 itself complains of what is open when a worker that was leaving is told to stop at once:
# here the run that hangs, and its upstream.
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    allow   => [ qr/open socket #\d+ left in connection/, qr/\[alert\] \d+#\d+: aborting/ ],
    server  => $api
        . timer( $backend, 'ok',  $once )
        . timer( $backend, 'bad', 'every=300ms', 'status/502' )
        . timer( $backend, 'hangs', $once, 'hang', 'timer_timeout 1h; proxy_read_timeout 1h;' )
        . timer( $backend, 'slow', $once, 'hang', 'timer_timeout 1s; timer_worker any; timer_unhealthy_after 2;' )
        . timer( $backend, 'off',  'every=30s enabled=off', 'ok?at=$timer_due', 'timer_missed skip; timer_overlap queue;' )
        . timer( $backend, 'cron', '"cron=0 3 * * mon" tz=Europe/Berlin' )
        . timer( $backend, 'retries', $once, 'status/500', 'timer_retry 2 backoff=1h max=1h;' ),
    http => 'timer_worker 0;',
);
my $begun = time;
$nginx->start;

sub get {
    my ( $path, %option ) = @_;
    return $nginx->get( "/status$path", %option );
}

sub show {
    my ($name) = @_;
    return json( get("/timers/$name") ) // {};
}

ok( $nginx->wait_log(qr/timer "ok": run succeeded/),           'a timer has succeeded' );
ok( $backend->wait_requests( 1, timer => 'hangs' ),            'one hangs' );
ok( wait_until { ( show('bad')->{consecutive_failures} // 0 ) >= 3 }, 'one fails and fails' );
ok( wait_until { ( show('slow')->{status} // '' ) eq 'idle' && show('slow')->{last} }, 'one has timed out' );
ok( wait_until { my $r = show('retries')->{running}; $r && $r->{next_attempt} }, 'one waits for its next attempt' );

# Waits until no old worker answers any more; their pids.
sub reload {
    my @old = $nginx->reload;
    for my $pid (@old) {
        $nginx->wait_log(qr/ $pid#\d+: gracefully shutting down/);
    }
    return @old;
}

# All timers.
my $answer = get('/timers');
is( $answer->{status}, 200, 'timers: 200' );
headers_ok( 'timers', $answer, $JSON );
my $all = json($answer);
ok( $all, 'it is one JSON text' ) or diag $answer->{body};
my @host = qw( version nginx hostname state state_file tzdata now paused timers );
is( join( ' ', sort keys %$all ), join( ' ', sort @host ), 'with its fields' );
is( $all->{state},      'ok',                                'the state is well' );
is( $all->{state_file}, $nginx->prefix . '/timers.state',    'and has its path' );
is( $all->{paused},     undef,                               'nothing is paused' );
like( $all->{now}, $instant, 'the instant' );
like( $all->{version}, qr/\A\d+\.\d+\.\d+/, 'the version' );
is( $all->{nginx}, join( '.', map { int( nginx_version() / $_ ) % 1000 } 1_000_000, 1000, 1 ), q{nginx's} );
is( join( ' ', sort map { $_->{name} } @{ $all->{timers} } ), 'bad cron hangs off ok retries slow', 'each timer' );

my @fields = qw(
    name schedule timezone worker server location config timeout_ms unhealthy_after status health next_due late_seconds last_due
    running paused queued last last_success consecutive_failures recent counters
);
my @counters = qw( runs success failure timeout cancelled interrupted error retries unscheduled overlaps missed );
none_of { join( ' ', sort keys %$_ ) ne join ' ', sort @fields } 'with all fields, and no history', @{ $all->{timers} };
none_of { join( ' ', sort keys %{ $_->{counters} } ) ne join ' ', sort @counters } 'and all counters', @{ $all->{timers} };

for my $timer ( @{ $all->{timers} } ) {
    my $counters = $timer->{counters};
    my $sum      = 0;
    $sum += $counters->{$_} for qw( success failure timeout cancelled interrupted error );
    is( $counters->{runs}, $sum + ( $timer->{running} ? 1 : 0 ), "$timer->{name}: runs are the outcomes and the one in progress" );
}

# One timer each.
$answer = get('/timers/ok');
headers_ok( 'timer', $answer, $JSON );
my $ok = json($answer);
my @more = qw( method uri jitter_ms overlap missed retry next response history );
is( join( ' ', sort keys %$ok ), join( ' ', sort @fields, @more ), 'one timer: all fields, its definition, and the history' );
is_deeply(
    [ @$ok{qw( method uri jitter_ms overlap missed retry )} ],
    [ 'GET', '/ok', 0, 'skip', { policy => 'run', within_ms => 3_600_000 }, undef ],
    'what its directives say'
);
is_deeply( show('retries')->{retry}, { number => 2, on => [qw( failure error )], backoff_ms => 3_600_000, max_ms => 3_600_000 }, 'its retries' );
is_deeply( $ok->{next}, json( get('/timers/ok/next') )->{next}, 'its next due times' );
is_deeply( show('off')->{next}, [], 'none for a disabled one' );
is_deeply( [ @{ show('off') }{qw( uri missed overlap )} ], [ '/ok?at=$timer_due', { policy => 'skip', within_ms => undef }, 'queue' ], 'its variables' );
is( $ok->{response}, undef, 'no response of a failure' );
is_deeply( $ok->{history}, [ $ok->{last} ], 'which has the last run first' );
is( $ok->{status},      'idle',                  'ok: idle' );
is( $ok->{health},      'ok',                    'ok: and well' );
is( $ok->{unhealthy_after}, 1,                   'due once in ten hours, one failure is too many' );
is( $ok->{worker},      0,                       'its slot' );
is( $ok->{server},      'localhost',             'its server' );
is( $ok->{location},    '@ok',                   'its location' );
is( $ok->{timezone},    undef,                   'no zone' );
is( $ok->{timeout_ms},  60_000,                  'its timeout' );
is( $ok->{running},     undef,                   'nothing runs' );
is( $ok->{recent},      'S',                     'its outcomes' );
is( $ok->{late_seconds}, 0,                      'not late' );
like( $ok->{schedule}, qr/\Aevery=10h\b/, 'its schedule' );
like( $ok->{config}, qr/\A\Q@{[ $nginx->conf_file ]}\E:\d+\z/, 'where it is configured' );
like( $ok->{$_}, $instant, $_ ) for qw( next_due last_success );
ok( $ok->{next_due} gt $all->{now}, 'which is to come' );
is( ref $ok->{queued}, 'JSON::PP::Boolean', 'queued is true or false' );
my ($request) = $backend->requests( timer => 'ok' );
is_deeply(
    { map { $_ => $ok->{last}{$_} } qw( run outcome status attempts trigger pid ) },
    {
        run      => $request->{headers}{'x-run'},
        outcome  => 'success',
        status   => 200,
        attempts => 1,
        trigger  => 'first',
        pid      => $request->{headers}{'x-pid'},
    },
    'its last run is the one that the backend has seen'
);
like( $ok->{last}{$_}, $instant, "$_ of it" ) for qw( due start );
is( $ok->{counters}{unscheduled}, 1, 'a first run is unscheduled' );
like( $answer->{body}, qr/"status":200,"attempts":1/, 'numbers are numbers' );

my $hangs = show('hangs');
is( $hangs->{status}, 'running', 'hangs: running' );
is_deeply(
    { %{ $hangs->{running} }, due => undef, start => undef },
    {
        run          => ( $backend->requests( timer => 'hangs' ) )[0]{headers}{'x-run'},
        due          => undef,
        start        => undef,
        attempt      => 1,
        trigger      => 'first',
        pid          => $nginx->worker_in_slot(0),
        next_attempt => undef,
    },
    'and what runs'
);
is( $hangs->{last},    undef, 'never ended' );
is( $hangs->{last_success}, undef, 'never succeeded' );

my $bad = show('bad');
like( $bad->{recent}, qr/\AFFF/, 'bad: its outcomes' );
is( $bad->{last}{status},  502,       'its status' );
is( $bad->{last}{outcome}, 'failure', 'is a failure' );
is( $bad->{health},        'failing', 'its health' );
is( $bad->{unhealthy_after}, 3,       'after three failures, as it is due so often' );
cmp_ok( scalar @{ $bad->{history} }, '<=', 32, 'at most 32 runs are told' );
is( $bad->{history}[0]{run}, $bad->{last}{run}, 'the newest first' );

my $slow = show('slow');
is( $slow->{worker},        'any',     'slow: any worker' );
is( $slow->{last}{outcome}, 'timeout', 'timed out' );
is( $slow->{recent},        'T',       'says its letter' );
is( $slow->{health},        'failed',  'which is a failure' );
is( $slow->{unhealthy_after}, 2,      'one of two' );
is( $slow->{timeout_ms},    1000,      'its own timeout' );

my $off = show('off');
is( $off->{status},   'disabled', 'off: disabled' );
is( $off->{next_due}, undef,      'without a due time' );
is( $off->{last_due}, undef,      'it never was due' );

my $retries = show('retries');
is( $retries->{status}, 'running', 'one that waits for its next attempt is running' );
like( $retries->{running}{next_attempt}, $instant, 'and tells when' );

my $cron = show('cron');
is( $cron->{timezone}, 'Europe/Berlin',     'cron: its zone' );
is( $cron->{schedule}, 'cron=0 3 * * mon', 'its expression' );

# The index, with and without the final slash.
is_deeply( [ sort keys %{ json( get('/') ) } ], [ sort @host ], 'the index is all timers' );
for my $path ( '/bare', '/bare/', '/bare/timers' ) {
    is_deeply( [ sort keys %{ json( $nginx->get($path) ) // {} } ], [ sort @host ], "$path: too" );
}

# The last and the next 24 hours.
$answer = get('/day');
headers_ok( 'day', $answer, $JSON );
my %day = map { $_->{name} => $_ } @{ json($answer)->{timers} };
is( join( ' ', sort keys %day ), 'bad cron hangs off ok retries slow', 'day: each timer' );
is( join( ' ', sort keys %{ $day{ok} } ), 'due name often outcomes starts', 'day: with its fields' );
is( $day{ok}{outcomes}, 'S', 'day: what ran' );
cmp_ok( abs( $day{ok}{starts}[0] - $begun ), '<', 3600, 'day: and when' );
ok( !$day{ok}{often} && $day{bad}{often}, 'day: what is due more often than runs are kept' );
like( scalar @{ $day{bad}{due} }, qr/\A4[89]\z/, 'day: is due in each half hour' );
is( scalar grep( { $_ <= time - 3600 || $_ > time + 90_000 } map { @{ $_->{due} } } values %day ), 0, 'day: due times are to come' );
is_deeply( $day{off}{due}, [], 'day: nothing is due for a disabled one' );

# Due times.
my $after = '2026-11-23T12:00:00Z';
$answer = get("/timers/cron/next?after=$after&count=2");
headers_ok( 'next', $answer, $JSON );
is_deeply( json($answer)->{next}, [ '2026-11-30T02:00:00.000Z', '2026-12-07T02:00:00.000Z' ], 'next: due times' );
is( json($answer)->{name},  'cron',                     'its name' );
is( json($answer)->{after}, '2026-11-23T12:00:00.000Z', 'after what' );
my $next = json( get('/timers/ok/next') );
is( scalar @{ $next->{next} }, 5,                'next: five' );
is( $next->{next}[0],          $ok->{next_due}, 'of which the first is next_due' );
is( scalar @{ json( get('/timers/off/next?count=100') )->{next} }, 100, 'up to a hundred, for a disabled one too' );

$answer = get("/next?cron=0+3+*+*+mon&tz=Europe/Berlin&after=$after&count=2");
headers_ok( 'any expression', $answer, $JSON );
is_deeply( json($answer)->{next}, [ '2026-11-30T02:00:00.000Z', '2026-12-07T02:00:00.000Z' ], 'an expression' );
is_deeply(
    json( get('/next?cron=0%203%20*%20*%20*&after=1795435200&count=1') )->{next},
    ['2026-11-24T03:00:00.000Z'],
    'blanks as %20, Unix seconds, UTC'
);
for my $wrong (
    '/next',                    '/next?cron=',           '/next?cron=61+*+*+*+*',
    '/next?cron=0+0+31+2+*',    '/next?cron=@daily&tz=Nowhere/At_All', '/next?cron=@daily&count=0',
    '/next?cron=@daily&count=101', '/next?cron=@daily&after=yesterday', '/next?cron=%zz',
    '/timers/ok/next?count=x',  '/timers/ok/next?after=-1', '/timers/ok/next?after=253402300799',
) {
    my $refused = get($wrong);
    is( $refused->{status}, 400, "$wrong: 400" );
    my $error = json($refused);
    ok( $error && $error->{error} && keys %$error == 1, 'and says why' ) or diag $refused->{body};
}

# The table.
$answer = get('/text');
headers_ok( 'text', $answer, $TEXT );
my @lines = split /\n/, $answer->{body};
like( $lines[0], qr/\ANEXT +LEFT +HEALTH +LAST +TOOK +OUTCOME +NAME\z/, 'text: its head' );
my $stamp = qr/\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ/;
like( $answer->{body}, qr/^$stamp +8h +\d+min +ok +$stamp +\d+m?s +success 200 +ok$/m, 'a line for one that is well' );
like( $answer->{body}, qr/^- +disabled +ok +- +- +- +off$/m, 'for one that is not' );
like( $answer->{body}, qr/ failing .* failure 502 +bad$/m, 'for one that fails' );
like( $answer->{body}, qr/ failed .* timeout +slow$/m,   'for one that failed' );
like( $answer->{body}, qr/ running +.* hangs$/m,         'for one that runs' );
like( $answer->{body}, qr/^7 timers$/m,                  'how many' );

# Health.
$answer = get('/health');
is( $answer->{status}, 503, 'health: 503' );
headers_ok( 'health', $answer, $TEXT );
is_well( sub { get('/health')->{body} }, qr/\Abad: failing, failed \d+ times in a row\nslow: failed once\n\z/, 'those that fail, and no other' );
$answer = get('/health/ok');
is( "$answer->{status} $answer->{body}", "200 ok\n", 'one that is well' );
headers_ok( 'health of one', $answer, $TEXT );
$answer = get('/health/bad');
is( $answer->{status}, 503, 'one that is not' );
is_well( sub { get('/health/bad')->{body} }, qr/\Abad: failing, failed \d+ times in a row\n\z/, 'says why' );
$answer = get('/health/slow');
is( "$answer->{status} $answer->{body}", "200 ok\nslow: failed once\n", 'a failure that is not too many is told, and well' );
is( get('/health/none')->{status}, 404, 'one that is not there' );

# Metrics: well formed, each family with HELP and TYPE before its samples.
$answer = get('/metrics');
headers_ok( 'metrics', $answer, $METRICS );

my $metrics = parse_metrics( $answer->{body} );
ok( ref $metrics, 'metrics: well formed' );
like( $answer->{body}, qr/\n\z/, 'and complete' );
is( $metrics->{'nginx_timer_state_ok'}, 1, 'the state is well' );
for my $timer (qw( ok off )) {
    my @missing = grep { !defined $metrics->{"nginx_timer_${_}{timer=\"$timer\"}"} } qw(
        retries_total unscheduled_total overlaps_total missed_total running paused enabled
        last_start_timestamp_seconds last_success_timestamp_seconds next_due_timestamp_seconds
        run_duration_seconds_sum run_duration_seconds_count last_duration_seconds
        last_lateness_seconds consecutive_failures timeout_seconds
    );
    is( "@missing", '', "$timer has all of them from the start" );
    my @outcomes = grep { !defined $metrics->{"nginx_timer_runs_total{timer=\"$timer\",outcome=\"$_\"}"}
            && !defined $metrics->{"nginx_timer_runs_total{outcome=\"$_\",timer=\"$timer\"}"} }
        qw( success failure timeout cancelled interrupted error );
    is( "@outcomes", '', 'and all outcomes' );
    is( ( grep {/\Anginx_timer_info\{.*timer="$timer"/} keys %$metrics ), 1, 'and an info' );
}
is( $metrics->{'nginx_timer_enabled{timer="ok"}'},  1, 'enabled' );
is( $metrics->{'nginx_timer_enabled{timer="off"}'}, 0, 'disabled' );
cmp_ok( $metrics->{'nginx_timer_last_success_timestamp_seconds{timer="off"}'}, '==', 0, 'never is 0' );
cmp_ok( $metrics->{'nginx_timer_last_success_timestamp_seconds{timer="ok"}'}, '>=', int($begun) - 1, 'else Unix seconds' );
is( $metrics->{'nginx_timer_running{timer="hangs"}'}, 1, 'running' );
cmp_ok( $metrics->{'nginx_timer_timeout_seconds{timer="slow"}'}, '==', 1, 'in seconds' );
cmp_ok( $metrics->{'nginx_timer_consecutive_failures{timer="bad"}'}, '>=', 3, 'failures' );
for my $is ( [ ok => 'ok' ], [ off => 'ok' ], [ bad => 'failing' ], [ slow => 'failed' ] ) {
    my ( $timer, $health ) = @$is;
    my @states = map { "$_=" . ( $metrics->{"nginx_timer_health{timer=\"$timer\",state=\"$_\"}"} // '-' ) } qw( unknown stuck late failing failed ok );
    is( "@states", join( ' ', map { "$_=" . ( $_ eq $health ? 1 : 0 ) } qw( unknown stuck late failing failed ok ) ), "$timer: its health" );
}

# HEAD, other methods, other paths.
for my $path ( '/', '/timers', '/timers/ok', '/timers/ok/next', '/next?cron=@daily', '/day', '/text', '/health', '/health/ok', '/metrics' ) {
    my $whole = get($path);
    my $head  = get( $path, method => 'HEAD' );
    my ($type) = $whole->{headers} =~ /^Content-Type: ([^\r\n]+)/mi;
    is( "$head->{status} $head->{body}", "$whole->{status} ", "HEAD $path: the status, and no body" );
    headers_ok( "HEAD $path", $head, $type );
    for my $method (qw( POST PUT DELETE OPTIONS )) {
        my $refused = get( $path, method => $method );
        is( $refused->{status}, 405, "$method $path: 405" );
        like( $refused->{headers}, qr/^Allow: GET, HEAD\r?$/mi, 'with Allow' );
    }
}
my $refused = get( '/text', method => 'POST' );
headers_ok( '405', $refused, $JSON );
is( json($refused)->{error}, 'method not allowed, use GET', '405: says what to do' );
for my $path ( '/none', '/timers/none', '/timers/', '/timers/none/next', '/timers/ok/none', '/text/', '/health/', '//timers/x', '/timers/%ff', '/timers/ok%00' ) {
    my $none = get($path);
    ok( $none->{status} == 404 || $path =~ /%00/ && $none->{status} == 400, "$path: 404" ) or diag $none->{raw};
    if ( $none->{status} == 404 ) {
        headers_ok( $path, $none, $JSON );
        ok( ( json($none) // {} )->{error}, 'says why' );
    }
}

# Nothing of a request or response is shown.
lacks( get('/timers')->{body} . get('/timers/ok')->{body}, qr/X-Timer|proxy_|127\.0\.0\.1:@{[ $backend->port ]}/i, 'no header or body is shown' );

# Any worker answers.
sub asked_of_all {
    my (@workers) = @_;
    my ( %seen, %said );
    wait_until {
        my $reply = get('/timers/ok');
        my ($pid) = $reply->{headers} =~ /^X-Worker: (\d+)/mi;
        $seen{$pid}++ if $pid;
        $said{ $reply->{body} } = 1 if $reply->{status} == 200;
        @workers == grep { $seen{$_} } @workers;
    } or return;
    return join "\n", keys %said;
}
my @workers = $nginx->workers;
my $said    = asked_of_all(@workers);
ok( defined $said, 'both workers answer' );
is( $said, get('/timers/ok')->{body} =~ s/\n\z/\n/r, 'the same' );

# After a reload the new ones do, and the counters go on.
my $before = show('bad')->{counters}{failure};
my @old    = reload();
my %old    = map { $_ => 1 } @old;
my @new    = grep { !$old{$_} } $nginx->workers;
ok( defined asked_of_all(@new), 'after a reload the new workers answer' );
cmp_ok( show('bad')->{counters}{failure}, '>=', $before, 'counters go on' );
is( show('hangs')->{status}, 'running', 'what an old worker runs is seen' );
ok( $old{ show('hangs')->{running}{pid} }, 'with its process' );
is( show('ok')->{last}{run}, $ok->{last}{run}, 'so is the last run' );

# A worker that hangs cannot hide it: bad is due each 300ms. The other one answers; a request that
# the hanging one has accepted is given up.
my $zero = $nginx->worker_in_slot(0);
$nginx->signal( 'STOP', $zero );
my $late = wait_until {
    local $TimerTest::DEADLINE = 1;
    my $shown = show('bad');
    ( $shown->{status} // '' ) =~ /\A(?:late|running)\z/ && $shown->{late_seconds} > 5 && $shown;
};
ok( $late, 'late is seen' ) or diag get('/text')->{body};
my $unwell;
wait_until {
    local $TimerTest::DEADLINE = 1;
    $unwell = get('/health/bad');
    $unwell->{status};
};
like( $unwell->{body}, qr/\Abad: (?:.*, )?late by \d+s/, 'health says so' );
$nginx->signal( 'CONT', $zero );
ok( wait_until { show('bad')->{late_seconds} == 0 }, 'and when it is over' );

# Names that no JSON would like, and not a single timer.
my $other = free_port();
$nginx->write_conf(
    workers => 1,
    http    => "server { listen 127.0.0.1:$other; server_name \"~^a\\\"<\x01\xc3\xa9>\xff\"; "
        . "location \"@\\\"<script>\xff\" { timer odd $rare uri=/x; return 204; } }",
    server => $api,
);
reload();
my $odd = show('odd');
like( $odd->{location} // '', qr/"<script>/, 'an odd location is valid JSON' );
like( $odd->{server} // '', qr/<\x{1}\x{e9}>/,  'an odd server name too' );
ok( ref parse_metrics( get('/metrics')->{body} ), 'metrics as well' );
$nginx->write_conf( http => '' );
reload();
is_deeply( json( get('/timers') )->{timers}, [], 'no timer at all is an empty list' );
is( get('/health')->{body}, "ok\n", 'and well' );
like( get('/text')->{body}, qr/^0 timers$/m, 'and an empty table' );
ok( ref parse_metrics( get('/metrics')->{body} ), 'and metrics' );

$nginx->stop('TERM');
done_testing;
