package TimerTest::Nginx;

# One nginx in a scratch prefix: written, started, signalled, watched, stopped, its log judged.
#
#     my $nginx = TimerTest::Nginx->new(
#         workers => 2,
#         server  => 'location @x { timer x every=50ms; return 204; }',
#     );
#     $nginx->start;
#     $nginx->wait_log( qr/timer "x": run succeeded/, 3 );
#     $nginx->signal('HUP');
#     $nginx->stop;                 # QUIT, waits, and one test: the log holds no alert
#
# As root the workers are "nobody", as in any installation.  With TEST_NGINX_WRAPPER (or wrapper =>)
# the binary is run through that command, for instance "valgrind --quiet".

use strict;
use warnings;

use Carp qw( croak );
use POSIX ();
use Test::More ();
use Time::HiRes qw( sleep );
use TimerTest;

# What no log may hold: alerts, crashes, panics, what sanitizers and valgrind find.
our $BAD_LINE = qr/\[(?:alert|emerg)\]|exited on signal|Sanitizer: |:\d+: runtime error: |panicked at|\A==\d+== /;

my @running;    # what END has to stop

# Options: main, events, http, server (configuration text for these places), conf (a whole file
# instead), workers (1), connections (512), log_level (info), daemon (off), master (on), allow
# (patterns of log lines that may be alerts), wrapper, prefix, no_module, binary, state (the path of
# timer_state, or "memory"; "default" writes none; else a file in the prefix), faults (a TimerTest::Faults).
sub new {
    my ( $class, %option ) = @_;

    my $self = bless {
        workers     => 1,
        connections => 512,
        log_level   => 'info',
        daemon      => 0,
        master      => 1,
        allow       => [],
        wrapper     => $ENV{TEST_NGINX_WRAPPER} // '',
        binary      => nginx_binary(),
        main        => '',
        events      => '',
        http        => '',
        server      => '',
        state       => undef,
        %option,
    }, $class;

    $self->{prefix} //= scratch_dir();
    $self->{port}   //= free_port();
    mkdir "$self->{prefix}/$_" for qw( logs conf html );

    $self->write_conf;
    return $self;
}

sub prefix     { return $_[0]{prefix} }
sub port       { return $_[0]{port} }
sub pid        { return $_[0]{pid} }
sub error_log  { return "$_[0]{prefix}/logs/error.log" }
sub access_log { return "$_[0]{prefix}/logs/access.log" }
sub conf_file  { return "$_[0]{prefix}/conf/nginx.conf" }
sub log        { return slurp( $_[0]->error_log ) }

# The configuration, from what new() was told, with changes.
sub write_conf {
    my ( $self, %change ) = @_;

    @$self{ keys %change } = values %change;
    spew( $self->conf_file, $self->{conf} // $self->_conf );
    return $self;
}

sub _conf {
    my ($self) = @_;

    my $load   = $self->{no_module} ? '' : load_module();
    my $master = $self->{master}    ? '' : 'master_process off;';
    my $state  = $self->{state} // "$self->{prefix}/timers.state";
    $state = $self->{no_module} || $state eq 'default' ? '' : "timer_state $state;";
    # A binary that nginx itself starts (USR2) has no other environment than this.
    my @env    = grep { defined $ENV{$_} } qw( ASAN_OPTIONS LSAN_OPTIONS );
    my %env    = ( ( map { $_ => 1 } @env ), $self->_environment );
    my $env    = join ' ', map {"env $_;"} sort keys %env;
    my $temps  = join "\n    ",
        map {"${_}_temp_path $self->{prefix}/${_}_temp;"} qw( client_body proxy fastcgi uwsgi scgi );

    return <<"CONF";
$load
$env
worker_processes $self->{workers};
$master
pid $self->{prefix}/logs/nginx.pid;
error_log $self->{prefix}/logs/error.log $self->{log_level};
$self->{main}
events {
    worker_connections $self->{connections};
    accept_mutex off;
    $self->{events}
}
http {
    access_log off;
    $temps
    $state
    root $self->{prefix}/html;
    $self->{http}
    server {
        listen 127.0.0.1:$self->{port};
        server_name localhost;
        location = /ready { return 200 "\$pid\\n"; }
        $self->{server}
    }
}
CONF
}

sub _environment {
    my ($self) = @_;
    return $self->{faults} ? $self->{faults}->environment : ();
}

# What starts it.
sub command {
    my ( $self, @more ) = @_;
    return (
        split( ' ', $self->{wrapper} ),
        $self->{binary}, '-p', "$self->{prefix}/", '-c', $self->conf_file,
        '-e', $self->error_log, @more,
    );
}

# nginx -t: answers (true if accepted, what it printed).
sub test_conf {
    my ($self) = @_;
    my ( $status, $out ) = run_command( $self->command('-t') );
    return ( $status eq '0', $out );
}

# Starts nginx and waits until it serves (or, with ready => sub, until that is true).
sub start {
    my ( $self, %option ) = @_;

    my $stderr = "$self->{prefix}/logs/stderr.log";
    my $how    = $self->{daemon} ? 'on' : 'off';

    my $child = fork // croak "fork: $!";
    if ( !$child ) {
        open STDIN,  '<',  '/dev/null';
        open STDOUT, '>>', $stderr;
        open STDERR, '>>', $stderr;
        my @command = $self->command( '-g', "daemon $how;" );
        %ENV = ( %ENV, $self->_environment );
        exec {$command[0]} @command or POSIX::_exit(127);
    }
    push @running, $self;

    if ( $self->{daemon} ) {
        my $status = reap($child);
        croak "nginx did not start: " . $self->output if !defined $status || $status != 0;
        wait_until { slurp("$self->{prefix}/logs/nginx.pid") =~ /\d/ } or croak 'no pid file';
        ( $self->{pid} ) = slurp("$self->{prefix}/logs/nginx.pid") =~ /(\d+)/;
        delete $self->{child};
    }
    else {
        $self->{pid} = $self->{child} = $child;
    }

    # Not by one worker only, while the master has still to start the others.
    my $whole = sub { !$self->{master} || children_of( $self->{pid} ) >= $self->{workers} };
    my $ready = $option{ready} // sub { $self->get('/ready')->{status} == 200 && $whole->() };
    my $is_ready = wait_until { $ready->() || !$self->alive };
    croak 'nginx is not ready: ' . $self->_tail if !$is_ready;
    if ( !$self->alive ) {
        my $output = $self->output;
        $self->kill_all;
        croak "nginx did not start: $output";
    }

    return $self;
}

sub alive {
    my ($self) = @_;
    return 0 if !$self->{pid};
    return 1 if is_alive( $self->{pid} );
    if ( my $child = delete $self->{child} ) {
        $self->{status} = reap($child);
    }
    return 0;
}

sub output {
    my ($self) = @_;
    return slurp("$self->{prefix}/logs/stderr.log") . $self->log;
}

sub signal {
    my ( $self, $signal, $pid ) = @_;
    kill $signal, $pid // $self->{pid} or croak "kill $signal: $!";
    return $self;
}

# HUP, and waits until a whole new generation of workers is there; answers the pids of the old one.
sub reload {
    my ($self) = @_;
    my @old = $self->workers;
    # The master may not have told of the last of them yet.
    my %old = map { $_ => 1 } @old, children_of( $self->{pid} );
    $self->signal('HUP');
    wait_until { ( grep { !$old{$_} } $self->workers ) >= $self->{workers} } or croak 'no reload';
    $self->{old} = \%old;
    return @old;
}

# The same, and waits until the old generation is gone.
sub reload_all {
    my ($self) = @_;
    my @old = $self->reload;
    $self->wait_gone( \@old ) or croak 'old workers stay';
    return @old;
}

# The pids of the workers that are not shutting down, in the order in which they were started; from
# the log (notice), as under valgrind nginx's process titles are not to be seen.
sub workers {
    my ($self) = @_;
    my $log     = $self->log;
    my %child   = map { $_ => 1 } children_of( $self->{pid} );
    my %leaving = map { $_ => 1 } $log =~ /(\d+)#\d+: (?:gracefully shutting down|exiting)$/mg;
    return grep { $child{$_} && !$leaving{$_} } $log =~ /: start worker process (\d+)$/mg;
}

# Waits until all these processes are gone; true if they are, else a failed test.
sub wait_gone {
    my ( $self, $pids, $seconds ) = @_;
    my @alive;
    return poll_until( sub { !( @alive = grep { is_alive($_) } @$pids ) }, $seconds )
        || in_vain( "the end of @$pids", "@alive live" );
}

# The pid of the worker in a slot, from the module's own line at each worker's start; the newest, and
# after reload() not one of the generation before, whose successors may not have begun yet.
sub worker_in_slot {
    my ( $self, $slot ) = @_;
    my $pid;
    my $there = sub {
        my @pids = $self->log =~ /(\d+)#\d+: timer: \d+ timers? in this worker, slot $slot\b/g;
        ($pid) = grep { is_alive($_) && !$self->{old}{$_} } reverse @pids;
    };
    poll_until($there) || in_vain("a worker in slot $slot");
    return $pid;
}

# The lines of the error log that match.
sub log_lines {
    my ( $self, $pattern ) = @_;
    return grep {/$pattern/} @{ $self->_lines };
}

# Waits until at least N lines match; answers how many do, or 0, with a failed test, if the deadline
# came first.
sub wait_log {
    my ( $self, $pattern, $count, $seconds ) = @_;
    $count //= 1;

    my ( $found, $next ) = ( 0, 0 );
    my $enough = sub {
        my $lines = $self->_lines;
        $found += grep {/$pattern/} @$lines[ $next .. $#$lines ];
        $next = @$lines;
        $found >= $count;
    };
    return $found if poll_until( $enough, $seconds );
    in_vain( "$count log lines $pattern", "$found of those" );
    return 0;
}

# The whole lines of the error log; what was read once is kept.
sub _lines {
    my ($self) = @_;

    open my $fh, '<:raw', $self->error_log or return [];
    my $inode = ( stat $fh )[1];
    if ( $inode != ( $self->{log_inode} // 0 ) ) {
        @$self{qw( log_inode log_read log_lines )} = ( $inode, 0, [] );
    }
    seek $fh, $self->{log_read}, 0;
    while ( my $line = <$fh> ) {
        chomp( my $text = $line ) or last;
        $self->{log_read} += length $line;
        push @{ $self->{log_lines} }, $text;
    }
    return $self->{log_lines};
}

sub get {
    my ( $self, $path, %option ) = @_;
    return http_request( delete $option{port} // $self->{port}, $path, %option );
}

# The numbers of a stub_status location: active, requests, reading, writing, waiting.
sub stub_status {
    my ( $self, $path ) = @_;
    my %number = ( active => -1, requests => -1, reading => -1, writing => -1, waiting => -1 );
    $self->get($path)->{body} =~ m{
        Active\ connections:\ (?<active>\d+) .*
        \d+\ \d+\ (?<requests>\d+) .*
        Reading:\ (?<reading>\d+)\ Writing:\ (?<writing>\d+)\ Waiting:\ (?<waiting>\d+)
    }xs and %number = ( %number, %+ );
    return \%number;
}

# Waits until the master, and with it everything, has ended; answers its wait status or ''. Else a
# failed test.
sub wait_exit {
    my ( $self, $seconds ) = @_;
    my @workers = children_of( $self->{pid} );
    my $ended = poll_until( sub { !$self->alive }, $seconds ) || in_vain( 'the end of nginx', $self->_tail );
    return $ended && $self->wait_gone( \@workers, $seconds ) ? $self->{status} // '' : undef;
}

# Ends nginx with a signal (QUIT) and tests that it went and that its log is clean.
sub stop {
    my ( $self, $signal ) = @_;

    $self->signal( $signal // 'QUIT' ) if $self->alive;
    my $status = $self->wait_exit;
    $self->kill_all;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    Test::More::ok( defined $status, 'nginx has ended' ) or Test::More::diag( $self->_tail );
    # The master kills who is not gone a second after TERM: a sanitizer looks for leaks for longer at times.
    push @{ $self->{allow} }, qr/exited on signal 9/ if ( $signal // '' ) eq 'TERM' && nginx_is_watched();
    $self->clean_log;
    return $status;
}

# One test: no alert, no emerg, no crash, no sanitizer's finding, but for those allowed.
sub clean_log {
    my ($self) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @bad = $self->bad_lines;
    return Test::More::ok( !@bad, 'the log is clean' )
        || Test::More::diag( join "\n", @bad > 20 ? ( @bad[ 0 .. 19 ], '...' ) : @bad );
}

sub bad_lines {
    my ($self) = @_;

    my @bad = grep {/$BAD_LINE/} split /\n/, $self->output;

    for my $allowed ( @{ $self->{allow} } ) {
        @bad = grep { !/$allowed/ } @bad;
    }
    return @bad;
}

sub _tail {
    my ($self) = @_;
    my @lines = split /\n/, $self->output;
    return join "\n", @lines > 40 ? @lines[ -40 .. -1 ] : @lines;
}

# What is left of this nginx, by pid.
sub kill_all {
    my ($self) = @_;

    my @pids = $self->{pid} ? ( $self->{pid}, children_of( $self->{pid} ) ) : ();
    if ( $self->alive ) {
        kill 'KILL', @pids;
        poll_until( sub { !$self->alive }, 5 );
    }
    @running = grep { $_ != $self } @running;
    return;
}

my $creator = $$;

END {
    if ( $$ == $creator ) {
        local ( $?, $!, $@ );
        my @all = @running;
        $_->kill_all for @all;
    }
}

1;
