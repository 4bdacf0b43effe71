//! What a worker that has died, or has left, was doing for the fleet.

use super::FleetJob;
use super::asking::Begun;
use super::boot_at;
use super::held::HeldRun;
use crate::fleet::{AttemptEnded, ClaimKind, ClaimRequest, Outcome};
use crate::os::wall_clock;
use crate::runner::job::{Job, JobState};
use crate::runner::look::{LATER, MUCH_LATER, NextStep};
use crate::schedule::UnixMs;
use crate::state::{Attempt, Claim, Ended, FleetClaim, Progress, Resumed, Trigger};
use std::time::Duration;

impl Job {
    /// Goes on with what the record says of another worker of this host, if that is gone; what to do then,
    /// `None` if it is not.
    pub(in crate::runner) fn resume_fleet(
        &self,
        progress: Progress,
        now: UnixMs,
    ) -> Option<NextStep> {
        let fleet = self.fleet()?;
        match self.worker.store.resume_fleet(self.timer(), &mut wall_clock) {
            Resumed::HeldElsewhere(attempt) => {
                self.tell_stuck(&attempt, now);
                None
            }
            Resumed::Nothing | Resumed::Ended => Some(NextStep::LookAgain),
            Resumed::Open(open) => {
                fleet.ask_for(self, open, Begun::Before);
                Some(NextStep::Rest)
            }
            Resumed::Waiting(claim) => {
                let last = match progress {
                    Progress::Waiting(_, wait) => wait.last,
                    // It has begun to wait since.
                    _ => return Some(NextStep::LookAgain),
                };
                fleet.take_over(self, claim, last);
                Some(NextStep::Rest)
            }
            Resumed::Interrupted { attempt, fleet: claim } => {
                if let Some(claim) = claim {
                    fleet.tell_interrupted(self, &attempt, claim);
                }
                self.notifications.look();
                Some(NextStep::LookAgain)
            }
            Resumed::Again => Some(NextStep::LookAfter(LATER)),
            Resumed::Unwritable => Some(NextStep::LookAfter(MUCH_LATER)),
        }
    }
}

impl FleetJob {
    /// Goes on with a run that waits for its next attempt.
    fn take_over(&self, job: &Job, claim: Box<Claim>, last: Ended) {
        let (Some(fleet), Some(next_at)) = (claim.fleet(), claim.waits_until()) else { return };
        let attempt = *claim.attempt();
        let last = AttemptEnded {
            outcome: last.outcome,
            started_at: attempt.started_at,
            duration: last.duration,
            next_at: Some(boot_at(next_at)),
        };
        let run = HeldRun::taken_over(self.won_with(&attempt, fleet), fleet, claim, last);
        self.held.replace(Some(run));
        drop(job.enter(JobState::Held));
        job.drive();
    }

    /// Tells the fleet that a run was interrupted: nobody has to wait for it.
    fn tell_interrupted(&self, job: &Job, attempt: &Attempt, fleet: FleetClaim) {
        let last = AttemptEnded {
            outcome: Outcome::Interrupted,
            started_at: attempt.started_at,
            duration: Duration::ZERO,
            next_at: None,
        };
        self.keep_ending(HeldRun::interrupted(self.won_with(attempt, fleet), fleet, last));
        job.drive();
    }

    /// The claim that a run of this host was won with.
    fn won_with(&self, attempt: &Attempt, fleet: FleetClaim) -> ClaimRequest {
        let by_hand = attempt.trigger == Trigger::Manual;
        let kind = if by_hand { ClaimKind::ByHand } else { ClaimKind::Due };
        self.request(fleet.id, kind, attempt)
    }
}
