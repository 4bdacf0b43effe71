//! What the tests work at: a state with timers, and workers attached to it.

use std::cell::Cell;
use std::time::Duration;

use crate::os::file::FileOwner;
use crate::os::scratch::Scratch;
use crate::schedule::UnixMs;
use crate::state::policy::due::tests::every;
use crate::state::worker::shared_health::SharedHealth;
use crate::state::*;

/// A state as a master has it.
pub(in crate::state) struct Fixture {
    _scratch: Scratch,
    pub(in crate::state) configured: StatePath,
    pub(in crate::state) state: Option<State>,
    pub(in crate::state) records: std::rc::Rc<Vec<Record>>,
    pub(in crate::state) now: i64,
    pub(in crate::state) pid_file: PidFile,
    pub(in crate::state) workers: FileOwner,
    pub(in crate::state) hash: u64,
    pub(in crate::state) first: First,
    pub(in crate::state) before: Before,
    /// Who is told of the events of all timers.
    pub(in crate::state) receivers: [u32; RECEIVERS],
    /// For how long the last opening and loading have waited.
    pub(in crate::state) waited: Cell<Duration>,
}

pub(in crate::state) const BOOT: BootId = BootId([9; 16]);

/// An id of a run that no other test run has.
pub(in crate::state) fn run_id(number: u64) -> RunId {
    let mut id = [0xee; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    RunId(id)
}

pub(in crate::state) fn ended(outcome: Outcome) -> Ended {
    Ended { outcome, status: 200, duration: Duration::from_millis(3) }
}

/// Whether this process may give files away; a test that has to is skipped otherwise.
pub(in crate::state) fn is_root() -> bool {
    FileOwner::of_this_process().uid == 0
}

impl Fixture {
    /// Nothing opened yet; `make` turns a directory's path into the configuration.
    pub(in crate::state) fn closed(make: impl FnOnce(std::path::PathBuf) -> StatePath) -> Self {
        let scratch = Scratch::new();
        let configured = make(scratch.path("timers.state"));
        Self {
            _scratch: scratch,
            configured,
            state: None,
            records: std::rc::Rc::default(),
            now: 1_000_000,
            pid_file: PidFile::new(b"/run/nginx.pid"),
            workers: FileOwner::of_this_process(),
            hash: 1,
            first: First::Due,
            before: Before::Loaded,
            receivers: [0; RECEIVERS],
            waited: Cell::default(),
        }
    }

    /// Opened and loaded in memory.
    pub(in crate::state) fn memory(names: &[&str]) -> Self {
        Self::loaded(|_| StatePath::Memory, names)
    }

    /// Opened and loaded in a file.
    pub(in crate::state) fn file(names: &[&str]) -> Self {
        Self::loaded(StatePath::Named, names)
    }

    fn loaded(make: impl FnOnce(std::path::PathBuf) -> StatePath, names: &[&str]) -> Self {
        let mut fixture = Self::closed(make);
        fixture.reload(names).unwrap();
        fixture
    }

    /// Opens only, as a reload that is refused afterwards does.
    pub(in crate::state) fn open(&self, names: &[&str]) -> Result<Opened, PathError> {
        self.waited.take();
        let mut wait = |time| self.waited.set(self.waited.get() + time);
        let mut opener = self.opener(&mut wait);
        open(&self.configured, self.state.as_ref(), names, &mut opener)
    }

    /// An opener that has waited for [`Fixture::waited`] already.
    fn opener<'a>(&'a self, wait: &'a mut dyn FnMut(Duration)) -> Opener<'a> {
        Opener {
            pid_file: &self.pid_file,
            workers: self.workers,
            now: UnixMs(self.now),
            wait,
            patience: PATIENCE.saturating_sub(self.waited.get()),
        }
    }

    /// Opens and loads; gives what there was to log.
    pub(in crate::state) fn reload(&mut self, names: &[&str]) -> Result<Vec<Notice>, PathError> {
        self.reload_as(names, Scheduled::On)
    }

    pub(in crate::state) fn reload_as(
        &mut self,
        names: &[&str],
        scheduled: Scheduled,
    ) -> Result<Vec<Notice>, PathError> {
        let cycle = self.open(names)?;
        let mut notices = cycle.notices;
        let mut wait = |time| self.waited.set(self.waited.get() + time);
        let mut opener = self.opener(&mut wait);
        let loaded: Vec<Loaded<'_>> = cycle
            .records
            .iter()
            .map(|record| Loaded {
                record,
                schedule_hash: self.hash,
                scheduled,
                first: self.first,
                receivers: self.receivers,
            })
            .collect();
        notices.extend(cycle.state.load(&loaded, self.before, &mut opener));
        self.state = Some(cycle.state);
        self.records = cycle.records;
        Ok(notices)
    }

    /// The module is taken out of the configuration.
    pub(in crate::state) fn leave(&mut self) {
        let mut wait = |_| ();
        self.state.as_ref().unwrap().leave(&mut self.opener(&mut wait));
        self.state = None;
    }

    /// A worker.
    pub(in crate::state) fn worker(&self, pid: u32) -> Store {
        let process = Process { pid, started: 1, boot: BOOT };
        self.state.as_ref().unwrap().attach(Master::This, process, UnixMs(self.now))
    }
}

/// No access has failed.
pub(in crate::state) fn failing() -> SharedHealth {
    SharedHealth::new().unwrap()
}

/// Each second.
pub(in crate::state) fn secondly() -> Jittered {
    every(1000)
}

/// A timer of a fixture.
pub(in crate::state) fn timer<'a>(record: &'a Record, due_times: &'a dyn DueTimes) -> TimerRef<'a> {
    TimerRef { record, due_times, owner: Owner::This, timeout: Duration::from_secs(60) }
}

/// Claims, waiting as often as it is told to.
pub(in crate::state) fn claim(
    store: &Store,
    timer: TimerRef<'_>,
    wanted: Wanted,
    now: i64,
) -> Step {
    let mut attempt = attempt_for(wanted, run_id(now.unsigned_abs()));
    loop {
        match attempt.step(store, timer, &mut || UnixMs(now)) {
            Step::Again { .. } => {}
            step => return step,
        }
    }
}

/// A claim by somebody who knows no due time but the one that is wanted.
pub(in crate::state) fn attempt_for(wanted: Wanted, run: RunId) -> ClaimAttempt {
    ClaimAttempt::new(wanted, run, &Look::at(&secondly(), UnixMs(0)))
}

pub(in crate::state) fn due(at: i64) -> Wanted {
    Wanted::Due { due: UnixMs(at), start: UnixMs(at), trigger: Trigger::Schedule }
}

/// Claims what nobody else claims.
pub(in crate::state) fn won(store: &Store, timer: TimerRef<'_>, wanted: Wanted, now: i64) -> Claim {
    match claim(store, timer, wanted, now) {
        Step::Won(claim) => *claim,
        step => panic!("{step:?}"),
    }
}

/// How many successes the record of `name` has.
pub(in crate::state) fn counts(fixture: &Fixture, name: &str) -> u64 {
    fixture
        .worker(99)
        .read(record(fixture, name))
        .unwrap()
        .claim
        .counters
        .ended_with(Outcome::Success)
}

/// The record of `name`.
pub(in crate::state) fn record<'a>(fixture: &'a Fixture, name: &str) -> &'a Record {
    fixture.records.iter().find(|record| record.name() == name).unwrap()
}

/// Lets a second pass, and its due time run.
pub(in crate::state) fn run_once(fixture: &mut Fixture, name: &str) {
    let every = secondly();
    let worker = fixture.worker(7);
    fixture.now += 1000;
    let at = fixture.now - fixture.now % 1000;
    let timer = timer(record(fixture, name), &every);
    won(&worker, timer, due(at), fixture.now).finish(ended(Outcome::Success), None);
}

/// What `nginx -t` says, run by the user of the workers.
pub(in crate::state) fn checked(fixture: &Fixture) -> Result<Option<PathError>, PathError> {
    check(&fixture.configured, &fixture.pid_file, Some(FileOwner::of_this_process()))
}
