//! A look at a timer's record, and what is done about it.

use std::time::Duration;

use super::job::{Job, LONGEST_WAIT, LastLook};
use crate::os::wall_clock;
use crate::schedule::UnixMs;
use crate::state::{
    Attempt, Decision, Edited, Look, Policy, Progress, Reading, Recovered, Scheduled, Store,
    Trigger, Unread, Wanted, decide,
};

/// What comes after a look at the record and one action on it.
pub(super) enum NextStep {
    /// Another look, at once.
    LookAgain,
    /// Another look, then.
    LookAt(UnixMs),
    /// Another look, after this time.
    LookAfter(Duration),
    /// Nothing until something happens.
    Rest,
}

/// An attempt elsewhere that exceeds its timeout by this is one that nobody will cut off.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// After so many looks in a row it goes on after [`LATER`].
const LOOKS: usize = 8;
pub(super) const LATER: Duration = Duration::from_millis(100);
/// Where the file fails, the next look comes after this time.
pub(super) const MUCH_LATER: Duration = Duration::from_secs(1);
/// Where due times are still to be counted, the next look comes after this time at the latest.
const COUNT_ON: Duration = Duration::from_millis(50);

impl Job {
    /// Looks at the record and does what is to be done.
    pub(super) fn dispatch(&self) {
        if !self.is_over() {
            self.dispatch_at(&self.look_now());
        }
    }

    /// The same for one who has just looked at the clock, in a worker that does not leave.
    pub(super) fn dispatch_at(&self, look: &Look<'_>) {
        if let Some(running) = self.running() {
            running.is_looked_at();
        }
        if self.notifications.begins() {
            // What happens from now on is to be told.
            for notify in &self.conf.notify {
                self.worker.store.expect_events(self.timer(), notify.what, look.now);
            }
        }
        let mut next = match self.take_claim() {
            Some(claim) => self.go_on(*claim),
            None => self.claim_unseen(look).unwrap_or(NextStep::LookAgain),
        };
        for _ in 0..LOOKS {
            if !matches!(next, NextStep::LookAgain) {
                break;
            }
            next = self.look_at_record();
        }
        self.report_left_out();
        let scheduled = self.conf.scheduled == Scheduled::On;
        let LastLook { around, uncounted, .. } = *self.last_look();
        let after = match next {
            NextStep::Rest => None,
            NextStep::LookAgain => Some(LATER),
            NextStep::LookAfter(after) => Some(after),
            // The clock comes by itself at the next due time.
            NextStep::LookAt(at)
                if scheduled && around.next.is_none_or(|next| at >= next.start) =>
            {
                None
            }
            NextStep::LookAt(at) => Some(at.since(wall_clock()).min(LONGEST_WAIT)),
        };
        let count_on = uncounted.then_some(COUNT_ON);
        if let Some(after) = after.into_iter().chain(count_on).min() {
            self.set_alarm(after);
        }
        self.tell();
    }

    /// One look at the record, and one action on it.
    fn look_at_record(&self) -> NextStep {
        let store = &self.worker.store;
        let reading = store.read_for(self.timer());
        // Read after the record: what another process wrote is not taken for a step of the clock.
        let look = self.look_now();
        let reading = match reading {
            Ok(reading) => reading,
            Err(Unread::Torn) => {
                return self.wait_a_step(|| {
                    store.repair(&self.record, look.now);
                });
            }
            // Its owner runs it.
            Err(Unread::Lost) => return NextStep::Rest,
        };
        if self.notifications.is_used() && Store::may_have_events(&reading) {
            self.notifications.look();
        }
        let elsewhere = !self.is_ours();
        self.watch(elsewhere && reading.claim.progress != Progress::Nothing);
        self.note(|last| {
            last.uncounted = reading.control.has_uncounted();
            last.plain_up_to = reading.is_plain().then(|| reading.handled_up_to(look.now));
        });
        if elsewhere {
            if let Some(next) = self.look_elsewhere(&reading, look.now) {
                return next;
            }
        }
        if reading.control.has_uncounted() {
            // What is not counted now is counted at the next look.
            let (Edited::Done(()) | Edited::NotWritten(()) | Edited::Again | Edited::Failed) =
                store.count(self.timer(), look.now);
        }
        let pauses = [reading.control.paused, reading.header.paused];
        if pauses.into_iter().flatten().any(|paused| paused.has_expired(look.now)) {
            store.end_pauses(self.timer(), look.now);
        }
        self.follow(&reading, &look)
    }

    /// Something may be in progress in another process, or have been left by one that has died; what to do
    /// then.
    fn look_elsewhere(&self, reading: &Reading, now: UnixMs) -> Option<NextStep> {
        if self.fleet().is_some() {
            let progress = reading.claim.progress;
            return (progress != Progress::Nothing).then(|| self.resume_fleet(progress, now))?;
        }
        if !reading.claim.may_be_left() {
            return None;
        }
        match self.worker.store.recover(self.timer(), &self.conf.retry, &mut wall_clock) {
            Recovered::HeldElsewhere(attempt) => {
                self.tell_stuck(&attempt, now);
                None
            }
            Recovered::Again => Some(self.wait_a_step(|| {})),
            Recovered::LeftToOwner => Some(NextStep::Rest),
            Recovered::Nothing | Recovered::Interrupted | Recovered::Ended(_) => {
                Some(NextStep::LookAgain)
            }
        }
    }

    /// Logs an attempt in another process that nobody will cut off.
    pub(super) fn tell_stuck(&self, attempt: &Attempt, now: UnixMs) {
        let since = now.since(attempt.started_at);
        if since > self.conf.timeout.saturating_add(STUCK_AFTER) {
            self.report.stuck(&self.conf, attempt.pid, since);
        }
    }

    /// Does what is decided on what was read.
    fn follow(&self, reading: &Reading, look: &Look<'_>) -> NextStep {
        let (store, now) = (&self.worker.store, look.now);
        let policy = Policy { missed: self.conf.missed, schedule: self.conf.scheduled };
        let decision = decide(reading, look, policy, self.last_look().catch_up_at);
        if let Some(queued) = self.queued() {
            if !replaces(decision, queued) {
                return NextStep::Rest;
            }
        }
        if let Some(next) = self.before_decision(decision, reading, look) {
            return next;
        }
        match decision {
            Decision::Sleep { until } => until.map_or(NextStep::Rest, NextStep::LookAt),
            Decision::Claim(wanted) => self.claim_after_delay(wanted, look),
            Decision::CatchUp { run_at, until } => {
                self.note(|last| last.catch_up_at = Some(run_at));
                NextStep::LookAt(until)
            }
            Decision::LeaveOut { up_to, kind } => {
                self.edited(store.leave_out(self.timer(), up_to, kind, now))
            }
            Decision::EndWaiting => {
                let recovered = store.recover(self.timer(), &self.conf.retry, &mut wall_clock);
                self.recovered(recovered)
            }
            Decision::DropOrder { number, .. } => {
                self.edited(store.drop_order(self.timer(), number, now))
            }
            Decision::ClockSetBack => match store.set_back(self.timer(), &mut wall_clock) {
                Recovered::Again => self.set_back_later(reading, look),
                recovered => self.recovered(recovered),
            },
        }
    }

    /// Others keep locked what is to be pulled back. After the short waits it is left out of account, and
    /// the timer goes on.
    fn set_back_later(&self, reading: &Reading, look: &Look<'_>) -> NextStep {
        if let Some(after) = self.next_wait() {
            return NextStep::LookAfter(after);
        }
        self.report.locked_too_long(&self.conf);
        let reading = reading.clone().without_ahead(look.due_times, look.now);
        match self.follow(&reading, look) {
            NextStep::LookAgain => NextStep::LookAfter(LATER),
            next => next,
        }
    }

    pub(super) fn edited<T: Copy>(&self, edited: Edited<T>) -> NextStep {
        match edited {
            Edited::Done(_) | Edited::NotWritten(_) => {
                self.waits.take();
                NextStep::LookAgain
            }
            Edited::Again => self.wait_a_step(|| self.report.locked_too_long(&self.conf)),
            Edited::Failed => NextStep::LookAfter(MUCH_LATER),
        }
    }

    fn recovered(&self, recovered: Recovered) -> NextStep {
        match recovered {
            Recovered::Again => self.wait_a_step(|| {}),
            Recovered::LeftToOwner => NextStep::Rest,
            _ => NextStep::LookAgain,
        }
    }

    /// Waits for a lock or a torn read; after the last of the short waits `give_up`.
    fn wait_a_step(&self, give_up: impl FnOnce()) -> NextStep {
        let after = self.next_wait().unwrap_or_else(|| {
            give_up();
            LATER
        });
        NextStep::LookAfter(after)
    }

    /// The next of the short waits; after the last one they begin anew.
    fn next_wait(&self) -> Option<Duration> {
        let mut waits = self.waits.take();
        waits.next().inspect(|_| self.waits.set(waits))
    }
}

/// Whether `decision` is for a newer due time than the one that waits for a permit.
fn replaces(decision: Decision, queued: Wanted) -> bool {
    match (decision, queued) {
        (
            Decision::Claim(Wanted::Due { due, trigger: Trigger::Schedule, .. }),
            Wanted::Due { due: queued, .. },
        ) => due > queued,
        (Decision::Claim(Wanted::Due { .. }), Wanted::Next { .. }) => true,
        _ => false,
    }
}
