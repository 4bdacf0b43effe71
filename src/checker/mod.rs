//! Health checks at work: the groups that are checked, and what is marked in them.
//!
//! - [`group`]: a group's servers with their records, and its marks;
//! - `load`: what a new configuration needs before a worker serves a request by it;
//! - `worker`: the checks of one worker, which are made in `making`, for servers that come and go in
//!   `servers`; `target`: one check of one server; `running`: one that is in progress; `report`: what
//!   the log says.
#![forbid(unsafe_code)]

pub mod group;
mod load;
mod making;
mod report;
mod running;
mod servers;
mod target;
mod worker;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

pub use load::open;

use crate::TimerModule;
use crate::conf::MainConf;
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::nginx::hooks::{InitProcess, with_main};
use crate::nginx::log::{Level, Log};
use crate::nginx::process::{self, Role};
use crate::nginx::run::trial::{self, Trial};
use crate::os::memory;
use worker::CheckWorker;

thread_local! {
    /// The checks of this process.
    static WORKER: RefCell<Option<Rc<CheckWorker>>> = const { RefCell::new(None) };
    /// Whether this process makes checks, of this configuration or of one before.
    static HAS_BEGUN: Cell<bool> = const { Cell::new(false) };
    /// Begins when there is memory.
    static LATER: RefCell<Option<EventTimer>> = const { RefCell::new(None) };
}

/// Without memory it is tried again after this time.
const LATER_AFTER: Duration = Duration::from_secs(1);

/// What a check takes in a worker, in bytes.
const EACH: usize = 4096;

/// Begins with the checks, in a process that makes any.
pub fn begin(main: &MainConf, process: InitProcess) {
    LATER.set(None);
    if let Some(before) = WORKER.take() {
        before.end();
    }
    HAS_BEGUN.set(true);
    if process.role.slot().is_none() || main.health_checks().is_empty() {
        return;
    }
    let trial = main.health_checks().first().map(|check| trial::make(check.location));
    if let Some(Trial::Failed(what)) = trial {
        return Log::cycle().write(Level::Emerg, format_args!(
            "timer: a run is not possible in this nginx ({what}), no server is checked, build the \
             module with the sources of this nginx"
        ));
    }
    if trial == Some(Trial::NotMade) {
        Log::cycle()
            .write(Level::Error, format_args!("timer: no free connection, health checks wait"));
        return LATER.set(Some(begin_later(process)));
    }
    let enough = memory::enough_for(main.health_checks().len().saturating_mul(EACH));
    if let Ok(worker) = enough.and_then(|()| CheckWorker::begin(main, process)) {
        WORKER.set(Some(worker));
    } else {
        Log::cycle().write(Level::Error, format_args!("timer: no memory, health checks wait"));
        LATER.set(Some(begin_later(process)));
    }
}

fn begin_later(process: InitProcess) -> EventTimer {
    let timer = EventTimer::new(Hold::Cancelable, move || {
        if !process::is_leaving() {
            with_main::<TimerModule, ()>(|main| begin(main, process));
        }
        Next::Stop
    });
    timer.arm(LATER_AFTER);
    timer
}

/// Takes a configuration up. With `master_process off` it is this process that makes the checks, if it
/// has begun to.
pub fn load(main: &MainConf) {
    load::load(main);
    if HAS_BEGUN.get() {
        begin(main, InitProcess { role: Role::Single, workers: 1 });
    }
}

/// The process is about to end: checks in progress are interrupted.
pub fn end() {
    LATER.set(None);
    if let Some(worker) = WORKER.take() {
        worker.end();
    }
}
