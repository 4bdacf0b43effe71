//! Claiming: at most one process makes an attempt, and each due time is taken once. The rules are those
//! of docs/protocol.md.
//!
//! ```text
//! read -> handled? ---------------------------------------------------> Handled
//!   |
//!   +--> exclude others -- done --> read again, decide, write --------> Won | Handled
//!              |
//!              +-- refused --> the same attempt is running now, 2 ms and 20 ms later, and its process lives
//!                                 | yes                  | no
//!                              Overlap      Again after 1, 2 ... 64 ms, then GaveUp
//! ```
//!
//! Where the file fails, only the timer's owner goes on: without a lock, with what it remembers, or
//! without writing. What was claimed is then known from the memory that the workers share.

use std::time::Duration;

use crate::schedule::UnixMs;
use crate::state::policy::decide::Wanted;
use crate::state::policy::due::Reading;
use crate::state::policy::look::{Around, Due, Look};
use crate::state::record::format::CONTROL;
use crate::state::record::gaps::LeftOut;
use crate::state::record::run::{Asked, Attempt, Progress, RunId, Trigger};

use super::access::Unreadable;
use super::claim::{Claim, close_last};
use super::exclusion::{Excluded, Exclusion, is_another};
use super::locked_read::Blocked;
use super::notice::Notice;
use super::open_claim::OpenClaim;
use super::store::{Claimed, Inner, Owner, Steps, Store, TimerRef, Unread, Written};

/// A claim that is being tried; between two steps its caller waits.
#[derive(Debug)]
pub struct ClaimAttempt {
    wanted: Wanted,
    run: RunId,
    /// What a fleet is asked for first.
    fleet: Option<Asked>,
    around: Around,
    known: Expected,
    /// Whether the record is looked at before the lock is tried.
    looks_first: bool,
    steps: Steps,
    seen_running: Option<SeenRunning>,
    /// Whether all that was left out for this has been counted.
    counted: bool,
}

/// What is known of the record before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// What is wanted was decided by what it said.
    Seen,
    /// It was plain, and must still be.
    Plain,
}

/// The attempt that was seen running while the lock was refused.
#[derive(Clone, Copy, Debug)]
struct SeenRunning {
    run: RunId,
    number: u32,
    looks: Looks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Once,
    Twice,
}

/// The result of a step of a [`ClaimAttempt`].
#[derive(Debug)]
pub enum Step {
    /// The attempt is this worker's to make.
    Won(Box<Claim>),
    /// The fleet is to be asked for it.
    Asks(Box<OpenClaim>),
    /// A process that died has left something of this timer of a fleet:
    /// [`Store::resume_fleet`](crate::state::Store::resume_fleet) first.
    Unfinished,
    /// It was handled elsewhere, or must not start now: decide anew.
    Handled,
    /// The last run is in progress: [`Store::overlap`](crate::state::Store::overlap), if a due time was
    /// wanted.
    Overlap(Attempt),
    /// Call again after this time.
    Again {
        /// How long to wait.
        after: Duration,
    },
    /// The record was locked for too long: the timer is late, with an `error`.
    GaveUp,
    /// The file does not say who runs it, and another worker is to.
    LeftToOwner,
    /// It cannot be written, and may have been taken before this process was there by one that could
    /// not write it either, or is to be asked of a fleet: it has to wait.
    Unwritable,
}

/// After the first look at a refused lock,
const SECOND_LOOK: Duration = Duration::from_millis(2);
/// and after the second one: 20 ms after the first.
const THIRD_LOOK: Duration = Duration::from_millis(18);
/// How often to look whether the fleet has answered another worker.
const WHILE_ASKED: Duration = Duration::from_millis(50);

impl ClaimAttempt {
    /// Begins to claim what was decided at a look; `run` is the id of the run, if this is a new one.
    pub fn new(wanted: Wanted, run: RunId, look: &Look<'_>) -> Self {
        Self {
            wanted,
            run,
            fleet: None,
            around: look.around,
            known: Expected::Seen,
            looks_first: true,
            steps: Steps::default(),
            seen_running: None,
            counted: true,
        }
    }

    /// Begins to claim the newest due time that has started, of a timer whose record was
    /// [plain](Reading::is_plain) when it was looked at last. If it is not any more, nothing is done.
    /// `None` if that due time is none to run by schedule.
    pub fn unseen(look: &Look<'_>, run: RunId) -> Option<Self> {
        let Due { due, start } = look.around.started?;
        let wanted = Wanted::Due { due, start, trigger: Trigger::Schedule };
        let in_time = look.now.ms_since(start) <= look.missed_after_ms();
        in_time.then(|| Self {
            known: Expected::Plain,
            looks_first: false,
            ..Self::new(wanted, run, look)
        })
    }

    /// The same of a timer of a fleet, which is asked before anything starts.
    pub fn for_fleet(wanted: Wanted, run: RunId, asked: Asked, look: &Look<'_>) -> Self {
        Self { fleet: Some(asked), ..Self::new(wanted, run, look) }
    }

    /// What is claimed.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Tries. `clock` is asked for the wall clock before and after the lock is taken: a process
    /// that was off the processor in between must not take its stale clock for a step.
    pub fn step(
        &mut self,
        store: &Store,
        timer: TimerRef<'_>,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Step {
        let inner = &store.inner;
        // Rule "table of claims".
        let is_ours = inner.claimed(timer.record) == Claimed::Yes;
        if is_ours && self.known == Expected::Plain {
            return Step::Handled;
        }
        let seen = self.looks_first.then(|| store.read_for(timer));
        if is_ours {
            return match seen.map(|seen| seen.map(|reading| reading.claim.progress)) {
                Some(Ok(Progress::Running(attempt))) => Step::Overlap(attempt),
                Some(Ok(Progress::Claiming(..))) => Step::Again { after: WHILE_ASKED },
                _ => Step::Handled,
            };
        }
        // Whoever refuses the lock is worth a look.
        self.looks_first = true;
        match &seen {
            Some(Ok(reading)) => {
                let now = clock();
                if !reading.may_start(self.wanted, timer.due_times, now)
                    && !reading.is_ahead(timer.due_times, now)
                {
                    return Step::Handled;
                }
            }
            Some(Err(Unread::Lost)) => return Step::LeftToOwner,
            Some(Err(Unread::Torn)) | None => {}
        }
        let exclusion = match inner.exclude(timer) {
            // What the record cannot exclude is not asked for.
            Excluded::Others(exclusion) if self.fleet.is_some() && !exclusion.is_locked() => {
                return Step::Unwritable;
            }
            Excluded::Others(exclusion) => exclusion,
            Excluded::Us => {
                let now = clock();
                let progress = match inner.run_elsewhere(timer, now) {
                    // What this worker remembers of its own says nothing about others.
                    Some(attempt) if store.read(timer.record) == Err(Unread::Lost) => {
                        Some(Progress::Running(attempt))
                    }
                    _ => store.read_for(timer).ok().map(|reading| reading.claim.progress),
                };
                return self.refused(inner, progress);
            }
            Excluded::LeftToOwner => return Step::LeftToOwner,
        };
        // Rules "clock under lock" and "reread under lock".
        let now = clock();
        let reading = match store.read_locked(timer.record, now) {
            Ok(reading) => reading,
            Err(Blocked::Repaired) => return Step::Handled,
            Err(Blocked::Again) => return self.again(),
            Err(Blocked::Lost) if self.fleet.is_some() => return Step::Unwritable,
            Err(Blocked::Lost) if timer.owner == Owner::Other => return Step::LeftToOwner,
            Err(Blocked::Lost) => {
                let reading = inner.local_reading(timer.record);
                let record = &timer.record.lost();
                let local = TimerRef { record, ..timer };
                return self.decide_locked(store, local, exclusion, reading, now, clock);
            }
        };
        if self.known == Expected::Plain && !reading.is_plain() {
            return Step::Handled;
        }
        if let Progress::Running(attempt) = reading.claim.progress {
            if !exclusion.is_locked() && is_another(inner, &attempt, now, timer) {
                return self.refused(inner, Some(reading.claim.progress));
            }
        }
        self.decide_locked(store, timer, exclusion, reading, now, clock)
    }

    fn refused(&mut self, inner: &Inner, progress: Option<Progress>) -> Step {
        let running = match progress {
            Some(Progress::Running(running)) => running,
            // It may take long, and nothing follows from it.
            Some(Progress::Claiming(..)) => return Step::Again { after: WHILE_ASKED },
            // Who has it keeps it until its end.
            Some(Progress::Waiting(..)) if self.fleet.is_some() => {
                return Step::Again { after: WHILE_ASKED };
            }
            _ => {
                self.seen_running = None;
                return self.again();
            }
        };
        if self.known == Expected::Plain {
            return Step::Handled;
        }
        // Rule "overlap has a process": whoever has the lock may be about to find out that it died.
        if !inner.may_live(&running) {
            return self.again();
        }
        // Rule "overlap is seen thrice".
        let seen_running = |looks| SeenRunning { run: running.run, number: running.number, looks };
        let same = self.seen_running.filter(|seen_running| {
            (seen_running.run, seen_running.number) == (running.run, running.number)
        });
        match (self.seen_running, same.map(|seen_running| seen_running.looks)) {
            (None, _) => {
                self.seen_running = Some(seen_running(Looks::Once));
                Step::Again { after: SECOND_LOOK }
            }
            (_, Some(Looks::Once)) => {
                self.seen_running = Some(seen_running(Looks::Twice));
                Step::Again { after: THIRD_LOOK }
            }
            (_, Some(Looks::Twice)) => Step::Overlap(running),
            (Some(_), None) => {
                self.seen_running = None;
                self.again()
            }
        }
    }

    fn again(&mut self) -> Step {
        self.steps.next().map_or(Step::GaveUp, |after| Step::Again { after })
    }

    fn decide_locked(
        &mut self,
        store: &Store,
        timer: TimerRef<'_>,
        exclusion: Exclusion<'_>,
        mut reading: Reading,
        mut now: UnixMs,
        clock: &mut dyn FnMut() -> UnixMs,
    ) -> Step {
        let inner = &store.inner;
        if self.fleet.is_some() && reading.claim.progress != Progress::Nothing {
            return Step::Unfinished;
        }
        let mut counts = true;
        if reading.is_ahead(timer.due_times, now) {
            // Others write the control part meanwhile: only a clock that is read after the record
            // can tell.
            now = clock();
            if reading.is_ahead(timer.due_times, now) {
                match store.set_back_locked(timer, reading.claim, clock) {
                    Err(Blocked::Again) => {}
                    Ok(()) | Err(Blocked::Repaired | Blocked::Lost) => return Step::Handled,
                }
                if let Some(after) = self.steps.next() {
                    return Step::Again { after };
                }
                // What others keep locked for too long is pulled back later; the run does not wait for it.
                let Ok(seen) = store.read_locked(timer.record, now) else { return Step::GaveUp };
                reading = seen.without_ahead(timer.due_times, now);
                counts = false;
            }
        }
        if !reading.may_start(self.wanted, timer.due_times, now) {
            return Step::Handled;
        }
        if let Some(asked) = self.fleet {
            let Some(attempt) = self.wanted.attempt(self.run, inner.process, &reading, now) else {
                return Step::Handled;
            };
            return OpenClaim::begin(inner, timer, reading.claim, (attempt, asked), exclusion);
        }
        match self.wanted {
            Wanted::Due { due, trigger, .. } if trigger != Trigger::First && counts => {
                if let Some(stopped) = self.pass_over(inner, timer, &reading, due, now) {
                    return stopped;
                }
            }
            _ => {}
        }
        let Some(attempt) = self.wanted.attempt(self.run, inner.process, &reading, now) else {
            return Step::Handled;
        };
        // Rule "order is done".
        if let Wanted::Order { number } = self.wanted {
            reading.claim.orders_done = number;
        }
        let known_since = self.wanted.known_since(&reading);
        let (interrupted, ended) = close_last(&mut reading.claim, attempt.run);
        reading.claim.start(attempt);
        if inner.write_claim(timer.record, &mut reading.claim, ended) == Written::No
            && timer.record.page.is_some()
        {
            if timer.owner == Owner::Other {
                inner.forget_claim(timer.record);
                return Step::LeftToOwner;
            }
            if known_since <= inner.attached_at {
                inner.forget_claim(timer.record);
                return Step::Unwritable;
            }
        }
        if let Some(claims) = &timer.record.claims {
            claims.attempt(attempt.run, attempt.number);
            match self.wanted {
                Wanted::Due { due, .. } => claims.take(due),
                Wanted::Order { number } => claims.order_is_done(number),
                Wanted::Next { .. } | Wanted::Repetition { .. } => {}
            }
        }
        if let Some(attempt) = interrupted {
            if exclusion.tells_death_of(&attempt) {
                let name = timer.record.name.clone();
                inner.notice(Notice::Interrupted { name, attempt, retry_at: None, attempts: 1 });
            }
        }
        // Rule "lock is held".
        let held = exclusion.keep(inner, timer.record);
        Step::Won(Box::new(Claim::new(held, reading.claim, attempt, self.counted)))
    }

    /// Leaves out for good what lies between the last due time that was handled and `due`, and
    /// counts it; not, if others have locked the record for too long. The claim stops if that cannot
    /// be written down yet, or if `due` itself has been left out meanwhile.
    fn pass_over(
        &mut self,
        inner: &Inner,
        timer: TimerRef<'_>,
        reading: &Reading,
        due: UnixMs,
        now: UnixMs,
    ) -> Option<Step> {
        let handled = reading.handled_up_to(now);
        let look = Look { due_times: timer.due_times, around: self.around, now };
        if look.follows(handled, due) {
            return None;
        }
        let Some(_lock) = inner.try_edit_lock(CONTROL, timer.record.page) else {
            return self.not_counted(inner, timer);
        };
        let control = match inner.try_read_control(timer.record) {
            Ok(control) => control,
            Err(Unreadable::Lost) if timer.record.page.is_none() => reading.control.clone(),
            Err(_) => return self.not_counted(inner, timer),
        };
        let mut reading = Reading { control, ..reading.clone() };
        let handled = reading.handled_up_to(now);
        if handled >= due {
            return Some(Step::Handled);
        }
        // What a newer one replaces in the queue is an overlap; what nobody saw was missed.
        let queued = reading.queued(now).filter(|queued| *queued < due);
        let up_to = UnixMs(due.0.saturating_sub(1));
        let control = &mut reading.control;
        let kind = LeftOut::Missed;
        control.leave_out_behind(timer.due_times, handled, queued, up_to, kind);
        inner.count(timer, control);
        self.counted = !control.has_uncounted();
        inner.write_control(timer.record, control);
        None
    }

    /// What is due is worth more than the account of what was not.
    fn not_counted(&mut self, inner: &Inner, timer: TimerRef<'_>) -> Option<Step> {
        let Some(after) = self.steps.next() else {
            inner.notice(Notice::NotCounted { name: timer.record.name.clone() });
            return None;
        };
        Some(Step::Again { after })
    }
}
