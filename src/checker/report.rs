//! What the error log says of the servers.

use std::fmt;

use super::target::Target;
use crate::health::records::Ended;
use crate::health::verdict::{Change, Outcome, Standing, Verdict};
use crate::nginx::escaped;
use crate::nginx::log::Level;
use crate::nginx::process;

/// Tells what came of a check.
pub(super) fn end(target: &Target, outcome: Outcome, reason: &str, ended: &Ended) {
    let Ended { change, verdict, was_down_for } = ended;
    let row = Row(*verdict);
    match change {
        Change::Unhealthy => {
            write(target, Level::Error, format_args!("is unhealthy: {reason}, {row}"));
        }
        Change::Healthy => {
            let seconds = was_down_for.unwrap_or_default().as_secs();
            write(target, Level::Notice, format_args!("is healthy after {seconds}s"));
        }
        Change::Inconclusive => {
            // Each reload interrupts what is in progress.
            let level = if process::is_leaving() { Level::Info } else { Level::Warn };
            write(target, level, format_args!("was not checked: {reason}"));
        }
        Change::StillChecking => {
            let count = verdict.inconclusive;
            let message =
                format_args!("gets no requests: {reason}, {count} checks without a result");
            write(target, Level::Error, message);
        }
        Change::Nothing if outcome == Outcome::Failed && verdict.standing == Standing::Healthy => {
            write(target, Level::Info, format_args!("failed a check: {reason}, {row}"));
        }
        Change::Nothing => {}
    }
}

fn write(target: &Target, level: Level, message: fmt::Arguments<'_>) {
    let check = &target.check;
    let (group, location) = (check.group.name(), check.location.name());
    let line = format_args!(
        "peer {} in upstream \"{}\" {message}, health check: \"{}\", location: \"{}\"",
        escaped(&target.server.name),
        escaped(&group),
        check.identity,
        escaped(&location),
    );
    check.location.log().write(level, line);
}

/// `3 failures`.
struct Row(Verdict);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.in_a_row;
        let s = if count == 1 { "" } else { "s" };
        write!(f, "{count} failure{s}")
    }
}
