//! The engine's time, against which a host's own clock is held.
//!
//! Each answer has its sender's time, in whole seconds, in the header `Date`. It was written between the
//! sending of the request and the arrival of the answer: so the sender's clock was ahead of this host's
//! monotonic one by so much at least, and by so much at most.

use jiff::fmt::rfc2822::DateTimeParser;

use super::instant::BootMs;
use crate::schedule::UnixMs;

/// The clocks of the engine's members.
#[derive(Clone, Debug, Default)]
pub struct EngineClock {
    /// The newest answer of each.
    members: Vec<MemberClock>,
}

/// By how much the clock of a member is ahead of the monotonic one, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MemberClock {
    member: u64,
    least: i64,
    most: i64,
    arrived: BootMs,
}

/// The most members that are known at once.
const MOST: usize = 16;
/// One that has not answered for so long counts no more if others have.
const LASTS_MS: u64 = 10 * 60 * 1000;
/// The instants that a `Date` may stand for.
const DATE_MS: i64 = 1000;
/// So far ahead of the engine's time may a due time lie that is claimed.
pub const AHEAD_MS: i64 = 5000;

impl EngineClock {
    /// A member has answered, with this `Date`, to a request that was sent then; `false` if that is no date.
    pub fn note(&mut self, member: u64, date: &[u8], sent: BootMs, arrived: BootMs) -> bool {
        let Some(date) = unix_ms(date) else { return false };
        let clock = MemberClock {
            member,
            least: date.saturating_sub(ms(arrived)),
            most: date.saturating_add(DATE_MS - 1).saturating_sub(ms(sent)),
            arrived,
        };
        self.members.retain(|other| {
            other.member != member && arrived.0.saturating_sub(other.arrived.0) <= LASTS_MS
        });
        if self.members.len() >= MOST {
            self.members.remove(0);
        }
        self.members.push(clock);
        true
    }

    /// The engine's time now; `None` if nothing is known of it.
    pub fn time(&self, now: BootMs) -> Option<UnixMs> {
        let (least, most) = self.bounds(now)?;
        Some(UnixMs(middle(least, most)))
    }

    /// By how many milliseconds `due` lies ahead of the engine's time, if it is too far ahead to be claimed.
    pub fn ahead(&self, due: UnixMs, now: BootMs) -> Option<i64> {
        let (_, most) = self.bounds(now)?;
        Some(due.0.saturating_sub(most)).filter(|ahead| *ahead > AHEAD_MS)
    }

    /// By how many milliseconds at least a wall clock that shows `wall` is ahead of the engine's time, negative
    /// if it is behind it.
    pub fn skew_ms(&self, wall: UnixMs, now: BootMs) -> Option<i64> {
        let (least, most) = self.bounds(now)?;
        Some(wall.0.saturating_sub(wall.0.clamp(least, most)))
    }

    /// Between which instants the engine's time lies: the median of its members. Where they are even in
    /// number, it is the later one of both: a single clock that is slow must not keep due times from being
    /// claimed.
    fn bounds(&self, now: BootMs) -> Option<(i64, i64)> {
        let mut members = self.members.clone();
        members.sort_unstable_by_key(|clock| middle(clock.least, clock.most));
        let clock = members.get(members.len() / 2)?;
        Some((clock.least.saturating_add(ms(now)), clock.most.saturating_add(ms(now))))
    }
}

fn middle(least: i64, most: i64) -> i64 {
    least.saturating_add(most.saturating_sub(least) / 2)
}

fn ms(instant: BootMs) -> i64 {
    i64::try_from(instant.0).unwrap_or(i64::MAX)
}

/// What an HTTP date stands for, in milliseconds.
fn unix_ms(date: &[u8]) -> Option<i64> {
    static DATES: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

    let timestamp = DATES.parse_timestamp(date).ok()?;
    Some(timestamp.as_millisecond()).filter(|ms| *ms > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 27 November 2026, 03:00:00 UTC.
    const DATE: &[u8] = b"Fri, 27 Nov 2026 03:00:00 GMT";
    const UNIX: i64 = 1_795_748_400_000;

    /// A clock of members whose dates are so many seconds off, all of which have answered at 1,000 s of the
    /// monotonic clock.
    fn clock(off_s: &[i64]) -> EngineClock {
        let mut clock = EngineClock::default();
        for (member, off) in (1..).zip(off_s) {
            let date = format_date(UNIX + off * 1000);
            assert!(clock.note(member, date.as_bytes(), BootMs(1_000_000), BootMs(1_000_010)));
        }
        clock
    }

    fn format_date(ms: i64) -> String {
        let date = jiff::Timestamp::from_millisecond(ms).unwrap();
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap()
    }

    #[test]
    fn a_date_is_read_as_etcd_writes_it() {
        assert_eq!(unix_ms(DATE), Some(UNIX));
        assert_eq!(format_date(UNIX).as_bytes(), DATE);
        for none in [
            &b""[..],
            b"x",
            b"27 Nov",
            b"Fri, 32 Nov 2026 03:00:00 GMT",
            b"\xff",
            b"Thu, 01 Jan 1970 00:00:00 GMT",
        ] {
            assert_eq!(unix_ms(none), None);
            assert!(!EngineClock::default().note(1, none, BootMs(0), BootMs(0)));
        }
        // Longest and earliest that the crate knows: nothing overflows.
        assert!(unix_ms(b"Fri, 31 Dec 9990 23:59:59 GMT").is_some());
        let mut clock = EngineClock::default();
        clock.note(1, b"Fri, 31 Dec 9990 23:59:59 GMT", BootMs(u64::MAX), BootMs(u64::MAX));
        assert!(clock.time(BootMs(0)).is_some() && clock.time(BootMs(u64::MAX)).is_some());
    }

    #[test]
    fn nothing_is_known_without_a_date() {
        let clock = EngineClock::default();
        assert_eq!(clock.time(BootMs(5)), None);
        assert_eq!(clock.ahead(UnixMs(i64::MAX), BootMs(5)), None);
        assert_eq!(clock.skew_ms(UnixMs(0), BootMs(5)), None);
    }

    #[test]
    fn the_true_time_lies_between_the_bounds() {
        // The member's clock is right; the date is cut to seconds, and written anywhere between.
        for (true_at_sending, way, back) in [(0, 5, 5), (999, 0, 0), (500, 1900, 3), (1, 3, 1900)] {
            let written = (UNIX + true_at_sending + way) / 1000 * 1000;
            let (sent, arrived) = (5_000_000, 5_000_000 + u64::try_from(way + back).unwrap());
            let mut clock = EngineClock::default();
            clock.note(1, format_date(written).as_bytes(), BootMs(sent), BootMs(arrived));
            let now = BootMs(arrived + 60_000);
            let truth = UnixMs(UNIX + true_at_sending + way + back + 60_000);
            assert_eq!(clock.skew_ms(truth, now), Some(0));
            assert_eq!(clock.ahead(truth, now), None);
            assert_eq!(
                clock.ahead(UnixMs(truth.0 + AHEAD_MS), now),
                None,
                "the bound is not undercut"
            );
            assert!(clock.ahead(UnixMs(truth.0 + AHEAD_MS + 4000), now).is_some());
            let off = clock.time(now).unwrap().0 - truth.0;
            assert!(off.abs() <= 500 + (way + back), "{off}");
        }
    }

    #[test]
    fn a_clock_that_is_an_hour_fast_or_slow_is_told() {
        let (clock, now) = (clock(&[0, 0, 0]), BootMs(1_000_010));
        let skew = clock.skew_ms(UnixMs(UNIX + 3_600_000), now).unwrap();
        assert!((3_598_000..=3_600_000).contains(&skew), "{skew}");
        let skew = clock.skew_ms(UnixMs(UNIX - 3_600_000), now).unwrap();
        assert!((-3_600_000..=-3_598_000).contains(&skew), "{skew}");
        assert!(clock.ahead(UnixMs(UNIX + 3_600_000), now).is_some());
        assert_eq!(clock.ahead(UnixMs(UNIX - 3_600_000), now), None, "a slow clock is safe");
    }

    #[test]
    fn one_wrong_member_of_three_or_two_does_not_count() {
        let now = BootMs(1_000_010);
        for members in [[0, 0, 3600], [0, 0, -3600], [3600, 0, 0], [-3600, 0, 0]] {
            assert_eq!(clock(&members).skew_ms(UnixMs(UNIX + 500), now), Some(0), "{members:?}");
        }
        // Of two, the slow one does not silence the fleet.
        assert_eq!(clock(&[0, -3600]).ahead(UnixMs(UNIX), now), None);
    }

    #[test]
    fn the_newest_answer_of_a_member_counts_and_those_that_are_gone_do_not() {
        let mut clock = clock(&[3600, 3600, 3600]);
        let (sent, arrived) = (BootMs(1_100_000), BootMs(1_100_001));
        let date = format_date(UNIX + 100_000);
        for member in [1, 2] {
            clock.note(member, date.as_bytes(), sent, arrived);
        }
        assert_eq!(clock.members.len(), 3);
        assert_eq!(clock.skew_ms(UnixMs(UNIX + 100_001), arrived), Some(0));
        let later = BootMs(1_100_001 + LASTS_MS);
        clock.note(1, date.as_bytes(), later, later);
        assert_eq!(clock.members.len(), 2, "the third has not answered for long");
        for member in 10..100 {
            clock.note(member, date.as_bytes(), later, later);
        }
        assert_eq!(clock.members.len(), MOST);
    }
}
