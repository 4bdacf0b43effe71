//! One timer in a worker that may run it.

use std::cell::{Cell, Ref, RefCell};
use std::mem;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::claiming::PendingClaim;
use super::fleet::FleetJob;
use super::look::NextStep;
use super::notify::Notifications;
use super::report::Report;
use super::run_queue::{Deadline, JobIndex, Permit};
use super::running::Running;
use super::worker::Worker;
use crate::conf::Timer;
use crate::nginx::process;
use crate::nth::Nth;
use crate::os::memory::NoMemory;
use crate::os::wall_clock;
use crate::schedule::UnixMs;
use crate::state::{self, Around, Look, Owner, Record, Scheduled, Steps, Wanted};

/// A timer in a worker that may run it.
///
/// # Invariants
///
/// While the timer runs by schedule and the worker does not leave, its clock in the run queue is set:
/// the first thing that is done when it runs out is to find out when the next due time starts.
pub(super) struct Job {
    pub(super) conf: Timer,
    pub(super) record: Nth<Record>,
    pub(super) worker: Rc<Worker>,
    pub(super) index: JobIndex,
    pub(super) me: Weak<Self>,
    owner: Owner,
    /// `None`: it runs on this host alone.
    fleet: Option<Box<FleetJob>>,
    pub(super) report: Report,
    pub(super) notifications: Notifications,
    state: RefCell<JobState>,
    last_look: RefCell<LastLook>,
    /// Whether the record needs a look each second: something is in progress elsewhere.
    is_watched: Cell<bool>,
    /// The short waits for a lock or a torn read that are left.
    pub(super) waits: Cell<Steps>,
    over: Cell<bool>,
}

/// What this worker does about the timer.
///
/// ```text
///           a permit, and the lock is refused
///     Idle ──────────────────────────────────> Claiming
///     │ ^ │                                       │
///     │ │ └── won at once, or later ──> Running <─┤
///     │ └──── ended ───────────────────────┘ ^    │ handled elsewhere: Idle
///     └────── no permit ──> Queued ──────────┘
/// ```
///
/// With `fleet=` the record says that the fleet is asked, instead of that the timer runs, and
///
/// ```text
///     Idle ──> Asking ──> Held <──────> Running: another attempt follows
///     ^          │ taken, or left out elsewhere │
///     └──────────┴──────────── recorded ────────┘
/// ```
pub(super) enum JobState {
    /// Nothing.
    Idle,
    /// A claim whose lock was refused is tried again.
    Claiming(Box<PendingClaim>),
    /// This waits for a permit.
    Queued(Wanted),
    /// The fleet is asked for it.
    Asking,
    /// The fleet has given it to this host; it waits for the start of an attempt.
    Held,
    /// An attempt is in progress.
    Running(Rc<Running>),
}

/// What is known from the last look.
#[derive(Clone, Copy, Default)]
pub(super) struct LastLook {
    /// The due times around it; the next of them is what the clock is set to.
    pub(super) around: Around,
    /// If the record was plain: up to where due times are handled. What comes due later may be
    /// claimed without a look before the lock.
    pub(super) plain_up_to: Option<UnixMs>,
    /// When the run that makes up for missed due times may start.
    pub(super) catch_up_at: Option<UnixMs>,
    /// Whether due times that were left out are still to be counted.
    pub(super) uncounted: bool,
    /// Whether one run made up for them; it is logged once their number is known.
    pub(super) tells_missed: bool,
}

/// The longest wait before the wall clock is read again: an nginx timer counts monotonic time, due
/// times lie on the wall clock.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The first look is made from the event loop, never from inside `init_process`.
const AT_ONCE: Duration = Duration::from_millis(1);
impl Job {
    /// Arms the timer.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn begin(
        conf: Timer,
        record: Nth<Record>,
        worker: Rc<Worker>,
    ) -> Result<Rc<Self>, NoMemory> {
        let index = worker.queue.reserve()?;
        let owner = worker.owner(&conf);
        let job = Rc::new_cyclic(|me: &Weak<Self>| Self {
            fleet: conf.fleet.as_ref().map(|fleet| FleetJob::new(&conf, fleet, me)),
            notifications: Notifications::new(conf.notify.len(), me),
            owner,
            conf,
            record,
            worker,
            index,
            me: me.clone(),
            report: Report::default(),
            state: RefCell::new(JobState::Idle),
            last_look: RefCell::default(),
            is_watched: Cell::new(false),
            waits: Cell::default(),
            over: Cell::new(false),
        });
        job.worker.queue.insert(index, Rc::downgrade(&job));
        job.worker.queue.wake(index, Deadline::Clock, AT_ONCE);
        Ok(job)
    }

    /// Sets the clock to the next due time, and looks at the record.
    pub(super) fn look_at_clock(&self) {
        if self.is_over() {
            return;
        }
        let look = self.look_now();
        if self.conf.scheduled == Scheduled::On {
            let next = look.around.next.map(|next| next.start.since(look.now));
            let after = next.map_or(LONGEST_WAIT, |after| after.min(LONGEST_WAIT));
            self.worker.queue.wake(self.index, Deadline::Clock, after);
        }
        self.dispatch_at(&look);
    }

    /// The due times around this instant.
    pub(super) fn look_now(&self) -> Look<'_> {
        let (due_times, now) = (&self.conf.due_times, wall_clock());
        let around = self.last_look().around.moved_to(due_times, now);
        self.note(|last| last.around = around);
        Look { due_times, around, now }
    }

    pub(super) fn last_look(&self) -> Ref<'_, LastLook> {
        self.last_look.borrow()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut LastLook)) {
        change(&mut self.last_look.borrow_mut());
    }

    /// Whether the record needs a look each second from now on.
    pub(super) fn watch(&self, watched: bool) {
        if self.is_watched.replace(watched) != watched {
            self.worker.count_watched(watched);
        }
    }

    /// Answers the state before.
    pub(super) fn enter(&self, state: JobState) -> JobState {
        self.state.replace(state)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(*self.state.borrow(), JobState::Idle)
    }

    /// What this worker does for the fleet of the timer, if it is in one.
    pub(super) fn fleet(&self) -> Option<&FleetJob> {
        self.fleet.as_deref()
    }

    /// Whether what the record says is in progress is in progress here.
    pub(super) fn is_ours(&self) -> bool {
        matches!(*self.state.borrow(), JobState::Asking | JobState::Held | JobState::Running(_))
    }

    /// Whether it is to stay in a worker that leaves.
    pub(super) fn stays(&self) -> bool {
        self.is_running() || self.notifications.is_sending()
    }

    /// The attempt in progress here.
    pub(super) fn running(&self) -> Option<Rc<Running>> {
        match &*self.state.borrow() {
            JobState::Running(running) => Some(Rc::clone(running)),
            _ => None,
        }
    }

    pub(super) fn queued(&self) -> Option<Wanted> {
        match &*self.state.borrow() {
            JobState::Queued(wanted) => Some(*wanted),
            _ => None,
        }
    }

    pub(super) fn take_claim(&self) -> Option<Box<PendingClaim>> {
        let mut state = self.state.borrow_mut();
        match mem::replace(&mut *state, JobState::Idle) {
            JobState::Claiming(claim) => Some(claim),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Once a second: has what could not be written before written, and the record looked at if another
    /// process may have changed it; each timer in its turn.
    pub(super) fn tick(&self, news: bool) {
        if news || self.is_watched.get() || self.worker.store.has_unwritten(&self.record) {
            self.worker.queue.post_news(self.index);
        }
    }

    /// What was posted by [`Self::tick`].
    pub(super) fn follow_news(&self) {
        self.follow_cancel();
        self.write_again();
        self.notifications.look();
        self.dispatch();
    }

    /// Writes what could not be written before.
    pub(super) fn write_again(&self) {
        if self.worker.store.has_unwritten(&self.record) {
            self.worker.store.write_again(self.timer());
            if self.is_over() {
                self.worker.store.give_up(&self.record);
            }
        }
    }

    /// At once: the record has just been changed here.
    pub(super) fn look(&self) {
        self.follow_cancel();
        self.post();
    }

    /// Has the record looked at after the events at hand.
    pub(super) fn post(&self) {
        self.worker.queue.post(self.index);
    }

    /// What waited in the queue has got its permit.
    pub(super) fn start_queued(&self, permit: Permit) {
        let Some(wanted) = self.queued() else {
            return self.start_granted(permit);
        };
        self.enter(JobState::Idle);
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
        self.over.set(true);
        if let Some(fleet) = self.fleet() {
            fleet.leave(self);
        }
        if !self.is_running() {
            drop(self.enter(JobState::Idle));
        }
        self.worker.queue.leave(self.index);
    }

    /// Whether no run may start here any more.
    pub(super) fn is_over(&self) -> bool {
        process::is_leaving() || self.over.get()
    }

    pub(super) fn timer(&self) -> state::TimerRef<'_> {
        state::TimerRef {
            record: &self.record,
            due_times: &self.conf.due_times,
            owner: self.owner,
            timeout: self.conf.timeout,
        }
    }

    pub(super) fn report_left_out(&self) {
        if !self.worker.store.has_notices() {
            return;
        }
        let left_out = self.worker.report_but_left_out();
        self.report_missed(left_out.missed);
        self.report.more_overlaps(left_out.overlaps);
    }

    /// Tells of due times that had no run, once their number is known.
    pub(super) fn report_missed(&self, missed: u64) {
        if missed == 0 {
            return;
        }
        self.notifications.look();
        let tells_missed = self.last_look().tells_missed;
        self.note(|last| last.tells_missed = false);
        if tells_missed {
            self.report.missed(&self.conf, missed.saturating_add(1));
        } else {
            self.report.left_out(&self.conf, missed);
        }
    }

    pub(super) fn set_alarm(&self, after: Duration) {
        self.worker.queue.wake(self.index, Deadline::Alarm, after);
    }
}
