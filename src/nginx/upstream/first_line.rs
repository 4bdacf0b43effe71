//! The first line of a response is read when all of it has come.
//!
//! The uwsgi and SCGI modules take it for a status line, and else for a header, which they read in the state in
//! which the first attempt has ended: after a piece of a line that is a wrong one (RUN-21).

use ngx::ffi::{ngx_http_request_t, ngx_int_t};

use super::pin::Pin;
use crate::nginx::core::guard::guard;
use crate::nginx::core::rc;
use crate::nginx::core::string::bytes;

/// The schemas of the modules that read it so.
const SCHEMAS: [&[u8]; 3] = [b"uwsgi://", b"suwsgi://", b"scgi://"];

/// Stands before the module's `process_header`, which `pin` keeps, if the module reads it so.
///
/// # Safety
///
/// `r` is an open request that has an upstream, and whose server is pinned by `pin`.
pub(super) unsafe fn wait_for(pin: &Pin, r: *mut ngx_http_request_t) {
    // SAFETY: the caller's promise.
    let upstream = unsafe { (*r).upstream };
    // SAFETY: as above; ends here.
    let upstream = unsafe { &mut *upstream };
    // SAFETY: a constant of the module's.
    let schema = unsafe { bytes(upstream.schema) };
    if SCHEMAS.contains(&schema) {
        pin.process_header.set(upstream.process_header.replace(process_header));
    }
}

/// Has nginx wait for the rest of the line; for a line that is too long it has an error of its own.
unsafe extern "C" fn process_header(r: *mut ngx_http_request_t) -> ngx_int_t {
    let module = guard(Err(rc::ERROR), || {
        // SAFETY: nginx calls it with the open request whose upstream has it.
        let pin = unsafe { Pin::of(r) }.ok_or(rc::ERROR)?;
        // SAFETY: as above.
        let upstream = unsafe { (*r).upstream };
        // SAFETY: as above; ends before nginx is called.
        let upstream = unsafe { &mut *upstream };
        let buffer = &upstream.buffer;
        let len = buffer.last.addr().saturating_sub(buffer.pos.addr());
        // SAFETY: what has come of the response lies between these two.
        let come = unsafe { std::slice::from_raw_parts(buffer.pos, len) };
        if !come.contains(&b'\n') {
            return Err(rc::AGAIN);
        }
        let module = pin.process_header.take().ok_or(rc::ERROR)?;
        upstream.process_header = Some(module);
        Ok(module)
    });
    match module {
        // SAFETY: the module's own, called as nginx calls it.
        Ok(module) => unsafe { module(r) },
        Err(answer) => answer,
    }
}
