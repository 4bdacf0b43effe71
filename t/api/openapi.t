#!/usr/bin/perl

# The OpenAPI description, packaging/openapi/timer_api.json, held against real answers: each path that it has is
# there, and answers with the type, the fields and the values that it says, and with no others.

use strict;
use warnings;

use FindBin ();
use JSON::PP ();
use Test::More;
use TimerTest;
use TimerTest::Etcd;
use TimerTest::Fleet;
use TimerTest::Nginx;

my $description = JSON::PP->new->decode( slurp("$FindBin::Bin/../../packaging/openapi/timer_api.json") );

my $server = TimerTest::Nginx->new( wrapper => '', server => 'location /good { return 204; } location /bad { return 500; }' );
$server->start;
my $nginx = TimerTest::Nginx->new(
    http   => "upstream group { zone group 64k; server 127.0.0.1:${\ $server->port }; server 127.0.0.1:${\ $server->port } down; }
        upstream bad { zone bad 64k; server 127.0.0.1:${\ $server->port }; }
        keyval_zone zone=flags:64k timeout=1h; keyval_zone zone=nets:64k type=ip; keyval_zone zone=none:64k type=prefix; types { } default_type text/plain;",
    server => "location /status/ { timer_api write=on keyvals=on; }
        location \@flags { timer flags every=1h; timer_keyval flags; return 200 'a 1\nb 2'; }
        location \@nets { timer nets every=1h; timer_keyval nets min=1; return 200 ''; }
        location \@plain { timer plain every=1h; return 204; }
        location \@zone { timer zone 'cron=0 3 * * MON-FRI' tz=Europe/Berlin; timer_retry 2; timer_worker any; return 204; }
        location \@off { timer off every=1h enabled=off; timer_missed skip; timer_overlap queue; return 204; }
        location \@failing { timer failing every=1h; timer_capture 1k; return 500 'why'; }
        location \@waits { timer waits every=100d; timer_retry 3 on=failure backoff=1h max=1h; return 500; }
        location /good { proxy_pass http://group; health_check uri=/good interval=200ms; }
        location /bad { proxy_pass http://bad; health_check uri=/bad interval=200ms; }",
);
$nginx->start;

# What may be there, is: runs that succeeded and failed, one in progress, pauses, checks of both kinds.
my %answer;
my $asked = $nginx;
sub answer {
    my ( $method, $path, $file ) = @_;
    my $answer = $asked->get( "/status$file", method => uc $method );
    push @{ $answer{"$method $path"} }, $answer;
    return $answer;
}
answer( post => '/timers/{name}/run', "/timers/$_/run" ) for qw( plain failing waits flags nets );
wait_until { $nginx->get('/status/timers/failing')->{body} =~ /"history":\[\{/ };
wait_until { $nginx->get('/status/timers/plain')->{body} =~ /"history":\[\{/ };
wait_until { $nginx->get('/status/timers/waits')->{body} =~ /"next_attempt":"/ };
wait_until { $nginx->get('/status/upstreams')->{body} =~ /"result":"pass".*|"result":"fail"/ };
for my $name (qw( flags nets )) {
    wait_until { $nginx->get("/status/timers/$name")->{body} =~ /"history":\[\{/ };
}
answer( get  => '/timers/{name}',        '/timers/waits' );
answer( post => '/timers/{name}/cancel', '/timers/waits/cancel' );
answer( post => '/timers/{name}/pause', '/timers/plain/pause?for=2h' );
answer( post => '/timers/{name}/pause', '/timers/off/pause' );
answer( post => '/pause',               '/pause' );
answer( get  => '/timers',              '/timers' );
answer( get  => '/timers/{name}',       "/timers/$_" ) for qw( plain zone off failing waits );
answer( post => '/resume',                '/resume' );
answer( post => '/timers/{name}/resume',  '/timers/off/resume' );
answer( get  => '/timers',                '/timers' );
answer( post => '/timers/{name}/cancel',  '/timers/plain/cancel' );
answer( get  => '/timers/{name}',         '/timers/other' );
answer( get  => '/timers/{name}/next',    '/timers/zone/next?count=2' );
answer( get  => '/next',                  '/next?cron=0+3+*+*+MON&count=2' );
answer( get  => '/next',                  '/next?cron=x' );
answer( get  => '/upstreams/{name}',      "/upstreams/$_" ) for qw( group bad );
answer( get  => '/keyvals/{name}',        "/keyvals/$_" ) for qw( flags nets none other );
answer( get  => '/health/{name}',         "/health/$_" ) for qw( plain failing );
answer( get  => $_,                       $_ ) for qw( /day /upstreams /keyvals /text /health /metrics );

# A fleet: runs on this host and on another one, in progress on either, pauses of either scope, and keys that are to be
# reset.
my $etcd = TimerTest::Etcd->start( members => 1 );
my $fleet = TimerTest::Fleet->start(
    hosts  => 2,
    etcd   => $etcd,
    timers => 'location @shared { timer shared every=1s fleet=prod; return 204; }
        location @waits { timer waits every=100d fleet=prod; timer_retry 3 on=failure backoff=1h max=1h; return 500; }',
);
wait_until { $fleet->host(0)->get('/status/timers/shared')->{body} =~ /"last":\{"node":"web/ };
$fleet->host(1)->get( '/status/timers/waits/run', method => 'POST' );
wait_until { $fleet->host(0)->get('/status/timers/waits')->{body} =~ /"holder":\{"node":"web1/ };
for my $host ( $fleet->hosts ) {
    $asked = $host;
    answer( get  => '/timers/{name}', "/timers/$_" ) for qw( shared waits );
    answer( get  => '/timers', '/timers' );
    answer( post => '/timers/{name}/cancel', '/timers/waits/cancel' );
}
answer( post => '/timers/{name}/pause', '/timers/shared/pause?scope=fleet' );
answer( get  => '/timers/{name}', '/timers/shared' );
answer( post => '/pause', '/pause?scope=fleet&for=1h' );
answer( get  => '/timers/{name}', '/timers/waits' );
answer( post => '/resume', '/resume?scope=fleet' );
answer( post => '/timers/{name}/resume', '/timers/shared/resume?scope=fleet' );
answer( get  => '/health', '/health?scope=host' );
answer( post => '/timers/{name}/reset', '/timers/shared/reset' );
$etcd->put( '/nginx-timer/prod/shared/pause', 'x' );
wait_until { $asked->get('/status/timers/shared')->{body} =~ /"state":"refused"/ };
answer( get  => '/timers/{name}', '/timers/shared' );
answer( post => '/timers/{name}/reset', '/timers/shared/reset' );

for my $path ( sort keys %{ $description->{paths} } ) {
    for my $method ( sort keys %{ $description->{paths}{$path} } ) {
        my $responses = $description->{paths}{$path}{$method}{responses};
        ok( my @got = @{ delete $answer{"$method $path"} // [] }, "$method $path: there are answers" );
        for my $got (@got) {
            my $said = $responses->{ $got->{status} } // $responses->{default};
            my ( $type, $content ) = %{ $said->{content} };
            like( $got->{headers}, qr/^content-type: \Q$type\E\b/mi, "$method $path: $got->{status} is $type" );
            next if $type ne 'application/json';
            my @wrong = differs( JSON::PP->new->decode( $got->{body} ), $content->{schema}, '' );
            is( "@wrong", '', "$method $path: $got->{status} is as it is described" ) or diag $got->{body};
        }
        ok( ( grep { $responses->{ $_->{status} } } @got ), "$method $path: one of them is no error" );
    }
}
is( "@{[ keys %answer ]}", '', 'nothing was asked that is not described' );

# Which parts of a value are not as a schema says: what this description uses of JSON Schema.
sub differs {
    my ( $value, $schema, $at ) = @_;
    if ( my $name = $schema->{'$ref'} ) {
        return differs( $value, $description->{components}{schemas}{ $name =~ s{.*/}{}r }, $at );
    }
    if ( my $one = $schema->{oneOf} ) {
        my @tries = map { [ differs( $value, $_, $at ) ] } @$one;
        return if grep { !@$_ } @tries;
        return @{ $tries[0] };
    }
    my $type = is_of($value);
    $type = 'number' if $type eq 'integer' && ( $schema->{type} // '' ) eq 'number';
    return "$at: is $type, not $schema->{type}" if $type ne $schema->{type};
    return "$at: $value" if $schema->{enum} && !grep { $_ eq $value } @{ $schema->{enum} };
    return "$at: $value" if $schema->{pattern} && $value !~ /$schema->{pattern}/;
    return "$at: $value" if ( $schema->{format} // '' ) eq 'date-time' && $value !~ /\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\z/;
    return map { differs( $value->[$_], $schema->{items}, "$at\[$_]" ) } 0 .. $#$value if $type eq 'array';
    return if $type ne 'object';
    my ( $known, $more ) = ( $schema->{properties} // {}, $schema->{additionalProperties} );
    return ( map {"$at.$_: is not there"} grep { !exists $value->{$_} } @{ $schema->{required} // [] } ),
        map {
              $known->{$_} ? differs( $value->{$_}, $known->{$_}, "$at.$_" )
            : $more        ? differs( $value->{$_}, $more,        "$at.$_" )
            : "$at.$_: is not described"
        } sort keys %$value;
}

sub is_of {
    my ($value) = @_;
    return 'null' if !defined $value;
    return 'object' if ref $value eq 'HASH';
    return 'array' if ref $value eq 'ARRAY';
    return 'boolean' if ref $value;
    my $text = JSON::PP->new->allow_nonref->encode($value);
    return $text =~ /\A"/ ? 'string' : $text =~ /\A-?\d+\z/ ? 'integer' : 'number';
}

done_testing();
