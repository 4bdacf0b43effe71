//! What the API sees of the timers, and how it reaches those who run them.

use std::num::NonZeroU64;
use std::path::Path;
use std::rc::Rc;

use super::worker::Worker;
use super::{LookedAt, RUNNER};
use crate::conf::{MainConf, TimerConf, WorkerChoice};
use crate::os::EventFd;
use crate::schedule::Zones;
use crate::state::{self, HeaderControl, Health, Reading, RunResult, Store};

/// All timers of the configuration that this process serves, whoever runs them.
pub struct Registry {
    timers: Rc<Vec<TimerConf>>,
    /// One for each timer; none where nothing could be opened.
    records: Rc<Vec<state::Record>>,
    /// `None`: this process runs no timers, or there is no state.
    worker: Option<Rc<Worker>>,
    notifiers: Rc<Vec<EventFd>>,
    zones: Rc<Zones>,
    workers: usize,
    runs: Runs,
}

/// Whether this worker may run timers at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// It may.
    Yes,
    /// The nginx that it is in does not run a location as it must.
    No,
}

/// Who is to look at a timer's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// One who may run it.
    One,
    /// All who may have a run of it in progress.
    All,
}

impl Registry {
    pub(super) fn new(
        main: &MainConf,
        worker: Option<Rc<Worker>>,
        workers: usize,
        runs: Runs,
    ) -> Rc<Self> {
        let opened = main.opened().borrow();
        let records =
            opened.as_ref().map(|opened| opened.state.records.clone()).unwrap_or_default();
        Rc::new(Self {
            timers: main.shared_timers(),
            records,
            worker,
            notifiers: Rc::clone(&main.notifiers().borrow()),
            zones: main.shared_zones(),
            workers,
            runs,
        })
    }

    /// The registry of this process.
    pub fn current() -> Option<Rc<Self>> {
        RUNNER.with_borrow(|runner| runner.as_ref().map(|runner| Rc::clone(&runner.registry)))
    }

    /// The timers, in the order in which they are configured.
    pub fn timers(&self) -> &[TimerConf] {
        &self.timers
    }

    /// The timer of this name, by its number among [`Registry::timers`].
    pub fn find(&self, name: &str) -> Option<usize> {
        self.timers.iter().position(|timer| timer.name.as_str() == name)
    }

    /// The time zones of the configuration.
    pub fn zones(&self) -> &Zones {
        &self.zones
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Reads the record of a timer; `None` if somebody was writing each time, or if what it says is
    /// unknown to this worker.
    pub fn read(&self, number: usize) -> Option<Reading> {
        self.store()?.read_for(self.timer(number)?).ok()
    }

    /// The results of a timer's last runs, newest first.
    pub fn results(&self, number: usize, reading: &Reading) -> Vec<RunResult> {
        let timer = self.store().zip(self.records.get(number));
        timer.map_or_else(Vec::new, |(store, record)| store.results(record, reading))
    }

    /// What the last run of a timer that failed has received, with `timer_capture`.
    pub fn failure_text(&self, number: usize, reading: &Reading) -> Option<String> {
        let (store, record) = self.store().zip(self.records.get(number))?;
        store.failure_text(record, reading)
    }

    /// What holds for all timers.
    pub fn header(&self) -> HeaderControl {
        self.store().map(Store::header).unwrap_or_default()
    }

    /// Whether the state can be relied on.
    pub fn health(&self) -> Health {
        match self.store() {
            Some(_) if self.runs == Runs::No => Health::Degraded,
            Some(store) => store.health(),
            None if self.timers.is_empty() => Health::Ok,
            None => Health::Degraded,
        }
    }

    /// The state file; none in memory.
    pub fn state_file(&self) -> Option<&Path> {
        self.worker.as_ref().and_then(|worker| worker.path())
    }

    /// The state, to give orders in.
    pub fn store(&self) -> Option<&Store> {
        self.worker.as_ref().map(|worker| &worker.store)
    }

    /// A timer, as orders need it; `None` where none is followed.
    pub fn timer(&self, number: usize) -> Option<state::TimerRef<'_>> {
        let (timer, record) = (self.timers.get(number)?, self.records.get(number)?);
        let worker = self.worker.as_ref().filter(|_| self.runs == Runs::Yes)?;
        let owner = worker.owner(timer);
        Some(state::TimerRef { record, due_times: &timer.due_times, owner, timeout: timer.timeout })
    }

    /// Has a timer's record looked at by those who run it, at once where they are workers of this
    /// configuration.
    pub fn wake(&self, number: usize, whom: Wake) {
        let Some(timer) = self.timers.get(number) else { return };
        let here = super::look_at(number);
        match (timer.worker, whom, here) {
            (WorkerChoice::Any, Wake::One, LookedAt::Here) => {}
            (WorkerChoice::Any, ..) => self.notify_all(WakeHint::of(number)),
            (_, _, LookedAt::Here) => {}
            (choice, ..) => {
                if let Some(notifier) = self.notifiers.get(choice.slot(&timer.name, self.workers)) {
                    notifier.notify(WakeHint::of(number).0);
                }
            }
        }
    }

    /// Has all records looked at.
    pub fn wake_all(&self) {
        self.notify_all(WakeHint::of(0));
    }

    /// Logs what the state reports of an order.
    pub fn report(&self) {
        if let Some(worker) = &self.worker {
            worker.report();
        }
    }

    fn notify_all(&self, hint: WakeHint) {
        for notifier in self.notifiers.iter() {
            notifier.notify(hint.0);
        }
    }
}

/// Which timer's record is to be looked at first when a worker is notified: so many times it was, less
/// one. Of two that notify it at once the numbers add up to another timer's; all records are looked at
/// after that one anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WakeHint(pub(super) NonZeroU64);

impl WakeHint {
    /// A timer, by its number.
    fn of(number: usize) -> Self {
        Self(u64::try_from(number).map_or(NonZeroU64::MIN, |it| NonZeroU64::MIN.saturating_add(it)))
    }

    /// The number of that timer among those of the configuration.
    pub(super) fn timer(self) -> Option<usize> {
        usize::try_from(self.0.get() - 1).ok()
    }
}
