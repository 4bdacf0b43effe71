//! `every=`: a fixed rate on the grid of Unix time.

use std::fmt;
use std::time::Duration;

use super::{UnixMs, stable_hash};

/// Due times are the instants `t` with `t mod every == offset`, in Unix milliseconds.
///
/// # Invariants
///
/// `every_ms` lies between 10 ms and 366 days, `0 <= offset_ms < every_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every {
    every_ms: i64,
    offset_ms: i64,
}

/// Why an [`Every`] cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EveryError {
    /// The period is shorter than 10 ms or longer than 366 days.
    Period,
    /// The offset is not below the period.
    Offset,
}

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Derived offsets stay below this: `every=1h` falls within the first minute of the hour.
const LONGEST_DERIVED_OFFSET_MS: i64 = 60_000;

impl Every {
    /// A rate of one due time per `every`, `offset` after the multiples of it.
    ///
    /// # Errors
    ///
    /// The period is out of range, or the offset is not below it.
    pub fn new(every: Duration, offset: Duration) -> Result<Self, EveryError> {
        let every_ms = period_ms(every)?;
        match i64::try_from(offset.as_millis()) {
            // INVARIANT: both bounds of the type are checked here.
            Ok(offset_ms) if offset_ms < every_ms => Ok(Self { every_ms, offset_ms }),
            _ => Err(EveryError::Offset),
        }
    }

    /// The same with an offset that is a stable hash of `name`, so that many timers of one period
    /// do not fire together.
    ///
    /// # Errors
    ///
    /// The period is out of range.
    pub fn spread(every: Duration, name: &str) -> Result<Self, EveryError> {
        let every_ms = period_ms(every)?;
        let bound = every_ms.min(LONGEST_DERIVED_OFFSET_MS).unsigned_abs();
        let offset = Duration::from_millis(stable_hash(&[b"offset", name.as_bytes()]) % bound);
        Self::new(every, offset)
    }

    /// The first due time strictly later than `after`.
    pub fn next(&self, after: UnixMs) -> Option<UnixMs> {
        self.newest(after)?.0.checked_add(self.every_ms).map(UnixMs)
    }

    /// The newest due time that is not later than `at`.
    pub fn newest(&self, at: UnixMs) -> Option<UnixMs> {
        let into_period = at.0.checked_sub(self.offset_ms)?.rem_euclid(self.every_ms);
        at.0.checked_sub(into_period).map(UnixMs)
    }

    /// How many due times lie in (`after`, `up_to`].
    pub fn count(&self, after: UnixMs, up_to: UnixMs) -> u64 {
        let number = |at: UnixMs| {
            let at = i128::from(at.0) - i128::from(self.offset_ms);
            at.div_euclid(i128::from(self.every_ms))
        };
        u64::try_from(number(up_to) - number(after)).unwrap_or(0)
    }

    /// A number that is the same for the same period and offset.
    pub(super) fn stable_hash(&self) -> u64 {
        let (every, offset) = (self.every_ms.to_le_bytes(), self.offset_ms.to_le_bytes());
        stable_hash(&[b"every", &every, &offset])
    }

    /// The period in milliseconds.
    pub fn period_ms(&self) -> i64 {
        self.every_ms
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every=")?;
        let mut rest = self.every_ms;
        for (unit, ms) in
            [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]
        {
            if rest >= ms {
                write!(f, "{}{unit}", rest / ms)?;
                rest %= ms;
            }
        }
        Ok(())
    }
}

fn period_ms(every: Duration) -> Result<i64, EveryError> {
    if !(SHORTEST..=LONGEST).contains(&every) {
        return Err(EveryError::Period);
    }
    i64::try_from(every.as_millis()).map_err(|_| EveryError::Period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_next_finds() {
        let every = Every::new(Duration::from_millis(70), Duration::from_millis(30)).unwrap();
        for after in -200..200 {
            for up_to in after - 10..after + 300 {
                let next = |after| every.next(after);
                let (found, _) =
                    super::super::count_one_by_one(next, UnixMs(after), UnixMs(up_to), u32::MAX);
                assert_eq!(every.count(UnixMs(after), UnixMs(up_to)), found, "{after} {up_to}");
            }
        }
        assert!(every.count(UnixMs(i64::MIN), UnixMs(i64::MAX)) > 1 << 57);
    }

    fn every(every_ms: u64, offset_ms: u64) -> Every {
        Every::new(Duration::from_millis(every_ms), Duration::from_millis(offset_ms)).unwrap()
    }

    #[test]
    fn next_is_strictly_later_and_on_the_grid() {
        for (every_ms, offset_ms, after, next) in [
            (30_000, 0, 0, 30_000),
            (30_000, 0, 29_999, 30_000),
            (30_000, 12_400, 0, 12_400),
            (30_000, 12_400, 12_399, 12_400),
            (30_000, 12_400, 12_400, 42_400),
            (10, 9, 1_764_000_000_000, 1_764_000_000_009),
            (1000, 0, -1, 0),
            (1000, 250, -1000, -750),
        ] {
            let every = every(every_ms, offset_ms);
            assert_eq!(every.next(UnixMs(after)), Some(UnixMs(next)), "{every} {after}");
        }
    }

    #[test]
    fn newest_and_next_enclose_each_instant() {
        let every = every(777, 123);
        for at in -5_000..5_000 {
            let newest = every.newest(UnixMs(at)).unwrap();
            let next = every.next(UnixMs(at)).unwrap();
            assert!(newest.0 <= at && at < next.0);
            assert_eq!(next.0 - newest.0, 777);
            assert_eq!(newest.0.rem_euclid(777), 123);
        }
    }

    #[test]
    fn the_ends_of_the_calendar_are_no_panic() {
        let every = every(1000, 999);
        assert_eq!(every.next(UnixMs(i64::MAX)), None);
        assert_eq!(every.newest(UnixMs(i64::MIN)), None);
    }

    #[test]
    fn wrong_values_are_refused() {
        let ms = Duration::from_millis;
        assert_eq!(Every::new(ms(9), ms(0)), Err(EveryError::Period));
        assert_eq!(Every::new(LONGEST + ms(1), ms(0)), Err(EveryError::Period));
        assert_eq!(Every::new(ms(10), ms(10)), Err(EveryError::Offset));
        assert!(Every::new(LONGEST, LONGEST.checked_sub(ms(1)).unwrap()).is_ok());
    }

    #[test]
    fn a_derived_offset_stays_below_period_and_minute() {
        for n in 0..1000 {
            let name = format!("t{n}");
            let short = Every::spread(Duration::from_millis(50), &name).unwrap();
            assert!(short.offset_ms < 50);
            let long = Every::spread(Duration::from_secs(3600), &name).unwrap();
            assert!(long.offset_ms < 60_000);
        }
        let spread = |name| Every::spread(Duration::from_secs(60), name).unwrap();
        assert_eq!(spread("reindex"), spread("reindex"));
        assert_ne!(spread("reindex"), spread("wp-cron"));
    }

    #[test]
    fn is_shown_as_nginx_writes_times() {
        for (ms, shown) in
            [(10, "every=10ms"), (30_000, "every=30s"), (90_061_001, "every=1d1h1m1s1ms")]
        {
            assert_eq!(every(ms, 0).to_string(), shown);
        }
    }
}
