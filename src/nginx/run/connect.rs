//! Gets the connection of a run from nginx and gives it what a run needs.

use std::cell::OnceCell;
use std::ptr;
use std::rc::Rc;

use ngx::core::Pool;
use ngx::ffi::{
    ngx_atomic_uint_t, ngx_close_connection, ngx_connection_t, ngx_create_pool, ngx_get_connection,
    ngx_pool_t,
};

use super::connection::{self, RunConnection};
use super::request::StartError;
use super::state::RunState;
use crate::nginx::conf::location::Location;
use crate::nginx::core::log::Log;
use crate::nginx::core::{cycle, gauges, pool};
use crate::os::SocketPair;

thread_local! {
    /// The socket pair that all runs of this worker share.
    static SOCKETS: OnceCell<SocketPair> = const { OnceCell::new() };
}

/// Makes what all runs of this process share; called when it begins its work.
pub(in crate::nginx) fn prepare() {
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

/// Whether the socket that all runs share is still open, as no run may leave it otherwise.
pub(super) fn socket_is_open() -> bool {
    SOCKETS.with(|sockets| sockets.get().is_some_and(SocketPair::is_open))
}

/// How many connections nginx has left.
pub(super) fn free_connections() -> usize {
    cycle::in_use(|cycle| cycle.free_connection_n)
}

/// Whether nginx can have another connection.
pub(in crate::nginx) fn has_free_connection() -> bool {
    free_connections() > 0 || cycle::in_use(|cycle| cycle.reusable_connections_n) > 0
}

/// A connection that leads nowhere, furnished for `location`.
pub(super) fn connect(
    location: Location,
    state: Rc<RunState>,
) -> Result<*mut ngx_connection_t, StartError> {
    if !has_free_connection() {
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

    // SAFETY: `start` has seen that it is there.
    let size = unsafe { location.server() }.connection_pool_size;
    // SAFETY: the log lives as long as the cycle.
    let pool = unsafe { ngx_create_pool(size, Log::cycle().as_ptr()) };
    // SAFETY: the new pool.
    let run = if pool.is_null() { ptr::null_mut() } else { unsafe { room_in(pool) } };
    if run.is_null() {
        // SAFETY: a connection that is in no queue yet.
        unsafe { ngx_close_connection(c) };
        if !pool.is_null() {
            // SAFETY: a pool that nobody else knows of.
            unsafe { ngx::ffi::ngx_destroy_pool(pool) };
        }
        return Err(StartError::NoMemory);
    }

    // SAFETY: a fresh connection.
    unsafe { (*c).pool = pool };
    // SAFETY: as `furnish` wants it.
    unsafe { RunConnection::furnish(run, c, location, state) };
    // SAFETY: furnished just now.
    let log = unsafe { (*c).log };
    // SAFETY: the pool is ours; its log lives in it, as that of a client's connection does.
    unsafe { (*pool).log = log };
    // SAFETY: HOST-1: one thread; set by the event module for each worker.
    let counter = unsafe { ngx::ffi::ngx_connection_counter };
    // SAFETY: a counter of nginx's.
    let number = unsafe { gauges::count(counter.cast(), 1) };
    // SAFETY: HOST-1: one thread.
    let now = unsafe { ngx::ffi::ngx_current_msec };
    // SAFETY: a connection of ours; ends before nginx is called.
    let connection = unsafe { &mut *c };
    connection.number = number.wrapping_add(1) as ngx_atomic_uint_t;
    connection.start_time = now;
    // SAFETY: the connection's log is ours.
    unsafe { (*connection.log).connection = connection.number };
    gauges::ACTIVE.increment();
    Ok(c)
}

/// Zeroed room for a [`RunConnection`], whose cleanup is registered; null without memory.
///
/// # Safety
///
/// A pool that is there.
unsafe fn room_in(pool: *mut ngx_pool_t) -> *mut RunConnection {
    // SAFETY: the caller's promise; HOST-13: may be null.
    let run = unsafe { Pool::from_ngx_pool(pool) }.calloc(size_of::<RunConnection>());
    if run.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: as above; the run lives as long as the pool.
    if unsafe { pool::on_destroy(pool, connection::release, run) }.is_none() {
        return ptr::null_mut();
    }
    run.cast()
}
