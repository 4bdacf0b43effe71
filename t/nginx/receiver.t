#!/usr/bin/perl

# Who takes what a run's response brings: its status, all headers that the server has sent, and its body as
# it arrives, before any filter; the response goes on as if nobody did. With enough of it the run ends.
#
# In the build that panics.t wants, in which each run has such a receiver.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Canned;
use TimerTest::Nginx;

timer_module();
my $module = $ENV{TEST_NGINX_TIMER_PANICS};
plan skip_all => 'there is no build with receivers: tools/test makes it' if !$module;

my $backend = TimerTest::Backend->start;
my $pass    = 'proxy_pass http://127.0.0.1:' . $backend->port;
my $nginx   = TimerTest::Nginx->new(
    workers   => 1,
    no_module => 1,    # this one instead
    main      => "load_module $module;",
    http      => 'timer_state memory;',
);
spew( $nginx->prefix . '/html/static', "static\n" );

# Each by itself: the log does not say which run it was.
my %case = (
    plain    => [ "$pass/status/201", 'status 201', 'header Content-Length: 11', '11 bytes, the last are status 201\\\\x0A' ],
    hidden   => [ "$pass/accel-expires/7", 'header X-Accel-Expires: 7' ],
    filtered => [ "sub_filter_types *; sub_filter ok changed; gzip on; gzip_min_length 1; gzip_types *; $pass/ok", '3 bytes, the last are ok\\\\x0A' ],
    pieces   => [ "proxy_buffering off; $pass/drip/4/0.02", 'status 200', '1 bytes, .*', '1 bytes, .*', '1 bytes, .*', '1 bytes, .*' ],
    spooled  => [ "proxy_buffers 2 4k; proxy_buffer_size 4k; proxy_busy_buffers_size 4k; $pass/big/100000", 'status 200' ],
    static   => [ 'try_files /static =404', 'status 200', '7 bytes, the last are static\\\\x0A' ],
    own      => [ 'return 202 "own"', 'status 202', '3 bytes, the last are own' ],
);
for my $name ( sort keys %case ) {
    my ( $text, @received ) = @{ $case{$name} };
    $nginx->write_conf( server => "location /x { timer $name every=366d first=now uri=/x; timer_success 200-299; $text; }" );
    unlink $nginx->error_log;
    $nginx->start;
    ok( $nginx->wait_log(qr/timer "$name": run succeeded: status 20\d/), "$name: the run succeeds" )
        or diag join "\n", $nginx->log_lines(qr/timer|received/);
    my $log = join "\n", $nginx->log_lines(qr/received: /);
    like( $log, qr/received: $_$/m, "$name: $_" ) for @received;
    my $bytes = 0;
    $bytes += $1 while $log =~ /received: (\d+) bytes/g;
    is( $bytes, 100_000, 'all of it, from wherever it was' ) if $name eq 'spooled';
    is( scalar( my @pieces = $log =~ /received: 1 bytes/g ), 4, 'as it arrives' ) if $name eq 'pieces';
    $nginx->stop;
}

# Enough: the rest of the body would never come.
my $stays = TimerTest::Canned->start(
    answer => sub { $_[0] =~ /\r\n\r\n\z/ ? "HTTP/1.1 200 OK\r\nX-Enough: 3\r\nContent-Length: 10000000\r\n\r\n" . 'x' x 100_000 : () } );
for my $buffering (qw( on off )) {
    $nginx->write_conf( server => <<"CONF" );
    location /enough { timer enough_$buffering every=366d first=now uri=/enough; timer_timeout 1h; proxy_buffering $buffering; proxy_pass http://127.0.0.1:${\ $stays->port }; }
CONF
    unlink $nginx->error_log;
    $nginx->start;
    ok( $nginx->wait_log(qr/timer "enough_$buffering": run succeeded: status 200/), "buffering $buffering: enough, and the run has succeeded" )
        or diag join "\n", $nginx->log_lines(qr/timer|received/);
    $nginx->stop;
}
done_testing;
