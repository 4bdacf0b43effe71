//! How many runs of a timer have ended, and how.

use super::run::Outcome;

/// Counters of outcomes; each run counts once, when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Runs by outcome, in the order of [`Outcome`].
    pub(in crate::state) ended: [u64; 7],
    /// Attempts after the first of their run.
    pub retries: u64,
    /// Manual and first runs, counted when they start.
    pub unscheduled: u64,
}

impl Counters {
    /// How many runs ended with `outcome`.
    pub fn ended_with(&self, outcome: Outcome) -> u64 {
        self.ended.get(usize::from(outcome.code())).copied().unwrap_or(0)
    }

    /// As they stand in the file.
    pub(super) fn all(&self) -> [u64; 8] {
        let [ended @ .., _] = self.ended;
        let [success, failure, timeout, cancelled, interrupted, error] = ended;
        let Self { retries, unscheduled, .. } = *self;
        [success, failure, timeout, cancelled, interrupted, error, retries, unscheduled]
    }

    /// Those that stand in one row, and that of the lost runs.
    pub(in crate::state) fn of(all: [u64; 8], lost: u64) -> Self {
        let [success, failure, timeout, cancelled, interrupted, error, retries, unscheduled] = all;
        let ended = [success, failure, timeout, cancelled, interrupted, error, lost];
        Self { ended, retries, unscheduled }
    }

    /// Adds those of another time.
    pub(in crate::state) fn add(&mut self, others: &Self) {
        for (sum, other) in self.ended.iter_mut().zip(others.ended) {
            *sum = sum.saturating_add(other);
        }
        self.retries = self.retries.saturating_add(others.retries);
        self.unscheduled = self.unscheduled.saturating_add(others.unscheduled);
    }

    /// How many runs have ended.
    pub fn ended(&self) -> u64 {
        self.ended.iter().fold(0, |sum, ended| sum.saturating_add(*ended))
    }
}
