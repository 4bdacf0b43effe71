//! What of a decision has to wait for the fleet.

use std::time::Duration;

use super::FleetJob;
use super::reading::ReadFor;
use crate::nginx::log::Level;
use crate::runner::job::Job;
use crate::runner::look::NextStep;
use crate::schedule::UnixMs;
use crate::state::{Decision, Ended, Look, Outcome, Progress, Reading, Scheduled, Trigger, Wanted};

/// While another worker of this host has what is to be ended, or the clock is ahead, the next look comes
/// after this time.
const MUCH_LATER: Duration = Duration::from_secs(1);

impl Job {
    /// What is to be done, for the sake of the fleet, before what was decided; `None` if that is to be done
    /// now.
    pub(in crate::runner) fn before_decision(
        &self,
        decision: Decision,
        reading: &Reading,
        look: &Look<'_>,
    ) -> Option<NextStep> {
        let fleet = self.fleet()?;
        if let Some(due) = fleet.asks_for() {
            if look.around.started.is_some_and(|started| started.due > due) {
                fleet.next_is_due(self);
            }
            return Some(NextStep::Rest);
        }
        if fleet.is_held() && !self.is_running() {
            return self.waiting_before(fleet, decision, reading);
        }
        if fleet.is_ending() {
            // What has come due does not overlap what has ended here, and is not recorded yet.
            return Some(NextStep::Rest);
        }
        fleet.begin_reading(look);
        if let Some(next) = self.note_elsewhere(fleet, reading, look) {
            return Some(next);
        }
        match decision {
            Decision::Claim(Wanted::Due { due, start, trigger }) => {
                let hold_back = (trigger == Trigger::Schedule).then_some(start);
                fleet
                    .read_first(self, due, hold_back, ReadFor::Claim, look)
                    .or_else(|| fleet.waits_for_clock(due))
            }
            Decision::CatchUp { .. } => {
                let due = look.around.started?.due;
                fleet.read_first(self, due, None, ReadFor::Account, look)
            }
            Decision::LeaveOut { up_to, .. } => {
                fleet.read_first(self, up_to, None, ReadFor::Account, look).or_else(|| {
                    // Neither what the fleet has paused is missed, nor what is yet to come.
                    let paused = fleet.is_paused().then_some(NextStep::LookAfter(MUCH_LATER));
                    paused.or_else(|| fleet.waits_for_clock(up_to))
                })
            }
            Decision::Claim(Wanted::Order { .. }) if !fleet.client.is_up() => {
                Some(NextStep::LookAfter(MUCH_LATER))
            }
            Decision::Sleep { .. } => self.repeat(fleet, reading, look),
            // Whoever has it ends it.
            Decision::EndWaiting | Decision::Claim(Wanted::Next { .. }) => {
                Some(NextStep::LookAfter(MUCH_LATER))
            }
            _ => None,
        }
    }

    /// A run of this worker waits for its next attempt, which starts by itself.
    fn waiting_before(
        &self,
        fleet: &FleetJob,
        decision: Decision,
        reading: &Reading,
    ) -> Option<NextStep> {
        let ends = matches!(
            decision,
            Decision::EndWaiting | Decision::Claim(Wanted::Due { .. } | Wanted::Order { .. })
        );
        let Progress::Waiting(attempt, wait) = reading.claim.progress else {
            return Some(NextStep::Rest);
        };
        if ends {
            let is_cancelled = reading.control.cancel == Some(attempt.run);
            let outcome = if is_cancelled { Outcome::Cancelled } else { wait.last.outcome };
            fleet.end_waiting(self, Ended { outcome, ..wait.last });
            return Some(NextStep::Rest);
        }
        match decision {
            Decision::Sleep { .. } => None,
            _ => Some(NextStep::Rest),
        }
    }

    /// Notes what the fleet has handled.
    fn note_elsewhere(
        &self,
        fleet: &FleetJob,
        reading: &Reading,
        look: &Look<'_>,
    ) -> Option<NextStep> {
        let up_to = fleet.known.borrow_mut().elsewhere.take()?;
        let handled = reading.handled_up_to(look.now);
        let next = look.due_times.next(handled)?;
        if up_to.min(look.now) < next {
            return None;
        }
        let edited = self.worker.store.elsewhere(self.timer(), up_to, look.now);
        match edited {
            crate::state::Edited::Done(()) => fleet.tell_elsewhere(self, up_to),
            crate::state::Edited::NotWritten(()) => {}
            crate::state::Edited::Again | crate::state::Edited::Failed => {
                fleet.known.borrow_mut().elsewhere = Some(up_to);
            }
        }
        Some(self.edited(edited))
    }

    /// Claims once more what another host has left, if nothing else is to be done.
    fn repeat(&self, fleet: &FleetJob, reading: &Reading, look: &Look<'_>) -> Option<NextStep> {
        if reading.claim.progress != Progress::Nothing || !self.is_idle() || !fleet.client.is_up() {
            return None;
        }
        if reading.is_paused(look.now) || self.conf.scheduled == Scheduled::Off {
            return None;
        }
        let (last, modified) = fleet.known.borrow_mut().repeats.take()?;
        if fleet.client.is_before_reset(last.due) {
            return None;
        }
        // What comes next takes over.
        let is_newest = look.around.next.is_none_or(|next| look.now < next.start)
            && look.due_times.newest(look.now).is_none_or(|newest| newest <= last.due);
        let run = last.run.filter(|_| is_newest)?;
        let wanted = Wanted::Repetition {
            run,
            due: last.due,
            trigger: Trigger::Schedule,
            attempt: last.attempt.saturating_add(1),
        };
        fleet.known.borrow_mut().repeated = Some(modified);
        Some(self.claim_after_delay(wanted, look))
    }
}

impl FleetJob {
    fn is_paused(&self) -> bool {
        let known = self.known.borrow();
        known.view.as_ref().is_some_and(|view| view.paused().is_some())
    }

    /// Logs who had a due time.
    pub(super) fn tell_elsewhere(&self, job: &Job, up_to: UnixMs) {
        let known = self.known.borrow();
        let last = known.view.as_ref().and_then(|view| view.last.as_ref()).map(|last| &last.value);
        let Some(last) = last.filter(|last| last.due == up_to && last.run.is_some()) else {
            return;
        };
        let (name, node) = (&self.name, last.node.as_str());
        job.conf.location.log().write(
            Level::Info,
            format_args!("timer \"{name}\": due time taken by node \"{node}\""),
        );
    }

    /// A due time that lies ahead of the fleet's clock is left open.
    fn waits_for_clock(&self, due: UnixMs) -> Option<NextStep> {
        self.client.ahead(due).map(|_| NextStep::LookAfter(MUCH_LATER))
    }
}
