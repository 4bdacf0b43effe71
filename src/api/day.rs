//! What ran in the last 24 hours, and what is due in the next: what the page draws its strip from.
//!
//! A record keeps the results of 32 runs. What is due more often has not all of its runs there, and is
//! marked.

use std::time::Duration;

use serde::Serialize;

use super::json;
use super::view::View;
use crate::schedule::UnixMs;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// One due time is shown for each of these.
const HALF_AN_HOUR_MS: i64 = 30 * 60 * 1000;
/// So many results are kept.
const KEPT: u32 = 32;

/// Times are Unix seconds here: there are many.
#[derive(Serialize)]
struct DayJson<'a> {
    name: &'a str,
    /// Whether it is due more often in a day than results are kept.
    often: bool,
    outcomes: String,
    starts: Vec<i64>,
    due: Vec<i64>,
}

/// Appends the JSON of a timer's day.
pub(super) fn write_day(view: &View<'_>, out: &mut Vec<u8>) {
    let results = view.results();
    let is_of_today = |start: UnixMs| start.plus(DAY) >= view.now;
    let of_today: Vec<_> =
        results.iter().rev().filter(|it| is_of_today(it.attempt.started_at)).collect();
    let day = DayJson {
        name: &view.timer.name,
        often: is_often(view),
        outcomes: of_today.iter().map(|result| json::letter(result.ended.outcome)).collect(),
        starts: of_today.iter().map(|result| seconds(result.attempt.started_at)).collect(),
        due: due_times(view),
    };
    json::write(&day, out);
}

fn is_often(view: &View<'_>) -> bool {
    let schedule = &view.timer.due_times.schedule;
    schedule.count(view.now, view.now.plus(DAY), KEPT + 1).0 > u64::from(KEPT)
}

/// The first due time of each half hour.
fn due_times(view: &View<'_>) -> Vec<i64> {
    let end = view.now.plus(DAY);
    let Some(mut from) = view.due_after() else { return Vec::new() };
    let mut due_times = Vec::new();
    while let Some(due) = view.timer.due_times.schedule.next(from).filter(|due| *due <= end) {
        due_times.push(seconds(due));
        // The last instant of its half hour.
        from = UnixMs((due.0.div_euclid(HALF_AN_HOUR_MS) + 1) * HALF_AN_HOUR_MS - 1);
    }
    due_times
}

fn seconds(at: UnixMs) -> i64 {
    at.0.div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{BORN, at, attempt, ended, reading, timer};
    use super::super::view::Configured;
    use super::*;
    use crate::schedule::{Cron, Every, Schedule, Zone};
    use crate::state::{Jittered, Outcome, Paused, Reading, RunResult, Scheduled};

    fn due(schedule: Schedule) -> Configured {
        let timer = timer();
        Configured { due_times: Jittered { schedule, ..timer.due_times.clone() }, ..timer }
    }

    fn cron(expression: &str) -> Configured {
        due(Schedule::Cron(Cron::parse(expression, Zone::utc()).unwrap()))
    }

    fn day(timer: &Configured, reading: Reading, now: UnixMs) -> Value {
        let result =
            |seconds, outcome| RunResult { attempt: attempt(seconds), ended: ended(outcome, 200) };
        // Newest first.
        let results = |_: &Reading| {
            vec![
                result(90_000, Outcome::Failure),
                result(3600, Outcome::Success),
                result(0, Outcome::Error),
            ]
        };
        let mut out = Vec::new();
        let failure_text = &|_: &Reading| None;
        let fleet = None;
        let view =
            View { timer, reading: Some(reading), now, results: &results, failure_text, fleet };
        write_day(&view, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn has_the_runs_of_24_hours_and_the_due_times_of_24_hours() {
        // BORN is 16:00:00.
        let shown = day(&cron("30 3 * * *"), reading(), at(90_000));
        let born = BORN.0 / 1000;
        assert_eq!(
            shown,
            json!({
                "name": "sync", "often": false, "outcomes": "SF",
                "starts": [born + 3600, born + 90_000], "due": [born + (8 + 24 + 3) * 3600 + 1800],
            })
        );
    }

    #[test]
    fn what_is_due_often_is_told_once_in_half_an_hour() {
        let times = |timer: &Configured| {
            let shown = day(timer, reading(), at(0));
            (shown["often"].as_bool().unwrap(), shown["due"].as_array().unwrap().len())
        };
        let every = |seconds| {
            due(Schedule::Every(Every::new(Duration::from_secs(seconds), Duration::ZERO).unwrap()))
        };
        assert_eq!(times(&every(1)), (true, 49));
        assert_eq!(times(&every(1800)), (true, 48));
        assert_eq!(times(&every(2700)), (false, 32));
        assert_eq!(times(&cron("*/5 8-9 * * *")), (false, 4));
        assert_eq!(times(&cron("*/3 8-9 * * *")), (true, 4));
        assert_eq!(times(&cron("0 0 29 2 *")), (false, 0));
    }

    #[test]
    fn nothing_is_due_in_a_pause() {
        let hourly = cron("0 * * * *");
        let times = |timer: &Configured, reading: &Reading| {
            day(timer, reading.clone(), at(60))["due"].as_array().unwrap().len()
        };
        let mut reading = reading();
        assert_eq!(times(&hourly, &reading), 24);
        reading.header.paused = Some(Paused { since: at(1), until: Some(at(3600 * 8)) });
        assert_eq!(times(&hourly, &reading), 16);
        reading.control.paused = Some(Paused { since: at(1), until: None });
        assert_eq!(times(&hourly, &reading), 0);
        reading.control.paused = Some(Paused { since: at(1), until: Some(at(30)) });
        assert_eq!(times(&hourly, &reading), 16);
        assert_eq!(
            times(
                &Configured { scheduled: Scheduled::Off, ..hourly },
                &super::super::tests::reading()
            ),
            0
        );
    }
}
