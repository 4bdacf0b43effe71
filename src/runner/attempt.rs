//! An attempt: from the claim that was won to the result in the record.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::job::Job;
use super::line;
use super::report::Ending;
use super::run::Run;
use crate::nginx::event::{Hold, Next, Timer};
use crate::nginx::run::{self, End, InProgress, Request};
use crate::os::wall_clock;
use crate::state::{Claim, Ended, Finished, Outcome};

/// An attempt in progress.
pub(super) struct Running {
    claim: Claim,
    run: Rc<Run>,
    since: Instant,
    /// Why it is being cut off, if it is.
    cut_off: Option<Outcome>,
    /// How it has ended, if it has, and how long it took.
    ended: Option<(Ending, Duration)>,
    /// `None` while it starts.
    attempt: Option<Rc<InProgress>>,
    /// Holds an exiting worker until the attempt has ended (HOST-7).
    timeout: Timer,
    _place: line::Place,
}

/// An attempt that was cut off is cut off again after this time, for as long as something holds
/// it.
const CUT_OFF_AGAIN: Duration = Duration::from_secs(1);

impl Job {
    /// Starts the attempt that `claim` gives the right to.
    pub(super) fn start(&self, claim: Claim, place: line::Place) {
        let name = self.conf.name.as_str();
        let run = Rc::new(Run::new(name, claim.attempt(), claim.last_success_at()));
        let me = self.me.clone();
        let timeout = Timer::new(Hold::HoldsExit, move || {
            me.upgrade().map_or(Next::Stop, |job| job.time_out())
        });
        timeout.arm(self.conf.timeout);
        self.running.replace(Some(Running {
            claim,
            run: Rc::clone(&run),
            since: Instant::now(),
            cut_off: None,
            ended: None,
            attempt: None,
            timeout,
            _place: place,
        }));

        let request = Request {
            method: &self.conf.method,
            uri: &self.conf.uri,
            host: self.conf.host.as_deref(),
            access: self.conf.access,
        };
        let me = self.me.clone();
        let on_end = move |end| {
            if let Some(job) = me.upgrade() {
                job.end(end);
            }
        };
        match run::start(self.conf.location, &request, run, on_end) {
            Ok(attempt) => {
                if let Some(running) = self.running.borrow_mut().as_mut() {
                    running.attempt = Some(Rc::new(attempt));
                }
            }
            Err(why) => self.finish(Ending::NotStarted(why)),
        }
    }

    /// Whether an attempt is in progress here.
    pub(super) fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }

    /// The worker is about to end.
    pub(super) fn interrupt(&self) {
        let attempt = self.running.borrow().as_ref().and_then(|running| running.attempt.clone());
        self.settle();
        self.finish(Ending::Interrupted);
        // A worker that was told to quit before complains of connections that are open when it ends.
        if let Some(attempt) = attempt {
            attempt.cut_off();
        }
    }

    /// The attempt has taken too long.
    fn time_out(&self) -> Next {
        // nginx counts from the beginning of the turn in which the timer was armed.
        let since = self.running.borrow().as_ref().map(|running| running.since.elapsed());
        let rest = self.conf.timeout.saturating_sub(since.unwrap_or_default());
        if !rest.is_zero() {
            return Next::After(rest);
        }
        let attempt = self.running.borrow_mut().as_mut().and_then(|running| {
            running.cut_off.get_or_insert(Outcome::Timeout);
            running.attempt.clone()
        });
        let Some(attempt) = attempt else { return Next::Stop };
        attempt.cut_off();
        Next::After(CUT_OFF_AGAIN)
    }

    /// Cuts the attempt off if it was ordered to be cancelled, in a worker that leaves too.
    pub(super) fn follow_cancel(&self) {
        let run = self.running.borrow().as_ref().map(|running| running.run.id());
        let Some(run) = run else { return };
        if !self.worker.store.is_cancelled(&self.place, run) {
            return;
        }
        let attempt = self.running.borrow_mut().as_mut().and_then(|running| {
            running.cut_off.get_or_insert(Outcome::Cancelled);
            // Cut off again for as long as something holds it.
            running.timeout.arm(CUT_OFF_AGAIN);
            running.attempt.clone()
        });
        if let Some(attempt) = attempt {
            attempt.cut_off();
        }
    }

    fn end(&self, end: End) {
        let cut_off = self.running.borrow().as_ref().and_then(|running| running.cut_off);
        let status = end.status;
        let ending = if cut_off == Some(Outcome::Cancelled) {
            Ending::Cancelled
        } else if cut_off.is_some() {
            Ending::TimedOut
        } else if end.closed {
            Ending::Interrupted
        } else if status == 0 {
            Ending::NoAnswer
        } else if !self.conf.success.contains(status) {
            Ending::Failure { status }
        } else if end.complete {
            Ending::Success { status }
        } else {
            Ending::Incomplete { status }
        };
        if let Some(running) = self.running.borrow_mut().as_mut() {
            running.ended = Some((ending, running.since.elapsed()));
        }
        self.worker.line.post_end(self.member);
    }

    /// Records how the attempt has ended, if it has.
    pub(super) fn settle(&self) {
        let ended = self.running.borrow().as_ref().and_then(|running| running.ended);
        if let Some((ending, _)) = ended {
            self.finish(ending);
        }
    }

    /// Records how the attempt ended, and has looked at what comes next.
    fn finish(&self, ending: Ending) {
        let Some(Running { claim, run, since, ended, .. }) = self.running.take() else { return };
        let duration = ended.map_or_else(|| since.elapsed(), |(_, duration)| duration);
        let ended = Ended { outcome: ending.outcome(), status: ending.status(), duration };
        let due_times = &self.conf.due_times;
        let next_at =
            self.conf.retry.next_at(claim.attempt(), ended.outcome, due_times, wall_clock());
        match claim.finish(ended, next_at) {
            Finished::Waiting { .. } => {
                self.report.attempt(&self.conf, &run, ending, duration);
                if self.is_over() {
                    self.worker.leave_work();
                }
            }
            Finished::Closed { failures_before, .. } => {
                self.report.end(&self.conf, &run, ending, duration, failures_before);
            }
        }
        self.worker.report();
        if self.is_over() {
            self.worker.tell_others();
        } else {
            self.post();
        }
    }
}
