//! The connection of a run, which leads nowhere.
//!
//! The connection is one of nginx's own, on one end of a socket pair that all runs of a worker
//! share. Its `send_chain` takes what nginx's filters hand over and forgets it; nothing is ever
//! read. RUN-1 to RUN-6.

use std::ffi::{c_char, c_void};
use std::fmt::Write;
use std::mem;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use ngx::ffi::{
    ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_event_t, ngx_http_addr_conf_t,
    ngx_http_connection_t, ngx_http_finalize_request, ngx_http_log_ctx_t, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_log_t, off_t, sockaddr_in, u_char,
};

use super::buffer::size;
use super::inside::Inside;
use super::request::Access;
use super::state::{Origin, RunState};
use crate::nginx::conf::location::Location;
use crate::nginx::core::guard::guard;
use crate::nginx::core::string::borrowed;
use crate::nginx::core::text::Text;
use crate::nginx::core::{bits, rc};

/// Lives in the pool of a run's connection, and is what the connection's log leads to.
///
/// # Invariants
///
/// Begins with what nginx expects behind the log of an http connection. `state` is a strong
/// reference, given up by the cleanup of the connection's pool, and null from then on.
#[repr(C)]
pub(in crate::nginx) struct RunConnection {
    http: ngx_http_log_ctx_t,
    state: *const RunState,
    pub(super) log: ngx_log_t,
    /// The log that captured lines are written to.
    pub(super) passed: ngx_log_t,
    /// How much the context that was written last has behind the action.
    pub(super) context: usize,
    connection: ngx_http_connection_t,
    address: ngx_http_addr_conf_t,
    buffer: ngx_buf_t,
    socket_address: sockaddr_in,
}

const ADDRESS: &[u8] = b"127.0.0.1";
/// As the kernel has it in a `sockaddr_in`.
const AF_INET: u16 = 2;
/// `sizeof(struct sockaddr_in)`.
const ADDRESS_SIZE: u32 = 16;
const _: () = assert!(size_of::<sockaddr_in>() == 16 && libc::AF_INET == 2);

impl RunConnection {
    /// Furnishes the fresh connection `c` with all that nginx's request code looks at.
    ///
    /// # Safety
    ///
    /// `c` was just got from nginx, has a pool, and `run` is zeroed memory in it, whose cleanup
    /// calls [`release`].
    pub(super) unsafe fn furnish(
        run: *mut Self,
        c: *mut ngx_connection_t,
        location: Location,
        state: Rc<RunState>,
    ) {
        // SAFETY: the caller's promise; ends before nginx is called.
        let this = unsafe { &mut *run };
        // SAFETY: as above.
        let connection = unsafe { &mut *c };

        this.http.connection = c;
        // INVARIANT: the strong reference that `release` gives up.
        this.state = Rc::into_raw(state);

        // SAFETY: the location's log lives as long as its cycle.
        this.log = unsafe { location.log().as_ptr().read() };
        this.log.handler = Some(LOG_HANDLER);
        this.log.data = run.cast();
        this.log.action = ptr::null_mut();

        this.address.default_server = location.server_ptr();
        this.connection.addr_conf = &raw mut this.address;
        // SAFETY: `start` has seen that it is there.
        this.connection.conf_ctx = unsafe { location.server() }.ctx;

        this.socket_address.sin_family = AF_INET;
        this.socket_address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);

        connection.log = &raw mut this.log;
        connection.data = (&raw mut this.connection).cast();
        connection.buffer = &raw mut this.buffer;
        connection.sockaddr = (&raw mut this.socket_address).cast();
        connection.socklen = ADDRESS_SIZE;
        connection.local_sockaddr = connection.sockaddr;
        connection.local_socklen = connection.socklen;
        connection.addr_text = borrowed(ADDRESS);

        connection.recv = Some(receive);
        connection.recv_chain = Some(receive_chain);
        connection.send = Some(send);
        connection.send_chain = Some(sink);

        connection.set_shared(1);
        connection.set_need_last_buf(1);
        connection.set_log_error(ngx::ffi::ngx_connection_log_error_e_NGX_ERROR_INFO);
        connection.set_tcp_nodelay(ngx::ffi::ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_DISABLED);
        connection.set_tcp_nopush(ngx::ffi::ngx_connection_tcp_nopush_e_NGX_TCP_NOPUSH_DISABLED);

        // SAFETY: a connection of nginx's has its two events, made with the cycle.
        let read = unsafe { &mut *connection.read };
        // SAFETY: as above.
        let write = unsafe { &mut *connection.write };
        read.log = &raw mut this.log;
        write.log = &raw mut this.log;
        read.handler = Some(on_event);
        write.handler = Some(on_event);
        read.set_active(1);
        read.set_eof(1);
        // SAFETY: HOST-1: one thread; set when the event method is initialized.
        let level = unsafe { ngx::ffi::ngx_event_flags } & LEVEL_EVENT != 0;
        write.set_active(u32::from(!level));
        write.set_ready(1);
    }
}

/// `NGX_USE_LEVEL_EVENT`: such methods would take a ready and active write event away (RUN-2).
const LEVEL_EVENT: usize = ngx::ffi::NGX_USE_LEVEL_EVENT as usize;

/// What [`RunConnection::of`] knows a run by. A static, so that there is one address.
static LOG_HANDLER: unsafe extern "C" fn(*mut ngx_log_t, *mut u_char, usize) -> *mut u_char =
    write_context;

impl RunConnection {
    /// The run of a connection, if a run of ours is on it.
    ///
    /// # Safety
    ///
    /// `c` is an open http connection.
    pub(super) unsafe fn of(c: *mut ngx_connection_t) -> Option<NonNull<Self>> {
        // SAFETY: the caller's promise.
        let log = unsafe { (*c).log };
        // SAFETY: an open connection has a log.
        unsafe { Self::of_log(log) }
    }

    /// The run that a log leads to, if a run of ours does that.
    ///
    /// # Safety
    ///
    /// `log` is that of an open connection.
    pub(super) unsafe fn of_log(log: *mut ngx_log_t) -> Option<NonNull<Self>> {
        // SAFETY: the caller's promise.
        let handler = unsafe { (*log).handler }?;
        if !ptr::fn_addr_eq(handler, LOG_HANDLER) {
            return None;
        }
        // SAFETY: as above.
        let data = unsafe { (*log).data };
        NonNull::new(data.cast())
    }

    /// The run on the connection of `r`, if one of ours is.
    ///
    /// # Safety
    ///
    /// `r` is an open request.
    pub(super) unsafe fn state_of(r: *mut ngx_http_request_t) -> Option<Rc<RunState>> {
        // SAFETY: the caller's promise.
        let c = unsafe { (*r).connection };
        // SAFETY: an open request has an open connection.
        let run = unsafe { Self::of(c) }?;
        // SAFETY: the run of an open connection.
        unsafe { Self::state(run) }
    }

    /// What the nginx layer does within the run that `r` belongs to.
    ///
    /// # Safety
    ///
    /// `r` is an open request.
    pub(in crate::nginx) unsafe fn inside_of(r: *mut ngx_http_request_t) -> Option<Rc<dyn Inside>> {
        // SAFETY: the caller's promise.
        unsafe { Self::state_of(r) }?.inside()
    }

    /// What the run shares with its starter; `None` once the connection's pool is going.
    ///
    /// # Safety
    ///
    /// `run` is in a pool that was not yet given back.
    pub(super) unsafe fn state(run: NonNull<Self>) -> Option<Rc<RunState>> {
        // SAFETY: the caller's promise.
        let state = unsafe { (*run.as_ptr()).state };
        if state.is_null() {
            return None;
        }
        // SAFETY: the invariant: it holds a strong reference.
        unsafe { Rc::increment_strong_count(state) };
        // SAFETY: the count was raised for this very `Rc`.
        Some(unsafe { Rc::from_raw(state) })
    }

    /// The origin and the access rule of the run that `r` belongs to, if it does to one.
    ///
    /// # Safety
    ///
    /// `r` is an open request.
    pub(in crate::nginx) unsafe fn run_of(
        r: *mut ngx_http_request_t,
    ) -> Option<(Rc<dyn Origin>, Access)> {
        // SAFETY: the caller's promise.
        let c = unsafe { (*r).connection };
        // SAFETY: an open request has an open connection.
        let run = unsafe { Self::of(c) }?;
        // SAFETY: the run of an open connection.
        let state = unsafe { Self::state(run) }?;
        Some((state.origin(), state.access()))
    }

    /// Makes `r` the context of the next log lines, as `ngx_http_set_log_request` does.
    ///
    /// # Safety
    ///
    /// The run's connection is open, and `r` is a request on it.
    pub(super) unsafe fn set_log_request(run: NonNull<Self>, r: *mut ngx_http_request_t) {
        // SAFETY: the caller's promise.
        unsafe { (*run.as_ptr()).http.current_request = r };
    }
}

/// The cleanup of a run's connection pool.
pub(super) unsafe extern "C" fn release(run: *mut c_void) {
    guard((), || {
        let run = run.cast::<RunConnection>();
        // SAFETY: the cleanup's data is the run, whose memory is given back after it.
        let run = unsafe { &mut *run };
        let state = mem::replace(&mut run.state, ptr::null());
        if !state.is_null() {
            // SAFETY: the invariant: this is the strong reference that it holds.
            drop(unsafe { Rc::from_raw(state) });
        }
    });
}

/// The context of a run's log lines, as `ngx_http_log_error` writes that of a client's request.
unsafe extern "C" fn write_context(
    log: *mut ngx_log_t,
    buffer: *mut u_char,
    room: usize,
) -> *mut u_char {
    guard(buffer, || {
        let mut text = Text::<512>::new();
        // SAFETY: nginx calls a log's handler with this log.
        let action = unsafe { (*log).action };
        if !action.is_null() {
            text.push(b" while ");
            // SAFETY: actions are C strings.
            text.push(unsafe { std::ffi::CStr::from_ptr(action.cast::<c_char>()) }.to_bytes());
        }
        let action_len = text.as_bytes().len();
        // SAFETY: as above; the handler is ours, so the data is a run.
        let run = unsafe { (*log).data }.cast::<RunConnection>();
        let Some(run) = NonNull::new(run) else { return buffer };
        // SAFETY: the log and the run are in one pool.
        if let Some(state) = unsafe { RunConnection::state(run) } {
            let _ = text.write_str(", ");
            let _ = state.origin().write_context(&mut text);
        }

        let len = text.as_bytes().len().min(room);
        let behind_action = buffer.wrapping_add(action_len.min(len));
        let measured = |end: *mut u_char| {
            let context = end.addr().saturating_sub(behind_action.addr());
            // SAFETY: as before.
            unsafe { (*run.as_ptr()).context = context };
            end
        };
        // SAFETY: the buffer has `room` bytes, and is none of ours.
        unsafe { ptr::copy_nonoverlapping(text.as_bytes().as_ptr(), buffer, len) };
        let (buffer, room) = (buffer.wrapping_add(len), room - len);

        // SAFETY: as before.
        let http = unsafe { (*run.as_ptr()).http };
        let r = http.request;
        if r.is_null() {
            return measured(buffer);
        }
        // SAFETY: nginx resets the pointer when the request ends (`ngx_http_free_request`).
        let Some(handler) = (unsafe { (*r).log_handler }) else { return measured(buffer) };
        // SAFETY: nginx's own `ngx_http_log_error_handler`, called as it calls it itself.
        measured(unsafe { handler(r, http.current_request, buffer, room) })
    })
}

/// What `ngx_http_request_handler` does for a client's connection.
unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    guard((), || {
        // SAFETY: nginx calls a handler with its own event, whose data is the connection.
        let c = unsafe { (*event).data }.cast::<ngx_connection_t>();
        // SAFETY: as above; between creation and end the data of our connections is a request.
        let r = unsafe { (*c).data }.cast::<ngx_http_request_t>();
        // SAFETY: an open connection of ours.
        if let Some(run) = unsafe { RunConnection::of(c) } {
            // SAFETY: as above.
            unsafe { RunConnection::set_log_request(run, r) };
        }
        // SAFETY: as above.
        if unsafe { (*c).close() } != 0 {
            // `worker_shutdown_timeout` has run out (`ngx_shutdown_timer_handler`).
            // SAFETY: an open request on an open connection of ours.
            unsafe { cut_off(r) };
            return;
        }
        {
            // SAFETY: nobody else has the event now; ends before nginx is called.
            let event = unsafe { &mut *event };
            if event.delayed() != 0 && event.timedout() != 0 {
                event.set_delayed(0);
                event.set_timedout(0);
            }
        }
        // SAFETY: as above.
        let handler = if unsafe { (*event).write() } != 0 {
            // SAFETY: an open request.
            unsafe { (*r).write_event_handler }
        } else {
            // SAFETY: an open request.
            unsafe { (*r).read_event_handler }
        };
        if let Some(handler) = handler {
            // SAFETY: nginx's own handler of this request.
            unsafe { handler(r) };
        }
        // SAFETY: looks at `destroyed` first, as after each event of a client's.
        unsafe { ngx_http_run_posted_requests(c) };
    });
}

/// Takes all that the filters hand over; notes the response's last buffer.
unsafe extern "C" fn sink(
    c: *mut ngx_connection_t,
    mut chain: *mut ngx_chain_t,
    _: off_t,
) -> *mut ngx_chain_t {
    let failed = ptr::without_provenance_mut(usize::MAX);
    guard(failed, || {
        let mut sent: off_t = 0;
        let mut complete = false;
        while !chain.is_null() {
            // SAFETY: nginx passes a chain of links, closed by null.
            let link = unsafe { chain.read() };
            // SAFETY: a link has a buffer; ours alone until we answer.
            let buffer = unsafe { &mut *link.buf };
            sent += size(buffer);
            buffer.pos = buffer.last;
            buffer.file_pos = buffer.file_last;
            complete |= buffer.last_buf() != 0;
            chain = link.next;
        }
        // SAFETY: the connection that the chain is sent on.
        unsafe { (*c).sent += sent };
        if complete {
            // SAFETY: only connections of ours have this function.
            if let Some(run) = unsafe { RunConnection::of(c) } {
                // SAFETY: the connection is open.
                if let Some(state) = unsafe { RunConnection::state(run) } {
                    state.complete();
                }
            }
        }
        ptr::null_mut()
    })
}

/// There is no client to read from.
unsafe extern "C" fn receive(_: *mut ngx_connection_t, _: *mut u_char, _: usize) -> isize {
    guard(rc::ERROR, || rc::AGAIN)
}

/// There is no client to read from.
unsafe extern "C" fn receive_chain(
    _: *mut ngx_connection_t,
    _: *mut ngx_chain_t,
    _: off_t,
) -> isize {
    guard(rc::ERROR, || rc::AGAIN)
}

/// There is no client to write to; what is written is taken and forgotten.
unsafe extern "C" fn send(c: *mut ngx_connection_t, _: *mut u_char, size: usize) -> isize {
    guard(rc::ERROR, || {
        // SAFETY: the connection that is written to.
        unsafe { (*c).sent += off_t::try_from(size).unwrap_or(0) };
        isize::try_from(size).unwrap_or(isize::MAX)
    })
}

/// Ends the request that `r` belongs to (RUN-12): any other code than 444 would go through
/// `error_page` or `post_action`, and the run would go on.
///
/// # Safety
///
/// `r` is an open request of a run.
pub(super) unsafe fn cut_off(r: *mut ngx_http_request_t) {
    // SAFETY: the caller's promise.
    let c = unsafe { (*r).connection };
    // SAFETY: as above.
    let main = unsafe { (*r).main };
    // An error noted before would lead to `post_action`.
    // SAFETY: as above.
    unsafe { (*c).set_error(0) };
    // SAFETY: as above.
    if let Some(run) = unsafe { RunConnection::of(c) } {
        // SAFETY: as above.
        unsafe { RunConnection::set_log_request(run, main) };
    }
    {
        // SAFETY: as above; ends before nginx is called.
        let main = unsafe { &mut *main };
        if !main.cleanup.is_null() {
            // A cleanup may give the last reference back, in the middle of its list.
            bits::set_count(main, bits::count(main) + 1);
        }
    }
    // SAFETY: as nginx does for a client whose connection it closes (RUN-12).
    unsafe { ngx_http_finalize_request(main, rc::CLOSE) };
    // SAFETY: looks at `destroyed` first.
    unsafe { ngx_http_run_posted_requests(c) };
}
