//! For t/nginx/panics.t alone, which builds the module with the feature `panic-points`: each guarded
//! function panics on purpose, and nginx's timer tree and posted queues are searched for nodes of ours
//! that were freed.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::mem::offset_of;
use std::panic::Location;
use std::path::Path;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::Mutex;

use ngx::ffi::{ngx_event_t, ngx_queue_t};

use super::log::{Level, Log};

thread_local! {
    /// The panics that this process has had: `FILE:LINE WHEN`.
    static HAD: RefCell<HashSet<String>> = RefCell::default();
    /// All nodes that there were, and where their events are. Their memory is kept, so that none has
    /// the address of another.
    static NODES: RefCell<Vec<(Weak<dyn Any>, usize)>> = RefCell::default();
}

/// The body with a panic before it and, at another call, one behind it: once in each process, if
/// the file that `TIMER_PANICS` names has the line `FILE:LINE before` or `FILE:LINE after`.
#[track_caller]
pub(in crate::nginx) fn around<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let caller = Location::caller();
    let file = Path::new(caller.file()).file_name().unwrap_or_default();
    let place = format!("{}:{}", file.display(), caller.line());
    move || {
        search();
        point(&format!("{place} before"));
        let answer = body();
        point(&format!("{place} after"));
        answer
    }
}

#[expect(clippy::panic, reason = "what it is for")]
fn point(what: &str) {
    if is_asked(what) && HAD.with_borrow_mut(|had| had.insert(what.to_owned())) {
        let (in_tree, posted) = search();
        panic!("on purpose, {what}, {in_tree} nodes in the tree, {posted} posted");
    }
}

/// The same in another thread, which does not look at nginx's tree and queues: once in each process, too.
#[track_caller]
pub(in crate::nginx) fn around_in_thread<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
    static HAD_IN_THREADS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let caller = Location::caller();
    let file = Path::new(caller.file()).file_name().unwrap_or_default();
    let place = format!("{}:{}", file.display(), caller.line());
    let point = |what: String| {
        let is_first = |what| HAD_IN_THREADS.lock().is_ok_and(|mut had| had.insert(what));
        if is_asked(&what) && is_first(what.clone()) {
            panic_on_purpose(&what);
        }
    };
    move || {
        point(format!("{place} before"));
        let answer = body();
        point(format!("{place} after"));
        answer
    }
}

#[expect(clippy::panic, reason = "what it is for")]
fn panic_on_purpose(what: &str) {
    panic!("on purpose, {what}, in a thread");
}

fn is_asked(what: &str) -> bool {
    let Some(file) = std::env::var_os("TIMER_PANICS") else { return false };
    let asked = std::fs::read_to_string(file).unwrap_or_default();
    asked.lines().any(|line| line == what)
}

/// Has the search know of a node whose event is there.
pub(in crate::nginx) fn watch(node: Rc<dyn Any>, event: *const ngx_event_t) {
    NODES.with_borrow_mut(|nodes| nodes.push((Rc::downgrade(&node), event.addr())));
}

/// Writes an alert for each freed node that nginx can still come to; answers how many others are in
/// its tree and in its queues.
fn search() -> (usize, usize) {
    let in_tree = in_tree();
    let posted: Vec<usize> = [
        (&raw mut ngx::ffi::ngx_posted_events).cast_const(),
        (&raw mut ngx::ffi::ngx_posted_next_events).cast_const(),
    ]
    .into_iter()
    .flat_map(in_queue)
    .collect();
    let count = |found: &[usize], what: &str| {
        NODES.with_borrow(|nodes| {
            let ours = nodes.iter().filter(|(_, event)| found.contains(event));
            let (alive, freed): (Vec<_>, Vec<_>) =
                ours.partition(|(node, _)| node.strong_count() > 0);
            for _ in &freed {
                Log::cycle()
                    .write(Level::Alert, format_args!("timer: a freed node is in nginx's {what}"));
            }
            alive.len()
        })
    };
    (count(&in_tree, "timer tree"), count(&posted, "posted events"))
}

/// The events in nginx's timer tree.
fn in_tree() -> Vec<usize> {
    // SAFETY: HOST-1: one thread.
    let tree = unsafe { ptr::read(&raw const ngx::ffi::ngx_event_timer_rbtree) };
    let (mut found, mut left) = (Vec::new(), vec![tree.root]);
    while let Some(node) = left.pop() {
        if node.is_null() || ptr::eq(node, tree.sentinel) {
            continue;
        }
        found.push(node.addr().wrapping_sub(offset_of!(ngx_event_t, timer)));
        // SAFETY: a node of the tree; the memory of ours is kept.
        left.push(unsafe { (*node).left });
        // SAFETY: as above.
        left.push(unsafe { (*node).right });
    }
    found
}

/// The events in one of nginx's queues, which are set up when a process begins.
fn in_queue(head: *const ngx_queue_t) -> Vec<usize> {
    let mut found = Vec::new();
    // SAFETY: HOST-1: one thread.
    let mut link = unsafe { (*head).next }.cast_const();
    while !link.is_null() && !ptr::eq(link, head) {
        found.push(link.addr().wrapping_sub(offset_of!(ngx_event_t, queue)));
        // SAFETY: a link of the queue; the memory of ours is kept.
        link = unsafe { (*link).next };
    }
    found
}
