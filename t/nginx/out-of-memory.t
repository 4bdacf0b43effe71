#!/usr/bin/perl

# No memory for a run, or in the middle of one: it ends in an error or a failure that is told, the
# worker lives, and the next due time is served once there is memory again.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my $prlimit = program('prlimit');
plan skip_all => 'prlimit is not installed' if !$prlimit;
plan skip_all => 'a sanitizer or valgrind has a memory of its own' if nginx_is_watched();

my $backend = TimerTest::Backend->start;
my $port    = $backend->port;

# Pools and buffers too large for what will be left; each timer fails at another place.
my %where = (
    connection => 'connection_pool_size 64m; large_client_header_buffers 2 64m;',
    request    => 'request_pool_size 64m;',
    buffer     => '',
);
my $nginx = TimerTest::Nginx->new(
    workers => 2,
    # A process may limit those of its own user.
    main    => $> == 0 ? 'user root;' : '',
    http    => join( "\n", map {
        "server { listen 127.0.0.1:${\ free_port() }; server_name $_.example.org; $where{$_}"
            . " location \@$_ { timer $_ every=50ms; proxy_set_header X-Timer $_;"
            . ( $_ eq 'buffer' ? ' proxy_buffer_size 64m; proxy_buffers 2 64m; proxy_busy_buffers_size 64m;' : '' )
            . " proxy_pass http://127.0.0.1:$port; } }"
    } sort keys %where ),
    server => 'location @small { timer small every=50ms; return 204; }',
    # malloc's own words.
    allow => [qr/\[emerg\].*(?:malloc|posix_memalign|memalign)\(.*failed \(12: Cannot allocate memory\)/],
);
$nginx->start;
ok( $nginx->wait_log( qr/timer "$_": run succeeded: status 20/, 3 ), "$_ runs" ) for sort keys %where, 'small';

my $worker = $nginx->worker_in_slot(0);

sub limit {
    my ($bytes) = @_;
    my ( $status, $out ) = run_command( $prlimit, '--pid', $worker, "--as=$bytes:unlimited" );
    return is( $status, 0, "limited to $bytes" ) || diag $out;
}

# What it needs between its runs: as much as a worker without any.
my $idle = $nginx->worker_in_slot(1);
my ($kilobytes) = slurp("/proc/$idle/status") =~ /^VmSize:\s+(\d+) kB/m;
limit( ( $kilobytes + 16_000 ) * 1024 );

for my $name ( sort keys %where ) {
    ok( $nginx->wait_log(qr/\[error\].*timer "$name": run failed: /), "$name: out of memory" );
}
my $count = $nginx->log_lines(qr/timer "small": run succeeded/);
ok( $nginx->wait_log( qr/timer "small": run succeeded/, $count + 5 ), 'one that needs little goes on' );

limit('unlimited');
ok( $nginx->wait_log(qr/timer "$_": succeeded after \d+ failures?/), "$_ runs again" ) for sort keys %where;
is( $nginx->worker_in_slot(0), $worker, 'in the same worker' );
is( $nginx->get('/ready')->{status}, 200, 'clients are served' );

$nginx->stop;
done_testing;
