package TimerTest::Browser;

# A headless Chromium, steered by WebDriver (Debian: chromium, chromium-driver).
#
#     TimerTest::Browser->available or plan skip_all => 'no chromedriver';
#     my $browser = TimerTest::Browser->start( width => 1280, height => 900 );
#     $browser->go("http://127.0.0.1:$port/status/");
#     $browser->wait_js( 'return document.querySelectorAll(".timer").length == 3' );
#     $browser->click('[data-act=run]');
#
# It looks nothing up and talks to nobody but the page: no first run, no updates, an empty profile.

use strict;
use warnings;

use Carp qw( croak );
use File::Temp ();
use HTTP::Tiny ();
use JSON::PP ();
use MIME::Base64 qw( decode_base64 );
use TimerTest;

my $json = JSON::PP->new->utf8->allow_nonref;

sub _chromium { return program('chromium') // program('chromium-browser') }

sub available { return program('chromedriver') && _chromium() }

# Options: width, height, dark, still (prefers-reduced-motion).
sub start {
    my ( $class, %option ) = @_;

    # Not in /dev/shm, which Chromium uses itself and which may be small.
    my $profile = File::Temp->newdir( 'timer-test-browser-XXXXXXXX', TMPDIR => 1 );
    my $port    = free_port();
    my $self    = bless {
        profile => $profile,
        url     => "http://127.0.0.1:$port",
        http    => HTTP::Tiny->new( timeout => 60 * $TimerTest::SLOW ),
    }, $class;

    $self->{pid} = spawn( "$profile/driver.log", program('chromedriver'), "--port=$port", '--allowed-ips=' );
    wait_until { $self->{http}->get("$self->{url}/status")->{success} } or croak 'chromedriver does not answer';

    my $width  = $option{width}  // 1280;
    my $height = $option{height} // 900;
    my $session = $self->_call(
        POST => '/session',
        {   capabilities => {
                alwaysMatch => {
                    browserName          => 'chrome',
                    'goog:loggingPrefs'  => { browser => 'ALL' },
                    'goog:chromeOptions' => {
                        binary => _chromium(),
                        args   => [
                            qw( --headless --no-sandbox --disable-gpu --disable-quic --no-first-run
                                --disable-background-networking --disable-component-update
                                --disable-sync --disable-dev-shm-usage --no-proxy-server ),
                            "--user-data-dir=$profile/data",
                            "--window-size=$width,$height",
                        ],
                    },
                },
            },
        },
    );
    $self->{session} = "/session/$session->{sessionId}";

    $self->cdp(
        'Emulation.setDeviceMetricsOverride',
        width  => $width, height => $height, deviceScaleFactor => 1,
        mobile => $width < 600 ? JSON::PP::true : JSON::PP::false,
    );
    $self->cdp(
        'Emulation.setEmulatedMedia',
        features => [
            { name => 'prefers-color-scheme',   value => $option{dark}  ? 'dark'   : 'light' },
            { name => 'prefers-reduced-motion', value => $option{still} ? 'reduce' : 'no-preference' },
        ],
    );
    return $self;
}

sub _call {
    my ( $self, $method, $path, $body ) = @_;

    my $answer = $self->{http}->request(
        $method,
        $self->{url} . $path,
        {   headers => { 'content-type' => 'application/json' },
            ( $body ? ( content => $json->encode($body) ) : () ),
        },
    );
    my $value = eval { $json->decode( $answer->{content} )->{value} };
    return $value if $answer->{success};
    croak "$method $path: " . ( ref $value ? "$value->{error}: $value->{message}" : $answer->{content} );
}

sub cdp {
    my ( $self, $command, %parameters ) = @_;
    return $self->_call( POST => "$self->{session}/goog/cdp/execute", { cmd => $command, params => \%parameters } );
}

sub go {
    my ( $self, $url ) = @_;
    return $self->_call( POST => "$self->{session}/url", { url => $url } );
}

# The value that a script returns, its arguments as "arguments".
sub js {
    my ( $self, $script, @arguments ) = @_;
    return $self->_call( POST => "$self->{session}/execute/sync", { script => $script, args => \@arguments } );
}

# Waits until a script returns something true, and answers that.
sub wait_js {
    my ( $self, $script, @arguments ) = @_;
    return wait_until { $self->js( $script, @arguments ) };
}

sub _element {
    my ( $self, $selector ) = @_;
    my $found = $self->_call( POST => "$self->{session}/element", { using => 'css selector', value => $selector } );
    my ($id) = values %$found;
    return "$self->{session}/element/$id";
}

# As a hand does it: scrolled into view, and refused if something lies over it.
sub click {
    my ( $self, $selector ) = @_;
    return $self->_call( POST => $self->_element($selector) . '/click', {} );
}

sub type {
    my ( $self, $selector, $text ) = @_;
    return $self->_call( POST => $self->_element($selector) . '/value', { text => $text } );
}

# To whatever has the focus; special keys by their WebDriver code points.
sub press {
    my ( $self, @keys ) = @_;
    my @actions = map { ( { type => 'keyDown', value => $_ }, { type => 'keyUp', value => $_ } ) } @keys;
    return $self->_call(
        POST => "$self->{session}/actions",
        { actions => [ { type => 'key', id => 'keyboard', actions => \@actions } ] },
    );
}

# What the console has said since the last call: [ { level, message }, ... ]
sub console {
    my ($self) = @_;
    return $self->_call( POST => "$self->{session}/se/log", { type => 'browser' } );
}

sub screenshot {
    my ( $self, $path ) = @_;
    return spew( $path, decode_base64( $self->_call( GET => "$self->{session}/screenshot" ) ) );
}

sub stop {
    my ($self) = @_;
    my $session = delete $self->{session} or return;
    eval { $self->_call( DELETE => $session ) };
    stop_process( $self->{pid} );
    return;
}

sub DESTROY {
    my ($self) = @_;
    local ( $@, $?, $! );
    $self->stop;
    return;
}

1;
