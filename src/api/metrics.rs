//! Prometheus' text format 0.0.4.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use super::fleet::FleetSample;
use super::piece::{Then, Timers};
use super::samples::{OUTCOMES, Sample};
use super::view::TimerHealth;
use crate::schedule::UnixMs;

/// What the configuration says of a timer.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) schedule: String,
    /// Empty for a fixed rate.
    pub(super) timezone: String,
    pub(super) server: String,
}

struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: Lines,
}

/// Writes the lines of a timer, whose name is escaped.
#[derive(Clone, Copy)]
enum Lines {
    /// From its record.
    Sample(fn(&str, &Sample, &mut Vec<u8>) -> io::Result<()>),
    /// From its health, which is known also where its record cannot be read.
    Health(fn(&str, TimerHealth, &mut Vec<u8>) -> io::Result<()>),
    /// From its configuration.
    Info(fn(&str, &Info, &mut Vec<u8>) -> io::Result<()>),
}

/// A family of which each timer has one sample.
macro_rules! family {
    ($name:literal, $kind:literal, $help:literal, |$sample:ident| $value:expr) => {
        Family {
            name: $name,
            kind: $kind,
            help: $help,
            write: Lines::Sample(|name, $sample, out| {
                writeln!(out, concat!($name, "{{timer=\"{}\"}} {}"), name, $value)
            }),
        }
    };
}

/// The family that there is with fleets only.
const ELSEWHERE: &str = "nginx_timer_elsewhere_total";

const FAMILIES: &[Family] = &[
    Family {
        name: "nginx_timer_runs_total",
        kind: "counter",
        help: "Runs that have ended, by the outcome of their last attempt.",
        write: Lines::Sample(|name, sample, out| {
            OUTCOMES.iter().zip(sample.ended).try_for_each(|(outcome, count)| {
                let series = "nginx_timer_runs_total";
                writeln!(out, "{series}{{timer=\"{name}\",outcome=\"{outcome}\"}} {count}")
            })?;
            let Some((lost, _)) = sample.fleet else { return Ok(()) };
            writeln!(out, "nginx_timer_runs_total{{timer=\"{name}\",outcome=\"lost\"}} {lost}")
        }),
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
    Family {
        name: ELSEWHERE,
        kind: "counter",
        help: "Due times of a timer of a fleet that were dealt with by the fleet, not by this host.",
        write: Lines::Sample(|name, sample, out| {
            let Some((_, elsewhere)) = sample.fleet else { return Ok(()) };
            writeln!(out, "{ELSEWHERE}{{timer=\"{name}\"}} {elsewhere}")
        }),
    },
    Family {
        name: "nginx_timer_health",
        kind: "gauge",
        help: "How well it is: 1 for its state, 0 for the others.",
        write: Lines::Health(|name, health, out| {
            TimerHealth::ALL.iter().try_for_each(|state| {
                let is = u8::from(*state == health);
                writeln!(out, "nginx_timer_health{{timer=\"{name}\",state=\"{state}\"}} {is}")
            })
        }),
    },
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
        "The next due time, in the past when late; 0 for none.",
        |sample| sample.next_due
    ),
    Family {
        name: "nginx_timer_run_duration_seconds",
        kind: "summary",
        help: "Durations of the last attempts of runs.",
        write: Lines::Sample(|name, sample, out| {
            let sum = sample.duration_sum;
            let lost = sample.fleet.map_or(0, |(lost, _)| lost);
            let count = sample.ended.iter().fold(lost, |sum, ended| sum.saturating_add(*ended));
            let series = "nginx_timer_run_duration_seconds";
            writeln!(out, "{series}_sum{{timer=\"{name}\"}} {sum}")?;
            writeln!(out, "{series}_count{{timer=\"{name}\"}} {count}")
        }),
    },
    family!(
        "nginx_timer_last_duration_seconds",
        "gauge",
        "Duration of the last attempt of the last run.",
        |sample| seconds(sample.last_duration)
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
        seconds(sample.timeout)
    }),
    Family {
        name: "nginx_timer_info",
        kind: "gauge",
        help: "What the configuration says, always 1.",
        write: Lines::Info(|name, info, out| {
            let [schedule, timezone, server] =
                [&info.schedule, &info.timezone, &info.server].map(|value| escape(value));
            writeln!(
                out,
                "nginx_timer_info{{timer=\"{name}\",schedule=\"{schedule}\",\
                 timezone=\"{timezone}\",server=\"{server}\"}} 1"
            )
        }),
    },
];

/// The metrics, one family after the other as the format has it.
#[derive(Debug)]
pub(super) struct Metrics {
    family: usize,
    has_head: bool,
    next: usize,
}

/// How many timers are written at a time.
const TIMERS: usize = 16;

impl Metrics {
    pub(super) fn new() -> Self {
        Self { family: 0, has_head: false, next: 0 }
    }

    /// Appends what comes next.
    pub(super) fn write(&mut self, timers: &mut impl Timers, out: &mut Vec<u8>) -> Then {
        let Some(family) = FAMILIES.get(self.family) else {
            head(out, "nginx_timer_state_ok", "gauge", "Whether the state can be relied on.");
            let _ = writeln!(out, "nginx_timer_state_ok {}", u8::from(timers.state_ok()));
            write_fleets(&timers.fleets(), out);
            return Then::End;
        };
        if family.name == ELSEWHERE && timers.fleets().is_empty() {
            self.family += 1;
            return Then::More;
        }
        if !self.has_head {
            head(out, family.name, family.kind, family.help);
            self.has_head = true;
        }
        for number in (self.next..timers.count()).take(TIMERS) {
            match timers.sample(number) {
                Err(after) => return Then::MoreAfter(after),
                Ok(sample) => family.write_lines(timers, number, sample.as_ref(), out),
            }
            self.next = number + 1;
        }
        if self.next >= timers.count() {
            (self.family, self.has_head, self.next) = (self.family + 1, false, 0);
        }
        Then::More
    }
}

impl Family {
    fn write_lines(
        &self,
        timers: &impl Timers,
        number: usize,
        sample: Option<&Sample>,
        out: &mut Vec<u8>,
    ) {
        let name = escape(timers.name(number));
        // Writing to memory cannot fail.
        let _ = match (self.write, sample) {
            (Lines::Sample(write), Some(sample)) => write(&name, sample, out),
            (Lines::Health(write), sample) => {
                write(&name, sample.map_or(TimerHealth::Unknown, |sample| sample.health), out)
            }
            (Lines::Info(write), Some(_)) => write(&name, &timers.info(number), out),
            (Lines::Sample(_) | Lines::Info(_), None) => Ok(()),
        };
    }
}

/// What is to be said of each fleet.
fn write_fleets(fleets: &[FleetSample], out: &mut Vec<u8>) {
    if fleets.is_empty() {
        return;
    }
    let mut family =
        |name: &str, kind: &str, help: &str, lines: &dyn Fn(&FleetSample, &str) -> String| {
            head(out, name, kind, help);
            for fleet in fleets {
                out.extend_from_slice(lines(fleet, &escape(&fleet.name)).as_bytes());
            }
        };
    let help = "Whether etcd does what it is asked for the fleet.";
    family("nginx_timer_fleet_up", "gauge", help, &|fleet, name| {
        format!("nginx_timer_fleet_up{{fleet=\"{name}\"}} {}\n", u8::from(fleet.is_up))
    });
    let help = "Requests to etcd for the fleet, by what became of them.";
    family("nginx_timer_fleet_requests_total", "counter", help, &|fleet, name| {
        let line = |(result, count): &(&str, u64)| {
            let series = "nginx_timer_fleet_requests_total";
            format!("{series}{{fleet=\"{name}\",result=\"{result}\"}} {count}\n")
        };
        fleet.requests.iter().map(line).collect()
    });
    let help = "Durations of these requests.";
    family("nginx_timer_fleet_request_duration_seconds", "summary", help, &|fleet, name| {
        let series = "nginx_timer_fleet_request_duration_seconds";
        let count = fleet.requests.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        let sum = seconds(fleet.took);
        format!(
            "{series}_sum{{fleet=\"{name}\"}} {sum}\n{series}_count{{fleet=\"{name}\"}} {count}\n"
        )
    });
    let help = "By how much the clock of this host is ahead of that of the engine.";
    family("nginx_timer_fleet_clock_skew_seconds", "gauge", help, &|fleet, name| {
        let series = "nginx_timer_fleet_clock_skew_seconds";
        let line = |skew| format!("{series}{{fleet=\"{name}\"}} {}\n", UnixMs(skew));
        fleet.skew_ms.map(line).unwrap_or_default()
    });
}

/// A duration, to be shown in seconds with milliseconds.
pub(super) fn seconds(duration: Duration) -> UnixMs {
    UnixMs(0).plus(duration)
}

/// Appends what a family begins with.
pub(super) fn head(out: &mut Vec<u8>, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value, as it stands between quotes.
pub(super) fn escape(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
    } else {
        value.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
