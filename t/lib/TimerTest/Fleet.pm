package TimerTest::Fleet;

# Several nginx with one configuration, as hosts of a fleet: the same timers, and a node, a port, a state file and,
# where it is asked for, a clock of its own each.
#
#     my $fleet = TimerTest::Fleet->start( etcd => $etcd, proxy => $proxy, hosts => 3, timers => timer( ... ) );
#     $fleet->host(0)->reload;
#     $fleet->set_clock( 2, 3600 );
#     $fleet->show( 1, 'x' )->{fleet}{state};
#     my @runs = $backend->requests( timer => 'x' );
#     no_start_twice( 'a leader that is killed', @runs );
#     fences_grow( 'a leader that is killed', @runs );
#
# Options: etcd, hosts (3), timers (the timers' locations, as text or as a function of the host's number), proxy (hosts
# reach etcd through this), clocks (1: of their own), ttl (10s), fleet (more parameters of timer_fleet), location
# (more lines for its location), http, main, workers (1), options (for TimerTest::Nginx), named (1: its client
# certificate has a common name).

use strict;
use warnings;

use Carp qw( croak );
use Exporter qw( import );
use POSIX qw( ceil );
use Test::More ();
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api ();
use TimerTest::Nginx;
use TimerTest::StateFile ();

our @EXPORT = qw( fleet_timer more_requests before_due host_of starts no_start_twice fences_grow holders due_times );

# A timer's location, whose requests say all that a host knows of a run.
sub fleet_timer {
    my ( $backend, $name, $parameters, $uri, $more ) = @_;
    my %headers = (
        'X-Timer'   => $name,
        'X-Node'    => '$timer_node',
        'X-Due'     => '$timer_due',
        'X-Attempt' => '$timer_attempt',
        'X-Run'     => '$timer_run',
        'X-Trigger' => '$timer_trigger',
        'X-Fence'   => '$timer_fence',
        'X-Cluster' => '$timer_fence_cluster',
        'X-Fleet'   => '$timer_fleet',
        'X-Late'    => '$timer_lateness',
        'X-Success' => '$timer_last_success',
        'X-Clock'   => '$msec',
        'X-Pid'     => '$pid',
    );
    my $headers = join ' ', map {"proxy_set_header $_ $headers{$_};"} sort keys %headers;
    $uri  //= 'fenced/ok';
    $more //= '';
    return "location \@$name { timer $name $parameters uri=/$uri fleet=prod; $more $headers proxy_pass http://127.0.0.1:${\ $backend->port }; }\n";
}

# Waits for so many more of these requests (TimerTest::Backend); answers all of them.
sub more_requests {
    my ( $backend, $count, %match ) = @_;
    my $had = $backend->requests(%match);
    return $backend->wait_requests( $had + $count, %match );
}

# What has to be ready before a time that is written in its configuration, which is so many seconds from now, or later
# where this machine takes longer: a function is told the time (Unix seconds) and which try it is. Answers both.
sub before_due {
    my ( $seconds, $prepare ) = @_;
    for my $try ( 1 .. 4 ) {
        my $due = int( time + $seconds * $try );
        $prepare->( $due, $try );
        return ( $due, $try ) if time < $due - 1;
        Test::More::note("this machine is too slow: $seconds s were not enough") if $try == 1;
    }
    croak 'not ready in time';
}

sub start {
    my ( $class, %option ) = @_;
    my $self = $class->new(%option);
    $_->start for @{ $self->{host} };
    return $self;
}

sub new {
    my ( $class, %option ) = @_;
    my $self = bless { hosts => 3, ttl => '10s', fleet => '', location => '', http => '', main => '', server => '', workers => 1, timers => '', options => {}, %option }, $class;
    if ( $self->{clocks} ) {
        my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';
        $self->{faketime} = $library // croak 'libfaketime is not installed';
        $self->{clock_dir} = scratch_dir();
    }
    $self->{host} = [];
    $self->add_host for 1 .. $self->{hosts};
    return $self;
}

# One more host, which is not started yet; answers its number.
sub add_host {
    my ( $self, %change ) = @_;
    my $n     = @{ $self->{host} };
    my @clock = ();
    my $main  = $self->{main};
    if ( $self->{clocks} ) {
        $self->set_clock( $n, 0 );
        my %env = (
            LD_PRELOAD              => $self->{faketime},
            FAKETIME_TIMESTAMP_FILE => "$self->{clock_dir}/$n",
            FAKETIME_NO_CACHE       => 1, FAKETIME_DONT_FAKE_MONOTONIC => 1,
        );
        @clock = ( wrapper => join ' ', 'env', ( map {"$_=$env{$_}"} sort keys %env ), $ENV{TEST_NGINX_WRAPPER} // '' );
        $main .= join ' ', map {"env $_;"} sort keys %env;
    }
    my $nginx = TimerTest::Nginx->new( workers => $self->{workers}, %{ $self->{options} }, @clock );
    push @{ $self->{host} }, $nginx;
    $nginx->write_conf( main => $main, $self->conf( $n, %change ) );
    return $n;
}

# What a host's nginx is configured with, with changes to the options.
sub conf {
    my ( $self, $n, %change ) = @_;
    my %o       = ( %$self, %change );
    my $timers  = ref $o{timers} ? $o{timers}->($n) : $o{timers};
    my $servers = $o{servers} // ( $o{proxy} // $o{etcd} )->servers;
    my $node    = $o{node} // "web$n";
    my $pass    = 'proxy_pass http://etcd;';
    if ( $o{etcd}{tls} && !$o{proxy} ) {
        my ( $authority, $certificate, $key ) = $o{etcd}->certificates( $o{named} );
        $pass = "proxy_pass https://etcd; proxy_ssl_certificate $certificate; proxy_ssl_certificate_key $key; "
            . "proxy_ssl_trusted_certificate $authority; proxy_ssl_verify on; proxy_ssl_name localhost;";
    }
    return (
        http   => "upstream etcd { $servers keepalive 4; }\n$o{http}",
        server => <<"CONF",
    location \@etcd {
        timer_fleet prod ttl=$o{ttl} node=$node $o{fleet};
        $o{location}
        $pass
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header X-Host $node;
        proxy_connect_timeout 1s;
    }
    location /status/ { timer_api write=on; }
    $o{server}
    $timers
CONF
    );
}

sub hosts { return @{ $_[0]{host} } }
sub host  { return $_[0]{host}[ $_[1] ] }

# The same timers with changes, taken up by a reload or at the next start.
sub change {
    my ( $self, $n, %change ) = @_;
    $self->host($n)->write_conf( $self->conf( $n, %change ) );
    return $self->host($n);
}

sub set_clock {
    my ( $self, $n, $seconds ) = @_;
    my $file = "$self->{clock_dir}/$n";
    spew( "$file.new", sprintf "%+gs\n", $seconds );
    rename "$file.new", $file or croak "$file: $!";
    return;
}

sub api { my ( $self, $n ) = @_; return $self->{api}[$n] //= TimerTest::Api->new( $self->host($n) ) }

sub show { my ( $self, $n, $timer ) = @_; return $self->api($n)->show($timer) }

sub order { my ( $self, $n, @order ) = @_; return $self->api($n)->order(@order) }

# Ends all; a test each, of its log.
sub stop {
    my ($self) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $_->signal('QUIT') for grep { $_->alive } $self->hosts;
    $_->stop for $self->hosts;
    return;
}

# The account of a host for "every=EVERY offset=OFFSET" (milliseconds): due times that it has handled, and what it says
# became of them.
sub account {
    my ( $self, $n, $timer, $every, $offset ) = @_;
    my $record = TimerTest::StateFile::read_state( $self->host($n)->prefix . '/timers.state' )->{$timer} or return;
    return TimerTest::StateFile::account( $record, $every, $offset );
}

# What a recording says.

sub host_of { return $_[0]{headers}{'x-node'} // '' }

# Requests that started a run or an attempt, less those by hand.
sub starts { return grep { ( $_->{headers}{'x-trigger'} // '' ) ne 'manual' } @_ }

sub _who {
    my ($r) = @_;
    my %h = %{ $r->{headers} };
    return sprintf '%s due %s attempt %s fence %s by %s at %.3f', @h{qw( x-timer x-due x-attempt x-fence x-node )}, $r->{arrived};
}

sub _none {
    my ( $title, $requests, @found ) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 2;
    return Test::More::fail($title) || Test::More::diag('there are no requests of a timer') if !grep { length( $_->{headers}{'x-timer'} // '' ) } @$requests;
    return Test::More::is( scalar @found, 0, $title ) || Test::More::diag( join "\n", @found > 10 ? ( @found[ 0 .. 9 ], '...' ) : @found );
}

# One test: no attempt of a due time was started twice, by whomever.
sub no_start_twice {
    my ( $title, @requests ) = @_;
    my %seen;
    push @{ $seen{"@{ $_->{headers} }{qw( x-timer x-due x-attempt )}"} }, $_ for starts(@requests);
    return _none( "$title: nothing is started twice", \@requests, map { @$_ > 1 ? join( '; ', map { _who($_) } @$_ ) : () } values %seen );
}

# One test: within a timer and a cluster the order of fences is that of due times and attempts, no two are the same and
# all are numbers.
sub fences_grow {
    my ( $title, @requests ) = @_;
    my ( %of, @found );
    for my $r (@requests) {
        my %h = %{ $r->{headers} };
        push @found, 'no fence: ' . _who($r) if ( $h{'x-fence'} // '' ) !~ /\A[1-9]\d*\z/ || !length( $h{'x-cluster'} // '' );
        push @{ $of{"$h{'x-timer'} $h{'x-cluster'}"} }, $r;
    }
    for my $all ( values %of ) {
        my @sorted = sort { $a->{headers}{'x-fence'} <=> $b->{headers}{'x-fence'} } @$all;
        for my $n ( 1 .. $#sorted ) {
            my ( $before, $r ) = @sorted[ $n - 1, $n ];
            my ( $x, $y ) = map { $_->{headers} } $before, $r;
            my $later = ( $y->{'x-due'} <=> $x->{'x-due'} || $y->{'x-attempt'} <=> $x->{'x-attempt'} ) > 0;
            # A run by hand has its place by the clock of its host.
            $later = 1 if grep { $_->{'x-trigger'} eq 'manual' } $x, $y;
            push @found, _who($before) . '; ' . _who($r) if $x->{'x-fence'} == $y->{'x-fence'} || !$later;
        }
    }
    return _none( "$title: fences grow", \@requests, @found );
}

# The hosts that had the runs, and how many: { NODE => COUNT }.
sub holders { my %count; $count{ host_of($_) }++ for @_; return \%count }

# The due times of "every=EVERY offset=OFFSET" (milliseconds) from FROM to TO (seconds) that have no start among these
# requests of one timer: { all, missed, excused }. Excused are those at which a function of two instants says that this
# machine, or etcd, was not there for a part of the time that there was.
sub due_times {
    my ( $requests, $away, %o ) = @_;
    my %seen = map { sprintf( '%.0f', 1000 * ( $_->{headers}{'x-due'} // 0 ) ) => 1 } starts(@$requests);
    my %due  = ( all => 0, missed => [], excused => [] );
    for ( my $due = ceil( ( $o{from} * 1000 - $o{offset} ) / $o{every} ) * $o{every} + $o{offset}; $due <= $o{to} * 1000; $due += $o{every} ) {
        $due{all}++;
        next if $seen{$due};
        push @{ $due{ $away->( $due / 1000 - 0.5, ( $due + $o{every} ) / 1000 ) > 0.1 ? 'excused' : 'missed' } }, $due;
    }
    return \%due;
}

1;
