//! `cron=`: due times on the wall clock of a time zone.
//!
//! croner reads the expression and searches on the wall clock, where there is neither zone nor
//! daylight saving. Here its answers are brought to instants, by rule R: an expression is
//! *fixed-time* when its second, minute and hour fields contain no `*` or `/`, else an *interval*.
//!
//! | a wall-clock time | interval | fixed-time |
//! |---|---|---|
//! | that does not exist | is not due | is due at the first instant after the gap |
//! | that exists twice | is due twice | is due the first time only |

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use croner::Direction::{self, Backward, Forward};
use jiff::civil::date;

use super::cron_error::CronError;
use super::expression::Expression;
use super::wall::{ClockChange, REACH, Stretch, civil, seconds};
use super::zone::Zone;
use super::{UnixMs, stable_hash};

/// Due times that a cron expression gives in a time zone.
///
/// # Invariants
///
/// There are days that fit `pattern`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    zone: Zone,
    reading: ClockChange,
    // Shared, because it takes 5 KB: croner has a byte for each year.
    pattern: Arc<croner::Cron>,
}

/// The wall-clock times 1900-01-01 00:00:00 and 4999-12-31 23:59:59, between which due times lie:
/// croner's calendar ends in the year 5000, and no host's clock shows a time before 1900.
const FIRST: i64 = -2_208_988_800;
const LAST: i64 = 95_617_583_999;

impl Cron {
    /// Five fields, or six with seconds first, or a nickname, on the wall clock of `zone`.
    ///
    /// # Errors
    ///
    /// The expression is not well-formed, or is never due.
    pub fn parse(expression: &str, zone: Zone) -> Result<Self, CronError> {
        let Expression { text, plain, fixed_time } = Expression::parse(expression)?;
        let pattern =
            croner::Cron::from_str(&plain).map_err(|e| CronError::Croner(e.to_string()))?;
        if !is_ever_due(&pattern) {
            return Err(CronError::NeverDue);
        }
        let reading = if fixed_time { ClockChange::FixedTime } else { ClockChange::Interval };
        // INVARIANT: a day that fits was found.
        Ok(Self { text, zone, reading, pattern: Arc::new(pattern) })
    }

    /// The same expression on the wall clock of `zone`.
    #[must_use]
    pub fn in_zone(self, zone: Zone) -> Self {
        // INVARIANT: the days are those of any zone.
        Self { zone, ..self }
    }

    /// A number that is the same for the same expression and zone.
    pub(super) fn stable_hash(&self) -> u64 {
        stable_hash(&[b"cron", self.text.as_bytes(), self.zone.name().as_bytes()])
    }

    /// The first due time strictly later than `after`; `None` past the end of the calendar.
    pub fn next(&self, after: UnixMs) -> Option<UnixMs> {
        let zone = self.zone.rules();
        let mut search = Search::new(&self.pattern, Forward);
        let mut from = (after.0.div_euclid(1000) + 1).max(FIRST - REACH);
        let mut stretch = Stretch::around(zone, from)?;
        loop {
            let mut clock = stretch.floor(zone, self.reading);
            if from > stretch.start {
                clock = clock.max(from.checked_add(stretch.offset)?);
            }
            let due = (search.closest(clock)? - stretch.offset).max(stretch.start);
            if due < stretch.end {
                return due.checked_mul(1000).map(UnixMs);
            }
            from = stretch.end;
            stretch = stretch.after(zone)?;
        }
    }

    /// The newest due time that is not later than `at`; `None` before the calendar's beginning.
    pub fn newest(&self, at: UnixMs) -> Option<UnixMs> {
        let zone = self.zone.rules();
        let mut search = Search::new(&self.pattern, Backward);
        let mut upto = at.0.div_euclid(1000).min(LAST + REACH);
        let mut stretch = Stretch::around(zone, upto)?;
        loop {
            let floor = stretch.floor(zone, self.reading);
            let clock = upto.checked_add(stretch.offset)?;
            // Below the floor the clock stands still.
            if clock >= floor {
                let found = search.closest(clock)?;
                if found >= floor {
                    let due = (found - stretch.offset).max(stretch.start);
                    return due.checked_mul(1000).map(UnixMs);
                }
            }
            upto = stretch.start.checked_sub(1)?;
            stretch = stretch.before(zone)?;
        }
    }

    /// The distance in milliseconds of the next two due times after `at`; at the end of the
    /// calendar longer than any.
    pub fn period_ms(&self, at: UnixMs) -> i64 {
        let first = self.next(at);
        let second = first.and_then(|due| self.next(due));
        first.zip(second).map_or(i64::MAX, |(first, second)| second.ms_since(first))
    }

    /// The day of week, if both day fields are given and one of them is a step of `*`: here either
    /// must fit, in crontab(5) both.
    pub fn or_where_crontab_has_and(&self) -> Option<&str> {
        let mut fields = self.text.rsplit(' ');
        let weekday = fields.next()?;
        let date = fields.nth(1)?;
        let is_given = |field: &str| !matches!(field, "*" | "?");
        let differs = is_given(date)
            && is_given(weekday)
            && !weekday.starts_with('+')
            && (date.starts_with('*') || weekday.starts_with('*'));
        differs.then_some(weekday)
    }

    /// The time zone whose wall clock it looks at.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron={}", self.text)
    }
}

/// Whether any day fits. Days differ by the year's length and the weekday it begins with,
/// and 28 years without a break in the leap years have all 14 kinds.
fn is_ever_due(pattern: &croner::Cron) -> bool {
    let mut day = date(2000, 1, 1);
    while day.year() < 2028 {
        let month = u32::from(day.month().unsigned_abs());
        if pattern.pattern.month_match(month).unwrap_or(false) {
            let weekday = u32::from(day.weekday().to_sunday_zero_offset().unsigned_abs());
            let weekday = croner::Weekday::from_days_from_sunday(weekday);
            let number = u32::from(day.day().unsigned_abs());
            if pattern.pattern.day_match(day.year().into(), month, number, weekday).unwrap_or(false)
            {
                return true;
            }
        } else {
            day = day.last_of_month();
        }
        let Ok(tomorrow) = day.tomorrow() else { return false };
        day = tomorrow;
    }
    false
}

#[cfg(test)]
thread_local! {
    /// How often this thread has let croner search.
    pub(super) static SEARCHES: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// croner's search on the wall clock, with its last answer.
///
/// Rare schedules lie many stretches ahead, and each stretch asks again; but between the time
/// that was asked for and the one that was found there is nothing, whatever the zone does.
struct Search<'a> {
    pattern: &'a croner::Cron,
    direction: Direction,
    known: Option<(i64, i64)>,
}

impl<'a> Search<'a> {
    fn new(pattern: &'a croner::Cron, direction: Direction) -> Self {
        Self { pattern, direction, known: None }
    }

    /// The closest wall-clock time in this direction that fits, `from` itself included; `None`
    /// if there is none in the calendar.
    fn closest(&mut self, from: i64) -> Option<i64> {
        if let Some((asked, found)) = self.known {
            if (asked.min(found)..=asked.max(found)).contains(&from) {
                return Some(found);
            }
        }
        #[cfg(test)]
        SEARCHES.set(SEARCHES.get() + 1);
        let found = match self.direction {
            Forward => self.pattern.find_next_occurrence(&civil(from.max(FIRST))?, true),
            Backward => self.pattern.find_previous_occurrence(&civil(from.min(LAST))?, true),
        };
        let found = found.ok().and_then(seconds).filter(|found| (FIRST..=LAST).contains(found))?;
        self.known = Some((from, found));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(expression: &str) -> Result<Cron, CronError> {
        Cron::parse(expression, Zone::utc())
    }

    #[test]
    fn what_no_day_ever_fits_is_refused() {
        for expression in [
            "0 0 31 2 *",
            "0 0 30 feb *",
            "0 0 30-31 2 ?",
            "0 0 31 2,4,6,9,11 *",
            "0 0 31W 4 *",
            "0 0 30W 2 *",
            "0 0 1-7 * +MON#2",
            "0 0 1 * +SUN#L",
            "0 0 15 * +MON#1",
            "0 0 30 2 +*",
            "*/5 * * 1-21 * +FRI#4",
        ] {
            let error = parse(expression).expect_err(expression);
            assert!(error.is_never_due());
            assert_eq!(error.to_string(), "is never due", "{expression}");
        }
    }

    #[test]
    fn what_a_day_fits_now_and_then_is_not() {
        for expression in [
            "0 0 29 2 *",
            "0 0 29 2 MON",
            "0 0 29 2 +MON",
            "0 0 31 2 MON",
            "0 0 * 2 MON#5",
            "0 0 29W 2 +FRI",
            "0 0 LW 2 +FRI",
            "0 0 31 12 +SUN",
            "0 0 1 1 +0",
            "0 0 7 * +SUN#1",
            "0 0 22 2 +SUN#L",
            "59 59 23 29 2 +7",
        ] {
            let cron = parse(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
            let due = cron.next(UnixMs(0)).unwrap();
            assert!(cron.next(due).is_some(), "{expression}");
        }
    }

    #[test]
    fn a_step_beside_another_day_is_another_thing_in_crontab() {
        for (expression, weekday) in [
            ("0 3 */2 * MON", Some("MON")),
            ("0 3 1-7 * */7", Some("*/7")),
            ("0 0 3 */2 * */2", Some("*/2")),
            ("0 3 */2 * +MON", None),
            ("0 3 1-7 * +*/7", None),
            ("0 3 1-31/2 * MON", None),
            ("0 3 1-7 * 0-6/7", None),
            ("*/5 */2 * */2 MON", None),
            ("0 3 */2 * *", None),
            ("0 3 */2 * ?", None),
            ("0 3 ? * */2", None),
            ("@daily", None),
        ] {
            let cron = parse(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
            assert_eq!(cron.or_where_crontab_has_and(), weekday, "{expression}");
        }
    }

    #[test]
    fn is_shown_as_it_was_written() {
        let cron = parse(" */5  *\t* * mon ").unwrap();
        assert_eq!(cron.to_string(), "cron=*/5 * * * mon");
        assert_eq!(cron.zone().name(), "UTC");
        assert_eq!(parse("@daily").unwrap().to_string(), "cron=@daily");
    }

    #[test]
    fn the_period_is_the_distance_of_the_next_two() {
        const DAY: i64 = 86_400_000;
        // 2026-01-01.
        let at = UnixMs(1_767_225_600_000);
        for (expression, period_ms) in [
            ("*/10 * * * * *", 10_000),
            ("@hourly", 3_600_000),
            ("0 9 * * MON-FRI", DAY),
            ("@yearly", 365 * DAY),
            ("0 0 29 2 *", 1461 * DAY),
        ] {
            assert_eq!(parse(expression).unwrap().period_ms(at), period_ms, "{expression}");
        }
    }

    #[test]
    fn the_calendar_ends_with_the_year_4999() {
        let cron = parse("* * * * * *").unwrap();
        let last = UnixMs(LAST * 1000);
        assert_eq!(cron.next(UnixMs(last.0 - 1)), Some(last));
        assert_eq!(cron.next(last), None);
        assert_eq!(cron.newest(UnixMs(i64::MAX)), Some(last));
        assert_eq!(cron.period_ms(last), i64::MAX);

        let first = UnixMs(FIRST * 1000);
        assert_eq!(cron.newest(first), Some(first));
        assert_eq!(cron.newest(UnixMs(first.0 - 1)), None);
        assert_eq!(cron.next(UnixMs(i64::MIN)), Some(first));
        assert_eq!(civil(FIRST).unwrap().to_string(), "1900-01-01T00:00:00");
        assert_eq!(civil(LAST).unwrap().to_string(), "4999-12-31T23:59:59");
    }
}
