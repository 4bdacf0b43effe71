//! The response of a server, when all of it has come.

use ngx::ffi::ngx_http_request_t;

use crate::nginx::conf::Variable;
use crate::nginx::run::{ResponseHead, fields};

/// Says why a response does not pass.
pub(super) type Judge = Box<dyn FnOnce(&UpstreamResponse<'_>) -> Result<(), String>>;

/// A response, and the request that it answers.
///
/// # Invariants
///
/// `r` is open for `'a`, and has the response of an upstream server.
pub struct UpstreamResponse<'a> {
    r: *mut ngx_http_request_t,
    body: &'a [u8],
}

impl<'a> UpstreamResponse<'a> {
    /// # Safety
    ///
    /// `r` is open for `'a`, and has an upstream.
    pub(super) unsafe fn of(r: *mut ngx_http_request_t, body: &'a [u8]) -> Self {
        // INVARIANT: the caller's promise.
        Self { r, body }
    }

    fn head(&self) -> ResponseHead<'_> {
        // SAFETY: the invariant; what variables evaluate changes no header of the server's.
        unsafe { ResponseHead::of(self.r) }
    }

    /// Its status; 0 if it was none of HTTP.
    pub fn status(&self) -> u16 {
        self.head().status()
    }

    /// Its headers as the server sent them, those too that nginx does not hand on.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.head().headers()
    }

    /// The trailers behind its body.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // SAFETY: the invariant.
        let upstream = unsafe { (*self.r).upstream };
        // SAFETY: as above; ends with the answer.
        let upstream = unsafe { &*upstream };
        // SAFETY: the list was made with that of the headers.
        unsafe { fields(&upstream.headers_in.trailers) }
    }

    /// The first bytes of its body.
    pub fn body(&self) -> &[u8] {
        self.body
    }

    /// The value of a variable now; empty if it has none.
    pub fn variable(&self, variable: Variable) -> Vec<u8> {
        // SAFETY: the invariant.
        unsafe { variable.evaluate(self.r) }
    }
}
