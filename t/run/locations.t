#!/usr/bin/perl

# A run in every kind of location: which URI it has, which configuration is in force, what is left
# out, and that a location stays open, or closed, to clients as ever.

use TimerTest::Socket;
use Test::Nginx::Socket 'no_plan';

workers(2);
run_tests();

__DATA__

=== TEST 1: a named location, whose URI is its name
--- config
location @x {
    timer x every=366d first=now;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- run_log
^x GET http://localhost/x\?- \[GET /x HTTP/1\.1\] 204 from=127\.0\.0\.1:0? trigger=first attempt=1 slot=0 request_uri=/x 
--- wait_log
timer "x": run succeeded: status 204, \d+ms.*timer: "x", run: [0-9a-f]{32}


=== TEST 2: a named location with a URI of its own
--- config
location @x {
    timer x every=366d first=now uri=/a%20b/./c//d/../e?f=%20g&h;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- run_log
^x GET http://localhost/a b/c/e\?f=%20g&h \[GET /a%20b/\./c//d/\.\./e\?f=%20g&h HTTP/1\.1\] 204


=== TEST 3: a prefix location, whose URI is its name
--- config
location /jobs/x {
    timer x every=366d first=now;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- run_log
^x GET http://localhost/jobs/x\?- \[GET /jobs/x HTTP/1\.1\] 204 


=== TEST 4: an exact location
--- config
location = /x {
    timer x every=366d first=now;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- run_log
^x GET http://localhost/x\?- 


=== TEST 5: a regex location, with its captures
--- config
location ~ ^/jobs/(\w+)/(?<who>\w+)$ {
    timer x every=366d first=now uri=/jobs/mail/all;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/$1/$who;
}
--- backend
^GET /mail/all 
--- wait_log
run succeeded: status 200


=== TEST 6: an internal location runs, and is closed to clients
--- config
location /x {
    internal;
    timer x every=366d first=now;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- run_log
^x GET http://localhost/x\?- .* 204 
--- request
GET /x
--- error_code: 404


=== TEST 7: a nested location
--- config
location /a/ {
    set $set_by_test outer;
    location /a/b/ {
        timer x every=366d first=now uri=/a/b/c;
        set $set_by_test inner;
        log_subrequest on;
        access_log logs/run.log run;
        return 204;
    }
}
--- run_log
^x GET http://localhost/a/b/c\?- .* set=inner$


=== TEST 8: a regex location nested in a prefix one, and a ^~ one
--- config
location /a/ {
    location ~ \.job$ {
        timer x every=366d first=now uri=/a/b.job;
        log_subrequest on;
        access_log logs/run.log run;
        return 204;
    }
}
location ^~ /y/ {
    timer y every=366d first=now;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- run_log
^x GET http://localhost/a/b\.job\?- 
^y GET http://localhost/y/\?- 


=== TEST 9: what stands in the server does not run
--- config
set $set_by_test server;
if ($host) {
    set $set_by_test if;
}
location @x {
    timer x every=366d first=now;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
rewrite ^/x /elsewhere;
--- run_log
^x GET http://localhost/x\?- .* set=$


=== TEST 10: a server that redirects its clients runs its timers
--- config
location @x {
    timer x every=366d first=now;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
return 301 https://$host$request_uri;
--- run_log
^x GET http://localhost/x\?- .* 204 
--- request
GET /anything
--- error_code: 301


=== TEST 11: set, if and map in the location
--- http_config
map $timer_name $mapped { default no; x yes; }
--- config
location @x {
    timer x every=366d first=now;
    set $set_by_test "$mapped";
    if ($timer_name = x) {
        set $set_by_test "$set_by_test-if";
    }
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- run_log
^x .* set=yes-if$


=== TEST 12: a client's request is no run
--- config
location /x {
    timer x every=366d first=now;
    return 200 "[$timer_name$timer_run$timer_due$timer_attempt$timer_trigger$timer_lateness$timer_last_success]\n";
}
--- wait_log
timer "x": run succeeded: status 200
--- request
GET /x
--- response_body
[]
--- no_error_log eval
qr/timer: "x", run: .* client: 127.0.0.1, .*GET \/x HTTP\/1.1/


=== TEST 13: the log phase is left out, unless log_subrequest is on
--- config
location @x {
    timer x every=366d first=now;
    access_log logs/run.log run;
    return 204;
}
location @y {
    timer y every=50ms;
    log_subrequest on;
    access_log logs/run.log run;
    return 204;
}
--- wait_log
timer "x": run succeeded
--- run_log
(?s)\Ay .*\ny .*\n(?!.*^x )


=== TEST 14: two servers, one snippet; each has its own name
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_SECOND_PORT;
    server_name a.example.org *.example.org;
    location @cron {
        timer cron.$server_name every=366d first=now;
        log_subrequest on;
        access_log logs/run.log run;
        return 204;
    }
}
server {
    listen 127.0.0.1:$TEST_NGINX_SECOND_PORT;
    server_name b.example.org;
    location @cron {
        timer cron.$server_name every=366d first=now;
        log_subrequest on;
        access_log logs/run.log run;
        return 204;
    }
}
--- config
--- run_log
^cron.a.example.org GET http://a.example.org/cron\?-
^cron.b.example.org GET http://b.example.org/cron\?-


=== TEST 15: a location that lies in a server with ssl, or with names that are not plain
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_SECOND_PORT;
    server_name ~^www;
    location @x {
        timer x every=366d first=now;
        log_subrequest on;
        access_log logs/run.log run;
        return 204;
    }
}
server {
    listen 127.0.0.1:$TEST_NGINX_SECOND_PORT;
    location @y {
        timer y every=366d first=now;
        log_subrequest on;
        access_log logs/run.log run;
        return 204;
    }
}
--- config
--- run_log
^x GET http://[^/]*/x\?- .* 204 
^y GET http://[^/]*/y\?- .* 204 


=== TEST 16: a timer is not inherited by nested locations, what else there is is
--- config
timer_timeout 200ms;
timer_success 204 299;
location /a/ {
    timer a every=366d first=now;
    return 299;
    location /a/b/ {
        return 404;
    }
}
location /c/ {
    timer_timeout 20s;
    location /c/d/ {
        timer d every=366d first=now;
        proxy_set_header X-Do delay/0.5/status/204;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
}
location @e {
    timer e every=366d first=now;
    proxy_set_header X-Do delay/600/status/204;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
location @f {
    timer f every=366d first=now;
    timer_success 200;
    return 299;
}
--- wait_log
timer: 4 timers in this worker, slot 0
timer "a": run succeeded: status 299
timer "d": run succeeded: status 204
timer "e": run failed: timed out after 200ms
timer "f": run failed: status 299
