//! The conductor: on a due time, arm the next one, get a place, claim, run.
//!
//! ```text
//!            looks at its record            won              the request ends
//!   armed ───────────────> claims ───────────────> in progress ─────────────────> recorded
//!     ^  │                   │  │ no place           │ timer_timeout                  │
//!     └──┘ re-armed          │  └──> in the line     └──> cut off, then as above      │
//!        first               │ dealt with elsewhere, or left out                      │
//!                            └──> waits until there is something to do <──────────────┘
//! ```
//!
//! The timer of a due time only arms the next; looking at the record and acting on it happens in a
//! posted event, so that nothing that goes wrong there can keep the next one from being armed. What
//! is to be done is decided by [`crate::state::decide`], and decided once more under the lock.
#![forbid(unsafe_code)]

mod attempt;
mod contest;
mod job;
mod line;
mod master;
mod notices;
mod report;
mod run;
mod worker;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub use master::{load, open};
pub use run::Run;

use crate::conf::{MainConf, WorkerChoice};
use crate::nginx::event::{Hold, Next, Timer};
use crate::nginx::module::Process;
use crate::nginx::process::Role;
use job::Job;
use worker::Worker;

/// The timers of this worker.
struct Runner {
    worker: Rc<Worker>,
    jobs: Vec<Rc<Job>>,
    /// Those of an earlier configuration whose run is still in progress: with
    /// `master_process off` they stay in the same process.
    leaving: Vec<Rc<Job>>,
    _tick: Option<Timer>,
}

thread_local! {
    /// nginx's workers have one thread; the hooks find what they began here.
    static RUNNER: RefCell<Option<Runner>> = const { RefCell::new(None) };
}

/// How often to look at what other processes want.
const TICK: Duration = Duration::from_secs(1);

/// Arms the timers that belong to this process, if any do.
pub fn begin(main: &MainConf, process: Process) {
    let Some(worker) = master::attach(main, process) else { return };
    let slot = worker.slot();
    let opened = main.opened().borrow();
    let places = opened.iter().flat_map(|opened| &opened.state.places);
    let jobs: Vec<_> = main
        .timers()
        .iter()
        .zip(places)
        .filter(|(timer, _)| {
            timer.worker == WorkerChoice::Any
                || timer.worker.slot(&timer.name, process.workers) == slot
        })
        .map(|(timer, place)| Job::begin(Rc::clone(timer), place.clone(), Rc::clone(&worker)))
        .collect();
    if !main.timers().is_empty() {
        notices::began(main, slot, jobs.len());
    }
    let tick = (!jobs.is_empty()).then(|| tick(&worker, &jobs));
    let leaving = put(None).map(Runner::leave).unwrap_or_default();
    put(Some(Runner { worker, jobs, leaving, _tick: tick }));
}

/// Whether this process runs timers.
fn has_begun() -> bool {
    RUNNER.with_borrow(Option::is_some)
}

/// The process is about to end: runs in progress are interrupted.
pub fn end() {
    if let Some(runner) = put(None) {
        let worker = Rc::clone(&runner.worker);
        for job in runner.leave() {
            job.interrupt();
        }
        worker.tell_others();
    }
}

impl Runner {
    /// Starts no run any more; answers the timers that have one in progress.
    fn leave(self) -> Vec<Rc<Job>> {
        let jobs = self.jobs.into_iter().chain(self.leaving);
        jobs.inspect(|job| job.disarm()).filter(|job| job.is_running()).collect()
    }
}

/// Once a second: has looked at what other processes have changed.
fn tick(worker: &Rc<Worker>, jobs: &[Rc<Job>]) -> Timer {
    let worker = Rc::clone(worker);
    let jobs: Vec<_> = jobs.iter().map(Rc::downgrade).collect();
    let timer = Timer::new(Hold::Cancelable, move || {
        let news = worker.has_news();
        for job in jobs.iter().filter_map(std::rc::Weak::upgrade) {
            job.tick(news);
        }
        worker.report();
        Next::After(TICK)
    });
    timer.arm(TICK);
    timer
}

/// The role in which a configuration is loaded by the process that runs it (HOST-11).
const ALONE: Process = Process { role: Role::Single, workers: 1 };

/// Replaces the runner; the old one is dropped by the caller, outside of the borrow.
fn put(runner: Option<Runner>) -> Option<Runner> {
    RUNNER.with_borrow_mut(|place| std::mem::replace(place, runner))
}
