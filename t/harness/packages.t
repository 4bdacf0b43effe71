#!/usr/bin/perl

# What a build needs is named, all that is missing at once, and so is a Rust that is too old.

use strict;
use warnings;

use FindBin ();
use Test::More;
use TimerTest;

my $top  = "$FindBin::Bin/../..";
my $dir  = scratch_dir();
my $call = "$dir/cargo";

# A cargo that goes first: of that version, or one that says nothing, as if there were none.
sub with_cargo {
    my ( $version, @command ) = @_;
    my $says = defined $version ? "echo 'cargo $version (0123456789 2026-01-01)'" : 'exit 127';
    spew( $call, "#!/bin/sh\n$says\n" );
    chmod 0755, $call or die "$call: $!\n";
    local $ENV{PATH} = "$dir:$ENV{PATH}";
    return run_command(@command);
}

for my $version ( undef, qw( 0.66.0 1.65.0 1.84.1 1.84.1-nightly ) ) {
    my $is = $version // 'missing';
    my ( $status, $out ) = with_cargo( $version, "$top/tools/packages", 'build' );
    isnt( $status, 0, "Rust $is: refused" );
    like( $out, qr/\Aerror: missing: Rust 1\.85 or later[.,]/, 'and what is needed is named' );
    like( $out, qr/^apt-get install --no-install-recommends (?:.* )?cargo(?:-web)?(?: |$)/m, 'with what installs it' );

    local $ENV{HTTP} = 'YES';
    ( $status, $out ) = with_cargo( $version, 'sh', "$top/config" );
    isnt( $status, 0, "by nginx's configure, too" );
    like( $out, qr/ needs Rust 1\.85 or later, "cargo" is \Q$is\E$/m, 'which names it' );
}

for my $version (qw( 1.85.0 1.100.0 2.0.0-nightly )) {
    my ( undef, $out ) = with_cargo( $version, "$top/tools/packages", 'build' );
    unlike( $out, qr/Rust/, "Rust $version will do" );
}

done_testing();
