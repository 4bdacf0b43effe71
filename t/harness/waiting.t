#!/usr/bin/perl

# What the tests wait for in vain fails them, whether or not they look at the answer; and a list that is to
# lack something is not to be empty.

use strict;
use warnings;

use Test::More;
use TimerTest;

# Runs a test; answers how it ended, and what it said.
sub result {
    my ($lines) = @_;
    my $file = spew( scratch_dir() . '/test.t', <<"TEST" );
use strict;
use warnings;
use Test::More;
use TimerTest;
use TimerTest::Backend;
use TimerTest::Nginx;
use TimerTest::Series;
use TimerTest::StateFile;
\$TimerTest::DEADLINE = 0.2;
my \$backend = TimerTest::Backend->start;
my \$nginx   = TimerTest::Nginx->new( wrapper => '' );
$lines
ok( 1, 'something' );
done_testing;
TEST
    return run_command( $^X, ( map {"-I$_"} @INC ), $file );
}

my %passes = (
    'a condition'        => 'wait_until { 1 };',
    'who has an answer'  => 'my $value = wait_until { 0 }; ok( !$value );',
    'others of a list'   => 'none_of { $_ == 3 } "three", 1, 2;',
    'text without it'    => 'lacks( "text", qr/word/, "word" );',
);
for my $what ( sort keys %passes ) {
    my ( $status, $out ) = result( $passes{$what} );
    is( $status, 0, "passes: $what" ) or diag $out;
}

my %fails = (
    'a condition'           => [ 'wait_until { 0 };',                                            qr/waited in vain for a condition/ ],
    'requests'              => [ '$backend->wait_requests( 2, timer => "x" );',                  qr/waited in vain for 2 requests timer x/ ],
    'requests, looked at'   => [ 'my @runs = $backend->wait_requests(1);',                       qr/waited in vain for 1 requests/ ],
    'a log line'            => [ '$nginx->wait_log(qr/no such line/);',                          qr/waited in vain for 1 log lines .*no such line/ ],
    'the end of a process'  => [ '$nginx->wait_gone( [$$] );',                                   qr/waited in vain for the end of \d+/ ],
    'a worker'              => [ '$nginx->worker_in_slot(0);',                                   qr/waited in vain for a worker in slot 0/ ],
    'a record'              => [ 'wait_record( "/nowhere", "x", sub { 1 } );',                   qr/waited in vain for a record of "x"/ ],
    'due times'             => [ 'lost_dues( 1000, 0.1, 0.2 );',                                 qr/waited in vain for a due time/ ],
    'one of a list'         => [ 'none_of { $_ == 2 } "two", 1, 2;',                             qr/not ok \d+ - two\n/ ],
    'an empty list'         => [ 'none_of { $_ == 2 } "two", ();',                               qr/not ok \d+ - two\n.*there is nothing to look at/s ],
    'no text'               => [ 'lacks( undef, qr/word/, "word" );',                            qr/not ok \d+ - word\n.*there is no text/s ],
    'text with it'          => [ 'lacks( "a word", qr/word/, "word" );',                         qr/not ok \d+ - word\n/ ],
    'no requests'           => [ 'no_doubles( "none", $backend->requests );',                    qr/not ok \d+ - none: no due time twice\n/ ],
    'none at once of none'  => [ 'no_overlaps( "none", {}, $backend->requests );',               qr/not ok \d+ - none: one at a time\n/ ],
    'no line of no log'     => [ 'logged_times( $nginx, qr/alert/, 0, "no alert" );',            qr/not ok \d+ - no alert\n.*the log has no line of a timer/s ],
);
for my $what ( sort keys %fails ) {
    my ( $lines,  $words ) = @{ $fails{$what} };
    my ( $status, $out )   = result($lines);
    isnt( $status, 0, "fails: $what" );
    like( $out, $words, 'by its name' );
    like( $out, qr/test\.t line 12\b/, 'and line' );
}

done_testing;
