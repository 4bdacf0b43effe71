" The directives of ngx_http_timer_module, beside those that Vim's own syntax/nginx.vim knows.
syn keyword ngxDirectiveThirdParty health_check keyval keyval_zone match timer timer_api timer_capture
syn keyword ngxDirectiveThirdParty timer_cleanup timer_fleet timer_keyval timer_max_running timer_missed
syn keyword ngxDirectiveThirdParty timer_notify timer_overlap timer_retry timer_state timer_success timer_timeout
syn keyword ngxDirectiveThirdParty timer_timezone timer_unhealthy_after timer_worker
