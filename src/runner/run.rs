//! A run, as its request's variables and log lines tell of it.

use std::fmt;
use std::time::Duration;

use crate::nginx::request::Origin;
use crate::os::{random_bytes, wall_clock};
use crate::schedule::{UnixMs, stable_hash};

/// One attempt of a run.
#[derive(Clone, Debug)]
pub struct Run {
    timer: String,
    id: RunId,
    due: UnixMs,
    attempt: u32,
    trigger: Trigger,
    start: UnixMs,
    last_success: Option<UnixMs>,
}

/// The unique id of a run: 128 random bits, shown as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunId([u8; 16]);

/// Why a timer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It was due.
    Schedule,
    /// `first=now`.
    First,
}

impl Run {
    /// The first attempt of a new run of `timer` for `due`, started now.
    pub fn new(timer: &str, due: UnixMs, trigger: Trigger) -> Self {
        Self {
            timer: timer.to_owned(),
            id: RunId::new(timer, due),
            due,
            attempt: 1,
            trigger,
            start: wall_clock(),
            last_success: None,
        }
    }

    /// The timer's name.
    pub fn timer(&self) -> &str {
        &self.timer
    }

    /// The run's id, the same for all its attempts.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The due time that it deals with.
    pub fn due(&self) -> UnixMs {
        self.due
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Why it runs.
    pub fn trigger(&self) -> Trigger {
        self.trigger
    }

    /// From the due time to the start of this attempt; zero if the clock was set back between.
    pub fn lateness(&self) -> Duration {
        self.start.since(self.due)
    }

    /// The start of the last success before this run.
    pub fn last_success(&self) -> Option<UnixMs> {
        self.last_success
    }
}

impl Origin for Run {
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "timer: \"{}\", run: {}", self.timer, self.id)
    }
}

impl RunId {
    fn new(timer: &str, due: UnixMs) -> Self {
        // Early after boot the kernel may have no random bytes yet; what sets this run apart on
        // this host will do then.
        Self(random_bytes().unwrap_or_else(|_| {
            let pid = std::process::id().to_le_bytes();
            let now = wall_clock().0.to_le_bytes();
            let parts = [timer.as_bytes(), &due.0.to_le_bytes(), &pid, &now];
            let high = stable_hash(&parts);
            let low = stable_hash(&[&high.to_le_bytes(), timer.as_bytes(), &now]);
            (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
        }))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schedule => "schedule",
            Self::First => "first",
        })
    }
}
