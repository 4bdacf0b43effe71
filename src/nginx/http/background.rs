//! Work that would block the event loop: a thread of nginx's pool does it, and the request waits.
//!
//! ```text
//!   begin ──> posted ──> a thread: Job::work ──> completed, in the event loop ──> the request's write event
//!                            ^
//!                            └── the request ends: cancelled, at the next point where the job asks
//! ```
//!
//! The request is `blocked` until the thread has ended, so that it is there, and counts as in progress, whatever
//! becomes of it meanwhile (THREAD-4). The thread touches nothing but the job and the flag.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ngx::ffi::{
    ngx_connection_t, ngx_event_t, ngx_http_cleanup_add, ngx_http_cleanup_t, ngx_http_request_t,
    ngx_log_t,
};

use super::open::Open;
use super::response::Job;
use crate::nginx::core::bits;
use crate::nginx::core::guard::{guard, guard_else, guard_in_thread, tell_of_panic};
use crate::nginx::core::log::silent;
use crate::nginx::core::threads::{self, ngx_thread_task_t};

/// Who waits for a job.
pub(super) trait Waits {
    /// The thread has ended; `None` if the job has panicked. Its request may have ended for all others, and does
    /// not end in here.
    fn take_back(self: Rc<Self>, job: Option<Box<dyn Job>>);
}

/// A job in the hands of nginx's thread pool.
///
/// # Invariants
///
/// From its posting until `completed` it belongs to the pool. Meanwhile `work` is the thread's alone, and `request` is
/// blocked once for it.
#[repr(C)]
struct Task {
    posted: ngx_thread_task_t,
    work: UnsafeCell<Work>,
    cancelled: Arc<AtomicBool>,
    request: *mut ngx_http_request_t,
    waits: Rc<dyn Waits>,
}

/// What a thread has of a task.
struct Work {
    job: Box<dyn Job>,
    /// What is to be told of a panic.
    panic: Option<String>,
}

/// Has a thread do the job; gives it back if there is none.
pub(super) fn begin(
    open: &Open,
    waits: Rc<dyn Waits>,
    job: Box<dyn Job>,
) -> Result<(), Box<dyn Job>> {
    if !threads::are_there() || !open.is_main() {
        return Err(job);
    }
    let r = open.as_ptr();
    let cancelled = Arc::new(AtomicBool::new(false));
    // SAFETY: an open request.
    if unsafe { at_end(r, Arc::clone(&cancelled)) }.is_none() {
        return Err(job);
    }
    // SAFETY: plain C data, for which nginx itself takes zeroed memory.
    let mut posted: ngx_thread_task_t = unsafe { mem::zeroed() };
    posted.handler = Some(run);
    posted.event.handler = Some(completed);
    posted.event.log = silent();
    let work = UnsafeCell::new(Work { job, panic: None });
    let node = Box::into_raw(Box::new(Task { posted, work, cancelled, request: r, waits }));
    // SAFETY: made just now; nobody else has it.
    unsafe { (*node).posted.ctx = node.cast() };
    // SAFETY: as above.
    unsafe { (*node).posted.event.data = node.cast() };
    // SAFETY: as above.
    let task = unsafe { &raw mut (*node).posted };
    // SAFETY: an open request.
    unsafe { block(r) };
    // SAFETY: the invariant: the node is left alone until `completed` has it back.
    if unsafe { threads::post(task) } {
        return Ok(());
    }
    // SAFETY: as above.
    unsafe { unblock(r) };
    // SAFETY: made of a box, and not posted.
    let node = unsafe { Box::from_raw(node) };
    Err(node.work.into_inner().job)
}

/// Has the flag set when the request is ended, be it blocked or not; `None` without memory.
///
/// # Safety
///
/// `r` is an open request.
unsafe fn at_end(r: *mut ngx_http_request_t, cancelled: Arc<AtomicBool>) -> Option<()> {
    // SAFETY: the caller's promise; may be null.
    let cleanup: *mut ngx_http_cleanup_t = unsafe { ngx_http_cleanup_add(r, 0) };
    let cleanup = NonNull::new(cleanup)?;
    // SAFETY: made just now; in the request's pool.
    unsafe { (*cleanup.as_ptr()).data = Arc::into_raw(cancelled).cast_mut().cast() };
    // SAFETY: as above.
    unsafe { (*cleanup.as_ptr()).handler = Some(cancel) };
    Some(())
}

/// # Safety
///
/// `r` is an open main request.
unsafe fn block(r: *mut ngx_http_request_t) {
    // SAFETY: the caller's promise; ends here.
    let request = unsafe { &mut *r };
    bits::set_blocked(request, bits::blocked(request) + 1);
    bits::set_aio(request, 1);
}

/// # Safety
///
/// `r` is a request that `block` was called for.
unsafe fn unblock(r: *mut ngx_http_request_t) {
    // SAFETY: the caller's promise; ends here.
    let request = unsafe { &mut *r };
    bits::set_blocked(request, bits::blocked(request) - 1);
    bits::set_aio(request, 0);
}

/// A cleanup of the request, which nginx calls once (THREAD-5).
unsafe extern "C" fn cancel(flag: *mut c_void) {
    // SAFETY: what `at_end` made of an `Arc`, whose count this takes over.
    let cancelled = unsafe { Arc::from_raw(flag.cast_const().cast::<AtomicBool>()) };
    cancelled.store(true, Ordering::Relaxed);
    guard((), || drop(cancelled));
}

/// In a thread.
unsafe extern "C" fn run(node: *mut c_void, _: *mut ngx_log_t) {
    let node = node.cast_const().cast::<Task>();
    // SAFETY: the invariant: it is there until `completed`.
    let work = unsafe { (*node).work.get() };
    // SAFETY: the invariant: this thread's.
    let work = unsafe { &mut *work };
    // SAFETY: as above; what it leads to may be set from elsewhere, and is atomic.
    let cancelled: &AtomicBool = unsafe { &(*node).cancelled };
    let may_go_on = || !cancelled.load(Ordering::Relaxed) && !threads::process_is_ending();
    let ended = guard_in_thread(|| work.job.work(&may_go_on));
    work.panic = ended.err();
}

/// In the event loop, when a thread has ended.
unsafe extern "C" fn completed(event: *mut ngx_event_t) {
    // SAFETY: nginx calls a handler with its own event.
    let node = unsafe { (*event).data }.cast::<Task>();
    // SAFETY: the invariant: made of a box, and ours again; nginx does not touch the task any more (THREAD-3).
    let Task { work, request: r, waits, .. } = *unsafe { Box::from_raw(node) };
    // SAFETY: the invariant: blocked, it is there.
    unsafe { unblock(r) };
    let Work { job, panic } = work.into_inner();
    let mut job = Some(job);
    let tell = || {
        if let Some(text) = &panic {
            tell_of_panic(text);
        }
    };
    let take_back = || {
        tell();
        // What is half done is not gone on with.
        Rc::clone(&waits).take_back(job.take().filter(|_| panic.is_none()));
    };
    let fail = || {
        tell();
        Rc::clone(&waits).take_back(None);
    };
    guard_else(take_back, fail);
    // SAFETY: a request that is there has its connection.
    let c: *mut ngx_connection_t = unsafe { (*r).connection };
    // SAFETY: an open connection has its events.
    let write = unsafe { (*c).write };
    // A request that was ended meanwhile is freed in there.
    // SAFETY: as above.
    if let Some(handler) = unsafe { (*write).handler } {
        // SAFETY: as nginx does when an operation in a thread has ended (`ngx_http_upstream_thread_event_handler`).
        unsafe { handler(write) };
    }
    guard((), || drop((waits, job)));
}
