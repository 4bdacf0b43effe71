#!/usr/bin/perl

# timer_worker, timer_timeout, timer_success, timer_max_running, timer_unhealthy_after: values, contexts, twice.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Conf;

my %good = (
    timer_worker  => [qw( 0 auto )],
    timer_timeout => [ qw( 1ms 300ms 1s 60 10m 1h 1d ), '"1h 30m"' ],
    timer_success => [ '200', '200-299', '200 204', '200-299 304', '100-599', '404', '200-200', '200 200' ],
    timer_max_running => [qw( 1 64 10000 )],
    timer_unhealthy_after => [qw( 1 3 65535 )],
);
my %bad = (
    timer_worker  => [qw( 1 off on -1 AUTO 00 auto0 ), '""'],
    timer_timeout => [qw( 0 0s 0ms -1 -1s 1.5s x off s 99999999999999999999d ), '""'],
    timer_success => ['200,204', qw( abc 200- -200 300-200 99 1000 2xx 200-abc 200-299-300 0 200-1000 99999999999999999999 ), '""' ],
    timer_max_running => [qw( -1 +1 x 1.5 99999999999999999999 ), '""'],
    timer_unhealthy_after => [qw( 0 -1 +1 x 1.5 1s 65536 99999999999999999999 ), '""'],
);

for my $directive ( sort keys %good ) {
    accepts( http => "$directive $_;" ) for @{ $good{$directive} };
    for my $value ( @{ $bad{$directive} } ) {
        my $bare = $value =~ s/"//gr;
        refuses( http => "$directive $value;", qr/"$directive" directive invalid (?:value|number)|invalid (?:value|number|parameter|status|code).* "\Q$bare\E"|invalid .*"\Q$bare\E"/ );
    }
    refuses( http => "$directive;", qr/invalid number of arguments in "$directive" directive/ );
    if ( $directive ne 'timer_success' ) {
        my $value = $good{$directive}[0];
        refuses( http => "$directive $value $value;", qr/invalid number of arguments in "$directive" directive/ );
    }
    refuses( http => "$directive $good{$directive}[0];\n$directive $good{$directive}[0]; #!",
        qr/"$directive" directive is duplicate/ );
}
refuses( http => 'timer_success 200 abc;', qr/"abc"/ );
refuses( http => "timer_unhealthy_after $_;", qr{invalid value "$_" in "timer_unhealthy_after" directive, it must be a number between 1 and 65535} )
    for qw( 0 x );

# Contexts.
for my $directive (qw( timer_worker timer_timeout timer_success timer_unhealthy_after )) {
    my $value = $good{$directive}[0];
    accepts( $_ => "$directive $value;" ) for qw( http server location );
    refuses( location => "if (\$arg_a) {\n$directive $value; #!\n}", qr/"$directive" directive is not allowed here/ );
    refuses( $_ => "$directive $value;\n$directive $value; #!", qr/"$directive" directive is duplicate/ )
        for qw( server location );
}
refuses( server   => 'timer_max_running 1;', qr/"timer_max_running" directive is not allowed here/ );
refuses( location => 'timer_max_running 1;', qr/"timer_max_running" directive is not allowed here/ );

done_testing;
