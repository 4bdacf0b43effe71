#!/usr/bin/perl

# The request that a run is: its URI made of variables, its method, its Host, its one header, its
# variables; and what access phases do with it.

use TimerTest::Socket;
use Test::Nginx::Socket 'no_plan';

workers(2);
run_tests();

__DATA__

=== TEST 1: Host is the only header, and it is the server's first name
--- config
server_name shop.example.org www.example.org;
location @x {
    timer x every=366d first=now;
    proxy_set_header Host $http_host;
    proxy_set_header Connection "";
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
--- server_name: first.example.org
--- backend
^GET /x host=first.example.org body=$


=== TEST 2: host=
--- config
location @x {
    timer x every=366d first=now host=other.example.org;
    proxy_set_header Host $host;
    proxy_set_header X-Host $http_host;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
--- backend
^GET /x (?:connection=close )?host=other.example.org x-host=other.example.org body=


=== TEST 3: no plain server name, no Host
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_SECOND_PORT;
    server_name _;
    location @nobody {
        timer nobody every=366d first=now;
        proxy_set_header X-Host "[$http_host]";
        proxy_set_header Host upstream;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
}
server {
    listen 127.0.0.1:$TEST_NGINX_SECOND_PORT;
    server_name *.example.org;
    location @x {
        timer x every=366d first=now;
        proxy_set_header X-Host "[$http_host]";
        proxy_set_header Host upstream;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
}
--- config
--- backend
^GET /x (?:connection=close )?host=upstream x-host=\[\] body=
^GET /nobody (?:connection=close )?host=upstream x-host=\[\] body=


=== TEST 4: methods
--- config
location /jobs/ {
    location /jobs/post {
        timer post every=366d first=now method=POST;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
    location /jobs/put {
        timer put every=366d first=now method=PUT;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
    location /jobs/head {
        timer head every=366d first=now method=HEAD;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
    location /jobs/delete {
        timer delete every=366d first=now method=DELETE;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
    location /jobs/purge {
        timer purge every=366d first=now method=PURGE;
        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
    }
    location /jobs/local {
        timer local every=366d first=now method=POST;
        if ($request_method = POST) { return 204; }
        return 500;
    }
}
--- backend
^POST /jobs/post (?:connection=close )?content-length=0 
^PUT /jobs/put (?:connection=close )?content-length=0 
^HEAD /jobs/head (?:connection=close )?host
^DELETE /jobs/delete (?:connection=close )?
^PURGE /jobs/purge (?:connection=close )?
--- wait_log
timer "post": run succeeded: status 200
timer "put": run succeeded: status 200
timer "head": run succeeded: status 200
timer "delete": run succeeded: status 200
timer "purge": run succeeded: status 200
timer "local": run succeeded: status 204


=== TEST 5: a URI made of variables
--- http_config
map $timer_name $path { x /x/from-map; }
map $path $empty { default ""; }
--- config
location /x/ {
    timer x every=366d first=now uri=$path?run=$timer_run&due=$timer_due&late=$timer_lateness&try=$timer_attempt&why=$timer_trigger&who=$timer_worker&last=$timer_last_success;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
--- backend
^GET /x/from-map\?run=[0-9a-f]{32}&due=\d{10}\.\d{3}&late=\d+\.\d{3}&try=1&why=first&who=0&last= 


=== TEST 6: a URI made of variables that does not lie in the location, is empty, or is no URI
--- http_config
map "" $elsewhere { default /y/; }
map "" $empty { default ""; }
map "" $up { default /x/../../y; }
map "" $no_slash { default x/; }
map "" $zero { default /x/%00; }
map "" $short { default /x; }
map "" $encoded { default /x/%2e%2e/y; }
--- config
location /x/ {
    location /x/1/ { timer elsewhere every=366d first=now uri=$elsewhere; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/in/; }
    location /x/2/ { timer empty     every=366d first=now uri=$empty;     proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/in/; }
    location /x/3/ { timer up        every=366d first=now uri=$up;        proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/in/; }
    location /x/4/ { timer no-slash  every=366d first=now uri=$no_slash;  proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/in/; }
    location /x/5/ { timer zero      every=366d first=now uri=$zero;      proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT/in/; }
    location /x/6/ { timer short     every=366d first=now uri=$short;     alias html/; }
    location /x/7/ { timer encoded   every=366d first=now uri=$encoded;   alias html/; }
    location ~ ^/x/8 { timer regex   every=366d first=now uri=$elsewhere; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
    location = /x/9 { timer exact    every=366d first=now uri=$elsewhere; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
}
location @named { timer named every=366d first=now uri=$empty; return 204; }
location @fine { timer fine every=100ms; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
--- wait_log
\[error\].* timer "elsewhere": run failed: 
\[error\].* timer "empty": run failed: 
\[error\].* timer "up": run failed: 
\[error\].* timer "no-slash": run failed: 
\[error\].* timer "zero": run failed: 
\[error\].* timer "short": run failed: 
\[error\].* timer "encoded": run failed: 
\[error\].* timer "regex": run failed: 
\[error\].* timer "exact": run failed: 
\[error\].* timer "named": run failed: 
(?s)(timer "fine": run succeeded.*){5}
--- no_error_log
exited on signal
run succeeded: status 204


=== TEST 7: the variables tell of one run
--- config
location @x {
    timer x every=200ms uri=/$timer_name/$timer_run/$timer_due;
    proxy_set_header X-Run $timer_run;
    proxy_set_header X-Due $timer_due;
    proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT;
}
--- backend
^GET /x/([0-9a-f]{32})/(\d{10}\.\d{3}) .* x-due=\2 x-run=\1 
(?s)^GET /x/(\w+)/.*^GET /x/(?!\1)\w+/


=== TEST 8: outside a run the variables are empty, and $timer_worker is the answering worker's slot
--- config
location /v {
    return 200 "[$timer_name][$timer_run][$timer_due][$timer_attempt][$timer_trigger][$timer_lateness][$timer_last_success] $timer_worker\n";
}
--- request
GET /v
--- response_body_like
^\[\]\[\]\[\]\[\]\[\]\[\]\[\] [01]$


=== TEST 9: access phases are left out for runs, and in force for clients
--- http_config
limit_req_zone $server_name zone=req:1m rate=1r/m;
limit_conn_zone $server_name zone=conn:1m;
--- config
satisfy all;
location /deny { timer deny every=50ms; deny all; return 204; }
location /static { timer static every=50ms; deny all; root html; try_files /index.html =404; }
location @basic { timer basic every=50ms; auth_basic on; auth_basic_user_file html/index.html; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @auth { timer auth every=50ms; auth_request /no; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @req { timer req every=50ms; limit_req zone=req; limit_conn conn 1; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /no { return 403; }
location /p { deny all; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
--- wait_log
(?s)(timer "deny": run succeeded: status 204.*){3}
(?s)(timer "static": run succeeded: status 200.*){3}
(?s)(timer "basic": run succeeded: status 200.*){3}
(?s)(timer "auth": run succeeded: status 200.*){3}
(?s)(timer "req": run succeeded: status 200.*){3}
--- no_error_log
run failed
--- request
GET /p
--- error_code: 403


=== TEST 10: access=on puts a run through them
--- http_config
limit_req_zone $server_name zone=req:1m rate=1r/m;
--- config
location @deny { timer deny every=366d first=now access=on; deny all; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @allow { timer allow every=366d first=now access=on; allow 127.0.0.1; deny all; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @basic { timer basic every=366d first=now access=on; auth_basic on; auth_basic_user_file html/index.html; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @any { timer any every=366d first=now access=on; satisfy any; allow 127.0.0.1; deny all; auth_basic on; auth_basic_user_file html/index.html; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @auth { timer auth every=366d first=now access=on; auth_request /no; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @may { timer may every=366d first=now access=on; auth_request /yes; auth_request_set $token $upstream_status; proxy_set_header X-Token $token; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location @req { timer req every=50ms access=on; limit_req zone=req; limit_req_status 429; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
location /no { return 403; }
location /yes { internal; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
--- wait_log
timer "deny": run failed: status 403
timer "allow": run succeeded: status 200
timer "basic": run failed: status 401
timer "any": run succeeded: status 200
timer "auth": run failed: status 403
timer "may": run succeeded: status 200
timer "req": run succeeded: status 200
timer "req": run failed: status 429
--- backend
^GET /yes 
^GET /may .*x-token=200 


=== TEST 11: limit_req that delays (access=on) holds the run up, not back
--- http_config
limit_req_zone $server_name zone=req:1m rate=20r/s;
--- config
location @x { timer x every=20ms access=on; limit_req zone=req burst=5; return 204; }
location @y { timer y every=366d first=now access=on; limit_req zone=req burst=5; proxy_pass http://127.0.0.1:$TEST_NGINX_BACKEND_PORT; }
--- wait_log
(?s)(timer "x": run succeeded: status 204.*){5}


=== TEST 12: every variable that nginx has can be asked for
--- http_config
geo $geo { default g; }
split_clients $remote_addr $split { * s; }
log_format all escape=json '$timer_name ancient=$ancient_browser $args $arg_a $binary_remote_addr $body_bytes_sent $bytes_sent $connection '
    '$connection_requests $connection_time $content_length $content_type $cookie_a $date_gmt $document_root $document_uri $geo $host $hostname '
    '$http_host $http_user_agent $https $is_args $limit_rate $modern_browser $msec $nginx_version $pid $pipe $proxy_protocol_addr '
    '$proxy_protocol_port $query_string $realip_remote_addr $realip_remote_port $realpath_root $remote_addr $remote_port $remote_user '
    '$request $request_body $request_body_file $request_completion $request_filename $request_id $request_length $request_method '
    '$request_time $request_uri $scheme $sent_http_date $sent_http_location $server_addr $server_name $server_port '
    '$server_protocol $split $ssl_protocol $ssl_server_name $status $tcpinfo_rtt $tcpinfo_rcv_space $time_iso8601 $time_local '
    '$upstream_addr $upstream_status $uri $gzip_ratio end';
--- config
set_real_ip_from 127.0.0.1;
real_ip_header X-Forwarded-For;
userid on;
location @x {
    timer x every=366d first=now uri=/x?a=b;
    gzip on;
    add_header X-All "$server_addr $server_port $connection $tcpinfo_rtt" always;
    expires 1h;
    log_subrequest on;
    access_log logs/run.log all;
    return 200 "text\n";
}
--- run_log
^x ancient=.* end$
