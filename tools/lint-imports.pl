#!/usr/bin/perl

# tools/lint-imports.pl FOLDER: no modules of FOLDER import each other in a circle.
# tools/lint-imports.pl --rooms FOLDER: nor do its folders, each taken as one.
#
# What a module imports is each path that begins with "crate", "super" or "self": in "use" and elsewhere.

use strict;
use warnings;

use File::Find qw( find );

my $rooms = @ARGV && $ARGV[0] eq '--rooms' ? shift : undef;
my ($top) = @ARGV or die "usage: $0 [--rooms] FOLDER\n";

# Modules by their path: "src/nginx/core/log.rs" is "nginx::core::log", "src/lib.rs" is "".
my %source;
find(
    {   no_chdir => 1,
        wanted   => sub {
            return if !/\.rs\z/;
            open my $file, '<', $_ or die "$_: $!\n";
            local $/ = undef;
            my $name = s{\Asrc/}{}r =~ s{\.rs\z}{}r =~ s{(?:\A|/)(?:mod|lib)\z}{}r =~ s{/}{::}gr;
            $source{$name} = <$file>;
        },
    },
    'src'
);

# expand("a::{b, c::{d, e}}"): its paths.
sub expand {
    my ($path) = @_;
    return $path if $path !~ /\A([^{]*)\{(.*)\}\z/s;
    my ( $before, $list ) = ( $1, $2 );
    my ( $depth, @parts ) = ( 0, '' );
    for my $char ( split //, $list ) {
        $depth += { '{' => 1, '}' => -1 }->{$char} // 0;
        if   ( $char eq ',' && !$depth ) { push @parts, '' }
        else                             { $parts[-1] .= $char }
    }
    return map { expand( $before . $_ ) } grep {length} @parts;
}

# The module that the path leads to, or leads into.
sub module_of {
    my ( $from, $path ) = @_;
    my @path = split /::/, $path;
    my @at   = split /::/, $from;
    my $root = shift @path;
    @at = () if $root eq 'crate';
    pop @at if $root eq 'super';
    while ( @path && $path[0] eq 'super' ) { shift @path; pop @at }
    my $found = join '::', @at;
    for my $name (@path) {
        push @at, $name;
        my $deeper = join '::', @at;
        last if !exists $source{$deeper};
        $found = $deeper;
    }
    return $found;
}

my %edges;
my $within = $top =~ s{\Asrc/?}{}r =~ s{/}{::}gr;
for my $from ( sort keys %source ) {
    # Without strings, characters and comments.
    my $text = $source{$from} =~ s{r\#".*?"\#|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.[^']*)'|//[^\n]*}{}gsr;
    # Tests may look at everything.
    $text =~ s/^\#\[cfg\(test\)\]\s*(?:mod \w+;|(?:pub(?:\(\w+\))? )?(?:mod|use|fn) .*?^\}|use [^;]*;)//gms;
    $text =~ s/\bpub\([^)]*\)/pub/g;
    my @paths;
    while ( $text =~ /\buse ([^;]*);/gs ) {
        for my $path ( expand( $1 =~ s/\s+/ /gr =~ s/ ?([{},]) ?/$1/gr ) ) {
            $path =~ s/ as \w+//;
            my ($first) = $path =~ /\A(\w+)/ or next;
            my $child = length $from ? "${from}::$first" : $first;
            push @paths, $first =~ /\A(?:crate|super|self)\z/ ? $path : exists $source{$child} ? "self::$path" : ();
        }
    }
    $text =~ s/\buse [^;]*;//gs;
    push @paths, $1 while $text =~ /\b((?:crate|super|self)(?:::\w+)+)/g;
    for my $path (@paths) {
        my ( $one, $other ) = ( $from, module_of( $from, $path ) );
        next if $one !~ /\A\Q$within\E(?:::|\z)/ && length $within;
        next if $other !~ /\A\Q$within\E(?:::|\z)/ && length $within;
        if ($rooms) {
            for ( $one, $other ) {
                s/\A\Q$within\E(?:::)?// if length $within;
                s/::.*//s;
            }
        }
        $edges{$one}{$other} = 1 if $one ne $other && length $one && length $other;
    }
}

sub reaches {
    my ( $from, $to ) = @_;
    my ( %seen, @next );
    for ( @next = ($from); @next; push @next, grep { !$seen{$_}++ } keys %{ $edges{ shift @next } } ) {
        return 1 if $next[0] eq $to;
    }
    return 0;
}

my $failed = 0;
for my $one ( sort keys %edges ) {
    for my $other ( grep { reaches( $_, $one ) } sort keys %{ $edges{$one} } ) {
        print "\"$one\" imports \"$other\"\n";
        $failed = 1;
    }
}
exit $failed;
