//! What the nginx layer itself does within a run.

use ngx::ffi::{ngx_http_request_t, ngx_uint_t};

use crate::nginx::core::as_any::AsAny;

/// Has to do with the request of a run while it is processed. Such a run goes from the rewrite phase
/// to the content phase at once.
pub(in crate::nginx) trait Inside: AsAny {
    /// The content handler is about to be called.
    ///
    /// # Safety
    ///
    /// `r` is the run's main request, which is open.
    unsafe fn before_content(&self, r: *mut ngx_http_request_t);

    /// The content handler has settled what it passes to, in `r->upstream`, and nothing has been
    /// looked up or contacted. If it answers false, nothing will be. Not called for handlers that
    /// do not read the request's body.
    ///
    /// # Safety
    ///
    /// As above.
    unsafe fn before_upstream(&self, r: *mut ngx_http_request_t) -> bool;

    /// Whether it ends when the worker is told to quit.
    fn leaves(&self) -> bool {
        true
    }

    /// Whether the request is logged as any other of its location.
    fn is_logged(&self) -> bool {
        true
    }

    /// A line for the error log: what was found, and while doing what. Answers with which level it
    /// is written.
    fn line(&self, level: ngx_uint_t, message: &[u8]) -> ngx_uint_t;
}
