//! Content handlers: answers to clients' requests.

use ngx::ffi::{ngx_http_handler_pt, ngx_http_request_t, ngx_int_t};

use super::client_request::ClientRequest;
use super::reply;
use super::response::Answer;
use crate::nginx::conf::location::Location;
use crate::nginx::conf::parsing::Parsing;
use crate::nginx::core::guard::guard;
use crate::nginx::core::module::Module;
use crate::nginx::core::rc;
use crate::nginx::core::turn;
use crate::os::memory;

/// What answers the requests of a location.
pub trait Handler: 'static {
    /// The module whose handler it is.
    type Module: Module;

    /// Answers; the request's body, if there is one, is dropped.
    fn answer(request: &ClientRequest<'_>) -> Answer;
}

/// A block for which configuration is inherited.
pub struct Block(Location);

impl Block {
    pub(in crate::nginx) fn new(location: Location) -> Self {
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
    turn::begin_slot();
    // SAFETY: as above; the view ends before nginx is called.
    let answer = guard(None, || Some(H::answer(&unsafe { ClientRequest::new(r) })));
    let Some(answer) = answer else { return rc::INTERNAL_SERVER_ERROR };
    // SAFETY: as above; the request is in its content handler.
    unsafe { reply::begin::<H::Module>(r, answer) }
}
