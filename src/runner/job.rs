//! One timer in a worker that may run it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::attempt::Running;
use super::contest::Contest;
use super::line::{self, Member, Wake};
use super::report::Report;
use super::worker::Worker;
use crate::conf::TimerConf;
use crate::nginx::process;
use crate::os::memory::NoMemory;
use crate::os::wall_clock;
use crate::schedule::UnixMs;
use crate::state::{
    self, Decision, DueTimes, Edited, Place, Policy, Progress, Reading, Recovered, Scheduled,
    Steps, Trigger, Unread, Wanted, decide,
};

/// A timer in a worker that may run it.
///
/// # Invariants
///
/// While the timer runs by schedule and the worker does not leave, its clock in the line is set: the
/// first thing that is done when it runs out is to find out when the next due time starts.
pub(super) struct Job {
    pub(super) conf: Rc<TimerConf>,
    pub(super) place: Place,
    pub(super) worker: Rc<Worker>,
    pub(super) me: Weak<Self>,
    pub(super) running: RefCell<Option<Running>>,
    pub(super) report: Report,
    pub(super) member: Member,
    over: Cell<bool>,
    /// When the clock's next due time starts.
    armed: Cell<UnixMs>,
    /// A claim that is contested, between two steps.
    pub(super) contest: RefCell<Option<Contest>>,
    steps: Cell<Steps>,
    pub(super) catch_up_at: Cell<Option<UnixMs>>,
    /// What waits for a place.
    pub(super) waiting: Cell<Option<Wanted>>,
    /// Whether the record needs a look each second: something is in progress elsewhere.
    pub(super) watched: Cell<bool>,
    /// Whether due times that were left out are still to be counted.
    uncounted: Cell<bool>,
    /// Whether one run made up for them, of which the log tells once their number is known.
    pub(super) tells_missed: Cell<bool>,
}

/// What comes after a look at the record and one action on it.
pub(super) enum Turn {
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
        let member = worker.line.join()?;
        let job = Rc::new_cyclic(|me: &Weak<Self>| Self {
            conf,
            place,
            worker,
            me: me.clone(),
            running: RefCell::new(None),
            report: Report::default(),
            member,
            over: Cell::new(false),
            armed: Cell::new(UnixMs::default()),
            contest: RefCell::new(None),
            steps: Cell::new(Steps::default()),
            catch_up_at: Cell::new(None),
            waiting: Cell::new(None),
            watched: Cell::new(false),
            uncounted: Cell::new(false),
            tells_missed: Cell::new(false),
        });
        job.worker.line.seat(member, Rc::downgrade(&job));
        job.worker.line.wake(member, Wake::Clock, AT_ONCE);
        Ok(job)
    }

    /// Sets the clock to the next due time, and has the record looked at.
    pub(super) fn look_at_clock(&self) {
        if self.is_over() {
            return;
        }
        if self.conf.scheduled == Scheduled::On {
            let now = wall_clock();
            let next = next_to_start(&self.conf.due_times, now);
            self.armed.set(next.unwrap_or(UnixMs(i64::MAX)));
            let after = next.map_or(LONGEST_WAIT, |start| start.since(now).min(LONGEST_WAIT));
            self.worker.line.wake(self.member, Wake::Clock, after);
        }
        self.post();
    }

    /// Once a second: looks at the record if another process may have changed it.
    pub(super) fn tick(&self, news: bool) {
        if news {
            self.follow_cancel();
        }
        self.write_again();
        if news || self.watched.get() {
            self.worker.line.post_news(self.member);
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
        self.worker.line.post(self.member);
    }

    /// Looks at the record and does what is to be done.
    pub(super) fn deal(&self) {
        if self.is_over() {
            return;
        }
        let mut turn = match self.contest.take() {
            Some(contest) => self.go_on(contest),
            None => Turn::LookAgain,
        };
        for _ in 0..LOOKS {
            if !matches!(turn, Turn::LookAgain) {
                break;
            }
            turn = self.act();
        }
        self.report_left_out();
        let after = match turn {
            Turn::Rest => None,
            Turn::LookAgain => Some(LATER),
            Turn::LookAfter(after) => Some(after),
            // The clock comes by itself at the next due time.
            Turn::LookAt(at) if at >= self.armed.get() && self.conf.scheduled == Scheduled::On => {
                None
            }
            Turn::LookAt(at) => Some(at.since(wall_clock()).min(LONGEST_WAIT)),
        };
        let count_on = self.uncounted.get().then_some(COUNT_ON);
        if let Some(after) = after.into_iter().chain(count_on).min() {
            self.set_alarm(after);
        }
    }

    /// The line has come to this timer.
    pub(super) fn leave_line(&self, place: line::Place) {
        let Some(wanted) = self.waiting.take() else { return };
        if self.is_over() {
            return;
        }
        let turn = self.claim(wanted, Some(place));
        self.report_left_out();
        if !matches!(turn, Turn::Rest) {
            let after = if let Turn::LookAfter(after) = turn { after } else { AT_ONCE };
            self.set_alarm(after);
        }
    }

    /// Starts no run any more.
    pub(super) fn disarm(&self) {
        self.waiting.set(None);
        drop(self.contest.take());
        self.worker.line.leave(self.member);
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
        if self.tells_missed.take() {
            self.report.missed(&self.conf, missed.saturating_add(1));
        } else {
            self.report.left_out(&self.conf, missed);
        }
    }

    fn set_alarm(&self, after: Duration) {
        self.worker.line.wake(self.member, Wake::Alarm, after);
    }

    /// One look at the record, and one action on it.
    fn act(&self) -> Turn {
        let store = &self.worker.store;
        let reading = store.read_for(self.timer());
        // Read after the record: what another process wrote is not taken for a step of the clock.
        let now = wall_clock();
        let reading = match reading {
            Ok(reading) => reading,
            Err(Unread::Torn) => {
                return self.wait_a_step(|| {
                    store.repair(&self.place, now);
                });
            }
            // It falls to its owner.
            Err(Unread::Lost) => return Turn::Rest,
        };
        let elsewhere = self.running.borrow().is_none();
        let in_progress = reading.run.progress != Progress::Nothing;
        self.watched.set(in_progress && elsewhere);
        self.uncounted.set(reading.control.has_uncounted());
        if elsewhere && matches!(reading.run.progress, Progress::Running(_)) {
            match store.recover(self.timer(), &self.conf.retry, &mut wall_clock) {
                Recovered::HeldElsewhere(attempt) => {
                    let since = now.since(attempt.started_at);
                    if since > self.conf.timeout.saturating_add(STUCK_AFTER) {
                        self.report.stuck(&self.conf, attempt.pid, since);
                    }
                }
                Recovered::Again => return self.wait_a_step(|| {}),
                Recovered::LeftToOwner => return Turn::Rest,
                Recovered::Nothing | Recovered::Interrupted | Recovered::Ended(_) => {
                    return Turn::LookAgain;
                }
            }
        }
        if reading.control.has_uncounted() {
            // What is not counted now is counted at the next look.
            let (Edited::Done(()) | Edited::NotWritten(()) | Edited::Again | Edited::Failed) =
                store.count(self.timer(), now);
        }
        let pauses = [reading.control.paused, reading.header.paused];
        if pauses.into_iter().flatten().any(|paused| paused.has_expired(now)) {
            store.end_pauses(self.timer(), now);
        }
        self.follow(&reading, now)
    }

    fn follow(&self, reading: &Reading, now: UnixMs) -> Turn {
        let store = &self.worker.store;
        let policy = Policy { missed: self.conf.missed, schedule: self.conf.scheduled };
        let due_times = &self.conf.due_times;
        let decision = decide(reading, due_times, policy, self.catch_up_at.get(), now);
        if let Some(waiting) = self.waiting.get()
            && !replaces(decision, waiting)
        {
            return Turn::Rest;
        }
        match decision {
            Decision::Sleep { until } => until.map_or(Turn::Rest, Turn::LookAt),
            Decision::Claim(wanted) => self.stand_back_or_claim(wanted, now),
            Decision::CatchUp { run_at, until } => {
                self.catch_up_at.set(Some(run_at));
                Turn::LookAt(until)
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
                Recovered::Again => self.set_back_later(reading, now),
                recovered => self.recovered(recovered),
            },
        }
    }

    /// Others keep locked what is to be pulled back. After the short waits it is left out of account, and
    /// the timer goes on.
    fn set_back_later(&self, reading: &Reading, now: UnixMs) -> Turn {
        let mut steps = self.steps.take();
        if let Some(after) = steps.next() {
            self.steps.set(steps);
            return Turn::LookAfter(after);
        }
        self.steps.set(Steps::default());
        self.report.contested(&self.conf);
        let reading = reading.clone().without_ahead(&self.conf.due_times, now);
        match self.follow(&reading, now) {
            Turn::LookAgain => Turn::LookAfter(LATER),
            turn => turn,
        }
    }

    pub(super) fn edited<T: Copy>(&self, edited: Edited<T>) -> Turn {
        match edited {
            Edited::Done(_) | Edited::NotWritten(_) => {
                self.steps.set(Steps::default());
                Turn::LookAgain
            }
            Edited::Again => self.wait_a_step(|| self.report.contested(&self.conf)),
            Edited::Failed => Turn::LookAfter(MUCH_LATER),
        }
    }

    fn recovered(&self, recovered: Recovered) -> Turn {
        match recovered {
            Recovered::Again => self.wait_a_step(|| {}),
            Recovered::LeftToOwner => Turn::Rest,
            _ => Turn::LookAgain,
        }
    }

    /// The next of the short waits for a lock or a torn read; after the last one `give_up`.
    fn wait_a_step(&self, give_up: impl FnOnce()) -> Turn {
        let mut steps = self.steps.take();
        if let Some(after) = steps.next() {
            self.steps.set(steps);
            return Turn::LookAfter(after);
        }
        self.steps.set(Steps::default());
        give_up();
        Turn::LookAfter(LATER)
    }
}

/// Whether `decision` is for a newer due time than the one that waits for a place.
fn replaces(decision: Decision, waiting: Wanted) -> bool {
    match (decision, waiting) {
        (
            Decision::Claim(Wanted::Due { due, trigger: Trigger::Schedule }),
            Wanted::Due { due: waiting, .. },
        ) => due > waiting,
        (Decision::Claim(Wanted::Due { .. }), Wanted::Next { .. }) => true,
        _ => false,
    }
}

/// The start of the first due time that starts later than `now`.
fn next_to_start(due_times: &dyn DueTimes, now: UnixMs) -> Option<UnixMs> {
    let newest = due_times.newest(now).map(|due| due_times.start(due));
    newest
        .filter(|start| *start > now)
        .or_else(|| due_times.next(now).map(|due| due_times.start(due)))
}
