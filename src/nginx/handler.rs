//! Content handlers: answers to clients' requests.

use std::marker::PhantomData;
use std::ptr;

use ngx::ffi::{
    ngx_http_core_loc_conf_t, ngx_http_handler_pt, ngx_http_request_t, ngx_int_t, ngx_list_part_t,
    ngx_str_t, ngx_table_elt_t,
};

use super::conf::Parsing;
use super::frame::Frame;
use super::guard::guard;
use super::location::Location;
use super::log::{Level, write_to};
use super::module::{self, HttpModule};
use super::reply;
use super::response::Answer;
use super::{bits, bytes, rc};
use crate::os::memory;

/// What answers the requests of a location.
pub trait Handler: 'static {
    /// The module whose handler it is.
    type Module: HttpModule;

    /// Answers; the request's body, if there is one, is dropped.
    fn answer(request: &ClientRequest<'_>) -> Answer;
}

/// A block for which configuration is inherited.
pub struct Block(Location);

impl Block {
    pub(super) fn new(location: Location) -> Self {
        Self(location)
    }

    /// Whether it is an `if` or `limit_except` block: a part of the location around it, with the
    /// same name, but with a handler of its own.
    pub fn is_part_of_location(&self) -> bool {
        // SAFETY: a block that is being merged.
        unsafe { self.0.conf() }.noname() != 0
    }

    /// Has `H` answer its requests, unless something else does.
    pub fn answer_by<H: Handler>(&self) {
        // SAFETY: a block that is being merged.
        if unsafe { self.0.conf() }.handler.is_none() {
            // SAFETY: as above.
            unsafe { set::<H>(self.0) };
        }
    }
}

impl Parsing<'_> {
    /// Has `H` answer the requests of the location whose block is being read.
    pub fn answer_by<H: Handler>(&mut self) {
        // SAFETY: the location whose block is being read.
        unsafe { set::<H>(self.location()) };
    }
}

/// # Safety
///
/// A location of the configuration that is being read.
unsafe fn set<H: Handler>(location: Location) {
    let handler: ngx_http_handler_pt = Some(handle::<H>);
    let conf = location.conf_ptr();
    // SAFETY: the caller's promise; nobody else writes to it.
    unsafe { (*conf).handler = handler };
    if location.name().ends_with(b"/") {
        // As for `proxy_pass`: the name without the slash is sent on.
        // SAFETY: as above.
        unsafe { (*conf).set_auto_redirect(1) };
    }
}

unsafe extern "C" fn handle<H: Handler>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx calls a content handler with an open request.
    let discarded = unsafe { ngx::ffi::ngx_http_discard_request_body(r) };
    if discarded != rc::OK {
        return discarded;
    }
    if !memory::enough() {
        return rc::SERVICE_UNAVAILABLE;
    }
    // SAFETY: as above; the view ends before nginx is called.
    let answer = guard(None, || Some(H::answer(&unsafe { ClientRequest::new(r) })));
    let Some(answer) = answer else { return rc::INTERNAL_SERVER_ERROR };
    // SAFETY: as above; the request is in its content handler.
    unsafe { reply::begin::<H::Module>(r, answer) }
}

/// A request, as its handler sees it.
///
/// # Invariants
///
/// `r` is an open request for `'a`, during which nothing changes it.
pub struct ClientRequest<'a> {
    r: *mut ngx_http_request_t,
    open: PhantomData<&'a ngx_http_request_t>,
}

impl<'a> ClientRequest<'a> {
    /// # Safety
    ///
    /// `r` is an open request for `'a`, and nginx is not called meanwhile but to write its log.
    pub(super) unsafe fn new(r: *mut ngx_http_request_t) -> Self {
        // INVARIANT: the caller's promise.
        Self { r, open: PhantomData }
    }

    fn request(&self) -> &'a ngx_http_request_t {
        // SAFETY: the invariant.
        unsafe { &*self.r }
    }

    /// The method, as the client wrote it.
    pub fn method(&self) -> &'a [u8] {
        // SAFETY: the name lives as long as the request.
        unsafe { bytes(self.request().method_name) }
    }

    /// The decoded path behind the name of the location, with the slash that begins it; `None` if
    /// it does not begin with one, or is not in the location.
    pub fn path(&self) -> Option<&'a [u8]> {
        // SAFETY: the path lives as long as the request.
        let path = unsafe { bytes(self.request().uri) };
        // SAFETY: an open request has a location.
        let conf = unsafe { core_location(self.request().loc_conf) };
        // SAFETY: the request's location has its configuration.
        let name = unsafe { (*conf).name };
        // SAFETY: it lives in the cycle's pool.
        let name = unsafe { bytes(name) };
        below(path, name)
    }

    /// The arguments, as the client wrote them.
    pub fn arguments(&self) -> &'a [u8] {
        // SAFETY: they live as long as the request.
        unsafe { bytes(self.request().args) }
    }

    /// Its headers, as name and value, in the order in which the client sent them.
    pub fn headers(&self) -> Headers<'a> {
        Headers {
            part: &raw const self.request().headers_in.headers.part,
            next: 0,
            of: PhantomData,
        }
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut headers = self.headers();
        headers.find(|(it, _)| it.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The host that the client asks for, with its port: the `Host` header, or what stands in its
    /// place in other versions of HTTP.
    pub fn host(&self) -> Option<&'a [u8]> {
        let request = self.request();
        self.header("host").or_else(|| {
            let (start, end) = (bits::host_start(request), bits::host_end(request));
            let len = end.addr().checked_sub(start.addr()).filter(|len| *len > 0)?;
            // SAFETY: both point into the request's own buffers.
            (!start.is_null()).then(|| unsafe { bytes(ngx_str_t { len, data: start }) })
        })
    }

    /// Whether it belongs to a run without a client.
    pub fn is_of_run(&self) -> bool {
        // SAFETY: the invariant.
        unsafe { Frame::run_of(self.r) }.is_some()
    }

    /// The module's configuration of its location.
    pub fn configuration<M: HttpModule>(&self) -> Option<&'a M::Location> {
        // SAFETY: the invariant.
        unsafe { module::location_of::<M>(self.request().loc_conf) }
    }

    /// Writes a line to its log; nginx adds the client's address and the request.
    pub fn log(&self, level: Level, message: std::fmt::Arguments<'_>) {
        // SAFETY: an open request has an open connection.
        let log = unsafe { (*self.request().connection).log };
        // SAFETY: as above: with its log.
        unsafe { write_to(log, level, 0, message) };
    }
}

/// The headers of a request.
///
/// # Invariants
///
/// `part` is null or one of the parts of its list, which live as long as the request, for `'a`;
/// `next` is at most the number of that part's elements.
pub struct Headers<'a> {
    part: *const ngx_list_part_t,
    next: usize,
    of: PhantomData<&'a ngx_http_request_t>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.part.is_null() {
            // SAFETY: the invariant.
            let ngx_list_part_t { elts, nelts, next } = unsafe { ptr::read(self.part) };
            if self.next == nelts {
                // INVARIANT: the next part, if there is one, from its beginning.
                (self.part, self.next) = (next, 0);
                continue;
            }
            let element = elts.cast::<ngx_table_elt_t>().wrapping_add(self.next);
            // INVARIANT: it was less than the number of elements.
            self.next += 1;
            // SAFETY: a part has so many elements of this type.
            let element = unsafe { ptr::read(element) };
            // SAFETY: names and values live as long as the request.
            let name = unsafe { bytes(element.key) };
            // SAFETY: as above.
            return Some((name, unsafe { bytes(element.value) }));
        }
        None
    }
}

/// The core module's configuration of a location.
///
/// # Safety
///
/// `confs` is the `loc_conf` of a block that was read.
pub(super) unsafe fn core_location(
    confs: *mut *mut std::ffi::c_void,
) -> *const ngx_http_core_loc_conf_t {
    // SAFETY: set before any configuration is read.
    let core = unsafe { ngx::ffi::ngx_http_core_module.ctx_index };
    // SAFETY: the caller's promise: it has a place for each http module.
    let conf = unsafe { confs.add(core) };
    // SAFETY: as above.
    unsafe { *conf }.cast()
}

/// What is left of `path` behind the name of a prefix location.
fn below<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let rest = path.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(b"/");
    }
    rest.starts_with(b"/").then_some(rest)
}
