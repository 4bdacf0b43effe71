//! Log messages of the state, in nginx's words.

use std::fmt;
use std::io;
use std::path::Path;
use std::ptr;

use crate::conf::{MainConf, TimerConf};
use crate::nginx::log::{Level, Log};
use crate::schedule::UnixMs;
use crate::state::{Action, Escaped, Health, Notice};

/// Tells how many timers this worker has, and where their state is.
pub(super) fn began(main: &MainConf, slot: usize, count: usize) {
    let timers = if count == 1 { "timer" } else { "timers" };
    let opened = main.opened().borrow();
    let path = opened.as_ref().and_then(|opened| opened.state.state.path());
    let log = Log::cycle();
    let state =
        path.map_or_else(String::new, |path| format!(", state file \"{}\"", Escaped::of(path)));
    let line = format_args!("timer: {count} {timers} in this worker, slot {slot}{state}");
    log.write(Level::Notice, line);
}

/// Logs what opening or loading the state reports; of failures the first, which is the cause
/// of the others, and of records that are locked the first and how many more there are. `path` is
/// that of the state file.
pub(super) fn write_all(log: Log, timers: &[TimerConf], path: Option<&Path>, notices: &[Notice]) {
    let is_failure = |notice: &Notice| matches!(notice, Notice::Failed { .. });
    let is_locked = |notice: &Notice| matches!(notice, Notice::NotLoaded { .. });
    let failed = notices.iter().find(|notice| is_failure(notice));
    let locked = notices.iter().find(|notice| is_locked(notice));
    let is = |one: Option<&Notice>, notice| one.is_some_and(|one| ptr::eq(one, notice));
    let mut finder = Finder::new(timers);
    for notice in notices {
        let is_further = (is_failure(notice) && !is(failed, notice))
            || (is_locked(notice) && !is(locked, notice));
        if !is_further {
            write(finder.log_of(notice).unwrap_or(log), path, notice);
        }
    }
    let further = notices.iter().filter(|notice| is_locked(notice)).count().saturating_sub(1);
    if further > 0 {
        let s = if further == 1 { " is" } else { "s are" };
        let line = format_args!("timer: {further} more record{s} locked, not updated");
        log.write(Level::Error, line);
    }
}

/// Finds timers by their names, the next one soon: who asks for many does that in their order.
pub(super) struct Finder<'a> {
    timers: &'a [TimerConf],
    /// The one that was found last.
    last: usize,
}

impl<'a> Finder<'a> {
    /// Among these timers.
    pub(super) fn new(timers: &'a [TimerConf]) -> Self {
        Self { timers, last: 0 }
    }

    /// The timer of this name.
    pub(super) fn find(&mut self, name: &str) -> Option<&'a TimerConf> {
        let (before, from) = self.timers.split_at_checked(self.last)?;
        let mut all = from.iter().chain(before).enumerate();
        let (after, timer) = all.find(|(_, timer)| timer.name.as_str() == name)?;
        self.last = (self.last + after) % self.timers.len();
        Some(timer)
    }

    /// The log of the location whose timer a notice concerns.
    pub(super) fn log_of(&mut self, notice: &Notice) -> Option<Log> {
        Some(self.find(notice.timer()?)?.location.log())
    }
}

/// Writes one notice; `path` is that of the state file.
pub(super) fn write(log: Log, path: Option<&Path>, notice: &Notice) {
    let file = StateFile(path);
    match notice {
        Notice::MovedAside { moved_to, bad } => {
            let line = format_args!("{file} {bad}, moved to \"{}\"", Escaped::of(moved_to));
            log.write(Level::Crit, line);
        }
        Notice::Rewritten { bad, copied_to: Some(to) } => {
            let to = Escaped::of(to);
            let line = format_args!("{file} {bad}, copied to \"{to}\", header is written anew");
            log.write(Level::Crit, line);
        }
        Notice::Rewritten { bad, copied_to: None } => {
            log.write(Level::Crit, format_args!("{file} {bad}, header is written anew"));
        }
        Notice::NotMoved { bad, error } => {
            let errno = error.as_ref().map_or(0, errno);
            let line = format_args!("{file} {bad}, state is kept in memory");
            log.write_error(Level::Crit, errno, line);
        }
        Notice::Waits => {
            let line = format_args!(
                "{file} is in use by an nginx with an older module, timers are not running"
            );
            log.write(Level::Warn, line);
        }
        Notice::Replaced => {
            log.write(Level::Crit, format_args!("{file} was replaced while in use"));
        }
        Notice::InMemory { action, error, health } => {
            let line = format_args!("{}, state is kept in memory", FailedAction(*action, path));
            let level = if *health == Health::Degraded { Level::Crit } else { Level::Warn };
            log.write_error(level, errno(error), line);
        }
        Notice::Unlinked { action, error } => {
            let line = format_args!("timer: {action} failed, state is kept in an unlinked file");
            log.write_error(Level::Warn, errno(error), line);
        }
        Notice::Nowhere { action, error } => {
            log.write_error(
                Level::Crit,
                errno(error),
                format_args!("{}", FailedAction(*action, None)),
            );
        }
        Notice::NotOwned { action, error } => {
            let line = format_args!("{}", FailedAction(*action, path));
            log.write_error(Level::Warn, errno(error), line);
        }
        Notice::HeaderLocked => {
            log.write(Level::Crit, format_args!("{file} is locked by another nginx"));
        }
        Notice::Failed { action, error } => {
            let line = format_args!("{}", FailedAction(*action, path));
            log.write_error(Level::Crit, errno(error), line);
        }
        Notice::HeaderDamaged => {
            log.write(Level::Warn, format_args!("{file} has a damaged header"));
        }
        other => write_of_timer(log, other),
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// `timer: state file "..."`.
struct StateFile<'a>(Option<&'a Path>);

impl fmt::Display for StateFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.unwrap_or(Path::new("memory"));
        write!(f, "timer: state file \"{}\"", Escaped::of(path))
    }
}

/// `timer: state file: open() "..." failed`.
struct FailedAction<'a>(Action, Option<&'a Path>);

impl fmt::Display for FailedAction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(action, path) = self;
        match path {
            Some(path) => write!(f, "timer: state file: {action} \"{}\" failed", Escaped::of(path)),
            None => write!(f, "timer: state in memory: {action} failed"),
        }
    }
}

/// Tells that a timer has another schedule than before.
pub(super) fn schedule_changed(log: Log, name: &str, next: Option<UnixMs>) {
    let next = next.map_or_else(|| "never".to_owned(), |next| next.rfc3339().to_string());
    let line = format_args!("timer \"{name}\": schedule has changed, next due {next}");
    log.write(Level::Notice, line);
}

fn write_of_timer(log: Log, notice: &Notice) {
    match notice {
        Notice::Damaged { name } => {
            let line = format_args!("timer \"{name}\": record is damaged, starting anew");
            log.write(Level::Warn, line);
        }
        Notice::Lost { name } => {
            let line = format_args!("timer \"{name}\": record belongs to another timer");
            log.write(Level::Error, line);
        }
        Notice::ClockSetBack { name, by_ms } => {
            let line = format_args!("timer \"{name}\": clock was set back by {by_ms}ms");
            log.write(Level::Warn, line);
        }
        Notice::Interrupted { name, attempt, retry_at: Some(_), attempts } => {
            let (number, pid, run) = (attempt.number, attempt.pid, attempt.run);
            let line = format_args!(
                "timer \"{name}\": attempt {number} of {attempts} failed: process {pid} died, \
                 timer: \"{name}\", run: {run}"
            );
            log.write(Level::Warn, line);
        }
        Notice::Interrupted { name, attempt, retry_at: None, .. } => {
            let (pid, due, run) = (attempt.pid, attempt.due, attempt.run);
            let line = format_args!(
                "timer \"{name}\": run interrupted: process {pid} died, due {due}, \
                 timer: \"{name}\", run: {run}"
            );
            log.write(Level::Error, line);
        }
        Notice::LeftOut { name, counted } if counted.missed > 0 => {
            let (missed, s) = (counted.missed, if counted.missed == 1 { "" } else { "s" });
            let line = format_args!("timer \"{name}\": missed {missed} due time{s}, left out");
            log.write(Level::Error, line);
        }
        Notice::TakenOver { name, pid, since } => {
            let ms = since.as_millis();
            let line = format_args!(
                "timer \"{name}\": run in progress for {ms}ms in process {pid} is not waited for"
            );
            log.write(Level::Error, line);
        }
        Notice::NotLoaded { name } => {
            let line = format_args!("timer \"{name}\": record is locked, not updated");
            log.write(Level::Error, line);
        }
        Notice::NotCounted { name } => {
            let what = "due times left out are not counted";
            log.write(Level::Error, format_args!("timer \"{name}\": record is locked, {what}"));
        }
        Notice::IsPaused { name: Some(name), since } => {
            log.write(
                Level::Warn,
                format_args!("timer \"{name}\": is paused since {}", since.rfc3339()),
            );
        }
        Notice::IsPaused { name: None, since } => {
            log.write(
                Level::Warn,
                format_args!("timer: all timers are paused since {}", since.rfc3339()),
            );
        }
        Notice::OrderDropped { name, run } => {
            let line = format_args!(
                "timer \"{name}\": order was taken by no worker, timer: \"{name}\", run: {run}"
            );
            log.write(Level::Error, line);
        }
        // The runner logs the due times that were skipped during a run.
        _ => {}
    }
}
