//! Rule R computed a second time, by trying each minute.
//!
//! Fields are sets made at random, and the expression is written from them, so that nothing here
//! reads expressions. What is due is found by trying: for an interval each instant, for a fixed
//! time each wall-clock time.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan as _};

use super::random::Random;
use super::{UnixMs, cron, zones};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn due_times_are_those_that_trying_finds() {
    let mut random = Random::new("reference");
    let mut found = 0;
    for _ in 0..600 {
        let fields = Fields::new(&mut random);
        let zone = random.zone();
        let rules = zones().get(zone).unwrap().rules().clone();
        let around = some_instant(&mut random, &rules);
        let (from, to) = (around - DAY * 3 / 2, around + DAY * 3 / 2);

        let cron = cron(&fields.text, zone);
        let mut due = Vec::new();
        let mut last = UnixMs(from.as_millisecond() - 1);
        while let Some(next) = cron.next(last).filter(|next| next.0 < to.as_millisecond()) {
            due.push(Timestamp::from_millisecond(next.0).unwrap());
            last = next;
        }
        let expected = if fields.fixed_time {
            fixed_time(&fields, &rules, from, to)
        } else {
            interval(&fields, &rules, from, to)
        };
        assert_eq!(due, expected, "{} {zone} {around}", fields.text);
        found += due.len();
    }
    assert!(found > 10_000, "{found}");
}

/// Around a transition of the zone, else anywhere: since 1973, so that minutes begin together.
fn some_instant(random: &mut Random, zone: &TimeZone) -> Timestamp {
    let minute = random.number(100_000_000 / 60, 3_000_000_000 / 60);
    let anywhere = Timestamp::from_second(minute * 60).unwrap();
    match zone.following(anywhere).next() {
        Some(transition) if transition.timestamp().as_second() < 4_000_000_000 => {
            transition.timestamp()
        }
        _ => anywhere,
    }
}

fn interval(fields: &Fields, zone: &TimeZone, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let minutes = std::iter::successors(Some(from), |at| Some(*at + MINUTE));
    minutes.take_while(|at| *at < to).filter(|at| fields.fit(zone.to_datetime(*at))).collect()
}

fn fixed_time(fields: &Fields, zone: &TimeZone, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let first = zone.to_datetime(from) - 3.days();
    let last = zone.to_datetime(to) + 3.days();
    let times = std::iter::successors(Some(first), |time| Some(*time + 1.minute()));
    let due: BTreeSet<_> = times
        .take_while(|time| *time < last)
        .filter(|time| fields.fit(*time))
        .map(|time| first_instant(zone, time))
        .filter(|at| (from..to).contains(at))
        .collect();
    due.into_iter().collect()
}

fn first_instant(zone: &TimeZone, time: DateTime) -> Timestamp {
    match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(time).unwrap(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(time).unwrap(),
        AmbiguousOffset::Gap { after, .. } => {
            // Minute by minute from before the gap to where the clock shows a later time.
            let mut at = after.to_timestamp(time).unwrap();
            while zone.to_datetime(at) < time {
                at += MINUTE;
            }
            at
        }
    }
}

/// Each field as a set of values; days fit as crontab(5) has it.
struct Fields {
    text: String,
    fixed_time: bool,
    minutes: BTreeSet<i64>,
    hours: BTreeSet<i64>,
    days: BTreeSet<i64>,
    months: BTreeSet<i64>,
    weekdays: BTreeSet<i64>,
    both_days: bool,
}

impl Fields {
    fn new(random: &mut Random) -> Self {
        let fixed_time = random.one_in(2);
        let may_be_any = if fixed_time { Write::Listed } else { Write::Any };
        // Early hours more often: that is where transitions are.
        let last_hour = random.pick(&[3, 23]);
        let (minutes, minute) = set(random, 0, 59, 59, may_be_any);
        let (hours, hour) = set(random, 0, last_hour, 23, may_be_any);
        let (days, day) = set(random, 1, 28, 31, Write::Any);
        let (months, month) = set(random, 1, 12, 12, Write::Any);
        let (weekdays, weekday) = set(random, 0, 6, 6, Write::Any);
        let mark = if random.one_in(2) { "+" } else { "" };
        Self {
            both_days: day == "*" || weekday == "*" || !mark.is_empty(),
            text: format!("{minute} {hour} {day} {month} {mark}{weekday}"),
            fixed_time: !minute.contains('*') && !hour.contains('*'),
            minutes,
            hours,
            days,
            months,
            weekdays,
        }
    }

    fn fit(&self, time: DateTime) -> bool {
        let day = self.days.contains(&time.day().into());
        let weekday = time.weekday().to_sunday_zero_offset().into();
        let weekday = self.weekdays.contains(&weekday);
        let days = if self.both_days { day && weekday } else { day || weekday };
        days && time.second() == 0
            && self.minutes.contains(&time.minute().into())
            && self.hours.contains(&time.hour().into())
            && self.months.contains(&time.month().into())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Write {
    Any,
    Listed,
}

/// Some of the values from `low` to `highest_drawn`, and how they are written.
fn set(
    random: &mut Random,
    low: i64,
    highest_drawn: i64,
    high: i64,
    write: Write,
) -> (BTreeSet<i64>, String) {
    match random.number(0, 5) {
        0..=2 if write == Write::Any => ((low..=high).collect(), "*".to_owned()),
        3 if write == Write::Any => {
            let step = random.number(2, 7);
            let set = (low..=high).filter(|value| (value - low) % step == 0).collect();
            (set, format!("*/{step}"))
        }
        4 => {
            let from = random.number(low, highest_drawn);
            let to = random.number(from, highest_drawn);
            ((from..=to).collect(), format!("{from}-{to}"))
        }
        _ => {
            let drawn = random.number(1, 4);
            let set: BTreeSet<_> = (0..drawn).map(|_| random.number(low, highest_drawn)).collect();
            let listed: Vec<_> = set.iter().map(i64::to_string).collect();
            (set, listed.join(","))
        }
    }
}
