package TimerTest::Servers;

# The servers of an upstream group, and the witness of what they are asked: an nginx of its own, without
# the module, that listens on so many ports.
#
#     my $servers = TimerTest::Servers->start(3);
#     ... upstream b { zone b 64k; $servers->list } ...
#     $servers->set( 1, 503 );             # the second one answers 503 from now on
#     $servers->set( 1, 'close' );         # closes without a word; "hang": never answers; "flap": 200 or 503, by chance
#     $servers->up(1);                     # 200 again
#     $servers->wait_checks( 1, 5 );       # five more checks of it
#     for my $r ( $servers->requests(1) ) { $r->{at}; $r->{uri}; $r->{is_check}; $r->{by}; $r->{status} }
#
# A request is written down when it has ended: "at" is when it came. "by" is the header X-By, which tests
# set to the pid of the worker. Changes are seen by the next request.

use strict;
use warnings;

use TimerTest;
use TimerTest::Nginx;

sub start {
    my ( $class, $count ) = @_;

    my @ports = map { free_port() } 1 .. $count;
    my $nginx = TimerTest::Nginx->new( no_module => 1, wrapper => '', log_level => 'notice', connections => 4096 );
    my $dir   = $nginx->prefix;
    mkdir "$dir/$_" for qw( 503 404 close hang flap );
    my $self = bless { nginx => $nginx, ports => \@ports, dir => $dir, seen => [], read => 0 }, $class;

    my $listen = join "\n", map {"listen 127.0.0.1:$_ backlog=1024;"} @ports;
    my $change = join "\n", map {"if (-f $dir/$_->[0]/\$server_port) { $_->[1] }"}[ 503 => 'return 503;' ],
        [ 404 => 'return 404;' ], [ close => 'return 444;' ], [ hang => 'rewrite ^ /hang last;' ], [ flap => 'rewrite ^ /flap last;' ];
    my $silent = free_port();
    $nginx->write_conf( http => <<"CONF");
    log_format asked '\$msec \$request_time \$server_port \$status \$request_uri "\$http_user_agent" "\$http_x_by" "\$http_host"';
    map \$request_id \$fails { default ''; ~^[0-7] 1; }
    server {
        $listen
        access_log $dir/logs/asked.log asked;
        keepalive_timeout 60s;
        location / {
            $change
            return 200 "ok \$server_port\\n";
        }
        location = /flap { internal; if (\$fails) { return 503; } return 200; }
        # Nobody answers there: what is accepted by the kernel is never read.
        location = /hang { internal; proxy_read_timeout 3600s; proxy_pass http://127.0.0.1:$silent; }
    }
CONF
    $self->{silent} = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => $silent, Listen => 1024, ReuseAddr => 1 )
        or die "listen: $!";
    $nginx->start;
    return $self;
}

sub port  { return $_[0]{ports}[ $_[1] ] }
sub nginx { return $_[0]{nginx} }

# The lines of an upstream block, with parameters for all.
sub list {
    my ( $self, $parameters ) = @_;
    $parameters //= 'max_fails=0';
    return join "\n", map {"server 127.0.0.1:$_ $parameters;"} @{ $self->{ports} };
}

# What it answers from now on: 503, 404, close, hang or flap.
sub set {
    my ( $self, $number, $what ) = @_;
    spew( "$self->{dir}/$what/" . $self->port($number), '' );
    return $self->up( $number, $what );
}

# It answers 200 again; or, with $but, that alone.
sub up {
    my ( $self, $number, $but ) = @_;
    unlink map { "$self->{dir}/$_/" . $self->port($number) } grep { $_ ne ( $but // '' ) } qw( 503 404 close hang flap );
    return $self;
}

# All requests up to now, or those to one server.
sub requests {
    my ( $self, $number ) = @_;

    open my $fh, '<', "$self->{dir}/logs/asked.log" or return;
    seek $fh, $self->{read}, 0;
    while ( my $line = <$fh> ) {
        chomp( my $text = $line ) or last;
        $self->{read} += length $line;
        my ( $ended, $took, $port, $status, $uri, $agent, $by, $host )
            = $text =~ /\A(\S+) (\S+) (\d+) (\d+) (\S+) "(.*?)" "(.*?)" "(.*?)"\z/
            or die "what is \"$text\"";
        push @{ $self->{seen} },
            {
            at       => $ended - $took,
            ended    => $ended,
            port     => $port,
            status   => $status,
            uri      => $uri,
            by       => $by,
            host     => $host,
            agent    => $agent,
            is_check => $agent =~ m{\Anginx/\S+ \(health check\)\z} ? 1 : 0,
            };
    }
    my $port = defined $number ? $self->port($number) : 0;
    return grep { !$port || $_->{port} == $port } @{ $self->{seen} };
}

sub checks {
    my ( $self, $number ) = @_;
    return grep { $_->{is_check} } $self->requests($number);
}

sub clients {
    my ( $self, $number ) = @_;
    return grep { !$_->{is_check} } $self->requests($number);
}

# Waits for so many more checks of a server (or of all together); true if they came, else a failed test.
sub wait_checks {
    my ( $self, $number, $more, $seconds ) = @_;
    my $from = $self->checks($number);
    return TimerTest::poll_until( sub { $self->checks($number) >= $from + $more }, $seconds )
        || in_vain( "$more checks of server " . ( $number // 'any' ), ( $self->checks($number) - $from ) . ' came' );
}

sub stop {
    my ($self) = @_;
    return $self->{nginx}->kill_all;
}

1;
