package TimerTest::Etcd;

# An etcd cluster of this test's own, on loopback, its data in memory: Debian's etcd-server, whose service is of no
# matter here.
#
#     my $etcd = TimerTest::Etcd->start;                # three members that have a leader
#     ... upstream etcd { $etcd->servers } ...          # server 127.0.0.1:PORT max_fails=1 fail_timeout=3s; ...
#     $etcd->kill( $etcd->leader ); $etcd->start_member(1); $etcd->stop(2); $etcd->continue(2);
#     $etcd->wipe;                                      # a new and empty cluster at the same addresses
#     $etcd->keys('/nginx-timer/')->{'/nginx-timer/prod/x/last'}{value};
#
# Options of start: members (3); options (a list for each member's command line, instead of the usual ones where these
# have them); tls (client certificates, made by this); user and password, with prefix (authentication: this user
# has the keys below the prefix, and no other); config_file (members start with one, and nothing else);
# standstill (1: no member is started).

use strict;
use warnings;

use Carp qw( croak );
use File::Path qw( remove_tree );
use JSON::PP ();
use MIME::Base64 qw( encode_base64 decode_base64 );
use Test::More ();
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Certificate;

# What is set in the environment of this test is none of theirs.
delete @ENV{ grep {/\AETCD/} keys %ENV };

my $creator = $$;
my @running;

sub start {
    my ( $class, %option ) = @_;

    my $self = bless { members => 3, options => [], prefix => '/nginx-timer/', %option }, $class;
    croak 'etcd is not installed' if !program('etcd');
    $self->{dir} = scratch_dir();
    $self->{$_} = [ map { free_port() } 1 .. $self->{members} ] for qw( client peer health );
    $self->{token} = 1;
    $self->_certificates if $self->{tls};
    push @running, $self;
    return $self if $self->{standstill};

    $self->start_all;
    $self->_authenticate if $self->{user};
    return $self;
}

sub ports { return @{ $_[0]{client} } }

sub all { return 0 .. $_[0]{members} - 1 }

# The lines of an upstream block.
sub servers {
    my ( $self, @ports ) = @_;
    @ports = $self->ports if !@ports;
    return join ' ', map {"server 127.0.0.1:$_ max_fails=1 fail_timeout=3s;"} @ports;
}

# Paths: the authority's certificate, a client's and its key; of a client that has a name, if that is asked for. The
# gateway takes none of the latter if there are users.
sub certificates { my ( $self, $named ) = @_; return @{ $self->{ $named ? 'tls_named' : 'tls' } } }

sub _certificates {
    my ($self) = @_;
    my @authority = make_certificate( $self->{dir}, 'authority' );
    my @server    = make_certificate( $self->{dir}, 'localhost', @authority );
    $self->{server_certificate} = \@server;
    $self->{tls}       = [ $authority[0], make_certificate( $self->{dir}, '/O=nginx', @authority ) ];
    $self->{tls_named} = [ $authority[0], make_certificate( $self->{dir}, 'nginx', @authority ) ];
    return;
}

# Members, by their number.

sub start_member {
    my ( $self, $n ) = @_;
    croak "member $n runs" if $self->{pid}[$n];

    my ( $at, $scheme ) = ( 'http://127.0.0.1', $self->{tls} ? 'https' : 'http' );
    my %option = (
        'name'                        => "member$n",
        'data-dir'                    => "$self->{dir}/data$n",
        'listen-client-urls'          => "$scheme://127.0.0.1:$self->{client}[$n]",
        'advertise-client-urls'       => "$scheme://127.0.0.1:$self->{client}[$n]",
        'listen-peer-urls'            => "$at:$self->{peer}[$n]",
        'initial-advertise-peer-urls' => "$at:$self->{peer}[$n]",
        'listen-metrics-urls'         => "$at:$self->{health}[$n]",
        'initial-cluster'             => $self->_peers,
        'initial-cluster-token'       => "$self->{dir} $self->{token}",
        'initial-cluster-state'       => 'new',
        'heartbeat-interval'          => 50,
        'election-timeout'            => 500,
        'bcrypt-cost'                 => 4,
        'logger'                      => 'zap',
        'log-level'                   => 'warn',
        $self->{tls}
        ? ( 'cert-file' => $self->{server_certificate}[0], 'key-file' => $self->{server_certificate}[1],
            'trusted-ca-file' => $self->{tls}[0], 'client-cert-auth' => 'true' )
        : (),
        @{ $self->{options} },
    );
    my @command = map {"--$_=$option{$_}"} sort keys %option;
    if ( $self->{config_file} ) {
        my $file = spew( "$self->{dir}/member$n.yml", join '', map { "$_: " . JSON::PP->new->allow_nonref->encode( $option{$_} ) . "\n" } sort keys %option );
        @command = "--config-file=$file";
    }
    $self->{pid}[$n] = spawn( $self->log($n), program('etcd'), @command );
    return $self;
}

sub _peers {
    my ($self) = @_;
    return join ',', map {"member$_=http://127.0.0.1:$self->{peer}[$_]"} $self->all;
}

sub log { return "$_[0]{dir}/member$_[1].log" }

sub pid { return $_[0]{pid}[ $_[1] ] }

# Starts those that do not run, and waits for all.
sub start_all {
    my ($self) = @_;
    $self->start_member($_) for grep { !$self->{pid}[$_] } $self->all;
    $self->wait_ready;
    return $self;
}

# KILL: as if the machine had lost its power.
sub kill {
    my ( $self, @members ) = @_;
    my @pids = map { delete $self->{pid}[$_] || croak "member $_ does not run" } @members;
    CORE::kill 'KILL', @pids;
    stop_process($_) for @pids;
    return $self;
}

sub kill_all { my ($self) = @_; return $self->kill( grep { $self->{pid}[$_] } $self->all ) }

sub stop     { my ( $self, @members ) = @_; stand_still( map { $self->{pid}[$_] } @members ); return $self }
sub continue { my ( $self, @members ) = @_; CORE::kill 'CONT', map { $self->{pid}[$_] } @members; return $self }

# All of it lost, and made anew.
sub wipe {
    my ($self) = @_;
    $self->kill_all;
    remove_tree( map {"$self->{dir}/data$_"} $self->all );
    $self->{token}++;
    $self->start_all;
    $self->_authenticate if $self->{user};
    return $self;
}

# A copy of what is there, and the cluster made anew of one, with a revision that is as old as the copy.
sub snapshot {
    my ($self) = @_;
    my $file = "$self->{dir}/snapshot" . ++$self->{snapshots};
    $self->_etcdctl( "--endpoints=127.0.0.1:$self->{client}[0]", 'snapshot', 'save', $file );
    return $file;
}

sub restore {
    my ( $self, $file ) = @_;
    $self->kill_all;
    remove_tree( map {"$self->{dir}/data$_"} $self->all );
    $self->{token}++;
    for my $n ( $self->all ) {
        $self->_etcdctl(
            'snapshot', 'restore', $file, "--name=member$n", "--data-dir=$self->{dir}/data$n", '--initial-cluster=' . $self->_peers,
            "--initial-advertise-peer-urls=http://127.0.0.1:$self->{peer}[$n]", "--initial-cluster-token=$self->{token}",
        );
    }
    return $self->start_all;
}

sub _etcdctl {
    my ( $self, @arguments ) = @_;
    local $ENV{ETCDCTL_API} = 3;
    my ( $status, $out ) = run_command( program('etcdctl'), @arguments );
    croak "etcdctl @arguments: $out" if $status ne '0';
    return $out;
}

# Waits until these members (all that run) say that they serve.
sub wait_ready {
    my ( $self, @members ) = @_;
    @members = grep { $self->{pid}[$_] } $self->all if !@members;
    for my $n (@members) {
        my $is_healthy = sub { http_request( $self->{health}[$n], '/health' )->{body} =~ /"health":"true"/ };
        poll_until( sub { $is_healthy->() || !is_alive( $self->{pid}[$n] ) } ) && is_alive( $self->{pid}[$n] )
            or croak "etcd member $n is not ready: " . slurp( $self->log($n) );
    }
    return $self;
}

# The number of the member that leads, by what the members say themselves; undef without one.
sub leader {
    my ($self) = @_;
    for my $n ( grep { $self->{pid}[$_] } $self->all ) {
        return $n if http_request( $self->{health}[$n], '/metrics' )->{body} =~ /^etcd_server_is_leader 1$/m;
    }
    return undef;
}

# The same, waited for.
sub wait_leader {
    my ($self) = @_;
    my $leader;
    poll_until( sub { defined( $leader = $self->leader ) } ) || in_vain('a leader of etcd');
    return $leader;
}

sub follower {
    my ($self) = @_;
    my $leader = $self->wait_leader;
    my ($n) = grep { $_ != $leader && $self->{pid}[$_] } $self->all;
    return $n;
}

# What is stored.

# One request to the gateway, to a member that runs: { status, body, json }.
sub call {
    my ( $self, $path, $body, %option ) = @_;
    my $member = $option{member} // ( grep { $self->{pid}[$_] } $self->all )[0];
    my $text   = ref $body ? JSON::PP->new->canonical->encode($body) : $body;
    my $token  = $path =~ /authenticate/ ? undef : $option{token} // $self->{root};
    my %answer;
    if ( $self->{tls} ) {
        my ( $authority, $certificate, $key ) = @{ $self->{tls} };
        my ( $status, $out ) = run_command( program('curl'), '-s', '-m', 20, '--cacert', $authority, '--cert', $certificate, '--key', $key,
            ( map { ( '-H', $_ ) } 'Content-Type: application/json', $token ? "Authorization: $token" : () ), '-w', "\n%{http_code}", '-d', $text, "https://localhost:$self->{client}[$member]$path" );
        @answer{qw( body status )} = $out =~ /\A(.*)\n(\d+)\z/s ? ( $1, $2 ) : ( $out, 0 );
    }
    else {
        %answer = %{
            http_request( $self->{client}[$member], $path, method => 'POST', body => $text,
                headers => "Content-Type: application/json\r\n" . ( $token ? "Authorization: $token\r\n" : '' ) )
        };
    }
    $answer{json} = eval { JSON::PP::decode_json( $answer{body} ) };
    return \%answer;
}

# The same, which has to succeed; the JSON.
sub ask {
    my ( $self, $path, $body, %option ) = @_;
    # Tokens may be of some seconds only.
    $self->_log_in if $self->{root} && $path !~ /authenticate/;
    my $answer = $self->call( $path, $body, %option );
    $answer->{status} == 200 && $answer->{json} or croak "$path: $answer->{status} $answer->{body}";
    return $answer->{json};
}

sub base64 { return encode_base64( $_[0], '' ) }

# The end of the range of all keys with a prefix.
sub range_end { my ($prefix) = @_; substr( $prefix, -1 ) = chr( 1 + ord substr $prefix, -1 ); return $prefix }

# The keys below a prefix: { KEY => { value, version, create_revision, mod_revision } }.
sub keys {
    my ( $self, $prefix ) = @_;
    $prefix //= $self->{prefix};
    my $answer = $self->ask( '/v3/kv/range', { key => base64($prefix), range_end => base64( range_end($prefix) ) } );
    return { map { decode_base64( $_->{key} ) => { %$_, value => decode_base64( $_->{value} // '' ) } } @{ $answer->{kvs} // [] } };
}

sub get { my ( $self, $key ) = @_; return ( $self->keys($key)->{$key} // {} )->{value} }

sub put {
    my ( $self, $key, $value ) = @_;
    return $self->ask( '/v3/kv/put', { key => base64($key), value => base64($value) } );
}

sub delete {
    my ( $self, $key ) = @_;
    return $self->ask( '/v3/kv/deleterange', { key => base64($key) } );
}

sub revision { my ($self) = @_; return $self->ask( '/v3/kv/range', { key => base64('-') } )->{header}{revision} }

sub compact { my ($self) = @_; return $self->ask( '/v3/kv/compaction', { revision => $self->revision, physical => JSON::PP::true } ) }

# Authentication: root, who has all; and the user, with these rights (default: READWRITE) below the prefix.

sub _authenticate {
    my ($self) = @_;
    delete $self->{root};
    $self->ask( '/v3/auth/user/add', { name => $_->[0], password => $_->[1] } ) for [ root => 'root' ], [ @$self{qw( user password )} ];
    $self->ask( '/v3/auth/role/add', { name => $_ } ) for qw( root fleet );
    $self->grant;
    $self->ask( '/v3/auth/user/grant', { user => $_->[0], role => $_->[1] } ) for [ root => 'root' ], [ $self->{user} => 'fleet' ];
    $self->ask( '/v3/auth/enable',     {} );
    $self->_log_in;
    return;
}

sub _log_in {
    my ($self) = @_;
    $self->{root} = '';
    $self->{root} = $self->ask( '/v3/auth/authenticate', { name => 'root', password => 'root' } )->{token};
    return;
}

sub grant {
    my ($self) = @_;
    return $self->ask( '/v3/auth/role/grant',
        { name => 'fleet', perm => { permType => 'READWRITE', key => base64( $self->{prefix} ), range_end => base64( range_end( $self->{prefix} ) ) } } );
}

sub revoke {
    my ($self) = @_;
    return $self->ask( '/v3/auth/role/revoke', { role => 'fleet', key => base64( $self->{prefix} ), range_end => base64( range_end( $self->{prefix} ) ) } );
}

# How long the cluster had no leader: a process that reads, by all members in turn, what only a leader's word can answer;
# or by these ports, which lead to them.

sub watch {
    my ( $self, @ports ) = @_;
    my $file = $self->{watch} = "$self->{dir}/reads";
    @ports = $self->ports if !@ports;
    spawn( "$file.log", $^X, '-MTime::HiRes=time,sleep', '-MIO::Socket::INET', '-e', <<'PERL', $file, $$, @ports );
my ( $file, $parent, @ports ) = @ARGV;
open my $out, '>', $file or die;
my $body = '{"key":"LQ=="}';
for ( my $n = 0; getppid == $parent; $n++ ) {
    my $answer = '';
    my $asked  = time;
    my $socket = IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $ports[ $n % @ports ], Timeout => 0.3 );
    if ($socket) {
        syswrite $socket, "POST /v3/kv/range HTTP/1.0\r\nContent-Length: @{[ length $body ]}\r\n\r\n$body";
        my $bits = '';
        vec( $bits, fileno $socket, 1 ) = 1;
        sysread $socket, $answer, 65536 if select $bits, undef, undef, 0.3;
    }
    syswrite $out, pack 'dd', $asked, time if $answer =~ m{\AHTTP/\S+ 200 };
    sleep 0.05;
}
PERL
    wait_until { -s $file } or croak 'etcd answers nothing';
    return $self;
}

# Seconds between two instants of which etcd had no leader, or did not come to answer: those between two reads, but for a
# pause in which one member is away, and those of reads that took long.
sub leaderless { my ( $self, $from, $to ) = @_; return $self->_away( $from, $to, 0.8 ) }

# The same, by a closer look: whoever asks etcd was likely to wait.
sub slow { my ( $self, $from, $to ) = @_; return $self->_away( $from, $to, 0.15 ) }

# The same, each [ from, to ], up to an instant that has come.
sub waits {
    my ( $self, $to ) = @_;
    my @reads;
    poll_until( sub { @reads = unpack 'd*', slurp( $self->{watch} ); @reads && $reads[-1] > $to }, 5 ) || push @reads, $to;
    return grep { $_->[1] - $_->[0] >= 0.15 } map { [ @reads[ $_ - 1, $_ ] ] } 1 .. $#reads;
}

sub _away {
    my ( $self, $from, $to, $least ) = @_;
    my @reads;
    poll_until( sub { @reads = unpack 'd*', slurp( $self->{watch} ); $reads[-1] > $to }, 2 ) || push @reads, $to, $to;
    my $sum = 0;
    for my $n ( 1 .. $#reads ) {
        my ( $begin, $end ) = @reads[ $n - 1, $n ];
        next if $end - $begin < $least;
        $begin = $from if $begin < $from;
        $end   = $to   if $end > $to;
        $sum += $end - $begin if $end > $begin;
    }
    return $sum;
}

END {
    if ( $$ == $creator ) {
        local ( $?, $!, $@ );
        $_->kill_all for @running;
    }
}

1;
