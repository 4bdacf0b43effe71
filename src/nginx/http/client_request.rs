//! A client's request.

use std::marker::PhantomData;
use std::ptr;
use std::rc::Rc;

use ngx::ffi::{ngx_http_request_t, ngx_str_t};
use ngx::http::list_iterator;

use crate::nginx::core::bits;
use crate::nginx::core::log::{Level, write_to};
use crate::nginx::core::module::{Module, core_location, location_of};
use crate::nginx::core::string::bytes;
use crate::nginx::run::Origin;
use crate::nginx::run::connection::RunConnection;

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
    pub(in crate::nginx) unsafe fn new(r: *mut ngx_http_request_t) -> Self {
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
        let conf = unsafe { core_location(self.request()) }?;
        // SAFETY: the request's location has its configuration.
        let conf = unsafe { conf.as_ref() };
        // SAFETY: it lives in the cycle's pool.
        below(path, unsafe { bytes(conf.name) })
    }

    /// The arguments, as the client wrote them.
    pub fn arguments(&self) -> &'a [u8] {
        // SAFETY: they live as long as the request.
        unsafe { bytes(self.request().args) }
    }

    /// Its headers, as name and value, in the order in which the client sent them.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        // SAFETY: the invariant: a list of this type, whose strings live as long as the request.
        let headers = unsafe { list_iterator(&self.request().headers_in.headers) };
        headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()))
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
        unsafe { RunConnection::run_of(self.r) }.is_some()
    }

    /// Who has it run, if it is that of a run without a client.
    pub fn origin(&self) -> Option<Rc<dyn Origin>> {
        // SAFETY: the invariant.
        unsafe { RunConnection::run_of(self.r) }.map(|(origin, _)| origin)
    }

    /// Whether it is no subrequest.
    pub fn is_main(&self) -> bool {
        ptr::eq(self.request().main, self.r)
    }

    /// The module's configuration of its location.
    pub fn configuration<M: Module>(&self) -> Option<&'a M::Location> {
        // SAFETY: the invariant.
        let conf = unsafe { location_of::<M>(self.request()) };
        // SAFETY: it changes no more once the configuration was read.
        conf.map(|conf| unsafe { conf.as_ref() })
    }

    /// Writes a line to its log; nginx adds the client's address and the request.
    pub fn log(&self, level: Level, message: std::fmt::Arguments<'_>) {
        self.log_error(level, 0, message);
    }

    /// The same, and nginx adds the text of `errno` (none for 0).
    pub fn log_error(&self, level: Level, errno: i32, message: std::fmt::Arguments<'_>) {
        // SAFETY: an open request has an open connection.
        let log = unsafe { (*self.request().connection).log };
        // SAFETY: as above: with its log.
        unsafe { write_to(log, level, errno, message) };
    }
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
