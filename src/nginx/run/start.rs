//! Runs a location now, without a client, and reports how it ended.
//!
//! ```text
//!   start ──> in progress ──────────────── the request ends ──> ended ──> on_end(RequestEnd)
//!     │           │                                ^              (a posted event)
//!     │           └── cut_off ── waits for threads ┘
//!     └─────> ended: the request waited for nothing
//! ```
//!
//! However and whenever the request ends, a cleanup on its pool sees it (RUN-10): it survives
//! internal redirects, and subrequests share it. The end is reported by `start` or from a posted event,
//! never from inside nginx's closing code.

use std::ffi::c_void;
use std::rc::{Rc, Weak};

use ngx::ffi::{
    ngx_connection_t, ngx_http_close_connection, ngx_http_core_run_phases, ngx_http_create_request,
    ngx_http_free_request, ngx_http_request_t, ngx_http_run_posted_requests,
    ngx_http_update_location_config, ngx_int_t,
};

use super::connect::connect;
use super::connection::{RunConnection, cut_off};
use super::head;
use super::phases::{engine, find_config};
use super::receiver::Receiver;
use super::request::{Begin, Request, StartError};
use super::state::{Attached, Guard, Origin, RequestEnd, RunState};
use crate::nginx::conf::location::Location;
use crate::nginx::core::guard::guard_else;
use crate::nginx::core::{bits, gauges, pool};

/// A run in progress. Dropping it lets the run go on; its end is not reported.
pub struct InProgress(Rc<RunState>);

/// A run that was started.
pub enum Started {
    /// It has ended already.
    Ended(RequestEnd),
    /// It goes on.
    InProgress(InProgress),
}

/// Has nginx request `location`, as `request` says, for as long as `guard` lets it go on; what the response
/// brings goes to `receiver`, too.
///
/// # Errors
///
/// The run could not start.
pub fn start(
    location: Location,
    request: &Request<'_>,
    origin: Rc<dyn Origin>,
    receiver: Option<Rc<dyn Receiver>>,
    guard: Option<Rc<dyn Guard>>,
) -> Result<Started, StartError> {
    #[cfg(feature = "panic-points")]
    let receiver = receiver.or_else(|| Some(Rc::new(super::witness::Witness::default())));
    #[cfg(feature = "panic-points")]
    let guard = guard.or_else(|| Some(Rc::new(super::witness::Witness::default())));
    start_attached(location, request, origin, Attached { receiver, guard, inside: None })
}

/// The same for a request that begins anywhere; nobody receives its response.
///
/// # Errors
///
/// As for [`start`].
pub fn start_at(
    begin: Begin,
    request: &Request<'_>,
    origin: Rc<dyn Origin>,
) -> Result<Started, StartError> {
    start_from(begin, request, origin, Attached::default())
}

/// The same, with these who have to do with it.
///
/// # Errors
///
/// As for [`start`].
pub(in crate::nginx) fn start_attached(
    location: Location,
    request: &Request<'_>,
    origin: Rc<dyn Origin>,
    attached: Attached,
) -> Result<Started, StartError> {
    start_from(Begin::Location(location), request, origin, attached)
}

fn start_from(
    from: Begin,
    request: &Request<'_>,
    origin: Rc<dyn Origin>,
    attached: Attached,
) -> Result<Started, StartError> {
    let (Begin::Location(location) | Begin::ServerOf(location)) = from;
    if !location.is_in_use() {
        return Err(StartError::ConfigurationGone);
    }
    let location = match from {
        Begin::Location(location) => location,
        // SAFETY: it is there.
        Begin::ServerOf(location) => unsafe { location.of_server() },
    };
    let state = Rc::new(RunState::new(origin, request.access, attached));
    let c = connect(location, Rc::clone(&state))?;
    let inside = state.inside();
    if inside.as_ref().is_some_and(|inside| inside.leaves()) {
        // nginx closes it when the worker is told to quit (RUN-18).
        // SAFETY: furnished just now.
        unsafe { (*c).set_idle(1) };
    }
    // SAFETY: furnished just now.
    let (r, valid_location) = unsafe { create(c, location, request) }?;
    if inside.is_some_and(|inside| !inside.is_logged()) {
        // SAFETY: made just now; ends here.
        bits::set_logged(unsafe { &mut *r }, 1);
    }
    // SAFETY: made just now.
    unsafe { watch_end(r, c, &state) }?;
    // SAFETY: as above.
    match from {
        // SAFETY: as above.
        Begin::Location(_) => unsafe { begin(r, location, valid_location) },
        // SAFETY: as above.
        Begin::ServerOf(_) => unsafe { begin_in_server(r, location) },
    }
    // SAFETY: looks at `destroyed` first: the request may have ended (RUN-8).
    unsafe { ngx_http_run_posted_requests(c) };
    Ok(state.take_end().map_or_else(|| Started::InProgress(InProgress(state)), Started::Ended))
}

impl InProgress {
    /// Has `on_end` called when the run has ended.
    pub fn on_end(&self, on_end: impl FnOnce(RequestEnd) + 'static) {
        self.0.tell(on_end);
    }

    /// Ends the run: its upstream connection is closed. The end is reported as usual, though later
    /// where a thread or a cache lock holds the request (RUN-12).
    pub fn cut_off(&self) {
        cut_off_run(&self.0);
    }

    /// What keeps nothing, and can end the run as well.
    pub(in crate::nginx) fn handle(&self) -> Handle {
        Handle(Rc::downgrade(&self.0))
    }
}

/// A run that may have ended.
pub(in crate::nginx) struct Handle(Weak<RunState>);

impl Handle {
    /// As [`InProgress::cut_off`].
    pub(in crate::nginx) fn cut_off(&self) {
        if let Some(state) = self.0.upgrade() {
            cut_off_run(&state);
        }
    }
}

fn cut_off_run(state: &RunState) {
    let r = state.request();
    if !r.is_null() {
        // SAFETY: the invariant: it is open.
        unsafe { cut_off(r) };
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.tell_nobody();
    }
}

/// Makes the request, up to its URI; tells whether the location's name is to be cut off that.
///
/// # Safety
///
/// `c` was furnished for `location`, whose configuration is there, and has no request yet.
pub(super) unsafe fn create(
    c: *mut ngx_connection_t,
    location: Location,
    request: &Request<'_>,
) -> Result<(*mut ngx_http_request_t, bool), StartError> {
    // SAFETY: the connection is furnished; its data is an `ngx_http_connection_t`.
    let r = unsafe { ngx_http_create_request(c) };
    if r.is_null() {
        // SAFETY: takes back the gauge, the connection and its pool.
        unsafe { ngx_http_close_connection(c) };
        return Err(StartError::NoMemory);
    }
    // SAFETY: as nginx does for a client's (`ngx_http_wait_request_handler`).
    unsafe { (*c).data = r.cast() };
    gauges::READING.decrement();
    gauges::WRITING.increment();

    // SAFETY: made just now.
    let filled = unsafe { head::fill(r, location, request) };
    match filled {
        Ok(valid_location) => Ok((r, valid_location)),
        Err(why) => {
            // SAFETY: as above.
            unsafe { discard(r, c) };
            Err(why)
        }
    }
}

/// Gives up a request that has not begun, and its connection.
///
/// # Safety
///
/// An open request that has not begun, and its connection; both are gone afterwards.
unsafe fn discard(r: *mut ngx_http_request_t, c: *mut ngx_connection_t) {
    // SAFETY: an open request with nothing in progress.
    unsafe { ngx_http_free_request(r, 0) };
    // SAFETY: its connection; takes back the gauge.
    unsafe { ngx_http_close_connection(c) };
}

/// Registers the cleanup that sees the end.
///
/// # Safety
///
/// As for [`discard`], which is done without memory.
pub(super) unsafe fn watch_end(
    r: *mut ngx_http_request_t,
    c: *mut ngx_connection_t,
    state: &RunState,
) -> Result<(), StartError> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above; the request lives as long as its pool.
    if unsafe { pool::on_destroy(pool, on_request_end, r.cast()) }.is_none() {
        // SAFETY: the caller's promise.
        unsafe { discard(r, c) };
        return Err(StartError::NoMemory);
    }
    // SAFETY: made just now; its cleanup tells of the end.
    unsafe { state.begin(r) };
    Ok(())
}

/// Has nginx look for the location, as for an internal redirect, but without the server's own `rewrite`,
/// `return` and so on: what is there for clients does not keep it from what it is for (RUN-20).
///
/// # Safety
///
/// An open request of ours that has not begun; the server's configuration is there.
unsafe fn begin_in_server(r: *mut ngx_http_request_t, server: Location) {
    // SAFETY: an open request.
    let handlers = unsafe { engine(r) }.handlers;
    // SAFETY: those of a phase engine.
    let index = unsafe { find_config(handlers) };
    // SAFETY: the caller's promise.
    let confs = unsafe { server.confs() };
    // SAFETY: the caller's promise.
    unsafe { enter(r, confs, index, 1) };
    // SAFETY: the request is ready to be run; it may end inside.
    unsafe { ngx_http_core_run_phases(r) };
}

/// The cleanup of a run's request pool: notes the result and posts; nothing more (RUN-10).
unsafe extern "C" fn on_request_end(r: *mut c_void) {
    let r = r.cast::<ngx_http_request_t>();
    // SAFETY: the request's memory is given back after the cleanups of its pool.
    let c = unsafe { (*r).connection };
    // SAFETY: the connection is closed after its request (`ngx_http_close_request`).
    let Some(run) = (unsafe { RunConnection::of(c) }) else { return };
    // SAFETY: as above.
    let Some(state) = (unsafe { RunConnection::state(run) }) else { return };
    guard_else(
        || {
            // SAFETY: as above; ends here.
            let request = unsafe { &*r };
            // SAFETY: as above.
            let closed = unsafe { (*c).close() } != 0;
            // As `$status` has it (`ngx_http_variable_status`).
            let (status, error) = (request.headers_out.status, request.err_status);
            let status = u16::try_from(if error == 0 { status } else { error }).unwrap_or(0);
            state.end(status, closed);
        },
        || state.end(0, false),
    );
}

/// Enters the location, as `ngx_http_named_location` does.
///
/// # Safety
///
/// An open request of ours that has not begun; the location's configuration is there.
unsafe fn begin(r: *mut ngx_http_request_t, location: Location, valid_location: bool) {
    // SAFETY: an open request.
    let index = unsafe { engine(r) }.location_rewrite_index;
    // SAFETY: `start` has seen that it is there.
    let confs = unsafe { location.conf() }.loc_conf;
    // SAFETY: the caller's promise.
    unsafe {
        enter(r, confs, ngx_int_t::try_from(index).unwrap_or(0), usize::from(valid_location));
    };
    // SAFETY: the request is ready to be run; it may end inside.
    unsafe { ngx_http_core_run_phases(r) };
}

/// Sets the request's location, whether its name is to be cut off the URI, and with which handler its
/// phases begin.
///
/// # Safety
///
/// An open request of ours that has not begun; the configurations of a location, and the index of a
/// handler of its phases.
pub(super) unsafe fn enter(
    r: *mut ngx_http_request_t,
    confs: *mut *mut c_void,
    index: ngx_int_t,
    valid_location: usize,
) {
    {
        // SAFETY: a request of ours; ends before nginx is called.
        let request = unsafe { &mut *r };
        request.loc_conf = confs;
        bits::set_valid_location(request, valid_location);
    }
    // SAFETY: the location's configuration is set.
    unsafe { ngx_http_update_location_config(r) };
    // SAFETY: as before.
    let request = unsafe { &mut *r };
    request.phase_handler = index;
    request.write_event_handler = Some(ngx_http_core_run_phases);
}
