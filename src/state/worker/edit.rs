//! What others than the holder of a claim write: pauses, orders, the queue, and the account of
//! what was left out. One read and one write under the edit lock; nothing here waits.

use crate::os::lock::Held;
use crate::schedule::UnixMs;
use crate::state::policy::decide::OverlapPolicy;
use crate::state::policy::due::Reading;
use crate::state::policy::left_out::Counted;
use crate::state::policy::look::newest_started;
use crate::state::record::control::{Control, Order, Paused};
use crate::state::record::format::CONTROL;
use crate::state::record::gaps::LeftOut;
use crate::state::record::header::HeaderControl;
use crate::state::record::run::{Progress, RunId};

use super::access::Unreadable;
use super::locked_read::Blocked;
use super::notice::Notice;
use super::store::{
    Claimed, Inner, LocalRecord, Owner, Record, Store, TimerRef, UNREAD_EDIT_TRIES,
    UNWRITTEN_EDIT_TRIES, Unread, Written,
};

/// The result of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Edited<T> {
    /// It is in the file.
    Done(T),
    /// The lock was refused: to be called again after one of [`Steps`](crate::state::Steps); after the
    /// last of them a POST is 503, and a count is lost with an `error`.
    Again,
    /// It could not be written; this worker alone remembers it, as it is the timer's owner.
    NotWritten(T),
    /// It could not be written, or the record not be read, and the timer belongs to another worker:
    /// nothing was done.
    Failed,
}

/// The result of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// It is pending, with this run id: the one that was given, or that of an order which was
    /// pending already.
    Pending(RunId),
    /// Against it: a run is in progress (for a run), or none is (for a cancel).
    Conflict,
}

/// What an edit does with what it has read.
pub(super) enum Change<T> {
    /// Write it, and answer this.
    Write(T),
    /// Leave it as it is, and answer this.
    Leave(T),
    /// Others are in the way.
    Again,
}

impl Store {
    /// Pauses a timer, until an instant or for ever. What started before and was not taken is counted as missed.
    pub fn pause(&self, timer: TimerRef<'_>, until: Option<UnixMs>, now: UnixMs) -> Edited<()> {
        self.edit_and_raise(timer, now, |reading| {
            let handled = reading.handled_up_to(now);
            let queued = reading.queued(now);
            // What came due in a pause that holds already is none of the timer's.
            let before = reading.paused_since(now).unwrap_or(now).min(now);
            let late = newest_started(timer.due_times, before).filter(|due| *due > handled);
            let control = &mut reading.control;
            let kind = LeftOut::Missed;
            if let Some(due) = late {
                control.leave_out_behind(timer.due_times, handled, queued, due, kind);
            }
            self.inner.count(timer, control);
            pause(&mut control.paused, &mut control.not_before, until, now);
            Change::Write(())
        })
    }

    /// Ends a timer's pause: nothing that came due meanwhile is missed.
    pub fn resume(&self, timer: TimerRef<'_>, now: UnixMs) -> Edited<()> {
        self.edit_and_raise(timer, now, |reading| {
            let control = &mut reading.control;
            resume(&mut control.paused, &mut control.not_before, now);
            Change::Write(())
        })
    }

    /// Pauses all timers of the state.
    pub fn pause_all(&self, until: Option<UnixMs>, now: UnixMs) -> Edited<()> {
        self.edit_header_and_raise(now, |header| {
            pause(&mut header.paused, &mut header.not_before, until, now);
        })
    }

    /// Ends the pause of all timers; each one's own goes on.
    pub fn resume_all(&self, now: UnixMs) -> Edited<()> {
        self.edit_header_and_raise(now, |header| {
            resume(&mut header.paused, &mut header.not_before, now);
        })
    }

    /// Ends a timer's pause that has expired.
    pub(in crate::state) fn end_pause(&self, timer: TimerRef<'_>, now: UnixMs) -> Edited<()> {
        self.edit(timer, now, |reading| {
            let control = &mut reading.control;
            if !control.paused.is_some_and(|paused| paused.has_expired(now)) {
                return Change::Leave(());
            }
            resume(&mut control.paused, &mut control.not_before, now);
            Change::Write(())
        })
    }

    /// The same of the pause of all timers.
    pub(in crate::state) fn end_pause_of_all(&self, now: UnixMs) -> Edited<()> {
        if !self.inner.known_header.get().paused.is_some_and(|paused| paused.has_expired(now)) {
            return Edited::Done(());
        }
        let Some(_lock) = self.lock_header() else { return Edited::Again };
        let mut header = self.header_locked(now);
        if header.paused.is_some_and(|paused| paused.has_expired(now)) {
            resume(&mut header.paused, &mut header.not_before, now);
            if self.inner.write_header(&mut header) == Written::No {
                self.inner.header.set(None);
                return Edited::Failed;
            }
        }
        Edited::Done(())
    }

    /// Orders a run by hand.
    pub fn order_run(&self, timer: TimerRef<'_>, run: RunId, now: UnixMs) -> Edited<Ordered> {
        self.edit_and_raise(timer, now, |reading| {
            if let Progress::Running(_) | Progress::Waiting(..) = reading.claim.progress {
                return Change::Leave(Ordered::Conflict);
            }
            // What the fleet is asked for ends by itself.
            if reading.claim.progress == Progress::Nothing && self.inner.is_locked(timer) {
                // Nobody could carry it out.
                return Change::Again;
            }
            let done = reading.claim.orders_done;
            if let Some(pending) = reading.control.pending_order(done) {
                return Change::Leave(Ordered::Pending(pending.run));
            }
            let number = reading.control.order.number.max(done).saturating_add(1);
            reading.control.order = Order { number, run, at: now };
            Change::Write(Ordered::Pending(run))
        })
    }

    /// Orders the run in progress to be cancelled; a waiting one included.
    pub fn order_cancel(&self, timer: TimerRef<'_>, now: UnixMs) -> Edited<Ordered> {
        self.edit_and_raise(timer, now, |reading| match reading.claim.progress {
            Progress::Running(attempt) | Progress::Waiting(attempt, _) => {
                reading.control.cancel = Some(attempt.run);
                Change::Write(Ordered::Pending(attempt.run))
            }
            Progress::Nothing | Progress::Claiming(..) => Change::Leave(Ordered::Conflict),
        })
    }

    /// Whether `run` has been ordered to be cancelled; for its holder to ask when the order number
    /// has changed.
    pub fn is_cancelled(&self, record: &Record, run: RunId) -> bool {
        let cancel = match self.inner.try_read_control(record) {
            Ok(control) => control.cancel,
            Err(Unreadable::Lost) => self.inner.local_reading(record).control.cancel,
            Err(Unreadable::Torn | Unreadable::Others) => None,
        };
        cancel == Some(run)
    }

    /// Drops an order that no worker took in time.
    pub fn drop_order(&self, timer: TimerRef<'_>, number: u64, now: UnixMs) -> Edited<()> {
        self.edit(timer, now, |reading| {
            match reading.control.pending_order(reading.claim.orders_done) {
                Some(order) if order.number == number => {
                    reading.control.order.run = RunId::default();
                    let name = timer.record.name.clone();
                    self.inner.notice(Notice::OrderDropped { name, run: order.run });
                    Change::Write(())
                }
                _ => Change::Leave(()),
            }
        })
    }

    /// Handles a due time that came while the last run is in progress: leaves it out, or puts
    /// it into the queue's one place. `false` if it had been handled already.
    pub fn overlap(
        &self,
        timer: TimerRef<'_>,
        due: UnixMs,
        policy: OverlapPolicy,
        now: UnixMs,
    ) -> Edited<bool> {
        self.edit(timer, now, |reading| {
            let handled = reading.handled_up_to(now);
            if due <= handled || reading.queued(now).is_some_and(|queued| due <= queued) {
                return Change::Leave(false);
            }
            let (up_to, queued) = match policy {
                OverlapPolicy::Skip => (due, None),
                // The one that waits there now is replaced, and lies before this.
                OverlapPolicy::Queue => (UnixMs(due.0.saturating_sub(1)), Some(due)),
            };
            let control = &mut reading.control;
            control.leave_out(timer.due_times, handled, up_to, LeftOut::Overlap);
            self.inner.count(timer, control);
            control.queued = queued.or(control.queued);
            Change::Write(true)
        })
    }

    /// Leaves out for good all due times up to `up_to` that have not been handled.
    pub fn leave_out(
        &self,
        timer: TimerRef<'_>,
        up_to: UnixMs,
        kind: LeftOut,
        now: UnixMs,
    ) -> Edited<()> {
        self.edit(timer, now, |reading| {
            let handled = reading.handled_up_to(now);
            if up_to <= handled {
                return Change::Leave(());
            }
            if reading.claim.progress == Progress::Nothing && self.inner.is_locked(timer) {
                // Who has locked it may be about to take it. If not, the timer is late.
                return Change::Again;
            }
            if let Progress::Claiming(..) = reading.claim.progress {
                return Change::Again;
            }
            let queued = reading.queued(now).filter(|queued| *queued <= up_to);
            let kind = match reading.claim.progress {
                // Rule "overlap has a process".
                Progress::Running(attempt) if !self.inner.may_live(&attempt) => LeftOut::Missed,
                _ => kind,
            };
            let control = &mut reading.control;
            control.leave_out_behind(timer.due_times, handled, queued, up_to, kind);
            self.inner.count(timer, control);
            Change::Write(())
        })
    }

    /// The fleet has dealt with all due times up to `up_to`; those that have not been handled, and are
    /// not later than `now`, are counted as such.
    pub fn elsewhere(&self, timer: TimerRef<'_>, up_to: UnixMs, now: UnixMs) -> Edited<()> {
        self.edit(timer, now, |reading| {
            let handled = reading.handled_up_to(now);
            // What the clock of this host has not seen yet is looked at when it has.
            let newest = reading.newest_to_account(timer.due_times, now).unwrap_or(handled);
            // What this host asks for itself may be its own.
            let up_to = reading.but_claimed(up_to.min(newest));
            if up_to <= handled {
                return Change::Leave(());
            }
            let control = &mut reading.control;
            control.leave_out(timer.due_times, handled, up_to, LeftOut::Elsewhere);
            self.inner.count(timer, control);
            Change::Write(())
        })
    }

    /// Goes on counting what was left out, 1000 due times per call; while [`Control::has_uncounted`]
    /// says so.
    pub fn count(&self, timer: TimerRef<'_>, now: UnixMs) -> Edited<()> {
        self.edit(timer, now, |reading| {
            if !reading.control.has_uncounted() {
                return Change::Leave(());
            }
            self.inner.count(timer, &mut reading.control);
            Change::Write(())
        })
    }

    /// Raises the order number, so that every worker looks at its timers within a second: for an
    /// exiting worker that leaves a waiting or queued run behind.
    pub fn raise(&self) -> Edited<()> {
        let Some(_lock) = self.lock_header() else { return Edited::Again };
        match self.inner.raise_order_number() {
            Written::Yes => Edited::Done(()),
            Written::No => Edited::Failed,
        }
    }

    /// Edits, and raises the order number. The lock for that is had first: what is refused for want
    /// of it must not have been done.
    fn edit_and_raise<T>(
        &self,
        timer: TimerRef<'_>,
        now: UnixMs,
        change: impl FnOnce(&mut Reading) -> Change<T>,
    ) -> Edited<T> {
        let Some(_lock) = self.lock_header() else { return Edited::Again };
        let edited = self.edit(timer, now, change);
        if let Edited::Done(_) = edited {
            self.inner.raise_order_number();
        }
        edited
    }

    pub(super) fn edit<T>(
        &self,
        timer: TimerRef<'_>,
        now: UnixMs,
        change: impl FnOnce(&mut Reading) -> Change<T>,
    ) -> Edited<T> {
        let (inner, record) = (&self.inner, timer.record);
        let Some(_lock) = inner.try_edit_lock(CONTROL, record.page) else { return Edited::Again };
        let lost = record.lost();
        let (record, mut reading) = match self.read_for_edit(record, now) {
            Ok(reading) => {
                if timer.owner == Owner::This {
                    inner.remember(record, &reading);
                }
                (record, reading)
            }
            Err(Blocked::Again | Blocked::Repaired) => return Edited::Again,
            Err(Blocked::Lost) if timer.owner == Owner::Other => return Edited::Failed,
            Err(Blocked::Lost) if inner.tries_edit_again(record, UNREAD_EDIT_TRIES) => {
                return Edited::Again;
            }
            Err(Blocked::Lost) => (&lost, inner.local_reading(record)),
        };
        match change(&mut reading) {
            Change::Again => Edited::Again,
            Change::Leave(answer) => Edited::Done(answer),
            Change::Write(answer) => {
                let control = &mut reading.control;
                let written = inner.try_write_control(record, control);
                match (written, timer.owner) {
                    (Written::No, Owner::Other) => {
                        inner.forget_control(record);
                        return Edited::Failed;
                    }
                    (Written::No, Owner::This)
                        if inner.tries_edit_again(record, UNWRITTEN_EDIT_TRIES) =>
                    {
                        return Edited::Again;
                    }
                    _ => inner.keep_control(record, control, written),
                }
                if written == Written::No {
                    return Edited::NotWritten(answer);
                }
                inner.local_record(record, LocalRecord::edit_is_done);
                Edited::Done(answer)
            }
        }
    }

    /// Reads a record under its edit lock. The claim part and the header are others' to write: what is
    /// torn is read later.
    fn read_for_edit(&self, record: &Record, now: UnixMs) -> Result<Reading, Blocked> {
        let control = self.control_locked(record, now)?;
        match self.read(record) {
            Ok(seen) => Ok(Reading { control, ..seen }),
            Err(Unread::Torn) => Err(Blocked::Again),
            Err(Unread::Lost) => Err(Blocked::Lost),
        }
    }

    fn edit_header_and_raise(
        &self,
        now: UnixMs,
        change: impl FnOnce(&mut HeaderControl),
    ) -> Edited<()> {
        let Some(_lock) = self.lock_header() else { return Edited::Again };
        let mut header = self.header_locked(now);
        change(&mut header);
        if self.inner.write_header(&mut header) == Written::No {
            self.inner.header.set(None);
            return Edited::Failed;
        }
        self.inner.raise_order_number();
        Edited::Done(())
    }
}

impl Inner {
    /// Whether an edit of a record that has failed is to be tried again in a moment.
    fn tries_edit_again(&self, record: &Record, tries: u32) -> bool {
        record.page.is_some() && self.local_record(record, |local| local.tries_edit_again(tries))
    }

    /// Whether another process has locked a record in which nothing is in progress.
    fn is_locked(&self, timer: TimerRef<'_>) -> bool {
        self.claimed(timer.record) == Claimed::No
            && (self.run_lock_held(timer.record) == Some(Held::Elsewhere)
                || self.is_held_elsewhere(timer))
    }

    /// Counts what was left out and tells; the caller holds the edit lock and writes.
    pub(in crate::state) fn count(&self, timer: TimerRef<'_>, control: &mut Control) {
        let counted = control.count(timer.due_times);
        if counted != Counted::default() {
            self.notice(Notice::LeftOut { name: timer.record.name.clone(), counted });
        }
    }
}

/// Pauses from now on, or goes on with the pause that holds.
fn pause(
    paused: &mut Option<Paused>,
    not_before: &mut Option<UnixMs>,
    until: Option<UnixMs>,
    now: UnixMs,
) {
    let since = match paused {
        Some(paused) if paused.holds(now) => paused.since,
        _ => {
            // What an expired one has handled stays handled.
            resume(paused, not_before, now);
            now
        }
    };
    *paused = Some(Paused { since, until });
}

/// Ends a pause: now, or when it expired.
fn resume(paused: &mut Option<Paused>, not_before: &mut Option<UnixMs>, now: UnixMs) {
    if let Some(paused) = paused.take() {
        let end = paused.until.map_or(now, |until| until.min(now));
        *not_before = (*not_before).max(Some(end));
    }
}
