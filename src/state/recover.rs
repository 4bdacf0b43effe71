//! Putting right what nobody else will: interrupted runs, damaged parts, a clock set back.

use crate::os::lock::Held;
use crate::schedule::UnixMs;

use super::attempt::interrupted;
use super::due::{control_instants, header_instants, latest_sane};
use super::format::CONTROL;
use super::notice::Notice;
use super::retry::RetryPolicy;
use super::rules::{Rule, in_force};
use super::run::{Attempt, Outcome, Progress, Wait};
use super::run_part::RunPart;
use super::store::{Claimed, Place, Store, Timer};
use super::under_lock::Blocked;

/// What a look at a run in progress has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing is in progress that is to be ended, or it is this worker's own.
    Nothing,
    /// Its process lives, and holds the claim.
    HeldElsewhere(Attempt),
    /// Its process had died: it was recorded as interrupted, or waits for its next attempt.
    Interrupted,
    /// It waited for an attempt that a pause or a cancel forbids; it has ended like this.
    Ended(Outcome),
    /// A lock was refused, or a read torn: to be called again after one of
    /// [`Steps`](super::Steps).
    Again,
}

impl Store {
    /// Ends a run whose process has died, and one that waits although it was paused or cancelled.
    /// For each timer at a worker's start, when the order number has changed, and once a second
    /// while its record says that something is in progress.
    pub fn recover(
        &self,
        timer: Timer<'_>,
        retry: &RetryPolicy,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Recovered {
        let inner = &self.inner;
        if inner.claimed(timer.place) == Claimed::Yes {
            return Recovered::Nothing;
        }
        let Ok(seen) = self.read(timer.place) else { return Recovered::Again };
        match seen.run.progress {
            Progress::Nothing => return Recovered::Nothing,
            Progress::Waiting(..) if seen.waiting_ends(timer.due_times, clock()).is_none() => {
                return Recovered::Nothing;
            }
            Progress::Waiting(..) => {}
            Progress::Running(attempt) => {
                // A look at a held lock takes nothing, so that nobody else is refused by it.
                if inner.run_lock_held(timer.place) == Held::Elsewhere {
                    return Recovered::HeldElsewhere(attempt);
                }
            }
        }
        let Some(_lock) = inner.try_run_lock(timer.place) else { return Recovered::Again };
        let now = clock();
        let mut reading = match self.read_locked(timer.place, now) {
            Ok(reading) if *reading.run.name == *timer.place.name => reading,
            Ok(_) | Err(Blocked::Repaired) => return Recovered::Nothing,
            Err(Blocked::Again) => return Recovered::Again,
        };
        let recovered = match reading.run.progress {
            Progress::Running(attempt) if in_force(Rule::InterruptedIsCounted) => {
                let next_at = retry
                    .next_at(&attempt, Outcome::Interrupted, timer.due_times, now)
                    .filter(|_| !reading.is_paused(now))
                    .filter(|_| reading.control.cancel != Some(attempt.run));
                if let Some(next_at) = next_at {
                    let wait = Wait { next_at, last: interrupted() };
                    reading.run.progress = Progress::Waiting(attempt, wait);
                } else {
                    reading.run.close(attempt, interrupted());
                }
                let name = timer.place.name.clone();
                inner.notice(Notice::Interrupted {
                    name,
                    attempt,
                    retry_at: next_at,
                    attempts: retry.more.saturating_add(1),
                });
                Recovered::Interrupted
            }
            Progress::Waiting(attempt, _) => {
                let Some(ended) = reading.waiting_ends(timer.due_times, now) else {
                    return Recovered::Nothing;
                };
                reading.run.close(attempt, ended);
                Recovered::Ended(ended.outcome)
            }
            _ => return Recovered::Nothing,
        };
        inner.write_run(timer.place, &mut reading.run);
        recovered
    }

    /// Drops what lies more than a period ahead of the clock: a clock that was set back has seen
    /// it. To be called when [`decide`](super::decide()) says so.
    pub fn set_back(&self, timer: Timer<'_>, clock: &mut dyn FnMut() -> UnixMs) -> Recovered {
        let Some(_lock) = self.inner.try_run_lock(timer.place) else {
            return Recovered::Again;
        };
        match self.read_locked(timer.place, clock()) {
            Ok(reading) if *reading.run.name == *timer.place.name => {
                match self.set_back_locked(timer, reading.run, clock) {
                    Err(Blocked::Again) => Recovered::Again,
                    _ => Recovered::Nothing,
                }
            }
            Err(Blocked::Again) => Recovered::Again,
            _ => Recovered::Nothing,
        }
    }

    /// The same under the run lock, which the caller holds. Each part is judged by the clock as it
    /// is after the part was read under its lock: what others wrote meanwhile is not ahead.
    pub(super) fn set_back_locked(
        &self,
        timer: Timer<'_>,
        mut run: RunPart,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Result<(), Blocked> {
        let inner = &self.inner;
        let mut ahead_ms = 0;
        {
            let _lock = self.lock_header().ok_or(Blocked::Again)?;
            let mut header = self.header_locked(clock());
            let bound = Bound::new(timer, clock());
            if bound.pull(header_instants(&mut header), &mut ahead_ms) {
                inner.write_header(&mut header);
            }
        }
        {
            let _lock = inner.try_lock(CONTROL, timer.place.page).ok_or(Blocked::Again)?;
            let mut control = self.control_locked(timer.place, clock());
            let bound = Bound::new(timer, clock());
            let (queued, gaps) = (control.queued, control.gaps.clone());
            control.queued = queued.filter(|due| *due <= bound.latest);
            control.gaps.retain(|gap| gap.up_to <= bound.latest);
            let dropped = control.queued != queued || control.gaps != gaps;
            if bound.pull(control_instants(&mut control), &mut ahead_ms) || dropped {
                inner.write_control(timer.place, &mut control);
            }
        }
        let now = clock();
        let bound = Bound::new(timer, now);
        let mut pulled = bound.pull([&mut run.watermark.due].into_iter(), &mut ahead_ms);
        if let Progress::Waiting(attempt, wait) = &mut run.progress
            && attempt.started_at > bound.latest
        {
            ahead_ms = ahead_ms.max(attempt.started_at.ms_since(now));
            attempt.started_at = now;
            wait.next_at = now;
            pulled = true;
        }
        if pulled {
            inner.write_run(timer.place, &mut run);
        }
        if ahead_ms > 0 {
            let name = timer.place.name.clone();
            inner.notice(Notice::ClockSetBack { name, by_ms: ahead_ms });
        }
        Ok(())
    }

    /// Writes damaged parts of a record anew; for who has waited through all
    /// [`Steps`](super::Steps) for a read that is not torn. `Again` if a lock is held elsewhere.
    pub fn repair(&self, place: &Place, now: UnixMs) -> Recovered {
        let Some(_lock) = self.inner.try_run_lock(place) else { return Recovered::Again };
        match self.read_locked(place, now) {
            Err(Blocked::Again) => Recovered::Again,
            _ => Recovered::Nothing,
        }
    }
}

/// What no instant may lie beyond, and what is put in the place of one that does.
struct Bound {
    now: UnixMs,
    latest: UnixMs,
    newest: UnixMs,
}

impl Bound {
    fn new(timer: Timer<'_>, now: UnixMs) -> Self {
        let newest = timer.due_times.newest(now).unwrap_or(now);
        Self { now, latest: latest_sane(timer.due_times, now), newest }
    }

    /// Whether any of `instants` had to be pulled back; by how much goes into `ahead_ms`.
    fn pull<'a>(&self, instants: impl Iterator<Item = &'a mut UnixMs>, ahead_ms: &mut i64) -> bool {
        let mut pulled = false;
        for at in instants.filter(|at| **at > self.latest) {
            *ahead_ms = (*ahead_ms).max(at.ms_since(self.now));
            *at = self.newest;
            pulled = true;
        }
        pulled
    }
}
