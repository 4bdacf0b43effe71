package TimerTest::Bench;

# An nginx with one worker whose cost per run, or per request, is measured.
#
#     my $subject = TimerTest::Bench->timers( 100, '10ms' );            # ours: return 204, state in a file
#     my $subject = TimerTest::Bench->lua_timers( 100, 0.01 );          # ngx.timer.every, whose callback counts
#     my ( $calls, $runs ) = $subject->system_calls(2);                 # by strace, over two seconds
#     my $instructions     = TimerTest::Bench->timers( 100, '1s', callgrind => 'all' )->instructions_per_run(5);
#
# CPU time is that of the worker, without strace or valgrind.  Counts are exact: system calls between two
# answers of the worker itself, instructions between two of its dumps.

use strict;
use warnings;

use Carp qw( croak );
use File::Basename qw( basename );
use IO::Socket::INET ();
use List::Util qw( min sum0 );
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Nginx;

# Options: idle (there are no runs), runs ("stub_status" or "number": what /count answers),
# callgrind ("all": nginx runs under it; "requests": and only what it does for clients' requests, from the
# end of their headers on, is counted); and those of TimerTest::Nginx.
sub new {
    my ( $class, %option ) = @_;

    my $self = bless { runs => 'stub_status', requests => 0 }, $class;
    $self->{$_} = delete $option{$_} for grep { exists $option{$_} } qw( runs callgrind idle );
    if ( my $how = $self->{callgrind} ) {
        # Dumped by the worker.
        $self->{dumps} = scratch_dir();
        chmod 0777, $self->{dumps};
        # nginx calls this function for a file, and neither for a run of "return" nor for /count.
        $option{wrapper} = "valgrind --quiet --tool=callgrind --callgrind-out-file=$self->{dumps}/of.%p"
            . ' --dump-before=ngx_http_map_uri_to_path';
        # A run does not come by this one.
        $option{wrapper} .= ' --toggle-collect=ngx_http_process_request' if $how eq 'requests';
    }
    my $server = delete $option{server} // '';
    $server .= 'location = /count { stub_status; }' if $self->{runs} eq 'stub_status';
    $self->{nginx} = TimerTest::Nginx->new(
        log_level => 'notice', connections => 1024, %option,
        http   => 'keepalive_requests 1000000; keepalive_timeout 600s; ' . ( $option{http} // '' ),
        server => $server,
    );
    spew( $self->{nginx}->prefix . '/html/mark', 'x' );
    $self->{nginx}->start;
    # The master writes whom it has started when that may answer already.
    wait_until { ( $self->{worker} ) = $self->{nginx}->workers } or croak 'no worker';
    return $self;
}

# So many timers that do "return 204", together.
sub timers {
    my ( $class, $count, $every, %option ) = @_;
    my $more = delete $option{timer} // 'offset=0';
    return $class->new( server => timer_locations( $count, "every=$every $more" ), %option );
}

sub timer_locations {
    my ( $count, $parameters ) = @_;
    return join '', map {"location \@t$_ { timer t$_ $parameters; return 204; }\n"} 1 .. $count;
}

# The same without timers.
sub locations {
    my ($count) = @_;
    return join '', map {"location \@t$_ { return 204; }\n"} 1 .. $count;
}

# What load_module needs for a module of the distribution's in this nginx; nothing where there is none, or one
# for another nginx.
sub _load {
    my (@files) = @_;
    my ($folder) = grep { -e "$_/$files[-1]" } qw( /usr/lib/nginx/modules /usr/share/nginx/modules );
    return if !$folder;
    my $load = join ' ', map {"load_module $_;"} grep {-e} map {"$folder/$_"} @files;
    my ($fits) = TimerTest::Nginx->new( main => $load, no_module => 1 )->test_conf;
    return $fits ? $load : ();
}

sub lua_module { return _load(qw( ndk_http_module.so ngx_http_lua_module.so )) }

# The same of njs, if it is one that knows js_periodic.
sub js_module {
    my $load = _load('ngx_http_js_module.so') // return;
    my ( undef, $says ) = TimerTest::Nginx->new( main => $load, no_module => 1, server => 'location @x { js_periodic; }' )->test_conf;
    return $says =~ /unknown directive/ ? () : $load;
}

# So many of OpenResty's timers, whose callback counts; /count answers with the number. With times => 1 it
# takes the time, too, for drift().
sub lua_timers {
    my ( $class, $count, $seconds, %option ) = @_;
    my $load = lua_module() // croak 'the Lua module is missing';
    my $take = delete $option{times} ? 'ngx.update_time() last = ngx.now() first = first or last' : '';
    return $class->new(
        %option,
        main      => $load,
        no_module => 1,
        runs      => 'number',
        http      => <<"CONF",
    lua_max_running_timers 20000;
    lua_max_pending_timers 20000;
    init_worker_by_lua_block {
        count, first, last = 0, nil, nil
        local function tick() count = count + 1 $take end
        for i = 1, $count do assert(ngx.timer.every($seconds, tick)) end
    }
CONF
        server => 'location = /count { content_by_lua_block { ngx.say(count) } }'
            . 'location = /times { content_by_lua_block { ngx.say(count, " ", first, " ", last) } }',
    );
}

# So many of njs'. Each call has variables of its own: the callback counts in a shared dictionary.
sub js_timers {
    my ( $class, $count, $seconds, %option ) = @_;
    my $load   = js_module() // croak 'no njs that has js_periodic';
    my $script = spew( scratch_dir() . '/timers.js', <<'JS' );
function tick() { ngx.shared.runs.incr('count', 1, 0); }
function count(r) { r.return(200, `${ngx.shared.runs.get('count') || 0}\n`); }
export default { tick, count };
JS
    my $every = 1000 * $seconds . 'ms';
    return $class->new(
        %option,
        main      => $load,
        no_module => 1,
        runs      => 'number',
        http      => "js_import timers from $script; js_shared_dict_zone zone=runs:32k type=number;",
        server    => 'location = /count { js_content timers.count; }'
            . join( '', map {"location \@t$_ { js_periodic timers.tick interval=$every; }\n"} 1 .. $count ),
    );
}

# Seconds by which the last callback of a timer came later than its period says, counted from the first.
sub drift {
    my ( $self, $period ) = @_;
    my ( $count, $first, $last ) = split ' ', $self->get('/times')->{body};
    return $last - $first - ( $count - 1 ) * $period;
}

# The objects of which callgrind tells, by their names in mark().
sub object {
    my ( $instructions, $which ) = @_;
    my $file = { module => basename( timer_module() ), nginx => basename( nginx_binary() ), libc => 'libc.so.6' }->{$which};
    return $instructions->{$file} // 0;
}

sub nginx  { return $_[0]{nginx} }
sub worker { return $_[0]{worker} }

sub get {
    my ( $self, $path ) = @_;
    my $answer = $self->{nginx}->get($path);
    croak "no answer for $path: " . $self->{nginx}->output if !$answer->{status};
    $self->{requests}++;
    return $answer;
}

# How many runs there were since the start.  A number to be subtracted from a later one.
sub runs {
    my ($self) = @_;
    my $body = $self->get('/count')->{body};
    return $body + 0 if $self->{runs} eq 'number';
    my ($all) = $body =~ /^ *\d+ +\d+ +(\d+)/m or croak "no numbers: $body";
    return $all - $self->{requests};
}

# Ends nginx; an error in its log is one of the measurement.
sub stop {
    my ($self) = @_;
    my $nginx = $self->{nginx};
    $self->resume;
    $nginx->signal('QUIT');
    my $ended = $nginx->wait_exit;
    $nginx->kill_all;
    my @bad = $nginx->bad_lines;
    croak "nginx: @bad[ 0 .. ( @bad > 5 ? 4 : $#bad ) ]" if @bad;
    croak 'nginx has not ended' if !defined $ended;
    return;
}

sub pause { my ($self) = @_; stand_still( $self->{worker} ); return $self }

sub resume { my ($self) = @_; kill 'CONT', $self->{worker}; return $self }

# Seconds of the processor that the worker has had, to the nanosecond.
sub cpu { my ($self) = @_; return cpu_of( $self->{worker} ) }

# The same of the master and the worker.
sub cpu_of_all { my ($self) = @_; return cpu_of( $self->{nginx}->pid ) + $self->cpu }

sub cpu_of {
    my ($pid) = @_;
    my ($ns) = slurp("/proc/$pid/schedstat") =~ /\A(\d+) / or croak "process $pid is gone";
    return $ns / 1e9;
}

# The worker's memory in bytes: what it shares with no other process, and all that is resident.
sub memory {
    my ($self) = @_;
    my $rollup = slurp("/proc/$self->{worker}/smaps_rollup");
    return {
        private  => 1024 * sum0( $rollup =~ /^Private_(?:Clean|Dirty): +(\d+) kB/mg ),
        resident => 1024 * sum0( $rollup =~ /^Rss: +(\d+) kB/m ),
    };
}

# For so many seconds, and until there was a run: { cpu, runs, seconds }.
sub window {
    my ( $self, $seconds ) = @_;
    my ( $runs, $cpu, $began ) = ( $self->runs, $self->cpu, time );
    my $had = 0;
    do {
        sleep $seconds;
        $had = $self->runs - $runs;
    } while !$had && !$self->{idle} && time < $began + 30 * $TimerTest::SLOW;
    my ( $spent, $took ) = ( $self->cpu - $cpu, time - $began );
    croak 'no runs' if !$had && !$self->{idle};
    return { cpu => $spent, seconds => $took, runs => $had };
}

# System calls of the worker between two of its answers to us, without those of these two connections:
# { NAME => calls per run }, and the number of runs.
sub system_calls {
    my ( $self, $seconds ) = @_;

    my $trace  = scratch_dir() . '/trace';
    my $stderr = "$trace.stderr";
    my $strace = spawn( $stderr, 'strace', '-o', $trace, '-p', $self->{worker} );
    wait_until { slurp($stderr) =~ /attached/ } or croak 'strace: ' . slurp($stderr);
    my $runs = $self->runs;
    sleep $seconds;
    $runs = $self->runs - $runs;
    stop_process($strace);
    croak 'no runs' if !$runs;

    # nginx has one thread; a connection's calls name its descriptor first, or third with epoll_ctl().
    my ( %calls, %ours, $counted );
    my $answers = 0;
    for ( split /\n/, slurp($trace) ) {
        my ( $name, $arguments ) = /\A(\w+)\((.*)/ or next;
        if ( $name eq 'accept4' ) {
            $ours{$1} = 1 if / = (\d+)(?: |\z)/;
            next;
        }
        my ($fd) = $name eq 'epoll_ctl' ? $arguments =~ /\A\d+, \w+, (\d+)/ : $arguments =~ /\A(\d+)/;
        if ( defined $fd && $ours{$fd} ) {
            $answers++ if $name =~ /\A(?:writev|sendto|write)\z/;
            delete $ours{$fd} if $name eq 'close';
            next;
        }
        $calls{$name}++ if $answers == 1;
    }
    croak "strace saw $answers of 2 answers" if $answers < 2;
    return ( { map { $_ => $calls{$_} / $runs } keys %calls }, $runs );
}

# The instructions that the worker has executed in user space since the last mark, or its start: by the
# object that they are in ("nginx", "libc.so.6", ...), and "all".
sub mark {
    my ($self) = @_;
    $self->get('/mark')->{status} == 200 or croak 'no /mark';
    $self->{dumped}++;
    return _instructions_in( $self->_dump );
}

sub _dump { my ($self) = @_; return "$self->{dumps}/of.$self->{worker}.$self->{dumped}" }

# Of the runs that instructions_per_run() has counted: instructions per run, by function.
sub functions { return $_[0]{functions} }

# What a file of callgrind's says, by object or by function (which => "fn").  A line of costs after "calls="
# tells of what was called, again.
sub _instructions_in {
    my ( $dump, $which ) = @_;
    $which //= 'ob';
    my ( %name, %instructions, $of, $called );
    for ( split /\n/, slurp($dump) ) {
        if ( my ( $c, $id, $name ) = /\A(c?)$which=\((\d+)\)(?: (.*))?/ ) {
            $name{$id} = $which eq 'ob' ? basename($name) : $name if defined $name;
            $of = $name{$id} if !$c;
        }
        elsif (/\Acalls=/) { $called = 1 }
        elsif (/\A[-+*\d]\S* (\d+)\z/) {
            $instructions{$of} += $1 if !$called;
            $called = 0;
        }
        elsif (/\Atotals: (\d+)/) { $instructions{all} = $1 }
    }
    $instructions{all} or croak "no totals in $dump";
    return \%instructions;
}

# One as often as the other says, less.
sub _difference {
    my ( $from, $less, $count ) = @_;
    return { map { $_ => ( $from->{$_} - ( $less->{$_} // 0 ) ) / $count } keys %$from };
}

# Instructions per run of timers of one second, over so many seconds, less what the count costs.  The
# marks lie between two due times, where nothing runs.
sub instructions_per_run {
    my ( $self, $seconds ) = @_;
    $self->_await_quiet;
    my $first = $self->runs;
    $self->mark;
    sleep $seconds;
    $self->_await_quiet;
    my $runs = $self->runs - $first;
    my $all  = $self->mark;
    $self->{functions} = _difference( _instructions_in( $self->_dump, 'fn' ), {}, $runs );
    # The same again, and no runs meanwhile.
    $self->_await_quiet;
    $self->mark;
    $self->runs;
    my $counting = $self->mark;
    croak 'no runs' if !$runs;
    return _difference( $all, $counting, $runs );
}

# Waits until a turn of timers is over that has just begun.
sub _await_quiet {
    my ($self) = @_;
    my $spent = sub { slurp("/proc/$self->{worker}/schedstat") =~ /\A(\d+)/ ? $1 : croak 'the worker is gone' };
    my $before = $spent->();
    wait_until { $spent->() > $before + 2e6 } or croak 'nothing runs';
    my $last = 0;
    while ( $last != ( my $now = $spent->() ) ) {
        $last = $now;
        sleep 0.1;
    }
    return;
}

# Seconds of the processor's time that requests cost the worker, on one connection, for so long.
sub client_window {
    my ( $self, $path, $seconds ) = @_;
    my $client = $self->client;
    $client->($path) for 1 .. 20;
    my ( $cpu, $began, $requests ) = ( $self->cpu, time, 0 );
    while ( time < $began + $seconds ) {
        $client->($path);
        $requests++;
    }
    return { cpu => $self->cpu - $cpu, seconds => time - $began, runs => $requests };
}

# Instructions per request of a client, by object: the difference between few and many, each the least of
# several times, as now and then a worker does something of its own meanwhile. Of several paths each has its turn.
sub instructions_per_request {
    my ( $self, $path, $count, $times ) = @_;
    my $client = $self->client;
    my @paths  = ref $path ? @$path : $path;
    $client->( $paths[ $_ % @paths ] ) for 1 .. 20;
    my @least = ( {}, {} );
    for ( 1 .. $times ) {
        for my $many ( 0, 1 ) {
            $self->mark;
            $client->( $paths[ $_ % @paths ] ) for 1 .. 10 + $many * $count;
            my $cost = $self->mark;
            $least[$many]{$_} = min grep {defined} $least[$many]{$_}, $cost->{$_} for keys %$cost;
        }
    }
    return _difference( @least[ 1, 0 ], $count );
}

# A client with one connection that is kept: a function that requests a path, and waits for the answer.
sub client {
    my ($self) = @_;
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $self->{nginx}->port )
        or croak "connect: $!";
    return sub {
        my ($path) = @_;
        syswrite $socket, "GET $path HTTP/1.1\r\nHost: localhost\r\n\r\n";
        my $answer = '';
        until ( $answer =~ /\r\n\r\n/ ) {
            sysread( $socket, $answer, 65536, length $answer ) or croak "no answer for $path";
        }
        my ($length) = $answer =~ /^Content-Length: (\d+)/mi;
        my $whole = $+[0] + ( $length // 0 ) if $answer =~ /\r\n\r\n/;
        while ( length $answer < $whole ) {
            sysread( $socket, $answer, 65536, length $answer ) or croak "no answer for $path";
        }
        $self->{requests}++;
        return;
    };
}

1;
