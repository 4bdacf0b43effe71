#!/usr/bin/perl

# A day of trouble in a minute and a half: for SOAK_SECONDS (90) twenty servers go down and come back every 20 ms, names
# change, clients ask, and the configuration is read anew each second, but for the last third. What nginx has is
# no more at the end: memory, descriptors, mappings, pages of its zones. No process dies, checks go on, and when all
# servers are well no mark is left.

use strict;
use warnings;

use List::Util qw( min sum0 );
use POSIX ();
use Test::More;
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Api qw( json );
use TimerTest::Dns;
use TimerTest::Nginx;
use TimerTest::Zone;

my $seconds = $ENV{SOAK_SECONDS} || 90;
# KiB by which a process may be larger: what malloc() leaves between what is in use. It takes a while to settle.
my $MORE = $seconds < 60 ? 256 : 128;

my $resolves = nginx_version() >= 1027003;

# The servers: one port, twenty addresses. Even and odd ones change places.
my $port    = free_port();
my @address = map {"127.0.1.$_"} 1 .. 20;
my $servers = TimerTest::Nginx->new( no_module => 1, wrapper => '', connections => 4096, log_level => 'notice' );
my $calm    = $servers->prefix . '/calm';
$servers->write_conf( http => <<"CONF");
    map "\$server_addr \$msec" \$is_down {
        default 0;
        "~[02468] \\d+\\.(?:[02468][014589]|[13579][2367])" 1;
        "~[13579] \\d+\\.(?:[02468][2367]|[13579][014589])" 1;
    }
    server {
        @{[ map {"listen $_:$port backlog=1024;"} @address ]}
        location / {
            if (-f $calm) { return 200 "ok \$server_addr\\n"; }
            set \$how "\$is_down\$server_addr";
            if (\$how ~ "^1.*[0-6]\$") { return 503; }
            if (\$how ~ "^1") { return 444; }
            return 200 "ok \$server_addr\\n";
        }
    }
CONF
$servers->start;

# Where two failures in a row count, two checks are made while a server is down.
my %group = (
    weighted   => [ '',                             'weight=3' ],
    least_conn => [ 'least_conn;',                  '', 'interval=10ms fails=2 passes=2' ],
    ip_hash    => [ 'ip_hash;',                     '', 'mandatory persistent' ],
    hash       => [ 'hash $arg_k;',                 '', 'match=ok' ],
    consistent => [ 'hash $arg_k consistent;',      '', 'match=ok interval=10ms fails=2' ],
    random     => [ 'random;',                      '', 'jitter=10ms' ],
    random_two => [ 'random two least_conn;',       '', 'timeout=1s' ],
    keepalive  => [ 'keepalive 4;',                 '', 'keepalive_time=1s' ],
    mandatory  => [ '',                             '', 'mandatory' ],
    fail_open  => [ '',                             '', 'fail_open=60' ],
);
my @names = sort keys %group;
my ( %server, $upstreams, $locations );
for my $n ( 0 .. $#names ) {
    my ( $by, $parameters, $check ) = @{ $group{ $names[$n] } };
    $server{ $names[$n] } = [ map {"$_:$port"} @address[ 2 * $n, 2 * $n + 1 ] ];
    my $list = join ' ', map {"server $_ max_fails=0 $parameters;"} @{ $server{ $names[$n] } };
    $upstreams .= "upstream $names[$n] { zone $names[$n] 64k; $by $list }\n";
    $locations .= "location /$names[$n] { proxy_pass http://$names[$n]; health_check " . join( ' ', grep {$_} $check, ( $check // '' ) =~ /interval/ ? () : 'interval=20ms' ) . "; }\n";
}
my $dns = TimerTest::Dns->start( 'app.test' => "@address[0 .. 3]" );
if ($resolves) {
    $upstreams .= "resolver 127.0.0.1:${\ $dns->port } valid=1s ipv6=off; upstream named { zone named 256k; server app.test:$port resolve max_fails=0; }\n";
    $locations .= "location /named { proxy_pass http://named; health_check interval=50ms uri=/named; }\n";
    $server{named} = [ map {"$_:$port"} @address[ 0 .. 3 ] ];
    push @names, 'named';
}

my $nginx = TimerTest::Nginx->new(
    workers   => 2,
    log_level => 'notice',
    http      => "match ok { status 200; header Content-Type ~ text; body ~ \"ok\"; require \$upstream_status; }\n$upstreams",
    server    => <<"CONF",
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    $locations
    location /status/ { timer_api; }
    location \@timer { timer timer every=50ms; proxy_pass http://weighted; }
CONF
);
$nginx->start;

# Clients.
my $counts = scratch_dir() . '/clients';
my $load   = fork // die "fork: $!";
if ( !$load ) {
    my ( %count, $over );
    local $SIG{TERM} = sub { $over = 1 };
    my @paths = ( ( map {"/$_?k="} @names ) x 3, qw( /status/upstreams /status/metrics /status/health /status/text ) );
    for ( my $n = 0; !$over && getppid != 1; $n++ ) {
        my $path = $paths[ $n % @paths ];
        $count{ $nginx->get( $path =~ /=\z/ ? "$path$n" : $path )->{status} }++;
        sleep 0.003;
    }
    spew( $counts, join ' ', map {"$_ $count{$_}"} sort keys %count );
    POSIX::_exit(0);
}

# What a process has: memory of its own in KiB ("anon"), all that is mapped in KiB, mappings, descriptors.
sub sizes {
    my ($pid) = @_;
    my $status = slurp("/proc/$pid/status");
    my @fds    = glob "/proc/$pid/fd/*";
    my @maps   = slurp("/proc/$pid/maps") =~ /\n/g;
    return { anon => $status =~ /^RssAnon:\s+(\d+)/m, mapped => $status =~ /^VmSize:\s+(\d+)/m, maps => scalar @maps, fds => scalar @fds };
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ $#sorted / 2 ] }

# After warming up, a process has at the end what it had at the beginning.
sub flat {
    my ( $title, @samples ) = @_;
    my $quarter = int @samples / 4;
    my %most = ( anon => $MORE, mapped => $MORE, maps => 2, fds => $title =~ /worker/ ? 16 : 0 );
    # A sanitizer keeps for a while what is freed.
    for my $what ( nginx_is_watched() ? 'fds' : qw( anon mapped maps fds ) ) {
        my ( $then, $now ) = map { median( map { $_->{$what} } @samples[@$_] ) } [ $quarter .. 2 * $quarter ], [ -$quarter - 1 .. -1 ];
        cmp_ok( $now, '<=', $then + $most{$what}, sprintf '%s: %s %d, %d at the end', $title, $what, $then, $now )
            or diag join ' ', map { $_->{$what} } @samples;
    }
    return;
}

sub peers { return map { my $group = $_; map { { %$_, group => $group } } @{ json( $nginx->get("/status/upstreams/$group") )->{peers} } } @names }

# Waits until all servers of these groups are there, and up.
sub wait_up {
    my @bad;
    my $is = sub {
        my %state;
        push @{ $state{"$_->{group} $_->{server}"} }, $_->{state} for peers();
        @bad = grep { "@{ $state{$_} // [] }" ne 'up' } map { my $group = $_; map {"$group $_"} @{ $server{$group} } } @names;
        return !@bad;
    };
    return poll_until($is) || in_vain( 'all servers to be up', @bad );
}

my $changes = 0;
sub change_names {
    my @there = grep { rand() < 0.7 } @address[ 0 .. 3 ];
    $dns->set( 'app.test' => @there ? "@there" : undef );
    $changes++;
    return;
}

# The log of each half a minute is a file of its own.
sub rotate {
    my ($number) = @_;
    rename $nginx->error_log, $nginx->error_log . ".$number" or die "rename: $!";
    $nginx->signal('USR1');
    wait_until { -e $nginx->error_log };
    return;
}

# Reloads.
my ( $began, $reloads, @master, @young ) = ( time, 0 );
while ( time < $began + $seconds * 2 / 3 ) {
    my $until = time + 1;
    rotate($reloads) if $reloads % 30 == 29;
    my @old = children_of( $nginx->pid );
    $nginx->reload;
    $nginx->wait_gone( \@old );
    $reloads++;
    push @master, sizes( $nginx->pid );
    push @young, map { sizes($_) } $nginx->workers;
    while ( time < $until ) { change_names(); sleep 0.1 }
}
flat( 'the master',         @master );
flat( 'a worker that is new', @young );

# The same workers.
my @workers = $nginx->workers;
my %checks  = map { ("$_->{group} $_->{server}" => $_->{health_checks}{checks}) } peers();

# When all is well: zones and descriptors.
sub at_rest {
    spew( $calm, '' );
    $dns->set( 'app.test' => "@address[0 .. 3]" );
    wait_up();
    my @fds = map { sleep 0.02; $_ = { map { $_ => sizes($_)->{fds} } @workers } } 1 .. 50;
    my %least = map { my $pid = $_; $pid => min map { $_->{$pid} } @fds } @workers;
    return ( \%least, [ TimerTest::Zone->of( $workers[0] )->free_pages ] );
}
my ( $fds, $pages ) = at_rest();
unlink $calm;
my %grown;
while ( time < $began + $seconds ) {
    push @{ $grown{$_} }, sizes($_) for @workers;
    for ( 1 .. 5 ) { change_names(); sleep 0.1 }
}
flat( 'a worker that goes on', @{ $grown{$_} } ) for @workers;
my ( $fds_after, $pages_after ) = at_rest();
cmp_ok( $fds_after->{$_}, '<=', $fds->{$_} + 8, "its descriptors: $fds->{$_}, $fds_after->{$_} at the end" ) for @workers;
cmp_ok( scalar @$pages, '>=', @names, 'zones are looked at' );
is( "@$pages_after", "@$pages", 'free pages of the zones' );

kill 'TERM', $load;
waitpid $load, 0;
my %clients = split ' ', slurp($counts);
note "clients: ", join ', ', map {"$_: $clients{$_}"} sort keys %clients;
is( join( ' ', grep { !/\A(?:200|502|503)\z/ } sort keys %clients ), '', 'clients are answered' );

# All is well: no mark is left, and no server is marked again.
my $zone = TimerTest::Zone->of( $workers[0] );
for my $name (@names) {
    is( $zone->tries($name), scalar @{ $server{$name} }, "$name: all servers are counted" );
    is( join( ' ', map { $zone->down( $name => $_ )->() } @{ $server{$name} } ), join( ' ', map {0} @{ $server{$name} } ), "$name: none is marked" );
}
my %before = map { ( "$_->{group} $_->{server}" => $_->{health_checks} ) } peers();
my @behind;
ok( poll_until( sub {
    @behind = grep { $_->{health_checks}{checks} < $before{"$_->{group} $_->{server}"}{checks} + 10 } peers();
    return !@behind;
} ), 'checks go on' ) or diag explain \@behind;
is( join( ' ', map {"$_->{group} $_->{server}"} grep { $_->{health_checks}{unhealthy} > $before{"$_->{group} $_->{server}"}{unhealthy} || $_->{state} ne 'up' } peers() ),
    '', 'and mark nobody' );
is( join( ', ', map {"$_: $before{$_}{unhealthy}"} grep { $before{$_}{unhealthy} < 3 } sort keys %before ), '', 'each server has gone down and come back' );
note sprintf '%d checks, %d state changes, %d changes of names', sum0( map { $_->{checks} } values %before ), sum0( map { $_->{unhealthy} } values %before ), $changes;

is_deeply( [ $nginx->workers ], \@workers, 'no worker has died' );
$nginx->stop;
my ( $starts, @bad ) = 0;
for my $file ( glob $nginx->error_log . '*' ) {
    open my $log, '<', $file or die "$file: $!";
    while ( my $line = <$log> ) {
        $starts++ if $line =~ /start worker process \d+$/;
        push @bad, $line if $line =~ /$TimerTest::Nginx::BAD_LINE|\[crit\](?!.*requests are passed to all)/;
    }
}
is( $starts, 2 * ( $reloads + 1 ), 'none ever' );
is( join( '', grep {defined} @bad[ 0 .. 9 ] ), '', 'nothing critical' );
$servers->stop;
done_testing;
