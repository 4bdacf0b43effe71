package TimerTest::Page;

# A browser that knows its way about the page of timer_api. Names are those of timers; parts are those
# that the page itself calls so (data-c).
#
#     my $page = TimerTest::Page->start( width => 1280, height => 900 );
#     $page->go("http://127.0.0.1:$port/status/");
#     $page->shows( 3, 'three timers' );
#     $page->reads( 'reindex', word => qr/^idle$/ );
#     $page->press_button('[data-timer=reindex] [data-c=run]');
#     $page->says( qr/reindex: run ordered/, 'it was taken' );

use strict;
use warnings;

use parent 'TimerTest::Browser';

use Carp qw( croak );
use Test::More ();
use TimerTest;

# How the page writes a point in time that is near: with its day if that is not today's.
use constant MOMENT => qr/(?:\d\d:\d\d:\d\d|\d{1,2} [A-Z][a-z]{2,3}, \d\d:\d\d)/;

# The same for an instant as the API has it, in a browser whose zone is UTC.
sub moment {
    my ( $self, $instant ) = @_;
    my ( $month, $day, $clock, $seconds ) = $instant =~ /\A\d+-(\d\d)-(\d\d)T(\d\d:\d\d)(:\d\d)/ or croak "no instant: $instant";
    my $name = (qw( Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec ))[ $month - 1 ];
    return qr/(?:$clock$seconds|@{[ $day + 0 ]} $name, $clock)/;
}

my $ROWS = 'return document.querySelectorAll(".timer:not([hidden]) > .line").length';
my $TEXT = 'const node = document.querySelector(`[data-timer="${arguments[0]}"] [data-c=${arguments[1]}]`);'
    . 'return node ? node.textContent : null';

sub rows { return $_[0]->js($ROWS) }

# Tests that so many timers are shown.
sub shows {
    my ( $self, $count, $what ) = @_;
    my $shown = wait_until { $self->rows == $count };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok( $shown, $what ) || Test::More::diag( $self->rows );
}

sub text_of { my ( $self, $name, $part ) = @_; return $self->js( $TEXT, $name, $part ) // '' }

# The text of an element by its id.
sub text { my ( $self, $id ) = @_; return $self->js( 'return document.getElementById(arguments[0]).textContent', $id ) }

# Tests that a part of a timer's row comes to read so.
sub reads {
    my ( $self, $name, $part, $pattern, $what ) = @_;
    my $read = wait_until { $self->text_of( $name, $part ) =~ $pattern };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok( $read, $what // "$name: $part reads $pattern" )
        || Test::More::diag( $self->text_of( $name, $part ) );
}

# Tests that an element, by its id, comes to read so.
sub tells {
    my ( $self, $id, $pattern, $what ) = @_;
    my $read = wait_until { $self->text($id) =~ $pattern };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok( $read, $what ) || Test::More::diag( $self->text($id) );
}

# What the page has said since the last button was pressed: it takes that away by itself, after some seconds.
my $LISTEN = <<'JS';
    if (!window.heard) {
        new MutationObserver(list => list.forEach(({ addedNodes }) => addedNodes.forEach(node => heard.push(node.textContent))))
            .observe(document.getElementById('says'), { childList: true });
    }
    window.heard = [];
JS

# Tests for the visible answer to an order.
sub says {
    my ( $self, $pattern, $what ) = @_;
    my $heard = sub { return join ' ', @{ $self->js('return window.heard || []') } };
    my $said = wait_until { $heard->() =~ $pattern };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok( $said, $what ) || Test::More::diag( $heard->() );
}

# Clicks a button of the page as soon as it is free: an order is taken once.
sub press_button {
    my ( $self, $selector ) = @_;
    $self->wait_js( 'return document.querySelector(arguments[0]).getAttribute("aria-busy") === null', $selector );
    $self->js($LISTEN);
    return $self->click($selector);
}

# Tests that the console holds no complaint: no exception, no violation of the policy.
sub clean_console {
    my ( $self, $what ) = @_;
    my @bad = grep { $_->{level} eq 'SEVERE' } @{ $self->console };
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok( !@bad, "$what: the console is empty" ) || Test::More::diag( map {"$_->{message}\n"} @bad );
}

1;
