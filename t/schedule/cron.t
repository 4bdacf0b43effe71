#!/usr/bin/perl

# cron: what is a good expression and a good zone, what is refused with which words, and that nginx
# keeps the times that are meant: in seconds, and in the zone that is said.

use strict;
use warnings;

use POSIX qw( strftime tzset );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Conf;
use TimerTest::Nginx;
use TimerTest::Series;

sub good { return accepts( location => qq{timer x "cron=$_[0]"} . ( $_[1] // '' ) . ';', "good: $_[0]" . ( $_[1] // '' ) ) }

# An expression that is refused, after whose text the message goes on with this.
sub bad {
    my ( $expression, $why, $more ) = @_;
    my $shown = quotemeta $expression;
    return refuses( location => qq{timer x "cron=$expression"} . ( $more // '' ) . ';',
        qr/\Ainvalid cron expression "$shown": .*$why/, "bad: $expression" );
}

# Good ones.
good($_) for '* * * * *', '*/5 * * * *', '0 3 * * *', '0 9 * * MON-FRI', '0 0 1 1 *', '59 23 31 12 7', '0-59 0-23 1-31 1-12 0-7',
    '0,30 * * * *', '0-30/10 * * * *', '0 0 * * 0', '0 0 * * 7', '0 0 * * 5-7', '0 0 * * fri-sun', '0 0 * jan,JUL mon',
    '0 0 ? * 1', '0 0 1 * ?', '0 0 L * *', '0 0 L,15 * *', '0 0 15W * *', '0 0 LW * *', '0 0 * * MON#1,MON#3', '0 0 * * 5#L',
    '0 0 * * 5L', '0 0 13 * +FRI', '0 0 29 2 *',
    # six fields: seconds first
    '* * * * * *', '*/2 * * * * *', '0,30 * * * * *', '0 0 3 * * MON';
good("0\t3\t*  *   *");
good("  0 3 * * *  ");
good("\t*/2 * * * * *\t");
good($_) for qw( @hourly @daily @midnight @weekly @monthly @yearly @annually @DAILY );
good( '0 3 * * *', " tz=$_" ) for qw( UTC Europe/Berlin America/New_York Asia/Kolkata Australia/Lord_Howe Pacific/Apia );
good( '0 3 * * *', ' jitter=5m first=now enabled=off' );
accepts( location => q{timer x 'cron=0 3 * * *';}, 'in single quotes' );
accepts( location => q{timer x cron=@daily;},       'a nickname needs no quotes' );
accepts( location => qq{timer x\n"cron=0 3 * * *"\ntz=UTC;}, 'on lines of its own' );

# Too few, too many.
bad( '',              'empty' );
bad( '   ',           'empty' );
bad( '*',             'five fields expected, or six with seconds first, found 1' );
bad( '* * * *',       'found 4' );
bad( '* * * * * * *', 'found 7' );

# Out of range, reversed.
bad( '60 * * * *',   '"60" is out of range 0-59 in minute field' );
bad( '60 * * * * *', '"60" is out of range 0-59 in second field' );
bad( '0 24 * * *',   '"24" is out of range 0-23 in hour field' );
bad( '0 0 0 * *',    '"0" is out of range 1-31 in day of month field' );
bad( '0 0 32 * *',   '"32" is out of range 1-31 in day of month field' );
bad( '0 0 1 0 *',    '"0" is out of range 1-12 in month field' );
bad( '0 0 1 13 *',   '"13" is out of range 1-12 in month field' );
bad( '0 0 * * 8',    '"8" is out of range 0-7 in day of week field' );
bad( '0-60 * * * *', 'out of range 0-59 in minute field' );
bad( '30-10 * * * *', '"30-10" is a reversed range in minute field' );
bad( '0 22-6 * * *',  '"22-6" is a reversed range in hour field' );
bad( '0 0 * * FRI-MON', '"FRI-MON" is a reversed range in day of week field' );
bad( '99999999999999999999 * * * *', 'out of range' );

# Steps.
bad( '0/15 * * * *',  '"0/15" has a step without "\*" or a range before it in minute field' );
bad( '/15 * * * *',   '"/15" has a step without "\*" or a range before it in minute field' );
bad( '*/0 * * * *',   '"\*/0" has a step out of range 1-59 in minute field' );
bad( '*/60 * * * *',  'step out of range 1-59 in minute field' );
bad( '*/ * * * *',    'step' );
bad( '*/x * * * *',   'step' );
bad( '*/-1 * * * *',  'step' );
bad( '*/5/2 * * * *', 'step' );

# Lists and marks.
bad( '1,,2 * * * *',    'an item of the list is empty in minute field' );
bad( ',1 * * * *',      'empty in minute field' );
bad( '1, * * * *',      'empty in minute field' );
bad( '*,1 * * * *',     '"\*" must stand alone in minute field' );
bad( '? * * * *',       '"\?" is not a number in minute field' );
bad( '0 ? * * *',       '"\?" is not a number in hour field' );
bad( '0 0 * ? *',       '"\?" is not a month in month field' );
bad( '0 0 * * MON#6',   '"MON#6" must have 1-5 or "L" after "#" in day of week field' );
bad( '0 0 * * MON#0',   'after "#"' );
bad( '0 0 * * MON#',    'after "#"' );
bad( '0 0 * * #1',      'is not a day of the week' );
bad( '0 0 * * L',       'must have a day before it' );
bad( '0 0 32W * *',     'out of range 1-31 in day of month field' );
bad( 'L * * * *',       '"L" is not a number in minute field' );
bad( '-1 * * * *',      'in minute field' );
bad( '1- * * * *',      'in minute field' );
bad( '+1 * * * *',      '"\+1" is not a number in minute field' );
bad( '1.5 * * * *',     '"1\.5" is not a number in minute field' );
bad( 'x * * * *',       '"x" is not a number in minute field' );

# Names in the wrong field, or of nobody.
bad( '0 0 1 MON *',     '"MON" is not a month in month field' );
bad( '0 0 * * JAN',     '"JAN" is not a day of the week in day of week field' );
bad( '0 0 MON * *',     '"MON" is not a day in day of month field' );
bad( 'JAN * * * *',     '"JAN" is not a number in minute field' );
bad( '0 0 * * MONDAY',  '"MONDAY" is not a day of the week' );
bad( '0 0 * JANUARY *', '"JANUARY" is not a month' );

# Nicknames and settings.
bad( '@reboot',         'unknown nickname "@reboot", use "first=now" to run a timer once, when it is new' );
bad( '@every 5m',       'unknown nickname "@every", use "every" parameter for a fixed rate' );
bad( '@',               'unknown nickname "@"' );
bad( '@daily 5',        '"5" after nickname "@daily"' );
bad( 'CRON_TZ=UTC 0 3 * * *', '"CRON_TZ=UTC" before the fields, use "tz" parameter' );
bad( 'TZ=UTC 0 3 * * *',      '"TZ=UTC" before the fields, use "tz" parameter' );

# Never due.
refuses( location => qq{timer x "cron=$_";}, qr/\Acron expression "\Q$_\E" is never due in /, "never due: $_" )
    for '0 0 31 2 *', '0 0 30 2 *', '0 0 31 4,6,9,11 *', '0 0 31 2 ?', '0 0 30 2 +MON';

# Nothing that is written breaks it, and the message is a line of text.
for my $wild ( "\x80\xff * * * *", "\x01 * * * *", 'A' x 3000, ( '*,' x 1000 ) . '* * * * *', "\xe2\x80\x8b* * * * *", '* * * * *\\', '%s%n * * * *' ) {
    my ( $ok, $out ) = check_conf( location => qq{timer x "cron=$wild";} );
    my $name = substr( $wild, 0, 12 ) =~ s/[^ -~]/?/gr;
    ok( !$ok, "refused, and no more: $name" );
    lacks( $out, qr/\[alert\]|signal|panic/, "calmly: $name" );
}

# Quoted in the middle of the word, or not at all.
refuses( location => 'timer x cron="0 3 * * *";',   qr/"cron" must be quoted as a whole: "cron=0 3 \* \* \*"/, 'quoted in the middle' );
refuses( location => 'timer x cron=0 3 * * *;',     qr/"cron" must be quoted as a whole: "cron=0 3 \* \* \*"/, 'not quoted' );
refuses( location => q{timer x cron='*/5 * * * *';}, qr{"cron" must be quoted as a whole: "cron=\*/5 \* \* \* \*"}, 'in the middle, in single quotes' );
refuses( location => 'timer x cron="0 3 * * *" tz=UTC;', qr/"cron" must be quoted as a whole: "cron=0 3 \* \* \*"/, 'in the middle, and more behind it' );

# What goes together.
refuses( location => 'timer x;',                               qr/"timer" must have "every" or "cron" parameter/, 'neither' );
refuses( location => 'timer x every=1s "cron=* * * * *";',     qr/"every" and "cron"/,                            'both' );
refuses( location => 'timer x every=1h tz=UTC;',               qr/"tz" parameter requires "cron" parameter/,         'tz without cron' );
refuses( location => 'timer x "cron=* * * * *" offset=1s;',    qr/"offset" parameter requires "every" parameter/,    'offset with cron' );
refuses( location => 'timer x "cron=* * * * *" "cron=0 * * * *";', qr/duplicate/,                                 'cron twice' );
refuses( location => 'timer x "cron=* * * * *" tz=UTC tz=UTC;', qr/duplicate/,                                    'tz twice' );

# The line is that of the directive.
refuses( location => "return 204;\n\ntimer x \"cron=0/15 * * * *\"; #!", qr/0\/15/, 'the line is the right one' );

# Zones.
for my $zone ( 'Europe/Berln', 'europe', 'Berlin', 'CET/', '/etc/localtime', '../../etc/passwd', '../zoneinfo/UTC', 'Europe/../UTC', 'Europe', '.', '..', '/',
    'UTC/', ' UTC', 'UTC ', '+01:00', 'A' x 1000, "UTC\x01", "\xc3\xa9", 'local ', 'posixrules2', 'zone.tab', 'tzdata.zi', 'leapseconds' ) {
    my $shown = $zone =~ s/[^ -~]/?/gr;
    my ( $ok, $out ) = check_conf( location => qq{timer x "cron=0 3 * * *" "tz=$zone";} );
    ok( !$ok && $out =~ /\[emerg\].*unknown time zone "/, 'unknown: ' . substr $shown, 0, 20 ) or diag $out;
    lacks( $out, qr/root:|\[alert\]|signal|panic/, 'and nothing of it is told: ' . substr $shown, 0, 20 );
}
refuses( location => 'timer x "cron=0 3 * * *" tz=Europe/Berln;', qr/\Aunknown time zone "Europe\/Berln"/, 'an unknown zone' );
refuses( location => 'timer x "cron=0 3 * * *" tz=;',             qr/unknown time zone ""|invalid/,          'an empty one' );
refuses( location => 'timer x "cron=0 3 * * *" tz=local;',        qr/unknown time zone "local"/,             'local is for timer_timezone' );

accepts( http   => "timer_timezone $_;" ) for qw( UTC Europe/Berlin local );
accepts( server => 'timer_timezone Europe/Berlin; location @x { timer_timezone UTC; timer x "cron=0 3 * * *"; return 204; }', 'timer_timezone overridden' );
refuses( http => 'timer_timezone Europe/Berln;', qr/\Aunknown time zone "Europe\/Berln"/ );
refuses( http => 'timer_timezone "";',           qr/unknown time zone ""/ );
refuses( http => 'timer_timezone ../../etc/passwd;', qr/unknown time zone "\.\.\/\.\.\/etc\/passwd"/ );
refuses( http => 'timer_timezone UTC local;',    qr/invalid number of arguments in "timer_timezone"/ );
refuses( http => "timer_timezone UTC;\ntimer_timezone UTC; #!", qr/"timer_timezone" directive is duplicate/, 'timer_timezone twice' );
{
    local $ENV{TZ} = 'Europe/Berlin';
    accepts( http => 'timer_timezone local;', 'local, of TZ' );
    $ENV{TZ} = 'UTC';
    accepts( http => 'timer_timezone local;', 'local, of TZ: UTC' );
    $ENV{TZ} = 'Europe/Berln';
    refuses( http => 'timer_timezone local;', qr/time zone/, 'local, of a TZ that does not exist' );
    accepts( http => 'timer_timezone UTC;', 'a bad TZ is nobody\'s business without local' );
}

# Which due times there are.  Expressions are made of the wall clock some seconds ahead in a zone: the
# same expression in another zone is due at another time of the day.
my ( $backend, $at, %want );

# The wall clock of a zone, in an expression that is due at AT on this day of the month only.
sub cron_at {
    my ( $zone, $at ) = @_;
    local $ENV{TZ} = $zone;
    tzset();
    my @at = localtime $at;
    my $expression = sprintf '%d %d %d %d %d *', @at[ 0 .. 3 ], $at[4] + 1;
    return $expression;
}

# None of them ever changes its clock by rule; each has a wall clock of its own.
my @zones = qw( UTC Asia/Kolkata Asia/Kathmandu Asia/Tokyo America/Phoenix );

sub start {
    $backend = TimerTest::Backend->start;
    $at      = int( time + 8 * $TimerTest::SLOW );
    %want    = ( 'i.utc' => 1, 'i.http' => 0, 'i.server' => 1, 'i.tz' => 1, 'i.location' => 1, 'l.local' => 1, 'l.utc' => 0 );
    my @timers;
    for my $zone (@zones) {
        my $name = $zone =~ s{/}{-}r;
        my $cron = cron_at( $zone, $at );
        for my $other (@zones) {
            my $timer = "$name.in." . ( $other =~ s{/}{-}r );
            $want{$timer} = $zone eq $other;
            push @timers, timer( $backend, $timer, qq{"cron=$cron" tz=$other} );
        }
    }
    tzset();
    my $kolkata = cron_at( 'Asia/Kolkata', $at );
    my $utc     = cron_at( 'UTC', $at );
    tzset();

    local $ENV{TZ} = 'Asia/Tokyo';
    my $second = free_port();
    my $it = TimerTest::Nginx->new(
        workers => 2,
        main    => 'env TZ;',
        http    => "server { listen 127.0.0.1:$second; server_name other; timer_timezone Asia/Kolkata;\n"
            . timer( $backend, 'i.server', qq{"cron=$kolkata"} )
            . timer( $backend, 'i.http',   qq{"cron=$utc"} )
            . timer( $backend, 'i.tz',     qq{"cron=$utc" tz=UTC} )
            . timer( $backend, 'i.location', qq{"cron=$utc"}, 'ok', 'timer_timezone UTC;' )
            . "}\n server { listen 127.0.0.1:" . free_port() . "; server_name tz; timer_timezone local;\n"
            . timer( $backend, 'l.local', '"cron=' . cron_at( 'Asia/Tokyo', $at ) . '"' )
            . timer( $backend, 'l.utc',   qq{"cron=$utc"} )
            . "}\n",
        server => join '',
        @timers,
        timer( $backend, 'i.utc',  qq{"cron=$utc"} ),
        timer( $backend, 'even',   '"cron=*/2 * * * * *"' ),
        timer( $backend, 'every',  '"cron=* * * * * *"' ),
        timer( $backend, 'list',   qq{"cron=\t1,3,5-59/2   *\t* * * ?"} ),
        timer( $backend, 'jitter', '"cron=* * * * * *" jitter=10s' ),
    );
    return $it->start;
}

# On a machine so slow that the time has passed by then it would not come again this year.
my $nginx = start();
for ( 1 .. 3 ) {
    last if time < $at;
    $nginx->kill_all;
    $backend->stop;
    $nginx = start();
}
tzset();

my $wanted = grep {$_} values %want;
ok( wait_until { ( grep { $want{$_} && $backend->requests( timer => $_ ) } keys %want ) == $wanted }, 'where the wall clock says so it is due' )
    or diag join ' ', grep { $want{$_} && !$backend->requests( timer => $_ ) } sort keys %want;
ok( wait_until { grep { due_ms($_) > ( $at + 2 ) * 1000 } $backend->requests( timer => 'even' ) }, 'time passes' );
none_of { !$want{$_} && $backend->requests( timer => $_ ) } 'elsewhere it is not', sort keys %want;
none_of { $want{ $_->{headers}{'x-timer'} } && due_ms($_) != $at * 1000 } 'to the second', $backend->requests;

# Seconds.
my %dues = map {
    my $timer = $_;
    $timer => [ map { due_ms($_) } $backend->wait_requests( 3, timer => $timer ) ]
} qw( even every list jitter );
cmp_ok( scalar @{ $dues{$_} }, '>=', 3, "$_: runs" ) for sort keys %dues;
none_of { $_ % 2000 } 'even: on even seconds', @{ $dues{even} };
none_of { $_ % 2000 != 1000 } 'list: on odd ones', @{ $dues{list} };
none_of { $_ % 1000 } 'all on whole seconds', map {@$_} values %dues;
for my $timer ( sort keys %dues ) {
    none_of { $dues{$timer}[$_] <= $dues{$timer}[ $_ - 1 ] } "$timer: each due time once, in their order", 1 .. $#{ $dues{$timer} };
}
none_of { $_->{arrived} * 1000 < due_ms($_) - 1 } 'none before its time', $backend->requests;
my @late = sort { $a <=> $b } map { $_->{headers}{'x-late'} } $backend->requests( timer => 'every' );
cmp_ok( $late[0], '<', 0.5 * $TimerTest::SLOW, 'and not long after it' );
# A jitter that is longer than the distance of two due times is cut at the next one.
my @beyond = grep { $_->{headers}{'x-late'} > 1 + 0.9 * $TimerTest::SLOW } $backend->requests( timer => 'jitter' );
cmp_ok( scalar @beyond, '<=', @{ $dues{jitter} } / 2, 'jitter is cut at the next due time' );
# By schedule, but for what is seen more than a second later: that was missed.
none_of { $_->{headers}{'x-trigger'} ne 'schedule' && $_->{headers}{'x-late'} <= 1 } 'by schedule', $backend->requests( timer => 'i.utc' );

$nginx->stop;
no_doubles( 'cron', $backend->requests );

done_testing;
