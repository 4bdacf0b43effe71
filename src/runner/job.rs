//! One timer in the worker that it belongs to.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::line::{Line, Place};
use super::report::{self, Outcome, Report};
use super::run::{Run, Trigger};
use crate::conf::{Enabled, First, TimerConf};
use crate::nginx::event::{Hold, Next, Timer};
use crate::nginx::process;
use crate::nginx::request::{self, Attempt, End, Request};
use crate::os::wall_clock;
use crate::schedule::{Appointment, Plan, UnixMs};

/// A timer in the worker that it belongs to.
///
/// # Invariants
///
/// While the timer is enabled and the worker does not leave, `clock` is armed: the first thing
/// that its callback does is to find out what comes next.
pub(super) struct Job {
    conf: Rc<TimerConf>,
    line: Rc<Line>,
    me: Weak<Self>,
    clock: RefCell<Option<Timer>>,
    armed: Cell<Option<Appointment>>,
    /// The newest due time that was dealt with.
    taken: Cell<Option<UnixMs>>,
    /// The due time of `first=now`, until it is dealt with.
    first: Cell<Option<UnixMs>>,
    /// The due time that waits for a place.
    waiting: Cell<Option<(UnixMs, Trigger)>>,
    running: RefCell<Option<Running>>,
    report: Report,
}

/// A run in progress.
struct Running {
    run: Rc<Run>,
    since: Instant,
    cut_off: bool,
    /// `None` while it starts.
    attempt: Option<Rc<Attempt>>,
    /// Holds an exiting worker until the run has ended (HOST-7).
    _timeout: Timer,
    _place: Place,
}

/// A run that was cut off is cut off again after this time, for as long as something holds it.
const CUT_OFF_AGAIN: Duration = Duration::from_secs(1);
/// The first run starts from the event loop, never from inside `init_process`.
const AT_ONCE: Duration = Duration::from_millis(1);

impl Job {
    /// Arms the timer.
    pub(super) fn begin(conf: Rc<TimerConf>, line: Rc<Line>) -> Rc<Self> {
        let job = Rc::new_cyclic(|me: &Weak<Self>| Self {
            conf,
            line,
            me: me.clone(),
            clock: RefCell::new(None),
            armed: Cell::new(None),
            taken: Cell::new(None),
            first: Cell::new(None),
            waiting: Cell::new(None),
            running: RefCell::new(None),
            report: Report::new(),
        });
        if job.conf.enabled == Enabled::Off {
            return job;
        }
        let me = Rc::downgrade(&job);
        let clock = Timer::new(Hold::Cancelable, move || {
            me.upgrade().map_or(Next::Stop, |job| job.look_at_clock())
        });

        let now = wall_clock();
        job.armed.set(job.conf.plan.after(now));
        if job.conf.first == First::Now {
            job.first.set(Some(now));
            clock.arm(AT_ONCE);
        } else {
            clock.arm(Plan::wait(now, job.armed.get()));
        }
        job.clock.replace(Some(clock));
        job
    }

    /// Finds out what comes next, and has dealt with what is due afterwards.
    fn look_at_clock(&self) -> Next {
        if process::is_leaving() {
            return Next::Stop;
        }
        let now = wall_clock();
        let look = self.conf.plan.look(now, self.armed.get(), self.taken.get());
        self.armed.set(look.next);
        if let Some(by) = look.set_back {
            self.taken.set(self.conf.plan.schedule().newest(now));
            report::set_back(&self.conf, by);
        }
        for due in [self.first.get(), look.due].into_iter().flatten() {
            self.line.post(self.me.clone(), due);
        }
        Next::After(Plan::wait(now, look.next))
    }

    /// Deals with a due time.
    pub(super) fn deal(&self, due: UnixMs) {
        if process::is_leaving() || self.clock.borrow().is_none() {
            return;
        }
        let trigger = match self.first.take() {
            Some(_) => Trigger::First,
            None => Trigger::Schedule,
        };
        self.taken.set(self.taken.get().max(Some(due)));

        if let Some(since) = self.running_since() {
            self.report.overlap(&self.conf, since.elapsed());
            return;
        }
        self.report.no_overlap();
        if let Some(place) = self.line.place() {
            self.start(due, trigger, place);
        } else if self.waiting.replace(Some((due, trigger))).is_none() {
            self.line.wait(self.me.clone());
        }
    }

    /// The line has come to this timer: there may be a place.
    pub(super) fn leave_line(&self) {
        let Some((due, trigger)) = self.waiting.take() else { return };
        if let Some(place) = self.line.place() {
            self.start(due, trigger, place);
        }
    }

    /// Starts no run any more.
    pub(super) fn disarm(&self) {
        self.waiting.set(None);
        drop(self.clock.take());
    }

    /// Whether a run is in progress.
    pub(super) fn is_running(&self) -> bool {
        self.running.borrow().is_some()
    }

    /// The worker is about to end.
    pub(super) fn interrupt(&self) {
        let running = self.running.take();
        if let Some(running) = running {
            self.record(&running, Outcome::Interrupted);
        }
    }

    fn running_since(&self) -> Option<Instant> {
        self.running.borrow().as_ref().map(|running| running.since)
    }

    fn start(&self, due: UnixMs, trigger: Trigger, place: Place) {
        let run = Rc::new(Run::new(self.conf.name.as_str(), due, trigger));
        let me = self.me.clone();
        let timeout = Timer::new(Hold::HoldsExit, move || {
            me.upgrade().map_or(Next::Stop, |job| job.cut_off())
        });
        timeout.arm(self.conf.timeout);
        self.running.replace(Some(Running {
            run: Rc::clone(&run),
            since: Instant::now(),
            cut_off: false,
            attempt: None,
            _timeout: timeout,
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
        match request::start(self.conf.location, &request, run, on_end) {
            Ok(attempt) => {
                if let Some(running) = self.running.borrow_mut().as_mut() {
                    running.attempt = Some(Rc::new(attempt));
                }
            }
            Err(why) => self.finish(Outcome::NotStarted(why)),
        }
    }

    /// The attempt has taken too long.
    fn cut_off(&self) -> Next {
        let attempt = self.running.borrow_mut().as_mut().and_then(|running| {
            running.cut_off = true;
            running.attempt.clone()
        });
        let Some(attempt) = attempt else { return Next::Stop };
        attempt.cut_off();
        Next::After(CUT_OFF_AGAIN)
    }

    fn end(&self, end: End) {
        let cut_off = self.running.borrow().as_ref().is_some_and(|running| running.cut_off);
        let status = end.status;
        let outcome = if cut_off {
            Outcome::Timeout
        } else if end.closed {
            Outcome::Interrupted
        } else if status == 0 {
            Outcome::NoAnswer
        } else if !self.conf.success.contains(status) {
            Outcome::Failure { status }
        } else if end.complete {
            Outcome::Success { status }
        } else {
            Outcome::Incomplete { status }
        };
        self.finish(outcome);
    }

    fn finish(&self, outcome: Outcome) {
        let running = self.running.take();
        if let Some(running) = running {
            self.record(&running, outcome);
        }
    }

    fn record(&self, running: &Running, outcome: Outcome) {
        self.report.end(&self.conf, &running.run, outcome, running.since.elapsed());
    }
}
