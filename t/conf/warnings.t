#!/usr/bin/perl

# What is accepted with a warning at load, and what is so like it that it could be taken for the same.

use strict;
use warnings;

use Test::More;
use TimerTest;
use TimerTest::Conf;

sub warns {
    my ( $where, $text, $message ) = @_;

    my ( $ok, $out, $file, $line ) = check_conf( $where, $text );
    my @warnings = $out =~ /\[warn\] (?:\d+#\d+: )?(.*)/g;
    my $said = $ok && @warnings == 1 && $warnings[0] =~ $message && $warnings[0] =~ / in \Q$file\E:$line\z/;
    return ok( $said, "warns: $text" ) || diag("want $message at line $line, got:\n$out");
}

# A named location that does nothing: what a server around it has does not make it do something.
my $no_content = qr/\Atimer "x": location "\@x" has no content handler, such as "proxy_pass", and no "return", "rewrite", "root" or "try_files" in /;
warns( server => "location \@x {\ntimer x every=1s; #!\n}", $no_content );
warns( server => "root html;\nlocation \@x {\ntimer x every=1s uri=/index.html; #!\n}", $no_content );
warns( http => "server {\nlocation \@x {\ntimer x every=1s; #!\nproxy_set_header A b;\n}\nreturn 301 /;\n}", $no_content );
warns( server => "try_files \$uri =404;\nlocation \@x {\ntimer x every=1s; #!\n}", $no_content );

for my $content (
    'return 204;',              'rewrite ^ /y;',            'if ($arg_a) { return 204; }',     'root html;',
    'try_files /y =404;',       'proxy_pass http://127.0.0.1:9;', 'fastcgi_pass 127.0.0.1:9;', 'uwsgi_pass 127.0.0.1:9;',
    'scgi_pass 127.0.0.1:9;', 'grpc_pass 127.0.0.1:9;',   'empty_gif;', 'set $u 127.0.0.1:9; proxy_pass http://$u;',
    )
{
    accepts( server => "location \@x { timer x every=1s; $content }" );
    accepts( server => "root html; location \@x { $content timer x every=1s; }" );
}

# Other locations serve files as ever.
accepts( server => "location $_->[0] { timer x every=1s uri=$_->[1]; }" )
    for [ '/x', '/x' ], [ '= /x', '/x' ], [ '~ ^/x', '/x' ];

# Both day fields, one of them a step.
sub both { my ($weekday) = @_; return qr/\Atimer "x": "cron=[^"]+" is due if either day field fits, in crontab\(5\) both must, write "\+\Q$weekday\E" for that, in / }
warns( location => qq{timer x "cron=0 3 */2 * MON";},   both('MON') );
warns( location => qq{timer x "cron=0 3 1-7 * */7";},   both('*/7') );
warns( location => qq{timer x "cron=0 0 3 1 * */2";},   both('*/2') );
accepts( location => qq{timer x "cron=$_";} )
    for '0 3 */2 * +MON', '0 3 1-7 * +*/7', '0 3 1-31/2 * MON', '0 3 13 * FRI', '0 3 */2 * *', '0 3 ? * */2', '@daily';

done_testing;
