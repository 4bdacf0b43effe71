//! Whether the worker itself was late: what timed out meanwhile proves nothing of the server.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How often the pulse is felt while checks are in progress.
pub const EVERY: Duration = Duration::from_millis(100);

/// So long a worker may stand still.
const LONG: Duration = Duration::from_secs(1);
/// What the system's own clock and scheduler take is not looked at.
const SHORT: Duration = Duration::from_millis(20);

/// When the event loop was last seen to run.
#[derive(Debug)]
pub struct Pulse {
    last: Cell<Instant>,
}

/// For how long the worker has stood still in the course of a check.
#[derive(Debug, Default)]
pub struct StoodStill(Cell<Duration>);

impl Pulse {
    /// The first beat is now.
    pub fn new(now: Instant) -> Self {
        Self { last: Cell::new(now) }
    }

    /// A beat; answers by how much it is late.
    pub fn beat(&self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.last.replace(now));
        since.saturating_sub(EVERY)
    }
}

impl StoodStill {
    /// The worker was late by this much; the check was started so long ago.
    pub fn note(&self, late: Duration, since: Duration) {
        self.0.set(self.0.get().max(late.min(since)));
    }

    /// Whether a timeout proves nothing.
    pub fn excuses(&self, timeout: Duration) -> bool {
        self.0.get() > LONG.min(timeout / 2).max(SHORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stood_still_excuses_a_timeout() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let pulse = Pulse::new(start);
        let check = StoodStill::default();
        for beat in 1..=10 {
            check.note(pulse.beat(start + ms(beat * 110)), ms(beat * 110));
        }
        assert!(!check.excuses(ms(5000)) && !check.excuses(ms(30)), "a beat that is a little late");
        check.note(pulse.beat(start + ms(1100 + 1101)), ms(2201));
        assert!(check.excuses(ms(5000)) && check.excuses(ms(100)));

        // Half the timeout is enough, and not much less.
        let pulse = Pulse::new(start);
        let late = pulse.beat(start + ms(100 + 300));
        let check = StoodStill::default();
        check.note(late, ms(400));
        assert!(check.excuses(ms(500)) && !check.excuses(ms(700)));

        // What was before the check does not count.
        let check = StoodStill::default();
        check.note(Duration::from_secs(10), ms(30));
        assert!(!check.excuses(ms(5000)) && check.excuses(ms(20)));
    }
}
