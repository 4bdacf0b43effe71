#!/usr/bin/perl

# README.md and docs/: each link within the repository leads to a file, and to a heading of it.

use strict;
use warnings;

use File::Basename qw( dirname );
use File::Spec ();
use Test::More;
use TimerTest;

my $top   = File::Spec->rel2abs( dirname(__FILE__) . '/../..' );
my @pages = glob "$top/*.md $top/docs/*.md";

# Headings as GitHub names them: letters in lower case, digits, "_" and "-"; blanks are "-".
sub anchors {
    my ($path) = @_;
    my $text = slurp($path) =~ s/^```.*?^```$//msgr;
    my ( %anchor, %seen );
    for my $heading ( $text =~ /^#+ +(.+?) *$/mg ) {
        my $name = lc( $heading =~ s/\[([^\]]*)\]\([^)]*\)/$1/gr ) =~ s/[^\w\- ]//gr =~ tr/ /-/r;
        $anchor{ $seen{$name}++ ? "$name-" . ( $seen{$name} - 1 ) : $name } = 1;
    }
    return \%anchor;
}

my ( %anchors, $links );
for my $page (@pages) {
    my $text = slurp($page) =~ s/^```.*?^```$//msgr =~ s/`[^`\n]*`//gr;
    my @bad;
    for my $link ( $text =~ /\]\(([^)\s]+)\)/g ) {
        next if $link =~ /\A[a-z]+:/;
        $links++;
        my ( $file, $anchor ) = $link =~ /\A([^#]*)(?:#(.*))?\z/;
        my $path = $file eq '' ? $page : dirname($page) . "/$file";
        push @bad, $link if !-e $path || defined $anchor && !( $anchors{$path} //= anchors($path) )->{$anchor};
    }
    is( "@bad", '', File::Spec->abs2rel( $page, $top ) );
}
cmp_ok( $links, '>', 100, "there are links: $links" );

done_testing;
