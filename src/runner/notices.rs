//! What the state has to tell, in nginx's words.

use std::path::Path;

use crate::conf::MainConf;
use crate::nginx::log::{Level, Log};
use crate::schedule::UnixMs;
use crate::state::Notice;

/// Tells how many timers this worker has, and where their state is.
pub(super) fn began(main: &MainConf, slot: usize, count: usize) {
    let timers = if count == 1 { "timer" } else { "timers" };
    let opened = main.opened().borrow();
    let path = opened.as_ref().and_then(|opened| opened.state.state.path());
    let log = Log::cycle();
    let state =
        path.map_or_else(String::new, |path| format!(", state file \"{}\"", path.display()));
    let line = format_args!("timer: {count} {timers} in this worker, slot {slot}{state}");
    log.write(Level::Notice, line);
}

/// Writes one notice; `path` is that of the state file.
pub(super) fn write(log: Log, path: Option<&Path>, notice: &Notice) {
    let file = path.map_or("memory".into(), |path| path.to_string_lossy());
    match notice {
        Notice::MovedAside { moved_to, bad } => {
            let to = moved_to.display();
            let line = format_args!("state file \"{file}\" {bad}, moved to \"{to}\"");
            log.write(Level::Crit, line);
        }
        Notice::NotMoved { bad, error } => {
            let errno = error.as_ref().and_then(std::io::Error::raw_os_error).unwrap_or(0);
            let line = format_args!("state file \"{file}\" {bad}, state is kept in memory");
            log.write_error(Level::Crit, errno, line);
        }
        Notice::Replaced => {
            let line = format_args!("state file \"{file}\" was replaced while in use");
            log.write(Level::Crit, line);
        }
        Notice::InMemory { error, action } => {
            let errno = error.raw_os_error().unwrap_or(0);
            let line =
                format_args!("state file \"{file}\" {action} failed, state is kept in memory");
            log.write_error(Level::Warn, errno, line);
        }
        Notice::HeaderLocked => {
            let line = format_args!("state file \"{file}\" is locked by another nginx");
            log.write(Level::Crit, line);
        }
        Notice::Failed { action, error } => {
            let errno = error.raw_os_error().unwrap_or(0);
            log.write_error(
                Level::Crit,
                errno,
                format_args!("state file \"{file}\" {action} failed"),
            );
        }
        Notice::HeaderDamaged => {
            let line = format_args!("state file \"{file}\" has a damaged header");
            log.write(Level::Warn, line);
        }
        other => write_of_timer(log, other),
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
        Notice::NotLoaded { name } => {
            let line = format_args!("timer \"{name}\": record is locked, not updated");
            log.write(Level::Error, line);
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
            let line = format_args!("timer \"{name}\": order was taken by no worker, run: {run}");
            log.write(Level::Error, line);
        }
        // What was left out since a run was in progress is told by the runner.
        _ => {}
    }
}
