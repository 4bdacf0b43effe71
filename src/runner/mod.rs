//! The conductor: on a due time, arm the next one, get a place, run.
//!
//! ```text
//!             due                   a place                 the request ends
//!   armed ─────────> dealt with ──────────────> in progress ─────────────────> recorded
//!     ^  │             │    │ no place              │ timer_timeout
//!     └──┘ re-armed    │    └──> in the line ──┐    └──> cut off, then as above
//!        first         │ last run in progress  └──> as above, when a run has ended
//!                      └──> left out
//! ```
//!
//! The timer of a due time only finds out which one it is and arms the next; dealing with it
//! happens in a posted event, so that nothing that goes wrong there can keep the next one from
//! being armed.
#![forbid(unsafe_code)]

mod job;
mod line;
mod report;
mod run;

use std::cell::RefCell;
use std::rc::Rc;

pub use run::{Run, RunId, Trigger};

use crate::conf::MainConf;
use crate::nginx::log::{Level, Log};
use crate::nginx::module::Process;
use crate::nginx::process::Role;
use job::Job;
use line::Line;

/// The timers of this worker.
struct Runner {
    jobs: Vec<Rc<Job>>,
    /// Those of an earlier configuration whose run is still in progress: with
    /// `master_process off` they stay in the same process.
    leaving: Vec<Rc<Job>>,
}

thread_local! {
    /// nginx's workers have one thread; the hooks find what they began here.
    static RUNNER: RefCell<Option<Runner>> = const { RefCell::new(None) };
}

/// Arms the timers that belong to this process, if any do.
pub fn begin(main: &MainConf, process: Process) {
    let Some(slot) = process.role.slot() else { return };
    let line = Line::new(main.max_running());
    let jobs: Vec<_> = main
        .timers()
        .iter()
        .filter(|timer| timer.worker.slot(&timer.name, process.workers) == slot)
        .map(|timer| Job::begin(Rc::clone(timer), Rc::clone(&line)))
        .collect();
    if !main.timers().is_empty() {
        let count = jobs.len();
        let timers = if count == 1 { "timer" } else { "timers" };
        let message = format_args!("timer: {count} {timers} in this worker, slot {slot}");
        Log::cycle().write(Level::Notice, message);
    }
    let leaving = put(None).map(Runner::leave).unwrap_or_default();
    put(Some(Runner { jobs, leaving }));
}

/// A configuration was loaded. Only a process that already runs timers has to do with it: the one
/// of `master_process off`, which nginx gives a new configuration without a new process (HOST-11).
pub fn reload(main: &MainConf) {
    if RUNNER.with_borrow(Option::is_some) {
        begin(main, Process { role: Role::Single, workers: 1 });
    }
}

/// The process is about to end: runs in progress are interrupted.
pub fn end() {
    if let Some(runner) = put(None) {
        for job in runner.leave() {
            job.interrupt();
        }
    }
}

impl Runner {
    /// Starts no run any more; answers the timers that have one in progress.
    fn leave(self) -> Vec<Rc<Job>> {
        let jobs = self.jobs.into_iter().chain(self.leaving);
        jobs.inspect(|job| job.disarm()).filter(|job| job.is_running()).collect()
    }
}

/// Replaces the runner; the old one is dropped by the caller, outside of the borrow.
fn put(runner: Option<Runner>) -> Option<Runner> {
    RUNNER.with_borrow_mut(|place| std::mem::replace(place, runner))
}
