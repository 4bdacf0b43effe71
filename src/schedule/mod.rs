//! Schedules: pure functions from one instant to the next due time.
//!
//! A schedule needs no memory: `next(after)` gives the first due time that is strictly later, so
//! it is the same after a crash or a reload, in another worker and on another host. Nothing here
//! reads a clock; the time is always an argument.
#![forbid(unsafe_code)]

mod every;
mod hash;
mod instant;
mod jitter;
mod plan;
mod zone;

pub use every::{Every, EveryError};
pub use hash::stable_hash;
pub use instant::UnixMs;
pub use jitter::Jitter;
pub use plan::{Appointment, Look, Plan};
pub use zone::{Zone, ZoneError, Zones};

/// When a timer is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// A fixed rate on the grid of Unix time.
    Every(Every),
}

impl Schedule {
    /// The first due time strictly later than `after`; `None` past the end of the calendar.
    pub fn next(&self, after: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Every(every) => every.next(after),
        }
    }

    /// The newest due time that is not later than `at`; `None` before the calendar's beginning.
    pub fn newest(&self, at: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Every(every) => every.newest(at),
        }
    }

    /// The distance in milliseconds of the next two due times after `at`.
    pub fn period_ms(&self, at: UnixMs) -> i64 {
        match self {
            Self::Every(every) => {
                let _ = at;
                every.period_ms()
            }
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Every(every) => every.fmt(f),
        }
    }
}
