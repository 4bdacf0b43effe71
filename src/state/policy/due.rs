//! Which due times have been handled.

use std::time::Duration;

use crate::schedule::{Jitter, Schedule, UnixMs};
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::codec::NEVER;
use crate::state::record::control::{Control, Paused, Presence};
use crate::state::record::header::HeaderControl;
use crate::state::record::run::{Attempt, Ended, Outcome, Progress, Trigger};

use super::decide::Wanted;

/// A timer's due times, as every process computes them.
pub trait DueTimes {
    /// The first due time strictly later than `after`.
    fn next(&self, after: UnixMs) -> Option<UnixMs>;
    /// The newest due time that is not later than `at`.
    fn newest(&self, at: UnixMs) -> Option<UnixMs>;
    /// How many due times lie in (`after`, `up_to`]; of a schedule whose due times have to be found one
    /// by one at most `most`, and the instant up to which these were counted.
    fn count(&self, after: UnixMs, up_to: UnixMs, most: u32) -> (u64, UnixMs);
    /// The distance in milliseconds of the next two due times after `at`.
    fn period_ms(&self, at: UnixMs) -> i64;
    /// When the due time `due` starts: never before it, always before the next one.
    fn start(&self, due: UnixMs) -> UnixMs;
}

/// A schedule and its jitter.
#[derive(Clone, Debug)]
pub struct Jittered {
    /// When the timer is due.
    pub schedule: Schedule,
    /// By how much each start is delayed.
    pub jitter: Jitter,
}

impl DueTimes for Jittered {
    fn next(&self, after: UnixMs) -> Option<UnixMs> {
        self.schedule.next(after)
    }

    fn newest(&self, at: UnixMs) -> Option<UnixMs> {
        self.schedule.newest(at)
    }

    fn count(&self, after: UnixMs, up_to: UnixMs, most: u32) -> (u64, UnixMs) {
        self.schedule.count(after, up_to, most)
    }

    fn period_ms(&self, at: UnixMs) -> i64 {
        self.schedule.period_ms(at)
    }

    fn start(&self, due: UnixMs) -> UnixMs {
        if self.jitter.is_none() { due } else { self.jitter.start(due, self.schedule.next(due)) }
    }
}

/// What one look at a record shows; its parts are each whole, but not of one instant unless the
/// run lock is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What has been taken and what is in progress.
    pub claim: Box<ClaimPart>,
    /// What others want of the timer.
    pub control: Box<Control>,
    /// What holds for all timers.
    pub header: HeaderControl,
}

impl Reading {
    /// A record in which nothing has happened since `now`.
    #[cfg(test)]
    pub(crate) fn anew(name: &str, now: UnixMs) -> Self {
        let name_hash = crate::state::record::format::name_hash(name);
        let (claim, control) = (ClaimPart::new(name_hash, now), Control::anew(now));
        Self {
            claim: Box::new(claim),
            control: Box::new(control),
            header: HeaderControl::default(),
        }
    }

    /// The newest instant up to which every due time has been handled, except `first`: taken,
    /// left out for good, or never the timer's.
    pub fn handled_up_to(&self, now: UnixMs) -> UnixMs {
        let expired = |paused: Option<Paused>| {
            paused.and_then(|paused| paused.until).filter(|until| *until <= now)
        };
        newest([
            Some(self.claim.watermark.due),
            self.control.left_out_up_to,
            self.control.not_before,
            expired(self.control.paused),
            self.header.not_before,
            expired(self.header.paused),
        ])
    }

    /// Whether no run may start by schedule at `now`, because of the timer's own pause or that of
    /// all timers.
    pub fn is_paused(&self, now: UnixMs) -> bool {
        self.paused_since(now).is_some()
    }

    /// Since when it has been paused, if it is.
    pub fn paused_since(&self, now: UnixMs) -> Option<UnixMs> {
        let pauses = [self.control.paused, self.header.paused];
        pauses.into_iter().flatten().filter(|paused| paused.holds(now)).map(|it| it.since).min()
    }

    /// The first due time that has not been handled: in the past when the timer is late;
    /// `None` while it is paused.
    pub fn next_due(&self, due_times: &dyn DueTimes, now: UnixMs) -> Option<UnixMs> {
        if self.is_paused(now) { None } else { due_times.next(self.handled_up_to(now)) }
    }

    /// The due time in the queue's one place, if it still waits there.
    pub fn queued(&self, now: UnixMs) -> Option<UnixMs> {
        self.control.queued.filter(|due| *due > self.handled_up_to(now))
    }

    /// The start of `first=now`, if it is still to come.
    ///
    /// It stands above pauses, not-before and what was left out: only a run ends it, or `within`.
    pub fn first(&self, now: UnixMs, within: Duration) -> Option<UnixMs> {
        self.control
            .created_at
            .filter(|at| *at > self.claim.watermark.due && *at <= now && now <= at.plus(within))
    }

    /// Whether an instant lies so far ahead that the clock must have been set back: rule "clock set
    /// back".
    pub(in crate::state) fn is_ahead(&self, due_times: &dyn DueTimes, now: UnixMs) -> bool {
        let (claim, control, header) = (&self.claim, &self.control, &self.header);
        let paused_since = |paused: Option<Paused>| paused.map(|paused| paused.since);
        let waits_since = match claim.progress {
            Progress::Waiting(attempt, _) => Some(attempt.started_at),
            _ => None,
        };
        let given_now = newest([
            Some(control.order.at),
            control.created_at.filter(|at| *at > claim.watermark.due),
            paused_since(control.paused),
            paused_since(header.paused),
        ]);
        let handled = newest([
            Some(claim.watermark.due),
            control.created_at,
            control.last_seen_at,
            control.not_before,
            control.left_out_up_to,
            control.queued,
            header.not_before,
        ]);
        let latest = given_now.max(handled);
        is_to_come(given_now.max(waits_since.unwrap_or(NEVER)), now)
            // Ordinarily none lies ahead at all: only then the bound is looked for.
            || latest > now && latest > latest_sane(due_times, now)
    }

    /// Whether this may start at `now`, as far as the record tells. Every decision, claim and recovery
    /// asks this.
    pub(in crate::state) fn may_start(
        &self,
        wanted: Wanted,
        due_times: &dyn DueTimes,
        now: UnixMs,
    ) -> bool {
        match wanted {
            Wanted::Due { due, trigger: Trigger::First, .. } => {
                !self.is_paused(now) && self.first(now, Duration::MAX) == Some(due)
            }
            // The clock may have been set back since this was decided.
            Wanted::Due { due, start, .. } => {
                !self.is_paused(now) && start <= now && due > self.handled_up_to(now)
            }
            Wanted::Next { run, attempt } => match self.claim.progress {
                Progress::Waiting(last, wait) => {
                    last.run == run
                        // Rule "attempt is claimed".
                        && last.number.checked_add(1) == Some(attempt)
                        && wait.next_at <= now
                        && self.waiting_ends(due_times, now).is_none()
                }
                _ => false,
            },
            Wanted::Repetition { .. } => {
                !self.is_paused(now) && self.claim.progress == Progress::Nothing
            }
            Wanted::Order { number } => {
                let pending = self.control.pending_order(self.claim.orders_done);
                self.claim.progress == Progress::Nothing
                    && pending.is_some_and(|order| order.number == number)
            }
        }
    }

    /// The newest due time that has come and is the timer's, as far as a pause has not begun before it.
    pub(in crate::state) fn newest_to_account(
        &self,
        due_times: &dyn DueTimes,
        now: UnixMs,
    ) -> Option<UnixMs> {
        due_times.newest(self.paused_since(now).map_or(now, |since| since.min(now)))
    }

    /// `due`, but not what a fleet is being asked for: whether that is left out, and why, is for who asks
    /// to say.
    pub(in crate::state) fn but_claimed(&self, due: UnixMs) -> UnixMs {
        match self.claim.progress {
            Progress::Claiming(attempt, _) => due.min(UnixMs(attempt.due.0.saturating_sub(1))),
            _ => due,
        }
    }

    /// Whether there is nothing to be decided but the next due time: the timer has been loaded, nothing
    /// is in progress, paused, ordered, queued or still to be counted.
    pub fn is_plain(&self) -> bool {
        let control = &self.control;
        control.presence == Presence::Enabled
            && self.claim.progress == Progress::Nothing
            && control.paused.is_none()
            && self.header.paused.is_none()
            && control.queued.is_none_or(|due| due <= self.claim.watermark.due)
            && control.created_at.is_none_or(|at| at <= self.claim.watermark.due)
            && control.pending_order(self.claim.orders_done).is_none()
            && !control.has_uncounted()
    }

    /// How the run that waits for its next attempt ends now, if it must: cancelled, paused,
    /// disabled, or because the next due time has come, which takes over. A manual run goes on
    /// while the timer is disabled.
    pub fn waiting_ends(&self, due_times: &dyn DueTimes, now: UnixMs) -> Option<Ended> {
        let Progress::Waiting(attempt, wait) = self.claim.progress else { return None };
        if self.control.cancel == Some(attempt.run) {
            return Some(Ended { outcome: Outcome::Cancelled, ..wait.last });
        }
        let disabled = matches!(self.control.presence, Presence::Disabled);
        let over = if disabled {
            attempt.trigger != Trigger::Manual
        } else {
            taken_over_at(&attempt, due_times).is_some_and(|at| at <= now)
        };
        (over || self.is_paused(now)).then_some(wait.last)
    }
}

/// The newest of these instants.
fn newest<const N: usize>(of: [Option<UnixMs>; N]) -> UnixMs {
    of.into_iter().flatten().fold(NEVER, UnixMs::max)
}

/// When the next due time after that of `attempt` starts, which takes over from it.
pub(in crate::state) fn taken_over_at(
    attempt: &Attempt,
    due_times: &dyn DueTimes,
) -> Option<UnixMs> {
    // What is unscheduled is for no due time; the one before it may have passed long ago.
    let unscheduled = attempt.trigger.is_unscheduled();
    let after = if unscheduled { attempt.started_at.max(attempt.due) } else { attempt.due };
    due_times.next(after).map(|next| due_times.start(next))
}

/// Whether what has happened at `at` is so much later than `now` that the clock must have been set back.
pub(in crate::state) fn is_to_come(at: UnixMs, now: UnixMs) -> bool {
    at > now.plus(CLOCKS_DIFFER)
}

/// Processors, and processes between two of their steps, may differ by this.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// An instant later than this is not one that this clock has seen.
pub(in crate::state) fn latest_sane(due_times: &dyn DueTimes, now: UnixMs) -> UnixMs {
    UnixMs(now.0.saturating_add(due_times.period_ms(now)))
}

/// The instants of a control part that must not lie ahead of the clock: all but `until`.
pub(in crate::state) fn control_instants(
    control: &mut Control,
) -> impl Iterator<Item = &mut UnixMs> {
    [
        control.created_at.as_mut(),
        control.last_seen_at.as_mut(),
        control.not_before.as_mut(),
        control.left_out_up_to.as_mut(),
        control.queued.as_mut(),
        control.paused.as_mut().map(|paused| &mut paused.since),
        Some(&mut control.order.at),
    ]
    .into_iter()
    .flatten()
}

/// The same of the header.
pub(in crate::state) fn header_instants(
    header: &mut HeaderControl,
) -> impl Iterator<Item = &mut UnixMs> {
    [header.not_before.as_mut(), header.paused.as_mut().map(|paused| &mut paused.since)]
        .into_iter()
        .flatten()
}

#[cfg(test)]
pub(in crate::state) mod tests {
    use super::*;
    use crate::schedule::Every;
    use crate::state::policy::look::newest_started;

    /// One due time each `every_ms`, on its multiples.
    pub(in crate::state) fn every(every_ms: u64) -> Jittered {
        let every = Every::new(Duration::from_millis(every_ms), Duration::ZERO).unwrap();
        Jittered { schedule: Schedule::Every(every), jitter: Jitter::new(Duration::ZERO, b"", "") }
    }

    fn reading(watermark: i64) -> Reading {
        Reading {
            claim: Box::new(ClaimPart::new(1, UnixMs(watermark))),
            control: Box::new(Control {
                presence: crate::state::Presence::Enabled,
                ..Control::new()
            }),
            header: HeaderControl::default(),
        }
    }

    #[test]
    fn the_newest_of_all_decides_what_is_handled() {
        let mut reading = reading(1000);
        let now = UnixMs(9_500);
        assert_eq!(reading.next_due(&every(1000), now), Some(UnixMs(2000)));
        reading.control.left_out_up_to = Some(UnixMs(2000));
        assert_eq!(reading.next_due(&every(1000), now), Some(UnixMs(3000)));
        reading.control.not_before = Some(UnixMs(3500));
        assert_eq!(reading.next_due(&every(1000), now), Some(UnixMs(4000)));
        reading.control.paused = Some(Paused { since: UnixMs(0), until: Some(UnixMs(4500)) });
        assert_eq!(reading.next_due(&every(1000), now), Some(UnixMs(5000)));
        reading.header.not_before = Some(UnixMs(5500));
        assert_eq!(reading.next_due(&every(1000), now), Some(UnixMs(6000)));
        reading.header.paused = Some(Paused { since: UnixMs(0), until: Some(UnixMs(6500)) });
        assert_eq!(reading.next_due(&every(1000), now), Some(UnixMs(7000)));
        reading.header.paused = Some(Paused { since: UnixMs(0), until: Some(UnixMs(9_501)) });
        assert_eq!(reading.next_due(&every(1000), now), None);
    }

    #[test]
    fn a_first_run_stands_above_pauses_and_ends_with_a_run_or_too_late() {
        let mut reading = reading(999);
        reading.control.created_at = Some(UnixMs(1000));
        reading.control.not_before = Some(UnixMs(5000));
        let within = Duration::from_secs(60);
        assert_eq!(reading.first(UnixMs(6000), within), Some(UnixMs(1000)));
        assert_eq!(reading.first(UnixMs(61_001), within), None);
        reading.claim.watermark.due = UnixMs(1000);
        assert_eq!(reading.first(UnixMs(6000), within), None);
    }

    #[test]
    fn a_start_that_is_still_to_come_is_not_the_newest() {
        let schedule = every(1000).schedule;
        let jitter = Jitter::new(Duration::from_millis(900), b"host", "a");
        let jittered = Jittered { schedule, jitter };
        for now in 0..20_000 {
            let newest = newest_started(&jittered, UnixMs(now)).unwrap();
            assert!(jittered.start(newest).0 <= now);
            assert!(jittered.start(UnixMs(newest.0 + 1000)).0 > now);
        }
    }

    #[test]
    fn an_instant_more_than_a_period_ahead_is_a_clock_set_back() {
        let now = UnixMs(10_000);
        assert!(!reading(11_000).is_ahead(&every(1000), now));
        assert!(reading(11_001).is_ahead(&every(1000), now));
        let mut reading = reading(0);
        reading.control.paused = Some(Paused { since: UnixMs(0), until: Some(UnixMs(99_999)) });
        assert!(!reading.is_ahead(&every(1000), now), "until may lie ahead");
        reading.control.paused = Some(Paused { since: UnixMs(11_001), until: None });
        assert!(reading.is_ahead(&every(100_000), now), "a pause is given now");
        reading.control.paused = None;
        reading.header.not_before = Some(UnixMs(99_999));
        assert!(reading.is_ahead(&every(1000), now));
    }
}
