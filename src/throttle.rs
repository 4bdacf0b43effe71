//! How often the same thing is logged: the first of a row, then at most once a minute.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Lets the first line of a row pass, then at most one a minute.
#[derive(Debug, Default)]
pub struct Throttle {
    /// When a line of this row has passed last.
    last: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

const LINES_EVERY: Duration = Duration::from_secs(60);

impl Throttle {
    /// At `now` there is one thing to tell of. If a line may pass: how many others have been left
    /// out since the last one.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        self.pass_many(now, 1)
    }

    /// The same for `count` things, of which a line tells one.
    pub fn pass_many(&self, now: Instant, count: u64) -> Option<u64> {
        let left_out = self.left_out.get().saturating_add(count);
        let waits =
            self.last.get().is_some_and(|last| now.saturating_duration_since(last) < LINES_EVERY);
        if waits {
            self.left_out.set(left_out);
            return None;
        }
        self.last.set(Some(now));
        self.left_out.set(0);
        Some(left_out.saturating_sub(1))
    }

    /// `count` things more of this row that get no line by themselves.
    pub fn leave_out(&self, count: u64) {
        if self.last.get().is_some() {
            self.left_out.set(self.left_out.get().saturating_add(count));
        }
    }

    /// The next one begins a row: it is logged at once, without the number of this one.
    pub fn end_row(&self) {
        self.last.set(None);
        self.left_out.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a row of calls lets pass, each at so many milliseconds.
    fn passed(throttle: &Throttle, from: Instant, at_ms: &[u64]) -> Vec<Option<u64>> {
        let at = |ms: &u64| throttle.pass(from + Duration::from_millis(*ms));
        at_ms.iter().map(at).collect()
    }

    #[test]
    fn first_of_a_row_then_one_a_minute() {
        let throttle = Throttle::default();
        let lines = [0, 1, 30_000, 59_999, 60_000, 60_001, 119_999, 120_000, 500_000, 500_001];
        assert_eq!(
            passed(&throttle, Instant::now(), &lines),
            [Some(0), None, None, None, Some(3), None, None, Some(2), Some(0), None]
        );
    }

    #[test]
    fn next_row_begins_at_once_and_tells_of_none_before() {
        let (throttle, from) = (Throttle::default(), Instant::now());
        assert_eq!(passed(&throttle, from, &[0, 1, 2]), [Some(0), None, None]);
        throttle.end_row();
        assert_eq!(passed(&throttle, from, &[3, 4, 60_003]), [Some(0), None, Some(1)]);
    }

    #[test]
    fn a_line_tells_of_many() {
        let (throttle, from) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.pass_many(from, 3), Some(2));
        assert_eq!(throttle.pass_many(from, 10), None);
        assert_eq!(throttle.pass_many(from, u64::MAX), None);
        let later = from + LINES_EVERY;
        assert_eq!(throttle.pass_many(later, 1), Some(u64::MAX - 1));
        assert_eq!(throttle.pass_many(later + LINES_EVERY, 1), Some(0));
    }

    #[test]
    fn what_is_left_out_belongs_to_a_row() {
        let (throttle, from) = (Throttle::default(), Instant::now());
        throttle.leave_out(5);
        assert_eq!(throttle.pass(from), Some(0));
        throttle.leave_out(5);
        assert_eq!(throttle.pass(from), None);
        assert_eq!(throttle.pass(from + LINES_EVERY), Some(6));
    }

    #[test]
    fn a_clock_that_goes_back_is_no_minute() {
        let from = Instant::now() + LINES_EVERY;
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(from), Some(0));
        assert_eq!(throttle.pass(from.checked_sub(LINES_EVERY).unwrap()), None);
        assert_eq!(throttle.pass(from + LINES_EVERY), Some(1));
    }
}
