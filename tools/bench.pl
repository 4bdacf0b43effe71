#!/usr/bin/perl

# What tools/bench runs: the measurements, the table, BENCHMARKS.md.

use strict;
use warnings;

use Getopt::Long qw( GetOptions );
use List::Util qw( shuffle sum0 );
use POSIX qw( strftime );
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Bench;
use TimerTest::Nginx;

my $usage = <<'USAGE';
tools/bench [OPTION]...
    --only GROUP,...   these groups of rows only; --list names them
    --write            into BENCHMARKS.md, too: what "make bench" does
    --before           what is measured is the column "before", not "now"
    --module FILE      measures this build of the module,
    --commit NAME      which is of this commit
    --list             the groups
USAGE

my $file = 'BENCHMARKS.md';

# Rows in the order of the table: group, key of the numbers, what they are, unit. A row shows their median.
my @rows = (
    [ run => 'cpu.file',     'CPU time per run of `return 204`, state in a file on tmpfs', 'µs' ],
    [ run => 'cpu.memory',   'CPU time per run, `timer_state memory`', 'µs' ],
    [ run => 'cpu.lua',      'CPU time per callback of `ngx.timer.every`', 'µs' ],
    [ run => 'cpu.ratio',    'CPU time per run, file, by that of `ngx.timer.every`', 'times' ],
    [ run => 'calls.file',   'system calls per run, file', '' ],
    [ run => 'calls.memory', 'system calls per run, memory', '' ],
    [ run => 'calls.lua',    'system calls per callback of `ngx.timer.every`', '' ],
    [ run => 'instructions.file',        'instructions in user space per run, file', '' ],
    [ run => 'instructions.file.module', '- of these in the module', '' ],
    [ run => 'instructions.file.nginx',  '- in nginx', '' ],
    [ run => 'instructions.file.libc',   '- in the C library', '' ],
    [ run => 'instructions.memory',      'instructions in user space per run, memory', '' ],
    [ run => 'instructions.lua', 'instructions in user space per callback of `ngx.timer.every`', '' ],
);

my %measure = ( run => \&measure_run );
my @groups  = qw( run );

my ( %result, %option );

sub record { my ( $key, @numbers ) = @_; push @{ $result{$key} }, @numbers; return }

sub say_that { print STDERR "@_\n"; return }

sub median {
    my @sorted = sort { $a <=> $b } @_;
    return @sorted % 2 ? $sorted[ $#sorted / 2 ] : ( $sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ] ) / 2;
}

# CPU time, system calls and instructions per run.

sub measure_run {
    say_that('CPU time per run: 100 timers of 10 ms, and the same number of callbacks of ngx.timer.every');
    my %subject = (
        file   => TimerTest::Bench->timers( 100, '10ms' ),
        memory => TimerTest::Bench->timers( 100, '10ms', state => 'memory' ),
        lua    => TimerTest::Bench->lua_timers( 100, 0.01 ),
        idle   => TimerTest::Bench->new,
    );
    $_->pause for values %subject;
    for ( 1 .. 11 ) {
        my %window;
        for my $name ( shuffle sort keys %subject ) {
            $subject{$name}->resume;
            sleep 0.3;
            $window{$name} = $subject{$name}->window(1);
            $subject{$name}->pause;
        }
        my $idle = $window{idle}{cpu} / $window{idle}{seconds};
        my %cpu  = map {
            my $w = $window{$_};
            $_ => 1e6 * ( $w->{cpu} - $idle * $w->{seconds} ) / $w->{runs};
        } qw( file memory lua );
        record( "cpu.$_", $cpu{$_} ) for keys %cpu;
        record( 'cpu.ratio', $cpu{file} / $cpu{lua} );
    }
    $_->stop for values %subject;

    say_that('system calls per run: 20 timers of 100 ms, under strace');
    %subject = (
        file   => sub { TimerTest::Bench->timers( 20, '100ms' ) },
        memory => sub { TimerTest::Bench->timers( 20, '100ms', state => 'memory' ) },
        lua    => sub { TimerTest::Bench->lua_timers( 20, 0.1 ) },
    );
    for my $name ( sort keys %subject ) {
        my $of = $subject{$name}->();
        for ( 1 .. 3 ) {
            my ($calls) = $of->system_calls(2);
            record( "calls.$name", sum0 values %$calls );
            record( "calls.$name.$_", $calls->{$_} ) for keys %$calls;
        }
        $of->stop;
    }

    say_that('instructions per run: 100 timers of 1 s, under callgrind');
    %subject = (
        file   => sub { TimerTest::Bench->timers( 100, '1s', @_ ) },
        memory => sub { TimerTest::Bench->timers( 100, '1s', state => 'memory', @_ ) },
        lua    => sub { TimerTest::Bench->lua_timers( 100, 1, @_ ) },
    );
    for my $name ( sort keys %subject ) {
        my $of = $subject{$name}->( callgrind => 1 );
        my $in = $of->instructions_per_run(5);
        $of->stop;
        record( "instructions.$name", $in->{all} );
        next if $name eq 'lua';
        record( "instructions.$name.$_", TimerTest::Bench::object( $in, $_ ) ) for qw( module nginx libc );
    }
    return;
}

# BENCHMARKS.md: a table made from the numbers, and these.

sub about {
    my ( undef, $nginx ) = run_command( nginx_binary(), '-v' );
    my ( undef, $lua )   = run_command(qw( dpkg-query -W -f ${Version} libnginx-mod-http-lua ));
    my ( undef, $commit ) = run_command(qw( git log -1 --format=%h ));
    my ($model)  = slurp('/proc/cpuinfo') =~ /^model name\s*: (.*)/m;
    my ($memory) = slurp('/proc/meminfo') =~ /^MemTotal:\s*(\d+)/m;
    my @cores    = slurp('/proc/cpuinfo') =~ /^processor/mg;
    chomp( $nginx, $commit );
    $commit = $option{commit} if $option{commit};
    return {
        date    => strftime( '%Y-%m-%d %H:%M UTC', gmtime ),
        commit  => $commit,
        machine => sprintf( '%s, %d cores, %.0f GiB', $model // 'unknown', scalar @cores, ( $memory // 0 ) / 2**20 ),
        kernel  => ( POSIX::uname() )[2],
        nginx   => $nginx =~ s/.*: //r,
        lua     => $lua,
        load    => ( split ' ', slurp('/proc/loadavg') )[0],
    };
}

sub read_file {
    my %column;
    my ($text) = @_;
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

GetOptions( \%option, qw( only=s write before module=s commit=s list help ) ) or die $usage;
if ( $option{help} ) { print $usage; exit }
if ( $option{list} ) { print "@groups\n"; exit }
$ENV{TEST_NGINX_TIMER_MODULE} = $option{module} if $option{module};
my @chosen = $option{only} ? split /,/, $option{only} : @groups;
$measure{$_} or die qq{no group "$_"\n$usage} for @chosen;

$measure{$_}->() for @chosen;

my $which  = $option{before} ? 'before' : 'now';
my $text   = slurp($file);
my $column = read_file($text);
$column->{$which}{about} = about();
$column->{$which}{numbers}{$_} = $result{$_} for keys %result;
print table($column);
if ( $option{write} ) {
    my $raw = join "\n", grep {length} map { raw( $_, $column ) } qw( before now );
    my $made = join "\n", '<!-- made by "make bench" from here on -->', '', table($column), "## Raw numbers\n", $raw;
    $text =~ s/^<!-- made by .*//ms;
    spew( $file, $text . $made );
}
