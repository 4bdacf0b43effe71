//! The clock of the machines, and what a machine wants next.

use std::time::Duration;

use super::engine::Ask;
use crate::schedule::stable_hash;

/// An instant of `CLOCK_BOOTTIME`, in milliseconds: it goes on while the machine is suspended, and nobody
/// sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootMs(pub u64);

impl BootMs {
    /// What waits for it waits for something else.
    pub const NEVER: Self = Self(u64::MAX);

    /// This instant and `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What a machine wants next. At most one exchange of a machine is under way: while there is one, it
/// waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do<Verdict> {
    /// Ask the engine this, and hand the answer to `answered`.
    Send(Ask),
    /// Ask the machine again at this instant, or after anything was told to it.
    Wait(BootMs),
    /// What it has come to.
    Say(Verdict),
}

/// Random spans from a seed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spread {
    seed: u64,
    drawn: u64,
}

impl Spread {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A span from `least` to `most`.
    pub(super) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        self.drawn += 1;
        let hash = stable_hash(&[&self.seed.to_le_bytes(), &self.drawn.to_le_bytes()]);
        let (least, most) = (ms(least), ms(most));
        Duration::from_millis(least + hash % (most.saturating_sub(least) + 1))
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}
