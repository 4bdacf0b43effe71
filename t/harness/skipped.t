#!/usr/bin/perl

# What is skipped is named in one line at the end of "make test".

use strict;
use warnings;

use File::Basename qw( dirname );
use Test::More;
use TimerTest;

my $tools = dirname(__FILE__) . '/../../tools';
my $dir   = scratch_dir();
my %code  = (
    'whole.t' => 'plan skip_all => "not root";',
    'other.t' => 'plan skip_all => "not root";',
    'part.t'  => 'SKIP: { skip "x is not installed", 2; } SKIP: { skip "x is not installed", 1; } ok 1; done_testing;',
    'none.t'  => 'ok 1; done_testing;',
    'once.t'  => 'if ( $ENV{TEST_NGINX_SKIPPED} =~ /first/ ) { plan skip_all => "another nginx" } ok 1; done_testing;',
);

mkdir "$dir/notes";
for my $suite (qw( first second )) {
    local $ENV{TEST_NGINX_SKIPPED} = spew( "$dir/notes/$suite", '' );
    for my $file ( sort keys %code ) {
        spew( "$dir/$file", "use Test::More; use TimerTest; $code{$file}" );
        my ( $status, $out ) = run_command( $^X, "$dir/$file" );
        is( $status, 0, "$suite: $file" ) or diag $out;
        unlike( $out, qr/^(?!ok|1\.\.)./m, 'and says nothing but its tests' );
    }
}

my ( $status, $line ) = run_command( "$tools/not-tested", "$dir/notes", 'the nginx of a distribution' );
is( $status, 0, 'there is a line' );
my $end = qr/the nginx of a distribution; all of it, as root on Debian: tools\/packages --install [a-z ]+ && make test\n\z/;
like( $line, qr/\Anot tested: .*; $end/, 'which begins and ends like this' );
like( $line, qr/(?:: |; )$_; /, "it has $_" ) for qr{\Q$dir\E/other\.t, \Q$dir\E/whole\.t \(not root\)}, qr{\Q$dir\E/part\.t \(x is not installed\)};
lacks( $line, qr/none\.t|once\.t/, 'but not what was tested, be it by one suite' );

unlink glob "$dir/notes/*";
spew( "$dir/notes/first", '' );
is( ( run_command( "$tools/not-tested", "$dir/notes" ) )[1], '', 'nothing where nothing was skipped' );

done_testing;
