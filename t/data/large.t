#!/usr/bin/perl

# Large bodies for zones, in whatever buffers they come: a file's, a cache's, an upstream's in memory and in a
# temporary file, one that is long by itself. All of each is taken, a share in each turn of the event loop; and a
# run that is cut off in the middle leaves what was there.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;

my $KEYS  = nginx_is_watched() ? 20_000 : 120_000;

my $dir  = scratch_dir();
my $body = join '', map {"key-$_ value-$_\n"} 1 .. $KEYS;
spew( "$dir/body.txt", $body );
my $source = TimerTest::Nginx->new( no_module => 1, http => 'types { } default_type text/plain;', server => "root $dir;" );
$source->start;
my $pass = 'proxy_pass http://127.0.0.1:' . $source->port . '/body.txt;';

my %ways = (
    file       => "root $dir; rewrite ^ /body.txt break;",
    sendfile   => "root $dir; rewrite ^ /body.txt break; sendfile on; sendfile_max_chunk 0; output_buffers 1 4m;",
    direct     => "root $dir; rewrite ^ /body.txt break; directio 512;",
    cache      => "$pass proxy_cache c; proxy_cache_valid 200 1h; proxy_cache_key x;",
    memory     => "$pass proxy_max_temp_file_size 0;",
    temporary  => "$pass proxy_buffers 8 4k; proxy_buffer_size 4k; proxy_busy_buffers_size 8k;",
    unbuffered => "$pass proxy_buffering off; proxy_buffers 4 2m; proxy_buffer_size 2m; proxy_busy_buffers_size 4m;",
    filters    => "$pass gzip on; gzip_types *; sub_filter_types *; sub_filter value other; add_after_body /after;",
    captured   => "$pass timer_capture 1k; send_timeout 1ms;",
);
my @ways  = sort keys %ways;
my $nginx = TimerTest::Nginx->new(
    log_level => 'notice',
    http      => "types { } default_type text/plain; proxy_cache_path $dir/cache keys_zone=c:64k;\n"
        . join( '', map {"keyval_zone zone=$_:16m; keyval \$arg_key \$in_$_ zone=$_;\n"} @ways, 'cut' ),
    server => join( '', map {"location /run/$_ { timer $_ every=366d; timer_timeout 200s; timer_keyval $_; $ways{$_} }\n"} @ways )
        . "location /cut { timer cut every=366d; timer_timeout 1ms; timer_keyval cut; root $dir; rewrite ^ /body.txt break; }\n"
        . join( '', map {"location = /of/$_ { return 200 \$in_$_; }\n"} @ways )
        . 'location = /after { return 200 "after"; } location /status/ { timer_api write=on; }',
);
mkdir "$dir/cache";
chmod 0777, $dir, "$dir/cache";
$nginx->start;
my $api = TimerTest::Api->new( $nginx, at => '/status' );

my $last = sub { my ($name) = @_; return $api->show($name)->{last} // {} };

# Has a timer run, and answers its result.
my $run = sub {
    my ($name) = @_;
    my $before = $last->($name)->{run} // '';
    $api->order("/timers/$name/run");
    wait_until { ( $last->($name)->{run} // $before ) ne $before };
    return $last->($name);
};

for my $way (@ways) {
    # The second time the cache has it.
    for my $time ( 1, $way eq 'cache' ? 2 : () ) {
        is( $run->($way)->{outcome}, 'success', "$way, $time" );
    }
    is( $nginx->get("/of/$way?key=key-$_")->{body}, "value-$_", "$way: key $_" ) for 1, int $KEYS / 2, $KEYS;
}
my ($zones) = map { $_->{keyvals} } json( $nginx->get('/status/keyvals') );
is( join( ' ', map {"$_->{zone}:$_->{keys}"} sort { $a->{zone} cmp $b->{zone} } grep { $_->{zone} ne 'cut' } @$zones ), join( ' ', map {"$_:$KEYS"} @ways ), 'all of each' );

# Cut off while something is left.
for ( 1 .. 5 ) {
    like( $run->('cut')->{outcome}, qr/\A(?:timeout|success)\z/, 'a run that may be cut off' );
}
is( $nginx->get('/ready')->{status}, 200, 'and nginx goes on' );

$nginx->stop;
done_testing;
