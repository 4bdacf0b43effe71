//! Where a run's bodies pass: its response's, to its receiver, and its request's.
//!
//! This module's filters are the first of nginx's chains (RUN-16).

use std::ptr;
use std::rc::Rc;

use ngx::ffi::{
    ngx_buf_t, ngx_chain_t, ngx_http_output_body_filter_pt, ngx_http_output_header_filter_pt,
    ngx_http_request_body_filter_pt, ngx_http_request_t, ngx_int_t, ngx_read_file, off_t,
};

use super::connection::RunConnection;
use super::receiver::{Flow, NextFilter, Receiver, ResponseHead};
use super::state::RunState;
use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::guard::guard;
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

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    let answer = guard(Some(rc::ERROR), || {
        // SAFETY: nginx calls filters with an open request.
        let state = unsafe { run_of_main(r) }?;
        // SAFETY: as above, and with a chain that is closed by null.
        unsafe { take_body(r, chain, &state) }
    });
    if let Some(answer) = answer {
        return answer;
    }
    // SAFETY: HOST-1: one thread.
    match unsafe { NEXT_BODY } {
        // SAFETY: nginx's own filter, called as it calls it itself.
        Some(next) => unsafe { next(r, chain) },
        None => rc::ERROR,
    }
}

/// `None`: the other filters are to see it.
///
/// # Safety
///
/// `r` is the open main request of this run, with a chain of links, closed by null, which is ours
/// alone until we answer.
unsafe fn take_body(
    r: *mut ngx_http_request_t,
    mut chain: *mut ngx_chain_t,
    state: &RunState,
) -> Option<ngx_int_t> {
    let receiver = state.receiver()?;
    let ends = receiver.then() == NextFilter::Skipped;
    if receiver.is_full() && !ends {
        return None;
    }
    while !chain.is_null() {
        // SAFETY: the caller's promise.
        let link = unsafe { chain.read() };
        // SAFETY: a link has a buffer; the caller's promise.
        let Some(flow) = (unsafe { take_buffer(link.buf, &*receiver) }) else {
            // What others see does not depend on who takes it, too.
            return ends.then_some(rc::ERROR);
        };
        if flow == Flow::Enough {
            // SAFETY: as above.
            return Some(unsafe { end(r, state) });
        }
        if ends {
            // SAFETY: as above.
            let buffer = unsafe { &mut *link.buf };
            buffer.pos = buffer.last;
            buffer.file_pos = buffer.file_last;
            if buffer.last_buf() != 0 {
                state.complete();
            }
        }
        chain = link.next;
    }
    ends.then_some(rc::OK)
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

/// Has nothing follow at the end of a request (`ngx_http_post_action`).
pub(in crate::nginx) fn without_post_action(request: &mut ngx_http_request_t) {
    bits::set_post_action(request, 1);
    bits::set_uri_changes(request, 0);
}

/// Part of a file, where the kernel wants it with `directio`, and of a size that it wants.
#[repr(align(4096))]
struct Piece([u8; 8192]);

/// Hands the content of a buffer over; `None` if its file could not be read.
///
/// # Safety
///
/// A buffer of a chain of nginx's.
unsafe fn take_buffer(buffer: *mut ngx_buf_t, receiver: &dyn Receiver) -> Option<Flow> {
    // SAFETY: the caller's promise; ends before nginx is called.
    let content = unsafe { &*buffer };
    if content.temporary() != 0 || content.memory() != 0 || content.mmap() != 0 {
        let len = content.last.addr().saturating_sub(content.pos.addr());
        if len == 0 {
            return Some(Flow::More);
        }
        // SAFETY: a buffer in memory has its content between these two.
        return Some(receiver.body(unsafe { std::slice::from_raw_parts(content.pos, len) }));
    }
    if content.in_file() == 0 {
        return Some(Flow::More);
    }
    let (file, mut from, to) = (content.file, content.file_pos, content.file_last);
    let mut piece = Piece([0; 8192]);
    while from < to && !receiver.is_full() {
        // SAFETY: an open file of nginx's, and room of this size.
        let read = unsafe { ngx_read_file(file, piece.0.as_mut_ptr(), piece.0.len(), from) };
        let read = usize::try_from(read).ok().filter(|read| *read > 0)?;
        let read = read.min(usize::try_from(to - from).ok()?);
        if receiver.body(piece.0.get(..read)?) == Flow::Enough {
            return Some(Flow::Enough);
        }
        from += off_t::try_from(read).ok()?;
    }
    Some(Flow::More)
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
        if let Some(inside) = state.inside()
            // SAFETY: as above.
            && !unsafe { inside.before_upstream(r) }
        {
            return None;
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
