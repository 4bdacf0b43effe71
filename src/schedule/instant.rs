//! Instants on the wall clock.

use std::fmt;
use std::time::Duration;

/// A wall-clock instant: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// This instant and `duration`; stays at the calendar's end rather than to overflow.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant, negative if it is the later one.
    pub fn ms_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `earlier` to this instant, zero if it is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.ms_since(earlier)).unwrap_or(0))
    }

    /// The bits of the number, for a word that has no sign.
    pub fn to_bits(self) -> u64 {
        u64::from_ne_bytes(self.0.to_ne_bytes())
    }

    /// The instant of such bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(i64::from_ne_bytes(bits.to_ne_bytes()))
    }

    /// Reads an instant as RFC 3339 writes it, to the millisecond; `None` if it is none.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|at| Self(at.as_millisecond()))
    }

    /// Whether RFC 3339 can write it: the calendar ends with the year 9999.
    pub fn is_in_calendar(self) -> bool {
        jiff::Timestamp::from_millisecond(self.0).is_ok()
    }

    /// The instant as RFC 3339 writes it, in UTC with milliseconds: `2026-11-23T12:00:00.123Z`.
    pub fn rfc3339(self) -> Rfc3339 {
        Rfc3339(self)
    }
}

/// An instant that is shown as RFC 3339 writes it.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(UnixMs);

/// Unix seconds where the calendar has no such instant: it ends with the year 9999.
impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0.0) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => self.0.fmt(f),
        }
    }
}

/// Unix seconds with milliseconds, as `1764000000.000`.
impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let ms = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:03}", ms / 1000, ms % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_seconds_with_milliseconds() {
        for (ms, shown) in [
            (1_764_000_000_000, "1764000000.000"),
            (1_764_000_000_007, "1764000000.007"),
            (0, "0.000"),
            (-1_500, "-1.500"),
        ] {
            assert_eq!(UnixMs(ms).to_string(), shown);
        }
    }

    #[test]
    fn shows_rfc3339() {
        assert_eq!(UnixMs(1_795_435_200_123).rfc3339().to_string(), "2026-11-23T12:00:00.123Z");
        assert_eq!(UnixMs(0).rfc3339().to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(UnixMs(i64::MAX).rfc3339().to_string(), UnixMs(i64::MAX).to_string());
    }

    #[test]
    fn stays_within_the_calendar() {
        assert_eq!(UnixMs(i64::MAX).plus(Duration::from_secs(1)), UnixMs(i64::MAX));
        assert_eq!(UnixMs(0).plus(Duration::MAX), UnixMs(i64::MAX));
        assert_eq!(UnixMs(5).since(UnixMs(7)), Duration::ZERO);
    }
}
