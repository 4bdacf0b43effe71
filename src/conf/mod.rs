//! The configuration: directives turned into plain values.
//!
//! Parse, don't validate: once the configuration was read, a timer is a [`TimerConf`], and nothing
//! about it can be wrong any more.
#![forbid(unsafe_code)]

mod api;
mod capture;
mod cleanup;
mod fleet;
mod health;
mod keyval;
mod limits;
mod missed;
mod name;
mod notify;
mod overlap;
mod parameters;
mod resolve;
mod retry;
mod setting;
mod state;
mod success;
mod timer;
mod timezone;
mod unhealthy;
mod worker;

use std::cell::{Cell, OnceCell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use api::{KeyvalAccess, TimerApi, WriteAccess};
pub use capture::TimerCapture;
pub use cleanup::TimerCleanup;
pub use fleet::{Fleet, FleetConf, TimerFleet};
pub use health::{
    CheckIdentity, HealthCheck, HealthCheckDirective, Kind, Mandatory, Match, MatchDirective,
    tell_of_timeouts,
};
pub use keyval::{Fill, KeyvalDirective, KeyvalZone, KeyvalZoneDirective, TimerKeyval, now};
pub use limits::{TimerMaxRunning, TimerTimeout};
pub use missed::TimerMissed;
pub use name::TimerName;
pub use notify::{Notify, TimerNotify};
pub use overlap::TimerOverlap;
pub use resolve::resolve;
pub use retry::TimerRetry;
pub use state::TimerState;
pub use success::{Success, TimerSuccess};
pub use timer::TimerDirective;
pub use timezone::TimerTimezone;
pub use unhealthy::TimerUnhealthyAfter;
pub use worker::{TimerWorker, WorkerChoice};

use crate::cleanup::Options;
use crate::nginx::conf::ConfPosition;
use crate::nginx::conf::Location;
use crate::nginx::run::{Access, Method, Uri};
use crate::nth::Nth;
use crate::os::EventFd;
use crate::os::file::FileOwner;
use crate::schedule::{Zone, Zones};
use crate::state::{
    First, Jittered, MissedPolicy, Opened, OverlapPolicy, PidFile, RECEIVERS, RetryPolicy,
    Scheduled, StatePath,
};

/// A timer, as configured.
#[derive(Debug)]
pub struct TimerConf {
    /// Its name, unique in the `http` block.
    pub name: TimerName,
    /// When it is due, and when each due time starts.
    pub due_times: Jittered,
    /// When it runs first if the state does not know it.
    pub first: First,
    /// Whether it runs by schedule.
    pub scheduled: Scheduled,
    /// What happens to missed due times.
    pub missed: MissedPolicy,
    /// What happens to due times that come while the last run is in progress.
    pub overlap: OverlapPolicy,
    /// Which attempts are repeated.
    pub retry: RetryPolicy,
    /// The location that it runs.
    pub location: Location,
    /// The method of its requests.
    pub method: Method,
    /// The URI of its requests.
    pub uri: Uri,
    /// That URI with its variables.
    pub written_uri: String,
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
    /// How many failures in a row are not well.
    pub unhealthy_after: u32,
    /// Who is told of its events.
    pub notify: Vec<Notify>,
    /// The ids of those; 0 for none.
    pub receivers: [u32; RECEIVERS],
    /// How many bytes of a response are kept, if the run fails; 0 for none.
    pub capture: usize,
    /// The fleet of which one host runs each due time.
    pub fleet: Option<Fleet>,
    /// The zone whose content the responses become.
    pub fill: Option<Fill>,
    /// Where it is defined.
    pub position: ConfPosition,
}

/// What the `http` block says.
#[derive(Default)]
pub struct MainConf {
    definitions: Vec<timer::Definition>,
    max_running: Option<NonZeroUsize>,
    state: Option<StatePath>,
    zones: OnceCell<Rc<Zones>>,
    timers: Rc<Vec<TimerConf>>,
    opened: RefCell<Option<OpenedState>>,
    api: Option<WriteAccess>,
    notifiers: RefCell<Rc<Vec<EventFd>>>,
    at_end: RefCell<AtEnd>,
    health_definitions: Vec<health::CheckDefinition>,
    matches: Vec<(Vec<u8>, Rc<Match>)>,
    fleets: Rc<Vec<FleetConf>>,
    /// The variables that `match` blocks require, and where.
    required: Vec<(Vec<u8>, ConfPosition)>,
    health_checks: Rc<Vec<HealthCheck>>,
    cleanups: Vec<cleanup::Definition>,
    keyval_zones: Vec<Rc<KeyvalZone>>,
    /// The variables that look keys up, by their names.
    keyvals: Vec<(Vec<u8>, keyval::KeyvalDefinition)>,
    fills: Vec<keyval::FillDefinition>,
    /// The user of the workers, once the configuration was opened.
    workers: Cell<Option<FileOwner>>,
}

/// A timer of a configuration.
pub type Timer = Nth<TimerConf>;

/// What is to be done when the configuration goes, which is with the pool of its cycle.
#[derive(Default)]
struct AtEnd(Vec<Box<dyn FnOnce()>>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|act| act());
    }
}

/// The state that was opened for a configuration, and by whom.
#[derive(Debug)]
pub struct OpenedState {
    /// The state, and a record for each timer, in the order of [`MainConf::timers`].
    pub state: Opened,
    /// The instance.
    pub pid_file: PidFile,
    /// User and group of the workers.
    pub workers: FileOwner,
    /// For how long its load may still wait for locks.
    pub patience: Duration,
}

impl MainConf {
    /// The timers, in the order in which they are configured.
    pub fn timers(&self) -> &[TimerConf] {
        &self.timers
    }

    /// The same, to be kept.
    pub fn shared_timers(&self) -> Rc<Vec<TimerConf>> {
        Rc::clone(&self.timers)
    }

    /// Each of them, to be kept.
    pub fn each_timer(&self) -> impl Iterator<Item = Timer> {
        Nth::each(&self.timers)
    }

    /// The time zones, opened once for each configuration.
    pub fn zones(&self) -> &Zones {
        self.zones.get_or_init(|| Rc::new(Zones::open()))
    }

    /// The same, to be kept.
    pub fn shared_zones(&self) -> Rc<Zones> {
        Rc::clone(self.zones.get_or_init(|| Rc::new(Zones::open())))
    }

    /// A notifier for each worker, by its slot, once the configuration was taken up; none without an
    /// API that steers.
    pub fn notifiers(&self) -> &RefCell<Rc<Vec<EventFd>>> {
        &self.notifiers
    }

    /// Where the state is kept; known once the configuration was read.
    pub fn state(&self) -> Option<&StatePath> {
        self.state.as_ref()
    }

    /// The state that was opened for this configuration.
    pub fn opened(&self) -> &RefCell<Option<OpenedState>> {
        &self.opened
    }

    /// User and group of the workers.
    pub fn workers(&self) -> FileOwner {
        self.workers.get().unwrap_or_else(FileOwner::of_this_process)
    }

    /// Keeps who they are.
    pub fn keep_workers(&self, workers: FileOwner) {
        self.workers.set(Some(workers));
    }

    /// Has `act` called when this configuration goes.
    pub fn at_end(&self, act: impl FnOnce() + 'static) {
        self.at_end.borrow_mut().0.push(Box::new(act));
    }

    /// What the API may do anywhere, if there is one.
    pub fn api(&self) -> Option<WriteAccess> {
        self.api
    }

    /// The health checks, in the order in which they are configured.
    pub fn health_checks(&self) -> &[HealthCheck] {
        &self.health_checks
    }

    /// Each of them, to be kept.
    pub fn each_health_check(&self) -> impl Iterator<Item = Nth<HealthCheck>> {
        Nth::each(&self.health_checks)
    }

    /// The fleets, in the order in which they are configured.
    pub fn fleets(&self) -> &[FleetConf] {
        &self.fleets
    }

    /// Each of them, to be kept.
    pub fn each_fleet(&self) -> impl Iterator<Item = Fleet> {
        Nth::each(&self.fleets)
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
    timer: Option<ConfPosition>,
    /// Whether the block leads to the etcd of a fleet; never inherited.
    has_fleet: bool,
    worker: Option<WorkerChoice>,
    timeout: Option<Duration>,
    missed: Option<MissedPolicy>,
    overlap: Option<OverlapPolicy>,
    retry: Option<RetryPolicy>,
    timezone: Option<Zone>,
    success: Option<Success>,
    unhealthy_after: Option<u32>,
    capture: Option<usize>,
    /// Empty with `off`.
    notify: Option<Rc<Vec<notify::NotifyDefinition>>>,
    api: Option<WriteAccess>,
    /// What the location removes; never inherited.
    cleanup: Option<Arc<Options>>,
    keyvals: KeyvalAccess,
    /// What the health checks of the block ask; never inherited.
    health_checks: Vec<CheckIdentity>,
    /// What its timer fills, by its number; never inherited.
    keyval: Option<usize>,
}

impl LocationConf {
    /// What the API may do here, if this is its location.
    pub fn api(&self) -> Option<WriteAccess> {
        self.api
    }

    /// What a run of this location removes.
    pub fn cleanup(&self) -> Option<&Arc<Options>> {
        self.cleanup.as_ref()
    }

    /// An `if` or `limit_except` block takes the clean-up from the location that it is a part of; tells whether it
    /// did.
    pub fn inherit_cleanup(&mut self, from: &Self, is_part_of_location: bool) -> bool {
        if is_part_of_location && self.cleanup.is_none() {
            self.cleanup.clone_from(&from.cleanup);
            return self.cleanup.is_some();
        }
        false
    }

    /// Whether the API shows the content of zones here.
    pub fn keyval_access(&self) -> KeyvalAccess {
        self.keyvals
    }

    /// An `if` or `limit_except` block takes the API from the location that it is a part of; tells
    /// whether it did.
    pub fn inherit_api(&mut self, from: &Self, is_part_of_location: bool) -> bool {
        if is_part_of_location && self.api.is_none() {
            (self.api, self.keyvals) = (from.api, from.keyvals);
            return self.api.is_some();
        }
        false
    }

    /// Takes from the enclosing block what this one does not say itself.
    pub fn inherit(&mut self, from: &Self) {
        self.worker = self.worker.or(from.worker);
        self.timeout = self.timeout.or(from.timeout);
        self.missed = self.missed.or(from.missed);
        self.overlap = self.overlap.or(from.overlap);
        self.unhealthy_after = self.unhealthy_after.or(from.unhealthy_after);
        self.capture = self.capture.or(from.capture);
        if self.notify.is_none() {
            self.notify.clone_from(&from.notify);
        }
        if self.success.is_none() {
            self.success.clone_from(&from.success);
        }
        if self.retry.is_none() {
            self.retry.clone_from(&from.retry);
        }
        if self.timezone.is_none() {
            self.timezone.clone_from(&from.timezone);
        }
    }
}
