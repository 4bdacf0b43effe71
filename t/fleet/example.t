#!/usr/bin/perl

# nginx-conf/fleet.conf, by "make fleet": what stands on the terminal, what becomes of the timers when a host and a
# member die, and how Ctrl-C ends it.

use strict;
use warnings;

use File::Basename qw( dirname );
use File::Spec ();
use Test::More;
use TimerTest;

my $top  = File::Spec->rel2abs( dirname(__FILE__) . '/../..' );
my $dir  = scratch_dir();
my $out  = "$dir/terminal";
my $port = free_port(12);

# What a build would leave.
my $nginx = nginx_binary();
$nginx = program($nginx) if $nginx !~ m{/};
mkdir "$dir/tree";
symlink $nginx, "$dir/tree/nginx";
symlink timer_module(), "$dir/tree/ngx_http_timer_module.so";
mkdir "$dir/tmp";

delete @ENV{qw( MAKEFLAGS MAKELEVEL NGINX )};
@ENV{qw( TREE TMPDIR PORT )} = ( "$dir/tree", "$dir/tmp", $port );
my @make_fleet = ( 'setsid', 'make', '-C', $top, '--no-print-directory', 'fleet' );

sub terminal { return slurp($out) }
sub page { my ($n) = @_; return $port + 2 * $n - 2 }

my $make = spawn( $out, @make_fleet );
my $run  = qr/^web\d \d\d:\d\d:\d\d \[info\] \d+: timer "heartbeat": run succeeded: status 204, \d+ms$/m;
if ( !ok( wait_until( sub { terminal() =~ $run } ), 'a run is one short line, with the host' ) ) {
    diag terminal();
    kill 'INT', -$make;
    done_testing;
    exit 1;
}
my %kill;
like( terminal(), qr{\A\n  The pages        http://127\.0\.0\.1:$port/status/}, 'the banner names the pages, before all else' );
$kill{host}   = $1 if terminal() =~ /^  A host dies      (kill -9 -\d+) /m;
$kill{member} = $1 if terminal() =~ /^  A member dies    (kill \d+) /m;
like( http_request( page($_), '/status/', headers => "Accept: text/html\r\n" )->{body}, qr{<title>}, "web$_: the page is there" ) for 1 .. 3;
like( http_request( page(2), '/status/text' )->{body}, qr/ $_$/m, "the table has $_" ) for qw( heartbeat reindex digest local );

# The ports are taken now.
my ( $status, $refused ) = run_command(@make_fleet);
isnt( $status, 0, 'a second one does not start' );
like( $refused, qr/ports $port to ${\ ( $port + 11 ) } are in use: make fleet PORT=9000 takes others$/m, 'it is said why' );
unlike( $refused, qr/The pages/, 'and there is no banner' );

# As the banner says.
for my $what (qw( member host )) {
    ok( $kill{$what}, "$what: there is a command" ) or next;
    is( ( run_command( 'sh', '-c', $kill{$what} ) )[0], 0, $kill{$what} );
    my $before = terminal();
    my $who    = $what eq 'host' ? 'web1' : 'etcd1';
    ok( wait_until( sub { terminal() =~ /^$who has died$/m } ), "a $what dies: it is said" );
    ok( wait_until( sub { substr( terminal(), length $before ) =~ $run } ), "a $what dies: it goes on" ) or diag terminal();
}
is( http_request( page(1), '/status/' )->{status}, 0, 'web1 is dead' );
ok( wait_until( sub { terminal() =~ /^web2 .* timer "local": run succeeded/m && terminal() =~ /^web3 .* timer "local": run succeeded/m } ), 'a timer without a fleet runs on each host' );

my $before = terminal();
kill 'INT', -$make;
ok( defined reap($make), 'Ctrl-C ends it' );
my $after = substr terminal(), length $before;
# A run may have ended meanwhile.
$after =~ s/^web\d \d\d:.*\n//mg;
is( $after, "nginx and etcd have stopped\n", 'with one line' );
is_deeply( [ glob "$dir/tmp/*" ], [], 'nothing is left' );
is( scalar( my @died = terminal() =~ /^(\S+) has died$/mg ), 2, 'nothing else is said to have died' );
unlike( terminal(), qr/signal|worker process|closed connection, client|^make/m, 'nothing of nginx that a reader does not look for' );
done_testing;
