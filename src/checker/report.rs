//! What the error log says of the servers.

use std::fmt;

use super::target::Target;
use crate::health::records::RecordedResult;
use crate::health::verdict::{CheckOutcome, Standing, Verdict, VerdictChange};
use crate::nginx::escaped;
use crate::nginx::log::Level;
use crate::nginx::process;

/// Tells the result of a check.
pub(super) fn end(target: &Target, outcome: CheckOutcome, reason: &str, recorded: &RecordedResult) {
    let RecordedResult { change, verdict, was_down_for } = recorded;
    let row = Row(*verdict);
    match change {
        VerdictChange::Unhealthy => {
            write(target, Level::Error, format_args!("is unhealthy: {reason}, {row}"));
        }
        VerdictChange::Healthy => {
            let seconds = was_down_for.unwrap_or_default().as_secs();
            write(target, Level::Notice, format_args!("is healthy after {seconds}s"));
        }
        VerdictChange::Inconclusive => {
            // Each reload interrupts what is in progress.
            let level = if process::is_leaving() { Level::Info } else { Level::Warn };
            write(target, level, format_args!("was not checked: {reason}"));
        }
        VerdictChange::StillChecking => {
            let count = verdict.inconclusive;
            write(
                target,
                Level::Error,
                format_args!("gets no requests: {reason}, {count} checks without a result"),
            );
        }
        VerdictChange::Nothing
            if outcome == CheckOutcome::Failed && verdict.standing == Standing::Healthy =>
        {
            write(target, Level::Info, format_args!("failed a check: {reason}, {row}"));
        }
        VerdictChange::Nothing => {}
    }
}

fn write(target: &Target, level: Level, message: fmt::Arguments<'_>) {
    let check = &target.check;
    let (group, location) = (check.group.name(), check.location.name());
    check.location.log().write(
        level,
        format_args!(
            "peer {} in upstream \"{}\" {message}, health check: \"{}\", location: \"{}\"",
            escaped(&target.server.name),
            escaped(&group),
            check.identity,
            escaped(&location),
        ),
    );
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
