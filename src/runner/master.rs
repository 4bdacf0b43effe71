//! The state in the process that reads the configuration, and how workers get at it.

use std::cell::RefCell;
use std::mem;
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use super::fleet;
use super::messages::{self, Finder};
use super::worker::Worker;
use crate::conf::{MainConf, OpenedState, TimerConf, WriteAccess};
use crate::nginx::conf::{Opening, Purpose, Unusable};
use crate::nginx::event::Next;
use crate::nginx::hooks;
use crate::nginx::log::{Level, Log};
use crate::nginx::process::{Role, is_leaving, is_reload};
use crate::os::EventFd;
use crate::os::boot::boot_id;
use crate::os::file::{FileOwner, survive_size_limit};
use crate::os::memory::{self, fallible};
use crate::os::process::start_time;
use crate::os::wall_clock;
use crate::schedule::UnixMs;
use crate::state::{
    self, Before, BootId, Loaded, Master, Notice, Opened, Opener, PATIENCE, PathError, PidFile,
    State, StatePath, TakeOver, TakenOver,
};
use crate::throttle::Throttle;

thread_local! {
    /// The state of the configuration in use, which the next one goes on with.
    static IN_USE: RefCell<Option<StateInUse>> = const { RefCell::new(None) };
}

/// A state, and who has loaded it.
struct StateInUse {
    state: State,
    pid_file: PidFile,
    workers: FileOwner,
    /// The configuration.
    by: Rc<()>,
}

/// Opens the state for a configuration that was read; looks only, for a test of it.
///
/// # Errors
///
/// The path is a bad one, or the file is another instance's.
pub fn open(main: &MainConf, opening: &Opening) -> Result<(), Unusable> {
    let Some(configured) = main.state() else { return Ok(()) };
    let workers = match opening.workers {
        Some((uid, gid)) => FileOwner { uid, gid },
        None => FileOwner::of_this_process(),
    };
    let pid_file = PidFile::new(&opening.pid_file);
    let before = IN_USE.with_borrow(|in_use| in_use.as_ref().map(|in_use| in_use.state.clone()));
    let is_held = before.as_ref().is_some_and(|before| before.is_at(configured));
    let unused = main.timers().is_empty();
    if unused && !is_held && !exists(configured) {
        return Ok(());
    }
    if opening.purpose == Purpose::Test {
        let workers = opening.workers.map(|(uid, gid)| FileOwner { uid, gid });
        return match state::check(configured, &pid_file, workers) {
            Ok(warning) => {
                if let Some(why) = warning {
                    opening.log.write(Level::Warn, format_args!("timer: {why}"));
                }
                Ok(())
            }
            Err(why) => refuse(&why, unused),
        };
    }

    if memory::enough_for(main.timers().len().saturating_mul(EACH)).is_err() {
        return Err(Unusable { why: "timer: no memory".to_owned(), errno: 0 });
    }
    fleet::prepare(main).map_err(|why| {
        let errno = why.raw_os_error().unwrap_or(0);
        Unusable { why: "timer: no memory for fleets".to_owned(), errno }
    })?;
    survive_size_limit();
    let names: Vec<_> = main.timers().iter().map(|timer| timer.name.as_str()).collect();
    let mut by = Opener {
        pid_file: &pid_file,
        workers,
        now: wall_clock(),
        wait: &mut thread::sleep,
        patience: PATIENCE,
    };
    match state::open(configured, before.as_ref(), &names, &mut by) {
        Ok(mut opened) => {
            let texts: Vec<_> = main.timers().iter().map(|timer| timer.capture).collect();
            let records = mem::take(&mut opened.records);
            opened.records = opened.state.with_texts(records, &texts, &mut by, &mut opened.notices);
            let told = mem::take(&mut opened.notices);
            messages::write_all(opening.log, main.timers(), configured.path(), &told);
            let patience = by.patience;
            main.opened().replace(Some(OpenedState { state: opened, pid_file, workers, patience }));
            Ok(())
        }
        Err(why) => refuse(&why, unused),
    }
}

/// What a timer takes in the course of a load, in bytes.
const EACH: usize = 1024;

/// Takes the configuration up: writes what it says of the timers into their records, and makes a
/// notifier for each of `workers`.
pub fn load(main: &MainConf, workers: usize, log: Log) {
    let before = IN_USE.take();
    let was = if before.is_none() && is_reload() { Before::Out } else { Before::Loaded };
    let in_use = {
        let opened = main.opened().borrow();
        opened.as_ref().map(|opened| {
            let mut by = Opener {
                pid_file: &opened.pid_file,
                workers: opened.workers,
                now: wall_clock(),
                wait: &mut thread::sleep,
                patience: opened.patience,
            };
            let state = &opened.state.state;
            write_records(main, &opened.state, was, &mut by, log);
            StateInUse {
                state: state.clone(),
                pid_file: opened.pid_file.clone(),
                workers: opened.workers,
                by: Rc::default(),
            }
        })
    };
    if let Some(before) = before {
        if !in_use.as_ref().zip(main.state()).is_some_and(|(_, now)| before.state.is_at(now)) {
            before.leave();
        }
    }
    if let Some(in_use) = &in_use {
        let by = Rc::clone(&in_use.by);
        main.at_end(move || has_gone(&by));
    }
    IN_USE.set(in_use);
    if main.api() == Some(WriteAccess::On) {
        // Without them, an order is seen within a second.
        let notifiers: Result<Vec<_>, _> = (0..workers).map(|_| EventFd::new()).collect();
        main.notifiers().replace(Rc::new(notifiers.unwrap_or_default()));
    }
    if super::has_begun() {
        super::begin(main, super::ALONE);
    }
}

/// Writes what the configuration says of the timers into their records.
fn write_records(main: &MainConf, opened: &Opened, was: Before, by: &mut Opener<'_>, log: Log) {
    let mut timers = Vec::new();
    let records = &opened.records;
    let told = match fallible(|| timers.try_reserve_exact(records.len())) {
        Ok(()) => {
            let pairs = main.timers().iter().zip(records.iter());
            timers.extend(pairs.map(|(timer, record)| loaded(timer, record)));
            opened.state.load(&timers, was, by)
        }
        Err(why) => {
            log.write(Level::Crit, format_args!("timer: {why}, records are as they were"));
            Vec::new()
        }
    };
    tell_load(main, opened.state.path(), &told, by.now, log);
}

/// What a record is to say.
fn loaded<'a>(timer: &TimerConf, record: &'a state::Record) -> Loaded<'a> {
    Loaded {
        record,
        schedule_hash: timer.due_times.schedule.stable_hash(),
        scheduled: timer.scheduled,
        first: timer.first,
        receivers: timer.receivers,
    }
}

/// Tells what a load has found.
fn tell_load(main: &MainConf, path: Option<&Path>, told: &[Notice], now: UnixMs, log: Log) {
    let mut finder = Finder::new(main.timers());
    for notice in told {
        if let Notice::ScheduleChanged { name } = notice {
            let timer = finder.find(name);
            let next = timer.and_then(|timer| timer.due_times.schedule.next(now));
            let log = timer.map_or(log, |timer| timer.location.log());
            messages::schedule_changed(log, name, next);
        }
    }
    messages::write_all(log, main.timers(), path, told);
}

/// Whether no run may start until the state file was taken over.
pub(super) fn waits(main: &MainConf) -> bool {
    main.opened().borrow().as_ref().is_some_and(|opened| opened.state.state.waits())
}

/// Takes the state file over, if masters of an older module have left it: does a part of that, and answers
/// when to go on; `Stop` once it is done.
pub(super) fn take_over(
    main: &MainConf,
    taking: &mut Option<TakeOver>,
    failures: &mut Throttle,
) -> Next {
    let log = Log::cycle();
    let mut held = main.opened().borrow_mut();
    let Some(opened) = held.as_mut() else { return Next::Stop };
    let names: Vec<_> = main.timers().iter().map(|timer| timer.name.as_str()).collect();
    let mut by = Opener {
        pid_file: &opened.pid_file,
        workers: opened.workers,
        now: wall_clock(),
        wait: &mut |_| {},
        patience: Duration::ZERO,
    };
    match opened.state.state.take_over(taking, &names, &mut by, &|number, record| {
        main.timers().get(number).map(|timer| loaded(timer, record))
    }) {
        TakenOver::Yes(mut taken, told) => {
            let notices = mem::take(&mut taken.notices);
            messages::write_all(log, main.timers(), taken.state.path(), &notices);
            tell_load(main, taken.state.path(), &told, by.now, log);
            opened.state = taken;
            Next::Stop
        }
        TakenOver::GoesOn(after) => Next::After(after),
        TakenOver::NotYet => Next::After(super::TICK),
        TakenOver::Failed(notice) => {
            if failures.pass(Instant::now()).is_some() {
                messages::write(log, opened.state.state.path(), &notice);
            }
            Next::After(super::TICK)
        }
    }
}

/// A configuration has gone. If none of ours has followed it, and nginx goes on, the module was taken
/// out: its timers are absent until they are back, and the file is used no more.
fn has_gone(by: &Rc<()>) {
    if is_leaving() {
        return;
    }
    let in_use =
        IN_USE.with_borrow_mut(|in_use| in_use.take_if(|in_use| Rc::ptr_eq(&in_use.by, by)));
    if let Some(in_use) = in_use {
        super::end();
        in_use.leave();
    }
}

impl StateInUse {
    /// Writes into the records that this instance has no timers in them any more.
    fn leave(self) {
        self.state.leave(&mut Opener {
            pid_file: &self.pid_file,
            workers: self.workers,
            now: wall_clock(),
            wait: &mut thread::sleep,
            patience: PATIENCE,
        });
    }
}

/// Attaches a process to the state, and closes what only the master may hold; `None` for a process
/// that runs no timers.
pub(super) fn attach(main: &MainConf, process: hooks::InitProcess) -> Option<Rc<Worker>> {
    let opened = main.opened().borrow();
    let state = opened.as_ref().map(|opened| &opened.state.state);
    let worker = process.role.slot().zip(state).map(|(slot, state)| {
        let pid = std::process::id();
        let identity = state::Process { pid, started: start_time(pid), boot: BootId(boot_id()) };
        let master = if process.role == Role::Single { Master::This } else { Master::Another };
        let store = state.attach(master, identity, wall_clock());
        Worker::new(store, slot, process.workers, main, state.path())
    });
    if process.role != Role::Single {
        // The lock that says who uses the file goes with the master (HOST-17).
        if let Some(state) = state {
            state.close();
        }
        if let Some(in_use) = IN_USE.take() {
            in_use.state.close();
        }
    }
    worker
}

/// A configuration without timers is not refused for the sake of a file that it does not need.
fn refuse(why: &PathError, unused: bool) -> Result<(), Unusable> {
    if unused {
        return Ok(());
    }
    Err(Unusable { why: why.to_string(), errno: why.errno().unwrap_or(0) })
}

fn exists(configured: &StatePath) -> bool {
    configured.path().is_some_and(|path| path.symlink_metadata().is_ok())
}
