//! An attempt in progress: from the claim that was won to the result in the record.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::captured::{Both, Captured};
use super::fleet::FleetJob;
use super::job::{Job, JobState};
use super::report::{End, Ending};
use super::run::Run;
use super::run_queue::Permit;
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::nginx::run::{self, InProgress, Place, Receiver, Request, RequestEnd, Started};
use crate::os::wall_clock;
use crate::schedule::UnixMs;
use crate::state::{Claim, DueTimes, Ended, Finished, Outcome, Scheduled};
use crate::sync::{Fetch, Taking};

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
    /// What takes its response for a zone, with `timer_keyval`.
    fetch: Option<Rc<Fetch>>,
    /// While it does, though the request has ended.
    taking: RefCell<Option<Taking>>,
    /// Why it was not taken.
    refused: RefCell<String>,
    _permit: Permit,
}

/// An attempt that has not ended with its start.
struct GoesOn {
    /// `None`: its request has ended already.
    attempt: Option<InProgress>,
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

    /// How it has ended, for the record.
    fn ended(&self, ending: Ending) -> Ended {
        let duration = self.ended.get().map_or_else(|| self.since(), |(_, took)| took);
        Ended { outcome: ending.outcome(), status: ending.status(), duration }
    }

    /// Cuts it off because of `why`, unless it has ended or is being cut off already; if it starts,
    /// once it has started.
    fn cut_off(&self, why: Outcome) {
        if self.ended.get().is_some() {
            return;
        }
        self.cut_off.set(self.cut_off.get().or(Some(why)));
        if let Some(goes_on) = self.goes_on.get() {
            // Again, for as long as something holds it.
            goes_on.timeout.arm(CUT_OFF_AGAIN);
            if let Some(attempt) = &goes_on.attempt {
                attempt.cut_off();
            }
        }
    }

    /// It has ended: no exiting worker waits for it, though the fleet may still have to be told.
    fn has_ended(&self) {
        if let Some(goes_on) = self.goes_on.get() {
            goes_on.timeout.cancel();
        }
    }

    /// What was fetched is not taken any more, if it was being: the content stays as it is.
    fn stop_taking(&self) -> bool {
        self.taking.take().is_some()
    }

    /// Who takes the response.
    fn receiver(&self) -> Option<Rc<dyn Receiver>> {
        let captured = self.captured.clone().map(|captured| captured as Rc<dyn Receiver>);
        let fetch = self.fetch.clone().map(|fetch| fetch as Rc<dyn Receiver>);
        match (captured, fetch) {
            (Some(captured), Some(fetch)) => Some(Rc::new(Both(captured, fetch))),
            (captured, fetch) => captured.or(fetch),
        }
    }
}

impl Job {
    /// Starts the attempt that `claim` gives the right to.
    pub(super) fn start(&self, claim: Box<Claim>, permit: Permit) {
        let (fleet, guard) = self.fleet().and_then(FleetJob::of_run).unzip();
        let run = Rc::new(Run::new(&self.conf, claim.attempt(), claim.last_success_at(), fleet));
        let running = Rc::new(Running {
            claim: Cell::new(Some(claim)),
            run: Rc::clone(&run),
            since: Instant::now(),
            cut_off: Cell::new(None),
            ended: Cell::new(None),
            goes_on: OnceCell::new(),
            looked_at: Cell::new(false),
            captured: Captured::new(self.conf.capture),
            fetch: self.conf.fill.as_ref().map(Fetch::new),
            taking: RefCell::default(),
            refused: RefCell::default(),
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
        match run::start(self.conf.location, &request, run, running.receiver(), guard) {
            Ok(Started::Ended(end)) => {
                self.end(end);
                if running.taking.borrow().is_some() {
                    self.hold(&running, None);
                }
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
        self.hold(running, Some(attempt));
    }

    /// Has it end when its time is over.
    fn hold(&self, running: &Running, attempt: Option<InProgress>) {
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
        match (self.fleet(), &running) {
            (Some(fleet), Some(running)) => {
                // Its record tells those who come next, and they the fleet.
                let claim = fleet.abandon().or_else(|| running.claim.take());
                if let Some(claim) = claim {
                    claim.leave_interrupted();
                }
                drop(self.enter(JobState::Idle));
                let (ending, took) = (Ending::Interrupted, running.since());
                self.report.end(
                    &self.conf,
                    &running.run,
                    End { ending, took, text: "", why: "" },
                    0,
                );
            }
            _ => self.finish(Ending::Interrupted),
        }
        // A worker that was told to quit before complains of connections that are open when it ends.
        let goes_on = running.as_ref().and_then(|running| running.goes_on.get());
        if let Some(attempt) = goes_on.and_then(|goes_on| goes_on.attempt.as_ref()) {
            attempt.cut_off();
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
        self.end_taking(&running, Ending::TimedOut);
        Next::After(CUT_OFF_AGAIN)
    }

    /// Cuts the attempt off if it was ordered to be cancelled, in a worker that leaves too.
    pub(super) fn follow_cancel(&self) {
        let Some(running) = self.running() else { return };
        if self.worker.store.is_cancelled(&self.record, running.run.id()) {
            running.cut_off(Outcome::Cancelled);
            self.end_taking(&running, Ending::Cancelled);
        }
    }

    /// Cuts the attempt off, as others may start the next one soon.
    pub(super) fn cut_off_lost(&self) {
        if let Some(running) = self.running() {
            running.cut_off(Outcome::Lost);
            self.end_taking(&running, Ending::Lost);
        }
    }

    /// Logs the end of an attempt that will be repeated.
    pub(super) fn report_attempt(&self, running: &Running, ending: Ending, text: &str) {
        let why = running.refused.borrow();
        let how = End { ending, took: running.ended(ending).duration, text, why: &why };
        self.report.attempt(&self.conf, &running.run, how);
    }

    /// Ends the run this way if what it has fetched is still being taken.
    fn end_taking(&self, running: &Running, ending: Ending) {
        if running.stop_taking() {
            running.ended.set(Some((ending, running.since())));
            self.worker.queue.post_end(self.index);
        }
    }

    /// Takes what was fetched; the run ends when that has ended.
    fn take(&self, running: &Running, fetch: &Fetch, status: u16) {
        let me = self.me.clone();
        let taking = fetch.take(move |taken| {
            let Some(job) = me.upgrade() else { return };
            let Some(running) = job.running() else { return };
            running.stop_taking();
            let ending = match taken {
                Ok(()) => Ending::Success { status },
                Err(why) => {
                    running.refused.replace(why);
                    Ending::NotTaken { status }
                }
            };
            running.ended.set(Some((ending, running.since())));
            job.worker.queue.post_end(job.index);
        });
        running.taking.replace(Some(taking));
    }

    fn end(&self, end: RequestEnd) {
        let Some(running) = self.running() else { return };
        let status = end.status;
        let ending = match running.cut_off.get() {
            Some(Outcome::Cancelled) => Ending::Cancelled,
            Some(Outcome::Lost) => Ending::Lost,
            Some(_) => Ending::TimedOut,
            None if end.closed => Ending::Interrupted,
            None if status == 0 => Ending::NoAnswer,
            None if !self.conf.success.contains(status) => Ending::Failure { status },
            None if end.complete => Ending::Success { status },
            None => Ending::Incomplete { status },
        };
        if let (Ending::Success { status }, Some(fetch)) = (ending, &running.fetch) {
            return self.take(&running, fetch, status);
        }
        running.ended.set(Some((ending, running.since())));
    }

    /// Records how the attempt has ended, if it has.
    pub(super) fn settle(&self) {
        let ended = self.running().and_then(|running| running.ended.get());
        if let Some((ending, _)) = ended {
            self.finish(ending);
        }
    }

    /// Records how the attempt ended, and has looked at what comes next; the fleet is told first.
    fn finish(&self, ending: Ending) {
        let Some(running) = self.running() else { return };
        let Some(claim) = running.claim.take() else { return };
        running.has_ended();
        let ended = running.ended(ending);
        let due_times: &dyn DueTimes = &self.conf.due_times;
        let due_times = Some(due_times).filter(|_| self.conf.scheduled == Scheduled::On);
        let retry = Some(&self.conf.retry).filter(|retry| retry.more > 0);
        let next_at = retry.and_then(|retry| {
            retry.next_at(claim.attempt(), ended.outcome, due_times, wall_clock())
        });
        match self.fleet() {
            Some(fleet) => fleet.attempt_ended(self, &running, claim, (ending, ended), next_at),
            None => self.record_end(&running, *claim, ending, next_at),
        }
    }

    /// Records how the attempt ended.
    pub(super) fn record_end(
        &self,
        running: &Running,
        claim: Claim,
        ending: Ending,
        next_at: Option<UnixMs>,
    ) {
        drop(self.enter(JobState::Idle));
        let ended = running.ended(ending);
        let duration = ended.duration;
        let mut look_on = running.looked_at.get();
        let captured = running.captured.as_ref().filter(|_| ended.outcome.is_failure());
        let text = captured.map(|captured| captured.text()).unwrap_or_default();
        match claim.finish_with(ended, next_at, &text) {
            Finished::Waiting { .. } => {
                self.report_attempt(running, ending, &text);
                self.note(|last| last.plain_up_to = None);
                look_on = true;
                if self.is_over() {
                    self.worker.leave_work();
                }
            }
            Finished::Closed { failures_before } => {
                self.notifications.note_error(running.run.id(), || match ending {
                    Ending::NotStarted(why) => why.to_string(),
                    Ending::NotTaken { .. } => running.refused.borrow().clone(),
                    _ => "no response".to_owned(),
                });
                self.notifications.look();
                look_on |= self.notifications.is_used();
                if self.is_over() && self.notifications.is_used() {
                    self.worker.leave_work();
                }
                let how =
                    End { ending, took: duration, text: &text, why: &running.refused.borrow() };
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
