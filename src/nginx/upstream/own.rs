//! What all upstream requests that the module makes by itself have in common: settings and log lines.

use std::cell::RefCell;

use ngx::core::Pool;
use ngx::ffi::{ngx_http_request_t, ngx_http_upstream_conf_t, ngx_uint_t};

/// Gives a request settings of its own, of which `change` sets some more: what comes is handed on as it
/// comes, and nothing of it is stored, replaced or followed.
///
/// # Safety
///
/// `r` is an open request that has an upstream.
pub(super) unsafe fn set_conf(
    r: *mut ngx_http_request_t,
    change: impl FnOnce(&mut ngx_http_upstream_conf_t),
) -> Option<()> {
    const IGNORED: ngx_uint_t = (ngx::ffi::NGX_HTTP_UPSTREAM_IGN_XA_REDIRECT
        | ngx::ffi::NGX_HTTP_UPSTREAM_IGN_XA_LIMIT_RATE
        | ngx::ffi::NGX_HTTP_UPSTREAM_IGN_XA_BUFFERING)
        as ngx_uint_t;

    // SAFETY: the caller's promise.
    let pool = unsafe { (*r).pool };
    // SAFETY: an open request has its pool; HOST-13: what it gives may be null.
    let conf = unsafe { Pool::from_ngx_pool(pool) }.calloc_type::<ngx_http_upstream_conf_t>();
    if conf.is_null() {
        return None;
    }
    // SAFETY: as above.
    let upstream = unsafe { (*r).upstream };
    // SAFETY: as above; ends here.
    let upstream = unsafe { &mut *upstream };
    // SAFETY: a module sets its configuration before it passes a request on; plain C data.
    unsafe { conf.copy_from_nonoverlapping(upstream.conf, 1) };
    {
        // SAFETY: just made, and nobody else has it.
        let conf = unsafe { &mut *conf };
        conf.set_store(0);
        conf.set_intercept_404(0);
        conf.set_change_buffering(0);
        conf.intercept_errors = 0;
        conf.ignore_headers |= IGNORED;
        forget_cache(conf);
        change(conf);
    }
    upstream.conf = conf;
    upstream.set_buffering(0);
    upstream.set_store(0);
    Some(())
}

#[cfg(ngx_feature = "http_cache")]
fn forget_cache(conf: &mut ngx_http_upstream_conf_t) {
    conf.set_cache(0);
}

#[cfg(not(ngx_feature = "http_cache"))]
fn forget_cache(_: &mut ngx_http_upstream_conf_t) {}

/// Has no TLS session reused.
#[cfg(ngx_feature = "http_ssl")]
pub(super) fn forget_session(conf: &mut ngx_http_upstream_conf_t) {
    conf.ssl_session_reuse = 0;
}

#[cfg(not(ngx_feature = "http_ssl"))]
pub(super) fn forget_session(_: &mut ngx_http_upstream_conf_t) {}

const ALERT: ngx_uint_t = ngx::ffi::NGX_LOG_ALERT as ngx_uint_t;
const CRIT: ngx_uint_t = ngx::ffi::NGX_LOG_CRIT as ngx_uint_t;
const ERROR: ngx_uint_t = ngx::ffi::NGX_LOG_ERR as ngx_uint_t;
const INFO: ngx_uint_t = ngx::ffi::NGX_LOG_INFO as ngx_uint_t;

/// Keeps the last line that nginx wrote of an error.
pub(super) fn keep_line(kept: &RefCell<String>, level: ngx_uint_t, message: &[u8]) {
    if level <= ERROR {
        let mut line = kept.borrow_mut();
        line.clear();
        line.push_str(&String::from_utf8_lossy(message));
    }
}

/// With which level it is written: as a piece of information if it says how the request ends, of which is
/// told elsewhere.
pub(super) fn level_of(level: ngx_uint_t, message: &[u8]) -> ngx_uint_t {
    let is_result = (level == CRIT && is_socket_gone(message))
        || (level == ALERT && has_no_descriptor(message))
        || (ERROR..INFO).contains(&level);
    if is_result { INFO } else { level }
}

/// Whether it is written for those alone who debug.
pub(super) fn is_for_debugging(level: ngx_uint_t) -> bool {
    level > INFO
}

/// Whether nginx says that a server's `unix:` socket does not exist, as when it was stopped.
fn is_socket_gone(message: &[u8]) -> bool {
    const NO_SUCH_FILE: &[u8] = b" failed (2: ";

    message.starts_with(b"connect() to unix:")
        && message.windows(NO_SUCH_FILE.len()).any(|window| window == NO_SUCH_FILE)
}

/// Whether nginx says that it has no descriptor left for a socket (EMFILE, ENFILE).
fn has_no_descriptor(message: &[u8]) -> bool {
    message.starts_with(b"socket() failed (24: ") || message.starts_with(b"socket() failed (23: ")
}
