//! A schedule with its jitter: which due time it is, and how long to wait for the next.
//!
//! An nginx timer counts monotonic time, due times lie on the wall clock. So the wait is cut into
//! pieces of at most a minute, and after each the wall clock is read again.

use std::time::Duration;

use super::{Jitter, Schedule, UnixMs};

/// The longest wait before the wall clock is read again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// When a timer is due, and when each due time starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    schedule: Schedule,
    jitter: Jitter,
}

/// A due time and when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appointment {
    /// The due time.
    pub due: UnixMs,
    /// It, and the jitter.
    pub start: UnixMs,
}

/// What a look at the clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The due time that is to be dealt with now.
    pub due: Option<UnixMs>,
    /// What comes next; `None` past the end of the calendar.
    pub next: Option<Appointment>,
    /// How far the newest due time that was dealt with lies ahead, if that is more than a period:
    /// the clock was set back, and due times come again.
    pub set_back: Option<Duration>,
}

impl Plan {
    /// A plan of `schedule`, each start delayed by `jitter`.
    pub fn new(schedule: Schedule, jitter: Jitter) -> Self {
        Self { schedule, jitter }
    }

    /// Its schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The first appointment whose start is later than `now`.
    pub fn after(&self, now: UnixMs) -> Option<Appointment> {
        let newest = self.schedule.newest(now).map(|due| self.appointment(due));
        newest
            .filter(|newest| newest.start > now)
            .or_else(|| self.schedule.next(now).map(|due| self.appointment(due)))
    }

    /// Looks at the clock, which shows `now`, when `armed` was waited for and `taken` is the newest
    /// due time that was dealt with.
    ///
    /// Several due times that have passed are one: the newest.
    pub fn look(&self, now: UnixMs, armed: Option<Appointment>, taken: Option<UnixMs>) -> Look {
        if armed.is_some_and(|armed| armed.start > now) {
            let ahead_ms = taken.map_or(0, |taken| taken.ms_since(now));
            if ahead_ms > self.schedule.period_ms(now) {
                let ahead = u64::try_from(ahead_ms).ok().map(Duration::from_millis);
                return Look { due: None, next: self.after(now), set_back: ahead };
            }
            let next = self.after(taken.map_or(now, |taken| taken.max(now)));
            return Look { due: None, next, set_back: None };
        }
        let next = self.after(now);
        let newest = match next {
            Some(next) => self.schedule.newest(UnixMs(next.due.0 - 1)),
            None => self.schedule.newest(now),
        };
        let due = newest.filter(|due| taken.is_none_or(|taken| *due > taken));
        Look { due, next, set_back: None }
    }

    /// How long to wait for `appointment` before the clock is looked at again.
    pub fn wait(now: UnixMs, appointment: Option<Appointment>) -> Duration {
        appointment.map_or(LONGEST_WAIT, |it| it.start.since(now).min(LONGEST_WAIT))
    }

    fn appointment(&self, due: UnixMs) -> Appointment {
        if self.jitter.is_none() {
            return Appointment { due, start: due };
        }
        Appointment { due, start: self.jitter.start(due, self.schedule.next(due)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Every;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(every: Duration, jitter: Duration) -> Plan {
        let every = Every::new(every, Duration::ZERO).unwrap();
        Plan::new(Schedule::Every(every), Jitter::new(jitter, b"host", "timer"))
    }

    fn at(ms: i64) -> Appointment {
        Appointment { due: UnixMs(ms), start: UnixMs(ms) }
    }

    #[test]
    fn a_due_time_is_not_dealt_with_before_it_has_come() {
        let plan = plan(10 * SECOND, Duration::ZERO);
        let armed = Some(at(10_000));
        let look = plan.look(UnixMs(9_999), armed, None);
        assert_eq!(look, Look { due: None, next: armed, set_back: None });
        let look = plan.look(UnixMs(10_000), armed, None);
        assert_eq!(
            look,
            Look { due: Some(UnixMs(10_000)), next: Some(at(20_000)), set_back: None }
        );
    }

    #[test]
    fn after_a_long_stop_only_the_newest_is_dealt_with() {
        let plan = plan(10 * SECOND, Duration::ZERO);
        let look = plan.look(UnixMs(3_600_007), Some(at(10_000)), Some(UnixMs(0)));
        assert_eq!(look.due, Some(UnixMs(3_600_000)));
        assert_eq!(look.next, Some(at(3_610_000)));
    }

    #[test]
    fn a_clock_set_back_by_less_than_a_period_brings_nothing_again() {
        let plan = plan(10 * SECOND, Duration::ZERO);
        let look = plan.look(UnixMs(15_000), Some(at(30_000)), Some(UnixMs(20_000)));
        assert_eq!(look, Look { due: None, next: Some(at(30_000)), set_back: None });
    }

    #[test]
    fn a_clock_set_back_by_an_hour_does_not_stop_the_timer_for_an_hour() {
        let plan = plan(10 * SECOND, Duration::ZERO);
        let look = plan.look(UnixMs(5_000), Some(at(3_610_000)), Some(UnixMs(3_600_000)));
        assert_eq!(look.next, Some(at(10_000)));
        assert_eq!(look.set_back, Some(3_595 * SECOND));
    }

    #[test]
    fn with_jitter_each_due_time_is_dealt_with_once_and_in_its_turn() {
        let plan = plan(10 * SECOND, 9 * SECOND);
        let mut armed = plan.after(UnixMs(0));
        let mut taken = None;
        let mut dealt_with = Vec::new();
        for now in 0..200_000 {
            let look = plan.look(UnixMs(now), armed, taken);
            if let Some(due) = look.due {
                let delay = now - due.0;
                assert!((0..9_000).contains(&delay), "{delay}");
                dealt_with.push(due.0);
                taken = Some(due);
            }
            armed = look.next;
        }
        let first = dealt_with[0];
        let expected: Vec<_> = (0..).map(|n| first + n * 10_000).take(dealt_with.len()).collect();
        assert_eq!(dealt_with, expected);
        assert!(dealt_with.len() >= 18, "{}", dealt_with.len());
    }

    #[test]
    fn waits_are_cut_at_a_minute() {
        assert_eq!(Plan::wait(UnixMs(0), Some(at(86_400_000))), Duration::from_secs(60));
        assert_eq!(Plan::wait(UnixMs(0), Some(at(250))), Duration::from_millis(250));
        assert_eq!(Plan::wait(UnixMs(300), Some(at(250))), Duration::ZERO);
        assert_eq!(Plan::wait(UnixMs(0), None), Duration::from_secs(60));
    }
}
