//! The checks of a worker are made.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::report;
use super::running::RunningCheck;
use super::target::Target;
use super::worker::{CheckWorker, DeadlineFor};
use crate::conf::WorkerChoice;
use crate::health::lanes::LaneOf;
use crate::health::pulse;
use crate::health::records::{Ask, NotClaimed};
use crate::health::verdict::{CheckOutcome, VerdictChange};
use crate::nginx::event::Next;
use crate::nginx::process;
use crate::nginx::upstream::CheckEnd;
use crate::os::monotonic;
use crate::os::process::exists;

/// What another process holds is looked at again after this time.
const HELD: Duration = Duration::from_millis(100);
/// From the timeout of a check to the time at which others may take it over.
const GRACE: Duration = Duration::from_secs(1);
/// A check that took so long had to be waited for.
const SLOW: Duration = Duration::from_millis(500);

impl CheckWorker {
    /// Sets the next due time; if that has come, the check waits for its turn.
    pub(super) fn look(&self, target: &Target) {
        if target.is_gone.get() || !target.is_idle() || process::is_leaving() {
            return;
        }
        let Some(slot) = target.slot() else { return };
        let now = monotonic();
        let (_, start) = target.due(&slot, now);
        let start = start + self.claim_delay(target);
        if now < start {
            return self.set(target.number, start.saturating_sub(now));
        }
        if slot.held_by(now).is_some_and(exists) {
            return self.set(target.number, HELD);
        }
        let lane = LaneOf::new(target.group, target.is_slow.get());
        if self.lanes.borrow_mut().wait(lane, target.number).is_ok() {
            target.wait();
            self.deadlines.borrow_mut().clear(target.number);
        }
    }

    /// How long this worker lets others go first.
    fn claim_delay(&self, target: &Target) -> Duration {
        WorkerChoice::Any.claim_delay(self.slot, self.workers, target.check.interval)
    }

    /// Starts the next check whose turn it is; `false` if there is none.
    pub(super) fn start_one(&self) -> bool {
        let Some((lane, number)) = self.lanes.borrow_mut().start() else { return false };
        let entry = self.entries.borrow().get(number).cloned();
        let Some(DeadlineFor::Target(target)) = entry else {
            self.lanes.borrow_mut().end(lane);
            return true;
        };
        target.rest();
        self.set(number, target.check.interval);
        if target.is_gone.get() {
            self.deadlines.borrow_mut().clear(number);
            self.put(number, DeadlineFor::Nothing);
        } else if self.claim_and_run(&target, lane) {
            return true;
        }
        self.lanes.borrow_mut().end(lane);
        true
    }

    /// Claims the check, and makes it; `false` if it is not made here, or is over.
    fn claim_and_run(&self, target: &Rc<Target>, lane: LaneOf) -> bool {
        let Some(slot) = target.slot() else { return false };
        let now = monotonic();
        let (due, start) = target.due(&slot, now);
        if now < start {
            // Another has made it meanwhile.
            self.set(target.number, start.saturating_sub(now) + self.claim_delay(target));
            return false;
        }
        let deadline = now + target.check.timeout + GRACE;
        let ask = Ask { due, now, deadline, pid: std::process::id(), is_gone: &|pid| !exists(pid) };
        match slot.claim(&ask) {
            Ok(claim) => {
                let running = RunningCheck::new(claim, lane);
                target.run(Rc::clone(&running));
                self.feel_pulse();
                let (me, ended) = (self.me.clone(), Rc::clone(target));
                let on_end = move |end| {
                    if let Some(worker) = me.upgrade() {
                        worker.settle(&ended, end);
                    }
                };
                if let Err(why) = running.start(&target.check, &target.server, on_end) {
                    target.rest();
                    self.record(target, &running, CheckOutcome::Inconclusive, &why.to_string());
                    return false;
                }
                true
            }
            Err(NotClaimed::Taken) => {
                self.set(target.number, Duration::from_millis(1));
                false
            }
            Err(NotClaimed::Held(_)) => {
                self.set(target.number, HELD);
                false
            }
            Err(NotClaimed::Gone) => {
                target.note_slot(None);
                self.refresh(target.group);
                false
            }
        }
    }

    /// A check has ended.
    fn settle(&self, target: &Target, end: CheckEnd) {
        let Some(running) = target.running() else { return };
        self.note_late(Instant::now());
        let took = running.since(Instant::now());
        target.rest();
        self.lanes.borrow_mut().end(running.lane);
        target.is_slow.set(matches!(end, CheckEnd::TimedOut(_)) || took >= SLOW);
        if target.is_gone.get() {
            self.put(target.number, DeadlineFor::Nothing);
        } else {
            // The next due time first.
            self.set(target.number, Duration::ZERO);
        }
        let (outcome, reason) = match end {
            CheckEnd::Passed => (CheckOutcome::Passed, String::new()),
            CheckEnd::TimedOut(_) if running.stood_still.excuses(target.check.timeout) => {
                (CheckOutcome::Inconclusive, "this worker was late".to_owned())
            }
            CheckEnd::Failed(reason) | CheckEnd::TimedOut(reason) => (CheckOutcome::Failed, reason),
            CheckEnd::Inconclusive(reason) => (CheckOutcome::Inconclusive, reason),
        };
        self.record(target, &running, outcome, &reason);
        self.posted.post_next();
    }

    /// Writes the result down, marks the server if that changes it, and tells of it.
    fn record(&self, target: &Target, running: &RunningCheck, outcome: CheckOutcome, reason: &str) {
        let Some(recorded) = running.end(&target.check, outcome, reason) else { return };
        if matches!(recorded.change, VerdictChange::Healthy | VerdictChange::Unhealthy) {
            self.note_change(target.group);
        }
        report::end(target, outcome, reason, &recorded);
        self.tell_of_group(target.group);
    }

    /// The checks in progress here.
    pub(super) fn running(&self) -> impl Iterator<Item = (Rc<Target>, Rc<RunningCheck>)> {
        let running: Vec<_> = {
            let entries = self.entries.borrow();
            let targets = entries.iter().filter_map(|entry| match entry {
                DeadlineFor::Target(target) => Some(target),
                DeadlineFor::Group(_) | DeadlineFor::Nothing => None,
            });
            let running = targets.filter_map(|target| Some((Rc::clone(target), target.running()?)));
            running.collect()
        };
        running.into_iter()
    }

    /// Has the pulse felt from now on, while checks are in progress.
    fn feel_pulse(&self) {
        if self.lanes.borrow().running() == 1 {
            self.pulse.beat(Instant::now());
            self.beat.arm(pulse::EVERY);
        }
    }

    pub(super) fn beat(&self) -> Next {
        self.note_late(Instant::now());
        if process::is_leaving() {
            self.running().for_each(|(_, running)| running.cut_off());
        }
        let goes_on = self.lanes.borrow().running() > 0;
        if goes_on { Next::After(pulse::EVERY) } else { Next::Stop }
    }

    /// Notes for all checks in progress whether this worker was late.
    fn note_late(&self, now: Instant) {
        let late = self.pulse.beat(now);
        if !late.is_zero() {
            self.running().for_each(|(_, running)| {
                running.stood_still.note(late, running.since(now));
            });
        }
    }
}
