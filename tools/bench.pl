#!/usr/bin/perl

# What tools/bench runs: the measurements, the table, BENCHMARKS.md.

use strict;
use warnings;

use File::Temp ();
use Getopt::Long qw( GetOptions );
use List::Util qw( shuffle sum0 );
use POSIX ();
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Bench;
use TimerTest::BenchCleanup;
use TimerTest::BenchFleet;
use TimerTest::BenchHealth;
use TimerTest::BenchKeyval;
use TimerTest::BenchTable;
use TimerTest::Nginx;
use TimerTest::Series;

my $usage = <<'USAGE';
tools/bench [OPTION]...
    --only GROUP,...   these groups of rows only; --list names them
    --write            into BENCHMARKS.md, too: what "make bench" does
    --before           what is measured is the column "before", not "now"
    --module FILE      measures this build of the module,
    --commit NAME      which is of this commit
    --file FILE        instead of BENCHMARKS.md
    --short            few rounds: to see that it works
    --profile          only this: instructions per run, by function
    --list             the groups
USAGE

# How much of everything, and the same for a test that only wants to see that it works.
my %size = ( rounds => 11, window => 1, strace => 3, instructions => 5, requests => 200, lateness => 60, counts => [ 1, 10, 100, 1000, 10_000 ], starts => 3, takeovers => 15, servers => 1000, seconds => 20, deaths => 20, looked_up => [ 100_000, 1_000_000 ], loaded => [ 100_000, 1_000_000 ], cleaned => 100_000, calm => 3 );
my %short = ( rounds => 1, window => 0.5, strace => 3, instructions => 1, requests => 50, lateness => 2, counts => [ 1, 100 ], starts => 1, takeovers => 1, servers => 50, seconds => 2, deaths => 2, looked_up => [10_000], loaded => [100_000], cleaned => 5_000, calm => 0.5 );

my %measure = (
    run      => \&measure_run,
    proxied  => \&measure_proxied,
    client   => \&measure_client,
    lateness => \&measure_lateness,
    scale    => \&measure_scale,
    takeover => \&measure_takeover,
    check    => sub { say_that('a health check, and the same request by a client'); measure_check( \&record, \%size ) },
    servers  => sub { say_that("$size{servers} servers that are checked each second"); measure_servers( \&record, \%size ) },
    death    => sub { say_that('from the death of a server to the last client'); measure_death( \&record, \%size ) },
    fleet    => sub { say_that('a timer of a fleet'); measure_fleet( \&record, \%size ) },
    keyval   => sub { say_that('keys that are looked up, and loaded'); measure_keyval( \&record, \%size ) },
    cleanup  => sub { say_that("clients while $size{cleaned} files are removed"); measure_cleanup( \&record, \%size ) },
    build    => \&measure_build,
);
my @groups = qw( run proxied client lateness scale takeover check servers death fleet keyval cleanup build );

my ( %result, %option );

sub record { my ( $key, @numbers ) = @_; push @{ $result{$key} }, @numbers; return }

sub say_that { printf STDERR "[%3d s] %s\n", time - $^T, "@_"; return }

# CPU time, system calls and instructions per run.

sub measure_run {
    say_that('CPU time per run: 100 timers of 10 ms, and the same number of callbacks of ngx.timer.every');
    my @others = grep { $_ eq 'lua' ? TimerTest::Bench::lua_module() : TimerTest::Bench::js_module() } qw( lua js );
    my $timers = sub {
        my ( $name, $count, $seconds, @more ) = @_;
        return TimerTest::Bench->lua_timers( $count, $seconds, @more ) if $name eq 'lua';
        return TimerTest::Bench->js_timers( $count, $seconds, @more ) if $name eq 'js';
        push @more, state => 'memory' if $name eq 'memory';
        return TimerTest::Bench->timers( $count, 1000 * $seconds . 'ms', @more );
    };
    my @all = ( qw( file memory ), @others );
    my %subject = ( idle => TimerTest::Bench->new( idle => 1 ), map { $_ => $timers->( $_, 100, 0.01 ) } @all );
    $_->pause for values %subject;
    for ( 1 .. $size{rounds} ) {
        my %window;
        for my $name ( shuffle sort keys %subject ) {
            $subject{$name}->resume;
            sleep 0.3;
            $window{$name} = $subject{$name}->window( $size{window} );
            $subject{$name}->pause;
        }
        my $idle = $window{idle}{cpu} / $window{idle}{seconds};
        my %cpu  = map {
            my $w = $window{$_};
            $_ => 1e6 * ( $w->{cpu} - $idle * $w->{seconds} ) / $w->{runs};
        } grep { $_ ne 'idle' } keys %window;
        record( "cpu.$_", $cpu{$_} ) for keys %cpu;
        record( 'cpu.ratio', $cpu{file} / $cpu{lua} ) if $cpu{lua};
    }
    $_->stop for values %subject;

    say_that('system calls per run: 20 timers of 100 ms, under strace');
    for my $name (@all) {
        my $of = $timers->( $name, 20, 0.1 );
        for ( 1 .. $size{strace} ) {
            my ($calls) = $of->system_calls( 2 * $size{window} );
            record( "calls.$name", sum0 values %$calls );
            record( "calls.$name.own", sum0 map { /^(?:epoll_wait|clock_gettime)$/ ? 0 : $calls->{$_} } keys %$calls );
            record( "calls.$name.$_", $calls->{$_} ) for keys %$calls;
        }
        $of->stop;
    }

    say_that('instructions per run: 100 timers of 1 s, under callgrind');
    for my $name ( $option{short} ? 'file' : @all ) {
        my $of = $timers->( $name, 100, 1, callgrind => 'all' );
        my $in = $of->instructions_per_run( $size{instructions} );
        $of->stop;
        record( "instructions.$name", $in->{all} );
        next if grep { $_ eq $name } @others;
        record( "instructions.$name.$_", TimerTest::Bench::object( $in, $_ ) ) for qw( module nginx libc );
    }
    return;
}

# A run that is proxied, and the same request by a client, to the same upstream.

sub measure_proxied {
    say_that('a proxied run, and the same request by a client');
    my $upstream = TimerTest::Nginx->new( no_module => 1, http => 'keepalive_requests 1000000;', server => 'location / { return 200 "ok\n"; }' );
    $upstream->start;
    my $pass   = 'proxy_pass http://127.0.0.1:' . $upstream->port . ';';
    my $timers = sub {
        my ( $count, $every, @more ) = @_;
        my $server = join '', map {"location \@t$_ { timer t$_ every=$every offset=0; $pass }\n"} 1 .. $count;
        return TimerTest::Bench->new( server => $server, @more );
    };
    my $client = sub { return TimerTest::Bench->new( server => "location = /proxied { $pass }", @_ ) };

    my %subject = ( run => $timers->( 20, '20ms' ), client => $client->() );
    $_->pause for values %subject;
    for ( 1 .. $size{rounds} ) {
        my %cpu;
        for my $name ( shuffle sort keys %subject ) {
            $subject{$name}->resume;
            sleep 0.3;
            my $w = $name eq 'run' ? $subject{run}->window( $size{window} ) : $subject{client}->client_window( '/proxied', $size{window} / 2 );
            $cpu{$name} = 1e6 * $w->{cpu} / $w->{runs};
            $subject{$name}->pause;
        }
        record( "proxied.cpu.$_", $cpu{$_} ) for sort keys %cpu;
        record( 'proxied.cpu.ratio', $cpu{run} / $cpu{client} );
    }
    $_->stop for values %subject;

    return $upstream->kill_all if $option{short};
    my $run = $timers->( 20, '1s', callgrind => 'all' );
    record( 'proxied.instructions.run', $run->instructions_per_run( $size{instructions} )->{all} );
    $run->stop;
    my $asked = $client->( callgrind => 'all' );
    record( 'proxied.instructions.client', $asked->instructions_per_request( '/proxied', 50, 5 )->{all} );
    $asked->stop;
    return $upstream->kill_all;
}

# What an ordinary request of a client costs, whatever timers there are.

sub measure_client {
    say_that('instructions per request of a client');
    my $idle    = TimerTest::Bench::timer_locations( 1000, 'every=366d' );
    my $busy    = TimerTest::Bench::timer_locations( 1000, 'every=1s' );
    my @subject = (
        [ all      => without => no_module => 1 ],
        [ all      => with    => () ],
        [ all      => idle    => server => $idle ],
        [ requests => without => no_module => 1 ],
        [ requests => with    => () ],
        [ requests => idle    => server => $idle ],
        [ requests => busy    => server => $busy ],
    );
    for my $subject ( $option{short} ? @subject[ 0 .. 2 ] : @subject ) {
        my ( $counted, $name, @how ) = @$subject;
        my $of = TimerTest::Bench->new( callgrind => $counted, @how );
        my $in = $of->instructions_per_request( '/ready', $size{requests}, 5 );
        record( "client.$counted.$name",       $in->{all} );
        record( "client.$counted.$name.nginx", sum0 map { TimerTest::Bench::object( $in, $_ ) } qw( nginx module ) );
        $of->stop;
    }
    return;
}

# Lateness and drift of one timer that nothing else disturbs.

sub measure_lateness {
    say_that("lateness and drift, over $size{lateness} s");
    my $backend = TimerTest::Backend->start;
    my $ours    = TimerTest::Bench->new( server => timer( $backend, 'x', 'every=100ms' ) );
    my $lua     = TimerTest::Bench::lua_module() ? TimerTest::Bench->lua_timers( 1, 0.1, times => 1 ) : undef;
    $backend->wait_requests(3);
    my $began = time;
    sleep $size{lateness};
    wait_until { 10 < grep { $_->{arrived} > $began } $backend->requests } or die 'there are no runs';
    my $over  = time;
    my @runs  = grep { $_->{arrived} > $began && $_->{arrived} < $over } $backend->requests;
    my %late  = (
        arrival => [ map { 1000 * $_->{arrived} - due_ms($_) } @runs ],
        start   => [ map { 1000 * $_->{headers}{'x-late'} } @runs ],
    );
    for my $name ( sort keys %late ) {
        my @sorted = sort { $a <=> $b } @{ $late{$name} };
        record( "lateness.$name.median", median(@sorted) );
        record( "lateness.$name.99th", $sorted[ 0.99 * $#sorted ] );
        my $tenth = @sorted / 10;
        record( "lateness.$name.drift", median( @{ $late{$name} }[ -$tenth .. -1 ] ) - median( @{ $late{$name} }[ 0 .. $tenth - 1 ] ) );
    }
    record( 'lateness.runs', scalar @runs );
    record( 'lateness.lost', ( due_ms( $runs[-1] ) - due_ms( $runs[0] ) ) / 100 + 1 - @runs );
    record( 'lateness.drift.lua', 1000 * $lua->drift(0.1) ) if $lua;
    $_->stop for $ours, $lua // ();
    $backend->stop;
    return;
}

# From one timer to ten thousand.

my %EVERY = ( 1 => 0.01, 10 => 0.01, 100 => 0.01, 1000 => 0.1, 10_000 => 1 );

sub measure_scale {
    my ( %subject, %settle );
    for my $count ( @{ $size{counts} } ) {
        say_that("nginx -t, start and memory with $count timers");
        my $every = 1000 * $EVERY{$count} . 'ms';
        my %server = ( plain => TimerTest::Bench::locations($count), timers => TimerTest::Bench::timer_locations( $count, "every=$every" ) );
        my %of;
        for ( 1 .. $size{starts} ) {
            for my $name ( shuffle sort keys %server ) {
                $of{$name}->stop if $of{$name};
                my $nginx = TimerTest::Nginx->new( server => $server{$name} );
                record( "scale.$count.test.$name", 1000 * cpu_of_command( $nginx->command('-t') ) );
                $of{$name} = TimerTest::Bench->new( server => $server{$name} );
                record( "scale.$count.start.$name", 1000 * $of{$name}->cpu_of_all );
            }
        }
        # Each has run, and more than once.
        my $first = $of{timers}->runs;
        wait_until { sleep 0.2; $of{timers}->runs - $first > 2 * $count } or die 'the timers do not run';
        my ( $timers, $plain ) = map { $of{$_}->memory } qw( timers plain );
        record( "scale.$count.memory.$_", ( $timers->{$_} - $plain->{$_} ) / $count / 1024 ) for sort keys %$timers;
        $of{plain}->stop;
        $subject{"scale.$count.cpu"} = $of{timers}->pause;
        $subject{"scale.$count.cpu.lua"} = TimerTest::Bench->lua_timers( $count, $EVERY{$count} )->pause if TimerTest::Bench::lua_module();
        $settle{$_} = 0.3 + 1.2 * $EVERY{$count} for "scale.$count.cpu", "scale.$count.cpu.lua";
    }
    if ( !$option{short} ) {
        $subject{percent} = TimerTest::Bench->timers( 1000, '1s', timer => '' )->pause;
        $settle{percent} = 1.5;
    }

    say_that('CPU time per run with as many');
    for ( 1 .. $size{rounds} ) {
        my %cpu;
        for my $name ( shuffle sort keys %subject ) {
            $subject{$name}->resume;
            sleep $settle{$name};
            my $w = $subject{$name}->window( $settle{$name} > 1 ? 2 : $size{window} );
            $subject{$name}->pause;
            $cpu{$name} = 1e6 * $w->{cpu} / $w->{runs} if $w->{runs};
            if   ( $name eq 'percent' ) { record( 'scale.percent', 100 * $w->{cpu} / $w->{seconds} ) }
            else                        { record( $name,           $cpu{$name} ) }
        }
        for my $base (qw( 1 100 )) {
            record( "scale.ratio.$base", $cpu{'scale.10000.cpu'} / $cpu{"scale.$base.cpu"} ) if $cpu{'scale.10000.cpu'};
        }
    }
    $_->stop for values %subject;
    return;
}

# Seconds, to the millisecond.
sub cpu_of_command {
    my ( $status, $out ) = run_command( 'bash', '-c', 'TIMEFORMAT="cpu %3U %3S"; time "$@"', 'bash', @_ );
    $status eq '0' or die $out;
    my ( $user, $system ) = $out =~ /^cpu (\S+) (\S+)$/m;
    return $user + $system;
}

# What becomes of the next due time when the worker that would have taken it does not.

sub measure_takeover {
    my $backend = TimerTest::Backend->start;
    my %server  = (
        KILL => [ 100, timer( $backend, 'kill', 'every=100ms offset=0' ) ],
        HUP  => [ 100, timer( $backend, 'hup',  'every=100ms offset=0' ) ],
        STOP => [ 500, 'timer_worker any;' . timer( $backend, 'stop', 'every=500ms offset=0' ) ],
    );
    for my $signal ( sort keys %server ) {
        say_that("the due time after $signal");
        my ( $every, $server ) = @{ $server{$signal} };
        my $nginx = TimerTest::Nginx->new( workers => 4, log_level => 'notice', server => $server );
        $nginx->start;
        my ( $measured, $tries ) = ( 0, 0 );
        while ( $measured < $size{takeovers} ) {
            die "after $signal no due time is taken" if ++$tries > 2 * $size{takeovers} + 3;
            wait_until { children_of( $nginx->pid ) == 4 } or die 'there are not four workers';
            my $worker = $nginx->worker_in_slot(0);
            my $seen   = $backend->requests( timer => lc $signal );
            $backend->wait_requests( $seen + 1, timer => lc $signal, ended => 1 );
            sleep $every / 1000 * ( 0.2 + rand 0.3 );
            my $at = time;
            kill $signal, $signal eq 'HUP' ? $nginx->pid : $worker;
            my $due = $every * int( 1000 * $at / $every + 1 );
            my $next;
            # A worker that is stopped within a run keeps its claim: then this was no measurement.
            if ( poll_until( sub { ($next) = grep { due_ms($_) >= $due } $backend->requests( timer => lc $signal ) }, 5 ) ) {
                record( "takeover.$signal", 1000 * $next->{arrived} - $due );
                $measured++;
            }
            kill 'CONT', $worker;
            wait_until { !is_alive($worker) } if $signal eq 'HUP';
        }
        $nginx->signal('QUIT');
        $nginx->wait_exit;
        $nginx->kill_all;
    }
    $backend->stop;
    return;
}

# Size and build time.

sub measure_build {
    say_that('a build from nothing but what cargo has fetched');
    record( 'build.size', -s timer_module() );
    my $target = File::Temp->newdir;
    my $began = time;
    local $TimerTest::DEADLINE = 1800;
    record( 'build.cpu', cpu_of_command( 'tools/cargo', $ENV{BENCH_TREE}, qw( build --release --locked --lib --quiet --target-dir ), "$target" ) );
    record( 'build.seconds', time - $began );
    return;
}

# Where a run's instructions go: what each function takes itself, without those that it calls.
sub profile {
    my $of = TimerTest::Bench->timers( 100, '1s', callgrind => 'all' );
    $of->instructions_per_run( $size{instructions} );
    my $by = $of->functions;
    $of->stop;
    printf "%8.0f  %s\n", $by->{$_}, $_ for grep { $by->{$_} >= 1 } sort { $by->{$b} <=> $by->{$a} } keys %$by;
    exit;
}

# What a column was measured on and with.
sub about {
    my ( undef, $nginx )  = run_command( nginx_binary(), '-v' );
    my ( undef, $commit ) = run_command(qw( git log -1 --format=%h ));
    my ($model)  = slurp('/proc/cpuinfo') =~ /^model name\s*: (.*)/m;
    my ($memory) = slurp('/proc/meminfo') =~ /^MemTotal:\s*(\d+)/m;
    my @cores    = slurp('/proc/cpuinfo') =~ /^processor/mg;
    my $kernel   = ( POSIX::uname() )[2];
    chomp $commit;
    my %about = (
        date    => POSIX::strftime( '%Y-%m-%d %H:%M UTC', gmtime ),
        commit  => $option{commit} // $commit,
        machine => sprintf( '%s, %d cores, %.0f GiB, Linux %s, load average %s',
            $model // 'unknown', scalar @cores, ( $memory // 0 ) / 2**20, $kernel, ( split ' ', slurp('/proc/loadavg') )[0] ),
        nginx => $nginx =~ m{nginx version: (\S+)} ? $1 : 'unknown',
        lua   => version_of('libnginx-mod-http-lua') // 'none',
    );
    $about{js_periodic} = TimerTest::Bench::js_module() ? 'of njs ' . version_of('libnginx-mod-http-js')
        : 'not measured: it came with njs 0.8.1, this distribution has ' . ( $ENV{BENCH_NJS} || 'none' );
    return \%about;
}

sub version_of {
    my ($package) = @_;
    my ( $status, $version ) = run_command( qw( dpkg-query -W -f ${Version} ), $package );
    return $status eq '0' && length $version ? $version : undef;
}

# The command.

GetOptions( \%option, qw( only=s write before module=s commit=s file=s profile short list help ) ) or die $usage;
if ( $option{help} ) { print $usage; exit }
if ( $option{list} ) { print "@groups\n"; exit }
$ENV{TEST_NGINX_TIMER_MODULE} = $option{module} if $option{module};
%size = %short if $option{short};
profile() if $option{profile};
my @chosen = $option{only} ? split /,/, $option{only} : @groups;
$measure{$_} or die qq{no group "$_"\n$usage} for @chosen;

$measure{$_}->() for @chosen;

my $file    = $option{file} // 'BENCHMARKS.md';
my $which   = $option{before} ? 'before' : 'now';
my $columns = read_columns( slurp($file) );
$columns->{$which}{about} = about();
$columns->{$which}{numbers}{$_} = $result{$_} for keys %result;
print table($columns);
# What a person has written into the file meanwhile is kept.
spew( $file, with_columns( slurp($file), $columns ) ) if $option{write};
