#!/usr/bin/perl

# tools/crontab2timer: lines of crontabs as they are found, what becomes of each, and that nginx accepts all
# of it together.

use strict;
use warnings;

use File::Basename qw( dirname );
use Test::More;
use TimerTest;
use TimerTest::Conf;

my $tool = dirname(__FILE__) . '/../../tools/crontab2timer';

# Answers what it writes, and what it says.
sub translated {
    my ( $crontab, @options ) = @_;
    my $dir = scratch_dir();
    spew( "$dir/crontab", $crontab );
    my ( $status, $out ) = run_command( 'sh', '-c', 'exec "$@" <"$0" 2>"$0.err"', "$dir/crontab", $^X, $tool, @options );
    is( $status, 0, 'exits with 0' ) or diag slurp("$dir/crontab.err");
    return ( $out, slurp("$dir/crontab.err") );
}

# What is written of a line: its location, or the reason why there is none.
my @lines = (
    [ '* * * * * curl -fsS http://127.0.0.1/cron.php > /dev/null 2>&1',       qr{timer cron "cron=\* \* \* \* \*" uri=/cron\.php;\s+proxy_pass http://127\.0\.0\.1;} ],
    [ '*/5 * * * * curl -s http://10.0.0.5:9000/sync &>/dev/null',            qr{timer sync "cron=\*/5 \* \* \* \*" uri=/sync;\s+proxy_pass http://10\.0\.0\.5:9000;} ],
    [ '17 * * * * curl -m 600 -X POST http://127.0.0.1:9000/tidy',            qr{method=POST uri=/tidy;\s+timer_timeout 600s;\s+proxy_read_timeout 600s;} ],
    [ '0 3 * * 1-5 /usr/bin/curl --silent "https://api.example.org/v1/report?day=1&x=2"', qr{uri=/v1/report\?day=1&x=2;\s+proxy_ssl_server_name on;.*proxy_pass https://\$crontab_host;}s ],
    [ '0 4 * * * wget -qO- https://www.example.org/wp-cron.php?doing_wp_cron &> /dev/null', qr{timer wp-cron .*uri=/wp-cron\.php\?doing_wp_cron;} ],
    [ q{15 2 * * SUN wget -q -O /dev/null --no-check-certificate 'https://cron:secret@backup.example.org/run?a=1&b=2'}, qr{"cron=15 2 \* \* SUN".*Authorization "Basic Y3JvbjpzZWNyZXQ=".*ssl_server_name on;\s+set}s ],
    [ '30 6 * * * wget --spider --timeout=10 --tries=3 http://127.0.0.1/up',  qr{method=HEAD .*timer_timeout 10s;.*timer_retry 2 }s ],
    [ '@daily curl --retry 3 --retry-delay 30 --max-time 120 https://hooks.example.org/daily', qr{cron=\@daily .*timer_timeout 120s;.*timer_retry 3 on=failure,error,timeout backoff=30s max=30s;}s ],
    [ '@reboot curl http://127.0.0.1/warm',                                   '@reboot' ],
    [ '*/10 * * * * flock -n /tmp/q.lock curl -s http://localhost/queue',     qr{timer queue .*uri=/queue;\s+proxy_pass http://localhost;} ],
    [ q{*/10 * * * * /usr/bin/flock /tmp/q.lock -c 'curl -s http://localhost/queue'}, qr{timer queue-2 .*timer_overlap queue;}s ],
    [ '* * * * * sleep 30; curl -s http://localhost/half',                    qr{"cron=30 \* \* \* \* \*"} ],
    [ '* * * * * sleep 15s && curl -s http://localhost/quarter',              qr{"cron=15 \* \* \* \* \*"} ],
    [ '* * * * * sleep 90; curl -s http://localhost/late',                    '"sleep"' ],
    [ '0 1 * * * sleep $((RANDOM \% 600)); curl -s http://localhost/random',  qr{jitter=600s} ],
    [ '0 5 * * * mysqldump shop | gzip > /var/backups/shop.gz',               'a pipe' ],
    [ '*/15 * * * * cd /srv/shop && php artisan schedule:run >> /dev/null 2>&1', 'runs PHP' ],
    [ '17 3 * * * cd /srv && curl -s http://localhost/cd',                    qr{uri=/cd;} ],
    [ q{0 0 * * * curl -u admin:s3cret -d 'a=1&b=two words' -H 'X-Token: abc; {def}' http://10.1.2.3/api}, qr{method=POST uri=/api;.*X-Token "abc; \{def\}";.*urlencoded;.*proxy_set_body "a=1&b=two words";}s ],
    [ '0 0 1 * * curl -s -A "Mozilla/5.0 (cron)" "$BASE/invoices?month=last"', qr{uri=/invoices\?month=last;.*User-Agent "Mozilla/5\.0 \(cron\)";.*shop\.example\.org;}s ],
    [ q{0 6 * * 1 curl --json '{"kind":"weekly \"x\""}' https://api.example.org/jobs}, qr[application/json;.*proxy_set_body "\{\\"kind\\":\\"weekly \\\\\\"x\\\\\\"\\"\}";]s ],
    [ q{0 6 * * 2 curl -d 'price=$5' http://localhost/price},                 '"$"' ],
    [ '0 7 * * 2 curl -d @/etc/body http://localhost/body',                   'a body from a file' ],
    [ '0 7 * * 3 curl -G -d q=1 -d r=2 http://localhost/search?a=0',          qr{timer search .*uri=/search\?a=0&q=1&r=2;} ],
    [ '0 0 */2 * 1 curl -s http://localhost/even',                            qr{"cron=0 0 \*/2 \* \+1"} ],
    [ '0 0 1-7 * MON curl -s http://localhost/first',                         qr{"cron=0 0 1-7 \* MON"} ],
    [ '*/90 * * * * curl -s http://localhost/ninety',                         '"*/90" in the minute field' ],
    [ '0/15 * * * * curl -s http://localhost/slash',                          '"0/15" in the minute field' ],
    [ '0 0 31 2 * curl -s http://localhost/never',                            'it is never due' ],
    [ '0 22 * * sat,sun curl -s http://localhost/a && curl -s https://hc.example.org/ping/abc', 'several commands' ],
    [ '0 22 * jan-mar,12 7 curl -s http://localhost/winter || true',          qr{"cron=0 22 \* jan-mar,12 7"} ],
    [ '0 23 * * * curl -s http://localhost/a || echo failed | mail root',     'a pipe' ],
    [ '5 0 * * * curl -s http://localhost/x?a=1&b=2',                         '"&" of the shell' ],
    [ '6 0 * * * curl -s http://localhost/$(date +\%F)',                      'of the shell' ],
    [ '7 0 * * * curl -s http://localhost/$HOSTNAME',                         'of the shell' ],
    [ '8 0 * * * mail -s report root%Hello',                                  '"%" begins the standard input' ],
    [ '9 0 * * * curl -o /srv/rates.json https://rates.example.org/latest.json', 'saves the answer in /srv/rates.json' ],
    [ '30 7 * * * wget https://rates.example.org/latest.json',                'saves the answer' ],
    [ '10 0 * * * curl -sL -k https://10.9.8.7/moved >> /var/log/moved.log 2>&1', qr{# redirects are not followed\s+\S?.*# the output is not kept|# the output is not kept, it went to /var/log/moved\.log\s+# redirects are not followed}s ],
    [ '11 0 * * * nice -n 10 timeout 5m curl -s http://localhost/nice',       qr{uri=/nice;\s+timer_timeout 300s;} ],
    [ '12 0 * * * curl --unix-socket /run/app.sock http://app/unix',          qr{proxy_set_header Host app;\s+proxy_pass http://unix:/run/app\.sock:;} ],
    [ '13 0 * * * curl -F file=@/etc/hosts http://localhost/upload',          'option "-F"' ],
    [ '14 0 * * * curl http://localhost/one http://localhost/two',            'several URLs' ],
    [ '15 0 * * * curl -s "http://localhost/caf%C3%A9/a b"',                  '"%" begins' ],
    [ '15 0 * * * curl -s "http://localhost/caf\%C3\%A9/{x}"',                qr{uri=/caf%C3%A9/%7Bx%7D;} ],
    [ '16 0 * * * /usr/local/bin/backup.sh',                                  'runs a program' ],
    [ '17 0 * * curl http://localhost/short',                                 'in the day of week field' ],
);

my ( $out, $said ) = translated( join "\n", '# of an application', 'SHELL=/bin/bash', 'MAILTO=""', 'BASE="https://shop.example.org"', '', map { $_->[0] } @lines );
my $good = grep { ref $_->[1] } @lines;
cmp_ok( scalar @lines, '>=', 40, 'lines' );
like( $said, qr/\A$good of ${\ scalar @lines } lines translated\n\z/, 'says how many' );
like( $out, qr/^# of an application\n# SHELL=/m, 'comments stay, settings are comments' );

for my $row (@lines) {
    my ( $line, $want ) = @$row;
    if ( ref $want ) {
        my ($location) = $out =~ /^# \Q$line\E\n(location \@.*?^\})$/ms;
        like( $location // '', $want, $line );
    }
    else {
        my ($reason) = $out =~ /^# not translated, (.*):\n# \Q$line\E$/m;
        like( $reason // '', qr/\Q$want\E/, "not translated: $line" );
    }
}
accepts( server => $out, 'nginx accepts it' );

# With a user in each line.
my $system = "17 *\t* * *\troot    curl -s http://localhost/hourly\n25 6 * * * root test -x /usr/sbin/anacron || { cd / && run-parts /etc/cron.daily; }\n";
for my $options ( [], ['--system'] ) {
    ( $out, $said ) = translated( $system, @$options );
    like( $out, qr{timer hourly "cron=17 \* \* \* \*" uri=/hourly;}, "a user's line: @$options" );
    like( $said, qr/\A1 of 2 lines/, 'and a program' );
    accepts( server => $out, 'nginx accepts it' );
}
( $out, $said ) = translated( $system, '--user' );
like( $out, qr/# not translated, runs a program:\n# 17/, '--user: there is none' );

# A time zone, a schedule that is twice there, and nothing at all.
( $out, $said ) = translated("CRON_TZ=Europe/Berlin\n0 3 * * * curl http://localhost/x\n0 4 * * * curl http://localhost/x/\n");
like( $out, qr{timer x "cron=0 3 \* \* \*" tz=Europe/Berlin uri=/x;.*timer x-2 "cron=0 4 \* \* \*" tz=Europe/Berlin uri=/x/;}s, 'CRON_TZ' );
accepts( server => $out, 'nginx accepts it' );
( $out, $said ) = translated('');
accepts( server => $out, 'an empty crontab' );

done_testing;
