#!/usr/bin/perl

# What packages have beside the module: the manual page and the syntax for Vim are those of docs/, nginx knows each
# directive in them, the dashboard of Grafana speaks of metrics and labels that are there, and what INSTALL says
# puts the module into its place.

use strict;
use warnings;

use FindBin ();
use JSON::PP ();
use Test::More;
use TimerTest;
use TimerTest::Nginx;

my $top = "$FindBin::Bin/../..";

my %file = ( man => 'packaging/man/ngx_http_timer_module.8', vim => 'packaging/vim/after/syntax/nginx.vim' );
for my $what ( sort keys %file ) {
    my ( $status, $out ) = run_command( "$top/tools/reference", $what );
    is( $status, 0, "tools/reference $what" ) or diag $out;
    ok( slurp("$top/$file{$what}") eq $out, "$file{$what} is that of docs/: tools/reference --write" );
}

# None is unknown to nginx, nor is one of its own missing.
my %directive = map { $_ => 1 } map {split} slurp("$top/$file{vim}") =~ /^syn keyword ngxDirectiveThirdParty (.*)$/mg;
cmp_ok( scalar keys %directive, '>', 15, 'directives' );
for my $name ( sort keys %directive ) {
    my ( undef, $out ) = TimerTest::Nginx->new( server => "$name;", wrapper => '' )->test_conf;
    unlike( $out, qr/unknown directive/, "nginx knows $name" );
}
my @in_code = map { slurp($_) =~ /NAME: &'static CStr = c"(\w+)"/g } glob "$top/src/conf/*.rs $top/src/conf/*/*.rs";
cmp_ok( scalar @in_code, '>', 15, 'directives of the code' );
ok( $directive{$_}, "$_ is in docs/" ) for sort @in_code;

# Each variable once, and all that there are.
my @variables = slurp("$top/$file{man}") =~ /^\\fB\$(timer_\w+)\\fR$/mg;
my @registered = slurp("$top/src/variables.rs") =~ /c"(timer_\w+)"/g;
is_deeply( [ sort @variables ], [ sort @registered ], 'the variables of the manual page' );

SKIP: {
    skip 'man is not installed', 1 if !program('man');
    local $ENV{MANWIDTH} = 200;
    my ( undef, $out ) = run_command( 'man', '--warnings', '-l', "$top/$file{man}" );
    lacks( $out, qr/warning:/, 'man finds nothing' );
}

# INSTALL, to the letter: where there is no folder yet, and over an older module, which is left as it is.
my $dir     = scratch_dir();
my $modules = "$dir/lib/modules";
my $so      = 'ngx_http_timer_module.so';
my @steps   = grep { !/^(?:nginx|load_module) / } slurp("$top/packaging/INSTALL") =~ /^ {4}(.*)/mg;
cmp_ok( scalar( grep {s{^modules=\S+}{modules=$modules}} @steps ), '==', 1, 'INSTALL: the folder of modules' );
my $steps = join "\n", 'set -e; umask 077; cd "$1"', @steps;
for my $content (qw( first second )) {
    spew( "$dir/$so", $content );
    run_command( 'sh', '-c', 'cd "$1" && sha256sum "$2" > SHA256SUMS', 'sh', $dir, $so );
    link "$modules/$so", "$dir/mapped";
    my ( $status, $out ) = run_command( 'sh', '-c', $steps, 'sh', $dir );
    is( $status, 0, "INSTALL: the $content module" ) or diag $out;
    is( slurp("$modules/$so"), $content, 'is in its place' );
    is( ( stat "$modules/$so" )[2] & oct 777, oct 644, 'and all may read it' );
}
is( slurp("$dir/mapped"), 'first', 'the old one is not written over' );
is_deeply( [ map {s{.*/}{}r} glob "$modules/*" ], [$so], 'and nothing else is there' );

# Each crate that is linked into the module has a text of its licence, and a place in the bill of materials.
my ( $failed, $licenses ) = run_command( "$top/tools/third-party", 'licenses' );
is( $failed, 0, 'licences' ) or diag $licenses;
my ($list) = $licenses =~ /\A.*?\n\n(.*?)\n\n/s;
my %license = $list =~ /^    (\S+ \S+): (.+)$/mg;
cmp_ok( scalar keys %license, '>', 10, 'crates' );
my %text = map { $_ => 1 } map { split /, / } $licenses =~ /^-{80}\n(.*)\n-{80}$/mg;
is_deeply( [ sort keys %text ], [ sort keys %license ], 'and the licence of each' );

( $failed, my $materials ) = run_command( "$top/tools/third-party", 'sbom' );
is( $failed, 0, 'bill of materials' ) or diag $materials;
my $bom   = JSON::PP->new->decode($materials);
my @parts = map {"$_->{name} $_->{version}"} @{ $bom->{components} };
is_deeply( [ sort grep { !/^rust-std / } @parts ], [ sort keys %license ], 'has the same crates' );
is( scalar( grep {/^rust-std \d/} @parts ), 1, "and Rust's own library" );
my %known = map { $_->{'bom-ref'} => 1 } $bom->{metadata}{component}, @{ $bom->{components} };
is_deeply( [ grep { !$known{$_} } map { ( $_->{ref}, @{ $_->{dependsOn} } ) } @{ $bom->{dependencies} } ], [], 'and depends on no other' );

# The metrics of one timer and one group.
my $server = TimerTest::Nginx->new( wrapper => '', server => 'location / { return 204; }' );
$server->start;
my $nginx = TimerTest::Nginx->new(
    http   => "upstream group { zone group 64k; server 127.0.0.1:${\ $server->port }; }",
    server => 'location @t { timer t every=1h; return 204; } location /status/ { timer_api; }
        location / { proxy_pass http://group; health_check; }',
);
$nginx->start;
my $metrics = $nginx->get('/status/metrics')->{body};
my %labels;
while ( $metrics =~ /^(nginx_\w+)(?:\{(.*?)\})? /mg ) {
    my ( $name, $labels ) = ( $1, $2 // '' );
    $labels{$name}{$1} = 1 while $labels =~ /(\w+)="/g;
    $labels{$name}{$_} = 1 for qw( job instance );
}

my $dashboard = JSON::PP->new->decode( slurp("$top/packaging/grafana/nginx-timers.json") );
my @targets   = map { @{ $_->{targets} } } @{ $dashboard->{panels} };
my @texts     = ( ( map { $_->{expr} } @targets ), map { $_->{query} } @{ $dashboard->{templating}{list} } );
cmp_ok( scalar @targets, '>', 10, 'queries' );
for my $text (@texts) {
    while ( $text =~ /(nginx_\w+)(?:\{(.*?)\})?/g ) {
        my ( $name, $matchers ) = ( $1, $2 // '' );
        ok( $labels{$name}, "there is a metric $name" ) or next;
        ok( $labels{$name}{$_}, "$name has a label $_" ) for $matchers =~ /(\w+)(?:=|!=)/g;
    }
}
for my $target (@targets) {
    my ($by) = $target->{expr} =~ /by \((.*?)\)/;
    my ($metric) = $target->{expr} =~ /(nginx_\w+)/;
    my %has = map { $_ => 1 } defined $by ? split /,/, $by : keys %{ $labels{$metric} };
    ok( $has{$_}, "\"$target->{legendFormat}\": there is a label $_" ) for $target->{legendFormat} =~ /\{\{(\w+)\}\}/g;
}

done_testing();
