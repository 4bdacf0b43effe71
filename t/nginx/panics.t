#!/usr/bin/perl

# Each function that nginx calls panics, once before its body and once behind it. The worker lives, an alert
# says so and is the only one, nothing that was freed is in nginx's timer tree or its posted queues, all
# timers go on, clients are answered, and the next reload puts everything right.
#
# In a build with the feature "panic-points" (tools/test makes it), whose guards panic where a file says
# so, and search nginx's tree and queues each time.

use strict;
use warnings;

use File::Basename qw( basename dirname );
use IO::Socket::INET ();
use Socket qw( SOL_SOCKET SO_RCVBUF );
use Test::More;
use Time::HiRes qw( sleep );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Certificate;
use TimerTest::Nginx;

timer_module();
my $module = $ENV{TEST_NGINX_TIMER_PANICS};
plan skip_all => 'there is no build that panics: tools/test makes it' if !$module;

# All guards, by the function they stand in.
my ( %guards, %called_by_nginx );
for my $file ( glob dirname(__FILE__) . '/../../src/nginx/{,*/}*.rs' ) {
    next if basename($file) eq 'guard.rs';
    my $function;
    my $number = 0;
    for ( split /\n/, slurp($file) ) {
        $number++;
        $function = $1 if /^ *(?:pub(?:\([^)]+\))? )?(?:unsafe )?(?:extern "C" )?fn (\w+)/;
        $called_by_nginx{$function} = 1 if /extern "C" fn \w+.*[<(]/;
        push @{ $guards{$function} }, basename($file) . ":$number" if m{^(?!\s*//).*\bguard(?:_else|_in_thread)?\(};
    }
}

# Nothing of nginx's calls these in a run.
my @never = qw( receive receive_chain send set_session save_session no_value );
# Called when a configuration is read or taken up, or when a process begins or ends.
my @at_reload = qw( set_http set_location directive create merge hook init init_module drop_boxed forget init_process content exit_process );
my %while_running = map { $_ => $guards{$_} } keys %guards;
delete @while_running{ @never, @at_reload };
is( scalar( grep { !$guards{$_} } @never, @at_reload ), 0, 'all functions are there' );
# Those two hand on to "hook".
delete @called_by_nginx{qw( preconfiguration postconfiguration )};
none_of { !$guards{$_} } 'all that nginx calls have a guard', sort keys %called_by_nginx;
cmp_ok( scalar( keys %while_running ), '>', 10, 'and there are others' );

my $backend = TimerTest::Backend->start;
my $panics  = scratch_dir() . '/panics';
my ( $slow, $tls ) = ( free_port(), free_port() );
my $proxy   = 'proxy_pass http://127.0.0.1:' . $backend->port;
my @names   = qw( plain proxied limited shared cleaned );

# What a cleanup did not come to is lost.
$ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (), 'detect_leaks=0';
$ENV{TIMER_PANICS} = $panics;

my $dir = scratch_dir();
mkdir( my $tree = "$dir/tree" );
my ( $cert, $key ) = make_certificate( $dir, 'app.test' );

my $nginx = TimerTest::Nginx->new(
    workers   => 2,
    no_module => 1,
    main      => "load_module $module; env TIMER_PANICS=$panics;",
    http      => <<"CONF",
    timer_state timers.state;
    keyval_zone zone=kv:32k;
    keyval \$uri \$kv zone=kv;
    limit_req_zone \$server_name zone=z:1m rate=20r/s;
    server { listen 127.0.0.1:$slow sndbuf=4k; location /status/ { timer_api write=on; } }
    # Closes what is kept, which is seen before the next check.
    server { listen 127.0.0.1:$tls ssl; ssl_certificate $cert; ssl_certificate_key $key; keepalive_timeout 20ms; location / { return 200; } }
    match ok { status 200; }
    upstream checked { zone checked 64k; server 127.0.0.1:$tls; }
    upstream refused { zone refused 64k; server 127.0.0.1:1; }
    upstream lines { zone lines 64k; server 127.0.0.1:${\ $backend->uwsgi_port }; }
CONF
    server => join( "\n", <<"CONF", map {"location \@idle$_ { timer idle$_ every=366d; return 204; }"} 1 .. 300 ),
    location \@plain { timer plain every=50ms; return 204; }
    location \@proxied { timer proxied every=50ms; proxy_set_header X-Timer \$timer_name; proxy_set_header X-Event \$timer_event; proxy_set_header X-Key \$kv; $proxy; }
    location /limited { timer limited every=40ms access=on; limit_req zone=z burst=9; timer_timeout 300ms; $proxy; }
    location \@refused { timer refused every=100ms; proxy_pass http://127.0.0.1:1; }
    location \@cleaned { timer cleaned every=100ms; timer_cleanup $tree older=1h; }
    location \@shared { timer shared every=100ms; timer_worker any; return 204; }
    location /checked/ {
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_pass https://checked;
        health_check uri=/ready interval=100ms keepalive_time=1h match=ok;
    }
    # Guarded runs are asked before they connect, where there is a fleet.
    location \@etcd { timer_fleet prod; proxy_pass http://127.0.0.1:1; }
    location /refused/ { proxy_pass http://refused; health_check interval=100ms; }
    location /lines/ { uwsgi_param REQUEST_METHOD GET; uwsgi_param REQUEST_URI /lines; uwsgi_pass lines; health_check interval=100ms; }
    location /status/ { timer_api write=on; }
CONF
    allow => [ qr/\[alert\].*: timer: caught panic: on purpose, /, qr/^thread .* panicked at src\/nginx\/core\/panics\.rs:/, qr/a run is not possible in this nginx \(content handler\)/ ],
);
spew( $panics, '' );
$nginx->start;
my @workers = $nginx->workers;

# Runs go on: each timer has so many more.
sub goes_on {
    my ($what) = @_;
    my $from = $nginx->log_lines(qr/./);
    for my $name (@names) {
        my $run = sub {
            my @lines = $nginx->log_lines(qr/./);
            2 <= grep {/timer "$name": run (?:succeeded|failed)/} @lines[ $from .. $#lines ];
        };
        ok( poll_until($run), "$what: $name goes on" );
    }
    for my $group (qw( checked lines refused )) {
        my $before = checks($group);
        ok( poll_until( sub { checks($group) >= $before + 2 } ), "$what: checks of $group go on" );
    }
    return;
}

# How many checks of a group there were.
sub checks {
    my ($group) = @_;
    my ($checks) = $nginx->get("/status/upstreams/$group")->{body} =~ /"checks":\s*(\d+)/;
    return $checks // -1;
}

# A client that takes its answer slowly.
sub take_slowly {
    my $socket = IO::Socket::INET->new( Proto => 'tcp' ) or return;
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, 2048;
    $socket->connect( $slow, Socket::inet_aton('127.0.0.1') ) or return;
    syswrite $socket, "GET /status/timers HTTP/1.0\r\nHost: localhost\r\n\r\n";
    sleep 0.02;
    1 while sysread $socket, my $buffer, 16384;
    return;
}

goes_on('before');

# All at once, until each has had its panics.
my %missing = map { my $place = $_; map { ( "$place $_" => 1 ) } qw( before after ) } map {@$_} values %while_running;
spew( $panics, join '', map {"$_\n"} sort keys %missing );
wait_until {
    $nginx->get("/status/$_") for '', 'timers', 'metrics';
    $nginx->get( "/status/timers/$_/run", method => 'POST' ) for @names;
    take_slowly();
    delete @missing{ map {/caught panic: on purpose, (\S+ \w+),/} $nginx->log_lines(qr/caught panic/) };
    !%missing;
};
is( join( ', ', sort keys %missing ), '', 'each has panicked' );
my @panics = $nginx->log_lines(qr/caught panic: on purpose/);
cmp_ok( scalar( grep {/ [1-9]\d* nodes in the tree/} @panics ), '>', 0, 'the search finds what is alive in the tree' );
cmp_ok( scalar( grep {/ [1-9]\d* posted/} @panics ), '>', 0, 'and in the queues' );
spew( $panics, '' );
goes_on('afterwards');
is( join( ' ', $nginx->workers ), "@workers", 'the workers live' );
is( $nginx->get('/status/timers')->{status}, 200, 'clients are answered' );

# One by one, at reloads.
for my $place ( map { @{ $guards{$_} } } @at_reload ) {
    for my $when (qw( before after )) {
        spew( $panics, "$place $when\n" );
        $nginx->signal('HUP');
        $nginx->wait_log(qr/caught panic: on purpose, \Q$place $when\E,/);
        is( $nginx->get('/ready')->{status}, 200, "$place $when: clients are served" );
    }
}
spew( $panics, '' );
$nginx->reload_all;
goes_on('after a reload');
is( $nginx->get('/status/timers')->{status}, 200, 'clients are answered' );

$nginx->stop;
done_testing;
