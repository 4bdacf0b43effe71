//! A run, as its request's variables and log lines show it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::time::Duration;

use super::fleet::OfFleet;
use crate::conf::{FleetConf, Timer};
use crate::nginx::run::Origin;
use crate::os::{random_bytes, wall_clock};
use crate::schedule::{UnixMs, stable_hash};
use crate::state::{Attempt, RunId, Trigger};
use crate::sync;

/// One attempt of a run.
#[derive(Clone)]
pub struct Run {
    timer: Timer,
    attempt: Attempt,
    last_success: Option<UnixMs>,
    fleet: Option<OfFleet>,
}

impl Run {
    /// An attempt of a run of `timer`, whose last success started at `last_success`.
    pub(super) fn new(
        timer: &Timer,
        attempt: &Attempt,
        last_success: Option<UnixMs>,
        fleet: Option<OfFleet>,
    ) -> Self {
        Self { timer: timer.clone(), attempt: *attempt, last_success, fleet }
    }

    /// The timer's name.
    pub fn timer(&self) -> &str {
        self.timer.name.as_str()
    }

    /// The run's id, the same for all its attempts.
    pub fn id(&self) -> RunId {
        self.attempt.run
    }

    /// The due time that it is for.
    pub fn due(&self) -> UnixMs {
        self.attempt.due
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// Why it runs.
    pub fn trigger(&self) -> Trigger {
        self.attempt.trigger
    }

    /// From the due time to the start of this attempt; zero if the clock was set back between.
    pub fn lateness(&self) -> Duration {
        self.attempt.started_at.since(self.attempt.due)
    }

    /// What the sender of the content that this timer fills calls it; empty for none.
    pub fn etag(&self) -> Vec<u8> {
        self.timer.fill.as_ref().map(|fill| sync::etag(&fill.zone)).unwrap_or_default()
    }

    /// The start of the last success before this run: on any host, if the timer is in a fleet.
    pub fn last_success(&self) -> Option<UnixMs> {
        self.fleet.as_ref().map_or(self.last_success, |fleet| fleet.last_success)
    }

    /// The fleet of the timer, as configured.
    pub fn fleet(&self) -> Option<&FleetConf> {
        self.timer.fleet.as_deref()
    }

    /// A number that grows with each attempt, and the cluster that it is of.
    pub fn fence(&self) -> Option<(u64, u64)> {
        self.fleet.as_ref().map(|fleet| (fleet.fence, fleet.cluster))
    }
}

impl Origin for Run {
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "timer: \"{}\", run: {}", self.timer(), self.attempt.run)
    }
}

thread_local! {
    /// Random bytes for the next ids: one system call for many.
    static RANDOM: RefCell<RandomBytes> = const { RefCell::new(RandomBytes { bytes: [0; 256], used: 256 }) };
}

/// Random bytes, of which the first `used` are.
struct RandomBytes {
    bytes: [u8; 256],
    used: usize,
}

impl RandomBytes {
    fn take(&mut self) -> io::Result<[u8; 16]> {
        if self.used >= self.bytes.len() {
            self.bytes = random_bytes()?;
            self.used = 0;
        }
        let id = self.bytes.get(self.used..).and_then(<[u8]>::first_chunk).copied();
        self.used += 16;
        Ok(id.unwrap_or_default())
    }
}

/// Random bytes that were had before the process was forked are not used by both.
pub(super) fn forget_random() {
    RANDOM.with_borrow_mut(|random| random.used = random.bytes.len());
}

/// An id that no other run has: 128 random bits.
pub fn new_run_id(timer: &str) -> RunId {
    // Early after boot the kernel may have no random bytes yet; what sets this run apart on this
    // host will do then.
    RunId(RANDOM.with_borrow_mut(RandomBytes::take).unwrap_or_else(|_| {
        let pid = std::process::id().to_le_bytes();
        let now = wall_clock().0.to_le_bytes();
        let high = stable_hash(&[timer.as_bytes(), &pid, &now]);
        let low = stable_hash(&[&high.to_le_bytes(), timer.as_bytes(), &now]);
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_also_where_the_buffer_is_filled_again() {
        let ids: HashSet<RunId> = (0..1000).map(|_| new_run_id("a")).collect();
        assert_eq!(ids.len(), 1000);
        forget_random();
        assert!(!ids.contains(&new_run_id("a")));
    }
}
