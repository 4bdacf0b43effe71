package TimerTest::Conf;

# Tables of configurations that nginx -t accepts, or refuses with a message at a line.
#
#     accepts( location => 'timer x every=1s;' );
#     refuses( location => 'timer x every=1s y=1;', qr/invalid parameter "y=1"/ );
#
# The first argument says where the text goes: http, server, or location (then it is the body of
# "location /x/").  The message must name the file and the line that ends with "#!", the first line
# of the text if there is none.

use strict;
use warnings;

use Exporter qw( import );
use Test::More;
use TimerTest;
use TimerTest::Nginx;

our @EXPORT = qw( accepts refuses check_conf );

my $nginx;

# nginx -t: answers (accepted, output, file, line number of the text or of its mark).
sub check_conf {
    my ( $where, $text ) = @_;

    $nginx //= TimerTest::Nginx->new( wrapper => '' );
    my $prefix = $nginx->prefix;

    my ( $http, $server, $location ) = ('') x 3;
    $http     = $text if $where eq 'http';
    $server   = $text if $where eq 'server';
    $location = $text if $where eq 'location';
    $server   = "location /x/ {\n$location\n}" if $location ne '';

    # The default file of an installed nginx is the same for all, and may be in use.
    my $state = "$http$server" =~ /timer_state/ ? '' : 'timer_state memory;';
    my $conf  = <<"CONF";
${\ load_module() }
pid $prefix/logs/nginx.pid;
error_log stderr;
events { }
http {
    access_log off;
    $state
    client_body_temp_path $prefix/b;
    proxy_temp_path $prefix/p;
    fastcgi_temp_path $prefix/f;
    uwsgi_temp_path $prefix/u;
    scgi_temp_path $prefix/s;
$http
    server {
        listen 127.0.0.1:${\ $nginx->port };
        server_name www.example.org;
$server
    }
}
CONF

    my $from = index $conf, $text;
    my $mark = index $text, '#!';
    my $line = 1 + ( substr( $conf, 0, $from + ( $mark < 0 ? 0 : $mark ) ) =~ tr/\n// );

    $nginx->write_conf( conf => $conf );
    my ( $ok, $out ) = $nginx->test_conf;
    return ( $ok, $out, $nginx->conf_file, $line );
}

sub accepts {
    my ( $where, $text, $name ) = @_;

    my ( $ok, $out ) = check_conf( $where, $text );
    my $clean = $out !~ /\[(?:emerg|alert|crit|error|warn)\]/;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok( $ok && $clean, $name // "accepts: $text" ) || diag($out);
}

sub refuses {
    my ( $where, $text, $message, $name ) = @_;

    my ( $ok, $out, $file, $line ) = check_conf( $where, $text );
    my ($emerg) = $out =~ /\[emerg\] (?:\d+#\d+: )?(.*)/;
    $emerg //= '';

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $said = !$ok && $emerg =~ $message && $emerg =~ / in \Q$file\E:$line\z/;
    return ok( $said, $name // "refuses: $text" ) || diag("want $message at line $line, got:\n$out");
}

1;
