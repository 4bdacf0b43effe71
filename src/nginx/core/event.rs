//! nginx's event timers and posted events.
//!
//! ```text
//!            arm                    nginx's clock gets there
//!   idle ───────────> armed ──────────────────────────────> running its callback
//!    ^                  │ cancel, drop                        │
//!    └──────────────────┴──────────── Next::Stop ─────────────┤
//!                       ^                                     │
//!                       └──────────── Next::After(d) ─────────┘
//! ```

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use ngx::ffi::{
    ngx_add_timer, ngx_connection_t, ngx_del_timer, ngx_delete_posted_event, ngx_event_t,
    ngx_post_event, ngx_queue_t,
};

use super::cycle;
use super::guard::{guard, guard_else};
use super::log::silent;
#[cfg(feature = "panic-points")]
use super::panics;

/// What happens after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The callback is called again after this time.
    After(Duration),
    /// It is not called again unless the timer is armed anew.
    Stop,
}

/// Whether an armed timer holds a worker that was told to quit (HOST-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The worker leaves without waiting for the timer.
    Cancelable,
    /// The worker stays until the timer has run out or was cancelled.
    HoldsExit,
}

/// A timer of nginx's event loop; dropping it cancels it.
pub struct EventTimer(NodeOwner);

/// A callback that is to run later in this turn of the event loop; dropping it cancels it.
pub struct Posted(NodeOwner);

/// The one owner of a node; dropping it takes the node out of nginx's tree and queues.
struct NodeOwner(Rc<EventNode>);

enum Callback {
    Timer(Box<dyn FnMut() -> Next>),
    Posted(Box<dyn FnMut()>),
}

/// What nginx's queue and tree link to.
///
/// # Invariants
///
/// The event's `data` points to the node itself, whose address is that of the `Rc`'s content and
/// never changes; the event is in nginx's tree or queue only while its [`NodeOwner`] keeps the node
/// alive; what is posted is in the tree after a panic only. The first fields have the shape of a connection with
/// the descriptor -1, which nginx's debug log reads (HOST-6).
#[repr(C)]
struct EventNode {
    before_fd: [*const c_void; 3],
    fd: c_int,
    event: UnsafeCell<ngx_event_t>,
    callback: RefCell<Option<Callback>>,
    dropped: Cell<bool>,
}

const _: () = assert!(mem::offset_of!(EventNode, fd) == mem::offset_of!(ngx_connection_t, fd));

/// The shortest wait: 0 ms, armed again and again, would starve the event loop (HOST-5).
const SHORTEST_MS: usize = 1;
/// A callback that panicked is called again after this time.
const AFTER_PANIC: Duration = Duration::from_secs(1);

impl EventTimer {
    /// A timer that is not armed yet.
    pub fn new(hold: Hold, callback: impl FnMut() -> Next + 'static) -> Self {
        Self(NodeOwner(EventNode::new(hold, Callback::Timer(Box::new(callback)))))
    }

    /// Has the callback called after `after`, at least 1 ms; replaces what was armed before.
    pub fn arm(&self, after: Duration) {
        self.0.0.arm(after);
    }

    /// Takes it back.
    pub fn cancel(&self) {
        self.0.0.leave();
    }
}

impl Posted {
    /// A callback that is not posted yet.
    pub fn new(callback: impl FnMut() + 'static) -> Self {
        Self(NodeOwner(EventNode::new(Hold::Cancelable, Callback::Posted(Box::new(callback)))))
    }

    /// Has the callback called after the events at hand; once, however often it was posted.
    pub fn post(&self) {
        self.post_to(&raw mut ngx::ffi::ngx_posted_events);
    }

    /// The same in the next turn of the event loop, which does not wait for events: what is posted
    /// while posted events are being run belongs to the same turn.
    pub fn post_next(&self) {
        self.post_to(&raw mut ngx::ffi::ngx_posted_next_events);
    }

    /// Takes it back.
    pub fn cancel(&self) {
        self.0.0.leave();
    }

    fn post_to(&self, queue: *mut ngx_queue_t) {
        // SAFETY: the node's invariant; HOST-1: the queue is this thread's.
        unsafe { ngx_post_event(self.0.0.event.get(), queue) };
    }
}

impl Drop for NodeOwner {
    fn drop(&mut self) {
        if cycle::is_there() {
            self.0.leave();
        }
        self.0.retire();
    }
}

impl EventNode {
    fn new(hold: Hold, callback: Callback) -> Rc<Self> {
        // SAFETY: `ngx_event_t` is plain C data, for which nginx itself takes zeroed memory.
        let mut event: ngx_event_t = unsafe { mem::zeroed() };
        event.handler = Some(on_event);
        // It may be in the tree for longer than any cycle is there.
        event.log = silent();
        event.set_cancelable(u32::from(hold == Hold::Cancelable));

        let node = Rc::new(Self {
            before_fd: [ptr::null(); 3],
            fd: -1,
            event: UnsafeCell::new(event),
            callback: RefCell::new(Some(callback)),
            dropped: Cell::new(false),
        });
        let data = Rc::as_ptr(&node).cast_mut().cast();
        // SAFETY: nobody else knows of the event yet.
        // INVARIANT: the event leads to its own node.
        unsafe { (*node.event.get()).data = data };
        #[cfg(feature = "panic-points")]
        panics::watch(Rc::<Self>::clone(&node), node.event.get());
        node
    }

    fn arm(&self, after: Duration) {
        // HOST-4: a set timer would keep its old deadline if that is near.
        self.leave();
        let after_ms = usize::try_from(after.as_millis()).unwrap_or(usize::MAX / 2);
        // SAFETY: the invariant: the node outlives its place in the tree.
        unsafe { ngx_add_timer(self.event.get(), after_ms.max(SHORTEST_MS)) };
    }

    /// Takes the event out of nginx's tree and of its queues, whatever put it there.
    fn leave(&self) {
        let event = self.event.get();
        // SAFETY: the invariant.
        if unsafe { (*event).timer_set() } != 0 {
            // SAFETY: it is in the tree.
            unsafe { ngx_del_timer(event) };
        }
        // SAFETY: the invariant.
        if unsafe { (*event).posted() } != 0 {
            // SAFETY: it is posted, so its queue links are set.
            unsafe { ngx_delete_posted_event(event) };
        }
    }

    /// Gives up the callback, unless it is the one that is running: that one is not kept after it.
    fn retire(&self) {
        self.dropped.set(true);
        let callback = self.callback.take();
        drop(callback);
    }

    fn run(&self) {
        let Some(mut callback) = self.callback.take() else {
            return;
        };
        let next = match &mut callback {
            Callback::Timer(callback) => guard(Next::After(AFTER_PANIC), callback),
            Callback::Posted(callback) => guard(Next::After(AFTER_PANIC), || {
                callback();
                Next::Stop
            }),
        };
        if self.dropped.get() {
            return;
        }
        self.callback.replace(Some(callback));
        if let Next::After(after) = next {
            self.arm(after);
        }
    }

    /// A panic kept it from being run.
    fn come_back(&self) {
        if !self.dropped.get() {
            self.arm(AFTER_PANIC);
        }
    }
}

/// `ngx_event_expire_timers` and `ngx_event_process_posted` have taken the event out of the tree or
/// queue before, and do not touch it afterwards (HOST-3), so it may be dropped in its own callback.
unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: nginx calls a handler with its own event.
    let node = unsafe { (*event).data }.cast::<EventNode>().cast_const();
    // SAFETY: the invariant: while the event can be called, an `Rc` of its node exists.
    unsafe { Rc::increment_strong_count(node) };
    // SAFETY: the count was raised for this very `Rc`.
    let node = unsafe { Rc::from_raw(node) };
    guard_else(|| node.run(), || node.come_back());
}
