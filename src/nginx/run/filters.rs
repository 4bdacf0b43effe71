//! Where a run's bodies pass: its response's, to its receiver, and its request's.
//!
//! This module's filters are the first of nginx's chains (RUN-16).

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;

use ngx::ffi::{
    ngx_chain_t, ngx_http_output_body_filter_pt, ngx_http_output_filter,
    ngx_http_output_header_filter_pt, ngx_http_request_body_filter_pt, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_int_t,
};

use super::buffer::{Pace, take_buffer};
use super::connection::RunConnection;
use super::held::{Failed, Share};
use super::receiver::{Flow, NextFilter, ResponseHead};
use super::state::RunState;
use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::guard::guard;
use crate::nginx::core::turn::{self, QueueEnd, Work};
use crate::nginx::core::{bits, rc};

/// The filters that were first before this module's.
///
/// # Invariants
///
/// Set before nginx can call this module's filters.
static mut NEXT_HEADER: ngx_http_output_header_filter_pt = None;
static mut NEXT_BODY: ngx_http_output_body_filter_pt = None;
static mut NEXT_REQUEST_BODY: ngx_http_request_body_filter_pt = None;

/// What this module's filters are known by. A static, so that there is one address.
static HEADER_FILTER: unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t = header_filter;

/// Puts the filters before all others, in postconfiguration: the chains are built anew for each
/// configuration that is read. Once for each, however often it is called.
pub(in crate::nginx) fn install() {
    // SAFETY: HOST-1: one thread.
    let header = unsafe { ngx::ffi::ngx_http_top_header_filter };
    if header.is_some_and(|first| ptr::fn_addr_eq(first, HEADER_FILTER)) {
        return;
    }
    // SAFETY: as above. INVARIANT: what nginx calls from now on finds it.
    unsafe { NEXT_HEADER = header };
    // SAFETY: as above.
    unsafe { ngx::ffi::ngx_http_top_header_filter = Some(HEADER_FILTER) };

    // SAFETY: as above.
    let body = unsafe { ngx::ffi::ngx_http_top_body_filter };
    // SAFETY: as above.
    unsafe { NEXT_BODY = body };
    // SAFETY: as above.
    unsafe { ngx::ffi::ngx_http_top_body_filter = Some(body_filter) };

    // SAFETY: as above.
    let request_body = unsafe { ngx::ffi::ngx_http_top_request_body_filter };
    // SAFETY: as above.
    unsafe { NEXT_REQUEST_BODY = request_body };
    // SAFETY: as above.
    unsafe { ngx::ffi::ngx_http_top_request_body_filter = Some(request_body_filter) };
}

/// Has the responses of runs shown to their receivers, in the configuration that is being read.
pub fn show_responses(_: &WhollyRead<'_>) {
    install();
}

/// What a run shares with its starter, if `r` is the main request of one.
///
/// # Safety
///
/// `r` is an open request.
unsafe fn run_of_main(r: *mut ngx_http_request_t) -> Option<Rc<RunState>> {
    // SAFETY: the caller's promise.
    let state = unsafe { RunConnection::state_of(r) }?;
    // SAFETY: as above.
    ptr::eq(r, unsafe { (*r).main }).then_some(state)
}

unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    let answer = guard(Some(rc::ERROR), || {
        // SAFETY: nginx calls filters with an open request.
        let state = unsafe { run_of_main(r) }?;
        // SAFETY: as above.
        unsafe { take_head(r, &state) }
    });
    if let Some(answer) = answer {
        return answer;
    }
    // SAFETY: HOST-1: one thread.
    match unsafe { NEXT_HEADER } {
        // SAFETY: nginx's own filter, called as it calls it itself.
        Some(next) => unsafe { next(r) },
        None => rc::ERROR,
    }
}

/// `None`: the other filters are to see it.
///
/// # Safety
///
/// `r` is the open main request of this run.
unsafe fn take_head(r: *mut ngx_http_request_t, state: &RunState) -> Option<ngx_int_t> {
    if !state.goes_on() {
        // SAFETY: the caller's promise.
        return Some(unsafe { cut_short(r) });
    }
    let receiver = state.receiver()?;
    // SAFETY: the caller's promise; the receiver calls nothing that would change it.
    let flow = receiver.head(&unsafe { ResponseHead::of(r) });
    if flow == Flow::Enough {
        // SAFETY: the caller's promise.
        return Some(unsafe { end(r, state) });
    }
    if receiver.then() == NextFilter::Called {
        return None;
    }
    // SAFETY: the caller's promise; ends before nginx is called.
    bits::set_header_sent(unsafe { &mut *r }, 1);
    Some(rc::OK)
}

/// Where a body goes from this module's filter.
enum Onward {
    Answered(ngx_int_t),
    /// To the filters behind.
    Passed(*mut ngx_chain_t),
    /// The same, if there is any; more follows without another call of nginx's.
    Held(*mut ngx_chain_t),
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    let onward = guard(Onward::Answered(rc::ERROR), || {
        // SAFETY: nginx calls filters with an open request.
        let Some(state) = (unsafe { run_of_main(r) }) else { return Onward::Passed(chain) };
        // SAFETY: as above, and with a chain that is closed by null.
        unsafe { take_body(r, chain, &state) }
    });
    let (chain, waits) = match onward {
        Onward::Answered(answer) => return answer,
        Onward::Passed(chain) => (chain, false),
        Onward::Held(chain) => (chain, true),
    };
    let mut answer = rc::AGAIN;
    if !waits || !chain.is_null() {
        // SAFETY: HOST-1: one thread.
        answer = match unsafe { NEXT_BODY } {
            // SAFETY: nginx's own filter, called as it calls it itself.
            Some(next) => unsafe { next(r, chain) },
            None => rc::ERROR,
        };
    }
    if !waits || answer == rc::ERROR {
        return answer;
    }
    // SAFETY: nginx calls filters with an open request.
    let c = unsafe { (*r).connection };
    // SAFETY: an open request has an open connection.
    let write = unsafe { (*c).write };
    // nginx leaves it alone then, as it does for `limit_rate`.
    // SAFETY: an open connection has its events.
    unsafe { (*write).set_delayed(1) };
    rc::AGAIN
}

/// # Safety
///
/// `r` is the open main request of this run, with a chain of links, closed by null, which is ours
/// alone until we answer.
unsafe fn take_body(
    r: *mut ngx_http_request_t,
    mut chain: *mut ngx_chain_t,
    state: &Rc<RunState>,
) -> Onward {
    if !state.goes_on() {
        // SAFETY: the caller's promise.
        return Onward::Answered(unsafe { cut_short(r) });
    }
    let all = chain;
    let Some(receiver) = state.receiver() else { return Onward::Passed(all) };
    if receiver.takes_shares() {
        let enqueue = || turn::enqueue(state, QueueEnd::Back).ok();
        // SAFETY: the caller's promise.
        return match unsafe { state.held().take(r, chain, &*receiver, enqueue) } {
            Ok(Share::Taken(chain)) if state.held().waits() => Onward::Held(chain),
            // To be asked for what they hold is for the filters behind, too.
            Ok(Share::Taken(chain)) => Onward::Passed(chain),
            // SAFETY: the caller's promise.
            Ok(Share::Enough) => Onward::Answered(unsafe { end(r, state) }),
            Err(Failed) => Onward::Answered(rc::ERROR),
        };
    }
    let ends = receiver.then() == NextFilter::Skipped;
    if receiver.is_full() && !ends {
        return Onward::Passed(all);
    }
    while !chain.is_null() {
        // SAFETY: the caller's promise.
        let link = unsafe { chain.read() };
        let pace = Pace { piece: usize::MAX, taken: &Cell::new(0), goes_on: &|_| true };
        // SAFETY: a link has a buffer; the caller's promise.
        let Some((flow, _)) = (unsafe { take_buffer(link.buf, &*receiver, &pace) }) else {
            // What others see does not depend on who takes it, too.
            return if ends { Onward::Answered(rc::ERROR) } else { Onward::Passed(all) };
        };
        if flow == Flow::Enough {
            // SAFETY: as above.
            return Onward::Answered(unsafe { end(r, state) });
        }
        if ends {
            // SAFETY: as above.
            let buffer = unsafe { &mut *link.buf };
            buffer.pos = buffer.last;
            buffer.file_pos = buffer.file_last;
            if buffer.last_buf() != 0 {
                state.complete();
                // SAFETY: the caller's promise; ends before nginx is called.
                without_post_action(unsafe { &mut *r });
            }
        }
        chain = link.next;
    }
    if ends { Onward::Answered(rc::OK) } else { Onward::Passed(all) }
}

impl Work for RunState {
    /// Goes on with what is held, as if the client had read.
    fn work(self: Rc<Self>) {
        let r = self.request();
        if !self.held().begin_slot() || r.is_null() {
            return;
        }
        // SAFETY: the invariant of the state: it is open.
        let c = unsafe { (*r).connection };
        // SAFETY: an open request has an open connection.
        if let Some(run) = unsafe { RunConnection::of(c) } {
            // SAFETY: as above.
            unsafe { RunConnection::set_log_request(run, r) };
        }
        // What fails fails again when nginx asks.
        // SAFETY: as above, and its header was sent; our filter is the first one.
        let _ = unsafe { ngx_http_output_filter(r, ptr::null_mut()) };
        // SAFETY: looks at `destroyed` first (RUN-8).
        unsafe { ngx_http_run_posted_requests(c) };
        if !self.held().waits() && !self.request().is_null() {
            // SAFETY: the request is open, so that its connection and its events are.
            let write = unsafe { (*c).write };
            // SAFETY: as above.
            unsafe { (*write).set_delayed(0) };
            // SAFETY: as above.
            if let Some(handler) = unsafe { (*write).handler } {
                // SAFETY: as nginx calls it when a client has read.
                unsafe { handler(write) };
            }
        }
        self.held().end_slot();
    }
}

/// Ends the run, whose response counts as complete, without another request.
///
/// # Safety
///
/// `r` is the open main request of this run.
unsafe fn end(r: *mut ngx_http_request_t, state: &RunState) -> ngx_int_t {
    state.complete();
    // SAFETY: the caller's promise; ends before nginx is called.
    without_post_action(unsafe { &mut *r });
    rc::ERROR
}

/// Ends the run, whose response stays incomplete, without another request.
///
/// # Safety
///
/// `r` is the open main request of a run.
unsafe fn cut_short(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: the caller's promise; ends before nginx is called.
    without_post_action(unsafe { &mut *r });
    rc::ERROR
}

/// Has nothing follow at the end of a request (`ngx_http_post_action`).
pub(in crate::nginx) fn without_post_action(request: &mut ngx_http_request_t) {
    bits::set_post_action(request, 1);
    bits::set_uri_changes(request, 0);
}

/// Called when a content handler reads the request's body, which it does when it has settled what it
/// passes to (RUN-15).
unsafe extern "C" fn request_body_filter(
    r: *mut ngx_http_request_t,
    chain: *mut ngx_chain_t,
) -> ngx_int_t {
    let chain = guard(None, || {
        // SAFETY: nginx calls filters with an open request.
        let Some(state) = (unsafe { run_of_main(r) }) else { return Some(chain) };
        let Some(body) = state.take_body() else { return Some(chain) };
        // SAFETY: as above; ends before nginx is called.
        unsafe { &mut *r }.headers_in.content_length_n = body.length;
        if let Some(inside) = state.inside() {
            // SAFETY: as above.
            if !unsafe { inside.before_upstream(r) } {
                return None;
            }
        }
        Some(if body.chain.is_null() { chain } else { body.chain })
    });
    let Some(chain) = chain else { return rc::INTERNAL_SERVER_ERROR };
    // SAFETY: HOST-1: one thread.
    match unsafe { NEXT_REQUEST_BODY } {
        // SAFETY: nginx's own filter, called as it calls it itself.
        Some(next) => unsafe { next(r, chain) },
        None => rc::INTERNAL_SERVER_ERROR,
    }
}
