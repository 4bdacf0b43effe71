//! What keeps others from a timer while one worker acts on it: the run lock, and the holder in the
//! memory that the workers of one master share.
//!
//! The lock alone does where locks work. The holder alone does where they fail; it also tells that a
//! worker's last write is still to come.

use std::rc::Rc;
use std::time::Duration;

use crate::schedule::UnixMs;
use crate::state::record::run::{Attempt, Trigger};

use super::access::Lock;
use super::claim::Held;
use super::locked::Locked;
use super::notice::Notice;
use super::shared_claims::{Claimant, HoldResult, SharedClaim};
use super::store::{Inner, Owner, Record, TimerRef};

/// An attempt that exceeds its timeout by this does not end any more.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The right to act on a timer, given back when it is dropped.
pub(in crate::state) struct Exclusion<'a> {
    // Dropped in this order: who gets the lock finds no holder.
    hold: SharedClaimGuard<'a>,
    lock: Option<Locked<&'a Inner>>,
    /// Whether a living process has had the timer for too long.
    taken_over: bool,
}

struct SharedClaimGuard<'a> {
    inner: &'a Inner,
    record: Option<&'a Record>,
}

/// Who may act on a timer.
pub(in crate::state) enum Excluded<'a> {
    /// This worker.
    Others(Exclusion<'a>),
    /// Another one does.
    Us,
    /// Nobody can be excluded by the file, and the timer belongs to another worker.
    LeftToOwner,
}

impl Inner {
    /// Tries to exclude others from a timer.
    pub(in crate::state) fn exclude<'a>(&'a self, timer: TimerRef<'a>) -> Excluded<'a> {
        let lock = match self.try_run_lock(timer.record) {
            Lock::Taken(lock) => Some(lock),
            Lock::Refused => return Excluded::Us,
            Lock::Unknown if timer.owner == Owner::Other => return Excluded::LeftToOwner,
            Lock::Unknown => None,
        };
        let held = timer.record.claims.as_ref().map_or(HoldResult::Here, |claims| {
            claims.hold(self.process.holder(), longest_attempt(timer))
        });
        let taken_over = match held {
            HoldResult::Here => false,
            HoldResult::Elsewhere(..) => return Excluded::Us,
            HoldResult::TakenOver(other, since) => {
                let name = timer.record.name.clone();
                self.notice(Notice::TakenOver { name, pid: other.pid, since });
                true
            }
        };
        Excluded::Others(Exclusion {
            hold: SharedClaimGuard { inner: self, record: Some(timer.record) },
            lock,
            taken_over,
        })
    }

    /// Whether a living process of this master has a run of the timer, or its end still to write.
    pub(in crate::state) fn is_held_elsewhere(&self, timer: TimerRef<'_>) -> bool {
        self.holder_elsewhere(timer).is_some()
    }

    fn holder_elsewhere(&self, timer: TimerRef<'_>) -> Option<(Claimant, Duration)> {
        let held = timer.record.claims.as_ref().and_then(SharedClaim::holder);
        held.filter(|(holder, since)| {
            *holder != self.process.holder() && *since <= longest_attempt(timer) && holder.lives()
        })
    }

    /// Whether the process that makes `attempt` may live; of one of another boot nobody can tell.
    pub(in crate::state) fn may_live(&self, attempt: &Attempt) -> bool {
        attempt.boot != self.process.boot || Claimant { pid: attempt.pid, started: 0 }.lives()
    }

    /// The run of that process, as far as the memory tells that they share.
    pub(in crate::state) fn run_elsewhere(
        &self,
        timer: TimerRef<'_>,
        now: UnixMs,
    ) -> Option<Attempt> {
        let (holder, since) = self.holder_elsewhere(timer)?;
        let claims = timer.record.claims.as_ref()?;
        let since_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Some(Attempt {
            run: claims.run(),
            due: claims.taken().unwrap_or_default(),
            trigger: Trigger::Schedule,
            number: 1,
            pid: holder.pid,
            boot: self.process.boot,
            started_at: UnixMs(now.0.saturating_sub(since_ms)),
        })
    }
}

/// An attempt that takes longer than this is not waited for where no lock tells who makes it.
pub(in crate::state) fn longest_attempt(timer: TimerRef<'_>) -> Duration {
    timer.timeout.saturating_add(STUCK_AFTER)
}

/// Whether `attempt` may be in progress in another process, where no lock tells.
pub(in crate::state) fn is_another(
    inner: &Inner,
    attempt: &Attempt,
    now: UnixMs,
    timer: TimerRef<'_>,
) -> bool {
    attempt.boot == inner.process.boot
        && attempt.pid != inner.process.pid
        && now.since(attempt.started_at) <= longest_attempt(timer)
        && Claimant { pid: attempt.pid, started: 0 }.lives()
}

impl Exclusion<'_> {
    /// Whether the run lock is part of it.
    pub(in crate::state) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Whether the process that made `attempt`, of which the record says that it is running, has died: a
    /// lock that could be taken tells, and where there is none the process itself.
    pub(in crate::state) fn tells_death_of(&self, attempt: &Attempt) -> bool {
        let process = self.hold.inner.process;
        let may_live = attempt.boot == process.boot && attempt.pid != process.pid;
        let lives = || Claimant { pid: attempt.pid, started: 0 }.lives();
        !(self.taken_over || (self.lock.is_none() && may_live && lives()))
    }

    /// Leaves it to a claim, whose drop gives it back.
    pub(in crate::state) fn keep(mut self, inner: &Rc<Inner>, record: &Record) -> Held {
        self.hold.record = None;
        Held::new(inner, record, self.lock.take().map(|lock| lock.keep(inner)))
    }
}

impl Drop for SharedClaimGuard<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.record {
            self.inner.release(record);
        }
    }
}

impl Inner {
    /// Does not hold the timer any more, unless something of its run is still to be written.
    pub(in crate::state) fn release(&self, record: &Record) {
        if let Some(claims) = &record.claims {
            if self.local_record(record, |local| local.claim.is_none()) {
                claims.release(self.process.holder());
            }
        }
    }
}
