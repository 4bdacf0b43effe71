//! Timers as JSON, in the order of the manual.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use super::definition::TimerDefinition;
use super::fleet::{FleetJson, FleetView, in_calendar};
use super::view::{AssignedTo, Configured, Status, TimerHealth, View};
use crate::schedule::{Schedule, UnixMs};
use crate::state::{Attempt, Health, Outcome, Paused, Progress, Reading, RunResult};

/// What is said of the host, before its timers.
#[derive(Debug, Serialize)]
pub(super) struct Host<'a> {
    pub(super) version: &'a str,
    pub(super) nginx: &'a str,
    pub(super) hostname: &'a str,
    pub(super) state: &'a str,
    pub(super) state_file: Option<&'a str>,
    pub(super) tzdata: &'a str,
    #[serde(serialize_with = "instant")]
    pub(super) now: UnixMs,
    pub(super) paused: Option<Pause>,
    /// How many groups with health checks there are; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstreams: Option<usize>,
    /// A line for each zone of key-value pairs; absent without any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) keyvals: Vec<String>,
}

/// The API's word for it.
pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Recovered => "recovered",
        Health::Degraded => "degraded",
    }
}

/// A pause.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Pause {
    #[serde(serialize_with = "instant")]
    since: UnixMs,
    #[serde(serialize_with = "some_instant")]
    until: Option<UnixMs>,
}

impl Pause {
    /// `paused`, if it holds.
    pub(super) fn of(paused: Option<Paused>, now: UnixMs) -> Option<Self> {
        let paused = paused.filter(|paused| paused.holds(now))?;
        Some(Self { since: paused.since, until: paused.until })
    }
}

/// How much is shown of a timer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent<'a> {
    /// What the list of all has.
    Listed,
    /// Also its definition, its next due times and the results of its last runs.
    Whole(&'a TimerDefinition),
}

/// So many of the next due times are shown.
const NEXT: usize = 5;

#[derive(Serialize)]
struct TimerJson<'a> {
    name: &'a str,
    schedule: AsString<&'a Schedule>,
    timezone: Option<&'a str>,
    worker: WorkerJson,
    server: &'a str,
    location: &'a str,
    config: &'a str,
    timeout_ms: u64,
    unhealthy_after: u32,
    status: Status,
    health: TimerHealth,
    #[serde(serialize_with = "some_instant")]
    next_due: Option<UnixMs>,
    late_seconds: u64,
    #[serde(serialize_with = "some_instant")]
    last_due: Option<UnixMs>,
    running: Option<RunningJson>,
    paused: Option<Pause>,
    queued: bool,
    last: Option<RunJson>,
    #[serde(serialize_with = "some_instant")]
    last_success: Option<UnixMs>,
    consecutive_failures: u32,
    recent: String,
    counters: Option<CountersJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<FleetJson<'a>>,
    #[serde(flatten)]
    more: Option<MoreJson<'a>>,
}

/// What is shown of one timer only.
#[derive(Serialize)]
struct MoreJson<'a> {
    #[serde(flatten)]
    definition: &'a TimerDefinition,
    next: Vec<String>,
    /// The beginning of the response of the last run that failed.
    response: Option<String>,
    history: Vec<RunJson>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WorkerJson {
    Slot(usize),
    Any(&'static str),
}

#[derive(Serialize)]
struct RunningJson {
    run: String,
    #[serde(serialize_with = "instant")]
    due: UnixMs,
    #[serde(serialize_with = "instant")]
    start: UnixMs,
    attempt: u32,
    trigger: AsString<crate::state::Trigger>,
    pid: u32,
    /// When its next attempt may start, while it waits for that.
    #[serde(serialize_with = "some_instant")]
    next_attempt: Option<UnixMs>,
}

#[derive(Serialize)]
struct RunJson {
    run: String,
    #[serde(serialize_with = "instant")]
    due: UnixMs,
    #[serde(serialize_with = "instant")]
    start: UnixMs,
    duration_ms: u64,
    outcome: AsString<Outcome>,
    status: u16,
    attempts: u32,
    trigger: AsString<crate::state::Trigger>,
    pid: u32,
}

#[derive(Serialize)]
struct CountersJson {
    runs: u64,
    success: u64,
    failure: u64,
    timeout: u64,
    cancelled: u64,
    interrupted: u64,
    error: u64,
    retries: u64,
    unscheduled: u64,
    overlaps: u64,
    missed: u64,
    /// Those of a timer of a fleet.
    #[serde(flatten)]
    fleet: Option<FleetCounters>,
}

#[derive(Serialize)]
struct FleetCounters {
    elsewhere: u64,
    lost: u64,
}

/// Appends the JSON of a timer.
pub(super) fn write_timer(view: &View<'_>, extent: Extent<'_>, out: &mut Vec<u8>) {
    let View { timer, reading, now, .. } = view;
    let results = view.results();
    let Configured { due_times, .. } = timer;
    let reading = reading.as_ref();
    let timer = TimerJson {
        name: &timer.name,
        schedule: AsString(&due_times.schedule),
        timezone: match &due_times.schedule {
            Schedule::Every(_) => None,
            Schedule::Cron(cron) => Some(cron.zone().name()),
        },
        worker: match timer.worker {
            AssignedTo::Slot(slot) => WorkerJson::Slot(slot),
            AssignedTo::Any => WorkerJson::Any("any"),
        },
        server: &timer.server,
        location: &timer.location,
        config: &timer.config,
        timeout_ms: u64::try_from(timer.timeout.as_millis()).unwrap_or(u64::MAX),
        unhealthy_after: timer.unhealthy_after,
        status: view.status(),
        health: view.health(),
        next_due: view.next_due(),
        late_seconds: view.late_by().as_secs(),
        last_due: reading.map(|it| it.claim.watermark).filter(|it| it.attempt > 0).map(|it| it.due),
        running: reading.and_then(|reading| RunningJson::of(reading.claim.progress)),
        paused: reading.and_then(|reading| Pause::of(reading.control.paused, *now)),
        queued: reading.is_some_and(|reading| reading.queued(*now).is_some()),
        last: last_run(view, &results),
        last_success: view.last_success(),
        consecutive_failures: view.failures(),
        recent: recent(&results),
        counters: reading.map(|reading| CountersJson::of(reading, view.fleet.is_some())),
        fleet: view.fleet.map(|fleet| FleetJson::of(fleet, *now)),
        more: match extent {
            Extent::Listed => None,
            Extent::Whole(definition) => Some(MoreJson {
                definition,
                next: view
                    .next_due_times(NEXT)
                    .iter()
                    .map(|due| due.rfc3339().to_string())
                    .collect(),
                response: reading.and_then(view.failure_text),
                history: results.iter().map(RunJson::of).collect(),
            }),
        },
    };
    write(&timer, out);
}

/// Appends the JSON of anything.
pub(super) fn write(value: &impl Serialize, out: &mut Vec<u8>) {
    // Writing to memory cannot fail, and none of our types can either.
    let _ = serde_json::to_writer(out, value);
}

/// The outcomes of the last runs by their first letters, oldest first.
fn recent(results: &[RunResult]) -> String {
    results.iter().rev().map(|result| letter(result.ended.outcome)).collect()
}

/// The first letter of an outcome.
pub(super) fn letter(outcome: Outcome) -> char {
    match outcome {
        Outcome::Success => 'S',
        Outcome::Failure => 'F',
        Outcome::Timeout => 'T',
        Outcome::Cancelled => 'C',
        Outcome::Interrupted => 'I',
        Outcome::Error => 'E',
        Outcome::Lost => 'L',
    }
}

impl RunningJson {
    fn of(progress: Progress) -> Option<Self> {
        let running = |attempt: Attempt, next_attempt| Self {
            run: attempt.run.to_string(),
            due: attempt.due,
            start: attempt.started_at,
            attempt: attempt.number,
            trigger: AsString(attempt.trigger),
            pid: attempt.pid,
            next_attempt,
        };
        match progress {
            Progress::Nothing | Progress::Claiming(..) => None,
            Progress::Running(attempt) => Some(running(attempt, None)),
            Progress::Waiting(attempt, wait) => Some(running(attempt, Some(wait.next_at))),
        }
    }
}

impl RunJson {
    fn of(result: &RunResult) -> Self {
        let RunResult { attempt, ended } = result;
        Self {
            run: attempt.run.to_string(),
            due: attempt.due,
            start: attempt.started_at,
            duration_ms: u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            outcome: AsString(ended.outcome),
            status: ended.status,
            attempts: attempt.number,
            trigger: AsString(attempt.trigger),
            pid: attempt.pid,
        }
    }
}

/// The last run; of a timer of a fleet the last one of all hosts. Of another host's neither status nor
/// process are known.
fn last_run(view: &View<'_>, results: &[RunResult]) -> Option<RunJson> {
    let own = results.first();
    let Some(result) = view.fleet.and_then(FleetView::result) else { return own.map(RunJson::of) };
    if let Some(own) = own.filter(|own| own.attempt.started_at >= result.started_at) {
        return Some(RunJson::of(own));
    }
    Some(RunJson {
        run: result.run.to_string(),
        due: in_calendar(result.due),
        start: in_calendar(result.started_at),
        duration_ms: u64::try_from(result.duration.as_millis()).unwrap_or(u64::MAX),
        outcome: AsString(result.outcome),
        status: 0,
        attempts: result.attempt,
        trigger: AsString(result.trigger),
        pid: 0,
    })
}

impl CountersJson {
    fn of(reading: &Reading, in_fleet: bool) -> Self {
        let counters = &reading.claim.counters;
        let (elsewhere, lost) = (reading.control.elsewhere, counters.ended_with(Outcome::Lost));
        Self {
            runs: reading.claim.runs(),
            success: counters.ended_with(Outcome::Success),
            failure: counters.ended_with(Outcome::Failure),
            timeout: counters.ended_with(Outcome::Timeout),
            cancelled: counters.ended_with(Outcome::Cancelled),
            interrupted: counters.ended_with(Outcome::Interrupted),
            error: counters.ended_with(Outcome::Error),
            retries: counters.retries,
            unscheduled: counters.unscheduled,
            overlaps: reading.control.overlaps,
            missed: reading.control.missed,
            fleet: in_fleet.then_some(FleetCounters { elsewhere, lost }),
        }
    }
}

/// A value that is a string in JSON, as it shows itself.
pub(super) struct AsString<T>(pub(super) T);

impl<T: Display> Serialize for AsString<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn instant<S: Serializer>(at: &UnixMs, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&at.rfc3339())
}

#[expect(clippy::ref_option, reason = "serde's signature")]
pub(super) fn some_instant<S: Serializer>(
    at: &Option<UnixMs>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => instant(at, serializer),
        None => serializer.serialize_none(),
    }
}
