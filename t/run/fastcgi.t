#!/usr/bin/perl

# fastcgi_pass: a PHP application under php-fpm, and what a FastCGI server can do wrong.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Php;

# A responder of ours first: it can break the protocol. (Without fastcgi_keep_conn nginx takes the end
# of the connection for the end of the response, whatever was still to come.)
my $backend = TimerTest::Backend->start;
my $nginx   = TimerTest::Nginx->new( workers => 2 );
my $params  = 'fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri;'
    . ' fastcgi_param TIMER $timer_name; fastcgi_param RUN $timer_run; fastcgi_param CONTENT_LENGTH $content_length;';
my %status = ( ok => 'succeeded: status 200', 500 => 'failed: status 500', empty => 'failed: status 502',
    truncate => 'failed: response incomplete, status 200', hang => 'failed: timed out after 300ms', refused => 'failed: status 502' );
my %path = ( 500 => 'status/500' );
my $locations = join "\n", map {
    my $to = $_ eq 'refused' ? 1 : $backend->fastcgi_port;
    "location \@$_ { timer $_ every=366d first=now uri=/${\( $path{$_} // $_ )}; timer_timeout ${\( $_ eq 'hang' ? '300ms' : '30s' )};"
        . " $params fastcgi_keep_conn on; fastcgi_pass 127.0.0.1:$to; }"
} grep { $_ ne 'ok' } sort keys %status;
$locations .= "location \@ok { timer ok every=50ms uri=/ok; $params fastcgi_keep_conn on; fastcgi_pass 127.0.0.1:${\ $backend->fastcgi_port }; }";

$nginx->write_conf( server => $locations );
$nginx->start;
for my $name ( sort keys %status ) {
    ok( $nginx->wait_log(qr/timer "$name": run $status{$name}/), "$name: $status{$name}" )
        or diag join "\n", $nginx->log_lines(qr/timer: "$name"|timer "$name"/);
}
my ($seen) = $backend->wait_requests( 1, protocol => 'fastcgi', uri => qr{\A/ok} );
is( $seen->{headers}{TIMER}, 'ok', 'a variable as a parameter' );
like( $seen->{headers}{RUN}, qr/\A[0-9a-f]{32}\z/, 'the id of the run' );
$nginx->stop;

SKIP: {
    my $php = TimerTest::Php->start( scratch_dir() ) or skip 'php-fpm is not installed', 10;

    my $root = $php->root;
    spew( "$root/ok.php", q{<?php file_put_contents(__DIR__ . '/seen', $_SERVER['TIMER'] . ' ' . $_SERVER['REQUEST_METHOD'] . ' ' . }
            . q{($_GET['task'] ?? '') . ' ' . $_SERVER['HTTP_HOST'] . "\n", FILE_APPEND); echo 'ok';} );
    spew( "$root/500.php",     q{<?php http_response_code(500); echo 'no';} );
    spew( "$root/fatal.php",   q{<?php ini_set('display_errors', '0'); no_such_function();} );
    spew( "$root/slow.php",    q{<?php sleep(600);} );
    spew( "$root/big.php",     q{<?php for ($i = 0; $i < 2000; $i++) { echo str_repeat('x', 1024); }} );
    spew( "$root/redirect.php", q{<?php header('Location: /login');} );

    my $fastcgi = join ' ', map {"fastcgi_param $_;"} 'SCRIPT_FILENAME $document_root$fastcgi_script_name',
        'QUERY_STRING $query_string', 'REQUEST_METHOD $request_method', 'CONTENT_LENGTH $content_length',
        'REQUEST_URI $request_uri', 'SERVER_PROTOCOL $server_protocol', 'TIMER $timer_name', 'HTTP_HOST $host';

    my %outcome = (
        ok => 'succeeded: status 200', post => 'succeeded: status 200', 500 => 'failed: status 500',
        fatal => 'failed: status 500', none => 'failed: status 404', big => 'succeeded: status 200',
        slow => 'failed: timed out after 500ms', redirect => 'failed: status 302',
    );
    my %uri = ( ok => '/ok.php?task=mail', post => '/ok.php?task=post' );
    my %method = ( post => 'method=POST' );

    my $again = TimerTest::Nginx->new(
        workers => 2,
        server  => join "\n", "root $root;", map {
            "location \@$_ { timer $_ every=366d first=now uri=${\( $uri{$_} // qq{/$_.php} )} ${\( $method{$_} // '' )};"
                . " timer_timeout ${\( $_ eq 'slow' ? '500ms' : '30s' )}; $fastcgi fastcgi_pass unix:${\ $php->socket }; }"
        } sort keys %outcome,
    );
    $again->start;
    for my $name ( sort keys %outcome ) {
        ok( $again->wait_log(qr/timer "$name": run $outcome{$name}/), "php $name: $outcome{$name}" )
            or diag join "\n", $again->log_lines(qr/timer: "$name"|timer "$name"/), $php->output;
    }
    my @seen = sort split /\n/, slurp("$root/seen");
    is_deeply( \@seen, [ 'ok GET mail localhost', 'post POST post localhost' ], 'what the application saw' );
    $again->stop;
}

done_testing;
