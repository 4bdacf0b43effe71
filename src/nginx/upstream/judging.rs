//! What the end of a pinned request says of the server.
//!
//! An upstream request ends once, whatever module it is of, before any error page or redirect
//! (UPSTREAM-2).

use std::ffi::CStr;
use std::mem;

use ngx::ffi::{ngx_http_request_t, ngx_int_t};

use super::end::{CheckEnd, Cut};
use super::pin::Pin;
use super::response::UpstreamResponse;
use crate::nginx::core::guard::guard;
use crate::nginx::core::rc;
use crate::nginx::core::string::bytes;
use crate::nginx::run::ResponseHead;
use crate::nginx::run::filters::without_post_action;

/// In the place of the module's `finalize_request`, which it calls.
pub(super) unsafe extern "C" fn finalize(r: *mut ngx_http_request_t, code: ngx_int_t) {
    let module = guard(None, || {
        // SAFETY: nginx calls it with the open request whose upstream has it.
        let pin = unsafe { Pin::of(r) }?;
        // SAFETY: as above.
        let end = unsafe { judge(&pin, r, code) };
        pin.end.set(Some(end));
        // SAFETY: as above; ends before nginx is called.
        without_post_action(unsafe { &mut *r });
        pin.finalize.take()
    });
    if let Some(module) = module {
        // SAFETY: the module's own, called as nginx calls it.
        unsafe { module(r, code) };
    }
}

/// # Safety
///
/// `r` is an open request, whose upstream ends with `code`.
unsafe fn judge(pin: &Pin, r: *mut ngx_http_request_t, code: ngx_int_t) -> CheckEnd {
    let line = mem::take(&mut *pin.line.borrow_mut());
    match pin.cut.get() {
        // SAFETY: the caller's promise.
        Some(Cut::Timeout) => return CheckEnd::TimedOut(unsafe { timed_out(r) }),
        Some(Cut::Leaving) => return CheckEnd::Inconclusive("interrupted".to_owned()),
        None if code == rc::DONE => return CheckEnd::Inconclusive("interrupted".to_owned()),
        None => {}
    }
    if let Some(why) = pin.why_not.get() {
        return CheckEnd::Inconclusive(why.to_owned());
    }
    if pin.invalid.get() {
        return CheckEnd::Failed("invalid response".to_owned());
    }
    let or = |otherwise: &str| if line.is_empty() { otherwise.to_owned() } else { line.clone() };
    if pin.enough.get() {
        // SAFETY: the caller's promise.
        return unsafe { apply(pin, r) };
    }
    if code == rc::OK {
        // SAFETY: as above.
        if unsafe { lacks_fastcgi_end(r) } {
            return CheckEnd::Failed(INCOMPLETE.to_owned());
        }
        // SAFETY: as above.
        return unsafe { apply(pin, r) };
    }
    // SAFETY: as above.
    let status = unsafe { ResponseHead::of(r) }.status();
    match code {
        rc::GATEWAY_TIME_OUT => CheckEnd::TimedOut(or("timed out")),
        _ if pin.failed.get() && is_ours(&line) => CheckEnd::Inconclusive(line),
        _ if pin.failed.get() => CheckEnd::Failed(or("failed")),
        rc::BAD_GATEWAY if status != 0 => CheckEnd::Failed(or(INCOMPLETE)),
        // What the server has sent could not be read on.
        _ if status != 0 && !line.is_empty() => CheckEnd::Failed(line),
        _ => CheckEnd::Inconclusive(or("no memory")),
    }
}

/// Whether a `FastCGI` server has closed its connection without the record that ends a request; nginx does
/// not mind.
///
/// # Safety
///
/// As for [`judge`].
unsafe fn lacks_fastcgi_end(r: *mut ngx_http_request_t) -> bool {
    // SAFETY: the caller's promise.
    let upstream = unsafe { (*r).upstream };
    // SAFETY: as above.
    let upstream = unsafe { &*upstream };
    // SAFETY: a constant of the module's.
    let schema = unsafe { bytes(upstream.schema) };
    schema == b"fastcgi://" && upstream.length != 0
}

const INCOMPLETE: &str = "response incomplete";

/// The tests.
///
/// # Safety
///
/// As for [`judge`].
unsafe fn apply(pin: &Pin, r: *mut ngx_http_request_t) -> CheckEnd {
    let body = mem::take(&mut *pin.body.borrow_mut());
    // SAFETY: the caller's promise.
    let response = unsafe { UpstreamResponse::of(r, &body) };
    if response.status() == 0 {
        return CheckEnd::Failed("invalid response".to_owned());
    }
    let Some(judge) = pin.judge.take() else {
        return CheckEnd::Inconclusive("judged already".to_owned());
    };
    judge(&response).map_or_else(CheckEnd::Failed, |()| CheckEnd::Passed)
}

/// While doing what time ran out.
///
/// # Safety
///
/// `r` is an open request.
unsafe fn timed_out(r: *mut ngx_http_request_t) -> String {
    // SAFETY: the caller's promise.
    let c = unsafe { (*r).connection };
    // SAFETY: as above.
    let log = unsafe { (*c).log };
    // SAFETY: as above.
    let action = unsafe { (*log).action };
    if action.is_null() {
        return "timed out".to_owned();
    }
    // SAFETY: actions are C strings.
    let mut action = unsafe { CStr::from_ptr(action) };
    // SAFETY: the caller's promise.
    let upstream = unsafe { (*r).upstream };
    // SAFETY: as above.
    let is_sent = !upstream.is_null() && unsafe { &*upstream }.request_body_sent() != 0;
    // nginx renames what it does only when something of the response has come.
    if is_sent && action == c"sending request to upstream" {
        action = c"reading response header from upstream";
    }
    format!("timed out while {}", action.to_string_lossy())
}

/// Whether a connection could not even be tried, for a reason that is not the server's: nginx names
/// the errno.
fn is_ours(line: &str) -> bool {
    // What `ngx_event_connect_peer` takes for errors of the server; EAGAIN is that of a full `unix:`
    // socket, and ENOENT that of one that is gone.
    const SERVERS: [i32; 8] = [
        libc::ECONNREFUSED,
        libc::EAGAIN,
        libc::ECONNRESET,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENOENT,
    ];
    let Some((_, errno)) =
        line.strip_prefix("connect() to ").and_then(|line| line.split_once(" failed ("))
    else {
        return false;
    };
    let errno = errno.split(':').next().and_then(|errno| errno.parse().ok());
    errno.is_some_and(|errno: i32| !SERVERS.contains(&errno))
}
