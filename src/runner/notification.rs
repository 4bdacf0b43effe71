//! What a receiver is told of an event: as JSON, and as the variables of the request.

use std::fmt;

use serde::Serialize;

use crate::conf::{Timer, TimerConf};
use crate::nginx::process::host_name;
use crate::nginx::run::Origin;
use crate::schedule::UnixMs;
use crate::state::{Event, Happened, Outcome, RunId, RunResult};

/// An event of a timer, as its receiver is told of it.
pub struct Notification {
    timer: Timer,
    happened: Happened,
    error: Option<String>,
    response: Option<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    event: &'a str,
    timer: &'a str,
    host: &'a str,
    server: &'a str,
    run: Option<String>,
    due: Option<String>,
    outcome: Option<&'static str>,
    status: u16,
    error: Option<&'a str>,
    failures: u32,
    duration_ms: u64,
    response: Option<&'a str>,
    /// How many due times, of `missed` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u32>,
}

impl Notification {
    /// That of what has happened to a timer; `known` is why its run could not start, and `response` what it
    /// has received.
    pub(super) fn new(
        timer: &Timer,
        happened: &Happened,
        known: Option<String>,
        response: Option<String>,
    ) -> Self {
        let error = match (&happened.result, happened.event) {
            (_, Event::Missed) => {
                let s = if happened.missed == 1 { "" } else { "s" };
                Some(format!("missed {} due time{s}", happened.missed))
            }
            (Some(result), _) => error_of(timer, result, known),
            (None, _) => None,
        };
        Self { timer: timer.clone(), happened: *happened, error, response }
    }

    pub(super) fn json(&self) -> Vec<u8> {
        let server = self.timer.location.first_server_name();
        let json = Json {
            event: self.event().name(),
            timer: self.timer(),
            host: &host_name(),
            server: &String::from_utf8_lossy(&server),
            run: self.run().map(|run| run.to_string()),
            due: self.due().map(|due| due.rfc3339().to_string()),
            outcome: self.outcome().map(word),
            status: self.status(),
            error: self.error(),
            failures: self.failures(),
            duration_ms: u64::from(self.duration_ms()),
            response: self.response(),
            missed: (self.event() == Event::Missed).then_some(self.happened.missed),
        };
        // Writing to memory cannot fail, and none of these types can either.
        serde_json::to_vec(&json).unwrap_or_default()
    }

    /// The timer's name.
    pub fn timer(&self) -> &str {
        self.timer.name.as_str()
    }

    /// What has happened.
    pub fn event(&self) -> Event {
        self.happened.event
    }

    /// The run that it is about, if there is one.
    pub fn run(&self) -> Option<RunId> {
        let result = self.happened.result.map(|result| result.attempt);
        result.or(self.happened.catching_up).map(|attempt| attempt.run)
    }

    /// The due time of that run.
    pub fn due(&self) -> Option<UnixMs> {
        let result = self.happened.result.map(|result| result.attempt);
        result.or(self.happened.catching_up).map(|attempt| attempt.due)
    }

    /// How it has ended.
    pub fn outcome(&self) -> Option<Outcome> {
        self.happened.result.map(|result| result.ended.outcome)
    }

    /// The status of its response; 0 if there was none.
    pub fn status(&self) -> u16 {
        self.happened.result.map_or(0, |result| result.ended.status)
    }

    /// Why it failed, or how many due times were missed.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The beginning of its response.
    pub fn response(&self) -> Option<&str> {
        self.response.as_deref()
    }

    /// How many runs in a row have failed.
    pub fn failures(&self) -> u32 {
        self.happened.failures
    }

    /// How long its last attempt took, in milliseconds.
    pub fn duration_ms(&self) -> u32 {
        let duration = self.happened.result.map(|result| result.ended.duration).unwrap_or_default();
        u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
    }
}

impl Origin for Notification {
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "timer: \"{}\", notification: {}", self.timer(), self.event().name())
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Timeout => "timeout",
        Outcome::Cancelled => "cancelled",
        Outcome::Interrupted => "interrupted",
        Outcome::Error => "error",
        Outcome::Lost => "lost",
    }
}

/// Why a run failed, as far as its result tells.
fn error_of(timer: &TimerConf, result: &RunResult, known: Option<String>) -> Option<String> {
    let status = result.ended.status;
    Some(match result.ended.outcome {
        Outcome::Success | Outcome::Cancelled => return None,
        Outcome::Failure if timer.success.contains(status) => {
            format!("response incomplete, status {status}")
        }
        Outcome::Failure => format!("status {status}"),
        Outcome::Timeout => format!("timed out after {}ms", timer.timeout.as_millis()),
        Outcome::Interrupted => "run interrupted".to_owned(),
        Outcome::Lost => "run lost".to_owned(),
        Outcome::Error => known.unwrap_or_else(|| "no response".to_owned()),
    })
}
