//! The configuration: directives turned into plain values.
//!
//! Parse, don't validate: once the configuration was read, a timer is a [`TimerConf`], and nothing
//! about it can be wrong any more.
#![forbid(unsafe_code)]

mod limits;
mod name;
mod parameters;
mod resolve;
mod success;
mod timer;
mod worker;

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

pub use limits::{TimerMaxRunning, TimerTimeout};
pub use name::TimerName;
pub use resolve::resolve;
pub use success::{Success, TimerSuccess};
pub use timer::TimerDirective;
pub use worker::{TimerWorker, WorkerChoice};

use crate::nginx::conf::Place;
use crate::nginx::location::Location;
use crate::nginx::request::{Access, Method, Uri};
use crate::schedule::Plan;

/// A timer, as configured.
#[derive(Debug)]
pub struct TimerConf {
    /// Its name, unique in the `http` block.
    pub name: TimerName,
    /// When it is due, and starts.
    pub plan: Plan,
    /// What a worker that has just started does.
    pub first: First,
    /// Whether it runs by schedule.
    pub enabled: Enabled,
    /// The location that it runs.
    pub location: Location,
    /// The method of its requests.
    pub method: Method,
    /// The URI of its requests.
    pub uri: Uri,
    /// The `Host` of its requests.
    pub host: Option<String>,
    /// Whether its requests run through the access phases.
    pub access: Access,
    /// Which worker arms it.
    pub worker: WorkerChoice,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// Which answers are success.
    pub success: Success,
    /// Where it is defined.
    pub place: Place,
}

/// What a timer does at the start of its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum First {
    /// It waits for its first due time.
    #[default]
    Due,
    /// It runs at once, then on schedule.
    Now,
}

/// Whether a timer runs by schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enabled {
    /// It does.
    #[default]
    On,
    /// It does not.
    Off,
}

/// What the `http` block says.
#[derive(Default)]
pub struct MainConf {
    definitions: Vec<timer::Definition>,
    max_running: Option<NonZeroUsize>,
    timers: Vec<Rc<TimerConf>>,
}

impl MainConf {
    /// The timers, in the order in which they are configured.
    pub fn timers(&self) -> &[Rc<TimerConf>] {
        &self.timers
    }

    /// How many runs may be in progress in one worker.
    pub fn max_running(&self) -> usize {
        self.max_running.map_or(limits::MAX_RUNNING, NonZeroUsize::get)
    }
}

/// What an `http`, `server` or `location` block says of the timers in it.
#[derive(Default)]
pub struct LocationConf {
    /// Whether the block has a timer of its own; never inherited.
    timer: Option<Place>,
    worker: Option<WorkerChoice>,
    timeout: Option<Duration>,
    success: Option<Success>,
}

impl LocationConf {
    /// Takes from the enclosing block what this one does not say itself.
    pub fn inherit(&mut self, from: &Self) {
        self.worker = self.worker.or(from.worker);
        self.timeout = self.timeout.or(from.timeout);
        if self.success.is_none() {
            self.success.clone_from(&from.success);
        }
    }
}
