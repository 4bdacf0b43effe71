#!/usr/bin/perl

# nginx-conf/sync.conf: each way does what it says.

use strict;
use warnings;

use File::Basename qw( dirname );
use File::Copy qw( copy );
use File::Spec ();
use Test::More;
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;

my $examples = File::Spec->rel2abs( dirname(__FILE__) . '/../../nginx-conf' );
my @found    = grep {defined} map { other_module($_) } qw( ndk_http_module ngx_http_lua_module ngx_http_js_module );

sub example {
    my ($more) = @_;
    my $other = free_port();
    my $nginx = TimerTest::Nginx->new( workers => 2 );
    my ( $dir, $port ) = ( $nginx->prefix, $nginx->port );
    mkdir "$dir/$_" for qw( modules mirror data );
    chmod 0777, "$dir/mirror", "$dir/data";
    copy( timer_module(), "$dir/modules/ngx_http_timer_module.so" );
    copy( $_, "$dir/modules/" ) for @found;
    copy( "$examples/rates.js", "$dir/conf/" );
    my $text = slurp("$examples/sync.conf");
    for my $change (
        [ qr/127\.0\.0\.1:8080/                => "127.0.0.1:$port" ],
        [ qr/127\.0\.0\.1:8081/                => "127.0.0.1:$other" ],
        [ qr{/var/lib/nginx-keyval/flags\.json} => "$dir/data/flags.json" ],
        [ qr/every=10s/                        => 'every=200ms' ],
        [ qr/logs\/error\.log notice/        => 'logs/error.log info' ],
        [ qr/worker_processes auto/            => 'worker_processes 2' ],
        [ qr/location \/status\//              => 'location = /ready { return 200; } location /status/' ],
        [ qr/root( +)mirror/                   => "root $dir/mirror" ],
        [ qr/location = \/load \{/             => "location = /load { client_body_in_single_buffer on; proxy_pass http://127.0.0.1:$other/keep; }\nlocation = /keep { access_log $dir/logs/load.log load;" ],
        )
    {
        my ( $pattern, $replacement ) = @$change;
        $text =~ s/$pattern/$replacement/g or fail("there is no $pattern");
    }
    $text =~ s/#$more#//g if $more;
    my $path  = ( $more // '' ) eq 'lua' ? lua_path() : '';
    my $temps = join ' ', map {"${_}_temp_path logs/${_}_temp;"} qw( client_body proxy fastcgi uwsgi scgi );
    $text =~ s/^http \{$/http { log_format load '\$content_length \$http_content_type'; timer_state logs\/timers.state; access_log off; $path $temps/m;
    $nginx->write_conf( conf => $text );
    return $nginx;
}

# What needs no other module.
{
    my $nginx = example();
    my ( $ok, $out ) = $nginx->test_conf;
    ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, 'accepted' ) or diag $out;
    $nginx->start;
    my $is = sub {
        my ( $path, $expected, $title ) = @_;
        wait_until { $nginx->get($path)->{body} eq $expected };
        return is( $nginx->get($path)->{body}, $expected, $title );
    };
    $is->( '/feature?name=beta',  "on\n", 'JSON' );
    $is->( '/feature?name=limit', "25\n", 'a number' );
    wait_until { json( $nginx->get('/status/keyvals/blocked') )->{'192.0.2.0/24'} };
    is_deeply( json( $nginx->get('/status/keyvals/blocked') ), { '192.0.2.0/24' => 1, '2001:db8:bad::/48' => 'since yesterday' }, 'lines' );
    is( json( $nginx->get('/status/keyvals') )->{keyvals}[0]{etag}, '"1"', 'an etag' );
    ok( $nginx->wait_log( qr/timer "sync-flags": run succeeded: status 304/, 2 ), 'only changes are transferred' );
    lacks( $nginx->log, qr/run failed/, 'no run has failed' );
    wait_until { -s $nginx->prefix . '/logs/load.log' };
    like( slurp( $nginx->prefix . '/logs/load.log' ), qr/\A\d{2} text\/plain$/m, 'push' );
    $is->( '/prices.json', '{"apple":1.20}', 'a mirror' );
    $nginx->stop;
}

for my $way ( [ lua => 'ngx_http_lua_module', '/lua-rate?name=eur' ], [ njs => 'ngx_http_js_module', '/njs-rate?name=eur' ] ) {
    my ( $name, $module, $path ) = @$way;
    SKIP: {
        skip "the module for $name is not installed", 1 if !grep {/$module/} @found;
        my $nginx = example($name);
        my ( $ok, $out ) = $nginx->test_conf;
        skip "the module for $name is for another nginx", 1 if !$ok && $out =~ /binary compatible|version \d+ instead of/;
        skip "njs is too old for js_shared_dict_zone",    1 if !$ok && $out =~ /unknown directive "js_shared_dict_zone"/;
        ok( $ok, "$name: accepted" ) or diag $out;
        $nginx->start;
        wait_until { $nginx->get($path)->{body} eq "1.08\n" };
        is( $nginx->get($path)->{body}, "1.08\n", $name );
        $nginx->stop;
    }
}

done_testing;
