#!/usr/bin/perl

# The examples in nginx-conf/, and the first ones in README.md: each is accepted, and does what it says when it is run. They run as
# they are, but for ports, and paths that point outside the prefix.

use strict;
use warnings;

use File::Basename qw( basename dirname );
use File::Copy qw( copy );
use File::Spec ();
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::Servers;
use TimerTest::Php;

my $examples = File::Spec->rel2abs( dirname(__FILE__) . '/../../nginx-conf' );
my $backend  = TimerTest::Backend->start;
my @lua      = grep {-e} map {"/usr/lib/nginx/modules/$_"} qw( ndk_http_module.so ngx_http_lua_module.so );

# An nginx with an example as its file, in a prefix as "make run" would make it, with changes to the
# text: [ pattern => replacement ], each of which must be there.
sub example {
    my ( $file, @changes ) = @_;

    my $nginx = TimerTest::Nginx->new;
    my $dir   = $nginx->prefix;
    mkdir "$dir/$_" for qw( modules conf/snippets );
    copy( timer_module(), "$dir/modules/ngx_http_timer_module.so" );
    copy( $_, "$dir/modules/" ) for @lua;
    copy( $_, "$dir/conf/snippets/" ) for glob "$examples/snippets/*.conf";

    # nginx's own conf/fastcgi.conf, in short.
    spew( "$dir/conf/fastcgi.conf", join '', map {"fastcgi_param $_;\n"} 'SCRIPT_FILENAME $document_root$fastcgi_script_name',
        'QUERY_STRING $query_string', 'REQUEST_METHOD $request_method', 'CONTENT_LENGTH $content_length',
        'REQUEST_URI $request_uri', 'SERVER_PROTOCOL $server_protocol', 'SERVER_NAME $server_name' );

    my $text = slurp("$examples/$file");
    for my $change (@changes) {
        my ( $pattern, $replacement ) = @$change;
        my $there = $text =~ s/$pattern/$replacement/g;
        ok( $there, "$file: there is $pattern" );
    }
    if ( $text !~ /client_body_temp_path/ ) {
        my $temps = join ' ', map {"${_}_temp_path logs/${_}_temp;"} qw( client_body proxy fastcgi uwsgi scgi );
        $text =~ s/^http \{$/http { $temps/m;
    }
    if ( $text !~ /timer_state/ ) {
        $text =~ s/^http \{/http { timer_state logs\/timers.state;/m;
    }
    $nginx->write_conf( conf => $text );

    my ( $ok, $out ) = $nginx->test_conf;
    ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, "$file: accepted" ) or diag $out;
    return $nginx;
}

sub start {
    my ($nginx) = @_;
    return $nginx->start( ready => sub { $nginx->get('/')->{status} } );
}

sub port_change { my ( $port, $to ) = @_; return [ qr/127\.0\.0\.1:$port\b/, "127.0.0.1:$to" ] }

# quickstart.conf, in the foreground, its log on the terminal.
{
    my ( $front, $app ) = ( free_port(), free_port() );
    my $nginx = example( 'quickstart.conf', port_change( 8090, $front ), port_change( 8091, $app ),
        port_change( 8092, free_port() ), port_change( 8093, my $away = free_port() ),
        [ qr/\[02468\]\[0-9\]/ => '[0-3]' ], [ qr/every=(?:[1235]+0?s|15s)/ => 'every=1s' ],
        [ qr/interval=1s/ => 'interval=200ms' ], [ qr/"cron=/ => '"cron=* ' ], [ qr/ offset=\d+s?/ => '' ] );
    $nginx->{port} = $front;
    start($nginx);
    my $terminal = sub { slurp( $nginx->prefix . '/logs/stderr.log' ) };
    for my $line (
        qr/timer: \d+ timers? in this worker, slot \d/,
        qr/timer "heartbeat": run succeeded: status 204, \d+ms/,
        qr/timer "digest": run succeeded: status 204/,
        qr/timer "cleanup": run failed: status 500, \d+ms/,
        qr/timer "cleanup": succeeded after \d+ failures?/,
        qr/timer "reindex": run succeeded: status 200, \d{4}ms/,
        qr/timer "report": run failed: timed out after 1000ms/,
        qr/timer "sync": attempt 1 of 3 failed: status 503, \d+ms/,
        qr/timer "sync": run succeeded: status 204, \d+ms/,
        qr/timer "newsletter": paused/,
        qr/timer "pause-newsletter": run succeeded: status 200/,
        qr/peer 127\.0\.0\.1:$away in upstream "shop" is unhealthy: upstream prematurely closed connection/,
        qr/peer 127\.0\.0\.1:$away in upstream "shop" is healthy after \d+s/,
        )
    {
        ok( wait_until( sub { $terminal->() =~ $line } ), "quickstart: $line" ) or diag $terminal->();
    }
    like( $nginx->get('/')->{body}, qr/\Aworker in slot [012], process \d+\n\z/, 'quickstart: which worker' );
    my @slots = sort keys %{ { map { $_ => 1 } $terminal->() =~ /in this worker, slot (\d)/g } };
    cmp_ok( scalar @slots, '>=', 1, "quickstart: slots @slots" );
    $nginx->signal('INT');
    is( $nginx->wait_exit, 0, 'quickstart: Ctrl-C ends it' );
    $nginx->stop;
}

# health.conf: a server that is ill, and one that is away.
{
    my $servers = TimerTest::Servers->start(5);
    my ( $front, $status ) = ( free_port(), free_port() );
    my @ports = map { port_change( 9001 + $_, $servers->port($_) ) } 0 .. 4;
    my $nginx = example( 'health.conf', @ports, port_change( 8087, $status ), [ qr/\b8086\b/ => "127.0.0.1:$front" ],
        [ qr/interval=2s/ => 'interval=200ms' ], [ qr/interval=1s/ => 'interval=200ms' ] );
    $nginx->{port} = $front;
    start($nginx);
    my $peer = sub { 'peer 127\.0\.0\.1:' . $servers->port( $_[0] ) };
    $servers->set( 0, 503 );
    $servers->set( 3, 'close' );
    $nginx->wait_log(qr/${\ $peer->(0) } in upstream "shop" is unhealthy: status 503, 3 failures/);
    $nginx->wait_log(qr/${\ $peer->(3) } in upstream "accounts" is unhealthy: upstream prematurely closed/);
    like( $nginx->get('/')->{body}, qr/\Aok ${\ $servers->port(1) }$/, 'health.conf: the other server answers' ) for 1 .. 4;
    like( $nginx->get('/accounts/')->{body}, qr/\Aok ${\ $servers->port(4) }$/, 'health.conf: the other server answers' ) for 1 .. 4;
    $servers->set( 1, 503 );
    $nginx->wait_log(qr/${\ $peer->(1) } in upstream "shop" is unhealthy/);
    like( $nginx->get('/')->{body}, qr/\Aok ${\ $servers->port(2) }$/, 'health.conf: the backup server answers' );
    $servers->set( 4, 503 );
    $nginx->wait_log(qr/${\ $peer->(4) } in upstream "accounts" is unhealthy/);
    is( $nginx->get('/accounts/')->{status}, 502, 'health.conf: no server of the other group is left' );
    like( $nginx->get('/status/text', port => $status )->{body}, qr/127\.0\.0\.1:${\ $servers->port(0) }/, 'health.conf: the text tells of the servers' );
    $servers->up($_) for 0 .. 4;
    $nginx->wait_log(qr/${\ $peer->($_) } in upstream "\w+" is healthy after \d+s/) for 0, 1, 3, 4;
    $nginx->stop;
    $servers->stop;
}

# README.md: the whole file that it begins with, and the first timer, of which the table tells.
{
    my @blocks = slurp("$examples/../README.md") =~ /^```nginx\n(.*?)^```$/msg;
    my ($whole) = grep { index( $_, 'load_module ' ) == 0 } @blocks;
    my ($first) = grep { index( $_, 'timer heartbeat ' ) > 0 } @blocks;
    ok( $whole && $first, 'README: there are both' );

    my $nginx = TimerTest::Nginx->new;
    my ( $dir, $module ) = ( $nginx->prefix, timer_module() );
    spew( "$dir/conf/fastcgi.conf", "fastcgi_param QUERY_STRING \$query_string;\n" );
    $whole =~ s{^load_module \K[^;]+}{$module}m;
    $whole =~ s{^events }{pid logs/nginx.pid; error_log logs/error.log; events }m;
    my $temps = join ' ', map {"${_}_temp_path logs/${_}_temp;"} qw( client_body proxy fastcgi uwsgi scgi );
    $whole =~ s/^http \{/http { timer_state logs\/timers.state; access_log off; $temps/m;
    $nginx->write_conf( conf => $whole );
    my ( $ok, $out ) = $nginx->test_conf;
    ok( $ok && $out !~ /\[(?:warn|error|crit|alert|emerg)\]/, 'README: the whole file is accepted' ) or diag $out;

    my $front = free_port();
    $first =~ s/127\.0\.0\.1:8088/127.0.0.1:$front/g;
    $first =~ s/every=5s/every=1s/;
    $nginx = TimerTest::Nginx->new( http => $first );
    $nginx->start;
    my $text = '';
    my $told = wait_until { ( $text = $nginx->get( '/status/text', port => $front )->{body} ) =~ /success 200  heartbeat$/m };
    ok( $told, 'README: the table tells of the first timer' ) or diag $text, $nginx->log;
    like( $text, qr/\ANEXT +LEFT +HEALTH +LAST +TOOK +OUTCOME +NAME\n.*\n\n1 timer\n\z/, 'README: as it is shown there' );
    $nginx->stop;
}

# php-cron.conf
SKIP: {
    my $php = TimerTest::Php->start( scratch_dir() );
    my $front = free_port();
    my $socket = $php ? $php->socket : '/run/php/php-fpm.sock';
    my $root   = $php ? $php->root   : '/srv/shop';
    my $nginx  = example( 'php-cron.conf', port_change( 8080, $front ), [ qr{/srv/shop} => $root ],
        [ qr{/run/php/php-fpm\.sock} => $socket ], [ qr/every=1m/ => 'every=1s' ], [ qr/every=1h/ => 'every=2s' ] );
    skip 'php-fpm is not installed', 4 if !$php;
    spew( "$root/wp-cron.php", q{<?php if ($_SERVER['TIMER'] === '') { http_response_code(403); exit('no'); }}
            . q{ file_put_contents(__DIR__ . '/seen', "wp-cron by {$_SERVER['TIMER']}\n", FILE_APPEND);} );
    spew( "$root/jobs.php", q{<?php file_put_contents(__DIR__ . '/seen', "{$_GET['job']} by {$_SERVER['TIMER']}\n", FILE_APPEND);} );
    $nginx->{port} = $front;
    start($nginx);
    ok( wait_until( sub { slurp("$root/seen") =~ /^wp-cron by wp-cron$/m } ),       'php-cron: wp-cron.php' ) or diag $nginx->log, $php->output;
    ok( wait_until( sub { slurp("$root/seen") =~ /^newsletter by newsletter$/m } ), 'php-cron: the newsletter' );
    is( $nginx->get('/wp-cron.php')->{status}, 403, 'php-cron: a client is no timer' );
    logged_times( $nginx, qr/run failed/, 0, 'php-cron: no failure' );
    $nginx->stop;
}

# notify.conf
{
    my $front = free_port();
    my $nginx = example(
        'notify.conf', [ qr/listen       8088/ => "listen 127.0.0.1:$front" ], port_change( 9001, $backend->port ), port_change( 9002, $backend->port ),
        [ qr/every=1m;/          => 'every=1s uri=/turns/500/500/500/200;' ],
        [ qr/"cron=0 3 \* \* \*"/ => 'every=1s uri=/ok' ],
    );
    $nginx->{port} = $front;
    start($nginx);
    my @told = $backend->wait_requests( 2, uri => '/send', ended => 1 );
    like( $told[0]{body}, qr/"event":"failed","timer":"import",/,    'notify: a mail' );
    like( $told[1]{body}, qr/"event":"recovered","timer":"import",/, 'notify: another one, when it is over' );
    like( ( $backend->wait_requests( 1, uri => '/hooks/T0/B0' ) )[0]{body}, qr/\A\{"text":"import: failed status 500"\}\z/, 'notify: a chat' );
    is( ( $backend->wait_requests( 1, uri => '/ping/backup' ) )[0]{method}, 'GET', 'notify: a check-in' );
    logged_times( $nginx, qr/notification/, 0, 'notify: nobody was not told' );
    $nginx->stop;
}

# cache-warming.conf
{
    my $front = free_port();
    my $nginx = example( 'cache-warming.conf', port_change( 8080, $front ), port_change( 9000, $backend->port ), [ qr/every=30s/ => 'every=1s' ] );
    $nginx->{port} = $front;
    $nginx->start( ready => sub { -s $nginx->prefix . '/logs/nginx.pid' && $backend->requests( uri => qr{^/catalogue} ) } );
    ok( $backend->wait_requests( 1, uri => qr{^/catalogue$}, ended => 1 ), 'cache-warming: a run fetches the page' );
    my $fetched = $backend->requests( uri => qr{^/catalogue$} );
    my $answer;
    wait_until { ( $answer = $nginx->get( '/catalogue', host => 'shop.example.org' ) )->{status} == 200 };
    like( $answer->{headers}, qr/X-Cache: HIT/, 'cache-warming: a client finds it' );
    ok( $backend->wait_requests( $fetched + 2, uri => qr{^/catalogue$} ) >= $fetched + 2, 'cache-warming: it is fetched again and again' );
    $answer = $nginx->get( '/other', host => 'shop.example.org' );
    like( $answer->{headers}, qr/X-Cache: MISS/, 'cache-warming: what no timer fetches is not there' );
    is( scalar $backend->requests( uri => qr{^/other} ), 1, 'cache-warming: until a client has asked' );
    logged_times( $nginx, qr/run failed/, 0, 'cache-warming: no failure' );
    $nginx->stop;
}

# servers-snippet.conf
{
    my $front = free_port();
    my $nginx = example( 'servers-snippet.conf', port_change( 8080, $front ), port_change( 9000, $backend->port ) );
    my $snippet = $nginx->prefix . '/conf/snippets/app-timers.conf';
    spew( $snippet, slurp($snippet) =~ s/every=1[mh]/every=1s/gr );
    $nginx->{port} = $front;
    start($nginx);
    for my $site (qw( one.example.org two.example.org )) {
        my $by_host = sub {
            my ( $uri, $method ) = @_;
            return wait_until { grep { $_->{headers}{host} eq $site && $_->{method} eq $method } $backend->requests( uri => qr{^$uri$} ) };
        };
        ok( $by_host->( '/tasks/mail',    'GET' ),  "servers-snippet: mail of $site" );
        ok( $by_host->( '/tasks/cleanup', 'POST' ), "servers-snippet: cleanup of $site" );
    }
    my %runs = map { ( $_->{headers}{'x-run'} // '' ) => 1 } $backend->requests( uri => qr{^/tasks/} );
    cmp_ok( scalar keys %runs, '>=', 4, 'servers-snippet: each run has its id' );
    logged_times( $nginx, qr/run failed/, 0, 'servers-snippet: no failure' );
    $nginx->stop;
}

# lua-recipe.conf
SKIP: {
    skip 'the Lua module is not installed', 1 if @lua < 2;
    my ( $fits, $why ) = TimerTest::Nginx->new( main => join ' ', map {"load_module $_;"} @lua )->test_conf;
    skip 'the Lua module is for another nginx', 1 if !$fits && $why =~ /binary compatible|version \d+ instead of/;

    my $front = free_port();
    my $nginx = example( 'lua-recipe.conf', port_change( 8080, $front ), port_change( 9000, $backend->port ), [ qr/every=10s/ => 'every=1s' ],
        [ qr/timer_timeout +5s/ => 'timer_timeout 30s' ] );
    $nginx->{port} = $front;
    start($nginx);
    ok( wait_until( sub { $nginx->get('/rates')->{body} eq "ok\n" } ), 'lua-recipe: clients get what the timer has fetched' ) or diag $nginx->log;
    my $fetched = $backend->requests( uri => qr{^/rates} );
    ok( $backend->wait_requests( $fetched + 2, uri => qr{^/rates} ) >= $fetched + 2, 'lua-recipe: it is fetched again and again' );
    is( $nginx->get('/upstream/rates')->{status}, 404, 'lua-recipe: what is internal stays so' );
    logged_times( $nginx, qr/run failed/, 0, 'lua-recipe: no failure' );
    $nginx->stop;
}

done_testing;
