//! A claim that a fleet is asked for, from the record that says so to the fleet's definite answer; and what
//! a process that died has left of one.

use std::rc::Rc;
use std::time::Duration;

use crate::os::lock::Held as LockHeld;
use crate::schedule::UnixMs;
use crate::state::policy::due::Reading;
use crate::state::policy::fleet::{Account, OpenEnd};
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::format::CONTROL;
use crate::state::record::run::{
    Asked, Attempt, Ended, FleetClaim, Outcome, Progress, RunResult, Trigger,
};

use super::attempt::Step;
use super::claim::{Claim, Held, interrupted};
use super::exclusion::{Excluded, Exclusion};
use super::locked_read::Blocked;
use super::notice::Notice;
use super::store::{Claimed, Inner, Steps, Store, TimerRef, Unread, Written};

/// The right to ask a fleet for one attempt. While it lives, no other process of this host asks; when it
/// is dropped, a successor asks for the same.
///
/// # Invariants
///
/// This worker holds the timer and has its run lock. Nobody else writes the claim part: `part` is what it
/// contains, and says that `attempt` is being claimed.
pub struct OpenClaim {
    held: Held,
    part: Box<ClaimPart>,
    attempt: Attempt,
    asked: Asked,
    steps: Steps,
}

/// The result of ending an [`OpenClaim`].
#[derive(Debug)]
pub enum OpenEnded {
    /// The attempt may start.
    Won(Box<Claim>),
    /// It is over, and so is the run that was lost, if one was.
    Closed,
    /// Due times cannot be counted yet: to be ended once more after this time.
    Again {
        /// How long to wait.
        after: Duration,
        /// What is still to be ended.
        open: Box<OpenClaim>,
    },
    /// That it runs cannot be written: it must not start, and is lost.
    NotWritten(Box<OpenClaim>),
}

/// What was found of a timer of a fleet whose worker may have died.
#[derive(Debug)]
pub enum Resumed {
    /// Nothing that is to be gone on with, or this worker has it.
    Nothing,
    /// Another process has it.
    HeldElsewhere(Attempt),
    /// The fleet is to be asked for this once more.
    Open(Box<OpenClaim>),
    /// A run waits for its next attempt: the fleet is to be told that it goes on here.
    Waiting(Box<Claim>),
    /// Its process had died: it was recorded as interrupted, and the fleet is to be told so.
    Interrupted {
        /// The attempt.
        attempt: Attempt,
        /// Its claim; none if the timer was in no fleet then, or was never started.
        fleet: Option<FleetClaim>,
    },
    /// It waited for an attempt when the timer was in no fleet yet; it has ended as its last attempt.
    Ended,
    /// The record cannot be locked, read or written: nothing is done.
    Unwritable,
    /// A lock was refused, or a read torn: to be called again after one of [`Steps`].
    Again,
}

/// What was found about the account of the due times before a claim.
enum Accounted {
    /// It is written, or there was nothing to be written.
    Yes(Box<Reading>),
    /// The lock of the control part is refused.
    Again(Duration),
    /// It has been for too long, or the part cannot be read.
    No,
}

impl OpenClaim {
    /// Writes that the fleet is being asked; the caller excludes others, and has read `part` meanwhile.
    pub(in crate::state) fn begin(
        inner: &Rc<Inner>,
        timer: TimerRef<'_>,
        mut part: Box<ClaimPart>,
        (attempt, asked): (Attempt, Asked),
        exclusion: Exclusion<'_>,
    ) -> Step {
        part.progress = Progress::Claiming(attempt, asked);
        if inner.write_claim(timer.record, &mut part, None) == Written::No {
            inner.forget_claim(timer.record);
            return Step::Unwritable;
        }
        let held = exclusion.keep(inner, timer.record);
        let steps = Steps::default();
        Step::Asks(Box::new(Self { held, part, attempt, asked, steps }))
    }

    /// What is claimed; its start is that of the claim.
    pub fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// What the fleet is asked for.
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// Does what follows from the fleet's answer.
    pub fn end(
        mut self: Box<Self>,
        timer: TimerRef<'_>,
        end: OpenEnd,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> OpenEnded {
        let reading = match self.account(timer, end, clock) {
            Accounted::Yes(reading) => reading,
            Accounted::Again(after) => return OpenEnded::Again { after, open: self },
            Accounted::No => {
                let name = timer.record.name.clone();
                return match end {
                    // An order that cannot be read may have been carried out.
                    OpenEnd::Won { .. } if self.attempt.trigger == Trigger::Manual => {
                        OpenEnded::NotWritten(self)
                    }
                    OpenEnd::Won { .. } | OpenEnd::Lost { .. } => {
                        self.held.inner.notice(Notice::NotCounted { name });
                        let reading = self.alone();
                        self.conclude(end, &reading, clock())
                    }
                    // The due time is found again.
                    _ => self.close(),
                };
            }
        };
        self.conclude(end, &reading, clock())
    }

    /// Does the same once due times are accounted for.
    fn conclude(self: Box<Self>, end: OpenEnd, reading: &Reading, now: UnixMs) -> OpenEnded {
        match end {
            OpenEnd::Won { created, fence, .. } => {
                let fleet = FleetClaim { id: self.asked.id, created, fence };
                self.win(fleet, reading, now)
            }
            OpenEnd::Lost { .. } => {
                let lost = Ended { outcome: Outcome::Lost, ..interrupted() };
                self.end_unstarted(lost, reading, now)
            }
            OpenEnd::Elsewhere { .. }
            | OpenEnd::Overlap { .. }
            | OpenEnd::Missed { .. }
            | OpenEnd::Paused { .. }
            | OpenEnd::Released => self.close(),
        }
    }

    /// Accounts for the due times that the answer says something of: under the lock of the control part,
    /// unless there is nothing to be written.
    fn account(
        &mut self,
        timer: TimerRef<'_>,
        end: OpenEnd,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Accounted {
        let Held { inner, record, .. } = &self.held;
        let account = Account { attempt: &self.attempt, end, due_times: timer.due_times };
        if let Ok(mut reading) = inner.try_read(record) {
            if !account.leave_out(&mut reading, clock()) {
                return Accounted::Yes(Box::new(reading));
            }
        }
        let store = Store { inner: Rc::clone(inner) };
        if let Some(_lock) = inner.try_edit_lock(CONTROL, record.page) {
            match store.control_locked(record, clock()) {
                Ok(control) => {
                    let mut reading = Reading { control, ..self.alone() };
                    if account.leave_out(&mut reading, clock()) {
                        inner.count(timer, &mut reading.control);
                        inner.write_control(record, &mut reading.control);
                    }
                    return Accounted::Yes(Box::new(reading));
                }
                Err(Blocked::Again) => {}
                Err(Blocked::Lost | Blocked::Repaired) => return Accounted::No,
            }
        }
        self.steps.next().map_or(Accounted::No, Accounted::Again)
    }

    /// What this worker itself knows of the timer.
    fn alone(&self) -> Reading {
        let Held { inner, record, .. } = &self.held;
        let Reading { control, header, .. } = inner.local_reading(record);
        let header = inner.try_read_header().unwrap_or(header);
        Reading { claim: self.part.clone(), control, header }
    }

    fn win(self: Box<Self>, fleet: FleetClaim, reading: &Reading, now: UnixMs) -> OpenEnded {
        let mut part = self.part.clone();
        let attempt = self.start(&mut part, fleet, reading, now);
        let Held { inner, record, .. } = &self.held;
        if inner.write_claim(record, &mut part, None) == Written::No {
            // The record says that it was never started, and a successor would start it.
            inner.forget_claim(record);
            return OpenEnded::NotWritten(self);
        }
        if let Some(claims) = &record.claims {
            claims.attempt(attempt.run, attempt.number);
            claims.order_is_done(part.orders_done);
            if attempt.trigger != Trigger::Manual {
                claims.take(attempt.due);
            }
        }
        let counted = !reading.control.has_uncounted();
        OpenEnded::Won(Box::new(Claim::new(self.held, part, attempt, counted)))
    }

    /// Notes in `part` that the attempt starts.
    fn start(
        &self,
        part: &mut ClaimPart,
        fleet: FleetClaim,
        reading: &Reading,
        now: UnixMs,
    ) -> Attempt {
        let process = self.held.inner.process;
        let (pid, boot) = (process.pid, process.boot);
        let attempt = Attempt { pid, boot, started_at: now, ..self.attempt };
        if attempt.trigger == Trigger::Manual && reading.control.order.run == attempt.run {
            // Rule "order is done".
            part.orders_done = part.orders_done.max(reading.control.order.number);
        }
        let is_accounted =
            !attempt.trigger.is_unscheduled() && attempt.due <= reading.handled_up_to(now);
        part.start_in_fleet(attempt, fleet, is_accounted);
        attempt
    }

    /// A run that nobody has started, and nobody will.
    fn end_unstarted(
        mut self: Box<Self>,
        ended: Ended,
        reading: &Reading,
        now: UnixMs,
    ) -> OpenEnded {
        let mut part = self.part.clone();
        let fleet = FleetClaim { id: self.asked.id, created: 0, fence: 0 };
        let attempt = self.start(&mut part, fleet, reading, now);
        let result = part.close(attempt, ended);
        self.part = part;
        self.write(Some(result));
        OpenEnded::Closed
    }

    fn close(mut self: Box<Self>) -> OpenEnded {
        self.part.progress = Progress::Nothing;
        self.write(None);
        OpenEnded::Closed
    }

    fn write(&mut self, result: Option<RunResult>) {
        let Held { inner, record, .. } = &self.held;
        inner.write_claim(record, &mut self.part, result);
    }

    /// Its process dies: the kernel lets go of the lock, and nothing else happens.
    #[cfg(test)]
    pub(in crate::state) fn die(self) {
        self.held.die();
    }
}

impl std::fmt::Debug for OpenClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenClaim")
            .field("attempt", &self.attempt)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Goes on with what a process that died, or has left, was doing with a timer of a fleet. For each such
    /// timer at a worker's start, and while its record says that something is in progress.
    pub fn resume_fleet(&self, timer: TimerRef<'_>, clock: &mut dyn FnMut() -> UnixMs) -> Resumed {
        let inner = &self.inner;
        if inner.claimed(timer.record) == Claimed::Yes {
            return Resumed::Nothing;
        }
        match self.read(timer.record).map(|seen| seen.claim.progress) {
            Err(Unread::Torn) => return Resumed::Again,
            Err(Unread::Lost) => return Resumed::Unwritable,
            Ok(Progress::Nothing) => return Resumed::Nothing,
            // A look at a held lock takes nothing, so that nobody else is refused by it.
            Ok(
                Progress::Running(attempt)
                | Progress::Waiting(attempt, _)
                | Progress::Claiming(attempt, _),
            ) => match inner.run_lock_held(timer.record) {
                Some(LockHeld::Elsewhere) => return Resumed::HeldElsewhere(attempt),
                Some(_) => {}
                None => return Resumed::Unwritable,
            },
        }
        let exclusion = match inner.exclude(timer) {
            Excluded::Others(exclusion) if exclusion.is_locked() => exclusion,
            Excluded::Us => return Resumed::Again,
            Excluded::Others(_) | Excluded::LeftToOwner => return Resumed::Unwritable,
        };
        let now = clock();
        let mut reading = match self.read_locked(timer.record, now) {
            Ok(reading) => reading,
            Err(Blocked::Repaired) => return Resumed::Nothing,
            Err(Blocked::Again) => return Resumed::Again,
            Err(Blocked::Lost) => return Resumed::Unwritable,
        };
        let claim = &mut reading.claim;
        match (claim.progress, claim.fleet) {
            (Progress::Nothing, _) => Resumed::Nothing,
            (Progress::Running(attempt), fleet) => {
                let result = claim.close(attempt, interrupted());
                let is_told = fleet.is_some_and(FleetClaim::is_told);
                if !is_told && exclusion.tells_death_of(&attempt) {
                    let name = timer.record.name.clone();
                    inner.notice(Notice::Interrupted {
                        name,
                        attempt,
                        retry_at: None,
                        attempts: 1,
                    });
                }
                inner.write_claim(timer.record, claim, Some(result));
                Resumed::Interrupted { attempt, fleet }
            }
            (Progress::Waiting(attempt, wait), None) => {
                let result = claim.close(attempt, wait.last);
                inner.write_claim(timer.record, claim, Some(result));
                Resumed::Ended
            }
            (Progress::Waiting(attempt, _), Some(_)) => {
                let held = exclusion.keep(inner, timer.record);
                Resumed::Waiting(Box::new(Claim::new(held, reading.claim, attempt, true)))
            }
            (Progress::Claiming(attempt, asked), _) => {
                let held = exclusion.keep(inner, timer.record);
                let (part, steps) = (reading.claim, Steps::default());
                let open = Box::new(OpenClaim { held, part, attempt, asked, steps });
                if attempt.boot == inner.process.boot {
                    return Resumed::Open(open);
                }
                open.interrupt(timer, clock)
            }
        }
    }
}

impl OpenClaim {
    /// The machine has been started anew since: whether the fleet has answered nobody knows, and whoever
    /// got the answer is gone. It counts as a run.
    fn interrupt(
        mut self: Box<Self>,
        timer: TimerRef<'_>,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Resumed {
        let attempt = self.attempt;
        let reading = match self.account(timer, OpenEnd::Lost { last: None }, clock) {
            Accounted::Yes(reading) => reading,
            Accounted::Again(_) => return Resumed::Again,
            Accounted::No => return Resumed::Unwritable,
        };
        let name = timer.record.name.clone();
        self.held.inner.notice(Notice::Interrupted { name, attempt, retry_at: None, attempts: 1 });
        // Its claim is that of the attempt; when it would have started nobody knows.
        self.end_unstarted(interrupted(), &reading, attempt.started_at);
        Resumed::Interrupted { attempt, fleet: None }
    }
}
