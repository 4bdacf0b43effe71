#!/usr/bin/perl

# The page, in a real browser: what it shows, what its buttons do, that nothing in it is taken for
# markup, that its policy holds, and that a thousand timers are no burden.
#
# TEST_NGINX_SCREENSHOTS=DIR leaves pictures there.

use strict;
use utf8;
use warnings;

use Digest::SHA qw( sha256_base64 );
use IO::Socket::INET ();
use JSON::PP ();
use POSIX    qw( strftime );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Beat;
use TimerTest::Nginx;
use TimerTest::Page;

TimerTest::Page->available or plan skip_all => 'chromium and chromedriver are not installed';

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw( output failure_output todo_output );

my ( $true, $false ) = ( JSON::PP::true, JSON::PP::false );
my $browser = TimerTest::Page->start( width => 1280, height => 900 );
my $html    = "Accept: text/html,*/*;q=0.8\r\n";
$browser->cdp( 'Emulation.setTimezoneOverride', timezoneId => 'UTC' );

sub picture {
    my ($name) = @_;
    $browser->screenshot("$ENV{TEST_NGINX_SCREENSHOTS}/$name.png") if $ENV{TEST_NGINX_SCREENSHOTS};
    return;
}

# A browser opens connections in advance; a worker that is leaving waits for their first request.
my $prompt = 'worker_shutdown_timeout 1s;';
my $nginx  = TimerTest::Nginx->new(
    workers => 2,
    main    => $prompt,
    server  => <<'CONF',
        location /status/ { timer_api write=on; }
        location /look { timer_api; }
        location @sound { timer sound every=400ms offset=0 uri=/tick; return 204; }
        location @bad { timer bad every=300ms uri=/bad; return 503; }
        location @off { timer off every=1h enabled=off; return 204; }
        location @slow { timer slow every=1h offset=%HALF% uri=/slow; timer_timeout 60s; proxy_pass http://127.0.0.1:%BACKEND%; }
        location @night { timer night "cron=30 3 * * MON-FRI" tz=Europe/Berlin; return 204; }
CONF
    http => <<'CONF',
    server {
        listen 127.0.0.1:%OTHER%;
        server_name "<img/src=x/onerror=hacked=1>";
        location /<b>bold</b>/ { timer odd.server.with.a.name.of.many.parts every=1h uri=/<b>bold</b>/; return 204; }
        location /"'&</script><script>hacked=2</script>/ { timer odd.location every=1h; return 204; }
    }
CONF
);

# Due in half an hour, at whatever minute this is run.
my $half = ( time + 1800 ) % 3600 . 's';

# The upstream of "slow" takes connections and says nothing.
my $backend = free_port();
my $other   = free_port();
{
    my %change = map { $_ => $nginx->{$_} } qw( server http );
    s/%BACKEND%/$backend/g, s/%OTHER%/$other/g, s/%HALF%/$half/g for values %change;
    $nginx->write_conf(%change);
}
my $silent = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => $backend, Listen => 16, ReuseAddr => 1 )
    or die "listen: $!";
$nginx->start;
my $page = 'http://127.0.0.1:' . $nginx->port . '/status/';

# An instant as the API has it, so many seconds from now.
sub gmtime_in { my ($seconds) = @_; return strftime( '%Y-%m-%dT%H:%M:%S.000Z', gmtime time + $seconds ) }

# The same in details, in a browser whose zone is UTC.
sub full_moment {
    my ($instant) = @_;
    my ( $year, $month, $day, $clock ) = $instant =~ /\A(\d+)-(\d\d)-(\d\d)T(\d\d:\d\d:\d\d)/;
    my $name = (qw( Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec ))[ $month - 1 ];
    return strftime( '%a', 0, 0, 0, $day, $month - 1, $year - 1900 ) . ' ' . ( $day + 0 ) . " $name, $clock";
}

sub timer { my ($name) = @_; return JSON::PP::decode_json( $nginx->get("/status/timers/$name")->{body} ) }

# The headers, and that the policy's hashes are those of what is sent.
{
    my $answer = $nginx->get( '/status/', headers => $html );
    is( $answer->{status}, 200, 'the page is there' );
    like( $answer->{headers}, qr{^Content-Type: text/html; charset=utf-8\r?$}mi, 'as HTML' );
    like( $answer->{headers}, qr{^Cache-Control: no-store\r?$}mi,                'not to be stored' );
    like( $answer->{headers}, qr{^X-Content-Type-Options: nosniff\r?$}mi,        'not to be sniffed' );

    my ($policy) = $answer->{headers} =~ m{^Content-Security-Policy: ([^\r\n]*)}mi;
    my %source = map { split / /, $_, 2 } split /; /, $policy // '';
    for my $name (qw( script style )) {
        my @elements = $answer->{body} =~ m{<$name>(.*?)</$name>}gs;
        is( scalar @elements, 1, "one $name" );
        is( $source{"$name-src"}, "'sha256-" . sha256_base64( $elements[0] ) . "='", "its hash is the policy's" );
    }
    is( $source{$_}, "'none'", "policy: $_" ) for qw( default-src frame-ancestors base-uri form-action );
    is( $source{'connect-src'}, "'self'", 'policy: connect-src' );
    is( scalar keys %source, 7, 'policy: no more than that' );

    lacks( $nginx->get('/status/')->{body}, qr/<html/, 'who does not ask for HTML gets none' );
    is( length $nginx->get( '/status/', method => 'HEAD', headers => $html )->{body}, 0, 'HEAD has no body' );
}

# What it shows.
{
    $browser->go($page);
    $browser->shows( 7, 'a row for each timer' );
    $browser->reads( 'sound', word     => qr/^(?:idle|running)$/ );
    $browser->reads( 'sound', schedule => qr/^every=400ms/ );
    $browser->reads( 'sound', last     => qr/^204 · \d+\xa0ms$/ );
    $browser->reads( 'sound', next     => qr/^(?:in \d+\xa0s|now)$/ );
    $browser->reads( 'sound', where    => qr/^localhost \@sound$/ );
    $browser->reads( 'bad',   word     => qr/^(?:failing|running)$/, 'three failures in a row are failing' );
    $browser->reads( 'bad',   last     => qr/^503 · / );
    $browser->reads( 'bad',   why      => qr/^\d+ in a row$/ );
    $browser->reads( 'bad',   wrong    => qr/^\d+\xa0failed/ );
    $browser->reads( 'off',   word     => qr/^disabled$/ );
    $browser->reads( 'off',   last     => qr/^never$/ );
    $browser->reads( 'night', schedule => qr/^cron=30 3 \* \* MON-FRI/ );
    $browser->reads( 'night', zone     => qr{^Europe/Berlin$} );
    $browser->reads( 'night', nextAt   => qr/^@{[ $browser->moment( timer('night')->{next_due} ) ]}$/ );

    my $runs = $browser->text_of( 'sound', 'runs' );
    ok( wait_until { $browser->text_of( 'sound', 'runs' ) ne $runs }, 'it keeps itself up to date' );
    ok( $browser->wait_js(
            'return !document.querySelector(`[data-timer=sound] .strip`).classList.contains("rough")'
                . ' && document.querySelector(`[data-timer=bad] .strip [data-outcome=F]`) !== null'
        ),
        'the strip knows durations, and failures by their shape'
    );
    like(
        $browser->js('return document.querySelector(`[data-timer=bad] .strip`).getAttribute("aria-label")'),
        qr/^Last \d+ runs: \d+ failure$/, 'and says so in words'
    );
    ok( wait_until { $browser->js('return document.title') =~ /^\([1-9]\) Timers on / }, 'the title tells of trouble' );
    $browser->tells( 'linkText', qr/^live$/, 'it is live' );
    $browser->tells( 'sum', qr/^1 needs attention\.$/, 'one sentence tells how all are' );
    picture('desktop');
    $browser->clean_console('at rest');
}

# The last and the next 24 hours.
{
    my $off = timer('night')->{next}[0] lt gmtime_in(86_400) ? 6 : 5;
    $browser->tells( 'ran',    qr/^Last 24 hours: 2 timers ran, 1 failed at least once$/, 'the strip: what ran' );
    $browser->tells( 'toCome', qr/^Next 24 hours: $off timers due$/,                      'what is due' );
    $browser->tells( 'often',  qr/^Thin line: 2 timers due more than 32 times a day$/,     'what is due often is a line' );
    my $strip = sub {
        my ($what) = @_;
        return $browser->js("const svg = document.querySelector('#day svg'); return !!($what)");
    };
    ok( $strip->('svg.querySelector("[data-outcome=S]") && svg.querySelector("[data-outcome=F]")'), 'outcomes have their colours' );
    ok( $strip->('svg.querySelector(".due").getAttribute("d").split("z").length > 40'), 'what is due is an outline, in each hour of three timers' );
    ok( $strip->('Math.abs(svg.querySelector(".now").getAttribute("x") - svg.clientWidth / 2) < 1'), 'now is in the middle' );
    like( $browser->js('return document.querySelector("#day svg").getAttribute("aria-label")'), qr/^Last 24 hours: 2 .*\. Next 24 hours: $off /, 'and it says so in words' );
    my $tip = $browser->js(<<'JS');
        const svg = document.querySelector('#day svg'), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + box.width / 2 - 1, bubbles: true }));
        return document.getElementById('tip').textContent;
JS
    my $now = qr/^\w+ \d+ \w+, \d\d:[03]0 to \d\d:[03]0\nfailure: bad\nsuccess: sound\b/;
    like( $tip, $now, 'the pointer is told which timers' );
    $browser->js('document.querySelector("#day svg").focus()');
    $browser->press("\x{E012}");
    $browser->tells( 'tip',   $now, 'and so is the keyboard' );
    $browser->tells( 'found', $now, 'and who listens' );
    $browser->press("\x{E014}") for 1 .. 2;
    $browser->tells( 'found', qr/^\w+ \d+ \w+, \d\d:[03]0 to \d\d:[03]0\ndue: /, 'on to what is due' );
    $browser->js('document.activeElement.blur()');
    ok( $browser->js('return document.getElementById("tip").hidden'), 'until it leaves' );
}

# Markup is text, wherever it stands.
{
    like( $browser->text_of( 'odd.server.with.a.name.of.many.parts', 'where' ), qr{^<img/src=x/onerror=hacked=1> /<b>bold</b>/$}, 'a server with markup' );
    like( $browser->text_of( 'odd.location', 'where' ), qr{/"'&</script><script>hacked=2</script>/$},    'a location with markup' );
    ok( !$browser->js('return document.querySelector("#app img, #app table script, #app b b") !== null'), 'no element of it' );
    ok( !$browser->js('return "hacked" in window'),                                              'and nothing of it was run' );

    my $body;
    ok( wait_until { $body = $nginx->get( '/status/', headers => $html )->{body}; $body =~ m{^<tr><th scope="row">bad<td>failing<td>(?:idle|running)<td>}m },
        'rows without scripts tell which one fails' );
    lacks( $body, qr/hacked=/, 'and do not hold it' );
    my ($static) = $body =~ m{<tbody>\n(.*?)</tbody>}s;
    my @names = $static =~ m{<tr><th scope="row">([^<]*)<td>}g;
    is( "@{[ sort @names ]}", 'bad night odd.location odd.server.with.a.name.of.many.parts off slow sound', 'they hold the timers' );
}

# The policy holds.
{
    my $violated = $browser->js(<<'JS');
        window.violated = [];
        addEventListener('securitypolicyviolation', event => violated.push(event.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = 'window.injected = 1';
        document.body.append(script);
        const div = document.createElement('div');
        div.innerHTML = '<p style="color: red" onclick="injected = 1">x</p><img src="/x" onerror="injected = 1">'
            + '<form action="/status/timers/sound/run" method="post"></form><iframe src="/ready"></iframe>'
            + '<base href="http://127.0.0.1:1/">';
        document.body.append(div);
        div.querySelector('p').click();
        div.querySelector('form').submit();
        window.asked = fetch('http://127.0.0.1:1/').then(() => 'answered', () => 'refused');
JS
    my %wanted = map { $_ => 1 }
        qw( script-src-elem script-src-attr style-src-attr img-src frame-src base-uri form-action connect-src );
    my $missing = sub {
        my %seen = map { $_ => 1 } @{ $browser->js('return violated') };
        return join ' ', grep { !$seen{$_} } sort keys %wanted;
    };
    ok( wait_until { $missing->() eq '' }, 'what is injected is refused' ) or diag 'not refused: ' . $missing->();
    ok( !$browser->js('return "injected" in window'), 'and does nothing' );
    is( $browser->js('return location.pathname'), '/status/', 'the page stays' );

    # As a page of another origin has it.
    $browser->go( "http://127.0.0.1:" . $nginx->port . '/ready' );
    my $framed = $browser->js( <<'JS', $page );
        const frame = document.createElement('iframe');
        document.body.append(frame);
        return new Promise(done => {
            frame.onload = () => { try { done(frame.contentDocument ? frame.contentDocument.title : ''); } catch { done(''); } };
            frame.src = arguments[0];
        });
JS
    isnt( $framed, 'Timers', 'it cannot be framed' );
    $browser->console;
}

# The buttons.
{
    $browser->go($page);
    $browser->shows( 7, 'all are there' );
    my $part = sub { my ( $name, $what ) = @_; return qq{[data-timer="$name"] [data-c=$what]} };

    $browser->press_button( $part->( 'slow', 'run' ) );
    $browser->says( qr/slow: run ordered\. \(run [0-9a-f]{8}\)/, 'Run has a visible answer' );
    $browser->reads( 'slow', word => qr/^running$/ );
    $browser->reads( 'slow', why  => qr/^\d+\xa0s of 60\xa0s$/, 'how long it has been running' );
    is( $browser->js( 'return document.querySelector(arguments[0]).getAttribute("aria-disabled")', $part->( 'slow', 'run' ) ),
        'true', 'it cannot be run twice' );
    $browser->press_button( $part->( 'slow', 'run' ) );
    $browser->says( qr/slow is running\./, 'who tries is told why' );

    $browser->press_button( $part->( 'slow', 'cancel' ) );
    $browser->says( qr/slow: cancel ordered\./, 'Cancel' );
    $browser->reads( 'slow', last => qr/^cancelled · / );
    $browser->reads( 'slow', lastAt => qr/ago, manual$/, 'by hand' );
    ok( $browser->wait_js('return document.querySelector("#day [data-outcome=C]") !== null'), 'the strip of 24 hours has it at once' );
    ok( $nginx->wait_log(qr/timer "slow": cancelled/), 'the log has it' );

    $browser->press_button( $part->( 'sound', 'pause' ) );
    $browser->says( qr/sound: paused\./, 'Pause' );
    $browser->reads( 'sound', word  => qr/^paused$/ );
    $browser->reads( 'sound', pause => qr/^Resume$/ );
    $browser->reads( 'sound', next  => qr/^–$/ );
    $browser->press_button( $part->( 'sound', 'pause' ) );
    $browser->says( qr/sound: resumed\./, 'Resume' );
    $browser->reads( 'sound', pause => qr/^Pause$/ );
    $browser->reads( 'sound', word  => qr/^(?:idle|running)$/ );

    $browser->press_button( $part->( 'sound', 'open' ) );
    ok( $browser->wait_js('return document.querySelectorAll("[data-timer=sound] .past tbody tr").length > 3'), 'details: past runs' );
    like( $browser->js('return document.querySelector("[data-timer=sound] .more").textContent'), qr/nginx\.conf:\d+/, 'and where it is configured' );
    my $fact = 'const [name, word] = arguments; return ([...document.querySelectorAll(`[data-timer="${name}"] .more dt`)]'
        . '.find(node => node.textContent === word) || {}).nextSibling?.textContent';
    my %facts = (
        Method  => qr/^GET$/, URI => qr{^/tick$}, Timeout => qr/^60\xa0s$/, Retry => qr/^none$/, Overlap => qr/^skip$/, Missed => qr/^run, within 60\xa0min$/,
        Jitter  => qr/^none$/, 'Unhealthy after' => qr/^3 failures$/, Lateness => qr/^\S+\xa0m?s at the last run$/,
    );
    for my $word ( sort keys %facts ) {
        ok( wait_until { ( $browser->js( $fact, 'sound', $word ) // '' ) =~ $facts{$word} }, "details: $word" ) or diag $browser->js( $fact, 'sound', $word );
    }
    $browser->press_button( $part->( 'night', 'open' ) );
    my @due = map { full_moment($_) } @{ timer('night')->{next} };
    ok( wait_until { ( $browser->js( $fact, 'night', 'Then' ) // '' ) eq join "\n", @due[ 1 .. 4 ] }, 'details: the five next due times' )
        or diag $browser->js( $fact, 'night', 'Then' );
    like( $browser->js( $fact, 'night', 'Next due' ), qr/^\Q$due[0]\E \(in /, 'with the first' );
    $browser->press_button( $part->( 'night', 'open' ) );
    $browser->press_button('[data-timer=sound] [data-for="1h"]');
    $browser->says( qr/sound: paused for 1 hour\./, 'Pause for an hour' );
    $browser->reads( 'sound', why => qr/^until @{[ $browser->moment( timer('sound')->{paused}{until} ) ]}$/ );
    picture('details');

    $browser->press_button('[data-all=pause]');
    ok( !$browser->js('return document.getElementById("pauses").hidden'), 'Pause all asks for how long' );
    $browser->press_button('[data-all-for="8h"]');
    $browser->says( qr/All timers are paused for 8 hours\./, 'for 8 hours' );
    $browser->reads( 'bad', word => qr/^paused$/ );
    $browser->reads( 'bad', health => qr/^failing$/, 'what is failing is shown to be so while paused' );
    $browser->click('#says p:last-child button');
    $browser->reads( 'bad', word => qr/^(?:failing|running)$/, 'Undo' );
    $browser->press_button('[data-all=pause]');
    $browser->press_button('[data-all-for=""]');
    $browser->says( qr/All timers are paused until resumed\./, 'Pause all' );
    $browser->reads( 'bad', word => qr/^paused$/ );
    ok( $browser->wait_js('return !document.getElementById("allPaused").hidden'), 'and the page says so' );
    $browser->press_button('[data-all=resume]');
    $browser->says( qr/All timers are resumed, but for 1 timer paused by name\./, 'Resume all' );
    $browser->reads( 'bad', word => qr/^(?:failing|running|idle)$/ );
    $browser->clean_console('after orders');
}

# Search, sorting, keyboard.
{
    my $shown = 'return [...document.querySelectorAll(".timer:not([hidden])")].map(row => row.dataset.timer).join(" ")';
    $browser->press('/');
    is( $browser->js('return document.activeElement.id'), 'search', '"/" goes to the search' );
    $browser->type( '#search', 'cron berlin' );
    is( $browser->js($shown), 'night', 'search: all words, anywhere' );
    is( $browser->text('narrowed'), '1 of 7', 'search: how many of how many' );
    is( $browser->js('return [...document.querySelectorAll(".chip:not([hidden])")].map(chip => chip.innerText.replace(/\s+/g, "")).join(" ")'),
        '1all 1idle', 'search: the chips count what is found' );
    $browser->tells( 'ran', qr/^Last 24 hours: 0 timers ran$/, 'search: and so does the strip of 24 hours' );
    $browser->type( '#search', ' nothing' );
    ok( !$browser->js('return document.getElementById("none").hidden'), 'search: none' );
    $browser->press("\x{E00C}");
    is( $browser->rows, 7, 'Escape shows all' );

    $browser->click('[data-sort=name] button');
    is( $browser->js($shown), 'bad night odd.location odd.server.with.a.name.of.many.parts off slow sound', 'sorted by name' );
    $browser->press("\x{E007}");
    is( $browser->js($shown), 'sound slow off odd.server.with.a.name.of.many.parts odd.location night bad', 'and back, by keyboard' );
    is( $browser->js('return document.querySelector("[data-sort=name]").getAttribute("aria-sort")'), 'descending', 'which is said' );

    # By server: those with trouble first, then by name; a server of which nothing is found is left out.
    my $grouped = 'return [...document.querySelectorAll(".timer:not([hidden]), .server:not([hidden])")]'
        . '.map(row => row.dataset.timer || row.querySelector("th").firstChild.data + ":").join(" ")';
    $browser->click('[data-sort=name] button');
    $browser->click('#byServer');
    my $of_odd = '<img/src=x/onerror=hacked=1>: odd.location odd.server.with.a.name.of.many.parts';
    is( $browser->js($grouped), "$of_odd localhost: bad night off slow sound", 'by server' );
    $browser->click('[data-sort=status] button');
    like( $browser->js($grouped), qr/^localhost: bad .* \Q$of_odd\E$/, 'the server with trouble first' );
    $browser->type( '#search', 'odd.location' );
    is( $browser->js($grouped), '<img/src=x/onerror=hacked=1>: odd.location', 'searched' );
    $browser->press("\x{E00C}");
    $browser->js('location.reload()');
    $browser->shows( 7, 'by server: all are there' );
    like( $browser->js($grouped), qr/^localhost: bad /, 'the address remembers it' );
    $browser->click('#byServer');
    unlike( $browser->js('return location.hash'), qr/by=/, 'and forgets it' );
    $browser->click('[data-sort=name] button');
    $browser->click('[data-sort=name] button');

    $browser->js('document.querySelector("[data-timer=slow] [data-c=run]").focus()');
    $browser->press("\x{E015}");
    is( $browser->js('return document.activeElement.closest(".timer").dataset.timer'), 'off', 'down: the next timer' );

    # What has the focus, is selected or scrolled to stays so while all else changes.
    $browser->js(<<'JS');
        const row = document.querySelector('[data-timer=sound]');
        document.querySelector('[data-timer=sound] [data-c=run]').focus({ preventScroll: true });
        getSelection().selectAllChildren(row.querySelector('[data-c=name]'));
        document.body.style.minHeight = '3000px';
        scrollTo(0, 111);
JS
    my $runs = $browser->text_of( 'bad', 'runs' );
    wait_until { $browser->text_of( 'bad', 'runs' ) ne $runs } for 1 .. 2;
    is( $browser->js('return document.activeElement.closest(".timer").dataset.timer + " " + getSelection() + " " + scrollY'),
        'sound sound 111', 'focus, selection and scroll are kept' );
    my ($hash) = $browser->js('return location.hash');
    like( $hash, qr/sort=-name/, 'the address remembers the order' );
}

# Read only, without the final slash.
{
    $browser->go( 'http://127.0.0.1:' . $nginx->port . '/look' );
    $browser->shows( 7, 'without the final slash' );
    is( $browser->js('return [...document.querySelectorAll("[data-act], [data-all]")].filter(button => button.checkVisibility()).length'),
        0, 'write=off: no buttons' );
    $browser->clean_console('write=off');
}

# Widths and colours.
{
    my ( $light, $dark ) = map {
        $browser->cdp( 'Emulation.setEmulatedMedia', features => [ { name => 'prefers-color-scheme', value => $_ } ] );
        $browser->js('return getComputedStyle(document.documentElement).backgroundColor');
    } qw( light dark );
    isnt( $light, $dark, 'dark mode' );
    $browser->cdp( 'Emulation.setEmulatedMedia', features => [ { name => 'prefers-reduced-motion', value => 'reduce' } ] );
    is( $browser->js('return document.getAnimations().length'), 0, 'reduced motion: nothing moves' );

    $browser->go($page);
    $browser->shows( 7, 'all are there' );
    my ( @wide, @broken );
    for ( my $width = 320; $width <= 1600; $width += 20 ) {
        $browser->cdp( 'Emulation.setDeviceMetricsOverride', width => $width, height => 900, deviceScaleFactor => 1, mobile => $false );
        my $out = $browser->js(<<'JS');
            const ends = [...document.querySelectorAll('.timer:not([hidden]) button')].map(button => button.getBoundingClientRect().right);
            const line = document.querySelector('.timers').getBoundingClientRect().right;
            return Math.max(document.documentElement.scrollWidth - innerWidth, Math.ceil(Math.max(...ends) - line));
JS
        push @wide, "$width: $out" if $out > 0;
        my $broken = $browser->js(<<'JS');
            const lines = node => { const range = document.createRange(); range.selectNodeContents(node); return range.getClientRects().length; };
            const pieces = [...document.querySelectorAll('.timer [data-c=name]')].flatMap(name => [...name.childNodes]).filter(node => node.nodeType === 3);
            const schedules = [...document.querySelectorAll('.timer [data-c=schedule]')].filter(node => node.scrollWidth > node.clientWidth || node.clientHeight > 26);
            return [...pieces.filter(node => lines(node) > 1), ...schedules].map(node => node.textContent);
JS
        push @broken, "$width: @$broken" if @$broken;
    }
    is( "@broken", '', 'schedules are on one line and whole, and names break at dots' );
    is( "@wide", '', 'no button is cut off, and nothing scrolls sideways, at 320 to 1600' );
    $browser->cdp( 'Emulation.setDeviceMetricsOverride', width => 360, height => 740, deviceScaleFactor => 1, mobile => $true );
    $browser->go($page);
    $browser->shows( 7, 'all are there' );
    ok( $browser->js('return document.documentElement.scrollWidth <= innerWidth'), 'phone: nothing sticks out' )
        or diag $browser->js('return document.documentElement.scrollWidth');
    picture('phone');
    my $visible = 'return [...document.querySelectorAll("[data-act]")].filter(button => button.checkVisibility()).map(button => button.dataset.act).join(" ")';
    is( $browser->js($visible), '', 'phone: no buttons but in the details' );
    my ( $x, $y ) = @{ $browser->js('const box = document.querySelector("[data-timer=off] [data-c=next]").getBoundingClientRect(); return [box.left + 2, box.top + 2]') };
    $browser->cdp( 'Input.dispatchMouseEvent', type => $_, x => $x, y => $y, button => 'left', clickCount => 1 ) for qw( mousePressed mouseReleased );
    ok( wait_until { $browser->js($visible) eq 'run cancel pause pause pause pause pause' }, 'phone: all of the line opens them' ) or diag $browser->js($visible);
    ok( $browser->js('return document.documentElement.scrollWidth <= innerWidth'), 'phone: nor does anything of the details stick out' );
    $browser->cdp( 'Emulation.setDeviceMetricsOverride', width => 1280, height => 900, deviceScaleFactor => 1, mobile => $false );
}

# Without scripts: a table.
{
    $browser->cdp( 'Emulation.setScriptExecutionDisabled', value => $true );
    $browser->go($page);
    my $tree  = $browser->cdp( 'Accessibility.getFullAXTree' )->{nodes};
    my @heads = map { $_->{name}{value} } grep { ( $_->{role}{value} // '' ) eq 'rowheader' } @$tree;
    is( "@{[ sort @heads ]}", 'bad night odd.location odd.server.with.a.name.of.many.parts off slow sound', 'without scripts: a table' );
    picture('no-script');
    $browser->cdp( 'Emulation.setScriptExecutionDisabled', value => $false );
}

# The connection is lost, and found again.
{
    $browser->go($page);
    $browser->shows( 7, 'all are there' );
    $nginx->stop;
    ok( $browser->wait_js('return document.getElementById("linkText").textContent == "connection lost"'), 'it says that the connection is lost' );
    is( $browser->rows, 7, 'what was known stays' );
    picture('lost');
    $nginx->start;
    # It may have come back by itself just now: then there is no button any more.
    my $live = 'return document.getElementById("linkText").textContent == "live"';
    eval { $browser->click('#lost button'); 1 } or $browser->js($live) or diag $@;
    ok( $browser->wait_js($live), 'Try now' );
    $browser->go('about:blank');
    $browser->console;
    $nginx->stop;
}

# A thousand timers. From the beginning of the navigation until what is in view has been painted; one
# second on a machine that has nothing else to do, and three times that where others run beside it.
{
    my $locations = join '', map {
        my $every = 1 + $_ % 60;
        my $name = $_ <= 300 ? 'few' : 't';
        "location \@$name$_ { timer task-$_ every=${every}s uri=/x; return 204; }\n"
    } 1 .. 1000;
    my $many = TimerTest::Nginx->new(
        workers => 2,
        main    => $prompt,
        server  => "timer_worker auto; location /status { timer_api write=on; }\n$locations",
    );
    $many->start;

    my $best;
    for ( 1 .. 3 ) {
        $browser->go('about:blank');
        $browser->go( 'http://127.0.0.1:' . $many->port . '/status' );
        $browser->wait_js('return performance.getEntriesByName("timers shown").length == 1');
        my $time = $browser->js('return performance.getEntriesByName("timers shown")[0].startTime');
        $best = $time if !defined $best || $time < $best;
    }
    cmp_ok( $best, '<', 3000 * $TimerTest::SLOW, sprintf '1,000 timers: shown after %d ms', $best );

    $browser->shows( 1000, '1,000 timers: all rows' );
    my $beat   = TimerTest::Beat->start;
    my $began  = time;
    my $search = $browser->js(<<'JS');
        const began = performance.now(), search = document.getElementById('search');
        search.value = 'task-77';
        search.dispatchEvent(new Event('input'));
        document.body.getBoundingClientRect();
        return performance.now() - began;
JS
    cmp_ok( $search - 1000 * $beat->still( $began, time ), '<', 500 * $TimerTest::SLOW, sprintf '1,000 timers: searched in %d ms', $search );
    is( $browser->js('return document.querySelectorAll(".timer:not([hidden])").length'), 11, '1,000 timers: found' );
    $browser->press("\x{E00C}");

    $began = time;
    my $longest = $browser->js(<<'JS');
        return new Promise(done => {
            let longest = 0;
            new PerformanceObserver(list => {
                for (const task of list.getEntries()) longest = Math.max(longest, task.duration);
            }).observe({ type: 'longtask' });
            setTimeout(() => done(longest), 5000);
        });
JS
    cmp_ok( $longest - 1000 * $beat->still( $began, time ), '<', 1000 * $TimerTest::SLOW, sprintf '1,000 timers: no task is longer than %d ms', $longest );
    picture('thousand');

    # All of them laid out, not only those in sight.
    $browser->cdp( 'Emulation.setDeviceMetricsOverride', width => 390, height => 844, deviceScaleFactor => 1, mobile => $true );
    $browser->type( '#search', 'few' );
    is( $browser->text('narrowed'), '300 of 1,000', '300 timers on a phone' );
    my $high = $browser->js(<<'JS');
        for (const row of document.querySelectorAll('.timer')) row.style.contentVisibility = 'visible';
        return document.documentElement.scrollHeight;
JS
    cmp_ok( $high, '<=', 20 * 844, sprintf 'are %.1f screens', $high / 844 );
    $browser->cdp( 'Emulation.setDeviceMetricsOverride', width => 1280, height => 900, deviceScaleFactor => 1, mobile => $false );
    $browser->clean_console('1,000 timers');
    $many->stop;
}

$browser->stop;
done_testing();
