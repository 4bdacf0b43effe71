#!/usr/bin/perl

# What nginx itself can do in a location: return, files, rewrites and redirects of every kind, SSI,
# mirror, filters; and which status the run then has.

use TimerTest::Socket;
use Test::Nginx::Socket 'no_plan';

workers(2);
run_tests();

__DATA__

=== TEST 1: return, with and without a text
--- config
location @a { timer a every=366d first=now; return 200 "text\n"; }
location @b { timer b every=366d first=now; return 204; }
location @c { timer c every=366d first=now; return 500; }
location @d { timer d every=366d first=now; return 301 http://example.org/; }
location @e { timer e every=366d first=now; return 302 /x; }
location @f { timer f every=366d first=now; return 444; }
location @g { timer g every=366d first=now; return 299; }
location @h { timer h every=366d first=now; return 300 "x"; }
--- wait_log
timer "a": run succeeded: status 200, \d+ms
timer "b": run succeeded: status 204, \d+ms
timer "c": run failed: status 500, \d+ms
timer "d": run failed: status 301, \d+ms
timer "e": run failed: status 302, \d+ms
timer "f": run failed: status 444, \d+ms
timer "g": run succeeded: status 299, \d+ms
timer "h": run failed: status 300, \d+ms


=== TEST 2: static files
--- config
location /a/ { timer a every=366d first=now uri=/a/index.html; alias $TEST_NGINX_SERVER_ROOT/html/; }
location /b/ { timer b every=366d first=now uri=/b/; alias $TEST_NGINX_SERVER_ROOT/html/; index no.html index.html; }
location /c  { timer c every=366d first=now uri=/c; }
location /d/ { timer d every=366d first=now uri=/d/; alias $TEST_NGINX_SERVER_ROOT/html/; index no.html; autoindex on; }
location /e/ { timer e every=366d first=now uri=/e/; alias $TEST_NGINX_SERVER_ROOT/html/; index no.html; }
location /f/ { timer f every=366d first=now uri=/f/dir; alias $TEST_NGINX_SERVER_ROOT/html/; }
location /g/ { timer g every=366d first=now uri=/g/big; alias $TEST_NGINX_SERVER_ROOT/html/; sendfile on; tcp_nopush on; }
location /h/ { timer h every=366d first=now uri=/h/big; alias $TEST_NGINX_SERVER_ROOT/html/; sendfile off; output_buffers 1 4k; }
location /i/ { timer i every=366d first=now uri=/i/big; alias $TEST_NGINX_SERVER_ROOT/html/; sendfile on; aio threads; }
location /j/ { timer j every=366d first=now uri=/j/big; alias $TEST_NGINX_SERVER_ROOT/html/; sendfile off; aio threads; output_buffers 1 64k; }
location /k/ { timer k every=366d first=now uri=/k/big; alias $TEST_NGINX_SERVER_ROOT/html/; directio 4k; }
location /l/ { timer l every=366d first=now uri=/l/big method=HEAD; alias $TEST_NGINX_SERVER_ROOT/html/; }
location /m/ { timer m every=366d first=now uri=/m/big method=POST; alias $TEST_NGINX_SERVER_ROOT/html/; }
--- user_files eval
[ [ 'big' => 'x' x 5_000_000 ], [ 'dir/x' => 'x' ] ]
--- wait_log
timer "a": run succeeded: status 200
timer "b": run succeeded: status 200
timer "c": run failed: status 404
timer "d": run succeeded: status 200
timer "e": run failed: status 403
timer "f": run failed: status 301
timer "g": run succeeded: status 200
timer "h": run succeeded: status 200
timer "i": run succeeded: status 200
timer "j": run succeeded: status 200
timer "k": run succeeded: status 200
timer "l": run succeeded: status 200
timer "m": run failed: status 405


=== TEST 3: rewrite ... last and break, and if
--- config
location /a/ {
    timer a every=366d first=now;
    rewrite ^/a/(.*)$ /internal/a-$1 last;
}
location /internal/ {
    internal;
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location /b/ {
    timer b every=366d first=now;
    rewrite ^/b/ /broken break;
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location /c {
    timer c every=366d first=now;
    if ($timer_trigger = first) {
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
}
location @d {
    timer d every=366d first=now;
    rewrite ^ /internal/from-named last;
}
location @loop {
    timer loop every=366d first=now;
    rewrite ^ /loop last;
}
location /loop {
    rewrite ^ /loop last;
}
--- backend
^GET /internal/a- .*x-timer=a
^GET /broken .*x-timer=b
^GET /c 
^GET /internal/from-named .*x-timer=d
--- wait_log
timer "a": run succeeded: status 200.*timer: "a", run: [0-9a-f]{32}
timer "d": run succeeded: status 200
rewrite or internal redirection cycle.*timer: "loop", run: [0-9a-f]{32}
timer "loop": run failed: status 500


=== TEST 4: error_page, to a URI, to a named location, with another status
--- config
location /b/ {
    timer b every=366d first=now;
    error_page 404 @named;
    return 404;
}
location @named {
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location @c {
    timer c every=366d first=now;
    error_page 500 =200 /c.html;
    return 500;
}
location @d {
    timer d every=366d first=now;
    error_page 500 /no-such-page.html;
    return 500;
}
location @f {
    timer f every=366d first=now;
    error_page 403 http://example.org/;
    return 403;
}
--- user_files
>>> c.html
c
--- wait_log
timer "b": run failed: status 404
timer "c": run succeeded: status 200
timer "d": run failed: status (404|500)
timer "f": run failed: status (302|403)


=== TEST 5: error_page after a refused upstream, and after a status of the upstream's
--- config
location @a {
    timer a every=366d first=now;
    error_page 502 = /fallback/$timer_name;
    proxy_pass http://127.0.0.1:1;
}
location /fallback/ {
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location @e {
    timer e every=366d first=now;
    proxy_intercept_errors on;
    error_page 503 =200 @other;
    proxy_set_header X-Do status/503;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location @other {
    proxy_set_header X-Do status/204;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
--- wait_log
connect\(\) failed .*timer: "a", run: [0-9a-f]{32}
timer "a": run succeeded: status 200
timer "e": run succeeded: status 200
--- backend
^GET /fallback/a .*x-timer=a


=== TEST 6: try_files
--- config
location /a {
    timer a every=366d first=now;
    try_files /no.html /index.html =404;
}
location /b {
    timer b every=366d first=now;
    try_files /no.html /no.either =404;
}
location /c {
    timer c every=366d first=now;
    try_files $uri @app;
}
location @app {
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location /d {
    timer d every=366d first=now;
    try_files $uri /front?from=$uri;
}
location /front {
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location @e {
    timer e every=366d first=now uri=/anything;
    try_files /index.html =404;
}
--- wait_log
timer "a": run succeeded: status 200
timer "b": run failed: status 404
timer "c": run succeeded: status 200
timer "d": run succeeded: status 200
timer "e": run succeeded: status 200
--- backend
^GET /c .*x-timer=c
^GET /front\?from=/d .*x-timer=d


=== TEST 7: X-Accel-Redirect, to a file, to an internal location, to a named one
--- config
location /a { timer a every=366d first=now; proxy_set_header X-Do accel/internal/index.html; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /b { timer b every=366d first=now; proxy_set_header X-Do accel/internal/none; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /c { timer c every=366d first=now; proxy_set_header X-Do accel/again; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /internal/ { internal; alias $TEST_NGINX_SERVER_ROOT/html/; }
location /again { internal; proxy_set_header X-Timer $timer_name; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/again; }
--- wait_log
timer "a": run succeeded: status 200
timer "b": run failed: status 404
timer "c": run succeeded: status 200
--- backend
^GET /again .*x-timer=c


=== TEST 8: SSI, whose includes are requests of the run
--- config
location @a {
    timer a every=366d first=now uri=/a.shtml;
    ssi on;
    ssi_types text/plain;
    root $TEST_NGINX_SERVER_ROOT/html;
}
location /part {
    proxy_set_header X-Timer "$timer_name-$timer_run";
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location @b {
    timer b every=366d first=now;
    ssi on;
    proxy_set_header X-Do html/;
    proxy_set_header X-Body '<!--#include virtual="/part/b1" wait="yes" --><!--#include virtual="/part/delay" -->';
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
--- user_files
>>> a.shtml
<!--#include virtual="/part/1?x" --><!--#include virtual="/part/2" --><!--#echo var="timer_name" -->
--- wait_log
timer "a": run succeeded: status 200
timer "b": run succeeded: status 200
--- backend
^GET /part/1\?x .*x-timer=a-[0-9a-f]{32}
^GET /part/2 .*x-timer=a-[0-9a-f]{32}
^GET /part/b1 .*x-timer=b-[0-9a-f]{32}


=== TEST 9: mirror; the run lasts as long as its mirrors
--- config
location /a {
    timer a every=366d first=now;
    mirror /mirror;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location = /mirror {
    internal;
    proxy_set_header X-Do delay/0.4/status/500;
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/mirrored$request_uri;
}
--- wait_log
timer "a": run succeeded: status 200, (3[89]\d|[4-9]\d\d|\d{4,})ms
--- backend
^GET /mirrored/a .*x-timer=a


=== TEST 10: filters: gzip, sub_filter, addition, slice, ranges, limit_rate
--- http_config
proxy_cache_path slice_cache keys_zone=slice:1m;
--- config
gzip on;
gzip_types *;
gzip_min_length 1;
location /a { timer a every=366d first=now; sub_filter ok no; sub_filter_types *; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /b { timer b every=366d first=now; add_before_body /part; add_after_body /part; addition_types *; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /part { proxy_set_header X-Timer $timer_name; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /c { timer c every=366d first=now; slice 100k; proxy_cache slice; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range; proxy_http_version 1.1; proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/big; }
location /d { timer d every=366d first=now; limit_rate 1; proxy_set_header X-Do big/100000; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /e { timer e every=366d first=now; gzip on; gunzip on; chunked_transfer_encoding off; proxy_set_header X-Do big/1000000; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
--- user_files eval
[ [ 'big' => 'x' x 1_000_000 ] ]
--- wait_log
timer "a": run succeeded: status 200
timer "b": run succeeded: status 200
timer "c": run succeeded: status 200
timer "d": run succeeded: status 200
timer "e": run succeeded: status 200
--- backend
(?s)(^GET /part .*x-timer=b.*){2}


=== TEST 11: post_action; the run ends with the last of it
--- config
location /a {
    timer a every=366d first=now;
    post_action /after;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location /after {
    internal;
    proxy_set_header X-Timer $timer_name;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
--- wait_log
timer "a": run (succeeded|failed): 
--- backend
^GET /after .*x-timer=a


=== TEST 12: stub_status, empty_gif, and a location that does nothing
--- config
location /a { timer a every=366d first=now; stub_status; }
location /b { timer b every=366d first=now; empty_gif; }
location /c { timer c every=366d first=now; }
--- wait_log
timer "a": run succeeded: status 200
timer "b": run succeeded: status 200
timer "c": run failed: status 404


=== TEST 13: timer_success says what success is
--- config
timer_success 301 404;
location @a { timer a every=366d first=now; return 301 /; }
location @b { timer b every=366d first=now; return 404; }
location @c { timer c every=366d first=now; return 200; }
location @d { timer d every=366d first=now; timer_success 200-299 500-503; return 503; }
location @e { timer e every=366d first=now; timer_success 200-299 500-503; return 504; }
location @f { timer f every=366d first=now; timer_success 444; return 444; }
--- wait_log
timer "a": run succeeded: status 301
timer "b": run succeeded: status 404
timer "c": run failed: status 200
timer "d": run succeeded: status 503
timer "e": run failed: status 504
timer "f": run (succeeded|failed): 


=== TEST 14: a run that asks nginx itself
--- config
location @a {
    timer a every=366d first=now uri=/b?run=$timer_run;
    proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT;
}
location /b {
    return 200 "[$timer_name]\n";
}
--- wait_log
timer "a": run succeeded: status 200
