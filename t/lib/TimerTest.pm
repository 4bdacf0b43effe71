package TimerTest;

# What all test files share: deadlines, free ports, scratch directories, commands with a time limit.
#
#     use TimerTest;
#     wait_until { -s $file };
#     my $port = free_port();
#     none_of { $_->{status} == 502 } 'none has failed', @runs;
#     lacks( $answer->{body}, qr/secret/, 'nothing is told' );
#
# What is waited for in vain is a failed test, wait_until's in void context, that of all other wait_*
# in any: nobody has to look at what they answer. That something is not there is said by none_of and
# lacks, which fail where there is nothing to look at.
#
# Nothing here or in TimerTest::* sleeps and hopes.  Everything waits for an event, with a deadline
# that is generous: a test that passes does not come near it, so its length costs nothing.

use strict;
use warnings;

use Carp qw( croak );
use Errno qw( EINTR );
use Exporter qw( import );
use Fcntl qw( :DEFAULT :flock );
use File::Basename qw( basename dirname );
use File::Copy qw( copy );
use File::Path qw( remove_tree );
use File::Temp ();
use IO::Select ();
use IO::Socket::INET ();
use POSIX qw( WNOHANG );
use Test::More ();
use Time::HiRes qw( sleep time );

our @EXPORT = qw(
    wait_until poll_until in_vain none_of lacks deadline free_port scratch_dir slurp spew run_command reap is_alive stand_still children_of
    spawn stop_process program http_request nginx_binary nginx_version nginx_is_watched timer_module load_module other_module lua_path is_static share_binaries
);

# Seconds that anything may take before it counts as lost.  TEST_NGINX_SLOW multiplies it, for
# machines and wrappers (valgrind, sanitizers) that need more.
our $DEADLINE = 30;
our $SLOW     = $ENV{TEST_NGINX_SLOW} || ( $ENV{TEST_NGINX_WRAPPER} ? 4 : 1 );

# How many answers http_request has had.
our $REQUESTS = 0;

# Whose machine this is makes no difference: messages are English, all traffic stays here, and what is
# written can be read by nginx's workers.
$ENV{LC_ALL} = 'C';
delete @ENV{ grep {/\A(?:http|https|all|no)_proxy\z/i} keys %ENV };
umask 022;

my $creator = $$;
my @scratch;
my @port_locks;

sub deadline { return time + ( shift // $DEADLINE ) * $SLOW }

# wait_until { CONDITION } SECONDS: polls until CONDITION is true and answers its value; at the
# deadline false, which is a failed test where nobody looks at it.
sub wait_until(&;$) {
    my ( $condition, $seconds ) = @_;
    my $value = poll_until( $condition, $seconds );
    in_vain('a condition') if !$value && !defined wantarray;
    return $value;
}

# A failed test, with what was waited for, and what was seen instead.
sub in_vain {
    my ( $what, @seen ) = @_;
    my $level = 0;
    $level++ while ( caller $level )[0] =~ /\ATimerTest\b/;
    local $Test::Builder::Level = $level + 2;
    Test::More::fail("waited in vain for $what");
    Test::More::diag( join "\n", @seen > 10 ? ( '...', @seen[ -10 .. -1 ] ) : @seen ) if @seen;
    return 0;
}

# One test: the block is true of none of these, and there are some.
sub none_of(&$@) {
    my ( $is, $title, @all ) = @_;
    my @found = grep { $is->() } @all;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::ok( @all && !@found, $title )
        || Test::More::diag( @all ? Test::More::explain( @found > 10 ? @found[ 0 .. 9 ] : @found ) : 'there is nothing to look at' );
}

# One test: the text matches nowhere, and there is one.
sub lacks {
    my ( $text, $pattern, $title ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::fail($title) || Test::More::diag('there is no text') if !length( $text // '' );
    return Test::More::unlike( $text, $pattern, $title );
}

# As wait_until, for who knows what else to do.
sub poll_until {
    my ( $condition, $seconds ) = @_;

    my $end   = deadline($seconds);
    my $pause = 0.002;

    while (1) {
        my $late  = time > $end;
        my $value = $condition->();
        return $value if $value;
        return $value if $late;
        sleep $pause;
        $pause = $pause * 1.3 if $pause < 0.05;
    }
}

sub nginx_binary { return $ENV{TEST_NGINX_BINARY} || 'nginx' }

# For the configuration: nothing where the module is linked into nginx.
sub load_module { return is_static() ? '' : 'load_module ' . timer_module() . ';' }

sub is_static { return ( $ENV{TEST_NGINX_TIMER_MODULE} // '' ) eq 'static' }

# What is about the file has nothing to test where there is none.
sub timer_module {
    Test::More::plan( skip_all => 'the module is linked into nginx' ) if is_static();
    return $ENV{TEST_NGINX_TIMER_MODULE}
        || croak 'TEST_NGINX_TIMER_MODULE must name ngx_http_timer_module.so';
}

# The file of another module: where nginx is, as tools/nginx-newest lays it, or where distributions have them.
sub other_module {
    my ($name) = @_;
    my $beside = dirname( dirname( nginx_binary() ) ) . '/lib/nginx/modules';
    my ($file) = grep {-e} map {"$_/$name.so"} $beside, qw( /usr/lib/nginx/modules /usr/share/nginx/modules );
    return $file;
}

# For "http", with the Lua module: where what came with it is, if not where Lua looks by itself.
sub lua_path {
    my $libraries = dirname( dirname( nginx_binary() ) ) . '/share/lua/5.1';
    return -d $libraries ? "lua_package_path '$libraries/?.lua;;';" : '';
}

my $version;

# The version as a number that compares: 1.28.3 is 1028003.
sub nginx_version {
    $version //= do {
        my ( undef, $out ) = run_command( nginx_binary(), '-v' );
        $out =~ m{/(\d+)\.(\d+)\.(\d+)} or croak "no version in \"$out\"";
        ( $1 * 1000 + $2 ) * 1000 + $3;
    };
    return $version;
}

# Does nginx run under valgrind, or with a sanitizer? Then its memory is not its own, and its pace.
sub nginx_is_watched {
    return 1 if $ENV{TEST_NGINX_WRAPPER};
    my ( undef, $out ) = run_command( nginx_binary(), '-V' );
    return $out =~ /-fsanitize/;
}

# Has nginx and the module used from where every user may read them: a checkout may be its owner's alone.
# A plain "nginx" is found by PATH, and everybody's.
sub share_binaries {
    my $dir  = scratch_dir();
    my %file = ( TEST_NGINX_BINARY => nginx_binary(), TEST_NGINX_TIMER_MODULE => $ENV{TEST_NGINX_TIMER_MODULE} // '' );
    for my $name ( grep { $file{$_} =~ m{/} } keys %file ) {
        $ENV{$name} = "$dir/" . basename( $file{$name} );
        copy( $file{$name}, $ENV{$name} ) && chmod 0755, $ENV{$name} or croak "$file{$name}: $!";
    }
    return;
}

# A TCP and UDP port that is free on every address and stays ours until this process ends: it lies
# below the range from which the kernel takes the ports of outgoing connections, and a lock file
# keeps the other test files away from it.  Of several, in a row, the first is answered.
sub free_port {
    my $count = shift // 1;
    my $low   = 10_000;
    my $high  = 32_000;

    if ( open my $fh, '<', '/proc/sys/net/ipv4/ip_local_port_range' ) {
        my ($first) = <$fh> =~ /(\d+)/;
        $high = $first - 1 if $first > $low + 5000;
    }

    for ( 1 .. 1000 ) {
        my $port  = $low + int rand( $high - $low - $count );
        my @locks = grep {$_} map { _lock_port( $port + $_ ) } 0 .. $count - 1;
        next if @locks < $count;

        push @port_locks, @locks;
        return $port;
    }

    croak 'no free port';
}

sub _lock_port {
    my ($port) = @_;

    my $locks = "/dev/shm/timer-test-ports-$>";
    mkdir $locks;

    sysopen my $lock, "$locks/$port", O_CREAT | O_RDWR or return;
    flock $lock, LOCK_EX | LOCK_NB or return;

    my $tcp = IO::Socket::INET->new( LocalAddr => '0.0.0.0', LocalPort => $port, Listen => 1, ReuseAddr => 1 )
        or return;
    my $udp = IO::Socket::INET->new( LocalAddr => '0.0.0.0', LocalPort => $port, Proto => 'udp' ) or return;
    return $lock;
}

# A directory in memory, open to nginx's worker user, removed at the end unless TEST_NGINX_NO_CLEAN.
sub scratch_dir {
    my $dir = File::Temp::mkdtemp("/dev/shm/timer-test-XXXXXXXX") or croak "mkdtemp: $!";
    chmod 0755, $dir;
    push @scratch, $dir;
    return $dir;
}

sub slurp {
    my ($path) = @_;
    open my $fh, '<:raw', $path or return '';
    local $/ = undef;
    return scalar(<$fh>) // '';
}

sub spew {
    my ( $path, $text ) = @_;
    open my $fh, '>:raw', $path or croak "$path: $!";
    print {$fh} $text;
    close $fh or croak "$path: $!";
    return $path;
}

# Runs a command to its end, its output and errors together.  Answers (exit status, output); one
# that exceeds the deadline is killed, with status "timeout".
sub run_command {
    my @command = @_;

    pipe my $read, my $write or croak "pipe: $!";
    my $pid = fork // croak "fork: $!";

    if ( !$pid ) {
        open STDIN,  '<',  '/dev/null';
        open STDOUT, '>&', $write;
        open STDERR, '>&', $write;
        close $read;
        exec {$command[0]} @command or POSIX::_exit(127);
    }

    close $write;

    my $end    = deadline();
    my $select = IO::Select->new($read);
    my $out    = '';

    while (1) {
        my $left = $end - time;
        if ( $left <= 0 || !$select->can_read($left) ) {
            next if $left > 0 && $! == EINTR;
            kill 'KILL', $pid;
            waitpid $pid, 0;
            return ( 'timeout', $out );
        }
        sysread( $read, $out, 65536, length $out ) or last;
    }

    my $status = reap($pid);
    if ( !defined $status ) {
        kill 'KILL', $pid;
        waitpid $pid, 0;
        return ( 'timeout', $out );
    }

    return ( $status, $out );
}

# The path of a program; undef if there is none.
sub program {
    my ($name) = @_;
    my ($path) = grep { -x && !-d } map {"$_/$name"} split( /:/, $ENV{PATH} ), qw( /usr/bin /usr/sbin /sbin );
    return $path;
}

my @spawned;

# Starts a daemon that stays in the foreground, its output in a file; answers its pid.  It is ended
# with this process.
sub spawn {
    my ( $output, @command ) = @_;

    my $pid = fork // croak "fork: $!";
    if ( !$pid ) {
        open STDIN,  '<',  '/dev/null';
        open STDOUT, '>>', $output;
        open STDERR, '>>', $output;
        exec {$command[0]} @command or POSIX::_exit(127);
    }
    push @spawned, $pid;
    return $pid;
}

# TERM, then KILL, for a child of ours and, by pid, for its children.
sub stop_process {
    my ($pid) = @_;
    my @children = children_of($pid);
    kill 'TERM', $pid;
    if ( !defined reap( $pid, 10 ) ) {
        kill 'KILL', $pid;
        waitpid $pid, 0;
    }
    kill 'KILL', grep { is_alive($_) } @children;
    @spawned = grep { $_ != $pid } @spawned;
    return;
}

# Waits for a child of ours and answers its wait status, undef if it does not end in time.
sub reap {
    my ( $pid, $seconds ) = @_;
    my $status;
    poll_until( sub { waitpid( $pid, WNOHANG ) == $pid and defined( $status = $? ) }, $seconds );
    return $status;
}

# Stops processes, and waits until they stand still; true if they do.
sub stand_still {
    my @pids = @_;
    kill 'STOP', @pids;
    return poll_until( sub { @pids == grep { _state($_) eq 'T' } @pids } ) || in_vain("@pids to stand still");
}

# Is there such a process, and not as a zombie?
sub is_alive {
    my ($pid) = @_;
    return _state($pid) =~ /[^ZX]/;
}

sub _state {
    my ($pid) = @_;
    my ($state) = slurp("/proc/$pid/stat") =~ /\) (\S) [^)]*\z/;
    return $state // '';
}

# The pids of a process' living children, oldest first.
sub children_of {
    my ($parent) = @_;
    my @pids;
    for my $stat ( glob '/proc/[0-9]*/stat' ) {
        my ( $pid, $state, $ppid ) = slurp($stat) =~ /\A(\d+) .*\) (\S) (\d+) [^)]*\z/s or next;
        push @pids, $pid if $ppid == $parent && $state !~ /[ZX]/;
    }
    @pids = sort { $a <=> $b } @pids;
    return @pids;
}

# One request to a port on 127.0.0.1.  Answers { status, headers, body, raw }, status 0 if no answer
# came.  Options: method, host, headers (text), body.
sub http_request {
    my ( $port, $path, %option ) = @_;

    my %answer = ( status => 0, headers => '', body => '', raw => '' );
    my $end    = deadline();
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10 * $SLOW )
        or return \%answer;

    my $body = $option{body} // '';
    my $text
        = ( $option{method} // 'GET' )
        . " $path HTTP/1.0\r\nHost: "
        . ( $option{host} // 'localhost' )
        . "\r\nConnection: close\r\n"
        . ( $option{headers} // '' )
        . ( length $body ? 'Content-Length: ' . length($body) . "\r\n" : '' )
        . "\r\n$body";

    local $SIG{PIPE} = 'IGNORE';
    syswrite $socket, $text or return \%answer;

    my $select = IO::Select->new($socket);
    while ( ( my $left = $end - time ) > 0 ) {
        $select->can_read($left) or next;
        sysread( $socket, $answer{raw}, 65536, length $answer{raw} ) or last;
    }

    if ( $answer{raw} =~ m{\AHTTP/\S+ (\d+)[^\r\n]*\r\n(.*?)\r\n\r\n(.*)\z}s ) {
        @answer{qw( status headers body )} = ( $1, $2, $3 );
        $REQUESTS++;
    }

    return \%answer;
}

# Told to stop, clean up all the same.
$SIG{$_} = sub { $$ == $creator ? exit 1 : POSIX::_exit(1) } for qw( INT TERM HUP );

# For the last line of tools/test: what was skipped here, and why.
sub _note_skipped {
    my $notes = $ENV{TEST_NGINX_SKIPPED} // return;
    my $builder = Test::More->builder;
    my %why = map { $_->{reason} => 1 } grep { ( $_->{type} // '' ) eq 'skip' } $builder->details;
    my $all = eval { Test2::API::test2_stack()->top->skip_reason };
    $why{$all} = 1 if defined $all;
    open my $fh, '>>', $notes or return;
    print {$fh} map {"$_\t$0\n"} sort keys %why;
    close $fh;
    return;
}

END {
    if ( $$ == $creator ) {
        local ( $?, $!, $@ );
        _note_skipped();
        my @all = @spawned;
        stop_process($_) for @all;
        remove_tree( @scratch, { error => \my $ignored } ) if !$ENV{TEST_NGINX_NO_CLEAN};
    }
}

1;
