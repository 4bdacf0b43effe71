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
    log.write(
        Level::Notice,
        format_args!("timer: {count} {timers} in this worker, slot {slot}{state}"),
    );
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
        log.write(
            Level::Error,
            format_args!("timer: {further} more record{s} locked, not updated"),
        );
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
            log.write(
                Level::Crit,
                format_args!("{file} {bad}, moved to \"{}\"", Escaped::of(moved_to)),
            );
        }
        Notice::Rewritten { bad, copied_to: Some(to) } => {
            let to = Escaped::of(to);
            log.write(
                Level::Crit,
                format_args!("{file} {bad}, copied to \"{to}\", header is written anew"),
            );
        }
        Notice::Rewritten { bad, copied_to: None } => {
            log.write(Level::Crit, format_args!("{file} {bad}, header is written anew"));
        }
        Notice::NotMoved { bad, error } => {
            let errno = error.as_ref().map_or(0, errno);
            log.write_error(
                Level::Crit,
                errno,
                format_args!("{file} {bad}, state is kept in memory"),
            );
        }
        Notice::Waits => {
            log.write(
                Level::Warn,
                format_args!(
                    "{file} is in use by an nginx with an older module, timers are not running"
                ),
            );
        }
        Notice::Replaced => {
            log.write(Level::Crit, format_args!("{file} was replaced while in use"));
        }
        Notice::InMemory { action, error, health } => {
            let level = if *health == Health::Degraded { Level::Crit } else { Level::Warn };
            log.write_error(
                level,
                errno(error),
                format_args!("{}, state is kept in memory", FailedAction(*action, path)),
            );
        }
        Notice::Unlinked { action, error } => {
            log.write_error(
                Level::Warn,
                errno(error),
                format_args!("timer: {action} failed, state is kept in an unlinked file"),
            );
        }
        Notice::Nowhere { action, error } => {
            log.write_error(
                Level::Crit,
                errno(error),
                format_args!("{}", FailedAction(*action, None)),
            );
        }
        Notice::NotOwned { action, error } => {
            log.write_error(
                Level::Warn,
                errno(error),
                format_args!("{}", FailedAction(*action, path)),
            );
        }
        Notice::HeaderLocked => {
            log.write(Level::Crit, format_args!("{file} is locked by another nginx"));
        }
        Notice::Failed { action, error } => {
            log.write_error(
                Level::Crit,
                errno(error),
                format_args!("{}", FailedAction(*action, path)),
            );
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
    log.write(
        Level::Notice,
        format_args!("timer \"{name}\": schedule has changed, next due {next}"),
    );
}

fn write_of_timer(log: Log, notice: &Notice) {
    match notice {
        Notice::Damaged { name } => {
            log.write(
                Level::Warn,
                format_args!("timer \"{name}\": record is damaged, starting anew"),
            );
        }
        Notice::Lost { name } => {
            log.write(
                Level::Error,
                format_args!("timer \"{name}\": record belongs to another timer"),
            );
        }
        Notice::ClockSetBack { name, by_ms } => {
            log.write(
                Level::Warn,
                format_args!("timer \"{name}\": clock was set back by {by_ms}ms"),
            );
        }
        Notice::Interrupted { name, attempt, retry_at: Some(_), attempts } => {
            let (number, pid, run) = (attempt.number, attempt.pid, attempt.run);
            log.write(
                Level::Warn,
                format_args!(
                    "timer \"{name}\": attempt {number} of {attempts} failed: process {pid} died, \
                     timer: \"{name}\", run: {run}"
                ),
            );
        }
        Notice::Interrupted { name, attempt, retry_at: None, .. } => {
            let (pid, due, run) = (attempt.pid, attempt.due, attempt.run);
            log.write(
                Level::Error,
                format_args!(
                    "timer \"{name}\": run interrupted: process {pid} died, due {due}, \
                     timer: \"{name}\", run: {run}"
                ),
            );
        }
        Notice::LeftOut { name, counted } if counted.missed > 0 => {
            let (missed, s) = (counted.missed, if counted.missed == 1 { "" } else { "s" });
            log.write(
                Level::Error,
                format_args!("timer \"{name}\": missed {missed} due time{s}, left out"),
            );
        }
        Notice::TakenOver { name, pid, since } => {
            let ms = since.as_millis();
            log.write(Level::Error, format_args!(
                "timer \"{name}\": run in progress for {ms}ms in process {pid} is not waited for"
            ));
        }
        Notice::NotLoaded { name } => {
            log.write(
                Level::Error,
                format_args!("timer \"{name}\": record is locked, not updated"),
            );
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
            log.write(
                Level::Error,
                format_args!(
                    "timer \"{name}\": order was taken by no worker, timer: \"{name}\", run: {run}"
                ),
            );
        }
        // The runner logs the due times that were skipped during a run.
        _ => {}
    }
}
