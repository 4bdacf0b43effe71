//! Runs the timers of a worker: on a due time, arm the next one, get a permit, claim, run.
//!
//! ```text
//!            looks at its record            won              the request ends
//!   armed ───────────────> claims ───────────────> in progress ─────────────────> recorded
//!     ^  │                   │  │ no permit          │ timer_timeout                  │
//!     └──┘ re-armed          │  └──> queued          └──> cut off, then as above      │
//!        first               │ handled elsewhere, or left out                         │
//!                            └──> waits until there is something to do <──────────────┘
//! ```
//!
//! An event timer only posts an event. In that event, the next due time is armed before the record is
//! looked at and acted on, so that nothing that goes wrong there can stop the timer. What is to be
//! done is decided by [`crate::state::decide`], and decided once more under the lock.
#![forbid(unsafe_code)]

mod captured;
mod claiming;
mod fleet;
mod job;
mod look;
mod master;
mod messages;
mod notification;
mod notify;
mod registry;
mod report;
mod run;
mod run_queue;
mod running;
mod telling;
mod worker;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub use fleet::{Client, FleetState, figures};
pub use master::{load, open};
pub use notification::Notification;
pub use registry::{Registry, Wake};
pub use run::{Run, new_run_id};

use crate::TimerModule;
use crate::conf::{MainConf, WorkerChoice};
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::nginx::hooks::{InitProcess, with_main};
use crate::nginx::log::{Level, Log};
use crate::nginx::notifier::Notifier;
use crate::nginx::process::{self, Role};
use crate::nginx::run::trial::{self, Trial};
use crate::nth::Nth;
use crate::os::memory::{self, push};
use crate::throttle::Throttle;
use job::Job;
use registry::{Runs, WakeHint};
use worker::Worker;

/// The timers of this process.
struct Runner {
    registry: Rc<Registry>,
    /// `None`: it runs none, and only shows them.
    worker: Option<Rc<Worker>>,
    jobs: Vec<Rc<Job>>,
    /// Those of an earlier configuration whose run is still in progress: with
    /// `master_process off` they stay in the same process.
    leaving: Vec<Rc<Job>>,
    _tick: Option<EventTimer>,
    _notifier: Option<Notifier>,
}

thread_local! {
    /// nginx's workers have one thread; the hooks find what they began here.
    static RUNNER: RefCell<Option<Runner>> = const { RefCell::new(None) };
    /// Begins when it can: see [`begin`].
    static BEGINNING: RefCell<Option<EventTimer>> = const { RefCell::new(None) };
}

/// How often to look at what other processes want.
const TICK: Duration = Duration::from_secs(1);

/// What a timer takes in a worker, in bytes.
const EACH: usize = 2048;

/// Arms the timers that belong to this process, if any do; later, if there is no memory now, or while
/// the state file is in use by an older module.
pub fn begin(main: &MainConf, process: InitProcess) {
    if process.role.slot().is_some() && master::waits(main) {
        show_only(main, process);
        BEGINNING.set(Some(take_over_later(process)));
        return;
    }
    begin_now(main, process);
}

/// Shows the timers, of which none runs.
fn show_only(main: &MainConf, process: InitProcess) {
    let registry = Registry::new(main, None, process.workers, Runs::No);
    let leaving = put(None).map(Runner::leave).unwrap_or_default();
    let tick = (!leaving.is_empty()).then(tick);
    let jobs = Vec::new();
    put(Some(Runner { registry, worker: None, jobs, leaving, _tick: tick, _notifier: None }));
}

/// Looks once a second whether the state file can be taken over, takes it over, a little in each turn,
/// and begins then.
fn take_over_later(process: InitProcess) -> EventTimer {
    let mut failures = Throttle::default();
    let mut taking = None;
    let timer = EventTimer::new(Hold::Cancelable, move || {
        if process::is_leaving() {
            // Others go on with it.
            taking = None;
            return Next::Stop;
        }
        let next = with_main::<TimerModule, Next>(|main| {
            let next = master::take_over(main, &mut taking, &mut failures);
            if next == Next::Stop {
                begin_now(main, process);
            }
            next
        });
        next.unwrap_or(Next::After(TICK))
    });
    timer.arm(TICK);
    timer
}

fn begin_now(main: &MainConf, process: InitProcess) {
    run::forget_random();
    let later = memory::enough_for(main.timers().len().saturating_mul(EACH)).is_err();
    BEGINNING.set(later.then(|| begin_later(process, "no memory")));
    if later {
        return;
    }
    let trial = try_out(main, process);
    if trial == Trial::NotMade {
        BEGINNING.set(Some(begin_later(process, "no free connection")));
        return;
    }
    let runs = if trial == Trial::Passed { Runs::Yes } else { Runs::No };
    let worker = master::attach(main, process);
    let registry = Registry::new(main, worker.clone(), process.workers, runs);
    let starts = worker.as_ref().filter(|_| runs == Runs::Yes);
    let jobs = starts.map_or_else(Vec::new, |worker| begin_jobs(main, worker, process));
    let leaving = put(None).map(Runner::leave).unwrap_or_default();
    let tick = (!jobs.is_empty() || !leaving.is_empty()).then(tick);
    let notifiers = main.notifiers().borrow();
    let notifier =
        process.role.slot().filter(|_| tick.is_some()).and_then(|slot| notifiers.get(slot));
    let notifier = notifier.and_then(|notifier| {
        Notifier::new(notifier, |times| look(LookReason::Notified(WakeHint(times))))
    });
    put(Some(Runner { registry, worker, jobs, leaving, _tick: tick, _notifier: notifier }));
}

/// Whether this nginx runs a location as it must.
fn try_out(main: &MainConf, process: InitProcess) -> Trial {
    let timer = main.timers().first().filter(|_| process.role.slot().is_some());
    let trial = timer.map_or(Trial::Passed, |timer| trial::make(timer.location));
    if let Trial::Failed(what) = trial {
        Log::cycle().write(Level::Emerg, format_args!(
            "timer: a run is not possible in this nginx ({what}), no timer is started, build the \
             module with the sources of this nginx"
        ));
    }
    trial
}

/// Tries again, once a second.
fn begin_later(process: InitProcess, why: &str) -> EventTimer {
    Log::cycle().write(Level::Error, format_args!("timer: {why}, timers are not running"));
    let timer = EventTimer::new(Hold::Cancelable, move || {
        if !process::is_leaving() {
            with_main::<TimerModule, ()>(|main| begin_now(main, process));
        }
        Next::Stop
    });
    timer.arm(TICK);
    timer
}

fn begin_jobs(main: &MainConf, worker: &Rc<Worker>, process: InitProcess) -> Vec<Rc<Job>> {
    let slot = worker.slot();
    let opened = main.opened().borrow();
    let records = opened.iter().flat_map(|opened| Nth::each(&opened.state.records));
    let timers = main.each_timer().zip(records).filter(|(timer, _)| {
        timer.worker == WorkerChoice::Any || timer.worker.slot(&timer.name, process.workers) == slot
    });
    let mut jobs = Vec::new();
    for (timer, record) in timers {
        let job = Job::begin(timer.clone(), record, Rc::clone(worker));
        if job.and_then(|job| push(&mut jobs, job)).is_err() {
            Log::cycle().write(Level::Crit, format_args!("timer \"{}\": no memory", timer.name));
        }
    }
    // Room for all of them at once: to move them later would take long.
    let _ = worker.store.make_room(main.timers().len());
    if !main.timers().is_empty() {
        messages::began(main, slot, jobs.len());
    }
    jobs
}

/// Whether this process runs timers.
fn has_begun() -> bool {
    RUNNER.with_borrow(Option::is_some)
}

/// The process is about to end: runs in progress are interrupted.
pub fn end() {
    BEGINNING.set(None);
    if let Some(runner) = put(None) {
        let worker = runner.worker.clone();
        runner.jobs.iter().for_each(|job| job.write_again());
        for job in runner.leave() {
            job.interrupt();
            job.notifications.cut_off();
        }
        if let Some(worker) = worker {
            worker.tell_others();
        }
    }
    fleet::end();
}

impl Runner {
    /// Starts no run any more; answers the timers that have one in progress.
    fn leave(mut self) -> Vec<Rc<Job>> {
        for jobs in [&mut self.jobs, &mut self.leaving] {
            jobs.retain(|job| {
                job.disarm();
                job.stays()
            });
        }
        self.jobs.append(&mut self.leaving);
        self.jobs
    }

    /// All timers, by number.
    fn job(&self, number: usize) -> Option<&Rc<Job>> {
        let leaving = || self.leaving.get(number.checked_sub(self.jobs.len())?);
        self.jobs.get(number).or_else(leaving)
    }
}

/// Why to look at what other processes want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookReason {
    /// A second has passed.
    Tick,
    /// It was notified.
    Notified(WakeHint),
}

/// Once a second: has looked at what other processes have changed.
fn tick() -> EventTimer {
    let timer = EventTimer::new(Hold::Cancelable, || {
        look(LookReason::Tick);
        Next::After(TICK)
    });
    timer.arm(TICK);
    timer
}

/// Looks at what other processes have changed.
fn look(reason: LookReason) {
    let Some(worker) = RUNNER.with_borrow(|runner| runner.as_ref()?.worker.clone()) else { return };
    let notified = match reason {
        LookReason::Notified(hint) => hint.timer(),
        LookReason::Tick => None,
    };
    let news = worker.has_news() || matches!(reason, LookReason::Notified(_));
    let leaving =
        RUNNER.with_borrow(|runner| runner.as_ref().is_some_and(|it| !it.leaving.is_empty()));
    if !news && !leaving && !worker.needs_tick() {
        return worker.report();
    }
    let job = |number| RUNNER.with_borrow(|runner| runner.as_ref()?.job(number).map(Rc::clone));
    for job in (0..).map_while(job) {
        if notified == Some(job.conf.number()) {
            job.look();
        } else {
            job.tick(news);
        }
    }
    worker.report();
}

/// Whether this worker has looked at a timer's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookedAt {
    /// It may run it, and looks.
    Here,
    /// Others have to.
    Elsewhere,
}

/// Looks at the record of this timer, if this worker may run it and does not leave.
fn look_at(timer: usize) -> LookedAt {
    let job = RUNNER.with_borrow(|runner| {
        let mut jobs = runner.as_ref()?.jobs.iter();
        jobs.find(|job| job.conf.number() == timer).map(Rc::clone)
    });
    let Some(job) = job else { return LookedAt::Elsewhere };
    job.look();
    if job.is_over() { LookedAt::Elsewhere } else { LookedAt::Here }
}

/// The role in which a configuration is loaded by the process that runs it (HOST-11).
const ALONE: InitProcess = InitProcess { role: Role::Single, workers: 1 };

/// Replaces the runner; the old one is dropped by the caller, outside of the borrow.
fn put(runner: Option<Runner>) -> Option<Runner> {
    RUNNER.with_borrow_mut(|record| std::mem::replace(record, runner))
}
