//! What is shown of timers, without nginx.

use std::time::Duration;

use serde_json::{Value, json};

use super::definition::TimerDefinition;
use super::fleet::{FleetSample, Whereabouts};
use super::health::Complaint;
use super::json::{self, Extent, Host, Pause};
use super::metrics::{Info, Metrics};
use super::piece::{Then, Timers};
use super::samples::Sample;
use super::table::Table;
use super::view::{AssignedTo, Configured, Status, TimerHealth, View};
use crate::schedule::{Cron, Every, Jitter, Schedule, UnixMs, Zone};
use crate::state::{
    Attempt, BootId, Ended, Health, Jittered, MissedPolicy, Outcome, OverlapPolicy, Paused,
    Progress, Reading, RetryPolicy, RunId, RunResult, Scheduled, Trigger, Wait, Watermark,
};

pub(super) const BORN: UnixMs = UnixMs(1_764_000_000_000);
const ODD: &str = "a\"b\\c\n<script>\u{1}é";

pub(super) fn at(seconds: u64) -> UnixMs {
    BORN.plus(Duration::from_secs(seconds))
}

/// Due every minute, on the minute of `BORN`.
pub(super) fn timer() -> Configured {
    let every = Every::new(Duration::from_secs(60), Duration::ZERO).unwrap();
    Configured {
        name: "sync".to_owned(),
        due_times: Jittered {
            schedule: Schedule::Every(every),
            jitter: Jitter::new(Duration::ZERO, b"host", "sync"),
        },
        scheduled: Scheduled::On,
        worker: AssignedTo::Slot(0),
        server: ODD.to_owned(),
        location: ODD.to_owned(),
        config: format!("{ODD}:8"),
        timeout: Duration::from_secs(30),
        unhealthy_after: 3,
    }
}

fn definition() -> TimerDefinition {
    TimerDefinition {
        method: "POST".to_owned(),
        uri: "/sync?at=$timer_due".to_owned(),
        jitter_ms: 0,
        overlap: OverlapPolicy::Skip,
        missed: MissedPolicy::Run { within: Duration::from_secs(3600) },
        retry: RetryPolicy::default(),
    }
}

pub(super) fn attempt(seconds: u64) -> Attempt {
    Attempt {
        run: RunId([0xab; 16]),
        due: at(seconds),
        trigger: Trigger::Schedule,
        number: 1,
        pid: 42,
        boot: BootId::default(),
        started_at: at(seconds),
    }
}

pub(super) fn ended(outcome: Outcome, status: u16) -> Ended {
    Ended { outcome, status, duration: Duration::from_millis(12) }
}

pub(super) fn reading() -> Reading {
    Reading::anew("sync", BORN)
}

fn view(timer: &Configured, reading: Option<Reading>, now: UnixMs) -> View<'_> {
    View { timer, reading, now, results: &|_| Vec::new(), failure_text: &|_| None, fleet: None }
}

fn json(view: &View<'_>, extent: Extent<'_>) -> Value {
    let mut out = Vec::new();
    json::write_timer(view, extent, &mut out);
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn the_first_status_that_fits() {
    let timer = timer();
    let disabled = Configured { scheduled: Scheduled::Off, ..self::timer() };
    let status = |timer: &Configured, reading: &Reading, seconds: u64| {
        view(timer, Some(reading.clone()), at(seconds)).status()
    };
    let mut reading = reading();
    assert_eq!(status(&timer, &reading, 64), Status::Idle);
    assert_eq!(status(&timer, &reading, 65), Status::Idle);
    assert_eq!(status(&timer, &reading, 66), Status::Late);
    assert_eq!(status(&disabled, &reading, 66), Status::Disabled);

    reading.control.paused = Some(Paused { since: at(1), until: Some(at(200)) });
    assert_eq!(status(&timer, &reading, 66), Status::Paused);
    assert_eq!(status(&disabled, &reading, 66), Status::Disabled);
    assert_eq!(view(&timer, Some(reading.clone()), at(66)).next_due(), None);

    reading.claim.progress = Progress::Running(attempt(60));
    assert_eq!(status(&disabled, &reading, 66), Status::Running);
    assert_eq!(status(&timer, &reading, 100), Status::Running);
    assert_eq!(status(&timer, &reading, 101), Status::Stuck);
    let wait = Wait { next_at: at(61), last: ended(Outcome::Failure, 502) };
    reading.claim.progress = Progress::Waiting(attempt(60), wait);
    assert_eq!(status(&timer, &reading, 1000), Status::Running);
    assert_eq!(view(&timer, None, at(0)).status(), Status::Unknown);
}

#[test]
fn the_pause_of_all_is_one_too() {
    let (timer, mut reading) = (timer(), reading());
    reading.header.paused = Some(Paused { since: at(1), until: None });
    let view = view(&timer, Some(reading), at(66));
    assert_eq!(view.status(), Status::Paused);
    // Its own pause is another one.
    assert_eq!(json(&view, Extent::Listed)["paused"], Value::Null);
}

#[test]
fn json_is_whole_and_in_order() {
    let (timer, mut reading) = (timer(), reading());
    reading.claim.watermark = Watermark { due: at(60), attempt: 1 };
    let results = [(Outcome::Cancelled, 0), (Outcome::Failure, 502), (Outcome::Success, 200)]
        .map(|(outcome, status)| RunResult { attempt: attempt(60), ended: ended(outcome, status) });
    let results = |_: &Reading| results.to_vec();
    let view = View { results: &results, ..view(&timer, Some(reading), at(130)) };
    let shown = json(&view, Extent::Whole(&definition()));
    assert_eq!(shown["server"], ODD);
    assert_eq!(shown["config"], format!("{ODD}:8"));
    assert_eq!(shown["worker"], 0);
    assert_eq!(shown["last_due"], "2025-11-24T16:01:00.000Z");
    assert_eq!(shown["next_due"], "2025-11-24T16:02:00.000Z");
    assert_eq!(shown["late_seconds"], 10);
    assert_eq!(shown["recent"], "SFC");
    assert_eq!(shown["last"]["outcome"], "cancelled");
    assert_eq!(shown["history"].as_array().map(Vec::len), Some(3));
    assert_eq!(shown["method"], "POST");
    assert_eq!(shown["uri"], "/sync?at=$timer_due");
    assert_eq!((&shown["jitter_ms"], &shown["overlap"]), (&0.into(), &"skip".into()));
    assert_eq!(shown["missed"], json!({"policy": "run", "within_ms": 3_600_000}));
    assert_eq!(shown["retry"], Value::Null);
    let next: Vec<_> =
        (2..7).map(|minute| format!("2025-11-24T16:0{}:00.000Z", minute + 1)).collect();
    assert_eq!(shown["next"], json!(next));
    for field in ["method", "uri", "jitter_ms", "overlap", "missed", "retry", "next", "history"] {
        assert_eq!(json(&view, Extent::Listed).get(field), None, "{field}");
    }
    let definition = TimerDefinition {
        missed: MissedPolicy::Skip,
        retry: RetryPolicy { more: 3, ..RetryPolicy::default() },
        overlap: OverlapPolicy::Queue,
        ..definition()
    };
    let shown = json(&view, Extent::Whole(&definition));
    assert_eq!(shown["missed"], json!({"policy": "skip", "within_ms": null}));
    assert_eq!(shown["overlap"], "queue");
    assert_eq!(shown["retry"]["number"], 3);

    let mut text = Vec::new();
    json::write_timer(&view, Extent::Listed, &mut text);
    let text = String::from_utf8(text).unwrap();
    let places: Vec<_> = [
        "name",
        "schedule",
        "timezone",
        "worker",
        "server",
        "location",
        "config",
        "timeout_ms",
        "unhealthy_after",
        "status",
        "health",
        "next_due",
        "late_seconds",
        "last_due",
        "running",
        "paused",
        "queued",
        "last",
        "last_success",
        "consecutive_failures",
        "recent",
        "counters",
    ]
    .map(|field| text.find(&format!("\"{field}\":")))
    .into();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
}

#[test]
fn the_host_comes_first() {
    let host = Host {
        version: "0.1.0",
        nginx: "1.28.3",
        hostname: ODD,
        state: json::health(Health::Recovered),
        state_file: None,
        tzdata: "2026b (system)",
        now: BORN,
        paused: Pause::of(Some(Paused { since: at(1), until: None }), at(2)),
        upstreams: None,
        keyvals: Vec::new(),
    };
    let mut out = Vec::new();
    json::write(&host, &mut out);
    let shown: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(shown["hostname"], ODD);
    assert_eq!(shown["state"], "recovered");
    assert_eq!(shown["state_file"], Value::Null);
    assert_eq!(shown["paused"]["until"], Value::Null);
    let any = Configured { worker: AssignedTo::Any, ..timer() };
    assert_eq!(json(&view(&any, None, BORN), Extent::Listed)["worker"], "any");
}

#[test]
fn an_unreadable_record_is_unknown() {
    let timer = timer();
    let view = view(&timer, None, at(0));
    let shown = json(&view, Extent::Whole(&definition()));
    assert_eq!(shown["status"], "unknown");
    assert_eq!(shown["counters"], Value::Null);
    assert_eq!(shown["health"], "unknown");
    assert!(Sample::of(&view).is_none());
    assert_eq!(
        complaint(&view),
        (TimerHealth::Unknown, "unknown, record cannot be read".to_owned())
    );
}

fn complaint(view: &View<'_>) -> (TimerHealth, String) {
    Complaint::of(view).map_or((TimerHealth::Ok, String::new()), |it| (it.health, it.text))
}

#[test]
fn the_first_health_that_fits() {
    let timer = timer();
    let mut reading = reading();
    let is = |reading: &Reading, seconds: u64, health: TimerHealth, text: &str| {
        let view = view(&timer, Some(reading.clone()), at(seconds));
        assert_eq!(view.health(), health);
        assert_eq!(complaint(&view), (health, text.to_owned()));
        let word = health.to_string();
        assert_eq!(json(&view, Extent::Listed)["health"], word.as_str());
        assert_eq!(Sample::of(&view).map(|sample| sample.health), Some(health));
    };
    is(&reading, 60, TimerHealth::Ok, "");
    reading.claim.consecutive_failures = 1;
    is(&reading, 60, TimerHealth::Failed, "failed once");
    reading.claim.consecutive_failures = 2;
    is(&reading, 60, TimerHealth::Failed, "failed 2 times in a row");
    reading.claim.consecutive_failures = 3;
    is(&reading, 60, TimerHealth::Failing, "failing, failed 3 times in a row");
    is(&reading, 66, TimerHealth::Late, "late by 6s, failed 3 times in a row");
    reading.control.paused = Some(Paused { since: at(1), until: None });
    is(&reading, 66, TimerHealth::Failing, "failing, failed 3 times in a row");
    reading.control.paused = None;
    reading.claim.progress = Progress::Running(attempt(0));
    let text = "stuck, attempt in progress for 100s, late by 40s, failed 3 times in a row";
    is(&reading, 100, TimerHealth::Stuck, text);
    let well = TimerHealth::ALL.map(TimerHealth::is_well);
    assert_eq!(well, [false, false, false, false, true, true]);
}

#[test]
fn one_failure_may_be_too_many() {
    let nightly = Configured { unhealthy_after: 1, ..timer() };
    let mut reading = reading();
    reading.claim.consecutive_failures = 1;
    let view = view(&nightly, Some(reading), at(60));
    assert_eq!(complaint(&view), (TimerHealth::Failing, "failing, failed once".to_owned()));
}

/// Timers with a record each, of which some cannot be read at first.
struct ApiFixture<'a> {
    timers: Vec<&'a Configured>,
    now: UnixMs,
    torn: u32,
}

impl<'a> ApiFixture<'a> {
    fn of(timers: &[&'a Configured]) -> Self {
        Self { timers: timers.to_vec(), now: at(1), torn: 0 }
    }

    fn view(&mut self, number: usize) -> Result<View<'a>, Duration> {
        self.torn += 1;
        // Each third look finds it being written.
        if self.torn % 3 == 0 {
            return Err(Duration::from_millis(1));
        }
        Ok(view(self.timers[number], Some(reading()), self.now))
    }

    /// All that is written, without the waits.
    fn all(&mut self, mut write: impl FnMut(&mut Self, &mut Vec<u8>) -> Then) -> String {
        let mut text = Vec::new();
        while write(self, &mut text) != Then::End {}
        String::from_utf8(text).unwrap()
    }
}

impl Timers for ApiFixture<'_> {
    fn whereabouts(&self, _: usize) -> Whereabouts {
        Whereabouts::default()
    }

    fn fleets(&self) -> Vec<FleetSample> {
        Vec::new()
    }

    fn count(&self) -> usize {
        self.timers.len()
    }

    fn name(&self, number: usize) -> &str {
        &self.timers[number].name
    }

    fn sample(&mut self, number: usize) -> Result<Option<Sample>, Duration> {
        Ok(Sample::of(&self.view(number)?))
    }

    fn info(&self, number: usize) -> Info {
        let timer = self.timers[number];
        Info {
            schedule: timer.due_times.schedule.to_string(),
            timezone: "UTC".to_owned(),
            server: timer.server.clone(),
        }
    }

    fn now(&self) -> UnixMs {
        self.now
    }

    fn state_ok(&self) -> bool {
        false
    }

    fn remarks(&self) -> Vec<String> {
        vec!["the state is degraded".to_owned()]
    }
}

#[test]
fn metrics_keep_families_together() {
    let timer = timer();
    let cron = Cron::parse("0 3 * * *", Zone::utc()).unwrap();
    let other = Configured {
        name: "other".to_owned(),
        due_times: Jittered { schedule: Schedule::Cron(cron), ..timer.due_times.clone() },
        ..self::timer()
    };
    let mut metrics = Metrics::new();
    let text = ApiFixture::of(&[&timer, &other]).all(|timers, out| metrics.write(timers, out));
    let mut families = Vec::new();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("#", rest)) => {
                let name = rest.split(' ').nth(1).unwrap();
                if families.last() != Some(&name) {
                    assert!(!families.contains(&name), "{name} comes twice");
                    families.push(name);
                }
            }
            _ => assert!(line.starts_with(families.last().unwrap()), "{line}"),
        }
    }
    assert!(text.contains("nginx_timer_runs_total{timer=\"sync\",outcome=\"success\"} 0\n"));
    assert!(text.contains("nginx_timer_timeout_seconds{timer=\"sync\"} 30.000\n"));
    for (state, value) in
        [("unknown", 0), ("stuck", 0), ("late", 0), ("failing", 0), ("failed", 0), ("ok", 1)]
    {
        let line = format!("nginx_timer_health{{timer=\"sync\",state=\"{state}\"}} {value}\n");
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains(
        "{timer=\"other\",schedule=\"cron=0 3 * * *\",timezone=\"UTC\",server=\"a\\\"b\\\\c\\n<"
    ));
    assert!(text.ends_with("nginx_timer_state_ok 0\n"));
}

#[test]
fn the_table_begins_with_what_comes_next() {
    let timer = timer();
    let hourly = Every::new(Duration::from_secs(3600), Duration::ZERO).unwrap();
    let later = Configured {
        name: "later".to_owned(),
        due_times: Jittered { schedule: Schedule::Every(hourly), ..timer.due_times.clone() },
        ..self::timer()
    };
    let off = Configured { name: "off".to_owned(), scheduled: Scheduled::Off, ..self::timer() };
    let mut table = Table::new(3).unwrap();
    let text = ApiFixture::of(&[&off, &later, &timer]).all(|timers, out| table.write(timers, out));
    let names: Vec<_> = text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(names, ["NAME", "sync", "later", "off", "", "timers", "degraded"]);
    assert!(text.contains("2025-11-24 16:01:00Z  59s "), "{text}");
    assert!(text.contains(" disabled "), "{text}");
}

#[test]
fn without_timers_there_are_families_only() {
    let mut metrics = Metrics::new();
    let text = ApiFixture::of(&[]).all(|timers, out| metrics.write(timers, out));
    assert_eq!(text.matches("# TYPE ").count(), 19);
    assert!(text.ends_with("\nnginx_timer_state_ok 0\n"));
    let mut table = Table::new(0).unwrap();
    let text = ApiFixture::of(&[]).all(|timers, out| table.write(timers, out));
    assert!(text.starts_with("NEXT  LEFT") && text.contains("\n0 timers\n"), "{text}");
}

#[test]
fn a_table_of_many_timers_has_each_once_and_in_order() {
    let timers: Vec<_> = (0_u64..5000)
        .map(|number| {
            // Many of them at the same instant.
            let offset = Duration::from_secs(number * 7919 % 1000);
            let every = Every::new(Duration::from_secs(3600), offset).unwrap();
            let jitter = Jitter::new(Duration::ZERO, b"host", "x");
            Configured {
                name: format!("t{number}"),
                due_times: Jittered { schedule: Schedule::Every(every), jitter },
                ..timer()
            }
        })
        .collect();
    let all: Vec<_> = timers.iter().collect();
    let mut table = Table::new(all.len()).unwrap();
    let text = ApiFixture::of(&all).all(|timers, out| table.write(timers, out));
    let lines: Vec<_> = text.lines().skip(1).take(5000).collect();
    let key = |line: &&str| {
        let name = line.rsplit(' ').next().unwrap_or_default().to_owned();
        (line.split("Z ").next().unwrap_or_default().to_owned(), name)
    };
    assert!(lines.is_sorted_by_key(key));
    let mut names: Vec<_> = lines.iter().map(|line| key(line).1).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 5000);
    assert_eq!(text.lines().nth(5002), Some("5000 timers"));
}
