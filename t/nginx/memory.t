#!/usr/bin/perl

# Nothing is read or written where it should not be: one nginx that runs, fails, times out, redirects,
# is reloaded, loses a worker's connections and quits, under valgrind where that can run it, or under
# what TEST_NGINX_WRAPPER says, or as it is, with the sanitizer that it was built with.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $valgrind = program('valgrind');
# It needs the symbols of the dynamic loader, which another distribution's nginx may bring without them.
undef $valgrind if $valgrind && ( run_command( $valgrind, '--quiet', nginx_binary(), '-v' ) )[0] ne '0';
my $wrapper = $ENV{TEST_NGINX_WRAPPER} // ( $valgrind && !nginx_is_watched() ? "$valgrind --quiet --leak-check=no" : '' );
$TimerTest::SLOW = 4 if $wrapper && $TimerTest::SLOW < 4;
diag $wrapper || ( nginx_is_watched() ? 'a sanitized nginx' : 'neither valgrind nor a sanitizer' );

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;
my $pass    = "proxy_pass http://127.0.0.1:$port;";

my %end = (
    return    => 'succeeded: status 204',
    ok        => 'succeeded: status 200',
    bad       => 'failed: status 500',
    refused   => 'failed: status 502',
    truncated => 'failed: response incomplete, status 200',
    hangs     => 'failed: timed out after 200ms',
    stalls    => 'failed: timed out after 200ms',
    closed    => 'failed: status 444',
    page      => 'succeeded: status 200',
    ssi       => 'succeeded: status 200',
    mirrored  => 'succeeded: status 200',
    accel     => 'succeeded: status 200',
    regex     => 'succeeded: status 200',
    variables => 'succeeded: status 200',
    outside   => 'failed: ',
    denied    => 'failed: status 403',
    cached    => 'succeeded: status 200',
    slotted   => 'succeeded: status 204',
);

my $nginx = TimerTest::Nginx->new(
    workers => 2,
    wrapper => $wrapper,
    http    => 'proxy_cache_path cache keys_zone=c:1m; map $timer_name $u { variables /v/$timer_run; default ""; }',
    server  => <<"CONF",
    location \@return { timer return every=100ms; return 204; }
    location \@ok { timer ok every=100ms; proxy_set_header X-Timer ok; $pass }
    location \@bad { timer bad every=100ms uri=/status/500; $pass }
    location \@refused { timer refused every=100ms; proxy_pass http://127.0.0.1:1; }
    location \@truncated { timer truncated every=100ms uri=/truncate; $pass }
    location \@hangs { timer hangs every=300ms uri=/hang; timer_timeout 200ms; $pass }
    location \@stalls { timer stalls every=300ms uri=/stall; timer_timeout 200ms; proxy_buffering off; $pass }
    location \@closed { timer closed every=100ms; return 444; }
    location \@page { timer page every=100ms; error_page 500 =200 /page.html; return 500; }
    location /page.html { }
    location \@ssi { timer ssi every=100ms uri=/ssi.html; ssi on; }
    location /part { internal; $pass }
    location /mirrored { timer mirrored every=100ms; mirror /part; $pass }
    location \@accel { timer accel every=100ms uri=/accel/page.html; $pass }
    location ~ ^/r/(\\w+)\$ { timer regex every=100ms uri=/r/ok; proxy_pass http://127.0.0.1:$port/\$1; }
    location /v/ { timer variables every=100ms uri=\$u?due=\$timer_due; log_subrequest on; access_log logs/access.log; $pass }
    location /o/ { timer outside every=100ms uri=\$arg_none; $pass }
    location \@denied { timer denied every=100ms access=on; deny all; }
    location /cached { timer cached every=100ms; proxy_cache c; proxy_cache_valid 1m; proxy_cache_bypass \$timer_name; $pass }
    location \@slotted { timer slotted every=100ms; timer_worker auto; return 204; }
    location \@daily { timer daily every=366d first=now uri=/delay/2/ok; $pass }
CONF
);
spew( $nginx->prefix . '/html/page.html', 'x' x 10_000 );
spew( $nginx->prefix . '/html/ssi.html',  '<!--#include virtual="/part/1" --><!--#echo var="timer_name" -->' );

my ( $ok, $out ) = $nginx->test_conf;
ok( $ok, 'accepted' );
lacks( $out, qr/$TimerTest::Nginx::BAD_LINE/m, 'nothing found by reading the configuration' );

$nginx->start;
ok( $nginx->wait_log(qr/timer "$_": run $end{$_}/), "$_: $end{$_}" ) for sort keys %end;
ok( $backend->wait_requests( 20, timer => 'ok' ) >= 20, 'it goes on' );

my @old = $nginx->reload;
ok( $nginx->wait_gone( \@old ), 'reloaded' );
my $count = $backend->requests( timer => 'ok' );
ok( $backend->wait_requests( $count + 10, timer => 'ok' ) >= $count + 10, 'it goes on' );

$nginx->signal('USR1');
$nginx->reload;
$count = $backend->requests( timer => 'ok' );
ok( $backend->wait_requests( $count + 5, timer => 'ok' ) >= $count + 5, 'and on' );
$nginx->stop('QUIT');

# Told to stop in the middle of everything.
$nginx->write_conf( port => free_port() );
$nginx->start;
ok( $backend->wait_requests( $count + 10, timer => 'ok' ) >= $count + 10, 'started again' );
$nginx->stop('TERM');

# One process.
$nginx->write_conf( port => free_port(), master => 0 );
$nginx->start;
$count = $backend->requests( timer => 'ok' );
ok( $backend->wait_requests( $count + 5, timer => 'ok' ) >= $count + 5, 'in one process' );
$nginx->stop('QUIT');

done_testing;
