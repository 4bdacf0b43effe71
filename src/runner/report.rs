//! What the error log says of a timer: in full at first, then at most once a minute.

use std::fmt;
use std::time::{Duration, Instant};

use super::captured::QuotedResponse;
use super::run::Run;
use crate::conf::{Notify, TimerConf};
use crate::nginx::log::Level;
use crate::nginx::run::StartError;
use crate::state::{EVENT_TRIES, Happened, Outcome};
use crate::throttle::Throttle;

/// How an attempt ended, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The answer was complete and its status a good one.
    Success { status: u16 },
    /// The answer had another status.
    Failure { status: u16 },
    /// The answer was cut short, whatever its status.
    Incomplete { status: u16 },
    /// The answer was a good one, but could not become the content of a zone.
    NotTaken { status: u16 },
    /// It took longer than `timer_timeout`.
    TimedOut,
    /// It was cut off by an order.
    Cancelled,
    /// The worker was stopped by TERM or INT.
    Interrupted,
    /// It was given up before another host of the fleet could take it over.
    Lost,
    /// It could not start.
    NotStarted(StartError),
    /// It ended without an answer: no memory, or a handler's error.
    NoAnswer,
}

impl Ending {
    /// The same for the record.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Success { .. } => Outcome::Success,
            Self::Failure { .. } | Self::Incomplete { .. } | Self::NotTaken { .. } => {
                Outcome::Failure
            }
            Self::TimedOut => Outcome::Timeout,
            Self::Cancelled => Outcome::Cancelled,
            Self::Interrupted => Outcome::Interrupted,
            Self::Lost => Outcome::Lost,
            Self::NotStarted(_) | Self::NoAnswer => Outcome::Error,
        }
    }

    /// The status of the answer; 0 if there was none.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Success { status }
            | Self::Failure { status }
            | Self::Incomplete { status }
            | Self::NotTaken { status } => status,
            _ => 0,
        }
    }
}

/// How an attempt ended, after what time, and what had come of its response.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) ending: Ending,
    pub(super) took: Duration,
    pub(super) text: &'a str,
    /// Why its answer was not taken.
    pub(super) why: &'a str,
}

/// Logs a timer's runs.
#[derive(Default)]
pub(super) struct Report {
    failures: Throttle,
    overlaps: Throttle,
    lock_waits: Throttle,
    misses: Throttle,
    stuck: Throttle,
}

impl Report {
    /// Logs the end of a run, when `failures` runs before it had failed in a row.
    pub(super) fn end(&self, timer: &TimerConf, run: &Run, end: End<'_>, failures: u32) {
        let End { ending, took, .. } = end;
        if let Ending::Success { status } = ending {
            let ms = took.as_millis();
            write(
                timer,
                Level::Info,
                Some(run),
                format_args!("run succeeded: status {status}, {ms}ms"),
            );
            self.failures.end_row();
            if failures > 0 {
                let s = if failures == 1 { "" } else { "s" };
                write(
                    timer,
                    Level::Notice,
                    Some(run),
                    format_args!("succeeded after {failures} failure{s}"),
                );
            }
            return;
        }
        if ending == Ending::Cancelled {
            // The worker that took the order has logged who gave it.
            return write(
                timer,
                Level::Info,
                Some(run),
                format_args!("run cancelled after {}ms", took.as_millis()),
            );
        }
        let failed = FailureText { end, timer, attempt: Some(run.attempt()) };
        if ending == Ending::Interrupted {
            // The worker is exiting: no later line would have it.
            return write(
                timer,
                Level::Error,
                Some(run),
                format_args!("run interrupted: {failed}, due {}", run.due()),
            );
        }
        if ending == Ending::Lost {
            return write(
                timer,
                Level::Error,
                Some(run),
                format_args!("run lost: {failed}, due {}", run.due()),
            );
        }
        if let Some(left_out) = self.failures.pass(Instant::now()) {
            write(
                timer,
                Level::Error,
                Some(run),
                format_args!("run failed: {failed}{}", Suppressed(left_out)),
            );
        }
    }

    /// Logs the end of an attempt that will be repeated.
    #[expect(clippy::unused_self, reason = "one of the things that a report is made of")]
    pub(super) fn attempt(&self, timer: &TimerConf, run: &Run, end: End<'_>) {
        let failed = FailureText { end, timer, attempt: None };
        let of = Attempts { number: run.attempt(), timer };
        write(timer, Level::Warn, Some(run), format_args!("{of} failed: {failed}"));
    }

    /// Logs missed due times that get one run.
    #[expect(clippy::unused_self, reason = "one of the things that a report is made of")]
    pub(super) fn missed(&self, timer: &TimerConf, count: u64) {
        let s = if count == 1 { "" } else { "s" };
        write(timer, Level::Warn, None, format_args!("missed {count} due time{s}, running once"));
    }

    /// Logs missed due times that get none, together with those before that no line
    /// has counted.
    pub(super) fn left_out(&self, timer: &TimerConf, count: u64) {
        if let Some(others) = self.misses.pass_many(Instant::now(), count) {
            let count = others.saturating_add(1);
            let s = if count == 1 { "" } else { "s" };
            write(timer, Level::Error, None, format_args!("missed {count} due time{s}, left out"));
        }
    }

    /// Logs that a receiver could not be told of an event.
    #[expect(clippy::unused_self, reason = "one of the things that a report is made of")]
    pub(super) fn untold(
        &self,
        timer: &TimerConf,
        notify: &Notify,
        what: &Happened,
        why: &str,
        left_out: u64,
    ) {
        let (event, receiver, left_out) =
            (what.event.name(), &notify.receiver, Suppressed(left_out));
        write(
            timer,
            Level::Error,
            None,
            format_args!(
                "notification \"{event}\" to \"{receiver}\" failed: {why}, try {EVENT_TRIES} of \
                 {EVENT_TRIES}{left_out}"
            ),
        );
    }

    /// Logs that the record was locked by others for too long.
    pub(super) fn locked_too_long(&self, timer: &TimerConf) {
        if let Some(left_out) = self.lock_waits.pass(Instant::now()) {
            write(
                timer,
                Level::Error,
                None,
                format_args!("record is locked for too long{}", Suppressed(left_out)),
            );
        }
    }

    /// Logs `count` due times that are skipped, since the last run has been in progress for
    /// `since`.
    pub(super) fn overlap(&self, timer: &TimerConf, count: u64, since: Duration) {
        if let Some(left_out) = self.overlaps.pass_many(Instant::now(), count) {
            let (ms, left_out) = (since.as_millis(), Suppressed(left_out));
            write(
                timer,
                Level::Error,
                None,
                format_args!("due time left out: last run in progress for {ms}ms{left_out}"),
            );
        }
    }

    /// The same for due times that were counted after their line was logged.
    pub(super) fn more_overlaps(&self, count: u64) {
        self.overlaps.leave_out(count);
    }

    /// Logs a run that has been in progress in another process for `since`, too long.
    pub(super) fn stuck(&self, timer: &TimerConf, pid: u32, since: Duration) {
        if self.stuck.pass(Instant::now()).is_some() {
            let ms = since.as_millis();
            write(
                timer,
                Level::Error,
                None,
                format_args!("run in progress for {ms}ms in process {pid} does not end"),
            );
        }
    }

    /// A due time was not left out.
    pub(super) fn no_overlap(&self) {
        self.overlaps.end_row();
    }
}

fn write(timer: &TimerConf, level: Level, run: Option<&Run>, message: fmt::Arguments<'_>) {
    let (log, name) = (timer.location.log(), &timer.name);
    match run {
        Some(run) => {
            let id = run.id();
            log.write(
                level,
                format_args!("timer \"{name}\": {message}, timer: \"{name}\", run: {id}"),
            );
        }
        None => log.write(level, format_args!("timer \"{name}\": {message}")),
    }
}

/// `, 59 more left out`, or nothing.
struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, ", {n} more left out"),
        }
    }
}

/// `attempt 1 of 3`.
struct Attempts<'a> {
    number: u32,
    timer: &'a TimerConf,
}

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.timer.retry.more.saturating_add(1);
        write!(f, "attempt {} of {}", self.number, of.max(self.number))
    }
}

/// How an attempt failed, and its number, if that is to be logged.
struct FailureText<'a> {
    end: End<'a>,
    timer: &'a TimerConf,
    attempt: Option<u32>,
}

impl fmt::Display for FailureText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End { ending, took, text, why } = self.end;
        let took = took.as_millis();
        match ending {
            Ending::Success { status } | Ending::Failure { status } => {
                write!(f, "status {status}")?;
            }
            Ending::Incomplete { status } => write!(f, "response incomplete, status {status}")?,
            Ending::NotTaken { .. } => f.write_str(why)?,
            Ending::TimedOut => write!(f, "timed out after {}ms", self.timer.timeout.as_millis())?,
            Ending::Cancelled => f.write_str("by order")?,
            Ending::Interrupted => f.write_str("worker was told to stop")?,
            Ending::Lost => f.write_str("given up, the fleet does not answer")?,
            Ending::NotStarted(why) => write!(f, "{why}")?,
            Ending::NoAnswer => f.write_str("no response")?,
        }
        if let Some(number) = self.attempt.filter(|_| self.timer.retry.more > 0) {
            write!(f, ", {}", Attempts { number, timer: self.timer })?;
        }
        if matches!(ending, Ending::Failure { .. } | Ending::NoAnswer) {
            write!(f, ", {took}ms")?;
        }
        if text.is_empty() { Ok(()) } else { write!(f, ", response {}", QuotedResponse(text)) }
    }
}
