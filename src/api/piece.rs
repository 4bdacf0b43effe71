//! Answers that are written in pieces.

use std::time::Duration;

use super::fleet::{FleetSample, Whereabouts};
use super::metrics::Info;
use super::samples::Sample;
use crate::schedule::UnixMs;

/// What comes after what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// More.
    More,
    /// More, after this time.
    MoreAfter(Duration),
    /// Nothing.
    End,
    /// What cannot be had any more: the answer is cut off.
    Broken,
}

/// What lists are written from: the timers, by number, with what can be seen of them now.
pub(super) trait Timers {
    /// How many there are.
    fn count(&self) -> usize;

    /// The name of one.
    fn name(&self, number: usize) -> &str;

    /// What is shown of it; `None` if its record cannot be read.
    ///
    /// # Errors
    ///
    /// Somebody is writing it: to be asked again after this time.
    fn sample(&mut self, number: usize) -> Result<Option<Sample>, Duration>;

    /// What the configuration says of it.
    fn info(&self, number: usize) -> Info;

    /// Where it runs, if it is in a fleet.
    fn whereabouts(&self, number: usize) -> Whereabouts;

    /// The fleets of the timers.
    fn fleets(&self) -> Vec<FleetSample>;

    /// The instant at which that is.
    fn now(&self) -> UnixMs;

    /// Whether the state can be relied on.
    fn state_ok(&self) -> bool;

    /// What is to be said of all timers.
    fn remarks(&self) -> Vec<String>;
}
