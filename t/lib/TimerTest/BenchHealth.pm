package TimerTest::BenchHealth;

# What health checks cost, how late they are, and how soon a server that dies gets no more clients: for
# tools/bench.pl. Each measurement hands its numbers to a function: $record->( KEY => NUMBER, ... ).

use strict;
use warnings;

use Exporter qw( import );
use List::Util qw( max min shuffle );
use POSIX ();
use Time::HiRes qw( sleep time );
use TimerTest;
use TimerTest::Bench;
use TimerTest::Nginx;
use TimerTest::Servers;

our @EXPORT = qw( measure_check measure_servers measure_death );

sub group {
    my ( $servers, $zone ) = @_;
    return "upstream b { zone b $zone; ${\ $servers->list } }";
}

# A check, and the same request by a client, through the same location.
sub measure_check {
    my ( $record, $size ) = @_;

    my $servers  = TimerTest::Servers->start(20);
    my $location = 'proxy_pass http://b;';
    my $http     = group( $servers, '256k' );
    my %subject  = (
        check  => TimerTest::Bench->new( http => $http, server => "location /proxied { $location health_check interval=20ms uri=/proxied; }" ),
        client => TimerTest::Bench->new( http => $http, server => "location /proxied { $location }" ),
        idle   => TimerTest::Bench->new( http => $http, server => "location /proxied { $location }", idle => 1 ),
    );
    $_->pause for values %subject;
    for ( 1 .. $size->{rounds} ) {
        my %cpu;
        for my $name ( shuffle sort keys %subject ) {
            $subject{$name}->resume;
            sleep 0.5;
            my $w = $name eq 'client' ? $subject{client}->client_window( '/proxied', $size->{window} / 2 ) : $subject{$name}->window( $size->{window} );
            $cpu{$name} = $name eq 'idle' ? $w->{cpu} / $w->{seconds} : 1e6 * $w->{cpu} / $w->{runs};
            $subject{$name}->pause;
        }
        $record->( "check.cpu.$_", $cpu{$_} ) for qw( check client );
        $record->( 'check.cpu.ratio', $cpu{check} / $cpu{client} );
    }
    $_->stop for values %subject;
    $servers->stop;
    return;
}

# A thousand servers that are checked each second, and a client meanwhile.
sub measure_servers {
    my ( $record, $size ) = @_;

    my $servers = TimerTest::Servers->start( $size->{servers} );
    my $nginx   = sub {
        my ($check) = @_;
        my $nginx = TimerTest::Nginx->new( workers => 2, connections => 4096, log_level => 'notice', http => group( $servers, '4m' ),
            server => "location / { proxy_pass http://b; $check }" );
        return $nginx->start;
    };
    my %nginx = ( with => $nginx->('health_check interval=1s uri=/checked;'), without => $nginx->('') );
    $servers->wait_checks( undef, 2 * $size->{servers} ) or die 'there are no checks';

    my $began = time;
    my %took;
    while ( time < $began + $size->{seconds} ) {
        for my $name ( shuffle sort keys %nginx ) {
            for ( 1 .. 20 ) {
                my $at = time;
                $nginx{$name}->get('/ready');
                push @{ $took{$name} }, 1000 * ( time - $at );
                sleep 0.001;
            }
        }
    }
    my $over = time;
    sleep 0.2;
    my %at;
    push @{ $at{ $_->{port} } }, $_->{at} for grep { $_->{at} > $began && $_->{at} < $over } $servers->checks;
    my ( @rate, @late );
    for my $port ( sort keys %at ) {
        my @checks = sort { $a <=> $b } @{ $at{$port} };
        next if @checks < 2;
        push @rate, $#checks / ( $checks[-1] - $checks[0] );
        # By how much each is later than the earliest of its server: that one is the nearest to when it is due.
        my @within   = map { $_ - $checks[0] - POSIX::floor( $_ - $checks[0] + 0.5 ) } @checks;
        my $earliest = min @within;
        push @late, map { 1000 * ( $_ - $earliest ) } @within;
    }
    $record->( 'servers.checked', scalar keys %at );
    $record->( 'servers.rate.least', min @rate );
    $record->( 'servers.rate.most',  max @rate );
    $record->( 'servers.late.99th', ( sort { $a <=> $b } @late )[ 0.99 * $#late ] );
    $record->( "servers.client.$_", ( sort { $a <=> $b } @{ $took{$_} } )[ 0.99 * $#{ $took{$_} } ] ) for qw( with without );
    $_->signal('QUIT') && $_->wait_exit && $_->kill_all for values %nginx;
    $servers->stop;
    return;
}

# From the death of a server to the last client that is passed to it: interval=200ms fails=2 timeout=500ms, so
# that it is at most 0.9 s.
sub measure_death {
    my ( $record, $size ) = @_;

    my $servers = TimerTest::Servers->start(4);
    my $nginx   = TimerTest::Nginx->new( workers => 4, log_level => 'notice', http => group( $servers, '64k' ),
        server => 'location / { proxy_next_upstream off; proxy_pass http://b; health_check interval=200ms fails=2 timeout=500ms; }' );
    $nginx->start;
    my $port = $nginx->port;
    my $load = fork // die "fork: $!";
    if ( !$load ) {
        local $TimerTest::DEADLINE = 5;
        while ( getppid != 1 ) { http_request( $port, '/' ); sleep 0.002 }
        POSIX::_exit(0);
    }
    my @last;
    for my $round ( 1 .. $size->{deaths} ) {
        my $number = $round % 4;
        my $peer   = '127\.0\.0\.1:' . $servers->port($number);
        my $known  = $nginx->log_lines(qr/$peer in upstream "b" is unhealthy/);
        sleep rand 0.2;
        my $died = time;
        $servers->set( $number, 'close' );
        $nginx->wait_log( qr/$peer in upstream "b" is unhealthy/, $known + 1 ) or die 'nobody has seen it';
        sleep 0.1;
        my ($last) = reverse sort { $a <=> $b } map { $_->{at} } grep { $_->{at} >= $died } $servers->clients($number);
        push @last, 1000 * ( ( $last // $died ) - $died );
        $servers->up($number);
        $nginx->wait_log( qr/$peer in upstream "b" is healthy/, $known + 1 ) or die 'it is not up again';
    }
    $record->( 'death.last_client', @last );
    $record->( 'death.longest', max @last );
    stop_process($load);
    $nginx->signal('QUIT');
    $nginx->wait_exit;
    $nginx->kill_all;
    $servers->stop;
    return;
}

1;
