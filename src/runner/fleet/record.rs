//! What the record and the log have of a run of the fleet.

use std::time::Duration;

use super::FleetJob;
use crate::nginx::log::Level;
use crate::runner::job::Job;
use crate::runner::run_queue::Permit;
use crate::state::{Claim, Ended, Outcome, RunId};

impl Job {
    /// Logs a run that was won, and not started.
    pub(super) fn report_lost(&self, run: RunId, why: &str) {
        let name = &self.conf.name;
        self.conf.location.log().write(
            Level::Error,
            format_args!("timer \"{name}\": run lost: {why}, timer: \"{name}\", run: {run}"),
        );
        self.notifications.look();
    }

    /// Logs a due time that is left out, since a run of another host has been in progress for `since`.
    pub(super) fn tell_overlap(&self, since: Duration) {
        let left_out = self.worker.report_but_left_out();
        self.report_missed(left_out.missed);
        if left_out.overlaps > 0 {
            self.report.overlap(&self.conf, left_out.overlaps, since);
        }
    }

    /// Records how a run ended that waited for its next attempt.
    pub(super) fn record_waiting(&self, claim: Claim, ended: Ended) {
        let run = claim.attempt().run;
        let _ = claim.finish_with(ended, None, "");
        if ended.outcome == Outcome::Lost {
            self.report_lost(run, "given up, the fleet does not answer");
        }
        self.notifications.look();
        self.report_left_out();
    }

    /// An attempt that the fleet has permitted has got its permit.
    pub(in crate::runner) fn start_granted(&self, permit: Permit) {
        if let Some(fleet) = self.fleet() {
            fleet.start_granted(self, permit);
            self.drive();
        }
    }
}

impl FleetJob {
    /// The worker leaves: what another one can go on with is left to it.
    pub(in crate::runner) fn leave(&self, job: &Job) {
        self.leave_claim(job);
        let held = self.held.borrow().clone();
        if let Some(held) = held {
            self.leave_waiting(job, &held);
        }
    }
}
