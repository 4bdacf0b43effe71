//! A claim that was won: the right to make one attempt, and its end.

use std::rc::Rc;

use crate::schedule::UnixMs;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::run::{Attempt, Ended, Progress, Wait};

use super::locked::Locked;
use super::store::{Claimed, Inner, Record};

/// The right to make one attempt. While it lives, no other process makes one of this timer.
///
/// # Invariants
///
/// This worker holds the timer, and has the run lock, if it is `locked`; the table of
/// claims says so. Nobody else writes the claim part: `part` is what it contains, if it could be written.
pub struct Claim {
    inner: Rc<Inner>,
    record: Record,
    part: Box<ClaimPart>,
    attempt: Attempt,
    locked: Option<Locked<Rc<Inner>>>,
    /// Whether all that was left out for this claim has been counted.
    counted: bool,
}

/// What happened to a run with the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It waits for its next attempt.
    Waiting {
        /// When that may start.
        next_at: UnixMs,
    },
    /// It has ended.
    Closed {
        /// How many runs before it had failed in a row.
        failures_before: u32,
    },
}

impl Claim {
    /// The claim of `attempt`; the caller has excluded others, and written `part` if that can be.
    pub(in crate::state) fn new(
        inner: &Rc<Inner>,
        record: &Record,
        part: Box<ClaimPart>,
        attempt: Attempt,
        locked: Option<Locked<Rc<Inner>>>,
        counted: bool,
    ) -> Self {
        // INVARIANT: from here on this value's drop alone gives others their way.
        inner.set_claimed(record, Claimed::Yes);
        let (inner, record) = (Rc::clone(inner), record.clone());
        Self { inner, record, part, attempt, locked, counted }
    }

    /// What is to be attempted.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// Whether the number of due times that were left out before this one is known already.
    pub fn is_counted(&self) -> bool {
        self.counted
    }

    /// Start of the last success before this attempt.
    pub fn last_success_at(&self) -> Option<UnixMs> {
        self.part.last_success_at
    }

    /// Records how the attempt has ended and releases the timer. With `next_at` the run waits for
    /// its next attempt ([`RetryPolicy::next_at`](crate::state::RetryPolicy::next_at)).
    /// The text is that of the attempt, and kept if its run has failed.
    pub fn finish_with(mut self, ended: Ended, next_at: Option<UnixMs>, text: &str) -> Finished {
        self.find_record();
        let failures_before = self.part.consecutive_failures;
        let (finished, result) = if let Some(next_at) = next_at {
            self.part.progress = Progress::Waiting(self.attempt, Wait { next_at, last: ended });
            (Finished::Waiting { next_at }, None)
        } else {
            let result = self.part.close(self.attempt, ended);
            if ended.outcome.is_failure() && !text.is_empty() {
                self.part.failure_text =
                    self.inner.write_text(&self.record, self.part.results_ever, text);
            }
            (Finished::Closed { failures_before }, Some(result))
        };
        self.inner.write_claim(&self.record, &mut self.part, result);
        finished
    }
}

impl Claim {
    /// Ends without a text.
    #[cfg(test)]
    pub(in crate::state) fn finish(self, ended: Ended, next_at: Option<UnixMs>) -> Finished {
        self.finish_with(ended, next_at, "")
    }

    /// Its process dies: the kernel lets go of the lock, and nothing else happens.
    #[cfg(test)]
    pub(in crate::state) fn die(mut self) {
        self.unlock();
        std::mem::forget(self);
    }

    /// Lets go of the lock too early.
    #[cfg(test)]
    pub(in crate::state) fn unlock(&mut self) {
        drop(self.locked.take());
    }

    /// A record that could not be read when the claim was made, and can be now, gets what has happened
    /// since.
    fn find_record(&mut self) {
        let page = self.locked.as_ref().and_then(Locked::page);
        let (None, Some(page)) = (self.record.page, page) else { return };
        let found = Record { page: Some(page), ..self.record.clone() };
        if let Ok(part) = self.inner.try_read_claim(&found) {
            self.part = part;
            self.record = found;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.inner.set_claimed(&self.record, Claimed::No);
        self.inner.release(&self.record);
        // Who gets the lock finds no holder.
        drop(self.locked.take());
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
