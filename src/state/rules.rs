//! The rules of the protocol that the model takes out one at a time.
//!
//! In the module itself every rule is in force; only the tests can lift one, to see that the
//! model misses it.

/// A rule without which a promise breaks; the model's tests say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Rule 3: under the run lock the record is read again.
    RereadUnderLock,
    /// Rule 3: a refused lock is an overlap only if the same attempt is still running later.
    OverlapIsSeenTwice,
    /// Rule 4: a claim of this worker excludes first.
    TableOfClaims,
    /// Rule 5: the lock is held until the attempt has ended.
    LockIsHeld,
    /// Rule 5: the attempt is part of the watermark.
    AttemptIsClaimed,
    /// Rule 6: the order's number is written together with what is running.
    OrderIsDone,
    /// Rule 7: what was left out is dealt with.
    LeftOutIsDealtWith,
    /// Rule 8: what a claim passes over is counted.
    LeftOutIsCounted,
    /// Rule 9: a watermark far ahead of the clock is dropped.
    ClockSetBack,
    /// Rule 9: the wall clock is read after the lock was taken.
    ClockReadUnderLock,
    /// Rule 3, SPEC 6: a record that says running while its lock is free is an interrupted run.
    InterruptedIsCounted,
    /// Rule 10: a timer that comes back or has a new schedule starts anew.
    NotBefore,
}

/// Whether `rule` holds.
#[cfg(not(test))]
pub(super) const fn in_force(_rule: Rule) -> bool {
    true
}

#[cfg(test)]
pub(super) use lifted::{in_force, without};

#[cfg(test)]
mod lifted {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static LIFTED: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    pub(in crate::state) fn in_force(rule: Rule) -> bool {
        LIFTED.get() != Some(rule)
    }

    /// Does `work` without `rule`, in this thread.
    pub(in crate::state) fn without<T>(rule: Option<Rule>, work: impl FnOnce() -> T) -> T {
        LIFTED.set(rule);
        let answer = work();
        LIFTED.set(None);
        answer
    }
}
