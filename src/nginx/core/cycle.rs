//! Which configurations are in memory.
//!
//! What is made from a configuration may be kept by safe code for longer than nginx keeps that: each such
//! value knows its configuration, and is looked at only while that is there.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use ngx::ffi::{ngx_cycle, ngx_cycle_t, ngx_pool_t};

use super::pool::{self, Cleanup};

/// A configuration that was read, or is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nginx) struct Cycle(usize);

/// # Invariants
///
/// `alive` holds the configurations whose pool was not given back yet, the newest last, each with that
/// pool.
struct Cycles {
    alive: Vec<(Cycle, *mut ngx_pool_t)>,
    last: usize,
}

/// The number of the newest that is alive. Beside the list, since it is asked for by each look-up of a request.
static NEWEST: AtomicUsize = AtomicUsize::new(NONE);
/// No configuration has this number.
const NONE: usize = usize::MAX;

thread_local! {
    static CYCLES: RefCell<Cycles> = const { RefCell::new(Cycles { alive: Vec::new(), last: 0 }) };
}

impl Cycle {
    /// A configuration begins to be read; `None` without memory.
    ///
    /// # Safety
    ///
    /// `pool` is that of the cycle that is made, and `forget` hands its argument to [`end`](Self::end).
    pub(in crate::nginx) unsafe fn begin(pool: *mut ngx_pool_t, forget: Cleanup) -> Option<()> {
        let this = CYCLES.with_borrow_mut(|cycles| {
            cycles.last += 1;
            Self(cycles.last)
        });
        let data = ptr::without_provenance_mut(this.0);
        // SAFETY: the caller's promise; the data is a number.
        unsafe { pool::on_destroy(pool, forget, data) }?;
        // INVARIANT: taken out when its pool goes.
        CYCLES.with_borrow_mut(|cycles| cycles.alive.push((this, pool)));
        NEWEST.store(this.0, Ordering::Relaxed);
        Some(())
    }

    /// The pool of the configuration is going that `data` tells of.
    pub(in crate::nginx) fn end(data: *mut c_void) {
        let gone = Self(data.addr());
        // INVARIANT: it is taken out before anything of it is given back.
        let _ = CYCLES.try_with(|cycles| {
            cycles.borrow_mut().alive.retain(|(cycle, _)| *cycle != gone);
        });
        let newest = look(|alive| alive.last().map(|(cycle, _)| cycle.0)).flatten();
        NEWEST.store(newest.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// The newest: while one is read or taken up, that one. One of none before any was read.
    pub(in crate::nginx) fn newest() -> Self {
        look(|alive| alive.last().map(|(cycle, _)| *cycle)).flatten().unwrap_or(Self(0))
    }

    /// Whether it is the newest, and its memory is still there.
    pub(in crate::nginx) fn is_newest(self) -> bool {
        self.0 == NEWEST.load(Ordering::Relaxed)
    }

    /// Whether its memory is still there.
    pub(in crate::nginx) fn is_alive(self) -> bool {
        look(|alive| alive.iter().any(|(cycle, _)| *cycle == self)).unwrap_or(false)
    }

    /// Whether it is the one in use, and its memory is still there.
    #[cold]
    pub(in crate::nginx) fn is_in_use(self) -> bool {
        self.is_current() && self.is_alive()
    }

    /// Whether it is the one in use.
    pub(in crate::nginx) fn is_current(self) -> bool {
        let pool = in_use(|cycle| cycle.pool);
        look(|alive| alive.contains(&(self, pool))).unwrap_or(false)
    }
}

/// What `look` reads of the cycle in use, of which it keeps nothing.
pub(in crate::nginx) fn in_use<T: Copy>(look: impl FnOnce(&ngx_cycle_t) -> T) -> T {
    // SAFETY: HOST-1: one thread.
    let cycle = unsafe { ngx_cycle };
    // SAFETY: HOST-21: it always points to a cycle; `look` calls nothing of nginx's.
    look(unsafe { &*cycle })
}

/// Whether nginx has what timers and connections are in: not when the values of the thread are dropped at
/// the end of a process whose `exit_process` hook has panicked (HOST-12).
pub(in crate::nginx) fn is_there() -> bool {
    look(|alive| !alive.is_empty()).unwrap_or(false)
}

/// `None` when the values of the thread are being dropped.
fn look<T>(look: impl FnOnce(&[(Cycle, *mut ngx_pool_t)]) -> T) -> Option<T> {
    CYCLES.try_with(|cycles| look(&cycles.borrow().alive)).ok()
}
