#!/usr/bin/perl

# timer_cleanup as a directive: its parameters, where it may stand, and the paths that it refuses.

use strict;
use warnings;

use Cwd qw( realpath );
use File::Basename qw( dirname );
use Test::More;
use TimerTest;
use TimerTest::Conf;

my $dir = scratch_dir();
mkdir "$dir/$_" for qw( tree cache cache/below real );
symlink "$dir/real", "$dir/link";
spew( "$dir/file", '' );
my $tree = "$dir/tree";

# The body of a location with a timer.
sub with_timer { return "timer x every=1h;\n$_[0]" }

accepts( location => with_timer($_) )
    for "timer_cleanup $tree older=1d;",
    "timer_cleanup $tree older=1m match=*.part by=atime keep=100000 empty_dirs=on max=1 dry_run=on;",
    "timer_cleanup $tree/ older=60 match=[a-z]?.tmp by=mtime keep=0 empty_dirs=off dry_run=off;",
    "timer_cleanup $dir/link/not/there/yet older=1d;",
    "timer_cleanup $dir/tree/../real older=1d;",
    "timer_cleanup $tree older=1d; limit_except GET { deny all; }";

my %value = (
    older      => 'a time of at least 1m',
    keep       => 'a number up to 100000',
    max        => 'a number above 0',
    by         => '"mtime" or "atime"',
    match      => 'a pattern of file names',
    empty_dirs => '"on" or "off"',
    dry_run    => '"on" or "off"',
);
for (
    [ older => qw( 59s 0 1x -1m ) ], [ keep => qw( 100001 -1 x ) ], [ max => qw( 0 -1 x ) ], [ by => qw( ctime ) ],
    [ match => qw( [a a/b ) ], [ empty_dirs => qw( 1 ) ], [ dry_run => qw( yes ) ],
    )
{
    my ( $name, @bad ) = @$_;
    my $other = $name eq 'older' ? '' : 'older=1d';
    refuses( location => with_timer("timer_cleanup $tree $other $name=$_; #!"), qr/invalid value "\Q$_\E" in "$name" parameter, it must be \Q$value{$name}\E/ )
        for @bad;
}
refuses( location => with_timer("timer_cleanup $tree older=1d x=1; #!"), qr/invalid parameter "x=1"/ );
refuses( location => with_timer("timer_cleanup $tree older=1d older=2d; #!"), qr/duplicate "older" parameter/ );
refuses( location => with_timer("timer_cleanup $tree; #!"), qr/"timer_cleanup" must have "older" parameter/ );
refuses( location => with_timer("timer_cleanup $tree older=1d;\ntimer_cleanup $tree older=1d; #!"), qr/"timer_cleanup" directive is duplicate/ );
refuses( location => "timer_cleanup $tree older=1d; #!", qr/"timer_cleanup" requires "timer"/ );
refuses( server => "timer_cleanup $tree older=1d; #!", qr/"timer_cleanup" directive is not allowed here/ );
refuses( location => with_timer("proxy_pass http://127.0.0.1:1;\ntimer_cleanup $tree older=1d; #!"), qr/location already has a content handler/ );
refuses( location => with_timer("timer_cleanup $tree older=1d; #!\nproxy_pass http://127.0.0.1:1;"), qr/location already has a content handler/ );

# Paths: the message has them as they are written.
sub refuses_path {
    my ( $path, $why, $more ) = @_;
    return refuses( location => with_timer("timer_cleanup $path older=1d; #!") . ( $more // '' ), qr/path "\Q$path\E" $why/, "path: $path, $why" );
}

refuses_path( $_, 'must be absolute' ) for qw( tree ./tree ../tree );
refuses_path( $_, 'is not allowed: it is the root directory, or lies directly in it' ) for qw( / /var /var/../usr /tmp/.. //tmp );
refuses_path( "$dir/\$host",       'is not allowed: it must not have variables' );
refuses_path( "$dir/file",         'is not allowed: it is not a directory' );
refuses_path( "$dir/not/../there", 'is not allowed: what is before "\.\." is not there' );
refuses_path( dirname( realpath( nginx_binary() =~ m{/} ? nginx_binary() : program( nginx_binary() ) ) ), q{is not allowed: (?:nginx's binary|nginx's prefix|the configuration) lies in it} );
symlink "$dir/loop", "$dir/loop";
refuses( location => with_timer("timer_cleanup $dir/loop/x older=1d; #!"), qr/\A\Qrealpath() "$dir\E\/loop(?:\/x)?" failed \(40: Too many levels of symbolic links\)/ );

my ( undef, undef, $file ) = check_conf( location => '' );
my ( $conf, $prefix ) = ( dirname($file), dirname( dirname($file) ) );
mkdir "$conf/below";
refuses_path( $_, q{is not allowed: nginx's prefix lies in it} ) for $prefix, dirname($prefix), "$prefix/";
refuses_path( $conf, 'is not allowed: the configuration lies in it' );
refuses_path( "$conf/below", q{is not allowed: it lies in the configuration's directory} );

# Through a link, too.
symlink $prefix,       "$dir/to-prefix";
symlink "$conf/below", "$dir/to-conf";
refuses_path( "$dir/to-prefix",      q{is not allowed: nginx's prefix lies in it} );
refuses_path( "$dir/to-prefix/conf", 'is not allowed: the configuration lies in it' );
refuses_path( "$dir/to-conf",        q{is not allowed: it lies in the configuration's directory} );

# Caches of any kind, wherever they are defined.
symlink "$dir/cache", "$dir/to-cache";
for my $kind (qw( proxy fastcgi uwsgi scgi )) {
    my $cache = "${kind}_cache_path $dir/to-cache keys_zone=one:1m;";
    for ( [ "$dir/cache", 'it lies in the cache' ], [ "$dir/cache/below", 'it lies in the cache' ], [ $dir, 'the cache' ], ["$dir/to-cache", 'it lies in the cache'] ) {
        my ( $path, $why ) = @$_;
        refuses(
            http => "server {\nlocation /c/ {\ntimer c every=1h;\ntimer_cleanup $path older=1d; #!\n} }\n$cache",
            qr/path "\Q$path\E" is not allowed: $why "\Q$dir\E\/cache"/, "$kind: $path"
        );
    }
    accepts( http => "$cache server { location /c/ { timer c every=1h; timer_cleanup $tree older=1d; } }", "$kind: beside it" );
    refuses(
        http => "server {\nlocation /c/ {\ntimer c every=1h;\ntimer_cleanup $dir/link/new older=1d; #!\n} }\n"
            . "${kind}_cache_path $dir/link/new/$kind keys_zone=one:1m;",
        qr{is not allowed: the cache "\Q$dir\E/real/new/$kind" lies in it}, "$kind: not made yet, behind a link"
    );
}

done_testing;
