#!/usr/bin/perl

# What nginx may not do, or the system cannot: capabilities taken away, no /proc, no memfd_create(). Runs exclude each
# other over reloads all the same, and what is wrong is said in one line.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Faults;
use TimerTest::Nginx;
use TimerTest::Series;

plan skip_all => 'not root' if $> != 0;
in_namespace();
share_binaries();

my $backend = TimerTest::Backend->start;
my ( undef, undef, $uid, $gid ) = getpwnam('nobody');

# The issue's own set: no CAP_FOWNER, no CAP_DAC_OVERRIDE. Then what nginx itself cannot do without.
my $few   = '+chown,+setuid,+setgid,+net_bind_service,+dac_read_search';
my $fewer = '+setuid,+setgid';

# A wrapper that leaves these capabilities only.
sub with_only { my ($set) = @_; return "setpriv --inh-caps=-all --bounding-set=-all,$set" }

# A wrapper that runs nginx where nothing is mounted at /proc.
my $no_proc = scratch_dir() . '/no-proc';
spew( $no_proc, "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs none /proc && exec \"\$\@\"' sh \"\$\@\"\n" );
chmod 0755, $no_proc;

my $memfd  = sub { my $faults = TimerTest::Faults->new; $faults->fail( 'memfd_create', error => $_[0] ); return $faults };
my $locks  = sub { my $faults = TimerTest::Faults->new; $faults->fail( @_ ); return $faults };
my $no_locks = qr/state file: fcntl\(\) ".*\/timers\.state" failed, state is kept in memory \(/;
my $denied = qr/failed \(1: Operation not permitted\)\z/;

# Each: what is missing; timer_state ("default", "memory", or in the prefix); options; the one warning, if there is one.
my @cases = (
    { title => 'few-memory',    state => 'memory',  with => { wrapper => with_only($few) } },
    { title => 'few-named',     state => 'named',   with => { wrapper => with_only($few) } },
    { title => 'few-default',   state => 'default', with => { wrapper => with_only($few) } },
    { title => 'few-workers',   state => 'named',   with => { wrapper => with_only($few) }, directory => 'workers' },
    { title => 'fewer-memory',  state => 'memory',  with => { wrapper => with_only($fewer) } },
    { title => 'fewer-named',   state => 'named',   with => { wrapper => with_only($fewer) }, warn => qr/state file: fchown\(\) ".*\/timers\.state" $denied/ },
    { title => 'fewer-workers', state => 'named',   with => { wrapper => with_only($fewer) }, directory => 'workers' },
    { title => 'no-proc',       state => 'memory',  with => { wrapper => $no_proc } },
    { title => 'no-proc-any',   state => 'memory',  with => { wrapper => $no_proc }, more => 'timer_worker any;' },
    { title => 'no-proc-named', state => 'named',   with => { wrapper => $no_proc } },
    { title => 'no-memfd',      state => 'memory',  with => { faults  => $memfd->('EPERM') }, warn => qr/timer: memfd_create\(\) failed, state is kept in an unlinked file \(1: / },
    { title => 'old-kernel',    state => 'memory',  with => { faults  => $memfd->('ENOSYS'), wrapper => $no_proc }, warn => qr/timer: memfd_create\(\) failed, state is kept in an unlinked file \(38: / },
    # A file system without locks, and a kernel without those of descriptions, which memory does not have then, either.
    map( { { title => "locks-$_", state => 'named', with => { faults => $locks->( 'fcntl', error => $_, name => '/timers.state' ) }, warn => $no_locks } } qw( EINVAL ENOSYS ENOLCK ) ),
    { title => 'no-ofd', state => 'named', with => { faults => $locks->( 'ofd', error => 'EINVAL' ) }, warn => $no_locks },
    { title => 'no-ofd-memory', state => 'memory', with => { faults => $locks->( 'ofd', error => 'EINVAL' ) } },
);

my ($configure) = ( run_command( nginx_binary(), '-V' ) )[1] =~ /^configure arguments: (.*)/m;
@cases = grep { $_->{state} ne 'default' } @cases if $configure =~ m{--http-client-body-temp-path=/};

# All at once: each has a nginx of its own, and its runs are longer than two periods.
for my $case (@cases) {
    my $nginx = $case->{nginx} = TimerTest::Nginx->new( workers => 2, %{ $case->{with} } );
    my $prefix = $nginx->prefix;
    $case->{file} = "$prefix/timers.state";
    # nginx itself would have to give these away.
    for my $name ( map {"$prefix/${_}_temp"} qw( client_body proxy fastcgi uwsgi scgi ) ) {
        mkdir $name;
        chown $uid, -1, $name;
    }
    if ( $case->{directory} ) {
        # Root may not write there, but for a capability that it does not have.
        mkdir "$prefix/state";
        chmod 0700, "$prefix/state";
        chown $uid, $gid, "$prefix/state";
        $case->{file} = "$prefix/state/timers.state";
    }
    $nginx->write_conf(
        state  => $case->{state} eq 'named' ? $case->{file} : $case->{state},
        server => timer( $backend, $case->{title}, 'every=500ms', 'delay/1.3/ok', $case->{more} ) . 'location /status/ { timer_api; }',
    );
    my ( $ok, $out ) = $nginx->test_conf;
    ok( $ok, "$case->{title}: nginx -t accepts" ) or diag $out;
    $nginx->start;
}

my $reloads = 4;
for my $round ( 0 .. $reloads ) {
    for my $case (@cases) {
        my ( $nginx, $title ) = @$case{qw( nginx title )};
        my $seen = $backend->requests( timer => $title );
        # Somebody's run is in progress when the next ones come.
        $backend->wait_requests( $seen + 1, timer => $title ) > $seen or fail("$title: no run after $round reloads");
        $nginx->signal('HUP') if $round < $reloads;
    }
}

for my $case (@cases) {
    my ( $nginx, $title ) = @$case{qw( nginx title )};
    my $in_memory = $case->{state} eq 'memory' || ( $case->{warn} // '' ) eq $no_locks;
    my $heir = $nginx->wait_log( qr/start worker process/, 2 * ( 1 + $reloads ) );
    ok( $heir, "$title: is loaded for the last time" );
    my @workers = $nginx->workers;
    ok( wait_until( sub { grep { requests_by( $_, $backend->requests( timer => $title ) ) } @workers } ), "$title: its last workers run it" );
    my $health = $nginx->get('/status/health');
    is( $health->{status}, 200, "$title: health is ok" ) or diag $health->{body};
    my $own = $in_memory ? qr/"state_file":null/ : qr/"state_file":"\Q$case->{file}\E"/;
    like( $nginx->get('/status/timers')->{body} =~ s/": /":/gr, $own, "$title: its state is where it must be" );
    my @requests = $backend->requests( timer => $title );
    no_overlaps( $title, {}, @requests );
    no_doubles( $title, @requests );
    my @lines = $nginx->log_lines(qr/\[(?:warn|error|crit)\](?!.*due times?)/);
    my @other = $case->{warn} ? grep { !/\[warn\].*$case->{warn}/ } @lines : @lines;
    is( join( "\n", @other ), '', "$title: nothing else to complain of" );
    # Memory is made once.
    my $loads = $case->{state} eq 'memory' ? 1 : 1 + $reloads;
    is( @lines - @other, $loads, "$title: one warning at each load" ) if $case->{warn};
    if ( !$in_memory ) {
        is( sprintf( '%o', ( stat $case->{file} )[2] & 07777 ), '600', "$title: the file is its owner's alone" );
        is( ( stat $case->{file} )[4], $case->{warn} ? 0 : $uid, "$title: who is the worker user, if that could be" );
    }
    $nginx->stop;
}

# What neither root nor the worker user may open or make, a start refuses, and nginx -t; what a third user has,
# nginx -t cannot know.
my $prefix = scratch_dir();
for my $case ( [ 'root', 0, 0500, 0 ], [ 'workers', $uid, 0500, 0 ], [ 'both', 0, 0755, 1 ], [ 'third', 12345, 0700, 1 ] ) {
    my ( $title, $owner, $mode, $accepted ) = @$case;
    mkdir "$prefix/$title";
    chmod $mode, "$prefix/$title";
    chown $owner, $owner, "$prefix/$title";
    my $nginx = TimerTest::Nginx->new(
        wrapper => with_only($few),
        state   => "$prefix/$title/timers.state",
        server  => 'location @x { timer x every=1s; return 204; }',
    );
    my ( $ok, $out ) = $nginx->test_conf;
    is( $ok ? 1 : 0, $accepted, "a directory of $title: nginx -t" ) or diag $out;
    next if $title eq 'both';
    like( $out, qr/\[emerg\].*state file: open\(\) "\Q$prefix\E\/$title\/timers.state" failed \(13: /, 'says why' ) if !$accepted;
    ( my $status, $out ) = run_command( split( / /, with_only($few) ), nginx_binary(), '-p', $nginx->prefix . '/', '-c', $nginx->conf_file, '-e', $nginx->error_log, '-g', 'daemon off;' );
    is( $status, 256, 'a start refuses it' );
    like( $out, qr/\[emerg\].*state file: open\(\) "\Q$prefix\E\/$title\/timers.state" failed \(13: /, 'and says why' );
}

done_testing;
