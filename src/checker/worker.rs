//! The checks of one worker: on a due time, the next one is set, then this one gets its turn, is claimed,
//! and made.
//!
//! ```text
//!           due            its turn        claimed
//!   idle ─────────> waits ──────────> ? ───────────> in progress ──────> recorded, marked
//!     ^               (lanes)         │ another has it      the run ends       │
//!     └───────────────────────────────┴────────────────────────────────────────┘
//! ```
//!
//! All workers know all checks. The one in slot 0 is first; what it does not take, another does a little
//! later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::group::CheckedGroup;
use super::target::Target;
use crate::conf::MainConf;
use crate::deadlines::Deadlines;
use crate::health::lanes::Lanes;
use crate::health::pulse::Pulse;
use crate::health::verdict::CheckOutcome;
use crate::nginx::event::{EventTimer, Hold, Next, Posted};
use crate::nginx::hooks::InitProcess;
use crate::nginx::log::{Level, Log};
use crate::nginx::process;
use crate::os::Share;
use crate::os::memory::{self, NoMemory, push};
use crate::throttle::Throttle;

/// The checks of one worker.
pub(super) struct CheckWorker {
    pub(super) slot: usize,
    pub(super) workers: usize,
    pub(super) groups: Vec<WatchedGroup>,
    /// What each deadline is for: first the groups, then checks.
    pub(super) entries: RefCell<Vec<DeadlineFor>>,
    /// Numbers of entries that are for nothing.
    pub(super) unused: RefCell<Vec<usize>>,
    pub(super) deadlines: RefCell<Deadlines>,
    pub(super) lanes: RefCell<Lanes>,
    pub(super) posted: Posted,
    /// Runs out with the first deadline.
    timer: EventTimer,
    timer_at: Cell<Option<Instant>>,
    /// Runs while checks are in progress.
    pub(super) beat: EventTimer,
    pub(super) pulse: Pulse,
    no_memory: Throttle,
    pub(super) me: Weak<Self>,
}

/// What a deadline is for.
#[derive(Clone)]
pub(super) enum DeadlineFor {
    /// A group is looked at.
    Group(usize),
    /// A check is due.
    Target(Rc<Target>),
    /// Nothing.
    Nothing,
}

/// A group, and when its marks were compared last.
pub(super) struct WatchedGroup {
    pub(super) group: RefCell<CheckedGroup>,
    pub(super) refreshed: Cell<Option<Instant>>,
    /// The checks of its servers.
    pub(super) targets: RefCell<HashMap<Box<[u8]>, Rc<Target>>>,
}

/// Servers that DNS adds are found within this time.
const LOOK: Duration = Duration::from_millis(100);
/// Without memory it goes on after this time.
const WITHOUT_MEMORY: Duration = Duration::from_millis(100);

impl CheckWorker {
    /// Begins with all checks of the configuration.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn begin(main: &MainConf, process: InitProcess) -> Result<Rc<Self>, NoMemory> {
        let watched = |group| WatchedGroup {
            group: RefCell::new(group),
            refreshed: Cell::new(None),
            targets: RefCell::default(),
        };
        let groups: Vec<_> = CheckedGroup::all(main).into_iter().map(watched).collect();
        let (mut lanes, mut deadlines, mut entries) =
            (Lanes::default(), Deadlines::default(), Vec::new());
        for group in 0..groups.len() {
            lanes.join()?;
            let number = deadlines.join()?;
            push(&mut entries, DeadlineFor::Group(group))?;
            deadlines.set(number, Instant::now());
        }
        let worker = Rc::new_cyclic(|me: &Weak<Self>| Self {
            slot: process.role.slot().unwrap_or(0),
            workers: process.workers,
            groups,
            entries: RefCell::new(entries),
            unused: RefCell::default(),
            deadlines: RefCell::new(deadlines),
            lanes: RefCell::new(lanes),
            posted: Posted::new(calling(me, Self::dispatch)),
            timer: timer(me, |worker| {
                worker.timer_at.set(None);
                worker.posted.post();
                Next::Stop
            }),
            timer_at: Cell::new(None),
            beat: timer(me, Self::beat),
            pulse: Pulse::new(Instant::now()),
            no_memory: Throttle::default(),
            me: me.clone(),
        });
        worker.arm();
        Ok(worker)
    }

    /// Makes no check any more; those in progress are interrupted.
    pub(super) fn end(&self) {
        let running: Vec<_> = self.running().collect();
        for (target, running) in running {
            let _ = running.end(&target.check, CheckOutcome::Inconclusive, "interrupted");
            running.cut_off();
        }
        self.timer.cancel();
        self.beat.cancel();
        self.posted.cancel();
    }

    /// One turn.
    fn dispatch(&self) {
        let share = Share::begin();
        // The next turn comes, whatever happens to this one.
        self.posted.post_next();
        loop {
            if !memory::enough() {
                return self.rest();
            }
            let started = !process::is_leaving() && self.start_one();
            if !started && !self.wake_one() {
                // Nothing is left for the next turn.
                self.posted.cancel();
                break;
            }
            if share.is_spent() {
                break;
            }
        }
        self.arm();
    }

    fn wake_one(&self) -> bool {
        let Some(number) = self.deadlines.borrow_mut().pop(Instant::now()) else { return false };
        let entry = self.entries.borrow().get(number).cloned();
        match entry {
            Some(DeadlineFor::Group(group)) => {
                self.set(number, LOOK);
                self.look_at_group(group);
            }
            Some(DeadlineFor::Target(target)) => {
                self.set(number, target.check.interval);
                self.look(&target);
            }
            Some(DeadlineFor::Nothing) | None => {}
        }
        true
    }

    /// Has the entry woken `after` this time.
    pub(super) fn set(&self, number: usize, after: Duration) {
        self.deadlines.borrow_mut().set(number, Instant::now() + after);
    }

    /// Arms the timer for the first deadline.
    fn arm(&self) {
        let Some(first) = self.deadlines.borrow().first() else { return };
        if self.timer_at.get().is_some_and(|at| at <= first) {
            return;
        }
        self.timer_at.set(Some(first));
        let after = first.saturating_duration_since(Instant::now());
        // Rounded up: before the deadline there is nothing to do.
        self.timer.arm(after + Duration::from_micros(999));
    }

    /// There is no memory: waits for some.
    fn rest(&self) {
        self.posted.cancel();
        self.timer_at.set(Some(Instant::now() + WITHOUT_MEMORY));
        self.timer.arm(WITHOUT_MEMORY);
        self.tell_no_memory();
    }

    pub(super) fn tell_no_memory(&self) {
        if self.no_memory.pass(Instant::now()).is_some() {
            Log::cycle().write(Level::Error, format_args!("timer: no memory, health checks wait"));
        }
    }
}

fn calling(me: &Weak<CheckWorker>, act: impl Fn(&CheckWorker) + 'static) -> impl FnMut() + 'static {
    let me = me.clone();
    move || {
        if let Some(worker) = me.upgrade() {
            act(&worker);
        }
    }
}

fn timer(me: &Weak<CheckWorker>, act: impl Fn(&CheckWorker) -> Next + 'static) -> EventTimer {
    let me = me.clone();
    EventTimer::new(Hold::Cancelable, move || {
        me.upgrade().map_or(Next::Stop, |worker| act(&worker))
    })
}
