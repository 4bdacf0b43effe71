#!/usr/bin/perl

# timer_capture: of the response of a run that failed its beginning is kept, and shown in the error line, in JSON
# and on the page, each escaped for where it is. Other tests have what a crash leaves of it.

use strict;
use warnings;

use Encode qw( decode FB_DEFAULT );
use Fcntl qw( O_DIRECT O_RDONLY );
use File::Temp;
use Test::More;
use TimerTest;
use TimerTest::Api;
use TimerTest::Backend;
use TimerTest::Canned;
use TimerTest::Conf;
use TimerTest::Nginx;
use TimerTest::StateFile;

# What a capture is given as.
accepts( location => "timer_capture $_;" ) for qw( off 1 8k 8192 );
refuses( location => "timer_capture $_;", qr/invalid value "\Q$_\E" in "timer_capture" directive, it must be "off" or a size between 1 and "8k"/ ) for qw( 0 9k 8193 -1 1x on );
refuses( location => "timer_capture 1k;\ntimer_capture off; #!", qr/"timer_capture" directive is duplicate/ );

# Whatever an application says in its despair.
my $odd  = qq{a "quote", a \\, <script>alert(1)</script> & 'more'\r\n\tline 2\0end \x1b[31m\x7f};
my %body = (
    plain  => 'disk full',
    odd    => $odd,
    binary => "\xff\xfeok\xc3\xa9\xc3",
    half   => 'x' x 99 . "\xc3\xa9" . 'y' x 10_000,
    long   => join( '', map { sprintf '%07d,', $_ } 1 .. 4000 ),
    quotes => '"' x 300,
    empty  => '',
);
my $server  = TimerTest::Canned->start( answer => sub {
    my ($name) = $_[0] =~ m{\A\S+ /(\w+)} or return;
    return "HTTP/1.1 500 X\r\nContent-Length: " . length( $body{$name} ) . "\r\n\r\n$body{$name}";
} );
my $backend = TimerTest::Backend->start;
my $canned  = 'http://127.0.0.1:' . $server->port;
my $pass    = 'http://127.0.0.1:' . $backend->port;

# A file, read with O_DIRECT where the file system has that: the kernel then refuses memory that is not aligned.
my $disk = File::Temp->newdir( DIR => '/var/tmp' );
chmod 0755, $disk;
spew( "$disk/long", $body{long} );
my $direct = sysopen( my $opened, "$disk/long", O_RDONLY | O_DIRECT ) ? 'directio 512;' : '';

sub job { my ( $name, $more ) = @_; return "location \@$name { timer $name every=366d first=now uri=/$name; $more }\n" }

my $buffers = 'proxy_buffers 2 4k; proxy_buffer_size 4k; proxy_busy_buffers_size 4k; sub_filter_types *; sub_filter 0000001 changed;';
my $nginx   = TimerTest::Nginx->new(
    http   => 'timer_capture 8k;',
    server => join '',
    ( map { job( $_, ( $_ eq 'half' ? 'timer_capture 100;' : '' ) . " proxy_pass $canned;" ) } sort keys %body ),
    job( 'spooled', "$buffers rewrite ^ /long break; proxy_pass $canned;" ),
    job( 'own',     'return 503 "from nginx itself";' ),
    job( 'none',    "timer_capture off; rewrite ^ /plain break; proxy_pass $canned;" ),
    job( 'good',    "proxy_pass $pass/ok;" =~ s{/ok}{}r . ' ' ),
    job( 'late',    "timer_timeout 300ms; proxy_buffering off; rewrite ^ /stall break; proxy_pass $pass;" ),
    job( 'cut',     "proxy_buffering off; rewrite ^ /truncate break; proxy_pass $pass;" ),
    job( 'again',   "timer_retry 1 backoff=10ms; rewrite ^ /plain break; proxy_pass $canned;" ),
    job( 'mends',   "rewrite ^ /fail-first/1/ok break; proxy_pass $pass;" ),
    job( 'direct',      "timer_success 204; root $disk; $direct rewrite ^ /long break;" ),
    job( 'direct_good', "root $disk; $direct rewrite ^ /long break;" ),
    'location /status/ { timer_api write=on; }',
);
my $file = $nginx->prefix . '/timers.state';
my $api  = TimerTest::Api->new( $nginx, at => '/status' );

sub show { return json( $nginx->get("/status/timers/$_[0]") ) }

sub line { my ($name) = @_; return ( $nginx->log_lines(qr/\[error\].*timer "$name": run failed: /) )[0] // '' }

$nginx->start;
my @failing = ( sort( keys %body ), qw( spooled own none late cut again mends direct ) );
ok( $nginx->wait_log(qr/timer "$_": run failed: /), "$_ fails" ) for @failing;
ok( $nginx->wait_log(qr/timer "$_": run succeeded/), "$_ does not" ) for qw( good direct_good );

# As text: what is no UTF-8 is replaced, and no character is cut in two.
my %text = map { $_ => decode( 'UTF-8', $body{$_} ) } qw( plain odd long quotes );
$text{binary}  = "\x{fffd}\x{fffd}ok\x{e9}\x{fffd}";
$text{half}    = 'x' x 99;
$text{long}    = $text{spooled} = $text{direct} = substr $text{long}, 0, 8192;
$text{own}     = 'from nginx itself';
$text{late}    = $text{cut} = 'part';
$text{again}   = $text{plain};
$text{mends}   = "failed\n";
is( show($_)->{response}, $text{$_}, "$_: the response in JSON" ) for sort keys %text;
is( show($_)->{response}, undef, "$_: no response" ) for qw( empty none good );

# On one line.
my $log = qr/, timer: "\w+", run: [0-9a-f]{32}\z/;
like( line('plain'), qr/run failed: status 500, \d+ms, response "disk full"$log/, 'a line' );
like( line('own'),   qr/run failed: status 503, \d+ms, response "from nginx itself"$log/, q{of nginx's own response} );
like( line('late'),  qr/run failed: timed out after 300ms, response "part"$log/, 'of one that took too long' );
like( line('cut'),   qr/run failed: response incomplete, status 200, response "part"$log/, 'of one that was cut short' );
like( line('again'), qr/run failed: status 500, attempt 2 of 2, \d+ms, response "disk full"$log/, 'of the last attempt' );
like( $nginx->log, qr/timer "again": attempt 1 of 2 failed: status 500, \d+ms, response "disk full", timer: "again", run: [0-9a-f]{32}$/m, 'and of the one before' );
like( line('none'),  qr/run failed: status 500, \d+ms$log/, 'nothing without timer_capture' );
like( line('empty'), qr/run failed: status 500, \d+ms$log/, 'nor of an empty response' );
my $shown = q{response "a \"quote\", a \\\\, <script>alert(1)</script> & 'more'\r\n\tline 2\x00end \x1B[31m\x7F"};
like( line('odd'), qr/\Q$shown\E$log/, 'escaped' );
like( line('quotes'), qr/response "(?:\\"){100}\.\.\."$log/, 'not more than 200 characters' );
like( line('long'),   qr/response "(?:\d{7},){25}\.\.\."$log/, 'of a long one' );
is( scalar( $nginx->log_lines(qr/\A[^\d]/) ), 0, 'no line of the log is anybody else\'s' );

# The list of all timers has none of it.
lacks( $nginx->get('/status/timers')->{body}, qr/disk full|script/, 'the list is as short as ever' );
lacks( $nginx->get('/status/')->{body}, qr/alert\(1\)/, 'and so is the page as it is sent' );

# What is well again keeps what it said last, over a reload and a restart.
$api->order('/timers/mends/run');
ok( wait_until { ( show('mends')->{last} // {} )->{outcome} eq 'success' }, 'well again' );
is( show('mends')->{response}, "failed\n", 'it says why it was not' );
$nginx->reload_all;
is( show('odd')->{response}, $text{odd}, 'after a reload' );
$nginx->stop;
$nginx->start;
is( show('spooled')->{response}, $text{long}, 'after a restart' );
$nginx->stop;

# A text that is torn is left out, and nothing else is damaged.
my $bytes = slurp($file);
my $at    = index $bytes, 'disk full';
substr $bytes, $at, 1, 'D';
spew( $file, $bytes );
$nginx->write_conf( http => 'timer_capture 8k;' )->start;
my @torn = grep { !defined show($_)->{response} } qw( plain again );
is( scalar(@torn), 1, 'one text is gone' );
is( show('odd')->{response}, $text{odd}, 'the others are there' );
is( show( $torn[0] )->{counters}{failure}, 1, 'as is all else of that timer' );
none_of {/damaged|starting anew/} 'nothing is damaged', $nginx->log_lines(qr/./);
$api->order("/timers/$torn[0]/run");
ok( wait_until { defined show( $torn[0] )->{response} }, 'the next failure has its text again' );
$nginx->stop;

# In memory, for as long as that lasts.
$nginx->write_conf( state => 'memory' )->start;
ok( wait_until { ( show('odd')->{response} // '' ) eq $text{odd} }, 'in memory' );
$nginx->reload_all;
is( show('odd')->{response}, $text{odd}, 'over a reload' );
$nginx->stop;

done_testing;
