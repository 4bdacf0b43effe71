package TimerTest::BenchKeyval;

# What a look-up costs, and for how long the loading of a content holds the event loop: for tools/bench.pl.
# Each measurement hands its numbers to a function: $record->( KEY => NUMBER, ... ).

use strict;
use warnings;

use Exporter qw( import );
use Time::HiRes qw( time );
use TimerTest;
use TimerTest::Api;
use TimerTest::Bench;
use TimerTest::Nginx;
use TimerTest::Turns;

our @EXPORT = qw( measure_keyval );

# A file of so many keys with values as long as they are, so that answers have the same length; and what has a zone filled
# with it.
sub content {
    my ($keys) = @_;
    my $dir = scratch_dir();
    open my $file, '>', "$dir/content.txt" or die "$dir: $!";
    print {$file} map {"key-$_ val-$_\n"} 1 .. $keys;
    close $file;
    my $http = 'keyval_zone zone=z:64m; keyval $arg_key $found zone=z; types { } default_type text/plain;';
    my $server = "location = /content.txt { timer content every=366d first=now; timer_timeout 1000s; timer_keyval z; root $dir; }\n"
        . 'location = /found { return 200 $found; }';
    return ( http => $http, server => $server );
}

sub measure_keyval {
    my ( $record, $size ) = @_;

    # A request that looks a key up, and one that answers the key itself.
    for my $keys ( @{ $size->{looked_up} } ) {
        # By another nginx: a file of its own would have callgrind write what it has counted.
        my $source = TimerTest::Nginx->new( no_module => 1, http => 'types { } default_type text/plain;' );
        my %conf   = content($keys);
        my ($dir)  = $conf{server} =~ /root (\S+);/;
        $source->write_conf( server => "root $dir;" )->start;
        $conf{server} =~ s/root \S+;/proxy_max_temp_file_size 0; proxy_pass http:\/\/127.0.0.1:${\ $source->port };/;
        # Where a key is in the table is a matter of chance: ten of them, as long as the last one or shorter by a digit.
        my @paths = map { '/found?key=key-' . int( $keys * $_ / 10 ) } 1 .. 10;
        # All but what the location answers is the same.
        my %answer = ( found => '$found', asked => '$arg_key' );
        my %cost;
        for my $name ( sort keys %answer ) {
            my $of = TimerTest::Bench->new( callgrind => 'all', log_level => 'info', %conf, server => $conf{server} =~ s/\$found/$answer{$name}/r );
            wait_until { $of->{nginx}->log =~ /timer "content": run succeeded/ } 900;
            $cost{$name} = $of->instructions_per_request( \@paths, $size->{requests}, 5 )->{all};
            $of->stop;
        }
        $record->( "keyval.$keys.request", $cost{asked} );
        $record->( "keyval.$keys.lookup",  $cost{found} - $cost{asked} );
        $record->( "keyval.$keys.percent", 100 * ( $cost{found} - $cost{asked} ) / $cost{asked} );
        $_->signal('QUIT') && $_->wait_exit && $_->kill_all for $source;
    }

    for my $keys ( @{ $size->{loaded} } ) {
        for ( 1 .. $size->{starts} ) {
            my $turns = TimerTest::Turns->new;
            my %conf  = content($keys);
            $conf{server} =~ s/first=now//;
            my $nginx = TimerTest::Nginx->new( log_level => 'notice', faults => $turns, %conf, server => "$conf{server} location /status/ { timer_api write=on; }" );
            $nginx->start;
            my ($worker) = $nginx->workers;
            my $api = TimerTest::Api->new( $nginx, at => '/status' );
            $turns->clear;
            my $from = time;
            $api->order('/timers/content/run');
            wait_until { $nginx->get("/found?key=key-$keys")->{body} eq "val-$keys" } 300;
            $record->( "keyval.$keys.seconds", time - $from );
            $record->( "keyval.$keys.turn",    $turns->longest($worker) );
            $_->signal('QUIT') && $_->wait_exit && $_->kill_all for $nginx;
        }
    }
    return;
}

1;
