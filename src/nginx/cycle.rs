//! Which configurations are in memory.
//!
//! What is made from a configuration may be kept by safe code for longer than nginx keeps that: each such
//! value knows its configuration, and is looked at only while that is there.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;

use ngx::ffi::ngx_pool_t;

use super::conf::{Parsing, Refused};
use super::guard::guard_else;
use super::pool;

/// A configuration that was read, or is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cycle(usize);

/// # Invariants
///
/// `alive` holds the configurations whose pool was not given back yet, the newest last, each with that
/// pool.
struct Cycles {
    alive: Vec<(Cycle, *mut ngx_pool_t)>,
    last: usize,
}

thread_local! {
    static CYCLES: RefCell<Cycles> = const { RefCell::new(Cycles { alive: Vec::new(), last: 0 }) };
}

impl Cycle {
    /// A configuration begins to be read; called in preconfiguration.
    pub(super) fn begin(parsing: &Parsing<'_>) -> Result<(), Refused> {
        let pool = parsing.cf().pool;
        let this = CYCLES.with_borrow_mut(|cycles| {
            cycles.last += 1;
            Self(cycles.last)
        });
        let data = ptr::without_provenance_mut(this.0);
        // SAFETY: HOST-2: the pool of the cycle that is made; the data is a number.
        if unsafe { pool::on_destroy(pool, forget, data) }.is_none() {
            return Err(Refused::AlreadyLogged);
        }
        // INVARIANT: taken out when its pool goes.
        CYCLES.with_borrow_mut(|cycles| cycles.alive.push((this, pool)));
        Ok(())
    }

    fn take_out(self) {
        let _ = CYCLES.try_with(|cycles| {
            cycles.borrow_mut().alive.retain(|(cycle, _)| *cycle != self);
        });
    }

    /// The newest: while one is read or taken up, that one. One of none before any was read.
    pub(super) fn newest() -> Self {
        look(|alive| alive.last().map(|(cycle, _)| *cycle)).flatten().unwrap_or(Self(0))
    }

    /// Whether its memory is still there.
    pub(super) fn is_alive(self) -> bool {
        look(|alive| alive.iter().any(|(cycle, _)| *cycle == self)).unwrap_or(false)
    }

    /// Whether it is the one in use.
    pub(super) fn is_current(self) -> bool {
        // SAFETY: HOST-1: one thread.
        let cycle = unsafe { ngx::ffi::ngx_cycle };
        // SAFETY: HOST-21: `ngx_cycle` always points to a complete cycle.
        let current = unsafe { (*cycle).pool };
        look(|alive| alive.contains(&(self, current))).unwrap_or(false)
    }
}

/// Whether nginx has what timers and connections are in: not when the values of the thread are dropped at
/// the end of a process whose `exit_process` hook has panicked (HOST-12).
pub(super) fn is_there() -> bool {
    look(|alive| !alive.is_empty()).unwrap_or(false)
}

/// `None` when the values of the thread are being dropped.
fn look<T>(look: impl FnOnce(&[(Cycle, *mut ngx_pool_t)]) -> T) -> Option<T> {
    CYCLES.try_with(|cycles| look(&cycles.borrow().alive)).ok()
}

/// The cleanup of a cycle's pool, before whose end nothing of it is given back.
unsafe extern "C" fn forget(cycle: *mut c_void) {
    let gone = Cycle(cycle.addr());
    // INVARIANT: its pool is going.
    guard_else(|| gone.take_out(), || gone.take_out());
}
