//! Claiming: from what is wanted to the attempt that was won, or to whoever was first.

use std::time::{Duration, Instant};

use super::job::{Job, LATER, MUCH_LATER, Turn};
use super::line;
use super::run::new_run_id;
use crate::os::wall_clock;
use crate::schedule::UnixMs;
use crate::state::{ClaimAttempt, DueTimes, Step, Trigger, Wanted};

/// A claim that is contested, between two steps.
pub(super) struct Contest {
    claim: ClaimAttempt,
    place: Option<line::Place>,
    /// The next step is not taken before this.
    not_before: Instant,
}

impl Job {
    pub(super) fn stand_back_or_claim(&self, wanted: Wanted, now: UnixMs) -> Turn {
        if let Wanted::Due { due, trigger: Trigger::Schedule } = wanted {
            let due_times = &self.conf.due_times;
            let period_ms = u64::try_from(due_times.period_ms(due)).unwrap_or(0);
            let period = Duration::from_millis(period_ms);
            let at = due_times.start(due).plus(self.worker.stands_back(&self.conf, period));
            if now < at {
                return Turn::LookAfter(at.since(now));
            }
        }
        // What is in progress here needs no place to be found in the way.
        if self.running.borrow().is_some() {
            return self.claim(wanted, None);
        }
        if let Some(place) = self.worker.line.place() {
            return self.claim(wanted, Some(place));
        }
        if self.waiting.replace(Some(wanted)).is_none() {
            self.worker.line.wait(self.member);
        }
        Turn::Rest
    }

    pub(super) fn claim(&self, wanted: Wanted, place: Option<line::Place>) -> Turn {
        let claim = ClaimAttempt::new(wanted, new_run_id(self.conf.name.as_str()));
        self.contend(Contest { claim, place, not_before: Instant::now() })
    }

    /// Takes the next step of a contested claim, once its time has come.
    pub(super) fn go_on(&self, contest: Contest) -> Turn {
        let left = contest.not_before.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return self.contend(contest);
        }
        self.contest.replace(Some(contest));
        Turn::LookAfter(left)
    }

    /// Tries to claim; an attempt that is won is started.
    fn contend(&self, mut contest: Contest) -> Turn {
        let store = &self.worker.store;
        if contest.place.is_none() && self.running.borrow().is_none() {
            // The attempt in the way has ended meanwhile: a place is needed now.
            return Turn::LookAgain;
        }
        let wanted = contest.claim.wanted();
        match contest.claim.step(store, self.timer(), &mut wall_clock) {
            Step::Won(claim) => {
                self.catch_up_at.set(None);
                self.report.no_overlap();
                if claim.attempt().trigger == Trigger::Missed {
                    let others = self.worker.report_but_left_out().missed;
                    if claim.is_counted() {
                        self.report.missed(&self.conf, others.saturating_add(1));
                    } else {
                        self.tells_missed.set(true);
                    }
                }
                if let Some(place) = contest.place {
                    self.start(claim, place);
                }
                // The end of the attempt has the record looked at again.
                Turn::Rest
            }
            Step::DealtWith => {
                self.catch_up_at.set(None);
                Turn::LookAgain
            }
            Step::Overlap(running) => {
                let now = wall_clock();
                self.watched.set(self.running.borrow().is_none());
                let Wanted::Due { due, .. } = wanted else { return Turn::LookAfter(LATER) };
                let edited = store.overlap(self.timer(), due, self.conf.overlap, now);
                let left_out = self.worker.report_but_left_out();
                self.report_missed(left_out.missed);
                if left_out.overlaps > 0 {
                    let since = now.since(running.started_at);
                    self.report.overlap(&self.conf, left_out.overlaps, since);
                }
                self.edited(edited)
            }
            Step::Again { after } => {
                contest.not_before = Instant::now() + after;
                self.contest.replace(Some(contest));
                Turn::LookAfter(after)
            }
            Step::GaveUp => {
                self.report.contested(&self.conf);
                Turn::LookAfter(LATER)
            }
            Step::Unwritable => Turn::LookAfter(MUCH_LATER),
            Step::LeftToOwner => Turn::Rest,
        }
    }
}
