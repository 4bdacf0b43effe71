#!/usr/bin/perl

# The marks of servers over reloads: no client's request reaches a server that was unhealthy, whatever
# becomes of the configuration; and what is gone from it is forgotten.

use strict;
use warnings;

use JSON::PP ();
use POSIX ();
use Test::More;
use TimerTest;
use TimerTest::Api qw( json );
use TimerTest::Nginx;
use TimerTest::Servers;

my $servers = TimerTest::Servers->start(4);
my ( $one, $two, $three, $four ) = map { '127.0.0.1:' . $servers->port($_) } 0 .. 3;

# A group and its checks, and one with a check of 10 s that is not made again before the test is over.
sub configured {
    my (%change) = @_;
    my %it = (
        list  => [ $one, $two, $three ],
        check => 'interval=100ms uri=/check',
        slow  => [ $two, $four ],
        more  => '',
        %change
    );
    my ( $list, $slow ) = map {
        join ' ', map {"server $_ max_fails=0;"} @{ $it{$_} }
    } qw( list slow );
    return (
        http   => "upstream b { zone b 64k; $list } upstream slow { zone slow 64k; $slow } $it{more}",
        server => <<"CONF",
        proxy_next_upstream off;
        location / { proxy_pass http://b; health_check $it{check}; }
        location /slow/ { proxy_pass http://slow; health_check interval=1000s uri=/slow-check; }
        location /status/ { timer_api; }
CONF
    );
}

# A file without an "http" block, and one without the module.
my $nginx = TimerTest::Nginx->new( workers => 2, allow => [qr/unknown directive "nonsense"/], configured() );
my %without = (
    'an "http" block' => { conf => slurp( $nginx->conf_file ) =~ s/^http \{.*//msr },
    'the module'      => { no_module => 1, http => '', server => '' },
);

# It begins with nothing to check.
$servers->set( 1, 503 );
$nginx->write_conf( %{ $without{'an "http" block'} } );
$nginx->start( ready => sub { $nginx->workers == 2 } );
$nginx->write_conf( conf => undef );
$nginx->reload_all;

sub peers {
    my ($group) = @_;
    return @{ json( $nginx->get( '/status/upstreams/' . ( $group // 'b' ) ) )->{peers} };
}

sub peer {
    my ( $address, $group ) = @_;
    return ( grep { $_->{server} eq $address } peers($group) )[0] // {};
}

sub wait_state {
    my ( $address, $state, $group ) = @_;
    return poll_until( sub { ( peer( $address, $group )->{state} // '' ) eq $state } )
        || in_vain( "$address to be $state", explain( peer( $address, $group ) ) );
}

# The API tells by the records and the zone, whoever answers.
# What the log tells is done; the records know it a moment before.
$nginx->wait_log(qr/peer \Q$two\E in upstream "$_" is unhealthy/) for qw( b slow );
wait_state( $two, 'unhealthy' );
wait_state( $two, 'unhealthy', 'slow' );
my $was = peer( $two, 'slow' );
is( $was->{health_checks}{unhealthy}, 1, 'once unhealthy' );
like( $was->{last}{reason}, qr/status 503/, 'and why' );

# Clients that do nothing but ask, until that is called which this answers: the statuses that they got.
sub clients {
    my ( $count, $path ) = @_;
    my ( $stop, @got, @pids ) = scratch_dir() . '/stop';
    for ( 1 .. $count ) {
        my $file = scratch_dir() . '/statuses';
        my $pid = fork // die "fork: $!";
        if ( !$pid ) {
            my @statuses;
            push @statuses, $nginx->get($path)->{status} while !-e $stop;
            spew( $file, join "\n", @statuses );
            POSIX::_exit(0);
        }
        push @got,  $file;
        push @pids, $pid;
    }
    return sub {
        spew( $stop, '' );
        reap($_) for @pids;
        return map { split /\n/, slurp($_) } @got;
    };
}

# Twenty reloads under load.
{
    my $from  = $servers->clients(1);
    my $end   = clients( 3, '/' );
    my $other = clients( 1, '/slow/' );
    $nginx->reload for 1 .. 20;
    my @statuses = ( $end->(), $other->() );
    cmp_ok( scalar @statuses, '>', 40, 'clients were served meanwhile' );
    none_of { $_ != 200 } 'none was refused, or passed to the unhealthy server', @statuses;
    is( $servers->clients(1), $from, 'which has not seen one of them' );
    my $now = peer( $two, 'slow' );
    is( $now->{health_checks}{unhealthy}, 1, 'it is unhealthy all the time' );
    is( $now->{downstart}, $was->{downstart}, 'since the same instant' );
    is( $now->{last}{time}, $was->{last}{time}, 'and was not checked again before its time' );
    is( scalar( grep { $_->{uri} eq '/slow-check' } $servers->checks(1) ), 1, 'nor by another worker' );
}

# A configuration that is refused changes nothing.
{
    my $from = $servers->clients(1);
    $nginx->write_conf( configured( list => [ $two, $one ], more => 'nonsense;' ) );
    $nginx->signal('HUP');
    $nginx->wait_log(qr/\[emerg\].* unknown directive "nonsense"/);
    $nginx->get('/') for 1 .. 6;
    is( $servers->clients(1), $from, 'after a failed reload' );
    is( peer( $two, 'slow' )->{downstart}, $was->{downstart}, 'nothing is forgotten' );
}

# Another order, and other thresholds: by its address each server is the one that it was.
{
    my $from = $servers->clients(1);
    $nginx->write_conf( configured( slow => [ $four, $one, $two ], check => 'interval=100ms uri=/check fails=3' ) );
    $nginx->reload_all;
    my %state = map { $_->{server} => $_->{state} } peers('slow');
    is_deeply( \%state, { $one => 'up', $two => 'unhealthy', $four => 'up' }, 'another order' );
    is( peer( $two, 'slow' )->{downstart}, $was->{downstart}, 'since when it is unhealthy' );
    $nginx->get('/slow/') for 1 .. 6;
    is( $servers->clients(1), $from, 'no request reaches it' );
}

# A server that was away begins anew.
{
    $nginx->write_conf( configured( slow => [$four] ) );
    $nginx->reload_all;
    is( scalar peers('slow'), 1, 'it is gone' );
    $nginx->write_conf( configured() );
    my $before = grep { $_->{uri} eq '/slow-check' } $servers->checks(1);
    $servers->up(1);
    $nginx->reload_all;
    poll_until( sub { ( peer( $two, 'slow' )->{health_checks}{checks} // 0 ) > 0 } ) || in_vain('a check of the server that came back');
    my $now = peer( $two, 'slow' );
    is( $now->{state}, 'up', 'it is back' );
    is_deeply( $now->{health_checks}, { checks => 1, fails => 0, unhealthy => 0, last_passed => JSON::PP::true }, 'and knows nothing of before' );
}

# So does one whose checks were gone together with everything else.
{
    my $works = 1;
    for my $what ( sort keys %without ) {
        $nginx->write_conf( %{ $without{$what} } );
        $nginx->reload_all;
        $works = !$works;
        $works ? $servers->up(1) : $servers->set( 1, 503 );
        $nginx->write_conf( conf => undef, no_module => 0, configured() );
        $nginx->reload_all;
        poll_until( sub { ( peer( $two, 'slow' )->{health_checks}{checks} // 0 ) > 0 } ) || in_vain("a check after a time without $what");
        my $now = peer( $two, 'slow' );
        is( $now->{state}, $works ? 'up' : 'unhealthy', "without $what, and back" );
        is( $now->{health_checks}{checks}, 1, 'it is checked anew, and knows nothing of before' );
    }
}

# A check that is gone takes its marks along.
{
    $servers->set( 2, 503 );
    wait_state( $three, 'unhealthy' );
    my %conf = configured();
    $conf{server} =~ s/health_check interval=100ms[^;]*;//;
    $nginx->write_conf(%conf);
    $nginx->reload_all;
    my $from = $servers->clients(2);
    $nginx->get('/') for 1 .. 9;
    cmp_ok( scalar $servers->clients(2), '>', $from, 'without a check its servers are as they were' );
    is( $nginx->get('/status/upstreams/b')->{status}, 404, 'and are told of no more' );
}

# It is back, mandatory now: what is new gets no request before its first check.
{
    $servers->set( $_, 'hang' ) for 0, 1;
    $nginx->write_conf( configured( check => 'interval=1s uri=/check mandatory timeout=100s' ) );
    $nginx->reload_all;
    wait_state( $three, 'unhealthy' );
    my @from = map { scalar $servers->clients($_) } 0 .. 2;
    is( $nginx->get('/')->{status}, 502, 'nobody is there for a client' ) for 1 .. 3;
    is_deeply( [ map { scalar $servers->clients($_) } 0 .. 2 ], \@from, 'while the first checks are in progress' );
    my %state = map { $_->{server} => $_->{state} } peers();
    is_deeply( \%state, { $one => 'checking', $two => 'checking', $three => 'unhealthy' }, 'as the API has it' );
    is( $nginx->get('/status/health')->{status}, 503, 'and "health"' );
    $servers->up($_) for 0 .. 2;
}

# Two checks that ask the same, by TLS in vain and without it: each keeps its own marks, whichever is named first;
# and one that is gone takes its own along.
{
    my %conf = configured( more => "upstream twice { zone twice 64k; server $four max_fails=0; }" );
    my ( $tls, $plain ) = map {"location /$_/ { proxy_pass $_://twice; health_check interval=1000s; }"} qw( https http );
    my $with = sub { return ( %conf, server => join "\n", $conf{server}, @_ ) };
    $nginx->write_conf( $with->( $tls, $plain ) );
    $nginx->reload_all;
    my $states = sub { my ($peer) = peers('twice'); return join ' ', map { $_->{state} } $peer, @{ $peer->{checks} // [] } };
    ok( poll_until( sub { $states->() eq 'unhealthy unhealthy healthy' } ), 'one of two checks fails' ) || diag( $states->() );
    is( $nginx->get('/http/')->{status}, 502, 'it marks the server for all' );
    $nginx->write_conf( $with->( $plain, $tls ) );
    $nginx->reload_all;
    is( $states->(), 'unhealthy healthy unhealthy', 'in the other order each has the state that it had' );
    $nginx->write_conf( $with->($plain) );
    $nginx->reload_all;
    is( $nginx->get('/http/')->{status}, 200, 'without that check the server is healthy' ) for 1 .. 3;
    is( ( $states->() =~ /^\w+/g )[0], 'up', 'as the API tells' );
}

$nginx->stop;
$servers->stop;
done_testing();
