//! A run that is checked: what only a run can show of the nginx that the module is in.
//!
//! It is made once in each process, before anything else is: a request to the default server, with
//! a content handler of this module's. No other module's handlers or filters see it, it is not
//! logged, and the gauges of `stub_status` do not count it.

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::ptr;
use std::rc::Rc;

use ngx::ffi::{
    ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_http_request_t, ngx_http_run_posted_requests,
    ngx_http_write_filter, ngx_int_t,
};

use super::connect::{connect, free_connections, socket_is_open};
use super::connection::cut_off;
use super::phases::{content_phase, engine};
use super::request::{Access, Method, Place, Request, StartError, Uri};
use super::start::{create, enter, watch_end};
use super::state::{Attached, Origin, RunState};
use crate::nginx::conf::location::Location;
use crate::nginx::core::guard::guard;
use crate::nginx::core::module::core_location;
use crate::nginx::core::{bits, gauges, rc};

/// What happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// All went as it must.
    Passed,
    /// There was no connection or no memory for it: nothing is known yet.
    NotMade,
    /// This did not go as it must.
    Failed(&'static str),
}

thread_local! {
    /// Whether it has passed in this process.
    static PASSED: Cell<bool> = const { Cell::new(false) };
    /// Whether its content handler saw what it must.
    static SEEN: Cell<bool> = const { Cell::new(false) };
}

struct Nobody;

impl Origin for Nobody {
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("timer: -")
    }
}

/// Makes it in the server of `location`, unless it has passed in this process.
pub fn make(location: Location) -> Trial {
    if PASSED.get() {
        return Trial::Passed;
    }
    if !location.is_there() {
        return Trial::NotMade;
    }
    // SAFETY: it is there.
    let location = unsafe { location.of_server() };
    let (trial, back) = gauges::apart(|| run(location));
    let trial = match trial {
        Trial::Passed if !back => Trial::Failed("gauges"),
        trial => trial,
    };
    PASSED.set(trial == Trial::Passed);
    trial
}

fn run(location: Location) -> Trial {
    SEEN.set(false);
    let state = Rc::new(RunState::new(Rc::new(Nobody), Access::LeftOut, Attached::default()));
    let free = free_connections();
    let c = match connect(location, Rc::clone(&state)) {
        Ok(c) => c,
        Err(StartError::NoFreeConnection | StartError::NoMemory) => return Trial::NotMade,
        Err(_) => return Trial::Failed("connection"),
    };
    let request = Request {
        method: &Method::default(),
        uri: &Uri::Constant(b"/".to_vec()),
        host: None,
        place: Place::InLocation,
        access: Access::LeftOut,
        headers: &[],
        body: None,
    };
    // SAFETY: furnished just now.
    let r = match unsafe { create(c, location, &request) } {
        Ok((r, _)) => r,
        Err(StartError::NoMemory) => return Trial::NotMade,
        Err(_) => return Trial::Failed("request"),
    };
    // SAFETY: made just now.
    if unsafe { watch_end(r, c, &state) }.is_err() {
        return Trial::NotMade;
    }
    // SAFETY: as above.
    unsafe { begin(r, location) };
    // SAFETY: looks at `destroyed` first (RUN-8).
    unsafe { ngx_http_run_posted_requests(c) };
    // SAFETY: connections of a cycle stay where they are.
    let failed = unsafe { wrong(c, &state, free) };
    if !state.request().is_null() {
        // SAFETY: the invariant of `RunState`: it is open.
        unsafe { cut_off(state.request()) };
    }
    failed.map_or(Trial::Passed, Trial::Failed)
}

/// Runs the content phase alone, with a handler of this module's.
///
/// # Safety
///
/// An open request of ours.
unsafe fn begin(r: *mut ngx_http_request_t, location: Location) {
    // SAFETY: an open request.
    let handlers = unsafe { engine(r) }.handlers;
    // SAFETY: as above.
    let index = unsafe { content_phase(handlers) };
    // SAFETY: `make` has seen that it is there.
    let confs = unsafe { location.confs() };
    // SAFETY: a request of ours.
    unsafe { enter(r, confs, index, 1) };
    {
        // SAFETY: as above; ends before nginx is called.
        let request = unsafe { &mut *r };
        bits::set_logged(request, 1);
        request.content_handler = Some(content);
    }
    // SAFETY: the request is ready to be run; it may end inside.
    unsafe { ngx::ffi::ngx_http_core_run_phases(r) };
}

/// Answers 204 with an empty last buffer, past all filters but the one that writes.
unsafe extern "C" fn content(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(rc::CLOSE, || {
        let post_action = {
            // SAFETY: nginx calls a content handler with an open request; ends before nginx is called.
            let request = unsafe { &mut *r };
            let whole = ptr::eq(request.main, r) && bits::count(request) == 1;
            SEEN.set(whole && bits::internal(request) == 1);
            request.headers_out.status = NO_CONTENT;
            // SAFETY: `begin` has set its location.
            let conf = unsafe { core_location(request) };
            // SAFETY: the configuration of the server.
            conf.is_some_and(|conf| unsafe { conf.as_ref() }.post_action.len != 0)
        };
        // SAFETY: plain C data, which nginx itself zeroes before use.
        let mut buffer: ngx_buf_t = unsafe { mem::zeroed() };
        buffer.set_last_buf(1);
        let mut chain = ngx_chain_t { buf: &raw mut buffer, next: ptr::null_mut() };
        // SAFETY: an open request; the connection takes all at once, so that the buffer is not kept.
        let sent = unsafe { ngx_http_write_filter(r, &raw mut chain) };
        // Any other end would go on to `post_action`.
        if post_action { rc::CLOSE } else { sent }
    })
}

const NO_CONTENT: usize = ngx::ffi::NGX_HTTP_NO_CONTENT as usize;

/// What is not as it must be afterwards.
///
/// # Safety
///
/// A connection of a cycle that is there, open or not.
unsafe fn wrong(c: *mut ngx_connection_t, state: &RunState, free: usize) -> Option<&'static str> {
    if !SEEN.get() {
        return Some("content handler");
    }
    let Some(end) = state.take_end() else { return Some("end of the request") };
    let status = usize::from(end.status);
    if status != NO_CONTENT && status != rc::CLOSE.unsigned_abs() {
        return Some("status");
    }
    if !end.complete || end.closed {
        return Some("response");
    }
    if !socket_is_open() {
        return Some("descriptor");
    }
    // SAFETY: the caller's promise.
    let fd = unsafe { (*c).fd };
    if fd != -1 || free_connections() != free {
        return Some("connection");
    }
    // SAFETY: as above.
    let read = unsafe { (*c).read };
    // SAFETY: as above: with their events.
    let read = unsafe { &*read };
    if read.timer_set() != 0 || read.posted() != 0 {
        return Some("event");
    }
    None
}
