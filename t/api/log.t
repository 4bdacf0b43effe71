#!/usr/bin/perl

# The log: the context of all lines of a run, nginx's own included; what is said at a start, of a record that
# somebody holds or has damaged, and to whoever steers the timers; names as long and as odd as they may be.

use strict;
use warnings;

use JSON::PP ();
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;

my $backend = TimerTest::Backend->start;
my $closed  = free_port();
my $id      = qr/[0-9a-f]{32}/;

sub json {
    my ($answer) = @_;
    return eval { JSON::PP->new->utf8->decode( $answer->{body} ) } // {};
}

# One test: the log gets such a line, and then has no other; answers the line.
sub one_line {
    my ( $nginx, $pattern, $title ) = @_;
    $nginx->wait_log($pattern);
    my @lines = $nginx->log_lines($pattern);
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is( scalar @lines, 1, $title ) or diag printable( "$pattern:", @lines ? @lines : $nginx->log_lines(qr/timer/) );
    return $lines[0] // '';
}

sub printable {
    my (@lines) = @_;
    return join "\n", map {s/([^ -~])/sprintf '\\x%02X', ord $1/ger} @lines > 9 ? ( @lines[ 0 .. 8 ], '...' ) : @lines;
}

# nginx's own lines: its context, and the run's, once.
{
    my $once  = 'every=366d first=now';
    my $nginx = TimerTest::Nginx->new(
        server => join '',
        timer( $backend, 'times-out', $once, 'hang', 'proxy_read_timeout 200ms; timer_retry 2 backoff=20ms;' ),
        timer( $backend, 'resets',    $once, 'reset' ),
        timer( $backend, 'subrequest', $once, 'html/x',
            qq(ssi on; proxy_set_header X-Body '<!--# include virtual="/inner" --><!--# include virtual="/inner" -->';) ),
        timer( $backend, 'mirrors', $once, 'ok', 'mirror /inner;' ),
        timer( $backend, 'guarded', "$once access=on", 'ok', 'auth_request /inner;' ),
        timer( $backend, 'falls-back', $once, 'status/500', 'proxy_intercept_errors on; error_page 500 = @fallback;' ),
        "location = /inner { internal; proxy_pass http://127.0.0.1:$closed/inner; }\n",
        "location \@fallback { error_log logs/fallback.log info; proxy_pass http://127.0.0.1:$closed; }\n",
        "location \@refused { timer refused $once; proxy_pass http://127.0.0.1:$closed; }\n",
        "location \@static { timer static $once uri=/no/such/file; root html; }\n",
        "location \@unresolved { timer unresolved $once; set \$name no.such.name; proxy_pass http://\$name; }\n",
        "location \@rewrites { timer rewrites $once; rewrite_log on; rewrite ^/nothing\$ /something; return 204; }\n",
        'location /client/ { error_page 404 = @client; } ',
        "location \@client { proxy_pass http://127.0.0.1:$closed; }\n",
    );
    $nginx->start;
    my @names = qw( times-out resets subrequest mirrors guarded falls-back refused static unresolved rewrites );
    logged( $nginx, qr/timer "$_": run (?:succeeded|failed)/, "$_ has run" ) for @names;
    is( $nginx->get('/client/')->{status}, 502, 'a client has asked' );

    # The whole of one: what nginx says, the run, what nginx adds.
    my $port = $backend->port;
    my @runs = $backend->wait_requests( 3, timer => 'times-out' );
    is( scalar @runs, 3, 'three attempts' );
    my $run = $runs[0]{headers}{'x-run'};
    logged_times(
        $nginx,
        qr{\[error\] \d+#\d+: \*\d+ upstream timed out \(110: Connection timed out\) while reading response header from upstream, timer: "times-out", run: $run, server: localhost, request: "GET /hang HTTP/1\.1", upstream: "http://127\.0\.0\.1:$port/hang", host: "localhost"\z},
        3, 'a timeout of an upstream, in each attempt'
    );
    my %line = (
        resets     => qr{recv\(\) failed \(104: [^)]*\) while reading response header from upstream, timer: "resets", run: $id, server: localhost, },
        refused    => qr{connect\(\) failed \(111: Connection refused\) while connecting to upstream, timer: "refused", run: $id, server: localhost, request: "GET /refused HTTP/1\.1", upstream: "http://127\.0\.0\.1:$closed/refused"},
        static     => qr{open\(\) "[^"]*/no/such/file" failed \(2: No such file or directory\), timer: "static", run: $id, server: localhost, },
        unresolved => qr{no resolver defined to resolve no\.such\.name, timer: "unresolved", run: $id, server: localhost, },
        rewrites   => qr{\[notice\] \d+#\d+: \*\d+ "\^/nothing\$" does not match "/rewrites", timer: "rewrites", run: $id, server: localhost, },
        map { $_ => qr{connect\(\) failed .*, timer: "$_", run: $id, server: localhost, .*subrequest: "/inner"} } qw( subrequest mirrors guarded ),
    );
    logged( $nginx, $line{$_}, "a line of nginx's: $_" ) for sort keys %line;

    # Where an internal redirect has led to a location with a log of its own.
    my $fallback = $nginx->prefix . '/logs/fallback.log';
    ok( wait_until { slurp($fallback) =~ /connect\(\) failed .*, timer: "falls-back", run: $id, server: localhost, / }, "another location's log" );

    # All of it, of both files.
    my @lines = ( $nginx->log_lines(qr/./), split /\n/, slurp($fallback) );
    my @of    = grep {/timer: "/} @lines;
    cmp_ok( scalar @of, '>=', 2 * @names, 'many lines are of runs' );
    none_of { 1 != ( () = /timer: "/g ) || 1 != ( () = /\brun: $id\b/g ) } 'each with its context once', @of;
    none_of {/client: /} 'none with a client', @of;
    my %runs_of;
    /timer: "([^"]+)", run: ($id)/ and $runs_of{$1}{$2} = 1 for @of;
    is( join( ' ', map {"$_ " . keys %{ $runs_of{$_} }} sort keys %runs_of ), join( ' ', map {"$_ 1"} sort @names ), 'all of a run with the same id' );
    none_of { !/timer: "|client: / } 'no line is without a context', grep {/\[(?:warn|error)\]/} @lines;

    # A client's line is the client's.
    my ($client) = $nginx->log_lines(qr/connect\(\) failed .*client: 127\.0\.0\.1/);
    like( $client // '', qr{, client: 127\.0\.0\.1, server: localhost, request: "GET /client/ HTTP}, 'a client has its own context' );
    lacks( $client, qr/timer|run: /, 'and no other' );
    $nginx->stop;
}

# A worker that is told to stop in a run says so, also at the end of a row of failures.
{
    my $nginx = TimerTest::Nginx->new( server => timer( $backend, 'row', 'every=50ms offset=0', 'fail-first/3/hang' ) );
    $nginx->start;
    my @row = $backend->wait_requests( 4, timer => 'row' );
    is( scalar @row, 4, 'three failures, and a run in progress' );
    # The worker alone: one that is slow is killed by a master that is to end.
    my ( $due, $run, $pid ) = @{ $row[-1]{headers} }{qw( x-due x-run x-pid )};
    $nginx->signal( 'TERM', $pid );
    $nginx->wait_gone( [$pid] );
    $nginx->stop('TERM');
    logged_times( $nginx, qr/\[error\] \d+#\d+: timer "row": run failed: status 500, \d+ms, timer: "row", run: $id\z/, 1, 'of the failures the first is told' );
    logged_times( $nginx, qr/\[error\] \d+#\d+: timer "row": run interrupted: worker was told to stop, due \Q$due\E, timer: "row", run: $run\z/,
        1, 'and the interruption' );
}

# A log of its own has all that is said of its timer.
{
    my $server = 'location /status/ { timer_api write=on; }'
        . timer( $backend, 'own', 'every=366d first=now', 'hang', 'error_log logs/own.log info; timer_retry 1 on=interrupted backoff=1h max=1h;' );
    my $nginx = TimerTest::Nginx->new( server => $server, allow => [qr/exited on signal 9/] );
    my $own   = sub {
        my ( $pattern, $title ) = @_;
        my $log = $nginx->prefix . '/logs/own.log';
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        return ok( wait_until( sub { slurp($log) =~ /$pattern/m } ), $title ) || diag slurp($log);
    };
    $nginx->start;
    my ($hangs) = $backend->wait_requests( 1, timer => 'own' );
    my ( $run, $pid, $due ) = @{ $hangs->{headers} }{qw( x-run x-pid x-due )};
    $nginx->signal( 'KILL', $pid );
    $own->( qr/\[warn\] (?!$pid#)\d+#\d+: timer "own": attempt 1 of 2 failed: process $pid died, timer: "own", run: $run$/, 'an attempt whose worker has died' );
    ok( wait_until { $nginx->get( '/status/timers/own/cancel', method => 'POST' )->{status} == 202 }, 'is cancelled' );
    ok( wait_until { $nginx->get( '/status/timers/own/run', method => 'POST' )->{status} == 202 }, 'and run anew' );
    ok( $backend->wait_requests( 2, timer => 'own' ) >= 2, 'by hand' );
    is( $nginx->get( '/status/timers/own/pause', method => 'POST' )->{status}, 200, 'and paused' );
    $nginx->write_conf( server => $server =~ s/every=366d/every=365d/r =~ s/timer_retry [^;]*;//r );
    my @old = $nginx->reload;
    $own->( qr/\[warn\] \d+#\d+: timer "own": is paused since /, 'a pause that a reload finds' );
    $own->( qr/\[notice\] \d+#\d+: timer "own": schedule has changed, next due /, 'a changed schedule' );
    $nginx->signal( 'KILL', $_ ) for @old;
    $due = ( $backend->requests( timer => 'own' ) )[1]{headers}{'x-due'};
    $own->( qr/\[error\] \d+#\d+: timer "own": run interrupted: process $old[0] died, due \Q$due\E, timer: "own", run: $id$/, 'a run whose worker has died' );
    none_of { !/client: / } 'and the other log nothing', $nginx->log_lines(qr/timer:? "own"/);
    $nginx->stop('TERM');
}

# Orders: one line each, with the client.
{
    my $nginx = TimerTest::Nginx->new(
        workers => 2,
        server  => 'location /status/ { timer_api write=on; }' . timer( $backend, 'steered', 'every=366d first=now', 'hang' ),
    );
    $nginx->start;
    ok( $backend->wait_requests( 1, timer => 'steered' ), 'a run is in progress' );
    my %said = (
        '/timers/steered/pause'        => 'timer "steered": paused',
        '/timers/steered/pause?for=1h' => 'timer "steered": paused',
        '/timers/steered/resume'       => 'timer "steered": resumed',
        '/pause'                       => 'timer: all timers paused',
        '/resume'                      => 'timer: all timers resumed',
    );
    my $client = sub {
        my ($path) = @_;
        return qr{, client: 127\.0\.0\.1, server: localhost, request: "POST /status\Q$path\E HTTP/1\.0", host: "localhost"\z};
    };
    my $order = sub { return $nginx->get( "/status$_[0]", method => 'POST' ) };
    for my $path ( sort keys %said ) {
        is( $order->($path)->{status}, 200, "POST $path" );
        one_line( $nginx, qr/\[notice\] \d+#\d+: \*\d+ \Q$said{$path}\E${\ $client->($path) }/, 'is told of' );
    }
    my $path = '/timers/steered/cancel';
    my $run  = json( $order->($path) )->{run} // 'none';
    one_line( $nginx, qr/\[notice\] \d+#\d+: \*\d+ timer "steered": cancelled, run: $run${\ $client->($path) }/, 'a cancel' );
    one_line( $nginx, qr/\[info\] \d+#\d+: timer "steered": run cancelled after \d+ms, timer: "steered", run: $run\z/, 'and what comes of it' );
    ok( wait_until { !json( $nginx->get('/status/timers/steered') )->{running} }, 'the run is over' );
    $path = '/timers/steered/run';
    $run  = json( $order->($path) )->{run} // 'none';
    one_line( $nginx, qr/\[notice\] \d+#\d+: \*\d+ timer "steered": run by hand, run: $run${\ $client->($path) }/, 'a run' );
    ok( $backend->wait_requests( 2, timer => 'steered' ) >= 2, 'is made' );
    $path = '/timers/steered/run';
    is( $order->($path)->{status}, 409, 'an order that is refused' );
    is( $order->('/timers/steered/cancel')->{status}, 202, 'before another' );
    logged_times( $nginx, qr/timer "steered": run by hand/, 1, 'is not told of' );
    $nginx->stop('TERM');
}

# What a load finds: what is paused, since when; a schedule that has changed.
{
    my $rest  = 'location /status/ { timer_api write=on; }' . timer( $backend, 'sleeps', 'every=366d' ) . timer( $backend, 'ticks', 'every=50ms' );
    my $nginx = TimerTest::Nginx->new( server => $rest . timer( $backend, 'changes', 'every=366d' ) );
    $nginx->start;
    my $since = sub { return json( $nginx->get( "/status$_[0]", method => 'POST' ) )->{paused}{since} // 'none' };
    my $one   = $since->('/timers/sleeps/pause');
    my $all   = $since->('/pause');
    $nginx->write_conf( server => $rest . timer( $backend, 'changes', 'every=365d' ) );
    my @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    one_line( $nginx, qr/\[warn\] \d+#\d+: timer "sleeps": is paused since \Q$one\E\z/, 'one is paused: said at a reload' );
    one_line( $nginx, qr/\[warn\] \d+#\d+: timer: all timers are paused since \Q$all\E\z/, 'all are paused' );
    is( $nginx->get( '/status/resume', method => 'POST' )->{status}, 200, 'no longer' );
    my $next = json( $nginx->get('/status/timers/changes') )->{next_due} // 'none';
    one_line( $nginx, qr/\[notice\] \d+#\d+: timer "changes": schedule has changed, next due \Q$next\E\z/, 'a changed schedule, with its next due time' );
    $nginx->stop;

    $nginx->start;
    ok( $nginx->wait_log( qr/timer "sleeps": is paused since \Q$one\E\z/, 2 ), 'one is paused: said at a start' );
    $backend->wait_requests( 3 + $backend->requests( timer => 'ticks' ), timer => 'ticks' );
    logged_times( $nginx, qr/all timers are paused/, 1, 'all are not' );
    logged_times( $nginx, qr/schedule has changed/,  1, 'and nothing has changed' );
    logged_times( $nginx, qr/\[(?:warn|error|crit)\](?!.*(?:paused since|due times? left out|due times?, left out))/, 0, 'that is all' );
    $nginx->stop;
}

# A record and a header that somebody holds, or has written to.
{
    my $server = join '', 'location /status/ { timer_api write=on; }', map { timer( $backend, $_, 'every=100ms' ) } qw( other mine );
    my $nginx  = TimerTest::Nginx->new( server => $server );
    my $file   = $nginx->prefix . '/timers.state';
    my $goes_on = sub {
        my $count = 3 + $backend->requests( timer => 'mine' );
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        ok( $backend->wait_requests( $count, timer => 'mine' ) >= $count, 'and the timer goes on' );
    };
    $nginx->start;
    $goes_on->();
    my $page = 4096 * read_records($file)->{mine}{page};

    my $lock = hold_lock( $file, $page + 320 );
    is( $nginx->get( '/status/timers/mine/pause', method => 'POST' )->{status}, 503, 'a record that is locked takes no order' );
    my @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    one_line( $nginx, qr/\[error\] \d+#\d+: timer "mine": record is locked, not updated\z/, 'nor what a load has to say' );
    close $lock;
    $goes_on->();

    $lock = hold_lock( $file, 8 );
    $nginx->write_conf( server => $server . timer( $backend, 'new', 'every=100ms' ) );
    @old = $nginx->reload;
    $nginx->wait_gone( \@old );
    one_line( $nginx, qr/\[crit\] \d+#\d+: timer: state file "\Q$file\E" is locked by another nginx\z/, 'a header that is locked' );
    close $lock;
    $goes_on->();
    ok( $backend->wait_requests( 2, timer => 'new' ) >= 2, 'as does one that has no record' );

    open my $fh, '+<:raw', $file or die "$file: $!";
    sysseek $fh, 2064, 0;
    syswrite $fh, "\x55" x 8;
    one_line( $nginx, qr/\[warn\] \d+#\d+: timer: state file "\Q$file\E" has a damaged header\z/, 'a header that is damaged' );
    $goes_on->();
    # While no run is in progress, whose end would mend it.
    $lock = hold_lock( $file, $page );
    sysseek $fh, $page + 144, 0;
    syswrite $fh, "\x55" x 8;
    close $lock;
    one_line( $nginx, qr/\[warn\] \d+#\d+: timer "mine": record is damaged, starting anew\z/, 'a record that is damaged' );
    $goes_on->();
    close $fh;
    $nginx->stop;
}

# Names: 127 characters; a state file whose name is no text, or longer than a line.
my $name = 'n' . '-._aZ09' x 18;
my $long = 'l' . substr $name, 1;
is( length $name, 127, 'a name of 127 characters' );
my %odd = (
    bytes => "odd \xff\xc3 %s%n%x \"\\ \x01\t\n\e[31m \xc3\xa4",
    deep  => join( '/', map { $_ . "\xc3\xa4" x 120 } 'a' .. 'l' ),
);
for my $kind ( sort keys %odd ) {
    my $prefix = scratch_dir();
    my $dir    = "$prefix/dir/$odd{$kind}";
    my $made   = "$prefix";
    for my $part ( 'dir', split m{/}, $odd{$kind} ) {
        $made .= "/$part";
        mkdir $made or die "$made: $!";
        chmod 0755, $made;
    }
    my $file   = "$dir/timers.state";
    my $quoted = $file =~ s/([\\"])/\\$1/gr;
    my $nginx  = TimerTest::Nginx->new(
        state  => qq("$quoted"),
        server => "location /status/ { timer_api write=on; }\n" . timer( $backend, $name, 'every=100ms', "$kind/" . 'u' x 3000 )
            . "location \@long { timer $long every=100ms uri=/" . 'u' x 1900 . "; proxy_pass http://127.0.0.1:$closed; }\n",
    );
    spew( $file, "\x89NGXTMR\n" );
    chmod 0600, $file;
    $nginx->start;

    logged( $nginx, qr/\[info\] \d+#\d+: timer "$name": run succeeded: status 200, \d+ms, timer: "$name", run: $id\z/, "$kind: a long name" );
    logged( $nginx, qr/connect\(\) failed .*, timer: "$long", run: $id, server: localhost, request: "GET \/u{800}/, "$kind: a long line of nginx's" );
    logged( $nginx, qr/\[error\] \d+#\d+: timer "$long": run failed: status 502, \d+ms, timer: "$long", run: $id\z/, "$kind: its outcome" );
    like( json( $nginx->get('/status/timers') )->{state_file} // '', qr{/timers\.state\z}, "$kind: the API has the name" );

    my $begin = quotemeta( "$prefix/dir/" . ( $kind eq 'bytes' ? 'odd \xFF\xC3 %s%n%x "\\ \x01\x09\x0A\x1B[31m ' : 'a' ) ) . "\xc3\xa4";
    my $crit  = one_line( $nginx, qr/\[crit\] \d+#\d+: timer: state file "$begin/, "$kind: a file that is moved aside" );
    like( $crit, qr/ (?:is empty|has no content|[a-z ]+), moved to "$begin.*\.bad"\z/, "$kind: and where to" ) if $kind eq 'bytes';
    my $notice = one_line( $nginx, qr/\[notice\] \d+#\d+: timer: 2 timers in this worker, slot 0, state file "$begin/, "$kind: the file's name at a start" );
    like( $notice, qr/timers\.state"\z/, "$kind: as a whole" ) if $kind eq 'bytes';

    $nginx->stop;
    none_of { !/\A\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d \[[a-z]+\] \d+#\d+: / || length > 2047 || !utf8::decode( my $copy = $_ ) || /[\x00-\x1f\x7f]/ }
    "$kind: each line is one, of text", split /\n/, $nginx->log;
}

done_testing;
