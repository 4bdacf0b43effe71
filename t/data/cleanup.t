#!/usr/bin/perl

# timer_cleanup on trees full of traps, as root where this is root: what is old goes, and nothing outside of the path,
# whatever lies in it, and whatever another process does to it meanwhile. In threads, and without them.

use strict;
use warnings;

use Cwd qw( realpath );
use Fcntl qw( O_CREAT O_EXCL O_NOFOLLOW O_WRONLY );
use File::Path qw( make_path remove_tree );
use IO::Socket::UNIX ();
use POSIX qw( mkfifo );
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;

# Mounts are seen by nobody else, and go with this process.
my $is_root = $> == 0;
if ( $is_root && !$ENV{TIMER_TEST_MOUNTS} ) {
    my ($status) = run_command( 'unshare', '-m', '--propagation', 'private', 'mount', '-t', 'tmpfs', 'none', '/mnt' );
    $ENV{TIMER_TEST_MOUNTS} = $status eq '0' ? 'yes' : 'no';
    exec 'unshare', '-m', '--propagation', 'private', $^X, $0 if $status eq '0';
}
my $can_mount = ( $ENV{TIMER_TEST_MOUNTS} // '' ) eq 'yes';

my $dir = realpath( scratch_dir() );
my $day = 86_400;

# Makes a file of this age in seconds, and all directories that lead to it.
sub file {
    my ( $path, $age ) = @_;
    make_path( $path =~ s{/[^/]*\z}{}r );
    spew( $path, 'content' );
    utime time - $age, time - $age, $path;
    return $path;
}

# All that is below a directory, with what a removal or a write would change.
sub look_at {
    my ($top) = @_;
    my ( %seen, @todo );
    push @todo, $top;
    while ( defined( my $path = shift @todo ) ) {
        my @stat = lstat $path or next;
        $seen{$path} = join ' ', @stat[ 1, 2, 7, 9 ];
        next if -l _ || !-d _;
        opendir my $handle, $path or next;
        push @todo, map {"$path/$_"} grep { !/\A\.\.?\z/ } readdir $handle;
    }
    return \%seen;
}

# What is left of a tree, by its names.
sub left {
    my ($top) = @_;
    return join ' ', sort grep {length} map {s{\A\Q$top\E/?}{}r} keys %{ look_at($top) };
}

# Everything that a walk may stumble over. Answers how many old files there are that can go.
sub lay_traps {
    my ( $top, $outside ) = @_;
    my $old = 0;
    file( "$outside/$_", 9 * $day ) for qw( precious dir/precious hard );
    file( "$top/$_", 9 * $day ), $old++ for 'a', 'b/c', 'b/d/e', "new\nline", "\xff\xfe\x80", ' ', '-rf', '...', 'x' x 255, '$HOME', '*';
    file( "$top/" . 'deep/' x 62 . 'last', 9 * $day ), $old++;
    file( "$top/" . "deep\ner/" x 70 . 'last', 9 * $day );
    file( "$top/young", 10 );
    symlink "$outside/precious", "$top/link";
    symlink "$outside/dir",      "$top/b/link";
    symlink '..',                "$top/b/up";
    symlink '.',                 "$top/b/loop";
    symlink $top,                "$top/b/top";
    symlink 'nowhere',           "$top/dangling";
    link "$outside/hard", "$top/hard" or die "link: $!";
    $old++;
    mkfifo( "$top/fifo", 0600 );
    IO::Socket::UNIX->new( Local => "$top/s", Listen => 1 ) or die "socket: $!";
    if ($is_root) {
        system "mknod $top/null c 1 3 2>/dev/null";
        system "mknod $top/loop b 7 0 2>/dev/null";
    }
    # A mount of another file system, of a directory of this one, and of a file.
    if ($can_mount) {
        mkdir "$top/$_" for qw( tmpfs bind );
        spew( "$top/bound", '' );
        system( 'mount', '-t', 'tmpfs', 'none', "$top/tmpfs" ) == 0 or die;
        system( 'mount', '--bind', "$outside/dir", "$top/bind" ) == 0 or die;
        system( 'mount', '--bind', "$outside/precious", "$top/bound" ) == 0 or die;
        file( "$top/tmpfs/precious", 9 * $day );
    }
    utime time - 9 * $day, time - 9 * $day, map {"$top/$_"} qw( fifo s null b deep );
    return $old;
}

my @nginx;
for my $mode (qw( threads slices )) {
    my $top = "$dir/$mode";
    my ( $traps, $outside, $race ) = ( "$top/traps", "$top/outside", "$top/race" );
    mkdir $_ for $top, $traps, $outside, $race, "$race/tree", "$race/outside";
    my $old = lay_traps( $traps, $outside );
    chmod 0777, $race, "$race/tree";

    file( "$top/kept/$_/f", $_ * $day ) for 1 .. 6;
    file( "$top/match/$_", 9 * $day ) for qw( a.part b.jpg d/c.part );
    my $read = file( "$top/read/a", 9 * $day );
    utime time, time - 9 * $day, $read;
    file( "$top/dry/d/$_", 9 * $day ) for 1 .. 3;
    file( "$top/max/$_",   9 * $day ) for 1 .. 5;
    file( "$top/own/$_",   9 * $day ) for qw( access.log error.log old );
    chmod 0777, "$top/own";
    mkdir "$top/locked";
    file( "$top/locked/$_/f", 9 * $day ) for 1 .. 3;
    file( "$top/link-target/a", 9 * $day );
    symlink "$top/link-target", "$top/linked";
    if ( !$is_root ) { chmod 0, "$top/locked/$_" for 1 .. 3 }

    my $timer = sub { my ( $name, $more ) = @_; return "location \@$name { timer $name every=366d; timer_cleanup $more; }\n" };
    my $nginx = TimerTest::Nginx->new(
        workers => 1,
        main    => $is_root ? 'user root;' : '',
        http    => "access_log $top/own/access.log combined if=\$arg_log; keyval_zone zone=z:32k state=$top/own/z.json;",
        server  => join( '',
            $timer->( traps  => "$traps older=1d" ),
            $timer->( again  => "$traps older=1d empty_dirs=on" ),
            $timer->( kept   => "$top/kept older=1d keep=3 empty_dirs=on" ),
            $timer->( match  => "$top/match older=1d match=*.part empty_dirs=on" ),
            $timer->( read   => "$top/read older=1d by=atime" ),
            $timer->( dry    => "$top/dry older=1d dry_run=on empty_dirs=on" ),
            $timer->( max    => "$top/max older=1d max=2" ),
            $timer->( own    => "$top/own older=1m" ),
            $timer->( locked => "$top/locked older=1d" ),
            $timer->( linked => "$top/linked older=1d" ),
            $timer->( gone   => "$top/gone/below older=1d" ),
            $timer->( race   => "$race/tree older=1m empty_dirs=on" ),
        )
            . "location = /log { error_log $top/own/error.log; return 200; }\n"
            . "location /client/ { timer client every=366d; timer_cleanup $traps older=1d; }\n"
            . "location /if/ { timer if every=366d; timer_cleanup $top/max older=1d; if (\$arg_x) { set \$y 1; } }\n"
            . 'location @sub { timer sub every=366d; add_after_body /client/; root html; rewrite ^ /index.html break; }'
            . 'location /status/ { timer_api write=on; }',
    );
    # What follows "http" is not known when the directive is read: no threads are asked for.
    if ( $mode eq 'slices' ) {
        my $text = slurp( $nginx->conf_file );
        $text =~ s/^(events \{.*?^\}\n)(.*)\z/$2$1/ms;
        $nginx->write_conf( conf => $text );
    }
    spew( $nginx->prefix . '/html/index.html', 'x' );
    my $api = TimerTest::Api->new($nginx);
    $nginx->start;
    push @nginx, $nginx;
    my ($worker) = $nginx->workers;
    my $threads = () = glob "/proc/$worker/task/*";
    if   ( $mode eq 'slices' ) { is( $threads, 1, 'no threads' ) }
    else                       { cmp_ok( $threads, '>', 1, 'threads' ) }
    # Put there once it has been looked for.
    file( "$top/own/z.json", 9 * $day );
    utime time - 9 * $day, time - 9 * $day, "$top/own/$_" for qw( access.log error.log );

    # Runs a timer; answers its result, and the line of the clean-up.
    my $run = sub {
        my ($name) = @_;
        my $last = sub { $api->show($name)->{last} // {} };
        my $before = $last->()->{run} // '';
        $api->order("/timers/$name/run");
        wait_until { ( $last->()->{run} // $before ) ne $before };
        my @lines = $nginx->log_lines(qr/clean-up of .* timer: "$name", run:/);
        my ($done) = ( $lines[-1] // '' ) =~ /: (removed .*?), timer: /;
        return ( $last->()->{status}, $done );
    };

    # The traps.
    my $before = look_at($outside);
    my ( $status, $done ) = $run->('traps');
    my $busy = $can_mount ? 2 : 1;
    is( $status, 200, "$mode: traps" );
    like( $done, qr/\Aremoved $old files, \d+ bytes, kept \d+, $busy errors\z/, 'what is old goes, but what is too deep or mounted' );
    is_deeply( [ grep { !m{\A\d{4}/\d\d/\d\d } } split /\n/, $nginx->log ], [], 'names of files stay within their line of the log' );
    is_deeply( look_at($outside), $before, 'nothing outside is touched' );
    is( slurp("$outside/hard"), 'content', 'not even by another name of it' );
    ok( -e "$traps/$_" || -l "$traps/$_", "there is still $_" ) for qw( young link b/link b/up b/loop b/top dangling fifo s ), $can_mount ? qw( tmpfs/precious bind/precious bound ) : ();
    ok( -d "$traps/b/d", 'a directory stays' );
    $run->('again');
    is_deeply( look_at($outside), $before, 'nor the next time' );
    ok( -d "$traps/b/d", 'what was emptied before stays' );

    # What the parameters say.
    is_deeply( [ $run->('kept') ], [ 200, 'removed 3 files, 21 bytes, kept 3, 0 errors' ], 'keep, empty_dirs' );
    is( left("$top/kept"), '1 1/f 2 2/f 3 3/f', 'the newest are left' );
    is_deeply( [ $run->('match') ], [ 200, 'removed 2 files, 14 bytes, kept 1, 0 errors' ], 'match' );
    is( left("$top/match"), 'b.jpg', 'what has another name is left' );
    is_deeply( [ $run->('read') ], [ 200, 'removed 0 files, 0 bytes, kept 1, 0 errors' ], 'by=atime' );
    is_deeply( [ $run->('dry') ], [ 200, 'removed 3 files, 21 bytes, kept 0, 0 errors, dry run' ], 'dry_run' );
    is( left("$top/dry"), 'd d/1 d/2 d/3', 'all are left' );
    is_deeply( [ $run->('max') ], [ 200, 'removed 2 files, 14 bytes, kept 0, 0 errors, stopped at "max"' ], 'max' );
    is_deeply( [ $run->('if') ],  [ 200, 'removed 3 files, 21 bytes, kept 0, 0 errors' ], 'and the rest' );
    is_deeply( [ $run->('own') ], [ 200, 'removed 1 files, 7 bytes, kept 3, 0 errors' ], 'own logs, and the state of a zone' );
    is( left("$top/own"), 'access.log error.log z.json', 'are left' );
    is_deeply( [ $run->('linked') ], [ 200, 'removed 1 files, 7 bytes, kept 0, 0 errors' ], 'a path through a link' );
    if ( !$is_root ) {
        is_deeply( [ $run->('locked') ], [ 500, 'removed 0 files, 0 bytes, kept 0, 3 errors' ], 'without rights' );
        is( scalar( $nginx->log_lines(qr/openat\(\) ".*" failed \(13: Permission denied\)/) ), 1, 'of a row the first is told' );
        chmod 0755, "$top/locked/$_" for 1 .. 3;
    }
    is_deeply( [ $run->('gone') ], [ 500, 'removed 0 files, 0 bytes, kept 0, 1 errors' ], 'a path that is not there' );
    like( ( $nginx->log_lines(qr/openat\(\)/) )[-1], qr{\[error\].*openat\(\) "$top/gone/below" failed \(2: No such file or directory\)}, 'is told' );

    # A link in the place of a part of the path, which was no link when the configuration was read.
    mkdir "$top/gone";
    file( "$outside/below/precious", 9 * $day );
    symlink "$outside/below", "$top/gone/below";
    is( ( $run->('gone') )[0], 500, 'a link is not followed' );
    unlink "$top/gone/below";
    rmdir "$top/gone";
    symlink $outside, "$top/gone";
    is( ( $run->('gone') )[0], 500, 'nor one before it' );
    ok( -e "$outside/below/precious", 'and nothing is removed' );

    # Not for clients, nor for subrequests.
    file( "$traps/last", 9 * $day );
    is( $nginx->get('/client/')->{status}, 403, 'not for a client' );
    is( ( $run->('sub') )[0], 200, 'nor for a subrequest' );
    ok( -e "$traps/last", 'nothing is removed' );

    # A process that exchanges directories and links all the time.
    file( "$race/outside/$_", 9 * $day ) for map { ( "d$_/f", "d$_/e/f" ) } 1 .. 4;
    my $victim = look_at("$race/outside");
    my $child = fork // die "fork: $!";
    if ( !$child ) {
        my $end = time + 60;
        while ( time < $end ) {
            for my $n ( 1 .. 4 ) {
                my ( $d, $e ) = ( "$race/tree/d$n", "$race/tree/d$n/e" );
                mkdir $d;
                mkdir $e;
                for ( "$d/f", "$e/f" ) { sysopen my $fh, $_, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW or next; utime 0, 0, $fh }
                rename $e, "$race/moved$n";
                symlink "$race/outside/d$n/e", $e;
                unlink $e;
                rename "$race/moved$n", $e;
                symlink "$race/outside/d$n/f", "$d/g";
                rename "$d/g", "$d/f";
                rename $d, "$race/moved$n";
                symlink "$race/outside/d$n", $d;
                unlink $d;
                rename "$race/moved$n", $d;
                remove_tree("$race/moved$n");
            }
        }
        POSIX::_exit(0);
    }
    my $removed = 0;
    my $end = time + 2;
    my $runs = 0;
    while ( $runs < 20 || time < $end ) {
        my ( $code, $line ) = $run->('race');
        $removed += ( $line // '' ) =~ /removed (\d+)/ ? $1 : 0;
        last if ++$runs >= 400;
    }
    kill 'KILL', $child;
    waitpid $child, 0;
    cmp_ok( $removed, '>', 0, "$mode: $runs runs during a race, something is removed" );
    is_deeply( look_at("$race/outside"), $victim, 'and nothing outside' );

    system 'umount', "$traps/$_" for $can_mount ? qw( tmpfs bind bound ) : ();
    $nginx->stop;
}

done_testing;
