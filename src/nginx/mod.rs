//! The nginx layer: everything that names nginx's types or is called by nginx.
//!
//! Safe on the outside. Nothing in here knows of timers as a feature; it offers directives,
//! variables, events, processes, logs and one primitive: *run this location now, without a client,
//! and tell how it ended* ([`request::start`]).
//!
//! SAFETY comments cite the facts of SAFETY.md (`HOST-n`, `RUN-n`) or an invariant that stands
//! beside its type.

pub mod access;
pub mod bell;
mod bits;
pub mod conf;
mod connection;
mod cycle;
pub mod event;
mod frame;
mod guard;
pub mod handler;
mod layout;
pub mod location;
pub mod log;
mod message;
pub mod module;
#[cfg(feature = "panic-points")]
mod panics;
mod pool;
pub mod process;
pub mod read;
mod reply;
pub mod request;
pub mod response;
mod stat;
pub mod text;
pub mod trial;
mod uri;
pub mod variable;
pub mod zone;

use ngx::ffi::ngx_str_t;

/// nginx's return codes, with the type that its functions have (`src/core/ngx_core.h`).
mod rc {
    use ngx::ffi::ngx_int_t;

    pub(super) const OK: ngx_int_t = 0;
    pub(super) const ERROR: ngx_int_t = -1;
    pub(super) const AGAIN: ngx_int_t = -2;
    pub(super) const DONE: ngx_int_t = -4;
    pub(super) const DECLINED: ngx_int_t = -5;
    /// `NGX_HTTP_REQUEST_TIME_OUT`.
    pub(super) const REQUEST_TIME_OUT: ngx_int_t = 408;
    /// `NGX_HTTP_SERVICE_UNAVAILABLE`.
    pub(super) const SERVICE_UNAVAILABLE: ngx_int_t = 503;
    /// `NGX_HTTP_INTERNAL_SERVER_ERROR`.
    pub(super) const INTERNAL_SERVER_ERROR: ngx_int_t = 500;
    /// `NGX_HTTP_CLOSE`: nginx closes the connection without an answer.
    pub(super) const CLOSE: ngx_int_t = 444;
}

/// The bytes of a string of nginx's.
///
/// # Safety
///
/// `string` holds `len` initialized bytes that live and stay unchanged for `'a`, or its length is
/// zero.
unsafe fn bytes<'a>(string: ngx_str_t) -> &'a [u8] {
    if string.len == 0 || string.data.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise; a length of zero was dealt with.
    unsafe { std::slice::from_raw_parts(string.data, string.len) }
}

/// `bytes` as a string of nginx's, which must not outlive them nor be written through.
fn borrowed(bytes: &[u8]) -> ngx_str_t {
    ngx_str_t { len: bytes.len(), data: bytes.as_ptr().cast_mut() }
}
