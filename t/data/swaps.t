#!/usr/bin/perl

# 50 contents a second, 200,000 requests by two workers, writers that are killed in between: what a request reads is
# of one content; and a million keys.

use strict;
use warnings;

use IO::Socket::INET ();
use Test::More;
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Nginx;
use TimerTest::Turns;

my $big   = scratch_dir();
my $turns = TimerTest::Turns->new;
my $watch = nginx_is_watched();
my ( $reads, $keys ) = $watch ? ( 5_000, 20_000 ) : ( 200_000, 1_000_000 );

# As long as its number of digits says, so that a torn one is seen.
my $content = join '', map {"$_ \$timer_due-\$timer_run\\n"} 'a', 'b', map {"more$_"} 1 .. 50;
my $nginx   = TimerTest::Nginx->new(
    workers   => 2,
    faults    => $turns,
    log_level => 'notice',
    http      => "keyval_zone zone=swaps:64k; keyval_zone zone=big:64m; types { } default_type text/plain;\n"
        . 'keyval a $a zone=swaps; keyval b $b zone=swaps; keyval $arg_key $c zone=swaps; keyval $arg_key $big zone=big;',
    server => "location \@swap { timer swap every=20ms; timer_keyval swaps; return 200 \"$content\"; }\n"
        . "location = /big.txt { timer big every=366d; timer_timeout 300s; timer_keyval big; root $big; }\n"
        . 'location = /read { keepalive_requests 100000000; return 200 "$a|$b|$c\n"; } location = /big { return 200 $big; } location /status/ { timer_api write=on; }',
);
$nginx->start;
my $api = TimerTest::Api->new( $nginx, at => '/status' );
wait_until { $nginx->get('/read')->{body} =~ /\A\d/ };

my $request = "GET /read?key=more%d HTTP/1.1\r\nHost: localhost\r\n\r\n";
my $batch   = join '', map { sprintf $request, 1 + $_ % 50 } 1 .. 100;
my ( $seen, $whole, %contents, @odd, $killed ) = ( 0, 0 );

# Answers how many responses have come: fewer than asked for if the worker was killed.
sub read_batch {
    my ($socket) = @_;
    my ( $text, $lines ) = ( '', 0 );
    syswrite( $socket, $batch ) // return 0;
    my $end = deadline();
    while ( $lines < 100 && time < $end ) {
        sysread( $socket, $text, 65536, length $text ) || last;
        $lines = () = $text =~ /^\d*[^\n]*\|[^\n]*\|[^\n]*\n/mg;
    }
    while ( $text =~ /^([\d.]+)-([0-9a-f]+)\|([\d.]+)-([0-9a-f]+)\|([\d.]+)-([0-9a-f]+)\n/mg ) {
        $seen++;
        $contents{$2} = 1;
        my @runs = ( $2, $4, $6 );
        my ( $first, @others ) = ( $1, $3, $5 );
        next if $whole += !grep { $_ ne $runs[0] } @runs and !grep { $_ ne $runs[0] } @runs;
        # A process that stood still for two swaps sees the next content: the one before is gone.
        push @odd, $& if grep { abs( $_ - $first ) < 0.03 && $_ != $first } @others;
    }
    $seen-- , push( @odd, $text ) if $text =~ /^(?![\d.]+-[0-9a-f]{32}\|)[^\r\n]*\|[^\n]*\n/m;
    return $lines;
}

# As many reads as are wanted, and longer where contents come slowly.
my ( @sockets, $end );
until ( $seen >= $reads && ( keys %contents > 20 || time > ( $end //= deadline() ) ) ) {
    $_ //= IO::Socket::INET->new( PeerAddr => '127.0.0.1', PeerPort => $nginx->port ) for @sockets[ 0 .. 3 ];
    for my $n ( 0 .. 3 ) {
        undef $sockets[$n] if !$sockets[$n] || read_batch( $sockets[$n] ) < 100;
    }
    # Three times, whoever writes.
    if ( $seen > ( ( $killed // 0 ) + 1 ) * $reads / 4 && ( $killed // 0 ) < 3 ) {
        my $pid = ( $nginx->workers )[ $killed++ % 2 ];
        push @{ $nginx->{allow} }, qr/$pid exited on signal 9/;
        $nginx->signal( KILL => $pid );
        $nginx->wait_gone( [$pid] );
        wait_until { scalar $nginx->workers == 2 };
    }
    last if @odd > 10;
}
is( "@odd[ 0 .. ( $#odd > 3 ? 3 : $#odd ) ]", '', "no mixture in $seen reads" );
cmp_ok( $seen,                   '>=', $reads, 'as many as wanted' );
cmp_ok( scalar( keys %contents ), '>', 20,     'of many contents: ' . keys %contents );
cmp_ok( $whole, '>', $seen * 0.99, "nearly all are of one content: $whole" );

# Loads so many keys.
sub load {
    my ($keys) = @_;
    open my $file, '>', "$big/new" or die "$big/new: $!";
    print {$file} map {"key-$_ value-$_\n"} 1 .. $keys;
    close $file;
    rename "$big/new", "$big/big.txt";
    my $started = time;
    $turns->clear;
    $api->order('/timers/big/run');
    wait_until { $nginx->get("/big?key=key-$keys")->{body} eq "value-$keys" } 200;
    my ($longest) = sort { $b <=> $a } map { $turns->longest($_) } $nginx->workers;
    my ($read)    = sort { $b <=> $a } map { $turns->most_read($_) } $nginx->workers;
    # What is taken in a turn takes a millisecond; nobody reads as quickly as that.
    my $size = -s "$big/big.txt";
    cmp_ok( $read, '<', $size / 2, "a share in each turn, $read bytes of $size" ) if $size > 16e6;
    note sprintf '%d keys in %.1f s, the longest turn took %.1f ms', $keys, time - $started, $longest;
    return $longest;
}

# 100,000 keys hold nobody up, and a million can be there.
{
    my $longest = load( $watch ? 5_000 : 100_000 );
    cmp_ok( $longest, '<=', 20, 'in turns' ) if !$watch;
    load($keys);
    is( $nginx->get("/big?key=key-$_")->{body}, "value-$_", "key $_ of $keys" ) for 1, int $keys / 2, $keys;
    is( $nginx->get('/big?key=key-0')->{body}, '', 'and none that is not there' );
    my $zone = ( grep { $_->{zone} eq 'big' } @{ json( $nginx->get('/status/keyvals') )->{keyvals} } )[0];
    is( $zone->{keys}, $keys, 'all are there' );
}

$nginx->stop;
done_testing;
