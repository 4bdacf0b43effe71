//! Telling others of a timer's events: a request to a location of its server for each.
//!
//! ```text
//!           claimed in the record            the request ends             recorded
//!   Idle ──────────────────────────> Sending ────────────────> Ended ───────────────> Idle
//!    ^                                                                                 │
//!    └───────────── another event, or another try, for which is waited ────────────────┘
//! ```

use std::cell::{Cell, OnceCell, RefCell};
use std::mem;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::job::Job;
use super::notification::Notification;
use super::telling::Telling;
use crate::conf::Notify;
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::nginx::run::{self, Access, InProgress, Method, Place, Request, RequestEnd, Started};
use crate::os::memory::NoMemory;
use crate::os::wall_clock;
use crate::state::{AfterTry, Edited, EventClaim, EventStep, Happened, RunId, Steps};
use crate::throttle::Throttle;

/// What a timer's job has to do with its events.
pub(super) struct Notifications {
    receivers: Vec<TimerReceiver>,
    /// Whether there may be something to tell of.
    may_have: Cell<bool>,
    begins: Cell<bool>,
    /// Why the last run could not start, and which one that was.
    last_error: RefCell<Option<(RunId, String)>>,
}

/// One of those who are told.
struct TimerReceiver {
    state: RefCell<SendState>,
    /// Looks again.
    timer: EventTimer,
    /// The short waits that are left.
    waits: Cell<Steps>,
    /// Whether others tell it, and this waits for one of them to end.
    waits_for_others: Cell<bool>,
    failures: Throttle,
}

enum SendState {
    Idle,
    Sending(Rc<Sending>),
    /// Its result could not be recorded yet.
    Ended(Box<EndedTry>),
}

/// A try that has ended.
struct EndedTry {
    claim: EventClaim,
    is_told: bool,
    /// Why not.
    why: String,
    /// How often recording that was tried.
    recorded: u32,
    /// Tries again; holds a worker that exits, so that its successor does not tell of it again.
    _timer: Option<EventTimer>,
}

/// A request in progress.
struct Sending {
    claim: Cell<Option<EventClaim>>,
    since: Instant,
    timed_out: Cell<bool>,
    /// Unset while it starts.
    goes_on: OnceCell<(InProgress, EventTimer)>,
    _telling: Telling,
}

/// A receiver that does not answer holds nobody for longer, and no run either.
const TIMEOUT: Duration = Duration::from_secs(10);
/// One that was cut off is cut off again after this time.
const CUT_OFF_AGAIN: Duration = Duration::from_secs(1);
/// Where there is no memory, or others are in the way.
const LATER: Duration = Duration::from_millis(100);
/// So often a worker that exits tries to record a result.
const RECORDED: u32 = 50;
/// What another process does is looked at after this time.
const ELSEWHERE: Duration = Duration::from_secs(1);

impl Notifications {
    pub(super) fn new(count: usize, job: &Weak<Job>) -> Self {
        let receiver = |index| {
            let job = Weak::clone(job);
            let look = move || {
                if let Some(job) = job.upgrade() {
                    let _ = job.look_at_receiver(index);
                }
                Next::Stop
            };
            TimerReceiver {
                state: RefCell::new(SendState::Idle),
                timer: EventTimer::new(Hold::Cancelable, look),
                waits: Cell::default(),
                waits_for_others: Cell::new(false),
                failures: Throttle::default(),
            }
        };
        Self {
            receivers: (0..count).map(receiver).collect(),
            may_have: Cell::new(count > 0),
            begins: Cell::new(count > 0),
            last_error: RefCell::default(),
        }
    }

    /// There may be something to tell of.
    pub(super) fn look(&self) {
        self.may_have.set(!self.receivers.is_empty());
    }

    /// Whether the record is looked at for the first time.
    pub(super) fn begins(&self) -> bool {
        self.begins.replace(false)
    }

    /// Whether anybody is told of anything.
    pub(super) fn is_used(&self) -> bool {
        !self.receivers.is_empty()
    }

    /// Keeps why a run could not start.
    pub(super) fn note_error(&self, run: RunId, error: impl FnOnce() -> String) {
        if self.is_used() {
            self.last_error.replace(Some((run, error())));
        }
    }

    /// Why this run could not start, if it is known.
    fn error_of(&self, run: Option<RunId>) -> Option<String> {
        let last_error = self.last_error.borrow();
        let its = last_error.as_ref().filter(|(its, _)| Some(*its) == run);
        its.map(|(_, why)| why.clone())
    }

    /// Whether a request is in progress, or its result still to be recorded.
    pub(super) fn is_sending(&self) -> bool {
        self.receivers.iter().any(|receiver| !receiver.is_idle())
    }

    /// The worker is about to end: who takes its place makes the next try.
    pub(super) fn cut_off(&self) {
        for receiver in &self.receivers {
            let SendState::Sending(sending) = receiver.enter(SendState::Idle) else { continue };
            if let Some((attempt, _)) = sending.goes_on.get() {
                attempt.cut_off();
            }
        }
    }
}

impl TimerReceiver {
    /// Answers the state before.
    fn enter(&self, state: SendState) -> SendState {
        mem::replace(&mut *self.state.borrow_mut(), state)
    }

    fn is_idle(&self) -> bool {
        matches!(*self.state.borrow(), SendState::Idle)
    }

    /// The next of the short waits, then a longer one.
    fn next_wait(&self) -> Duration {
        let mut waits = self.waits.take();
        waits.next().inspect(|_| self.waits.set(waits)).unwrap_or(LATER)
    }
}

impl Job {
    /// Tells whoever is to be told, if anything has happened.
    pub(super) fn tell(&self) {
        if self.notifications.may_have.replace(false) && !self.is_over() {
            let receivers = self.conf.notify.iter().zip(&self.notifications.receivers);
            for (index, (notify, receiver)) in receivers.enumerate() {
                if receiver.is_idle() && !receiver.waits_for_others.get() {
                    self.tell_one(index, notify, receiver);
                }
            }
        }
    }

    /// Has the record looked at if one of the receivers is not being told of anything; whether it is so.
    pub(super) fn look_at_receiver(&self, index: usize) -> bool {
        let receiver = self.notifications.receivers.get(index);
        let Some(receiver) = receiver.filter(|it| it.is_idle() && !self.is_over()) else {
            return false;
        };
        receiver.waits_for_others.set(false);
        self.notifications.look();
        self.post();
        true
    }

    fn record_again(&self, index: usize) {
        let Some(receiver) = self.notifications.receivers.get(index) else { return };
        match receiver.enter(SendState::Idle) {
            SendState::Ended(ended) => self.record(index, *ended),
            other => drop(receiver.enter(other)),
        }
    }

    fn tell_one(&self, index: usize, notify: &Notify, receiver: &TimerReceiver) {
        let telling = match self.worker.tellings.begin(notify.what.id, &self.me, index) {
            Ok(Some(telling)) => telling,
            Ok(None) => return receiver.waits_for_others.set(true),
            Err(NoMemory) => return receiver.timer.arm(LATER),
        };
        let now = wall_clock();
        match self.worker.store.claim_event(self.timer(), notify.what, now) {
            EventStep::Won(claim) => {
                receiver.waits.take();
                self.send(index, notify, claim, telling);
            }
            EventStep::Nothing => drop(receiver.waits.take()),
            EventStep::NotBefore(at) => receiver.timer.arm(at.since(now)),
            EventStep::Elsewhere | EventStep::LeftToOwner => receiver.timer.arm(ELSEWHERE),
            EventStep::Again => receiver.timer.arm(receiver.next_wait()),
            EventStep::GaveUp(happened) => {
                self.report_untold(notify, receiver, &happened, "process died");
                // There may be another one.
                receiver.timer.arm(Duration::ZERO);
            }
        }
    }

    fn send(&self, index: usize, notify: &Notify, claim: EventClaim, telling: Telling) {
        let Some(receiver) = self.notifications.receivers.get(index) else { return };
        let happened = *claim.happened();
        let text = self.worker.store.event_text(&self.record, &happened);
        let run = happened.result.map(|result| result.attempt.run);
        let known = self.notifications.error_of(run);
        let notification = Rc::new(Notification::new(&self.conf, &happened, known, text));
        let body = notification.json();
        let sending = Rc::new(Sending {
            claim: Cell::new(Some(claim)),
            since: Instant::now(),
            timed_out: Cell::new(false),
            goes_on: OnceCell::new(),
            _telling: telling,
        });
        drop(receiver.enter(SendState::Sending(Rc::clone(&sending))));
        let request = Request {
            method: &Method::post(),
            uri: &notify.uri,
            host: self.conf.host.as_deref(),
            place: Place::Anywhere,
            access: Access::LeftOut,
            headers: &[(b"Content-Type", b"application/json")],
            body: Some(&body),
        };
        match run::start_at(notify.begin, &request, notification) {
            Ok(Started::Ended(end)) => self.told(index, &sending, end),
            Ok(Started::InProgress(attempt)) => self.go_on_telling(index, &sending, attempt),
            Err(why) => self.try_ended(index, &sending, false, why.to_string()),
        }
    }

    fn go_on_telling(&self, index: usize, sending: &Rc<Sending>, attempt: InProgress) {
        let (me, ended) = (Weak::clone(&self.me), Rc::downgrade(sending));
        attempt.on_end(move |end| {
            if let Some((job, sending)) = me.upgrade().zip(ended.upgrade()) {
                job.told(index, &sending, end);
            }
        });
        let late = Rc::downgrade(sending);
        let limit = self.conf.timeout.min(TIMEOUT);
        // As a run, it holds a worker that exits until it has ended (HOST-7).
        let timeout = EventTimer::new(Hold::HoldsExit, move || {
            let Some(sending) = late.upgrade() else { return Next::Stop };
            let rest = limit.saturating_sub(sending.since.elapsed());
            if !rest.is_zero() {
                return Next::After(rest);
            }
            sending.timed_out.set(true);
            if let Some((attempt, _)) = sending.goes_on.get() {
                attempt.cut_off();
            }
            Next::After(CUT_OFF_AGAIN)
        });
        timeout.arm(limit);
        let _ = sending.goes_on.set((attempt, timeout));
    }

    fn told(&self, index: usize, sending: &Sending, end: RequestEnd) {
        let limit = self.conf.timeout.min(TIMEOUT);
        let (is_told, why) = match end.status {
            _ if sending.timed_out.get() => {
                (false, format!("timed out after {}ms", limit.as_millis()))
            }
            _ if end.closed => (false, "worker was told to stop".to_owned()),
            0 => (false, "no response".to_owned()),
            status @ 200..300 if end.complete => (true, format!("status {status}")),
            status @ 200..300 => (false, format!("response incomplete, status {status}")),
            status => (false, format!("status {status}")),
        };
        self.try_ended(index, sending, is_told, why);
    }

    fn try_ended(&self, index: usize, sending: &Sending, is_told: bool, why: String) {
        let Some(claim) = sending.claim.take() else { return };
        self.record(index, EndedTry { claim, is_told, why, recorded: 0, _timer: None });
    }

    /// Records the result of a try; the claim is held until that is done.
    fn record(&self, index: usize, ended: EndedTry) {
        let configured = self.conf.notify.get(index).zip(self.notifications.receivers.get(index));
        let Some((notify, receiver)) = configured else { return };
        let now = wall_clock();
        let is_told = ended.is_told;
        let after = match self.worker.store.end_event(self.timer(), &ended.claim, is_told, now) {
            Edited::Done(after) | Edited::NotWritten(after) => after,
            Edited::Again | Edited::Failed if self.is_over() && ended.recorded >= RECORDED => {
                return drop(receiver.enter(SendState::Idle));
            }
            Edited::Again | Edited::Failed => return self.record_later(index, receiver, ended),
        };
        receiver.waits.take();
        drop(receiver.enter(SendState::Idle));
        match after {
            AfterTry::Told => receiver.failures.end_row(),
            AfterTry::NotBefore(at) => receiver.timer.arm(at.since(now)),
            AfterTry::GaveUp => {
                self.report_untold(notify, receiver, ended.claim.happened(), &ended.why);
            }
        }
        drop(ended);
        if self.is_over() {
            // Whatever is left is others'.
            self.worker.leave_work();
            self.worker.tell_others();
        } else if !matches!(after, AfterTry::NotBefore(_)) {
            self.notifications.look();
            self.post();
        }
    }

    fn record_later(&self, index: usize, receiver: &TimerReceiver, ended: EndedTry) {
        let me = Weak::clone(&self.me);
        let timer = EventTimer::new(Hold::HoldsExit, move || {
            if let Some(job) = me.upgrade() {
                job.record_again(index);
            }
            Next::Stop
        });
        timer.arm(receiver.next_wait());
        let ended = EndedTry { recorded: ended.recorded + 1, _timer: Some(timer), ..ended };
        drop(receiver.enter(SendState::Ended(Box::new(ended))));
    }

    fn report_untold(&self, notify: &Notify, receiver: &TimerReceiver, what: &Happened, why: &str) {
        if let Some(left_out) = receiver.failures.pass(Instant::now()) {
            self.report.untold(&self.conf, notify, what, why, left_out);
        }
    }
}
