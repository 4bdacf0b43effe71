#!/usr/bin/perl

# An nginx whose structures differ from those that the module was built with does not load it: one
# line says so, and what to do. The check is compiled by itself, with headers that were changed.

use strict;
use warnings;

use File::Basename qw( dirname );
use Test::More;
use TimerTest;
use TimerTest::Nginx;

my $source = dirname( timer_module() ) . '/source';
plan skip_all => "there is no $source" if !-d "$source/src";

my $nginx  = TimerTest::Nginx->new( wrapper => '' );
my $prefix = $nginx->prefix;
my $here   = dirname(__FILE__);

my @include = map {"-I$source/$_"} 'objs', map {"src/$_"} qw( core event event/modules event/quic os/unix http http/modules http/v2 http/v3 );

# The module with this change of a header; nothing to change: as it is.
sub refused {
    my ( $header, $from, $to ) = @_;
    my $dir = "$prefix/include";
    run_command( 'rm', '-rf', $dir );
    mkdir $dir or die "$dir: $!";
    if ($header) {
        my $text = slurp("$source/src/$header");
        $text =~ s/$from/$to eq 'swapped' ? "$+{b}$+{a}" : $to . ( $1 \/\/ '' )/me or return "$header has no $from";
        spew( "$dir/" . $header =~ s{.*/}{}r, $text );
    }
    my ( $status, $out ) = run_command(
        'cc', '-shared', '-fPIC', '-O0', "-I$here/../../src/nginx/core", "-I$dir", @include,
        '-o', "$prefix/layout.so", "$here/layout/module.c"
    );
    return "not compiled: $out" if $status;
    $nginx->write_conf( conf => "load_module $prefix/layout.so; pid $prefix/logs/nginx.pid; error_log stderr; events { } http { }" );
    ( $status, $out ) = run_command( nginx_binary(), '-t', '-p', "$prefix/", '-c', $nginx->conf_file );
    return $out =~ /\[emerg\].* layout differs: (\w+)/ ? $1 : $status ? "status $status: $out" : '';
}

is( refused(), '', 'as it is, it is loaded' );

# A bit-field and the one behind it.
sub swapped {
    my ($name) = @_;
    $name .= ':1' if $name !~ /:/;
    return qr/(?m)^(?<a>    unsigned +$name;\n+)(?<b>    unsigned +\w+:\d;\n)/;
}

# One field or bit more than nginx has, or one less.
my $word = '    void  *added;';
my $bit  = '    unsigned  added:1;';
my @cases = (
    # What Debian has added to 1.22.1, and what its upstream lacks.
    [ ngx_connection_t => 'core/ngx_connection.h', qr/(?m)^(    unsigned +idle:1;)/, "$bit\n" ],
    [ ngx_connection_t => 'core/ngx_connection.h', qr/(?m)^    unsigned +pipeline:1;/, '' ],
    [ ngx_connection_t => 'core/ngx_connection.h', qr/(?m)^(    unsigned +need_last_buf:1;)/, "$bit\n" ],
    [ ngx_connection_t => 'core/ngx_connection.h', qr/(?m)^(    ngx_log_t +\*log;)/, "$word\n" ],
    [ ngx_event_t      => 'event/ngx_event.h', qr/(?m)^(    unsigned +ready:1;)/, "$bit\n" ],
    [ ngx_event_t      => 'event/ngx_event.h', qr/(?m)^(    ngx_log_t +\*log;)/, "$word\n" ],
    [ ngx_event_t      => 'event/ngx_event.h', qr/(?m)^(    ngx_queue_t +queue;)/, "$word\n" ],
    [ ngx_buf_t        => 'core/ngx_buf.h', qr/(?m)^(    unsigned +sync:1;)/, "$bit\n" ],
    [ ngx_buf_t        => 'core/ngx_buf.h', qr/(?m)^(    u_char +\*start;)/, "$word\n" ],
    [ ngx_http_request_t => 'http/ngx_http_request.h', qr/(?m)^(    unsigned +blocked:8;)/, "$bit\n" ],
    [ ngx_http_request_t => 'http/ngx_http_request.h', qr/(?m)^(    unsigned +internal:1;)/, "$bit\n" ],
    [ ngx_http_request_t => 'http/ngx_http_request.h', qr/(?m)^    unsigned +root_tested:1;/, '' ],
    # What stands behind is where it was.
    ( map { [ ngx_http_request_t => 'http/ngx_http_request.h', swapped($_), 'swapped' ] } qw( header_only header_sent buffered:4 stat_reading stat_writing ) ),
    [ ngx_http_request_t => 'http/ngx_http_request.h', qr/(?m)^(    ngx_http_request_body_t +\*request_body;)/, "$word\n" ],
    [ ngx_http_core_loc_conf_t => 'http/ngx_http_core_module.h', qr/(?m)^(    unsigned +named:1;)/, "$bit\n" ],
    [ ngx_http_core_loc_conf_t => 'http/ngx_http_core_module.h', qr/(?m)^(    unsigned +auto_redirect:1;)/, "$bit\n" ],
    [ ngx_http_core_loc_conf_t => 'http/ngx_http_core_module.h', qr/(?m)^(    ngx_log_t +\*error_log;)/, "$word\n" ],
    [ ngx_http_core_srv_conf_t => 'http/ngx_http_core_module.h', qr/(?m)^(    size_t +connection_pool_size;)/, "$word\n" ],
    [ ngx_core_conf_t => 'core/ngx_cycle.h', qr/(?m)^(    ngx_uid_t +user;)/, "$word\n" ],
);

for my $case (@cases) {
    my ( $structure, $header, $from, $to ) = @$case;
    my ($name) = $from =~ /(\w+)(?::\d)?;/;
    is( refused( $header, $from, $to ), $structure, "$structure: " . ( $to eq 'swapped' ? 'behind' : $to ? 'more before' : 'without' ) . " $name" );
}

done_testing;
