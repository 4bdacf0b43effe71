#!/usr/bin/perl

# The page when things are not as they should be: clocks that differ, times of another zone, answers that
# are slow, wrong or missing, hands that click twice; and where it may be served: behind a password, under
# another prefix, from a unix socket. That it can be read: contrast, size of what is clicked, long names.

use strict;
use utf8;
use warnings;

use IO::Select       ();
use IO::Socket::INET ();
use IO::Socket::UNIX ();
use JSON::PP         ();
use POSIX            qw( strftime );
use Test::More;
use Time::Local qw( timegm );
use TimerTest;
use TimerTest::Nginx;
use TimerTest::Page;

TimerTest::Page->available or plan skip_all => 'chromium and chromedriver are not installed';

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw( output failure_output todo_output );

my ( $true, $false ) = ( JSON::PP::true, JSON::PP::false );
my $browser = TimerTest::Page->start( width => 1280, height => 900 );
my $long    = 'n' . 'ame_of_127_characters-' x 6;
$long = substr $long, 0, 127;

# Due in half an hour, at whatever minute this is run.
my $half = ( time + 1800 ) % 3600 . 's';

my ( $backend, $silent ) = map { { port => free_port() } } 1 .. 2;
$_->{socket} = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => $_->{port}, Listen => 16, ReuseAddr => 1, Blocking => 0 )
    or die "listen: $!"
    for $backend, $silent;

my $nginx = TimerTest::Nginx->new( workers => 2, main => 'worker_shutdown_timeout 1s;' );
my $port  = $nginx->port;
my $unix  = $nginx->prefix . '/api.sock';
spew( $nginx->prefix . '/htpasswd', "ops:{PLAIN}secret\n" );
$nginx->write_conf(
    server => <<"CONF",
        location /status/ { timer_api write=on; }
        location /secret/ {
            timer_api            write=on;
            auth_basic           timers;
            auth_basic_user_file $nginx->{prefix}/htpasswd;
        }
        location /behind/a/proxy/ { proxy_pass http://127.0.0.1:$port/status/; proxy_set_header Host \$http_host; }
        location /forbidden/ {
            proxy_pass http://127.0.0.1:$port/status/;
            limit_except GET { deny all; }
        }
        location /old/ { timer_api write=on; }
        location = /old/timers { root $nginx->{prefix}; default_type application/json; }
        location = /old/timers/hang { alias $nginx->{prefix}/hang.json; default_type application/json; }
        location /slow/ { timer_api write=on; }
        location = /slow/timers { proxy_pass http://127.0.0.1:$silent->{port}; }
        location \@often { timer often every=1s offset=0 uri=/x; return 204; }
        location \@hourly { timer hourly every=1h offset=$half uri=/x; return 204; }
        location \@hang { timer hang every=1h offset=$half uri=/x; proxy_pass http://127.0.0.1:$backend->{port}; }
        location \@spread { timer spread every=12h jitter=11h uri=/x; return 204; }
        location /a/long/location/for/a/long/name/ { timer $long "cron=0,5,10,15,20,25,30,35,40,45,50,55 8-18 1-7,15-21 JAN,MAR,MAY,JUL MON-FRI" tz=Australia/Lord_Howe; return 204; }
CONF
    http => <<"CONF",
    server {
        listen unix:$unix;
        location / { timer_api write=on; }
    }
CONF
);
$nginx->start;
my $page = "http://127.0.0.1:$port/status/";

sub answer { return JSON::PP::decode_json( $nginx->get('/status/timers')->{body} ) }
sub timer  { my ($name) = @_; return ( grep { $_->{name} eq $name } @{ answer()->{timers} } )[0] }

sub act {
    my ( $name, $what ) = @_;
    return $nginx->get( "/status/timers/$name/$what", method => 'POST' )->{status};
}

sub epoch {
    my ( $year, $month, @rest ) = $_[0] =~ /\A(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)/;
    return timegm( reverse( @rest ), $month - 1, $year );
}

sub part { my ( $name, $what ) = @_; return qq{[data-timer="$name"] [data-c=$what]} }

sub width {
    my ( $width, $height ) = @_;
    $browser->cdp( 'Emulation.setDeviceMetricsOverride', width => $width, height => $height, deviceScaleFactor => 1,
        mobile => $width < 600 ? $true : $false );
    return;
}

# An order that is carried out, and seen to be.
my $ordered = 0;

sub works {
    my ($where) = @_;
    $browser->shows( 5, "$where: it shows the timers" );
    $browser->press_button( part( 'hourly', 'run' ) );
    $browser->says( qr/hourly: run ordered\./, "$where: and runs them" );
    $nginx->wait_log( qr/timer "hourly": run succeeded/, ++$ordered );
    $browser->clean_console($where);
    return;
}

# Where it is served.
{
    # fetch() refuses an address that holds a name and a password, as the page's own then does.
    $browser->go("http://ops:secret\@127.0.0.1:$port/secret/");
    works('name and password in the address');

    $browser->go("http://127.0.0.1:$port/behind/a/proxy/");
    works('under another prefix');

    # As "ssh -L" does.
    my $here = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => free_port(), Listen => 16, ReuseAddr => 1 ) or die "listen: $!";
    my $forwarder = fork // die "fork: $!";
    if ( !$forwarder ) { forward($here); POSIX::_exit(0) }
    $browser->go( 'http://localhost:' . $here->sockport . '/' );
    works('a unix socket, forwarded');
    $browser->go('about:blank');
    kill 'KILL', $forwarder;
    waitpid $forwarder, 0;

    lacks( $nginx->log, qr/favicon/, 'it asks for nothing else' );
}

sub forward {
    my ($here) = @_;
    my ( $select, %peer ) = IO::Select->new($here);
    while ( my @ready = $select->can_read ) {
        for my $socket (@ready) {
            if ( $socket == $here ) {
                my $client = $here->accept                        or next;
                my $server = IO::Socket::UNIX->new( Peer => $unix ) or next;
                @peer{ $client, $server } = ( $server, $client );
                $select->add( $client, $server );
                next;
            }
            my $peer = $peer{$socket} or next;
            my $data;
            next if sysread( $socket, $data, 65536 ) && syswrite $peer, $data;
            delete @peer{ $socket, $peer };
            $select->remove( $socket, $peer );
            close $_ for $socket, $peer;
        }
    }
    return;
}

# Zones, and a clock that is wrong.
{
    my $clock = $browser->cdp( 'Page.addScriptToEvaluateOnNewDocument',
        source => '{ const right = Date.now; Date.now = () => right() - 3725000; }' );
    $browser->cdp( 'Emulation.setTimezoneOverride', timezoneId => 'Asia/Dubai' );
    $browser->go($page);
    $browser->shows( 5, 'zones: all are there' );
    $browser->tells( 'zone', qr{^Times in Asia/Dubai \(UTC\+4\)}, 'it says which zone its times are of' );
    $browser->tells( 'skew', qr/^This browser's clock is 62\xa0min behind the server's/, 'and that the clock of this browser is wrong' );

    # By the server's clock: less than an hour is left of every=1h, as the server has it.
    my $answer = answer();
    my ($hourly) = grep { $_->{name} eq 'hourly' } @{ $answer->{timers} };
    my $left = epoch( $hourly->{next_due} ) - epoch( $answer->{now} );
    my $shown = sub {
        my ( $n, $unit, $s ) = $browser->text_of( 'hourly', 'next' ) =~ /^in (\d+)\xa0(min|s)(?: (\d+)\xa0s)?$/ or return -1e9;
        return $unit eq 's' ? $n : $n * 60 + ( $s // 0 );
    };
    ok( wait_until { abs( $shown->() - $left ) < 90 * $TimerTest::SLOW }, 'what is left is by the clock of the server' )
        or diag $browser->text_of( 'hourly', 'next' ), " $left";

    my $due = epoch( $hourly->{next_due} );
    my $at  = sub { my ($ahead) = @_; return strftime( '%H:%M', gmtime $due + $ahead ) };
    $browser->reads( 'hourly', nextAt => qr/@{[ $at->(14400) ]}/, 'the time in the zone of the browser' );
    $browser->click('#zone button');
    $browser->reads( 'hourly', nextAt => qr/@{[ $at->(0) ]}/, 'and in UTC, if asked for' );
    $browser->tells( 'zone', qr/^Times in UTC/, 'which it says' );
    $browser->go( $page . '#tz=utc&q=hourly' );
    $browser->js('location.reload()');
    $browser->shows( 1, 'the address remembers the search' );
    $browser->tells( 'zone', qr/^Times in UTC/, 'and the zone' );

    $browser->cdp( 'Page.removeScriptToEvaluateOnNewDocument', identifier => $clock->{identifier} );
    $browser->cdp( 'Emulation.setTimezoneOverride', timezoneId => 'UTC' );
    $browser->go('about:blank');
    $browser->go($page);
    $browser->shows( 5, 'UTC: all are there' );
    $browser->tells( 'zone', qr/^Times in UTC/, 'a browser in UTC' );
    ok( $browser->js('return document.querySelector("#zone button").hidden'),       'has no choice' );
    ok( $browser->wait_js('return document.getElementById("skew").hidden === true'), 'nor a wrong clock' );
}

# Two clicks are one order.
{
    my $count = sub { my ($what) = @_; return scalar $nginx->log_lines(qr/timer "often": $what/) };

    # The second one in the very moment in which the button has become Resume.
    my $label = $browser->js( <<'JS', part( 'often', 'pause' ) );
        const button = document.querySelector(arguments[0]);
        button.click();
        button.click();
        return new Promise(done => {
            const watch = setInterval(() => {
                if (button.textContent !== 'Resume') return;
                clearInterval(watch);
                button.click();
                done(button.textContent);
            }, 5);
        });
JS
    is( $label, 'Resume', 'a double click on Pause' );
    $browser->wait_js( 'return document.querySelector(arguments[0]).getAttribute("aria-busy") === null', part( 'often', 'pause' ) );
    $browser->press_button( part( 'often', 'pause' ) );
    $browser->reads( 'often', pause => qr/^Pause$/ );
    is( $count->('resumed'), 1, 'does not resume' );
    is( $count->('paused'),  1, 'and pauses once' );

    $browser->js( 'const b = document.querySelector(arguments[0]); b.click(); b.click();', part( 'hourly', 'run' ) );
    # Until it has ended, and the page has seen that: the fourth, with those of before.
    ok( $nginx->wait_log( qr/timer "hourly": run succeeded/, ++$ordered ), 'it has ended' );
    $browser->reads( 'hourly', runs => qr/^4$/ );
    $browser->wait_js( 'return document.querySelector(arguments[0]).getAttribute("aria-disabled") === "true"', part( 'hourly', 'cancel' ) );
    $browser->wait_js( 'return document.querySelector(arguments[0]).getAttribute("aria-busy") === null', part( 'hourly', 'run' ) );
    $browser->press_button( part( 'hourly', 'cancel' ) );
    $browser->says( qr/hourly is not running\./, 'a double click on Run' );
    is( scalar $nginx->log_lines(qr/timer "hourly": run by hand/), 4, 'runs it once' );

    my $held = $browser->js( <<'JS', part( 'hourly', 'run' ) );
        const event = new KeyboardEvent('keydown', { key: 'Enter', repeat: true, bubbles: true, cancelable: true });
        document.querySelector(arguments[0]).dispatchEvent(event);
        return event.defaultPrevented;
JS
    ok( $held, 'a key that is held down is one order' );
}

# Orders that fail are seen to.
{
    $browser->go("http://127.0.0.1:$port/forbidden/");
    $browser->shows( 5, 'forbidden: all are there' );
    $browser->press_button( part( 'hourly', 'pause' ) );
    $browser->says( qr/hourly: pause was refused: the server answers 403/, 'an answer that is not of the module' );

    # What the page takes for idle runs.
    spew( $nginx->prefix . '/old/timers', JSON::PP::encode_json( answer() ) ) if mkdir $nginx->prefix . '/old';
    $browser->go("http://127.0.0.1:$port/old/");
    $browser->shows( 5, 'old: all are there' );
    is( act( 'hang', 'run' ), 202, 'something runs' );
    wait_until { timer('hang')->{status} eq 'running' };
    $browser->press_button( part( 'hang', 'run' ) );
    $browser->says( qr/hang: run was refused: a run is in progress/, '409 is told of' );
    is( act( 'hang', 'cancel' ), 202, 'it is cancelled' );

    $browser->go($page);
    $browser->shows( 5, 'offline: all are there' );
    $browser->reads( 'often', next => qr/^(?:in|now)/ );
    my $offline = sub {
        $browser->cdp( 'Network.emulateNetworkConditions', offline => shift, latency => 0, downloadThroughput => -1, uploadThroughput => -1 );
    };
    $browser->cdp('Network.enable');
    $offline->($true);
    $browser->press_button( part( 'hourly', 'pause' ) );
    $browser->says( qr/hourly: pause: no connection; it may have been taken all the same/, 'no answer is no refusal' );
    $browser->tells( 'linkText', qr/^connection lost$/, 'and the connection is lost' );
    like( $browser->js('return document.title'), qr/^connection lost · Timers on /, 'as the title says' );
    like( $browser->text('lost'), qr/^Connection lost \(no connection\)\. What is shown is of @{[ $browser->MOMENT ]}\./, 'and of when it is what is shown' );

    # Time stands still: what was due meanwhile is not known to be late.
    my $shown = $browser->js( <<'JS', part( 'often', 'next' ) );
        const node = document.querySelector(arguments[0]), texts = new Set();
        return new Promise(done => {
            const watch = setInterval(() => texts.add(node.textContent), 100);
            setTimeout(() => { clearInterval(watch); done([...texts].join(' ')); }, 7000);
        });
JS
    lacks( $shown, qr/ago|due/, 'nothing is called late that may have run' );
    ok( $browser->js('return !/NaN|Infinity/.test(document.body.innerText)'), 'and nothing is no number' );
    $offline->($false);
    $browser->tells( 'linkText', qr/^live$/, 'it comes back by itself' );
    ok( !$browser->js('return /lost/.test(document.title)'), 'and so does the title' );
    $browser->console;
}

# A slow answer: one request waits, and the page says so.
{
    my $asked = 0;
    my $taken = sub { while ( my $client = $silent->{socket}->accept ) { $asked++; push @{ $silent->{clients} }, $client } return $asked };
    $browser->go("http://127.0.0.1:$port/slow/");
    $browser->tells( 'linkText', qr/^waiting for an answer$/, 'it waits' );
    $browser->js('for (let i = 0; i < 20; i++) dispatchEvent(new Event("online"))');
    $browser->tells( 'lost', qr/^No connection \(no answer in time\)\./, 'not for ever' );
    is( $browser->text('linkText'), 'no connection', 'nothing is shown that could be of any time' );
    cmp_ok( $taken->(), '<=', 2, 'requests do not pile up' );
    cmp_ok( $asked, '>=', 1, 'there was one' );
    $browser->go('about:blank');
    $browser->console;
}

# What failed to come is asked for again, and one that runs is failing none the less.
{
    wait_until { timer('hang')->{status} eq 'idle' };
    # Its upstream takes what has been waiting, and goes away without a word.
    for my $count ( 1 .. 3 ) {
        is( act( 'hang', 'run' ), 202, "failure $count" );
        wait_until {
            my $client = $backend->{socket}->accept;
            close $client if $client;
            timer('hang')->{consecutive_failures} == $count;
        };
    }
    $browser->cdp( 'Network.setBlockedURLs', urls => ['*/timers/hang'] );
    $browser->go($page);
    $browser->shows( 5, 'failing: all are there' );
    my $rough = 'return document.querySelector("[data-timer=hang] .strip").classList.contains("rough")';
    ok( $browser->wait_js($rough), 'a history that did not come' );
    $browser->cdp( 'Network.setBlockedURLs', urls => [] );
    ok( wait_until { !$browser->js($rough) }, 'comes later' );

    $browser->reads( 'hang', word => qr/^failing$/ );
    is( act( 'hang', 'run' ), 202, 'it runs once more' );
    $browser->reads( 'hang', word => qr/^running$/ );
    $browser->click('[data-show=failing]');
    $browser->shows( 1, 'one that is running is failing none the less' );
    ok( wait_until { $browser->js('return document.title') =~ /^\(1\) / }, 'and is counted' );
    $browser->tells( 'found', qr/^1 of 5 timers$/, 'how many are shown is said' );
    $browser->press("\x{E00C}");
    $browser->shows( 5, 'Escape' );
    is( act( 'hang', 'cancel' ), 202, 'it is cancelled' );

    # Its due time has passed, its start has not come yet: not late.
    my $old = answer();
    for my $timer ( @{ $old->{timers} } ) {
        $timer->{next_due} = strftime( '%Y-%m-%dT%H:%M:%S.000Z', gmtime epoch( $old->{now} ) - 3600 ) if $timer->{name} eq 'spread';
    }
    spew( $nginx->prefix . '/old/timers', JSON::PP::encode_json($old) );
    $browser->go("http://127.0.0.1:$port/old/");
    $browser->reads( 'spread', next => qr/^due$/, 'what waits for its jitter is not late' );
    $browser->click( part( 'spread', 'open' ) );
    like( $browser->js('return document.querySelector("[data-timer=spread] .more").textContent'), qr/Next due\w+ \d+ \w+, [\d:]+ \(due\)/, 'nor in its details' );
    $browser->console;

    # A time is written as near as it is.
    my %due = ( hourly => '2027-03-09T23:50:00', hang => '2027-03-10T00:20:00', often => '2027-07-01T12:00:00', spread => '2027-12-31T12:00:00' );
    $old->{now} = '2027-03-09T23:40:00.000Z';
    $_->{next_due} = "$due{ $_->{name} }.000Z" for grep { $due{ $_->{name} } } @{ $old->{timers} };
    spew( $nginx->prefix . '/old/timers', JSON::PP::encode_json($old) );
    $browser->go('about:blank');
    $browser->go("http://127.0.0.1:$port/old/");
    $browser->reads( 'hourly', nextAt => qr/^23:50:00$/,      'later today' );

    # What the location answered to the run that failed last is text, too.
    spew( $nginx->prefix . '/hang.json', JSON::PP::encode_json( { %{ JSON::PP::decode_json( $nginx->get('/status/timers/hang')->{body} ) }, response => "<b>no</b> room\nleft" } ) );
    $browser->click( part( 'hang', 'open' ) );
    my $failure = 'return document.querySelector("[data-timer=hang] .failure:not([hidden])")?.textContent';
    ok( wait_until { ( $browser->js($failure) // '' ) =~ m{^Failure, status 502, after .*<b>no</b> room\nleft$} }, 'details tell why the last run failed' )
        or diag $browser->js($failure);
    $browser->reads( 'hang',   nextAt => qr/^10 Mar, 00:20$/, 'soon, but tomorrow' );
    $browser->reads( 'often',  nextAt => qr/^1 Jul, 12:00$/,  'in this half of a year' );
    $browser->reads( 'spread', nextAt => qr/^31 Dec 2027$/,   'later' );
    $browser->console;
}

# That it can be read, and hit; in light and dark, at rest and without connection.
{
    my $faults = <<'JS';
        const numbers = colour => colour.match(/[\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
        const behind = node => {
            for (; node; node = node.parentElement) {
                const colour = numbers(getComputedStyle(node).backgroundColor);
                if (colour.length === 3 || colour[3] === 1) return colour;
            }
            return [255, 255, 255];
        };
        const faults = [], visible = node => node.checkVisibility() && !node.closest('.aside, [aria-disabled=true]');
        for (const node of document.querySelectorAll('#app *')) {
            if (!visible(node)) continue;
            const said = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
            if (said) {
                const [one, other] = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
                const contrast = (one + .05) / (other + .05);
                let opacity = 1;
                for (let up = node; up; up = up.parentElement) opacity *= getComputedStyle(up).opacity;
                if (contrast < 4.5 || opacity < 1) faults.push(`${node.tagName}.${node.className} "${node.textContent}": contrast ${contrast.toFixed(2)}, opacity ${opacity}`);
            }
            if (node.matches('button, a, input, select')) {
                const { width, height } = node.getBoundingClientRect();
                if (height < 24 || width < 20) faults.push(`${node.tagName} "${node.textContent}": ${width} x ${height}`);
            }
            const { left, right } = node.getBoundingClientRect();
            if ((left < -1 || right > innerWidth + 1) && !node.closest('#chips, .scroll')) faults.push(`${node.tagName}.${node.className} sticks out`);
        }
        if (document.documentElement.scrollWidth > innerWidth) faults.push('the page is wider than the window');
        return [...new Set(faults)];
JS
    my $whole = sub {
        my ($what) = @_;
        my @faults = @{ $browser->js($faults) };
        ok( !@faults, "it can be read and hit: $what" ) or diag map {"$_\n"} @faults;
    };
    my $colours = sub {
        my ($scheme) = @_;
        $browser->cdp( 'Emulation.setEmulatedMedia', features => [ { name => 'prefers-color-scheme', value => $scheme }, { name => 'prefers-reduced-motion', value => 'reduce' } ] );
    };

    $browser->go($page);
    $browser->shows( 5, 'reading: all are there' );
    $browser->click( part( 'hang', 'open' ) );
    ok( $browser->wait_js('return document.querySelectorAll("[data-timer=hang] .past tbody tr").length > 2'), 'details are open' );
    is( act( $long, 'pause' ), 200, 'one is paused' );
    $browser->reads( $long, word => qr/^paused$/ );
    is( $browser->text_of( $long, 'name' ), $long, 'a name of 127 characters' );
    for my $scheme (qw( light dark )) {
        $colours->($scheme);
        for ( [ 1280, 900 ], [ 1000, 700 ], [ 720, 450 ], [ 360, 740 ], [ 320, 640 ] ) {
            width(@$_);
            $whole->("$scheme, $_->[0] wide");
        }
        width( 1280, 900 );
    }

    # The state file is damaged, and what all timers do is paused.
    $browser->go('about:blank');
    $nginx->stop;
    truncate $nginx->prefix . '/timers.state', 100 or die "truncate: $!";
    $nginx->start;
    is( $nginx->get( '/status/pause', method => 'POST' )->{status}, 200, 'all are paused' );
    $browser->go($page);
    $browser->tells( 'state',     qr/^The state file was damaged and has been replaced/, 'the page says that the state is recovered' );
    $browser->tells( 'allPaused', qr/^All timers are paused since @{[ $browser->moment( answer()->{paused}{since} ) ]}\.$/, 'and that all are paused' );
    my $static = $nginx->get( '/status/', headers => "Accept: text/html\r\n" )->{body};
    like( $static, qr{<noscript>.*<p>all timers are paused since .*<p>the state is recovered</p>.*<table}s, 'without scripts, too' );
    is( $nginx->stop, 0, 'it ends' );
    $browser->tells( 'linkText', qr/^connection lost$/, 'the connection is lost' );
    for my $scheme (qw( light dark )) {
        $colours->($scheme);
        for ( [ 1280, 900 ], [ 360, 740 ] ) { width(@$_); $whole->("without connection, $scheme, $_->[0] wide") }
    }
}

$browser->stop;
done_testing();
