//! Runs a location now, without a client, and tells how it ended.
//!
//! ```text
//!   start ──> in progress ──────────────── the request ends ──> ended ──> on_end(End)
//!                 │                                ^              (a posted event)
//!                 └── cut_off ── waits for threads ┘
//! ```
//!
//! However and whenever the request ends, a cleanup on its pool sees it (RUN-10): it survives
//! internal redirects, and subrequests share it. `on_end` is called from a posted event, never
//! from inside nginx's closing code.

use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::rc::Rc;

use ngx::ffi::{
    ngx_connection_t, ngx_http_close_connection, ngx_http_create_request,
    ngx_http_finalize_request, ngx_http_free_request, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_http_update_location_config, ngx_int_t,
};

use super::conf::Template;
use super::event::Posted;
use super::frame::Frame;
use super::guard::guard_else;
use super::location::Location;
use super::{bits, connection, message, pool, rc, stat};

pub use super::message::Method;

/// Who has a location run: known to the run's log lines and variables.
pub trait Origin: Any {
    /// Writes what each log line of the run tells of it, `name: value, name: value`.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// Whether the phases that are there for clients are run through: pre-access and access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They are.
    Checked,
    /// They are left out, as nginx does for subrequests.
    LeftOut,
}

/// A request's URI, with its arguments.
#[derive(Clone, Debug)]
pub enum Uri {
    /// The same for each run; known to be valid and to lie in the location.
    Constant(Vec<u8>),
    /// Evaluated for each run.
    Variable(Template),
}

/// The request that is made.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its URI.
    pub uri: &'a Uri,
    /// Its `Host` header, none if `None`.
    pub host: Option<&'a str>,
    /// Whether the access phases are run through.
    pub access: Access,
}

/// Why a run could not even start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// `worker_connections` are used up.
    NoFreeConnection,
    /// A pool could not be had.
    NoMemory,
    /// The URI that variables made is none.
    InvalidUri,
    /// The URI that variables made is not within the location.
    UriOutside,
    /// The location is not one of the configuration in use.
    ConfigurationGone,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFreeConnection => "no free connection",
            Self::NoMemory => "no memory",
            Self::InvalidUri => "invalid URI",
            Self::UriOutside => "URI is not within the location",
            Self::ConfigurationGone => "configuration is not in use",
        })
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The response's status; 0 if there was none.
    pub status: u16,
    /// Whether the response's last buffer came: a response that was cut short has its header's
    /// status all the same (RUN-11).
    pub complete: bool,
    /// Whether nginx closed the run's connection since the worker had to leave.
    pub closed: bool,
}

/// A run in progress. Dropping it lets the run go on, and nobody is told of its end.
pub struct Attempt(Rc<Shared>);

type OnEnd = Box<dyn FnOnce(End)>;

/// What a run's connection and its starter have in common.
///
/// # Invariants
///
/// `request` is the run's main request while it is open, and null before and after.
pub(super) struct Shared {
    origin: Rc<dyn Origin>,
    access: Access,
    request: Cell<*mut ngx_http_request_t>,
    complete: Cell<bool>,
    end: Cell<Option<End>>,
    on_end: Cell<Option<OnEnd>>,
    posted: OnceCell<Posted>,
}

/// Has nginx request `location`, as `request` says; `on_end` is told how it ended, later.
///
/// # Errors
///
/// The run could not start; `on_end` is not called.
pub fn start(
    location: Location,
    request: &Request<'_>,
    origin: Rc<dyn Origin>,
    on_end: impl FnOnce(End) + 'static,
) -> Result<Attempt, StartError> {
    if !location.is_in_use() {
        return Err(StartError::ConfigurationGone);
    }
    let shared = Rc::new(Shared::new(origin, request.access, Some(Box::new(on_end))));
    let weak = Rc::downgrade(&shared);
    let posted = Posted::new(move || {
        if let Some(shared) = weak.upgrade() {
            shared.tell();
        }
    });
    let _ = shared.posted.set(posted);

    let c = connection::connect(location, Rc::clone(&shared))?;
    // SAFETY: furnished just now.
    let r = unsafe { create(c, location, request) }?;
    // SAFETY: made just now.
    unsafe { watch_end(r, c, &shared) }?;
    // SAFETY: as above.
    unsafe { begin(r, location) };
    // SAFETY: looks at `destroyed` first: the request may have ended (RUN-8).
    unsafe { ngx_http_run_posted_requests(c) };
    Ok(Attempt(shared))
}

impl Attempt {
    /// Ends the run: its upstream connection is closed. The end is told as ever, though later
    /// where a thread or a cache lock holds the request (RUN-12).
    pub fn cut_off(&self) {
        let r = self.0.request.get();
        if !r.is_null() {
            // SAFETY: the invariant: it is open.
            unsafe { cut_off(r) };
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        drop(self.0.on_end.take());
    }
}

impl Shared {
    pub(super) fn new(origin: Rc<dyn Origin>, access: Access, on_end: Option<OnEnd>) -> Self {
        Self {
            origin,
            access,
            request: Cell::new(ptr::null_mut()),
            complete: Cell::new(false),
            end: Cell::new(None),
            on_end: Cell::new(on_end),
            posted: OnceCell::new(),
        }
    }

    /// The run's request, null if it is not open.
    pub(super) fn request(&self) -> *mut ngx_http_request_t {
        self.request.get()
    }

    /// How it ended, for one that is told of nothing.
    pub(super) fn take_end(&self) -> Option<End> {
        self.end.take()
    }

    pub(super) fn origin(&self) -> Rc<dyn Origin> {
        Rc::clone(&self.origin)
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn note_complete(&self) {
        self.complete.set(true);
    }

    /// The request is being closed.
    fn has_ended(&self, end: End) {
        // INVARIANT: closed from now on.
        self.request.set(ptr::null_mut());
        self.end.set(Some(end));
        if let Some(posted) = self.posted.get() {
            posted.post();
        }
    }

    fn tell(&self) {
        if let (Some(end), Some(on_end)) = (self.end.take(), self.on_end.take()) {
            on_end(end);
        }
    }
}

/// Makes the request, up to its URI.
///
/// # Safety
///
/// `c` was furnished for `location`, whose configuration is there, and has no request yet.
pub(super) unsafe fn create(
    c: *mut ngx_connection_t,
    location: Location,
    request: &Request<'_>,
) -> Result<*mut ngx_http_request_t, StartError> {
    // SAFETY: the connection is furnished; its data is an `ngx_http_connection_t`.
    let r = unsafe { ngx_http_create_request(c) };
    if r.is_null() {
        // SAFETY: takes back the gauge, the connection and its pool.
        unsafe { ngx_http_close_connection(c) };
        return Err(StartError::NoMemory);
    }
    // SAFETY: as nginx does for a client's (`ngx_http_wait_request_handler`).
    unsafe { (*c).data = r.cast() };
    stat::READING.decrement();
    stat::WRITING.increment();

    // SAFETY: made just now.
    let filled = unsafe { message::fill(r, location, request) };
    if let Err(why) = filled {
        // SAFETY: as above.
        unsafe { discard(r, c) };
        return Err(why);
    }
    Ok(r)
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
    shared: &Shared,
) -> Result<(), StartError> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above; the request lives as long as its pool.
    if unsafe { pool::on_destroy(pool, on_request_end, r.cast()) }.is_none() {
        // SAFETY: the caller's promise.
        unsafe { discard(r, c) };
        return Err(StartError::NoMemory);
    }
    // INVARIANT: open from now on.
    shared.request.set(r);
    Ok(())
}

/// The cleanup of a run's request pool: notes the result and posts; nothing more (RUN-10).
unsafe extern "C" fn on_request_end(r: *mut c_void) {
    let r = r.cast::<ngx_http_request_t>();
    // SAFETY: the request's memory is given back after the cleanups of its pool.
    let c = unsafe { (*r).connection };
    // SAFETY: the connection is closed after its request (`ngx_http_close_request`).
    let Some(frame) = (unsafe { Frame::of(c) }) else { return };
    // SAFETY: as above.
    let Some(shared) = (unsafe { Frame::shared(frame) }) else { return };
    guard_else(
        || {
            // SAFETY: as above.
            let status = unsafe { (*r).headers_out.status };
            // SAFETY: as above.
            let error = unsafe { (*r).err_status };
            // SAFETY: as above.
            let closed = unsafe { (*c).close() } != 0;
            // As `$status` has it (`ngx_http_variable_status`).
            let status = if error == 0 { status } else { error };
            let status = u16::try_from(status).unwrap_or(0);
            shared.has_ended(End { status, complete: shared.complete.get(), closed });
        },
        || shared.has_ended(End { status: 0, complete: false, closed: false }),
    );
}

/// Enters the location, as `ngx_http_named_location` does.
///
/// # Safety
///
/// An open request of ours that has not begun; the location's configuration is there.
unsafe fn begin(r: *mut ngx_http_request_t, location: Location) {
    {
        // SAFETY: a request of ours; ends before nginx is called.
        let request = unsafe { &mut *r };
        // SAFETY: `start` has seen that it is there.
        request.loc_conf = unsafe { location.conf() }.loc_conf;
        bits::set_valid_location(request, 1);
    }
    // SAFETY: the location's configuration is set.
    unsafe { ngx_http_update_location_config(r) };
    // SAFETY: an open request.
    let index = unsafe { super::access::engine(r) }.location_rewrite_index;
    // SAFETY: as before.
    let request = unsafe { &mut *r };
    request.phase_handler = ngx_int_t::try_from(index).unwrap_or(0);
    request.write_event_handler = Some(ngx::ffi::ngx_http_core_run_phases);
    // SAFETY: the request is ready to be run; it may end inside.
    unsafe { ngx::ffi::ngx_http_core_run_phases(r) };
}

/// Ends the request that `r` belongs to (RUN-12): any other code than 444 would go through
/// `error_page` or `post_action`, and the run would go on.
///
/// # Safety
///
/// `r` is an open request of a run.
pub(super) unsafe fn cut_off(r: *mut ngx_http_request_t) {
    // SAFETY: the caller's promise.
    let c = unsafe { (*r).connection };
    // SAFETY: as above.
    let main = unsafe { (*r).main };
    // An error noted before would lead to `post_action`.
    // SAFETY: as above.
    unsafe { (*c).set_error(0) };
    // SAFETY: as above.
    if let Some(frame) = unsafe { Frame::of(c) } {
        // SAFETY: as above.
        unsafe { Frame::set_log_request(frame, main) };
    }
    {
        // SAFETY: as above; ends before nginx is called.
        let main = unsafe { &mut *main };
        if !main.cleanup.is_null() {
            // A cleanup may give the last reference back, in the middle of its list.
            bits::set_count(main, bits::count(main) + 1);
        }
    }
    // SAFETY: as nginx does for a client whose connection it closes (RUN-12).
    unsafe { ngx_http_finalize_request(main, rc::CLOSE) };
    // SAFETY: looks at `destroyed` first.
    unsafe { ngx_http_run_posted_requests(c) };
}
