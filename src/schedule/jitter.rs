//! `jitter=`: a delay of each start that differs from host to host.

use std::time::Duration;

use super::{UnixMs, stable_hash};

/// Delays the start of each due time by `hash(host name, timer name, due time) mod jitter`: the
/// same in all workers and generations of a host, another one on each host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jitter {
    bound_ms: u64,
    seed: u64,
}

impl Jitter {
    /// Delays below `bound` for the timer `name` on `host`; a bound of zero means none.
    pub fn new(bound: Duration, host: &[u8], name: &str) -> Self {
        Self {
            bound_ms: u64::try_from(bound.as_millis()).unwrap_or(u64::MAX),
            seed: stable_hash(&[b"jitter", host, name.as_bytes()]),
        }
    }

    /// When the due time `due` starts; never at or after `next`, the due time after it.
    pub fn start(&self, due: UnixMs, next: Option<UnixMs>) -> UnixMs {
        if self.bound_ms == 0 {
            return due;
        }
        let hash = stable_hash(&[&self.seed.to_le_bytes(), &due.0.to_le_bytes()]);
        let start = due.plus(Duration::from_millis(hash % self.bound_ms));
        match next {
            Some(next) if start >= next => UnixMs(next.0 - 1),
            _ => start,
        }
    }

    /// The bound of its delays, in milliseconds.
    pub fn bound_ms(&self) -> u64 {
        self.bound_ms
    }

    /// Whether every start is its due time.
    pub fn is_none(&self) -> bool {
        self.bound_ms == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn is_the_same_for_one_host_and_differs_between_hosts() {
        let starts = |host: &[u8]| -> Vec<i64> {
            let jitter = Jitter::new(MINUTE, host, "sync");
            (0..100).map(|n| jitter.start(UnixMs(n * 3_600_000), None).0).collect()
        };
        assert_eq!(starts(b"web1"), starts(b"web1"));
        assert_ne!(starts(b"web1"), starts(b"web2"));
    }

    #[test]
    fn stays_below_its_bound_and_the_next_due_time() {
        let jitter = Jitter::new(MINUTE, b"web1", "sync");
        for n in 0..1000 {
            let due = UnixMs(n * 10_000);
            let start = jitter.start(due, None);
            assert!(due <= start && start.0 < due.0 + 60_000);
            let next = UnixMs(due.0 + 10_000);
            let start = jitter.start(due, Some(next));
            assert!(due <= start && start < next);
        }
    }

    #[test]
    fn none_delays_nothing() {
        let jitter = Jitter::new(Duration::ZERO, b"web1", "sync");
        assert!(jitter.is_none());
        assert_eq!(jitter.start(UnixMs(7), None), UnixMs(7));
    }
}
