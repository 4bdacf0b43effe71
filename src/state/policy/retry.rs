//! `timer_retry`: whether and when an attempt is repeated.

use std::time::Duration;

use crate::schedule::{UnixMs, stable_hash};
use crate::state::record::run::{Attempt, Outcome};

use super::due::{DueTimes, taken_over_at};

/// What `timer_retry` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many attempts may follow the first.
    pub more: u32,
    /// The outcomes that are repeated.
    pub on: Vec<Outcome>,
    /// The wait before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl RetryPolicy {
    /// When the attempt after `attempt`, which ended with `outcome` at `now`, may start; `None`
    /// if the run ends with it.
    ///
    /// The wait is the same in every process: its +-10 % is a hash of run id and attempt. An
    /// attempt that could not start before the next due time does is not made: that one takes
    /// over. `due_times` is `None` for a timer that is disabled: it has no next one.
    pub fn next_at(
        &self,
        attempt: &Attempt,
        outcome: Outcome,
        due_times: Option<&dyn DueTimes>,
        now: UnixMs,
    ) -> Option<UnixMs> {
        if attempt.number > self.more || !self.on.contains(&outcome) {
            return None;
        }
        let doubled = 1_u32.checked_shl(attempt.number.saturating_sub(1)).unwrap_or(u32::MAX);
        let wait = self.backoff.saturating_mul(doubled).min(self.max);
        let hash = stable_hash(&[&attempt.run.0, &attempt.number.to_le_bytes()]);
        // 90.0 % to 110.0 %.
        let permille = 900 + u32::try_from(hash % 201).unwrap_or(100);
        let at = now.plus(wait.saturating_mul(permille) / 1000);
        let taken_over = due_times.and_then(|due_times| taken_over_at(attempt, due_times));
        taken_over.is_none_or(|taken_over| at < taken_over).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::policy::due::tests::every;
    use crate::state::record::run::{BootId, RunId};

    fn attempt(number: u32, run: u8) -> Attempt {
        Attempt {
            run: RunId([run; 16]),
            due: UnixMs(60_000),
            trigger: crate::state::record::run::Trigger::Schedule,
            number,
            pid: 1,
            boot: BootId::default(),
            started_at: UnixMs(60_000),
        }
    }

    fn policy(more: u32) -> RetryPolicy {
        RetryPolicy {
            more,
            on: vec![Outcome::Failure, Outcome::Error],
            backoff: Duration::from_secs(1),
            max: Duration::from_secs(8),
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_with_a_tenth_of_chance() {
        let hour = every(3_600_000);
        for (number, base_ms) in [(1, 1000), (2, 2000), (3, 4000), (4, 8000), (5, 8000), (40, 8000)]
        {
            let mut seen = Vec::new();
            for run in 0..100 {
                let at = policy(99).next_at(
                    &attempt(number, run),
                    Outcome::Failure,
                    Some(&hour),
                    UnixMs(60_000),
                );
                let wait_ms = at.unwrap().0 - 60_000;
                assert!((base_ms * 9 / 10..=base_ms * 11 / 10).contains(&wait_ms), "{wait_ms}");
                seen.push(wait_ms);
            }
            seen.dedup();
            assert!(seen.len() > 10, "there is no rng in it");
        }
    }

    #[test]
    fn only_so_often_and_only_what_is_named() {
        let hour = every(3_600_000);
        let next = |policy: RetryPolicy, number, outcome| {
            policy.next_at(&attempt(number, 1), outcome, Some(&hour), UnixMs(60_000))
        };
        assert!(next(policy(2), 2, Outcome::Failure).is_some());
        assert!(next(policy(2), 3, Outcome::Failure).is_none());
        assert!(next(policy(2), 1, Outcome::Timeout).is_none());
        assert!(next(RetryPolicy::default(), 1, Outcome::Failure).is_none());
    }

    #[test]
    fn the_next_due_time_takes_over() {
        let minute = every(60_000);
        let next = |due_times: Option<&dyn DueTimes>, now| {
            policy(3).next_at(&attempt(1, 1), Outcome::Error, due_times, UnixMs(now))
        };
        assert!(next(Some(&minute), 118_000).is_some());
        assert!(next(Some(&minute), 119_500).is_none());
        assert!(next(Some(&minute), 150_000).is_none(), "a due time has passed meanwhile");
        assert!(next(None, 119_500).is_some(), "a disabled timer has none");
    }
}
