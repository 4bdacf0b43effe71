#!/usr/bin/perl

# nginx-conf/cleanup.conf does what it says: files, rows by the application, members of a set in Redis, and nginx's own
# cache. Without the part for Redis where there is no Lua module for this nginx.

use strict;
use warnings;

use File::Basename qw( dirname );
use File::Copy qw( copy );
use File::Path qw( make_path );
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;

my @lua = grep {-e} map {"/usr/lib/nginx/modules/$_"} qw( ndk_http_module.so ngx_http_lua_module.so );
my $has_lua = @lua == 2 && program('redis-server') && -e '/usr/share/lua/5.1/nginx/redis.lua'
    && ( TimerTest::Nginx->new( main => join ' ', map {"load_module $_;"} @lua )->test_conf )[0];

my $dir     = scratch_dir();
my $backend = TimerTest::Backend->start;
my ( $front, $redis ) = ( free_port(), free_port() );
my $nginx   = TimerTest::Nginx->new( port => $front );
mkdir $nginx->prefix . '/modules';
copy( $_, $nginx->prefix . '/modules/' ) or die for $has_lua ? @lua : ();
copy( timer_module(), $nginx->prefix . '/modules/ngx_http_timer_module.so' ) or die;

my $text = slurp( dirname(__FILE__) . '/../../nginx-conf/cleanup.conf' );
for (
    [ qr{/var/(lib|backups|cache)/app}    => sub {"$dir/$1"} ],
    [ qr/127\.0\.0\.1:8080/               => sub {"127.0.0.1:$front"} ],
    [ qr/127\.0\.0\.1:9000/               => sub { '127.0.0.1:' . $backend->port } ],
    [ qr/"127\.0\.0\.1", 6379/            => sub {qq{"127.0.0.1", $redis}} ],
    [ qr/"cron=[^"]*"|every=1m|every=10m/ => sub {'every=1s'} ],
    [ qr/ tz=\S+(?=;)/                    => sub {''} ],
    [ qr/^http \{$/m => sub { join ' ', 'http { timer_state logs/timers.state;', map {"${_}_temp_path logs/${_}_temp;"} qw( client_body proxy fastcgi uwsgi scgi ) } ],
    )
{
    my ( $pattern, $with ) = @$_;
    ok( $text =~ s/$pattern/$with->()/ge, "there is $pattern" );
}
if ( !$has_lua ) {
    $text =~ s/^load_module modules\/(?:ndk|ngx)_http_(?:module|lua_module)\.so;\n//mg;
    ok( $text =~ s/^        location \@tidy-sessions \{.*?^        \}\n//ms, 'there is a location for Redis' );
}
$nginx->write_conf( conf => $text );

# What is old, and what is not.
make_path( map {"$dir/$_"} 'cache', 'backups', 'lib/uploads/a', 'lib/uploads/b' );
my $lay = sub { my ( $age, @names ) = @_; spew( "$dir/$_", 'x' ), utime time - $age, time - $age, "$dir/$_" for @names };
$lay->( 90_000, 'lib/uploads/a/old.part', 'lib/uploads/a.jpg' );
$lay->( 60, 'lib/uploads/b/new.part' );
$lay->( 86_400 * ( 30 + $_ ), "backups/$_.sql.gz" ) for 1 .. 9;
$lay->( 86_400 * 99, 'backups/notes' );
chmod 0777, map {"$dir/$_"} qw( cache backups lib/uploads lib/uploads/a lib/uploads/b );

if ($has_lua) {
    spawn( "$dir/redis.log", 'redis-server', '--port', $redis, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', $dir );
    wait_until { ( run_command( 'redis-cli', '-p', $redis, 'ping' ) )[1] =~ /PONG/ };
    run_command( 'redis-cli', '-p', $redis, 'zadd', 'sessions', int(time) - 4000, 'old', int(time), 'new' );
}

my ( $ok, $out ) = $nginx->test_conf;
ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, 'accepted' ) or diag $out;
$nginx->start( ready => sub { $nginx->get('/ok')->{status} } );

my $names = sub { my ($in) = @_; return join ' ', sort map {s{\A\Q$dir/$in\E/}{}r} glob "$dir/$in/*" };
$nginx->wait_log(qr{clean-up of "$dir/lib/uploads": removed 1 files, 1 bytes, kept 2, 0 errors});
is( $names->('lib/uploads'), 'a.jpg b', 'an upload that was not finished goes, and its directory' );
$nginx->wait_log(qr{clean-up of "$dir/backups": removed 2 files, 2 bytes, kept 8, 0 errors});
is( $names->('backups'), join( ' ', map( {"$_.sql.gz"} 1 .. 7 ), 'notes' ), 'the last seven dumps stay' );
is( ( $backend->wait_requests( 1, uri => qr{^/tasks/expire\?limit=1000$} ) )[0]{method}, 'POST', 'the application is called' );
if ($has_lua) {
    my $left = sub { ( run_command( 'redis-cli', '-p', $redis, 'zrange', 'sessions', 0, -1 ) )[1] };
    wait_until { $left->() eq "new\n" };
    is( $left->(), "new\n", 'in Redis the old session goes' );
}
ok( -d "$dir/cache", 'the cache is left to nginx' );
$nginx->stop;

done_testing;
