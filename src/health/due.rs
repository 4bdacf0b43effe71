//! When a check of a server is due: on a grid of the monotonic clock, which all workers compute alike.

use std::time::Duration;

use crate::schedule::stable_hash;

/// The due times of one check of one server.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    interval: u64,
    jitter: u64,
    seed: u64,
}

/// The first check of a server is not put off for longer.
const FIRST_WITHIN: u64 = 1000;
/// A server that gets no requests before its first result is checked on a grid at least as fine.
const CHECKING: u64 = 500;

impl Grid {
    /// `seed` is another for each server: it spreads the checks of a group over the interval.
    pub fn new(interval: Duration, jitter: Duration, seed: u64) -> Self {
        Self { interval: millis(interval).max(1), jitter: millis(jitter), seed }
    }

    /// When the first check is due of a server that has been known since `born`.
    pub fn first(&self, born: Duration) -> Duration {
        let within = self.interval.min(FIRST_WITHIN);
        Duration::from_millis(millis(born).max(1) + self.seed % within)
    }

    /// The same, for a server that gets no requests before it.
    pub fn first_at_once(born: Duration) -> Duration {
        Duration::from_millis(millis(born).max(1))
    }

    /// What is due after the check that was due at `taken`; of what was left out, the last alone.
    pub fn after(&self, taken: Duration, now: Duration) -> Duration {
        self.next(millis(taken), millis(now), self.interval)
    }

    /// The same, for a server that gets no requests before it.
    pub fn after_soon(&self, taken: Duration, now: Duration) -> Duration {
        self.next(millis(taken), millis(now), self.interval.min(CHECKING))
    }

    /// When a check that is due may start.
    pub fn start(&self, due: Duration) -> Duration {
        if self.jitter == 0 {
            return due;
        }
        let hash = stable_hash(&[&self.seed.to_le_bytes(), &millis(due).to_le_bytes()]);
        due + Duration::from_millis(hash % self.jitter)
    }

    fn next(&self, taken: u64, now: u64, interval: u64) -> Duration {
        let phase = self.seed % interval;
        // The first one, which is on no grid, is not followed at once.
        let least = taken.saturating_add(interval.div_ceil(2));
        let next = least + (phase + interval - least % interval) % interval;
        let late = now.saturating_sub(self.jitter).saturating_sub(interval);
        if next >= late {
            return Duration::from_millis(next);
        }
        let latest = now - (now % interval + interval - phase) % interval;
        Duration::from_millis(latest)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn each_due_time_follows_the_last_by_the_interval() {
        for (interval, seed) in [(10, 3), (1000, 999), (5000, 123_456_789), (1, 7)] {
            let grid = Grid::new(ms(interval), ms(0), seed);
            let first = grid.first(ms(77_777));
            assert!(first >= ms(77_777) && first < ms(77_777 + interval.min(1000)));
            let second = grid.after(first, first);
            let apart = second.saturating_sub(first);
            assert!(
                apart >= ms(interval.div_ceil(2)) && apart < ms(interval + interval.div_ceil(2))
            );
            let mut due = second;
            for _ in 0..100 {
                let next = grid.after(due, due);
                assert_eq!(next, due + ms(interval));
                due = next;
            }
        }
    }

    #[test]
    fn what_was_left_out_is_not_made_up_for() {
        let grid = Grid::new(ms(1000), ms(0), 300);
        assert_eq!(grid.after(ms(5300), ms(5400)), ms(6300));
        assert_eq!(grid.after(ms(5300), ms(7000)), ms(6300), "one that is late");
        assert_eq!(grid.after(ms(5300), ms(60_299)), ms(59_300));
        assert_eq!(grid.after(ms(5300), ms(60_300)), ms(60_300));
        let shorter = Grid::new(ms(100), ms(0), 300);
        assert_eq!(shorter.after(ms(5300), ms(5400)), ms(5400), "a shorter interval from now on");
    }

    #[test]
    fn checks_of_a_group_are_spread_over_the_interval() {
        for interval in [1000, 5000, 60_000] {
            let mut slices = [0; 20];
            let mut first = [0; 20];
            for server in 0..200_u32 {
                let seed = stable_hash(&[b"backend", format!("10.0.0.{server}:8080").as_bytes()]);
                let grid = Grid::new(ms(interval), ms(0), seed);
                let due = grid.after(ms(interval * 10), ms(interval * 10)).as_millis();
                let within = usize::try_from(due).unwrap() % usize::try_from(interval).unwrap();
                slices[within * 20 / usize::try_from(interval).unwrap()] += 1;
                let due = grid.first(ms(5000)).as_millis();
                first[(usize::try_from(due).unwrap() - 5000) / 50] += 1;
            }
            // Ten on the average.
            assert!(slices.iter().all(|count| (1..=24).contains(count)), "{interval}: {slices:?}");
            assert!(first.iter().all(|count| (1..=24).contains(count)), "{interval}: {first:?}");
        }
    }

    #[test]
    fn jitter_is_below_its_bound_and_not_cumulative() {
        let grid = Grid::new(ms(1000), ms(200), 42);
        let mut due = grid.first(ms(1000));
        let mut delays = Vec::new();
        for _ in 0..1000 {
            due = grid.after(due, due);
            assert_eq!(due.as_millis() % 1000, 42);
            delays.push(grid.start(due).saturating_sub(due).as_millis());
        }
        assert!(delays.iter().all(|delay| *delay < 200));
        assert!(delays.iter().max() > Some(&150) && delays.iter().min() < Some(&50));
        assert_eq!(grid.start(due), grid.start(due), "the same in all workers");
    }

    #[test]
    fn a_jitter_longer_than_the_interval_puts_nothing_off_for_ever() {
        let grid = Grid::new(ms(10), ms(1000), 5);
        let (mut due, mut now) = (grid.first(ms(1000)), ms(1000));
        for _ in 0..1000 {
            now = now.max(grid.start(due));
            let next = grid.after(due, now);
            assert!(next > due);
            due = next;
        }
        assert!(now < ms(1000 + 1000 * 1000));
    }

    #[test]
    fn a_server_without_requests_is_checked_soon() {
        let grid = Grid::new(ms(60_000), ms(0), 12_345);
        assert_eq!(Grid::first_at_once(ms(99)), ms(99));
        let due = grid.after_soon(ms(50_000), ms(80_000));
        assert!(due <= ms(80_000) && due > ms(79_500));
        assert!(grid.after(ms(50_000), ms(80_000)) > ms(80_000));
    }
}
