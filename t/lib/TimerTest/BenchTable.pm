package TimerTest::BenchTable;

# BENCHMARKS.md: what a person has written, the table, and the raw numbers that it is made from, in columns:
# { before => { about => { KEY => TEXT }, numbers => { KEY => [ NUMBER, ... ] } }, now => ... }.
#
#     my $columns = read_columns($text);
#     print table($columns);
#     $text = with_columns( $text, $columns );

use strict;
use warnings;

use Exporter qw( import );

our @EXPORT = qw( median read_columns table with_columns );

# Rows in the order of the table: group, key of the numbers, what they are, unit. A row shows their median.
my @rows = (
    [ run => 'cpu.file',     'CPU time per run of `return 204`, state in a file on tmpfs', 'µs' ],
    [ run => 'cpu.memory',   'CPU time per run, `timer_state memory`', 'µs' ],
    [ run => 'cpu.lua',      'CPU time per callback of `ngx.timer.every`', 'µs' ],
    [ run => 'cpu.js',       'CPU time per call of `js_periodic`', 'µs' ],
    [ run => 'cpu.ratio',    'CPU time per run, file, by that of `ngx.timer.every`', 'times' ],
    [ run => 'calls.file',   'system calls per run, file', '' ],
    [ run => 'calls.file.own', '- without `epoll_wait()` and the clock, which the runs of one turn share', '' ],
    [ run => 'calls.memory', 'system calls per run, memory', '' ],
    [ run => 'calls.lua',    'system calls per callback of `ngx.timer.every`', '' ],
    [ run => 'calls.js',     'system calls per call of `js_periodic`', '' ],
    [ run => 'instructions.file',        'instructions in user space per run, file', '' ],
    [ run => 'instructions.file.module', '- of these in the module', '' ],
    [ run => 'instructions.file.nginx',  '- in nginx', '' ],
    [ run => 'instructions.file.libc',   '- in the C library', '' ],
    [ run => 'instructions.memory',      'instructions in user space per run, memory', '' ],
    [ run => 'instructions.lua', 'instructions in user space per callback of `ngx.timer.every`', '' ],
    [ run => 'instructions.js',  'instructions in user space per call of `js_periodic`', '' ],

    [ proxied => 'proxied.cpu.run',    'CPU time per proxied run', 'µs' ],
    [ proxied => 'proxied.cpu.client', 'CPU time per proxied request of a client', 'µs' ],
    [ proxied => 'proxied.cpu.ratio',  'CPU time per proxied run by that of the request', 'times' ],
    [ proxied => 'proxied.instructions.run',    'instructions in user space per proxied run', '' ],
    [ proxied => 'proxied.instructions.client', 'instructions in user space per proxied request of a client', '' ],

    [ client => 'client.all.without', 'instructions per request of a client, without the module', '' ],
    [ client => 'client.all.with',    '- with the module', '' ],
    [ client => 'client.all.idle',    '- with 1,000 timers, none due', '' ],
    [ client => 'client.all.without.nginx', '- of these in nginx and modules, without the module', '' ],
    [ client => 'client.all.with.nginx',    '- with the module', '' ],
    [ client => 'client.all.idle.nginx',    '- with 1,000 timers, none due', '' ],
    [ client => 'client.requests.without.nginx', '- of these from `ngx_http_process_request` on, without the module', '' ],
    [ client => 'client.requests.with.nginx',    '- with the module', '' ],
    [ client => 'client.requests.idle.nginx',    '- with 1,000 timers, none due', '' ],
    [ client => 'client.requests.busy.nginx',    '- with 1,000 timers of 1 s', '' ],

    [ lateness => 'lateness.arrival.median', 'lateness where the upstream gets the request, median', 'ms' ],
    [ lateness => 'lateness.arrival.99th',   '- 99th of 100', 'ms' ],
    [ lateness => 'lateness.start.median',   '`$timer_lateness`, median', 'ms' ],
    [ lateness => 'lateness.start.99th',     '- 99th of 100', 'ms' ],
    [ lateness => 'lateness.arrival.drift',  'drift over a minute', 'ms' ],
    [ lateness => 'lateness.lost',           'due times lost in it, of 600', '' ],
    [ lateness => 'lateness.drift.lua',      'drift of `ngx.timer.every` over a minute', 'ms' ],

);

for my $count ( 1, 10, 100, 1000, 10_000 ) {
    my $n = $count == 1 ? '1 timer' : "$count timers" =~ s/\A(\d+)(\d{3} )/$1,$2/r;
    push @rows,
        [ scale => "scale.$count.test.plain",   "$n: CPU time of `nginx -t`, as many plain locations", 'ms' ],
        [ scale => "scale.$count.test.timers",  "$n: CPU time of `nginx -t`", 'ms' ],
        [ scale => "scale.$count.start.plain",  "$n: CPU time of a start until the first answer, plain locations", 'ms' ],
        [ scale => "scale.$count.start.timers", "$n: CPU time of a start until the first answer", 'ms' ],
        [ scale => "scale.$count.memory.private",  "$n: private memory of a worker per timer, beyond that of a location", 'KiB' ],
        [ scale => "scale.$count.memory.resident", "$n: resident memory of a worker per timer, beyond that of a location", 'KiB' ],
        [ scale => "scale.$count.cpu",          "$n: CPU time per run", 'µs' ],
        [ scale => "scale.$count.cpu.lua",      "$n: CPU time per callback of `ngx.timer.every`", 'µs' ];
}
for my $count ( 10_000, 100_000, 1_000_000 ) {
    my $n = reverse( join ',', unpack '(A3)*', reverse $count ) . ' keys';
    push @rows,
        [ keyval => "keyval.$count.request", "$n: instructions per request of `return 200`", '' ],
        [ keyval => "keyval.$count.lookup",  "$n: instructions more with a key that is looked up", '' ],
        [ keyval => "keyval.$count.percent", "$n: the same by that of the request", '%' ],
        [ keyval => "keyval.$count.seconds", "$n: from the order of a run until they are found", 's' ],
        [ keyval => "keyval.$count.turn",    "$n: the longest turn of the event loop meanwhile, in CPU time", 'ms' ];
}
for ( [ threads => 'a thread removes 100,000 old files' ], [ slices => 'the event loop removes 100,000 old files' ] ) {
    my ( $mode, $what ) = @$_;
    push @rows,
        [ cleanup => "cleanup.$mode.without", "time that a client waits, 99th of 100, before $what", 'ms' ],
        [ cleanup => "cleanup.$mode.with",    '- meanwhile', 'ms' ],
        [ cleanup => "cleanup.$mode.more",    '- by so much longer', 'ms' ],
        [ cleanup => "cleanup.$mode.seconds", '- how long the clean-up takes, beside that client', 's' ];
}
push @rows,
    [ scale    => 'scale.ratio.1',   'CPU time per run with 10,000 timers by that with 1', 'times' ],
    [ scale    => 'scale.ratio.100', 'CPU time per run with 10,000 timers by that with 100', 'times' ],
    [ scale    => 'scale.percent',   'CPU of a worker with 1,000 timers of 1 s', '% of a core' ],
    [ takeover => 'takeover.KILL',   'start of the next due time after KILL of its worker, later than due', 'ms' ],
    [ takeover => 'takeover.HUP',    'start of the next due time after HUP', 'ms' ],
    [ takeover => 'takeover.STOP',   'start of the next due time after STOP of its worker, `timer_worker any`', 'ms' ],
    [ check    => 'check.cpu.check',  'CPU time per health check', 'µs' ],
    [ check    => 'check.cpu.client', 'CPU time per request of a client through the same location', 'µs' ],
    [ check    => 'check.cpu.ratio',  'CPU time per health check by that of the request', 'times' ],
    [ servers  => 'servers.checked',    'servers that are checked every second', '' ],
    [ servers  => 'servers.rate.least', 'checks per second of the one that is checked least often', '' ],
    [ servers  => 'servers.rate.most',  '- of the one that is checked most often', '' ],
    [ servers  => 'servers.late.99th',  'lateness of their checks, 99th of 100', 'ms' ],
    [ servers  => 'servers.client.without', 'time that a client waits, 99th of 100, without health checks', 'ms' ],
    [ servers  => 'servers.client.with',    '- with those of these servers', 'ms' ],
    [ death    => 'death.last_client',  'from the death of a server to the last client that is passed to it', 'ms' ],
    [ death    => 'death.longest',      '- the longest of twenty, of at most 900', 'ms' ],
    [ fleet    => 'fleet.x.median',     'from the due time to the upstream, a timer of a fleet of three hosts, median', 'ms' ],
    [ fleet    => 'fleet.x.99th',       '- 99th of 100', 'ms' ],
    [ fleet    => 'fleet.alone.median', '- a timer without a fleet, median', 'ms' ],
    [ fleet    => 'fleet.etcd.median',  "a transaction of etcd like a claim, median", 'ms' ],
    [ fleet    => 'fleet.etcd.99th',    '- 99th of 100', 'ms' ],
    [ fleet    => 'fleet.exchanges.winner', 'exchanges with etcd per due time, host that runs it', '' ],
    [ fleet    => 'fleet.exchanges.loser',  '- each other host', '' ],
    [ fleet    => 'fleet.exchanges.alone',  '- a timer without a fleet', '' ],
    [ fleet    => 'fleet.turn',         'longest turn of the event loop meanwhile', 'ms' ],
    [ build    => 'build.size',      'size of the module', 'bytes' ],
    [ build    => 'build.cpu',       'CPU time of a build from nothing', 's' ],
    [ build    => 'build.seconds',   'time of a build from nothing', 's' ];

sub median {
    my @sorted = sort { $a <=> $b } @_;
    return @sorted % 2 ? $sorted[ $#sorted / 2 ] : ( $sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ] ) / 2;
}

sub read_columns {
    my ($text) = @_;
    my %column;
    while ( $text =~ /^### (before|now)\n+```text\n(.*?)^```$/msg ) {
        my ( $which, $lines ) = ( $1, $2 );
        for ( split /\n/, $lines ) {
            my ( $key, $value ) = /\A(\S+): (.*)/ or next;
            if   ( $key =~ s/\Aabout\.// ) { $column{$which}{about}{$key} = $value }
            else                           { $column{$which}{numbers}{$key} = [ split ' ', $value ] }
        }
    }
    return \%column;
}

sub number {
    my ($n) = @_;
    return '' if !defined $n;
    my $text = abs $n >= 100 || $n == int $n ? sprintf '%.0f', $n : abs $n >= 10 ? sprintf '%.1f', $n : sprintf '%.2f', $n;
    1 while $text =~ s/(\d)(\d{3})(?!\d)(?![^.]*\.)/$1,$2/ && $text !~ /\./;
    return $text;
}

sub table {
    my ($column) = @_;
    my $text = "| what | unit | before | now |\n|---|---|---:|---:|\n";
    for (@rows) {
        my ( undef, $key, $title, $unit ) = @$_;
        my @values = map { $column->{$_}{numbers}{$key} } qw( before now );
        next if !grep {defined} @values;
        $text .= "| $title | $unit | " . join( ' | ', map { $_ ? number( median(@$_) ) : '' } @values ) . " |\n";
    }
    return $text;
}

sub raw {
    my ( $which, $column ) = @_;
    my $of = $column->{$which};
    return '' if !$of->{numbers};
    my $text = "### $which\n\n```text\n";
    $text .= "about.$_: $of->{about}{$_}\n" for sort keys %{ $of->{about} };
    $text .= "$_: " . join( ' ', map { sprintf '%.6g', $_ } @{ $of->{numbers}{$_} } ) . "\n" for sort keys %{ $of->{numbers} };
    return "$text```\n";
}

# The text with a new table, and new numbers.
sub with_columns {
    my ( $text, $column ) = @_;
    my $begin = '<!-- Made by "make bench" from here on. -->';
    $text =~ s/^\Q$begin\E.*//ms;
    my $about = '';
    for my $which ( grep { $column->{$_}{about} } qw( before now ) ) {
        my $of = $column->{$which}{about};
        $about .= "- $which: commit $of->{commit}, on $of->{date}; $of->{machine}; $of->{nginx}; lua-nginx-module $of->{lua};"
            . " `js_periodic` $of->{js_periodic}\n";
    }
    my $raw = join "\n", grep {length} map { raw( $_, $column ) } qw( before now );
    return join "\n", "$text$begin", '', $about, table($column), "## Raw numbers\n", $raw;
}

1;
