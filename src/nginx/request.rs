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
use std::ptr::{self, NonNull};
use std::rc::Rc;

use nginx_sys::{
    NGX_HTTP_VERSION_11, ngx_atomic_uint_t, ngx_close_connection, ngx_connection_t,
    ngx_create_pool, ngx_get_connection, ngx_http_close_connection, ngx_http_complex_value,
    ngx_http_create_request, ngx_http_finalize_request, ngx_http_free_request, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_http_update_location_config, ngx_int_t, ngx_list_push,
    ngx_pcalloc, ngx_pool_t, ngx_str_t, ngx_table_elt_t,
};

use super::conf::Template;
use super::event::Posted;
use super::frame::{self, Frame};
use super::guard::guard;
use super::location::Location;
use super::log::Log;
use super::{borrowed, bytes, pool, rc, stat, uri};
use crate::os::SocketPair;

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

/// An HTTP method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(String);

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
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFreeConnection => "no free connection",
            Self::NoMemory => "no memory",
            Self::InvalidUri => "invalid URI",
            Self::UriOutside => "URI is not within the location",
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

thread_local! {
    /// The socket pair that all runs of this worker share.
    static SOCKETS: OnceCell<SocketPair> = const { OnceCell::new() };
}

/// Makes what all runs of this process share; called when it begins its work.
pub(super) fn prepare() {
    let _ = socket();
}

fn socket() -> Option<i32> {
    SOCKETS.with(|sockets| {
        if sockets.get().is_none() {
            let _ = sockets.set(SocketPair::new().ok()?);
        }
        sockets.get().map(SocketPair::descriptor)
    })
}

impl Method {
    /// Reads an upper-case token; `None` if it is none.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let valid = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'-');
        if word.is_empty() || word.len() > 32 || !word.iter().all(valid) {
            return None;
        }
        String::from_utf8(word.to_vec()).ok().map(Self)
    }

    /// `NGX_HTTP_GET` and so on (`src/http/ngx_http_request.h`).
    fn code(&self) -> u32 {
        match self.0.as_str() {
            "GET" => nginx_sys::NGX_HTTP_GET,
            "HEAD" => nginx_sys::NGX_HTTP_HEAD,
            "POST" => nginx_sys::NGX_HTTP_POST,
            "PUT" => nginx_sys::NGX_HTTP_PUT,
            "DELETE" => nginx_sys::NGX_HTTP_DELETE,
            "MKCOL" => nginx_sys::NGX_HTTP_MKCOL,
            "COPY" => nginx_sys::NGX_HTTP_COPY,
            "MOVE" => nginx_sys::NGX_HTTP_MOVE,
            "OPTIONS" => nginx_sys::NGX_HTTP_OPTIONS,
            "PROPFIND" => nginx_sys::NGX_HTTP_PROPFIND,
            "PROPPATCH" => nginx_sys::NGX_HTTP_PROPPATCH,
            "LOCK" => nginx_sys::NGX_HTTP_LOCK,
            "UNLOCK" => nginx_sys::NGX_HTTP_UNLOCK,
            "PATCH" => nginx_sys::NGX_HTTP_PATCH,
            "TRACE" => nginx_sys::NGX_HTTP_TRACE,
            _ => nginx_sys::NGX_HTTP_UNKNOWN,
        }
    }

    fn has_body(&self) -> bool {
        matches!(self.0.as_str(), "POST" | "PUT" | "PATCH")
    }
}

impl Default for Method {
    fn default() -> Self {
        Self("GET".to_owned())
    }
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
    let shared = Rc::new(Shared {
        origin,
        access: request.access,
        request: Cell::new(ptr::null_mut()),
        complete: Cell::new(false),
        end: Cell::new(None),
        on_end: Cell::new(Some(Box::new(on_end))),
        posted: OnceCell::new(),
    });
    let weak = Rc::downgrade(&shared);
    let posted = Posted::new(move || {
        if let Some(shared) = weak.upgrade() {
            shared.tell();
        }
    });
    let _ = shared.posted.set(posted);

    let c = connect(location, Rc::clone(&shared))?;
    let r = create(c, location, request)?;
    watch_end(r, c, &shared)?;
    begin(r, location);
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
    pub(super) fn origin(&self) -> Rc<dyn Origin> {
        Rc::clone(&self.origin)
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn note_complete(&self) {
        self.complete.set(true);
    }

    fn tell(&self) {
        if let (Some(end), Some(on_end)) = (self.end.take(), self.on_end.take()) {
            on_end(end);
        }
    }
}

/// A connection that leads nowhere, furnished for `location`.
fn connect(location: Location, shared: Rc<Shared>) -> Result<*mut ngx_connection_t, StartError> {
    // SAFETY: HOST-1: one thread.
    let cycle = unsafe { nginx_sys::ngx_cycle };
    // SAFETY: HOST-20: `ngx_cycle` always points to a complete cycle.
    let free = unsafe { (*cycle).free_connection_n };
    // SAFETY: as above.
    let reusable = unsafe { (*cycle).reusable_connections_n };
    if free == 0 && reusable == 0 {
        // `ngx_get_connection` would write an alert (RUN-1).
        return Err(StartError::NoFreeConnection);
    }
    let socket = socket().ok_or(StartError::NoFreeConnection)?;
    // SAFETY: an open descriptor; the log lives as long as the cycle.
    let c = unsafe { ngx_get_connection(socket, Log::cycle().as_ptr()) };
    if c.is_null() {
        return Err(StartError::NoFreeConnection);
    }
    // SAFETY: a fresh connection of ours. INVARIANT of `close`: the shared socket stays open.
    unsafe { (*c).set_shared(1) };

    let size = location.server().connection_pool_size;
    // SAFETY: the log lives as long as the cycle.
    let pool = unsafe { ngx_create_pool(size, Log::cycle().as_ptr()) };
    let frame = if pool.is_null() { ptr::null_mut() } else { frame_in(pool) };
    if frame.is_null() {
        // SAFETY: a connection that is in no queue yet.
        unsafe { ngx_close_connection(c) };
        if !pool.is_null() {
            // SAFETY: a pool that nobody else knows of.
            unsafe { nginx_sys::ngx_destroy_pool(pool) };
        }
        return Err(StartError::NoMemory);
    }

    // SAFETY: a fresh connection.
    unsafe { (*c).pool = pool };
    // SAFETY: as `furnish` wants it.
    unsafe { Frame::furnish(frame, c, location, shared) };
    // SAFETY: furnished just now.
    let log = unsafe { (*c).log };
    // SAFETY: the pool is ours; its log lives in it, as that of a client's connection does.
    unsafe { (*pool).log = log };
    // SAFETY: HOST-1: one thread; set by the event module for each worker.
    let number = stat::count(unsafe { nginx_sys::ngx_connection_counter }.cast(), 1);
    // SAFETY: HOST-1: one thread.
    let now = unsafe { nginx_sys::ngx_current_msec };
    // SAFETY: a connection of ours; ends before nginx is called.
    let connection = unsafe { &mut *c };
    connection.number = number.wrapping_add(1) as ngx_atomic_uint_t;
    connection.start_time = now;
    // SAFETY: the connection's log is ours.
    unsafe { (*connection.log).connection = connection.number };
    stat::ACTIVE.increment();
    Ok(c)
}

/// Zeroed room for a frame, whose cleanup is registered; null without memory.
fn frame_in(pool: *mut ngx_pool_t) -> *mut Frame {
    // SAFETY: a pool of ours; HOST-13: may be null.
    let frame = unsafe { ngx_pcalloc(pool, size_of::<Frame>()) };
    if frame.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: as above; the frame lives as long as the pool.
    if unsafe { pool::on_destroy(pool, frame::release, frame) }.is_none() {
        return ptr::null_mut();
    }
    frame.cast()
}

/// Makes the request, up to its URI.
fn create(
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

    fill(r, location, request).inspect_err(|_| discard(r, c))?;
    Ok(r)
}

/// Gives up a request that has not begun, and its connection.
fn discard(r: *mut ngx_http_request_t, c: *mut ngx_connection_t) {
    // SAFETY: an open request with nothing in progress.
    unsafe { ngx_http_free_request(r, 0) };
    // SAFETY: its connection; takes back the gauge.
    unsafe { ngx_http_close_connection(c) };
}

fn fill(
    r: *mut ngx_http_request_t,
    location: Location,
    request: &Request<'_>,
) -> Result<(), StartError> {
    {
        // SAFETY: a request of ours; ends before nginx is called.
        let making = unsafe { &mut *r };
        making.set_stat_reading(0);
        making.set_stat_writing(1);
        making.set_internal(1);
        making.set_keepalive(0);
        making.set_limit_rate_set(1);
        making.set_limit_rate_after_set(1);
        making.set_logged(u32::from(location.conf().log_subrequest != 1));
        making.set_http_major(1);
        making.set_http_minor(1);
        making.http_version = NGX_HTTP_VERSION_11 as usize;
        making.method = request.method.code() as usize;
        making.set_http_state(nginx_sys::ngx_http_state_e_NGX_HTTP_PROCESS_REQUEST_STATE);
        if request.method.has_body() {
            making.headers_in.content_length_n = 0;
        }
    }
    set_host(r, request.host)?;
    set_line(r, request.method, &[])?;

    let uri = match request.uri {
        Uri::Constant(uri) => uri.as_slice(),
        Uri::Variable(template) => {
            let mut value = borrowed(&[]);
            // SAFETY: a compiled value of the cycle; the request has all that variables look at.
            let rc = unsafe { ngx_http_complex_value(r, template.as_ptr(), &raw mut value) };
            if rc != rc::OK {
                return Err(StartError::NoMemory);
            }
            // SAFETY: evaluated into the request's pool.
            unsafe { bytes(value) }
        }
    };
    let uri = set_line(r, request.method, uri)?;
    // SAFETY: the URI lies in the request's pool, with a blank behind it.
    unsafe { uri::set(r, uri) }.map_err(|_| StartError::InvalidUri)?;
    if within(r, location) { Ok(()) } else { Err(StartError::UriOutside) }
}

/// Sets the request line `METHOD URI HTTP/1.1` and its parts; answers the URI's place in it.
fn set_line(
    r: *mut ngx_http_request_t,
    method: &Method,
    uri: &[u8],
) -> Result<ngx_str_t, StartError> {
    const PROTOCOL: &[u8] = b"HTTP/1.1";

    let method = method.0.as_bytes();
    let line = [method, b" ", uri, b" ", PROTOCOL].concat();
    let line = copy(r, &line)?;
    let part = |from: usize, len| ngx_str_t { len, data: line.data.wrapping_add(from) };
    let uri = part(method.len() + 1, uri.len());
    // SAFETY: a request of ours; ends before nginx is called.
    let request = unsafe { &mut *r };
    request.request_line = line;
    request.method_name = part(0, method.len());
    request.http_protocol = part(line.len - PROTOCOL.len(), PROTOCOL.len());
    Ok(uri)
}

/// A copy of `bytes` in the request's pool.
fn copy(r: *mut ngx_http_request_t, bytes: &[u8]) -> Result<ngx_str_t, StartError> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above.
    unsafe { pool::copy(pool, bytes) }.ok_or(StartError::NoMemory)
}

/// Sets the list of headers, with `Host` in it if there is one.
fn set_host(r: *mut ngx_http_request_t, host: Option<&str>) -> Result<(), StartError> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above.
    let headers = unsafe { &raw mut (*r).headers_in.headers };
    let size = size_of::<ngx_table_elt_t>();
    // SAFETY: the list is that of the request; as `ngx_http_process_request_line` makes it.
    if unsafe { nginx_sys::ngx_list_init(headers, pool, 4, size) } != rc::OK {
        return Err(StartError::NoMemory);
    }
    let Some(host) = host else { return Ok(()) };

    // SAFETY: a list that was just made.
    let Some(header) = NonNull::new(unsafe { ngx_list_push(headers) }) else {
        return Err(StartError::NoMemory);
    };
    let header = header.cast::<ngx_table_elt_t>();
    let server = host.to_ascii_lowercase();
    let value = copy(r, host.as_bytes())?;
    let server = copy(r, without_port(&server).as_bytes())?;
    // SAFETY: room for one element of this type, which all zero bytes are valid for.
    unsafe { header.write_bytes(0, 1) };
    // SAFETY: as above; nobody else has it.
    let element = unsafe { &mut *header.as_ptr() };
    element.hash = hash(b"host");
    element.key = borrowed(b"Host");
    element.lowcase_key = b"host".as_ptr().cast_mut();
    element.value = value;
    // SAFETY: a request of ours; ends before nginx is called.
    let request = unsafe { &mut *r };
    request.headers_in.host = header.as_ptr();
    request.headers_in.server = server;
    Ok(())
}

/// A host as in `$host`: `name:port` without the port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// `ngx_hash_key` of a lower-case key.
fn hash(key: &[u8]) -> usize {
    key.iter().fold(0, |hash: usize, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}

/// Whether the request's path lies within the location (RUN-7). A pattern also sets its captures,
/// as when nginx chooses the location for a client.
fn within(r: *mut ngx_http_request_t, location: Location) -> bool {
    #[cfg(ngx_feature = "pcre")]
    if let Some(regex) = NonNull::new(location.conf().regex) {
        // SAFETY: the path of an open request, in its pool.
        let mut path = unsafe { (*r).uri };
        // SAFETY: a compiled pattern of the cycle.
        let rc = unsafe { nginx_sys::ngx_http_regex_exec(r, regex.as_ptr(), &raw mut path) };
        return rc == rc::OK;
    }
    // SAFETY: an open request whose URI does not change meanwhile.
    location.contains_path(unsafe { uri::path(r) })
}

/// Registers the cleanup that sees the end.
fn watch_end(
    r: *mut ngx_http_request_t,
    c: *mut ngx_connection_t,
    shared: &Shared,
) -> Result<(), StartError> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above; the request lives as long as its pool.
    if unsafe { pool::on_destroy(pool, on_request_end, r.cast()) }.is_none() {
        discard(r, c);
        return Err(StartError::NoMemory);
    }
    // INVARIANT: open from now on.
    shared.request.set(r);
    Ok(())
}

/// The cleanup of a run's request pool: notes the result and posts; nothing more (RUN-10).
unsafe extern "C" fn on_request_end(r: *mut c_void) {
    guard((), || {
        let r = r.cast::<ngx_http_request_t>();
        // SAFETY: the request's memory is given back after the cleanups of its pool.
        let c = unsafe { (*r).connection };
        // SAFETY: the connection is closed after its request (`ngx_http_close_request`).
        let Some(frame) = (unsafe { Frame::of(c) }) else { return };
        // SAFETY: as above.
        let Some(shared) = (unsafe { Frame::shared(frame) }) else { return };
        // SAFETY: as above.
        let status = unsafe { (*r).headers_out.status };
        // SAFETY: as above.
        let error = unsafe { (*r).err_status };
        // SAFETY: as above.
        let closed = unsafe { (*c).close() } != 0;
        // As `$status` has it (`ngx_http_variable_status`).
        let status = if error == 0 { status } else { error };
        shared.end.set(Some(End {
            status: u16::try_from(status).unwrap_or(0),
            complete: shared.complete.get(),
            closed,
        }));
        // INVARIANT: closed from now on.
        shared.request.set(ptr::null_mut());
        if let Some(posted) = shared.posted.get() {
            posted.post();
        }
    });
}

/// Enters the location, as `ngx_http_named_location` does.
fn begin(r: *mut ngx_http_request_t, location: Location) {
    {
        // SAFETY: a request of ours; ends before nginx is called.
        let request = unsafe { &mut *r };
        request.loc_conf = location.conf().loc_conf;
        request.set_valid_location(1);
    }
    // SAFETY: the location's configuration is set.
    unsafe { ngx_http_update_location_config(r) };
    // SAFETY: an open request.
    let index = unsafe { super::access::engine(r) }.location_rewrite_index;
    // SAFETY: as before.
    let request = unsafe { &mut *r };
    request.phase_handler = ngx_int_t::try_from(index).unwrap_or(0);
    request.write_event_handler = Some(nginx_sys::ngx_http_core_run_phases);
    // SAFETY: the request is ready to be run; it may end inside.
    unsafe { nginx_sys::ngx_http_core_run_phases(r) };
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
    // SAFETY: as nginx does for a client that timed out.
    unsafe { ngx_http_finalize_request(main, rc::CLOSE) };
    // SAFETY: looks at `destroyed` first.
    unsafe { ngx_http_run_posted_requests(c) };
}
