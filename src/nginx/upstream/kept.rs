//! Connections that are kept from one check of a server to the next.
//!
//! nginx's own cache of connections is the clients', and knows nothing of pinned servers.

use std::cell::RefCell;
use std::io;
use std::ptr;
use std::time::Duration;

use ngx::ffi::{
    ngx_add_timer, ngx_close_connection, ngx_connection_t, ngx_del_timer, ngx_destroy_pool,
    ngx_event_t, ngx_handle_read_event, ngx_http_upstream_t, ngx_log_t, ngx_peer_connection_t,
};

use super::group::Group;
use super::server::SocketAddress;
use crate::nginx::conf::location::Location;
use crate::nginx::core::guard::guard;
use crate::nginx::core::log::Log;
use crate::nginx::core::{process, rc};
use crate::os::memory::push;

/// Whose connections may serve each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptKey {
    pub(super) group: Group,
    pub(super) location: usize,
    pub(super) address: SocketAddress,
}

impl KeptKey {
    pub(super) fn new(group: Group, location: Location, address: SocketAddress) -> Self {
        Self { group, location: location.conf_ptr().addr(), address }
    }
}

/// A connection that waits for the next check.
///
/// # Invariants
///
/// It is open, has a pool, and nobody else has it; [`on_event`] takes it out before it closes it.
struct KeptConnection {
    key: KeptKey,
    connection: *mut ngx_connection_t,
}

thread_local! {
    static KEPT: RefCell<Vec<KeptConnection>> = const { RefCell::new(Vec::new()) };
}

/// Gives `peer` a connection that was kept; `false` if there is none.
///
/// # Safety
///
/// `peer` is that of an open request, about to be connected.
pub(super) unsafe fn take(peer: &mut ngx_peer_connection_t, key: &KeptKey) -> bool {
    let taken = KEPT.with_borrow_mut(|kept| {
        let at = kept.iter().rposition(|kept| kept.key == *key)?;
        Some(kept.swap_remove(at).connection)
    });
    let Some(c) = taken else { return false };
    // SAFETY: the invariant: it is open, and ours; ends before nginx is called.
    let connection = unsafe { &mut *c };
    connection.set_idle(0);
    connection.sent = 0;
    connection.data = ptr::null_mut();
    // SAFETY: as above.
    unsafe { set_log(connection, peer.log) };
    let read = connection.read;
    // SAFETY: as above: with its events.
    if unsafe { (*read).timer_set() } != 0 {
        // SAFETY: it is in the tree.
        unsafe { ngx_del_timer(read) };
    }
    peer.connection = c;
    peer.set_cached(1);
    true
}

/// Keeps the connection of a request that has ended well, for as long as is left of `lasts` since it was
/// opened, if nothing is against it (as `ngx_http_upstream_free_keepalive_peer`).
///
/// # Safety
///
/// `peer` is that of this upstream of an open request.
pub(super) unsafe fn keep(
    peer: &mut ngx_peer_connection_t,
    upstream: *const ngx_http_upstream_t,
    key: &KeptKey,
    lasts: Duration,
) {
    let c = peer.connection;
    if c.is_null() || process::is_leaving() {
        return;
    }
    // SAFETY: the caller's promise; ends here.
    let (keepalive, body_sent) = {
        // SAFETY: as above.
        let upstream = unsafe { &*upstream };
        (upstream.keepalive() != 0, upstream.request_body_sent() != 0)
    };
    // SAFETY: an open connection has its events; ends before nginx is called.
    let connection = unsafe { &mut *c };
    // SAFETY: as above.
    let read = unsafe { &mut *connection.read };
    // SAFETY: as above.
    let write = unsafe { &mut *connection.write };
    let is_broken = read.eof() != 0
        || read.error() != 0
        || read.timedout() != 0
        || write.error() != 0
        || write.timedout() != 0;
    // SAFETY: HOST-1: one thread.
    let now = unsafe { ngx::ffi::ngx_current_msec };
    let lasts = usize::try_from(lasts.as_millis()).unwrap_or(usize::MAX);
    let left = lasts.saturating_sub(now.wrapping_sub(connection.start_time));
    if is_broken || !keepalive || !body_sent || left == 0 {
        return;
    }
    // SAFETY: as above.
    if unsafe { ngx_handle_read_event(connection.read, 0) } != rc::OK {
        return;
    }
    let kept = KeptConnection { key: *key, connection: c };
    // INVARIANT: taken from its peer below.
    if KEPT.with_borrow_mut(|all| push(all, kept)).is_err() {
        return;
    }
    peer.connection = ptr::null_mut();
    read.set_delayed(0);
    // SAFETY: an event of the connection's, which stays where it is.
    unsafe { ngx_add_timer(connection.read, left) };
    if write.timer_set() != 0 {
        // SAFETY: it is in the tree.
        unsafe { ngx_del_timer(connection.write) };
    }
    write.handler = Some(nothing);
    read.handler = Some(on_event);
    connection.data = ptr::null_mut();
    connection.set_idle(1);
    // SAFETY: as above.
    unsafe { set_log(connection, Log::cycle().as_ptr()) };
    if read.ready() != 0 {
        // SAFETY: as nginx calls it.
        unsafe { on_event(connection.read) };
    }
}

/// What nginx does with it while nobody uses it: its server has closed it, its time is over, or the
/// worker leaves.
unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: nginx calls a handler with its own event, whose data is the connection.
        let c = unsafe { (*event).data }.cast::<ngx_connection_t>();
        // SAFETY: the invariant: it is open.
        if unsafe { is_still_good(c) } {
            return;
        }
        // INVARIANT: nobody finds it any more.
        KEPT.with_borrow_mut(|kept| kept.retain(|kept| !ptr::eq(kept.connection, c)));
        // SAFETY: as above, and nobody else has it.
        unsafe { close(c) };
    });
}

/// # Safety
///
/// A connection that is kept.
unsafe fn is_still_good(c: *mut ngx_connection_t) -> bool {
    {
        // SAFETY: the caller's promise; ends before nginx is called.
        let connection = unsafe { &*c };
        // SAFETY: as above: with its events.
        let read = unsafe { &*connection.read };
        if connection.close() != 0 || read.timedout() != 0 {
            return false;
        }
    }
    let mut byte = 0_u8;
    // SAFETY: as above.
    let fd = unsafe { (*c).fd };
    // SAFETY: an open descriptor, and room for one byte.
    let peeked = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
    let errno = io::Error::last_os_error().raw_os_error();
    if peeked != -1 || errno != Some(libc::EAGAIN) {
        return false;
    }
    // SAFETY: as above.
    let read = unsafe { (*c).read };
    // SAFETY: as above.
    unsafe { (*read).set_ready(0) };
    // SAFETY: as above.
    unsafe { ngx_handle_read_event(read, 0) == rc::OK }
}

/// As `ngx_http_upstream_keepalive_close`.
unsafe extern "C" fn close(c: *mut ngx_connection_t) {
    let ended = guard(true, || {
        // SAFETY: the caller's promise: an open connection that nobody else has.
        unsafe { tls::end(c, close) }
    });
    if !ended {
        return;
    }
    // SAFETY: as above.
    let pool = unsafe { (*c).pool };
    // SAFETY: a connection that was kept has one.
    unsafe { ngx_destroy_pool(pool) };
    // SAFETY: as above.
    unsafe { ngx_close_connection(c) };
}

#[cfg(ngx_feature = "http_ssl")]
mod tls {
    use ngx::ffi::{ngx_connection_t, ngx_ssl_shutdown};

    use crate::nginx::core::rc;

    unsafe extern "C" {
        fn ngx_http_timer_end_quietly(c: *mut ngx_connection_t);
    }

    /// Ends TLS without a word; if it has to wait, `then` is called.
    ///
    /// # Safety
    ///
    /// An open connection.
    pub(super) unsafe fn end(
        c: *mut ngx_connection_t,
        then: unsafe extern "C" fn(*mut ngx_connection_t),
    ) -> bool {
        // SAFETY: the caller's promise.
        let ssl = unsafe { (*c).ssl };
        if ssl.is_null() {
            return true;
        }
        // SAFETY: as above.
        unsafe { ngx_http_timer_end_quietly(c) };
        // SAFETY: as above.
        if unsafe { ngx_ssl_shutdown(c) } != rc::AGAIN {
            return true;
        }
        // SAFETY: as above: it is still there.
        unsafe { (*ssl).handler = Some(then) };
        false
    }
}

#[cfg(not(ngx_feature = "http_ssl"))]
mod tls {
    use ngx::ffi::ngx_connection_t;

    pub(super) unsafe fn end(
        _: *mut ngx_connection_t,
        _: unsafe extern "C" fn(*mut ngx_connection_t),
    ) -> bool {
        true
    }
}

/// There is nothing to write.
unsafe extern "C" fn nothing(_: *mut ngx_event_t) {
    guard((), || ());
}

/// # Safety
///
/// An open connection that has a pool; a log that is there for as long as it has it.
unsafe fn set_log(connection: &mut ngx_connection_t, log: *mut ngx_log_t) {
    connection.log = log;
    // SAFETY: the caller's promise.
    unsafe { (*connection.read).log = log };
    // SAFETY: as above.
    unsafe { (*connection.write).log = log };
    // SAFETY: as above.
    unsafe { (*connection.pool).log = log };
}
