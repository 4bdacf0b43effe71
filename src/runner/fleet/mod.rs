//! A timer that runs once per fleet: what its job asks the fleet, and what follows from the answers.
//!
//! ```text
//!         read first, unless this host had          the record says          the fleet
//!   due ──────────── the last one ─────────> open ───── "claiming" ───> asked ─────────> won ──> held
//!                        │                                                │                       │
//!                        └── handled elsewhere                            └── elsewhere, overlap, │
//!                                                                             paused, lost        │
//!         recorded <── ended, or given up <── in progress, or waits for its next attempt <────────┘
//! ```
//!
//! The machines of [`crate::fleet`] say what is sent and what it means; this sends it, and does what they say.
//! The clock of the job goes on by itself: nothing here can keep it from being armed. An answer may come
//! when the job is gone: whoever waits for one has no more than a weak reference.

mod asking;
mod client;
mod exchanges;
mod held;
mod look;
mod pauses;
mod reading;
mod record;
mod resume;
mod shared;
mod standing;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::job::{Job, LONGEST_WAIT};
use crate::conf::{Fleet, Timer};
use crate::fleet::{Answer, Ask, BootMs, ClaimId, Node, Observing, View};
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::os::wall_clock;
use crate::schedule::{UnixMs, stable_hash};
use asking::Asking;
pub use client::Client;
use client::boot_now;
pub(super) use client::end;
use held::HeldRun;
pub(super) use held::OfFleet;
use reading::Known;
pub use shared::{FleetState, figures, prepare};

/// What a job whose timer runs once per fleet has beside it.
pub(super) struct FleetJob {
    fleet: Fleet,
    client: Rc<Client>,
    node: Node,
    name: Box<str>,
    /// What hosts compare their schedules by.
    schedule: u64,
    /// When the timer was loaded here.
    loaded_at: UnixMs,
    me: Weak<Job>,
    known: RefCell<Known>,
    /// The claim that is under way.
    asking: RefCell<Option<Asking>>,
    /// The run that was won.
    held: RefCell<Option<Rc<HeldRun>>>,
    /// Runs whose end is recorded, of which the fleet is still to be told.
    ending: RefCell<Vec<Rc<HeldRun>>>,
    observing: RefCell<Observing>,
    /// The reset before which nothing that is known here was read.
    reset_at: Cell<UnixMs>,
    /// Whether runs are held, or end, that were won before it.
    forgets_runs: Cell<bool>,
    /// Whether there is a run of another host.
    observes: Cell<bool>,
    waits_for_client: Cell<bool>,
    told_of_schedule: Cell<bool>,
    /// For all that is waited for, but for the run that is held.
    timer: EventTimer,
    /// For that one, once it has started (HOST-7).
    holds: EventTimer,
    is_driving: Cell<bool>,
    goes_on: Cell<bool>,
}

/// The deadline of a run is looked at so often.
const LOOK_AT_DEADLINE: Duration = Duration::from_secs(1);
/// After so many steps in a row it goes on after [`LATER`].
const STEPS: usize = 16;
const LATER: Duration = Duration::from_millis(100);
/// The fleet is told of so many runs that were given up; of older ones their ttl tells.
const MOST_ENDING: usize = 4;
/// The longest time by which a host lets others claim first.
const LONGEST_HOLD_BACK_MS: i64 = 100;

impl FleetJob {
    /// That of a timer with `fleet=`.
    pub(super) fn new(conf: &Timer, fleet: &Fleet, me: &Weak<Job>) -> Box<Self> {
        let node = Node::parse(&fleet.node).unwrap_or_default();
        let name = conf.name.as_str();
        let seed =
            stable_hash(&[node.as_str().as_bytes(), name.as_bytes(), &super::new_run_id(name).0]);
        let timer = |hold| {
            let me = me.clone();
            EventTimer::new(hold, move || {
                if let Some(job) = me.upgrade() {
                    job.drive();
                }
                Next::Stop
            })
        };
        let client = Client::of(fleet);
        Box::new(Self {
            reset_at: Cell::new(client.reset_at()),
            forgets_runs: Cell::new(false),
            client,
            fleet: fleet.clone(),
            observing: RefCell::new(Observing::new(seed)),
            node,
            name: name.into(),
            schedule: conf.due_times.schedule.stable_hash(),
            loaded_at: wall_clock(),
            me: me.clone(),
            known: RefCell::default(),
            asking: RefCell::default(),
            held: RefCell::default(),
            ending: RefCell::default(),
            observes: Cell::new(false),
            waits_for_client: Cell::new(false),
            told_of_schedule: Cell::new(false),
            timer: timer(Hold::Cancelable),
            holds: timer(Hold::HoldsExit),
            is_driving: Cell::new(false),
            goes_on: Cell::new(false),
        })
    }

    /// How long this host lets others claim first: the same for each due time of a timer, so that
    /// timers are spread over hosts.
    fn hold_back(&self, period_ms: i64) -> Duration {
        let most = (period_ms / 2).clamp(1, LONGEST_HOLD_BACK_MS).unsigned_abs();
        let hash = stable_hash(&[b"fleet", self.node.as_str().as_bytes(), self.name.as_bytes()]);
        Duration::from_millis(hash % most)
    }

    /// The claim of this host that is under way, or holds a run.
    fn ours(&self) -> Option<ClaimId> {
        let asked = self.asking.borrow().as_ref().map(Asking::id);
        asked.or_else(|| self.held.borrow().as_ref().map(|held| held.id()))
    }

    /// Asks the fleet, and hands the answer to `then`, if the job is still there.
    fn exchange(&self, ask: Ask, then: impl FnOnce(&Job, &Self, Answer, BootMs, BootMs) + 'static) {
        let me = self.me.clone();
        let then = move |answer, sent, arrived| {
            let Some(job) = me.upgrade() else { return };
            if let Some(fleet) = job.fleet() {
                then(&job, fleet, answer, sent, arrived);
            }
            job.drive();
        };
        self.client.exchange(&self.name, ask, Box::new(then));
    }

    /// This was read of the timer.
    fn seen(&self, job: &Job, view: &View, arrived: BootMs) {
        self.note_reset();
        let ours = self.ours();
        let of_others = |run: &crate::fleet::Run| {
            Some(run.claim) != ours && !self.ending.borrow().iter().any(|it| it.id() == run.claim)
        };
        self.observes.set(view.run.as_ref().is_some_and(|run| of_others(&run.value)));
        self.observing.borrow_mut().seen(view, ours, arrived);
        self.note(job, view);
    }

    /// Has each machine do what it is to do now; answers when to come again, for what holds an exiting
    /// worker and for what does not.
    fn drive(&self, job: &Job, now: BootMs) -> [Option<BootMs>; 2] {
        self.note_reset();
        if self.forgets_runs.take() {
            self.forget_runs(job);
        }
        let observes = self.observe(job, now);
        let ending = self.ending.borrow().clone();
        let ending = ending.iter().filter_map(|run| self.hold(job, run, now)).min();
        let held = self.held.borrow().clone();
        let mut held_until = held.as_ref().and_then(|run| self.hold(job, run, now));
        let asks = self.ask(job, now);
        let held = self.held.borrow().clone();
        if held.is_some() {
            let soon = now.plus(LOOK_AT_DEADLINE);
            held_until = Some(held_until.map_or(soon, |until| until.min(soon)));
        }
        let others = [observes, ending, asks].into_iter().flatten().min();
        if held.is_some_and(|held| held.holds_exit()) {
            [held_until, others]
        } else {
            [None, [held_until, others].into_iter().flatten().min()]
        }
    }

    fn arm(timer: &EventTimer, until: Option<BootMs>, now: BootMs) {
        match until.filter(|until| *until < BootMs::NEVER) {
            Some(until) => {
                let after = Duration::from_millis(until.0.saturating_sub(now.0));
                timer.arm(after.min(LONGEST_WAIT));
            }
            None => timer.cancel(),
        }
    }
}

impl Job {
    /// Does what is to be done now with all that is asked of the fleet.
    pub(super) fn drive(&self) {
        let Some(fleet) = self.fleet() else { return };
        fleet.goes_on.set(true);
        if fleet.is_driving.get() {
            // Whoever drives it goes on.
            return;
        }
        let _driving = Driving::begin(&fleet.is_driving);
        let mut until = [None, None];
        let mut now = boot_now();
        for _ in 0..STEPS {
            if !fleet.goes_on.replace(false) {
                break;
            }
            now = boot_now();
            until = fleet.drive(self, now);
        }
        if fleet.goes_on.get() {
            until[1] = Some(now.plus(LATER));
        }
        let [holds, others] = until;
        FleetJob::arm(&fleet.holds, holds, now);
        FleetJob::arm(&fleet.timer, others, now);
    }
}

/// Somebody drives a job, until this is dropped.
struct Driving<'a>(&'a Cell<bool>);

impl<'a> Driving<'a> {
    fn begin(is_driving: &'a Cell<bool>) -> Self {
        is_driving.set(true);
        Self(is_driving)
    }
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The instant of that clock that is this one of the wall clock, as far as is known now.
fn boot_at(at: UnixMs) -> BootMs {
    boot_now().plus(at.since(wall_clock()))
}
