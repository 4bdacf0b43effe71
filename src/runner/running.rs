//! An attempt in progress: from the claim that was won to the result in the record.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::captured::Captured;
use super::job::{Job, JobState};
use super::report::{End, Ending};
use super::run::Run;
use super::run_queue::Permit;
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::nginx::run::{self, InProgress, Place, Receiver, Request, RequestEnd, Started};
use crate::os::wall_clock;
use crate::state::{Claim, Ended, Finished, Outcome};

/// An attempt in progress.
pub(super) struct Running {
    /// Taken when the attempt ends.
    claim: Cell<Option<Box<Claim>>>,
    run: Rc<Run>,
    since: Instant,
    /// Why it is being cut off, if it is.
    cut_off: Cell<Option<Outcome>>,
    /// How it has ended, if it has, and how long it took.
    ended: Cell<Option<(Ending, Duration)>>,
    /// Unset while it starts.
    goes_on: OnceCell<GoesOn>,
    /// Whether the record was looked at meanwhile: what was found then may have to wait for the end.
    looked_at: Cell<bool>,
    /// The beginning of its response, with `timer_capture`.
    captured: Option<Rc<Captured>>,
    _permit: Permit,
}

/// An attempt that has not ended with its start.
struct GoesOn {
    attempt: InProgress,
    /// Holds an exiting worker until the attempt has ended (HOST-7).
    timeout: EventTimer,
}

/// An attempt that was cut off is cut off again after this time, for as long as something holds
/// it.
const CUT_OFF_AGAIN: Duration = Duration::from_secs(1);

impl Running {
    /// How long it has been in progress.
    pub(super) fn since(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn is_looked_at(&self) {
        self.looked_at.set(true);
    }

    /// Cuts it off because of `why`, unless it is being cut off already; if it starts, once it has
    /// started.
    fn cut_off(&self, why: Outcome) {
        self.cut_off.set(self.cut_off.get().or(Some(why)));
        if let Some(goes_on) = self.goes_on.get() {
            // Again, for as long as something holds it.
            goes_on.timeout.arm(CUT_OFF_AGAIN);
            goes_on.attempt.cut_off();
        }
    }
}

impl Job {
    /// Starts the attempt that `claim` gives the right to.
    pub(super) fn start(&self, claim: Box<Claim>, permit: Permit) {
        let run = Rc::new(Run::new(&self.conf, claim.attempt(), claim.last_success_at()));
        let running = Rc::new(Running {
            claim: Cell::new(Some(claim)),
            run: Rc::clone(&run),
            since: Instant::now(),
            cut_off: Cell::new(None),
            ended: Cell::new(None),
            goes_on: OnceCell::new(),
            looked_at: Cell::new(false),
            captured: Captured::new(self.conf.capture),
            _permit: permit,
        });
        self.enter(JobState::Running(Rc::clone(&running)));

        let request = Request {
            method: &self.conf.method,
            uri: &self.conf.uri,
            host: self.conf.host.as_deref(),
            place: Place::InLocation,
            access: self.conf.access,
            headers: &[],
            body: None,
        };
        let receiver = running.captured.clone().map(|captured| captured as Rc<dyn Receiver>);
        match run::start(self.conf.location, &request, run, receiver) {
            Ok(Started::Ended(end)) => {
                self.end(end);
                self.settle();
            }
            Ok(Started::InProgress(attempt)) => self.go_on_with(&running, attempt),
            Err(why) => self.finish(Ending::NotStarted(why)),
        }
    }

    /// The attempt has started and goes on.
    fn go_on_with(&self, running: &Running, attempt: InProgress) {
        let me = self.me.clone();
        attempt.on_end(move |end| {
            if let Some(job) = me.upgrade() {
                job.end(end);
                job.worker.queue.post_end(job.index);
            }
        });
        let me = self.me.clone();
        let timeout = EventTimer::new(Hold::HoldsExit, move || {
            me.upgrade().map_or(Next::Stop, |job| job.time_out())
        });
        timeout.arm(self.conf.timeout);
        let _ = running.goes_on.set(GoesOn { attempt, timeout });
        if let Some(why) = running.cut_off.get() {
            running.cut_off(why);
        }
    }

    /// Whether an attempt is in progress here.
    pub(super) fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// The worker is about to end.
    pub(super) fn interrupt(&self) {
        let running = self.running();
        self.settle();
        self.finish(Ending::Interrupted);
        // A worker that was told to quit before complains of connections that are open when it ends.
        if let Some(goes_on) = running.as_ref().and_then(|running| running.goes_on.get()) {
            goes_on.attempt.cut_off();
        }
    }

    /// The attempt has taken too long.
    fn time_out(&self) -> Next {
        let Some(running) = self.running() else { return Next::Stop };
        // nginx counts from the beginning of the turn in which the timer was armed.
        let rest = self.conf.timeout.saturating_sub(running.since());
        if !rest.is_zero() {
            return Next::After(rest);
        }
        running.cut_off(Outcome::Timeout);
        Next::After(CUT_OFF_AGAIN)
    }

    /// Cuts the attempt off if it was ordered to be cancelled, in a worker that leaves too.
    pub(super) fn follow_cancel(&self) {
        let Some(running) = self.running() else { return };
        if self.worker.store.is_cancelled(&self.record, running.run.id()) {
            running.cut_off(Outcome::Cancelled);
        }
    }

    fn end(&self, end: RequestEnd) {
        let Some(running) = self.running() else { return };
        let status = end.status;
        let ending = match running.cut_off.get() {
            Some(Outcome::Cancelled) => Ending::Cancelled,
            Some(_) => Ending::TimedOut,
            None if end.closed => Ending::Interrupted,
            None if status == 0 => Ending::NoAnswer,
            None if !self.conf.success.contains(status) => Ending::Failure { status },
            None if end.complete => Ending::Success { status },
            None => Ending::Incomplete { status },
        };
        running.ended.set(Some((ending, running.since())));
    }

    /// Records how the attempt has ended, if it has.
    pub(super) fn settle(&self) {
        let ended = self.running().and_then(|running| running.ended.get());
        if let Some((ending, _)) = ended {
            self.finish(ending);
        }
    }

    /// Records how the attempt ended, and has looked at what comes next.
    fn finish(&self, ending: Ending) {
        let Some(running) = self.running() else { return };
        let Some(claim) = running.claim.take() else { return };
        self.enter(JobState::Idle);
        let duration = running.ended.get().map_or_else(|| running.since(), |(_, took)| took);
        let ended = Ended { outcome: ending.outcome(), status: ending.status(), duration };
        let due_times = &self.conf.due_times;
        let retry = Some(&self.conf.retry).filter(|retry| retry.more > 0);
        let next_at = retry.and_then(|retry| {
            retry.next_at(claim.attempt(), ended.outcome, due_times, wall_clock())
        });
        let mut look_on = running.looked_at.get();
        let captured = running.captured.as_ref().filter(|_| ended.outcome.is_failure());
        let text = captured.map(|captured| captured.text()).unwrap_or_default();
        match claim.finish_with(ended, next_at, &text) {
            Finished::Waiting { .. } => {
                let how = End { ending, took: duration, text: &text };
                self.report.attempt(&self.conf, &running.run, how);
                self.note(|last| last.plain_up_to = None);
                look_on = true;
                if self.is_over() {
                    self.worker.leave_work();
                }
            }
            Finished::Closed { failures_before } => {
                self.notifications.note_error(running.run.id(), || match ending {
                    Ending::NotStarted(why) => why.to_string(),
                    _ => "no response".to_owned(),
                });
                self.notifications.look();
                look_on |= self.notifications.is_used();
                if self.is_over() && self.notifications.is_used() {
                    self.worker.leave_work();
                }
                let how = End { ending, took: duration, text: &text };
                self.report.end(&self.conf, &running.run, how, failures_before);
            }
        }
        self.report_left_out();
        if self.is_over() {
            self.worker.tell_others();
        } else if look_on || self.last_look().plain_up_to.is_none() {
            self.post();
        }
    }
}
