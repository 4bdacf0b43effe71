//! `ngx_http_timer_module`: single-instance timers for nginx.

pub mod os;
pub mod schedule;
pub mod state;
