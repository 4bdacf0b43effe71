//! A claim that was won: the right to make one attempt, and its end.

use std::rc::Rc;
use std::time::Duration;

use crate::schedule::UnixMs;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::run::{
    Attempt, Ended, FleetClaim, Outcome, Progress, RunId, RunResult, Wait,
};

use super::locked::Locked;
use super::store::{Claimed, Inner, Record, Written};

/// The right to make one attempt. While it lives, no other process makes one of this timer.
///
/// # Invariants
///
/// This worker holds the timer, and has the run lock, if it is `locked`; the table of
/// claims says so. Nobody else writes the claim part: `part` is what it contains, if it could be written.
pub struct Claim {
    held: Held,
    part: Box<ClaimPart>,
    attempt: Attempt,
    /// Whether all that was left out for this claim has been counted.
    counted: bool,
}

/// A timer that this worker holds, until this is dropped.
///
/// # Invariants
///
/// Its run lock is held, if it is `locked`; the table of claims says so.
pub(in crate::state) struct Held {
    pub(in crate::state) inner: Rc<Inner>,
    pub(in crate::state) record: Record,
    locked: Option<Locked<Rc<Inner>>>,
}

impl Held {
    /// The caller has excluded others.
    pub(in crate::state) fn new(
        inner: &Rc<Inner>,
        record: &Record,
        locked: Option<Locked<Rc<Inner>>>,
    ) -> Self {
        // INVARIANT: from here on this value's drop alone gives others their way.
        inner.set_claimed(record, Claimed::Yes);
        Self { inner: Rc::clone(inner), record: record.clone(), locked }
    }
}

#[cfg(test)]
impl Held {
    /// Its process dies: the kernel lets go of the lock, and nothing else happens.
    pub(in crate::state) fn die(mut self) {
        drop(self.locked.take());
        std::mem::forget(self);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.set_claimed(&self.record, Claimed::No);
        self.inner.release(&self.record);
        // Who gets the lock finds no holder.
        drop(self.locked.take());
    }
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
    /// The claim of `attempt`; the caller has written `part` if that can be.
    pub(in crate::state) fn new(
        held: Held,
        part: Box<ClaimPart>,
        attempt: Attempt,
        counted: bool,
    ) -> Self {
        Self { held, part, attempt, counted }
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
                let Held { inner, record, .. } = &self.held;
                self.part.failure_text = inner.write_text(record, self.part.results_ever, text);
            }
            (Finished::Closed { failures_before }, Some(result))
        };
        self.write(result);
        finished
    }

    fn write(&mut self, result: Option<RunResult>) -> Written {
        let Held { inner, record, .. } = &self.held;
        inner.write_claim(record, &mut self.part, result)
    }

    /// The claim in a fleet that this one stands for.
    pub fn fleet(&self) -> Option<FleetClaim> {
        self.part.fleet
    }

    /// When the next attempt may start, if the last one has ended.
    pub fn waits_until(&self) -> Option<UnixMs> {
        match self.part.progress {
            Progress::Waiting(_, wait) => Some(wait.next_at),
            _ => None,
        }
    }

    /// Records how the attempt has ended, and waits for the next one of the same run in the fleet. The
    /// timer stays held: somebody has to tell the fleet meanwhile that the run goes on.
    pub fn wait_on(&mut self, ended: Ended, next_at: UnixMs) {
        self.part.progress = Progress::Waiting(self.attempt, Wait { next_at, last: ended });
        self.write(None);
    }

    /// Leaves a run of the fleet to who comes next and tells the fleet that it was interrupted; that is logged.
    pub fn leave_interrupted(mut self) {
        if let Some(fleet) = &mut self.part.fleet {
            fleet.fence = 0;
            self.write(None);
        }
    }

    /// Records the start of the next attempt, which the fleet has permitted with this `fence`. `false` if
    /// that cannot be written: it must not start.
    pub fn next(&mut self, number: u32, fence: u64, now: UnixMs) -> bool {
        let Some(fleet) = self.part.fleet else { return false };
        let (pid, boot) = (self.held.inner.process.pid, self.held.inner.process.boot);
        let attempt = Attempt { number, pid, boot, started_at: now, ..self.attempt };
        let before = self.part.clone();
        self.part.start_in_fleet(attempt, FleetClaim { fence, ..fleet }, false);
        if self.write(None) == Written::No {
            self.held.inner.forget_claim(&self.held.record);
            self.part = before;
            return false;
        }
        if let Some(claims) = &self.held.record.claims {
            claims.attempt(attempt.run, number);
        }
        self.attempt = attempt;
        true
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
        drop(self.held.locked.take());
    }

    /// A record that could not be read when the claim was made, and can be now, gets what has happened
    /// since.
    fn find_record(&mut self) {
        let held = &mut self.held;
        let page = held.locked.as_ref().and_then(Locked::page);
        let (None, Some(page)) = (held.record.page, page) else { return };
        let found = Record { page: Some(page), ..held.record.clone() };
        if let Ok(part) = held.inner.try_read_claim(&found) {
            self.part = part;
            held.record = found;
        }
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// Ends what is in progress, unless it goes on as `run`: a waiting run with its last outcome, one
/// whose process died as interrupted; answers the attempt of the latter, and the result of either.
pub(in crate::state) fn close_last(
    claim: &mut ClaimPart,
    run: RunId,
) -> (Option<Attempt>, Option<RunResult>) {
    match claim.progress {
        Progress::Waiting(last, wait) if last.run != run => {
            (None, Some(claim.close(last, wait.last)))
        }
        Progress::Running(last) => (Some(last), Some(claim.close(last, interrupted()))),
        _ => (None, None),
    }
}

/// How an attempt ended whose process died; nobody knows how long it took.
pub(in crate::state) fn interrupted() -> Ended {
    Ended { outcome: Outcome::Interrupted, status: 0, duration: Duration::ZERO }
}
