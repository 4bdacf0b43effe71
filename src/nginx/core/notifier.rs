//! Calls back when another process has signalled an eventfd.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::num::NonZeroU64;
use std::ptr;
use std::rc::Rc;

use ngx::ffi::{ngx_close_connection, ngx_connection_t, ngx_event_t, ngx_get_connection};

use super::cycle;
use super::guard::guard;
use super::log::Log;
use super::rc;
use crate::os::EventFd;

/// Has nginx watch an eventfd for this process; dropping it stops that.
///
/// nginx takes its connection for one of its own channels: it neither holds up the exit of a worker
/// nor is it complained of there (NOTIFIER-1).
pub struct Notifier(Rc<NotifierNode>);

/// # Invariants
///
/// `connection` is one of nginx's on `eventfd`, a descriptor of our own, and its `data` points to
/// this node; it is closed, and null, before the node is gone.
struct NotifierNode {
    connection: Cell<*mut ngx_connection_t>,
    eventfd: EventFd,
    callback: RefCell<Box<dyn FnMut(NonZeroU64)>>,
}

impl Notifier {
    /// Has `callback` called when `eventfd` was signalled, with the number of times; `None` if there
    /// is no free connection or descriptor.
    pub fn new(eventfd: &EventFd, callback: impl FnMut(NonZeroU64) + 'static) -> Option<Self> {
        if cycle::in_use(|cycle| cycle.free_connection_n) == 0 {
            // `ngx_get_connection` would write an alert, or close somebody's (RUN-1).
            return None;
        }
        let eventfd = eventfd.try_clone().ok()?;
        let log = Log::cycle().as_ptr();
        // SAFETY: an open descriptor; the log lives as long as the cycle.
        let c = unsafe { ngx_get_connection(eventfd.descriptor(), log) };
        if c.is_null() {
            return None;
        }
        let node = Rc::new(NotifierNode {
            connection: Cell::new(c),
            eventfd,
            callback: RefCell::new(Box::new(callback)),
        });
        {
            // SAFETY: a fresh connection; ends before nginx is called.
            let connection = unsafe { &mut *c };
            connection.data = Rc::as_ptr(&node).cast_mut().cast::<c_void>();
            connection.set_shared(1);
            for event in [connection.read, connection.write] {
                // SAFETY: a connection of nginx's has its two events.
                let event = unsafe { &mut *event };
                event.log = log;
                event.set_channel(1);
                event.handler = Some(on_event);
            }
        }
        let watching = Self(node);
        // SAFETY: a connection of ours.
        let read = unsafe { (*c).read };
        // SAFETY: asks the event method, whichever it is, to report when it is readable.
        let asked = unsafe { ngx::ffi::ngx_handle_read_event(read, 0) };
        (asked == rc::OK).then_some(watching)
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // INVARIANT: null from here on.
        let c = self.0.connection.replace(ptr::null_mut());
        if c.is_null() || !cycle::is_there() {
            return;
        }
        // SAFETY: a connection of ours, which is open.
        let read = unsafe { (*c).read };
        // SAFETY: as above.
        if unsafe { (*read).active() } != 0 {
            // SAFETY: as above.
            unsafe { stop_watching(c, read) };
        }
        // SAFETY: as above; it is shared, so that its descriptor is left to us.
        unsafe { ngx_close_connection(c) };
    }
}

/// Takes an open connection of ours out of the event method (NOTIFIER-2): closing its descriptor does
/// not, since the eventfd has others.
///
/// # Safety
///
/// An open connection of ours, and its read event.
unsafe fn stop_watching(c: *mut ngx_connection_t, read: *mut ngx_event_t) {
    // SAFETY: HOST-1: one thread; set by the event method.
    if let Some(remove) = unsafe { ngx::ffi::ngx_event_actions.del_conn } {
        // SAFETY: the caller's connection, which the event method knows.
        unsafe { remove(c, 0) };
        return;
    }
    // Level-triggered methods take an event away that is active and ready.
    // SAFETY: the caller's connection.
    unsafe { (*read).set_ready(1) };
    let close = ngx::ffi::NGX_CLOSE_EVENT as usize;
    // SAFETY: as above.
    unsafe { ngx::ffi::ngx_handle_read_event(read, close) };
}

unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: nginx calls a handler with its own event, whose data is the connection.
    let c = unsafe { (*event).data }.cast::<ngx_connection_t>();
    // SAFETY: as above.
    let node = unsafe { (*c).data }.cast_const().cast::<NotifierNode>();
    // SAFETY: the invariant: the connection is open, so the node is there.
    unsafe { Rc::increment_strong_count(node) };
    // SAFETY: the count was raised for this very `Rc`.
    let node = unsafe { Rc::from_raw(node) };
    // SAFETY: nobody else has the event now.
    unsafe { (*event).set_ready(0) };
    let signalled = node.eventfd.take();
    guard((), || {
        let Some(times) = signalled else { return };
        if let Ok(mut callback) = node.callback.try_borrow_mut() {
            callback(times);
        }
    });
    let c = node.connection.get();
    if !c.is_null() {
        // SAFETY: a connection of ours.
        let read = unsafe { (*c).read };
        // A level-triggered method goes on by itself, another one needs to know.
        // SAFETY: as in `new`.
        unsafe { ngx::ffi::ngx_handle_read_event(read, 0) };
    }
    // Its callback, if this is the last that has it.
    guard((), || drop(node));
}
