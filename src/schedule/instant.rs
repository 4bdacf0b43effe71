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
    fn stays_within_the_calendar() {
        assert_eq!(UnixMs(i64::MAX).plus(Duration::from_secs(1)), UnixMs(i64::MAX));
        assert_eq!(UnixMs(0).plus(Duration::MAX), UnixMs(i64::MAX));
        assert_eq!(UnixMs(5).since(UnixMs(7)), Duration::ZERO);
    }
}
