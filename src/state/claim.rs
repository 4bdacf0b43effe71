//! A claim that was won: the right to make one attempt, and its end.

use std::rc::Rc;

use crate::schedule::UnixMs;

use super::format::RUN;
use super::run::{Attempt, Ended, Progress, RunResult, Wait};
use super::run_part::RunPart;
use super::store::{Claimed, Inner, Place};

/// The right to make one attempt. While it lives, no other process makes one of this timer.
///
/// # Invariants
///
/// The run lock of `place` is held by this worker's description, the table of claims says so, and
/// nobody else writes the run part: `run` is what it contains.
pub struct Claim {
    inner: Rc<Inner>,
    place: Place,
    run: Box<RunPart>,
    attempt: Attempt,
}

/// What became of a run with the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It waits for its next attempt.
    Waiting {
        /// When that may start.
        next_at: UnixMs,
    },
    /// It has ended.
    Closed {
        /// How.
        result: RunResult,
        /// How many runs before it had failed in a row.
        failures_before: u32,
    },
}

impl Claim {
    /// The claim of `attempt`; the caller has taken the run lock, and written `run` under it.
    pub(super) fn new(inner: &Rc<Inner>, place: &Place, run: RunPart, attempt: Attempt) -> Self {
        // INVARIANT: from here on the lock is released by this value's drop alone.
        inner.set_claimed(place, Claimed::Yes);
        Self { inner: Rc::clone(inner), place: place.clone(), run: Box::new(run), attempt }
    }

    /// What is to be attempted.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// The timer's name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Start of the last success before this attempt.
    pub fn last_success_at(&self) -> Option<UnixMs> {
        self.run.last_success_at
    }

    /// Records how the attempt has ended and releases the timer. With `next_at` the run waits for
    /// its next attempt ([`RetryPolicy::next_at`](super::RetryPolicy::next_at)).
    pub fn finish(mut self, ended: Ended, next_at: Option<UnixMs>) -> Finished {
        let failures_before = self.run.consecutive_failures;
        let finished = if let Some(next_at) = next_at {
            self.run.progress = Progress::Waiting(self.attempt, Wait { next_at, last: ended });
            Finished::Waiting { next_at }
        } else {
            let result = self.run.close(self.attempt, ended);
            Finished::Closed { result, failures_before }
        };
        self.inner.write_run(&self.place, &mut self.run);
        finished
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.inner.set_claimed(&self.place, Claimed::No);
        self.inner.unlock(RUN, self.place.page);
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
