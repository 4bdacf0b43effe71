//! Schedules: pure functions from one instant to the next due time.
//!
//! A schedule needs no memory: `next(after)` gives the first due time that is strictly later, so
//! it is the same after a crash or a reload, in another worker and on another host. Nothing here
//! reads a clock; the time is always an argument.
#![forbid(unsafe_code)]

mod cron;
mod cron_error;
mod every;
mod expression;
mod hash;
mod instant;
mod jitter;
#[cfg(test)]
mod tests;
mod wall;
mod zone;

pub use cron::Cron;
pub use every::{Every, EveryError};
pub use hash::stable_hash;
pub use instant::UnixMs;
pub use jitter::Jitter;
pub use zone::{Zone, Zones};

/// Counts the due times in (`after`, `up_to`], at most `most`; answers how many they are and the instant
/// up to which they were counted.
pub(crate) fn count_one_by_one(
    next: impl Fn(UnixMs) -> Option<UnixMs>,
    after: UnixMs,
    up_to: UnixMs,
    most: u32,
) -> (u64, UnixMs) {
    let (mut found, mut reached) = (0, after);
    while let Some(due) = next(reached).filter(|due| *due <= up_to) {
        if found >= u64::from(most) {
            return (found, reached);
        }
        found += 1;
        reached = due;
    }
    (found, up_to)
}

/// When a timer is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// A fixed rate on the grid of Unix time.
    Every(Every),
    /// A cron expression on the wall clock of a time zone.
    Cron(Cron),
}

impl Schedule {
    /// The first due time strictly later than `after`; `None` past the end of the calendar.
    pub fn next(&self, after: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Every(every) => every.next(after),
            Self::Cron(cron) => cron.next(after),
        }
    }

    /// The newest due time that is not later than `at`; `None` before the calendar's beginning.
    pub fn newest(&self, at: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Every(every) => every.newest(at),
            Self::Cron(cron) => cron.newest(at),
        }
    }

    /// How many due times lie in (`after`, `up_to`], and the instant up to which they were counted. Those
    /// of a cron expression are found one by one, and `most` of them are counted at most.
    pub fn count(&self, after: UnixMs, up_to: UnixMs, most: u32) -> (u64, UnixMs) {
        match self {
            Self::Every(every) => (every.count(after, up_to), up_to),
            Self::Cron(cron) => count_one_by_one(|after| cron.next(after), after, up_to, most),
        }
    }

    /// A number that is the same for the same schedule, and never 0.
    pub fn stable_hash(&self) -> u64 {
        match self {
            Self::Every(every) => every.stable_hash().max(1),
            Self::Cron(cron) => cron.stable_hash().max(1),
        }
    }

    /// The distance in milliseconds of the next two due times after `at`.
    pub fn period_ms(&self, at: UnixMs) -> i64 {
        match self {
            Self::Every(every) => every.period_ms(),
            Self::Cron(cron) => cron.period_ms(at),
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Every(every) => every.fmt(f),
            Self::Cron(cron) => cron.fmt(f),
        }
    }
}
