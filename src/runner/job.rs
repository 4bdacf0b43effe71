//! One timer in a worker that may run it.

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::claiming::PendingClaim;
use super::report::Report;
use super::run_queue::{JobIndex, Permit, Wake};
use super::running::Running;
use super::worker::Worker;
use crate::conf::TimerConf;
use crate::nginx::process;
use crate::os::memory::NoMemory;
use crate::os::wall_clock;
use crate::schedule::UnixMs;
use crate::state::{
    self, Around, Decision, Edited, Look, Place, Policy, Progress, Reading, Recovered, Scheduled,
    Steps, Trigger, Unread, Wanted, decide,
};

/// A timer in a worker that may run it.
///
/// # Invariants
///
/// While the timer runs by schedule and the worker does not leave, its clock in the run queue is set:
/// the first thing that is done when it runs out is to find out when the next due time starts.
pub(super) struct Job {
    pub(super) conf: Rc<TimerConf>,
    pub(super) place: Place,
    pub(super) worker: Rc<Worker>,
    pub(super) index: JobIndex,
    pub(super) me: Weak<Self>,
    pub(super) report: Report,
    state: RefCell<State>,
    known: Cell<Known>,
    over: Cell<bool>,
}

/// What this worker does about the timer.
///
/// ```text
///           a permit, and the lock is refused
///     Idle ──────────────────────────────────> Claiming
///     │ ^ │                                       │
///     │ │ └── won at once, or later ──> Running <─┤
///     │ └──── ended ───────────────────────┘ ^    │ dealt with elsewhere: Idle
///     └────── no permit ──> Queued ──────────┘
/// ```
pub(super) enum State {
    /// Nothing.
    Idle,
    /// A claim is contested.
    Claiming(PendingClaim),
    /// This waits for a permit.
    Queued(Wanted),
    /// An attempt is in progress.
    Running(Rc<Running>),
}

/// What is known from the last look.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// The due times around it; the next of them is what the clock is set to.
    around: Around,
    /// If the record was plain: up to where due times are dealt with. What comes due later may be
    /// claimed without a look before the lock.
    pub(super) plain_up_to: Option<UnixMs>,
    /// When the run that makes up for missed due times may start.
    pub(super) catch_up_at: Option<UnixMs>,
    /// The short waits so far for a lock or a torn read.
    steps: Steps,
    /// Whether the record needs a look each second: something is in progress elsewhere.
    pub(super) watched: bool,
    /// Whether due times that were left out are still to be counted.
    uncounted: bool,
    /// Whether one run made up for them, of which the log tells once their number is known.
    pub(super) tells_missed: bool,
}

/// What comes after a look at the record and one action on it.
pub(super) enum NextStep {
    /// Another look, at once.
    LookAgain,
    /// Another look, then.
    LookAt(UnixMs),
    /// Another look, after this time.
    LookAfter(Duration),
    /// Nothing until something happens.
    Rest,
}

/// The longest wait before the wall clock is read again: an nginx timer counts monotonic time, due
/// times lie on the wall clock.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The first look is made from the event loop, never from inside `init_process`.
const AT_ONCE: Duration = Duration::from_millis(1);
/// An attempt elsewhere that exceeds its timeout by this is one that nobody will cut off.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// After so many looks in a row it goes on after [`LATER`].
const LOOKS: usize = 8;
pub(super) const LATER: Duration = Duration::from_millis(100);
/// Where the file fails, the next look comes after this time.
pub(super) const MUCH_LATER: Duration = Duration::from_secs(1);
/// Where due times are still to be counted, the next look comes after this time at the latest.
const COUNT_ON: Duration = Duration::from_millis(50);

impl Job {
    /// Arms the timer.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn begin(
        conf: Rc<TimerConf>,
        place: Place,
        worker: Rc<Worker>,
    ) -> Result<Rc<Self>, NoMemory> {
        let index = worker.queue.join()?;
        let job = Rc::new_cyclic(|me: &Weak<Self>| Self {
            conf,
            place,
            worker,
            index,
            me: me.clone(),
            report: Report::default(),
            state: RefCell::new(State::Idle),
            known: Cell::default(),
            over: Cell::new(false),
        });
        job.worker.queue.seat(index, Rc::downgrade(&job));
        job.worker.queue.wake(index, Wake::Clock, AT_ONCE);
        Ok(job)
    }

    /// Sets the clock to the next due time, and has the record looked at.
    pub(super) fn look_at_clock(&self) {
        if self.is_over() {
            return;
        }
        if self.conf.scheduled == Scheduled::On {
            let look = self.look_now();
            let next = look.around.next.map(|next| next.start.since(look.now));
            let after = next.map_or(LONGEST_WAIT, |after| after.min(LONGEST_WAIT));
            self.worker.queue.wake(self.index, Wake::Clock, after);
        }
        self.post();
    }

    /// The due times around this instant.
    pub(super) fn look_now(&self) -> Look<'_> {
        let (due_times, now) = (&self.conf.due_times, wall_clock());
        let around = self.known().around.moved_to(due_times, now);
        self.note(|known| known.around = around);
        Look { due_times, around, now }
    }

    pub(super) fn known(&self) -> Known {
        self.known.get()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.get();
        change(&mut known);
        self.known.set(known);
    }

    /// Answers the state before.
    pub(super) fn enter(&self, state: State) -> State {
        self.state.replace(state)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(*self.state.borrow(), State::Idle)
    }

    /// The attempt in progress here.
    pub(super) fn running(&self) -> Option<Rc<Running>> {
        match &*self.state.borrow() {
            State::Running(running) => Some(Rc::clone(running)),
            _ => None,
        }
    }

    fn queued(&self) -> Option<Wanted> {
        match &*self.state.borrow() {
            State::Queued(wanted) => Some(*wanted),
            _ => None,
        }
    }

    fn take_claim(&self) -> Option<PendingClaim> {
        let mut state = self.state.borrow_mut();
        match mem::replace(&mut *state, State::Idle) {
            State::Claiming(claim) => Some(claim),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Once a second: looks at the record if another process may have changed it.
    pub(super) fn tick(&self, news: bool) {
        if news {
            self.follow_cancel();
        }
        self.write_again();
        if news || self.known().watched {
            self.worker.queue.post_news(self.index);
        }
    }

    /// Writes what could not be written before.
    pub(super) fn write_again(&self) {
        if self.worker.store.has_unwritten(&self.place) {
            self.worker.store.write_again(self.timer());
            if self.is_over() {
                self.worker.store.give_up(&self.place);
            }
        }
    }

    /// At once: the record has just been changed here.
    pub(super) fn look(&self) {
        self.follow_cancel();
        self.post();
    }

    /// Has the record looked at once the events at hand are dealt with.
    pub(super) fn post(&self) {
        self.worker.queue.post(self.index);
    }

    /// Looks at the record and does what is to be done.
    pub(super) fn dispatch(&self) {
        if self.is_over() {
            return;
        }
        if let Some(running) = self.running() {
            running.is_looked_at();
        }
        let mut next = match self.take_claim() {
            Some(claim) => self.go_on(claim),
            None => self.claim_unseen().unwrap_or(NextStep::LookAgain),
        };
        for _ in 0..LOOKS {
            if !matches!(next, NextStep::LookAgain) {
                break;
            }
            next = self.look_at_record();
        }
        self.report_left_out();
        let scheduled = self.conf.scheduled == Scheduled::On;
        let Known { around, uncounted, .. } = self.known();
        let after = match next {
            NextStep::Rest => None,
            NextStep::LookAgain => Some(LATER),
            NextStep::LookAfter(after) => Some(after),
            // The clock comes by itself at the next due time.
            NextStep::LookAt(at)
                if scheduled && around.next.is_none_or(|next| at >= next.start) =>
            {
                None
            }
            NextStep::LookAt(at) => Some(at.since(wall_clock()).min(LONGEST_WAIT)),
        };
        let count_on = uncounted.then_some(COUNT_ON);
        if let Some(after) = after.into_iter().chain(count_on).min() {
            self.set_alarm(after);
        }
    }

    /// What waited in the queue has got its permit.
    pub(super) fn start_queued(&self, permit: Permit) {
        let Some(wanted) = self.queued() else { return };
        self.enter(State::Idle);
        if self.is_over() {
            return;
        }
        let next = self.claim(wanted, permit, &self.look_now());
        self.report_left_out();
        if !matches!(next, NextStep::Rest) {
            let after = if let NextStep::LookAfter(after) = next { after } else { AT_ONCE };
            self.set_alarm(after);
        }
    }

    /// Starts no run any more.
    pub(super) fn disarm(&self) {
        if !self.is_running() {
            drop(self.enter(State::Idle));
        }
        self.worker.queue.leave(self.index);
        self.over.set(true);
    }

    /// Whether no run may start here any more.
    pub(super) fn is_over(&self) -> bool {
        process::is_leaving() || self.over.get()
    }

    pub(super) fn timer(&self) -> state::Timer<'_> {
        state::Timer {
            place: &self.place,
            due_times: &self.conf.due_times,
            owner: self.worker.owner(&self.conf),
            timeout: self.conf.timeout,
        }
    }

    fn report_left_out(&self) {
        let left_out = self.worker.report_but_left_out();
        self.report_missed(left_out.missed);
        self.report.more_overlaps(left_out.overlaps);
    }

    /// Tells of due times that had no run, once their number is known.
    pub(super) fn report_missed(&self, missed: u64) {
        if missed == 0 {
            return;
        }
        let tells_missed = self.known().tells_missed;
        self.note(|known| known.tells_missed = false);
        if tells_missed {
            self.report.missed(&self.conf, missed.saturating_add(1));
        } else {
            self.report.left_out(&self.conf, missed);
        }
    }

    fn set_alarm(&self, after: Duration) {
        self.worker.queue.wake(self.index, Wake::Alarm, after);
    }

    /// One look at the record, and one action on it.
    fn look_at_record(&self) -> NextStep {
        let store = &self.worker.store;
        let reading = store.read_for(self.timer());
        // Read after the record: what another process wrote is not taken for a step of the clock.
        let look = self.look_now();
        let reading = match reading {
            Ok(reading) => reading,
            Err(Unread::Torn) => {
                return self.wait_a_step(|| {
                    store.repair(&self.place, look.now);
                });
            }
            // It falls to its owner.
            Err(Unread::Lost) => return NextStep::Rest,
        };
        let elsewhere = !self.is_running();
        self.note(|known| {
            known.watched = elsewhere && reading.run.progress != Progress::Nothing;
            known.uncounted = reading.control.has_uncounted();
            known.plain_up_to =
                reading.is_plain().then(|| reading.dealt_with_up_to(look.now));
        });
        if let Progress::Running(_) = reading.run.progress
            && elsewhere
        {
            match store.recover(self.timer(), &self.conf.retry, &mut wall_clock) {
                Recovered::HeldElsewhere(attempt) => {
                    let since = look.now.since(attempt.started_at);
                    if since > self.conf.timeout.saturating_add(STUCK_AFTER) {
                        self.report.stuck(&self.conf, attempt.pid, since);
                    }
                }
                Recovered::Again => return self.wait_a_step(|| {}),
                Recovered::LeftToOwner => return NextStep::Rest,
                Recovered::Nothing | Recovered::Interrupted | Recovered::Ended(_) => {
                    return NextStep::LookAgain;
                }
            }
        }
        if reading.control.has_uncounted() {
            // What is not counted now is counted at the next look.
            let (Edited::Done(()) | Edited::NotWritten(()) | Edited::Again | Edited::Failed) =
                store.count(self.timer(), look.now);
        }
        let pauses = [reading.control.paused, reading.header.paused];
        if pauses.into_iter().flatten().any(|paused| paused.has_expired(look.now)) {
            store.end_pauses(self.timer(), look.now);
        }
        self.follow(&reading, &look)
    }

    /// Does what is decided on what was read.
    fn follow(&self, reading: &Reading, look: &Look<'_>) -> NextStep {
        let (store, now) = (&self.worker.store, look.now);
        let policy = Policy { missed: self.conf.missed, schedule: self.conf.scheduled };
        let decision = decide(reading, look, policy, self.known().catch_up_at);
        if let Some(queued) = self.queued()
            && !replaces(decision, queued)
        {
            return NextStep::Rest;
        }
        match decision {
            Decision::Sleep { until } => until.map_or(NextStep::Rest, NextStep::LookAt),
            Decision::Claim(wanted) => self.stand_back_or_claim(wanted, look),
            Decision::CatchUp { run_at, until } => {
                self.note(|known| known.catch_up_at = Some(run_at));
                NextStep::LookAt(until)
            }
            Decision::LeaveOut { up_to, kind } => {
                self.edited(store.leave_out(self.timer(), up_to, kind, now))
            }
            Decision::EndWaiting => {
                let recovered = store.recover(self.timer(), &self.conf.retry, &mut wall_clock);
                self.recovered(recovered)
            }
            Decision::DropOrder { number, .. } => {
                self.edited(store.drop_order(self.timer(), number, now))
            }
            Decision::ClockSetBack => match store.set_back(self.timer(), &mut wall_clock) {
                Recovered::Again => self.set_back_later(reading, look),
                recovered => self.recovered(recovered),
            },
        }
    }

    /// Others keep locked what is to be pulled back. After the short waits it is left out of account, and
    /// the timer goes on.
    fn set_back_later(&self, reading: &Reading, look: &Look<'_>) -> NextStep {
        if let Some(after) = self.next_wait() {
            return NextStep::LookAfter(after);
        }
        self.report.contested(&self.conf);
        let reading = reading.clone().without_ahead(look.due_times, look.now);
        match self.follow(&reading, look) {
            NextStep::LookAgain => NextStep::LookAfter(LATER),
            next => next,
        }
    }

    pub(super) fn edited<T: Copy>(&self, edited: Edited<T>) -> NextStep {
        match edited {
            Edited::Done(_) | Edited::NotWritten(_) => {
                self.note(|known| known.steps = Steps::default());
                NextStep::LookAgain
            }
            Edited::Again => self.wait_a_step(|| self.report.contested(&self.conf)),
            Edited::Failed => NextStep::LookAfter(MUCH_LATER),
        }
    }

    fn recovered(&self, recovered: Recovered) -> NextStep {
        match recovered {
            Recovered::Again => self.wait_a_step(|| {}),
            Recovered::LeftToOwner => NextStep::Rest,
            _ => NextStep::LookAgain,
        }
    }

    /// Waits for a lock or a torn read; after the last of the short waits `give_up`.
    fn wait_a_step(&self, give_up: impl FnOnce()) -> NextStep {
        let after = self.next_wait().unwrap_or_else(|| {
            give_up();
            LATER
        });
        NextStep::LookAfter(after)
    }

    /// The next of the short waits; after the last one they begin anew.
    fn next_wait(&self) -> Option<Duration> {
        let mut after = None;
        self.note(|known| {
            after = known.steps.next();
            if after.is_none() {
                known.steps = Steps::default();
            }
        });
        after
    }
}

/// Whether `decision` is for a newer due time than the one that waits for a permit.
fn replaces(decision: Decision, queued: Wanted) -> bool {
    match (decision, queued) {
        (
            Decision::Claim(Wanted::Due { due, trigger: Trigger::Schedule, .. }),
            Wanted::Due { due: queued, .. },
        ) => due > queued,
        (Decision::Claim(Wanted::Due { .. }), Wanted::Next { .. }) => true,
        _ => false,
    }
}
