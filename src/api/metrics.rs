//! Prometheus' text format 0.0.4.

use std::fmt::Write;
use std::time::Duration;

use super::view::View;
use crate::schedule::{Schedule, UnixMs};
use crate::state::{Outcome, Progress, Scheduled};

/// What the metrics tell of a timer.
#[derive(Debug)]
pub(super) struct Sample {
    /// Escaped, as all strings here.
    name: String,
    schedule: String,
    timezone: String,
    server: String,
    ended: [u64; 6],
    retries: u64,
    unscheduled: u64,
    overlaps: u64,
    missed: u64,
    running: bool,
    paused: bool,
    enabled: bool,
    last_start: UnixMs,
    last_success: UnixMs,
    next_due: UnixMs,
    duration_sum: UnixMs,
    durations: u64,
    last_duration: UnixMs,
    last_lateness: UnixMs,
    consecutive_failures: u32,
    timeout: UnixMs,
}

const OUTCOMES: [Outcome; 6] = [
    Outcome::Success,
    Outcome::Failure,
    Outcome::Timeout,
    Outcome::Cancelled,
    Outcome::Interrupted,
    Outcome::Error,
];

impl Sample {
    /// `None` if the record cannot be read: a counter that is absent once is no harm, one that goes
    /// back is.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        let reading = view.reading.as_ref()?;
        let (run, control) = (&reading.run, &reading.control);
        let schedule = &view.timer.due_times.schedule;
        Some(Self {
            name: escape(&view.timer.name),
            schedule: escape(&schedule.to_string()),
            timezone: match schedule {
                Schedule::Every(_) => String::new(),
                Schedule::Cron(cron) => escape(cron.zone().name()),
            },
            server: escape(&view.timer.server),
            ended: OUTCOMES.map(|outcome| run.counters.ended_with(outcome)),
            retries: run.counters.retries,
            unscheduled: run.counters.unscheduled,
            overlaps: control.overlaps,
            missed: control.missed,
            running: run.progress != Progress::Nothing,
            paused: reading.is_paused(view.now),
            enabled: view.timer.scheduled == Scheduled::On,
            last_start: run.last_start_at.unwrap_or_default(),
            last_success: run.last_success_at.unwrap_or_default(),
            next_due: view.next_due().unwrap_or_default(),
            duration_sum: UnixMs(i64::try_from(run.duration_sum_ms).unwrap_or(i64::MAX)),
            durations: run.counters.ended(),
            last_duration: run.results.first().map_or(UnixMs(0), |it| seconds(it.ended.duration)),
            last_lateness: UnixMs(run.last_lateness_ms),
            consecutive_failures: run.consecutive_failures,
            timeout: seconds(view.timer.timeout),
        })
    }
}

/// A duration, to be shown in seconds with milliseconds.
fn seconds(duration: Duration) -> UnixMs {
    UnixMs(0).plus(duration)
}

struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: fn(&Sample, &mut String) -> std::fmt::Result,
}

/// A family of which each timer has one sample.
macro_rules! family {
    ($name:literal, $kind:literal, $help:literal, |$sample:ident| $value:expr) => {
        Family {
            name: $name,
            kind: $kind,
            help: $help,
            write: |$sample, out| {
                writeln!(out, concat!($name, "{{timer=\"{}\"}} {}"), $sample.name, $value)
            },
        }
    };
}

const FAMILIES: &[Family] = &[
    Family {
        name: "nginx_timer_runs_total",
        kind: "counter",
        help: "Runs that have ended, by the outcome of their last attempt.",
        write: |sample, out| {
            OUTCOMES.iter().zip(sample.ended).try_for_each(|(outcome, count)| {
                let name = &sample.name;
                let series = "nginx_timer_runs_total";
                writeln!(out, "{series}{{timer=\"{name}\",outcome=\"{outcome}\"}} {count}")
            })
        },
    },
    family!(
        "nginx_timer_retries_total",
        "counter",
        "Attempts after the first of their run.",
        |sample| sample.retries
    ),
    family!(
        "nginx_timer_unscheduled_total",
        "counter",
        "Runs by hand, and first runs.",
        |sample| sample.unscheduled
    ),
    family!(
        "nginx_timer_overlaps_total",
        "counter",
        "Due times left out because a run was in progress.",
        |sample| sample.overlaps
    ),
    family!(
        "nginx_timer_missed_total",
        "counter",
        "Due times that had no run because no worker was there to take them.",
        |sample| sample.missed
    ),
    family!("nginx_timer_running", "gauge", "Whether a run is in progress.", |sample| u8::from(
        sample.running
    )),
    family!("nginx_timer_paused", "gauge", "Whether it is paused, or all timers are.", |sample| {
        u8::from(sample.paused)
    }),
    family!("nginx_timer_enabled", "gauge", "Whether it runs by schedule.", |sample| u8::from(
        sample.enabled
    )),
    family!(
        "nginx_timer_last_start_timestamp_seconds",
        "gauge",
        "Start of the last attempt, 0 for never.",
        |sample| sample.last_start
    ),
    family!(
        "nginx_timer_last_success_timestamp_seconds",
        "gauge",
        "Start of the last successful attempt, 0 for never.",
        |sample| sample.last_success
    ),
    family!(
        "nginx_timer_next_due_timestamp_seconds",
        "gauge",
        "The first due time that has not been dealt with, in the past when late; 0 for none.",
        |sample| sample.next_due
    ),
    Family {
        name: "nginx_timer_run_duration_seconds",
        kind: "summary",
        help: "Durations of the last attempts of runs.",
        write: |sample, out| {
            let (name, sum, count) = (&sample.name, sample.duration_sum, sample.durations);
            let series = "nginx_timer_run_duration_seconds";
            writeln!(out, "{series}_sum{{timer=\"{name}\"}} {sum}")?;
            writeln!(out, "{series}_count{{timer=\"{name}\"}} {count}")
        },
    },
    family!(
        "nginx_timer_last_duration_seconds",
        "gauge",
        "Duration of the last attempt of the last run.",
        |sample| sample.last_duration
    ),
    family!(
        "nginx_timer_last_lateness_seconds",
        "gauge",
        "From the due time to the start of the last attempt.",
        |sample| sample.last_lateness
    ),
    family!(
        "nginx_timer_consecutive_failures",
        "gauge",
        "Runs since the last success that failed; cancelled ones are not counted.",
        |sample| sample.consecutive_failures
    ),
    family!("nginx_timer_timeout_seconds", "gauge", "How long an attempt may take.", |sample| {
        sample.timeout
    }),
    Family {
        name: "nginx_timer_info",
        kind: "gauge",
        help: "What the configuration says, always 1.",
        write: |sample, out| {
            let Sample { name, schedule, timezone, server, .. } = sample;
            writeln!(
                out,
                "nginx_timer_info{{timer=\"{name}\",schedule=\"{schedule}\",\
                 timezone=\"{timezone}\",server=\"{server}\"}} 1"
            )
        },
    },
];

/// The metrics, written in pieces.
#[derive(Debug)]
pub(super) struct Metrics {
    samples: Vec<Sample>,
    state_ok: bool,
    family: usize,
    sample: usize,
}

/// How many samples a piece has.
const SAMPLES: usize = 16;

impl Metrics {
    pub(super) fn new(samples: Vec<Sample>, state_ok: bool) -> Self {
        Self { samples, state_ok, family: 0, sample: 0 }
    }

    /// Appends the next piece; `None` if there is none.
    pub(super) fn write(&mut self, out: &mut String) -> Option<()> {
        let Some(family) = FAMILIES.get(self.family) else {
            if self.family > FAMILIES.len() {
                return None;
            }
            self.family += 1;
            head(out, "nginx_timer_state_ok", "gauge", "Whether the state can be relied on.");
            let _ = writeln!(out, "nginx_timer_state_ok {}", u8::from(self.state_ok));
            return Some(());
        };
        if self.sample == 0 {
            head(out, family.name, family.kind, family.help);
        }
        for sample in self.samples.iter().skip(self.sample).take(SAMPLES) {
            let _ = (family.write)(sample, out);
        }
        self.sample += SAMPLES;
        if self.sample >= self.samples.len() {
            self.sample = 0;
            self.family += 1;
        }
        Some(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value, as it stands between quotes.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }

    #[test]
    fn without_timers_there_are_families_only() {
        let mut metrics = Metrics::new(Vec::new(), true);
        let mut text = String::new();
        while metrics.write(&mut text).is_some() {}
        assert_eq!(text.matches("# TYPE ").count(), FAMILIES.len() + 1);
        assert!(text.ends_with("\nnginx_timer_state_ok 1\n"));
    }
}
