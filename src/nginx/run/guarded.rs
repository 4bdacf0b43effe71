//! A guarded run asks before each connection to a server whether it goes on (RUN-22).

use std::ffi::c_void;
use std::ptr::NonNull;

use ngx::ffi::{ngx_http_request_t, ngx_int_t, ngx_peer_connection_t};

use super::connection::RunConnection;
use crate::nginx::core::guard::guard;
use crate::nginx::core::{bits, rc};

/// Has the guard of the run that `r` belongs to, if it has one, asked before each connection.
///
/// # Safety
///
/// `r` is an open request that has an upstream, whose balancer has just begun with it.
pub(in crate::nginx) unsafe fn watch(r: *mut ngx_http_request_t) {
    // SAFETY: the caller's promise.
    let Some(state) = (unsafe { RunConnection::state_of(r) }) else { return };
    if !state.is_guarded() {
        return;
    }
    // SAFETY: as above.
    let upstream = unsafe { (*r).upstream };
    // SAFETY: as above; ends here.
    let peer = unsafe { &mut (*upstream).peer };
    state.get_of_balancer().set(peer.get.replace(get));
}

/// In the place of the balancer's own function, which it calls.
unsafe extern "C" fn get(peer: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    let balancer = guard(None, || {
        // SAFETY: nginx calls it with the peer of an open request.
        let log = unsafe { (*peer).log };
        // SAFETY: RUN-22: that of the request's connection.
        let run = unsafe { RunConnection::of_log(log) }?;
        // SAFETY: the run of an open connection.
        let state = unsafe { RunConnection::state(run) }?;
        if !state.goes_on() {
            if let Some(r) = NonNull::new(state.request()) {
                // No error page follows: the filter of the module's ends the run.
                // SAFETY: the invariant: it is open; ends before nginx is called.
                bits::set_error_page(unsafe { &mut *r.as_ptr() }, 1);
            }
            return None;
        }
        state.get_of_balancer().get()
    });
    match balancer {
        // SAFETY: the balancer's own, called as nginx calls it, with its own data.
        Some(balancer) => unsafe { balancer(peer, data) },
        None => rc::ERROR,
    }
}
