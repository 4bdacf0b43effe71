//! Putting right what nobody else will: interrupted runs (rule "interrupted is counted"), damaged parts, a clock set back.

use crate::os::lock::Held;
use crate::schedule::UnixMs;
use crate::state::policy::due::{
    DueTimes, Reading, control_instants, header_instants, is_to_come, latest_sane,
};
use crate::state::policy::retry::RetryPolicy;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::{Paused, Presence};
use crate::state::record::format::CONTROL;
use crate::state::record::run::{Attempt, Outcome, Progress, Wait};

use super::access::Lock;
use super::claim::interrupted;
use super::exclusion::{Excluded, is_another};
use super::locked_read::Blocked;
use super::notice::Notice;
use super::store::{Claimed, Owner, Record, Store, TimerRef, Unread, Written};

/// What a look at a run in progress has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing is in progress that is to be ended, or it is this worker's own.
    Nothing,
    /// Its process lives, and holds the claim.
    HeldElsewhere(Attempt),
    /// Its process had died: it was recorded as interrupted, or waits for its next attempt. A claim that
    /// a fleet was asked for is dropped.
    Interrupted,
    /// It waited for an attempt that a pause or a cancel forbids; it has ended like this.
    Ended(Outcome),
    /// Nobody can be excluded by the file, or it cannot be read, and the timer belongs to another worker.
    LeftToOwner,
    /// A lock was refused, or a read torn: to be called again after one of
    /// [`Steps`](crate::state::Steps).
    Again,
}

impl Store {
    /// Ends a run whose process has died, and one that waits although it was paused or cancelled.
    /// For each timer at a worker's start, when the order number has changed, and once a second
    /// while its record says that something is in progress.
    pub fn recover(
        &self,
        timer: TimerRef<'_>,
        retry: &RetryPolicy,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Recovered {
        let inner = &self.inner;
        if inner.claimed(timer.record) == Claimed::Yes {
            return Recovered::Nothing;
        }
        let seen = match self.read_for(timer) {
            Ok(seen) => seen,
            Err(Unread::Torn) => return Recovered::Again,
            Err(Unread::Lost) => return Recovered::LeftToOwner,
        };
        match seen.claim.progress {
            Progress::Nothing => return Recovered::Nothing,
            Progress::Waiting(..) if seen.claim.fleet.is_some() => {}
            Progress::Waiting(..) if seen.waiting_ends(timer.due_times, clock()).is_none() => {
                return Recovered::Nothing;
            }
            Progress::Waiting(..) => {}
            Progress::Running(attempt) | Progress::Claiming(attempt, _) => {
                // A look at a held lock takes nothing, so that nobody else is refused by it.
                let held = match inner.run_lock_held(timer.record) {
                    Some(held) => held == Held::Elsewhere,
                    None => is_another(inner, &attempt, clock(), timer),
                };
                if held || inner.is_held_elsewhere(timer) {
                    return Recovered::HeldElsewhere(attempt);
                }
            }
        }
        let exclusion = match inner.exclude(timer) {
            Excluded::Others(exclusion) => exclusion,
            Excluded::Us => return Recovered::Again,
            Excluded::LeftToOwner => return Recovered::LeftToOwner,
        };
        let now = clock();
        let lost = timer.record.lost();
        let (record, mut reading) = match self.read_locked(timer.record, now) {
            Ok(reading) => (timer.record, reading),
            Err(Blocked::Lost) if timer.owner == Owner::This => {
                (&lost, inner.local_reading(timer.record))
            }
            Err(Blocked::Repaired | Blocked::Lost) => return Recovered::Nothing,
            Err(Blocked::Again) => return Recovered::Again,
        };
        if let Progress::Running(attempt) = reading.claim.progress {
            if !exclusion.is_locked() && is_another(inner, &attempt, now, timer) {
                return Recovered::HeldElsewhere(attempt);
            }
        }
        let (recovered, result) = match reading.claim.progress {
            Progress::Running(attempt) => {
                let due_times = Some(timer.due_times)
                    .filter(|_| reading.control.presence != Presence::Disabled);
                let next_at = retry.next_at(&attempt, Outcome::Interrupted, due_times, now);
                let next_at = next_at.filter(|next_at| {
                    let wait = Wait { next_at: *next_at, last: interrupted() };
                    reading.claim.progress = Progress::Waiting(attempt, wait);
                    reading.waiting_ends(timer.due_times, now).is_none()
                });
                let result = next_at.is_none().then(|| reading.claim.close(attempt, interrupted()));
                if exclusion.tells_death_of(&attempt) {
                    let name = timer.record.name.clone();
                    inner.notice(Notice::Interrupted {
                        name,
                        attempt,
                        retry_at: next_at,
                        attempts: retry.more.saturating_add(1),
                    });
                }
                (Recovered::Interrupted, result)
            }
            Progress::Waiting(attempt, wait) => {
                // Nobody goes on with what waited for a fleet that the timer is not in any more.
                let left = reading.claim.fleet.map(|_| wait.last);
                let Some(ended) = reading.waiting_ends(timer.due_times, now).or(left) else {
                    return Recovered::Nothing;
                };
                let result = reading.claim.close(attempt, ended);
                (Recovered::Ended(ended.outcome), Some(result))
            }
            Progress::Claiming(..) => {
                // It was never started, and its due time is still to be taken.
                reading.claim.progress = Progress::Nothing;
                (Recovered::Interrupted, None)
            }
            Progress::Nothing => return Recovered::Nothing,
        };
        if inner.write_claim(record, &mut reading.claim, result) == Written::No
            && record.page.is_some()
            && timer.owner == Owner::Other
        {
            inner.forget_claim(record);
        }
        recovered
    }

    /// Drops what lies more than a period ahead of the clock: a clock that was set back has seen
    /// it. To be called when [`decide`](crate::state::decide()) says so.
    pub fn set_back(&self, timer: TimerRef<'_>, clock: &mut dyn FnMut() -> UnixMs) -> Recovered {
        let _exclusion = match self.inner.exclude(timer) {
            Excluded::Others(exclusion) => exclusion,
            Excluded::Us => return Recovered::Again,
            Excluded::LeftToOwner => return Recovered::LeftToOwner,
        };
        let lost = timer.record.lost();
        let (record, claim) = match self.read_locked(timer.record, clock()) {
            Ok(reading) => (timer.record, reading.claim),
            Err(Blocked::Lost) if timer.owner == Owner::This => {
                (&lost, self.inner.local_reading(timer.record).claim)
            }
            Err(Blocked::Again) => return Recovered::Again,
            Err(Blocked::Repaired | Blocked::Lost) => return Recovered::Nothing,
        };
        match self.set_back_locked(TimerRef { record, ..timer }, claim, clock) {
            Err(Blocked::Again) => Recovered::Again,
            _ => Recovered::Nothing,
        }
    }

    /// The same under the run lock, which the caller holds. Each part is judged by the clock as it
    /// is after the part was read under its lock: what others wrote meanwhile is not ahead.
    pub(in crate::state) fn set_back_locked(
        &self,
        timer: TimerRef<'_>,
        mut claim: Box<ClaimPart>,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Result<(), Blocked> {
        let inner = &self.inner;
        let (mut ahead_ms, mut pulled) = (0, false);
        let header_lock = self.lock_header();
        let control_lock = inner.try_edit_lock(CONTROL, timer.record.page);
        let blocked = header_lock.is_none() || control_lock.is_none();
        if let Some(_lock) = header_lock {
            let mut header = self.header_locked(clock());
            let bound = Bound::new(timer, clock());
            let mut changed = bound.pull_pause(&mut header.paused, &mut ahead_ms);
            changed |= bound.pull(header_instants(&mut header), &mut ahead_ms);
            if changed {
                inner.write_header(&mut header);
            }
        }
        if let Some(_lock) = control_lock {
            let mut control = match self.control_locked(timer.record, clock()) {
                Err(Blocked::Lost) if timer.record.page.is_none() => {
                    inner.local_reading(timer.record).control
                }
                read => read?,
            };
            let bound = Bound::new(timer, clock());
            let (queued, gaps) = (control.queued, control.gaps);
            control.queued = queued.filter(|due| *due <= bound.latest);
            control.gaps.retain(|gap| gap.up_to <= bound.latest);
            let mut changed = control.queued != queued || control.gaps != gaps;
            if let Some(at) = control.created_at {
                if at > claim.watermark.due && is_to_come(at, bound.now) {
                    // The first run is still to come, and its due time is born with the record.
                    ahead_ms = ahead_ms.max(at.ms_since(bound.now));
                    control.created_at = Some(bound.now);
                    claim.watermark.due = UnixMs(bound.now.0.saturating_sub(1));
                    (changed, pulled) = (true, true);
                }
            }
            if is_to_come(control.order.at, bound.now) {
                ahead_ms = ahead_ms.max(control.order.at.ms_since(bound.now));
                control.order.at = bound.now;
                changed = true;
            }
            changed |= bound.pull_pause(&mut control.paused, &mut ahead_ms);
            changed |= bound.pull(control_instants(&mut control), &mut ahead_ms);
            if changed {
                inner.write_control(timer.record, &mut control);
            }
        }
        let now = clock();
        let bound = Bound::new(timer, now);
        if let Some(claims) = &timer.record.claims {
            claims.pull_back(bound.latest, bound.newest);
        }
        pulled |= bound.pull([&mut claim.watermark.due].into_iter(), &mut ahead_ms);
        if let Progress::Waiting(attempt, wait) = &mut claim.progress {
            if is_to_come(attempt.started_at, now) {
                let by_ms = attempt.started_at.ms_since(now);
                ahead_ms = ahead_ms.max(by_ms);
                attempt.started_at = now;
                wait.next_at = UnixMs(wait.next_at.0.saturating_sub(by_ms));
                pulled = true;
            }
        }
        if pulled {
            inner.write_claim(timer.record, &mut claim, None);
        }
        if ahead_ms > 0 {
            let name = timer.record.name.clone();
            inner.notice(Notice::ClockSetBack { name, by_ms: ahead_ms });
        }
        if blocked { Err(Blocked::Again) } else { Ok(()) }
    }

    /// Writes down that pauses have expired, so that a clock that is set back brings none of them again.
    pub fn end_pauses(&self, timer: TimerRef<'_>, now: UnixMs) {
        // What cannot be written now is found again at the next look.
        let _ = self.end_pause(timer, now);
        let _ = self.end_pause_of_all(now);
    }

    /// Writes damaged parts of a record anew; for who has waited through all
    /// [`Steps`](crate::state::Steps) for a read that is not torn. `Again` if a lock is held elsewhere.
    pub fn repair(&self, record: &Record, now: UnixMs) -> Recovered {
        let Lock::Taken(_lock) = self.inner.try_run_lock(record) else { return Recovered::Again };
        match self.read_locked(record, now) {
            Err(Blocked::Again) => Recovered::Again,
            _ => Recovered::Nothing,
        }
    }
}

impl Reading {
    /// Without what lies ahead of the clock; for who would have to wait for others to pull it back. A
    /// pause without an end stays.
    #[must_use]
    pub fn without_ahead(mut self, due_times: &dyn DueTimes, now: UnixMs) -> Self {
        let latest = latest_sane(due_times, now);
        let sane = |at: Option<UnixMs>| at.filter(|at| *at <= latest);
        let holds = |paused: Option<Paused>| {
            let paused = paused.filter(|it| it.until.is_none() || !is_to_come(it.since, now));
            paused.map(|paused| Paused { since: paused.since.min(now), ..paused })
        };
        let (control, header) = (&mut self.control, &mut self.header);
        control.not_before = sane(control.not_before);
        control.left_out_up_to = sane(control.left_out_up_to);
        control.last_seen_at = sane(control.last_seen_at);
        control.queued = sane(control.queued);
        control.created_at = control.created_at.filter(|at| !is_to_come(*at, now));
        control.order.at = control.order.at.min(now);
        control.paused = holds(control.paused);
        header.not_before = sane(header.not_before);
        header.paused = holds(header.paused);
        self
    }
}

/// What no instant may lie beyond, and what is put in the place of one that does.
struct Bound {
    now: UnixMs,
    latest: UnixMs,
    newest: UnixMs,
}

impl Bound {
    fn new(timer: TimerRef<'_>, now: UnixMs) -> Self {
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

    /// The same for a pause, which goes on for as long as it was to last.
    fn pull_pause(&self, paused: &mut Option<Paused>, ahead_ms: &mut i64) -> bool {
        let Some(paused) = paused.as_mut().filter(|paused| is_to_come(paused.since, self.now))
        else {
            return false;
        };
        let by_ms = paused.since.ms_since(self.now);
        *ahead_ms = (*ahead_ms).max(by_ms);
        let earlier = |at: UnixMs| UnixMs(at.0.saturating_sub(by_ms));
        *paused = Paused { since: earlier(paused.since), until: paused.until.map(earlier) };
        true
    }
}
