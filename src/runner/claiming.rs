//! Claiming: from what is wanted to the attempt that was won, or to whoever was first.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::job::{Job, JobState};
use super::look::{LATER, MUCH_LATER, NextStep};
use super::run::new_run_id;
use super::run_queue::Permit;
use super::running::Running;
use crate::conf::WorkerChoice;
use crate::os::wall_clock;
use crate::state::{Claim, ClaimAttempt, Look, Step, Trigger, Wanted};

/// A claim whose lock was refused, between two steps.
pub(super) struct PendingClaim {
    claim: ClaimAttempt,
    permit: Permit,
    /// The next step is not taken before this.
    not_before: Option<Instant>,
}

impl Job {
    /// Claims a due time that has just started, if the record was plain when it was looked at last: it
    /// is looked at under the lock only.
    pub(super) fn claim_unseen(&self, look: &Look<'_>) -> Option<NextStep> {
        // What others may have taken already is looked at before it is locked.
        let others_take_part = self.conf.worker == WorkerChoice::Any || self.fleet().is_some();
        let plain_up_to = self.last_look().plain_up_to.filter(|_| !others_take_part)?;
        look.around.started.filter(|started| started.due > plain_up_to)?;
        if !self.is_idle() {
            return None;
        }
        let claim = ClaimAttempt::unseen(look, new_run_id(self.conf.name.as_str()))?;
        let permit = self.worker.queue.permit()?;
        Some(self.try_to_claim(PendingClaim { claim, permit, not_before: None }))
    }

    /// Claims what a look at the record has shown, once it is this worker's turn.
    pub(super) fn claim_after_delay(&self, wanted: Wanted, look: &Look<'_>) -> NextStep {
        if let Wanted::Due { start, trigger: Trigger::Schedule, .. } = wanted {
            let period_ms = u64::try_from(look.period_ms()).unwrap_or(0);
            let period = Duration::from_millis(period_ms);
            let at = start.plus(self.worker.claim_delay(&self.conf, period));
            if look.now < at {
                return NextStep::LookAfter(at.since(look.now));
            }
        }
        if let Some(running) = self.running() {
            return self.overlap(wanted, &running);
        }
        if let Some(permit) = self.worker.queue.permit() {
            return self.claim(wanted, permit, look);
        }
        if !matches!(self.enter(JobState::Queued(wanted)), JobState::Queued(_)) {
            self.worker.queue.wait(self.index);
        }
        NextStep::Rest
    }

    pub(super) fn claim(&self, wanted: Wanted, permit: Permit, look: &Look<'_>) -> NextStep {
        let claim = match self.fleet() {
            Some(fleet) => fleet.attempt(wanted, look),
            None => ClaimAttempt::new(wanted, new_run_id(self.conf.name.as_str()), look),
        };
        self.try_to_claim(PendingClaim { claim, permit, not_before: None })
    }

    /// Takes the next step of a pending claim, once its time has come.
    pub(super) fn go_on(&self, pending: PendingClaim) -> NextStep {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let left = pending.not_before.map(left).unwrap_or_default();
        if left.is_zero() {
            return self.try_to_claim(pending);
        }
        self.enter(JobState::Claiming(Box::new(pending)));
        NextStep::LookAfter(left)
    }

    /// Tries to claim; an attempt that is won is started.
    fn try_to_claim(&self, mut pending: PendingClaim) -> NextStep {
        let store = &self.worker.store;
        let wanted = pending.claim.wanted();
        let plain_up_to = self.last_look().plain_up_to;
        self.note(|last| last.plain_up_to = None);
        match pending.claim.step(store, self.timer(), &mut wall_clock) {
            Step::Won(claim) => {
                let handled = match wanted {
                    Wanted::Due { due, .. } => Some(due),
                    Wanted::Next { .. } | Wanted::Order { .. } | Wanted::Repetition { .. } => None,
                };
                self.has_won(&claim);
                self.note(|last| last.plain_up_to = plain_up_to.and(handled));
                self.start(claim, pending.permit);
                NextStep::Rest
            }
            Step::Asks(open) => self.ask_fleet(open),
            Step::Handled | Step::Unfinished => {
                self.note(|last| last.catch_up_at = None);
                NextStep::LookAgain
            }
            Step::Overlap(running) => {
                self.watch(true);
                self.leave_out_overlap(wanted, wall_clock().since(running.started_at))
            }
            Step::Again { after } => {
                pending.not_before = Some(Instant::now() + after);
                self.enter(JobState::Claiming(Box::new(pending)));
                NextStep::LookAfter(after)
            }
            Step::GaveUp => {
                self.report.locked_too_long(&self.conf);
                NextStep::LookAfter(LATER)
            }
            // Only of a timer of a fleet.
            Step::Unwritable => NextStep::LookAfter(MUCH_LATER),
            Step::LeftToOwner => NextStep::Rest,
        }
    }

    /// Tells what was left out before the attempt that was won.
    pub(super) fn has_won(&self, claim: &Claim) {
        self.note(|last| last.catch_up_at = None);
        self.report.no_overlap();
        if claim.attempt().trigger == Trigger::Missed {
            self.notifications.look();
            let others = self.worker.report_but_left_out().missed;
            if claim.is_counted() {
                self.report.missed(&self.conf, others.saturating_add(1));
            } else {
                self.note(|last| last.tells_missed = true);
            }
        }
        // The run may end with its start.
        self.report_left_out();
    }

    /// The attempt in progress here is in the way.
    fn overlap(&self, wanted: Wanted, running: &Rc<Running>) -> NextStep {
        self.watch(false);
        self.leave_out_overlap(wanted, running.since())
    }

    /// Leaves a due time out, or queues it, as a run has been in progress for `since`.
    fn leave_out_overlap(&self, wanted: Wanted, since: Duration) -> NextStep {
        let Wanted::Due { due, .. } = wanted else { return NextStep::LookAfter(LATER) };
        let store = &self.worker.store;
        let edited = store.overlap(self.timer(), due, self.conf.overlap, wall_clock());
        let left_out = self.worker.report_but_left_out();
        self.report_missed(left_out.missed);
        if left_out.overlaps > 0 {
            self.report.overlap(&self.conf, left_out.overlaps, since);
        }
        self.edited(edited)
    }
}
