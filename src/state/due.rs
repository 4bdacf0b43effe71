//! Which due times have been dealt with.

use std::time::Duration;

use crate::schedule::{Jitter, Schedule, UnixMs};

use super::control::{Control, Gap, LeftOut, Paused};
use super::fields::NEVER;
use super::format::GAPS;
use super::header::HeaderControl;
use super::rules::{Rule, in_force};
use super::run::Progress;
use super::run_part::RunPart;

/// A timer's due times, as every process computes them.
pub trait DueTimes {
    /// The first due time strictly later than `after`.
    fn next(&self, after: UnixMs) -> Option<UnixMs>;
    /// The newest due time that is not later than `at`.
    fn newest(&self, at: UnixMs) -> Option<UnixMs>;
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
    pub run: RunPart,
    /// What others want of the timer.
    pub control: Control,
    /// What holds for all timers.
    pub header: HeaderControl,
}

impl Reading {
    /// A record in which nothing has happened since `now`.
    #[cfg(test)]
    pub(crate) fn anew(name: &str, now: UnixMs) -> Self {
        let (run, control) = (RunPart::new(name, now), Control::anew(name, now));
        Self { run, control, header: HeaderControl::default() }
    }

    /// The newest instant up to which every due time has been dealt with, but for `first`: taken,
    /// left out for good, or never the timer's.
    pub fn dealt_with_up_to(&self, now: UnixMs) -> UnixMs {
        let expired = |paused: Option<Paused>| {
            paused.and_then(|paused| paused.until).filter(|until| *until <= now)
        };
        [
            Some(self.run.watermark.due),
            self.control.left_out_up_to,
            self.control.not_before,
            expired(self.control.paused),
            self.header.not_before,
            expired(self.header.paused),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(NEVER)
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

    /// The first due time that has not been dealt with: in the past when the timer is late;
    /// `None` while it is paused.
    pub fn next_due(&self, due_times: &dyn DueTimes, now: UnixMs) -> Option<UnixMs> {
        if self.is_paused(now) { None } else { due_times.next(self.dealt_with_up_to(now)) }
    }

    /// The due time in the queue's one place, if it still waits there.
    pub fn queued(&self, now: UnixMs) -> Option<UnixMs> {
        self.control.queued.filter(|due| *due > self.dealt_with_up_to(now))
    }

    /// The start of `first=now`, if it is still to come.
    ///
    /// It stands above pauses, not-before and what was left out: only a run ends it, or `within`.
    pub fn first(&self, now: UnixMs, within: Duration) -> Option<UnixMs> {
        self.control
            .created_at
            .filter(|at| *at > self.run.watermark.due && *at <= now && now <= at.plus(within))
    }

    /// Whether an instant lies so far ahead that the clock must have been set back.
    pub(super) fn is_ahead(&self, due_times: &dyn DueTimes, now: UnixMs) -> bool {
        let latest = latest_sane(due_times, now);
        if !in_force(Rule::ClockSetBack) {
            return false;
        }
        self.run.watermark.due > latest
            || control_instants(&mut self.control.clone()).any(|at| *at > latest)
            || header_instants(&mut self.header.clone()).any(|at| *at > latest)
            || matches!(self.run.progress, Progress::Waiting(_, wait)
                if is_beyond_next_start(wait.next_at, due_times, now))
    }
}

/// An instant later than this is not one that this clock has seen.
pub(super) fn latest_sane(due_times: &dyn DueTimes, now: UnixMs) -> UnixMs {
    UnixMs(now.0.saturating_add(due_times.period_ms(now)))
}

/// Whether a next attempt at `at` lies where none can: they start before the next due time does.
pub(super) fn is_beyond_next_start(at: UnixMs, due_times: &dyn DueTimes, now: UnixMs) -> bool {
    due_times.next(now).is_some_and(|next| at > due_times.start(next))
}

/// The instants of a control part that must not lie ahead of the clock: all but `until`.
pub(super) fn control_instants(control: &mut Control) -> impl Iterator<Item = &mut UnixMs> {
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
pub(super) fn header_instants(header: &mut HeaderControl) -> impl Iterator<Item = &mut UnixMs> {
    [header.not_before.as_mut(), header.paused.as_mut().map(|paused| &mut paused.since)]
        .into_iter()
        .flatten()
}

/// The newest due time whose start time is not later than `now`.
pub fn newest_started(due_times: &dyn DueTimes, now: UnixMs) -> Option<UnixMs> {
    let newest = due_times.newest(now)?;
    if due_times.start(newest) <= now {
        return Some(newest);
    }
    // Its start is still to come, and that of the one before lies before it.
    due_times.newest(UnixMs(newest.0.saturating_sub(1)))
}

/// How late a due time may be seen, in milliseconds, without being missed: 1 s, or a period.
pub(super) fn missed_after_ms(due_times: &dyn DueTimes, due: UnixMs) -> i64 {
    due_times.period_ms(UnixMs(due.0.saturating_sub(1))).min(1000)
}

/// What was counted of the due times that had no run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Missed ones.
    pub missed: u64,
    /// Overlaps.
    pub overlaps: u64,
}

/// How many due times are counted in one event at most.
const STEPS: u32 = 1000;

impl Control {
    /// Leaves out for good what lies in (`after`, `up_to`]: as an overlap what waited in the queue,
    /// and all before it, the rest as `kind` says. `false` if too many stretches wait to be counted
    /// already, and nothing was changed.
    pub(super) fn leave_out_behind(
        &mut self,
        due_times: &dyn DueTimes,
        after: UnixMs,
        queued: Option<UnixMs>,
        up_to: UnixMs,
        kind: LeftOut,
    ) -> bool {
        self.gaps.len() + 2 <= GAPS
            && queued
                .is_none_or(|queued| self.leave_out(due_times, after, queued, LeftOut::Overlap))
            && self.leave_out(due_times, queued.unwrap_or(after), up_to, kind)
    }

    /// Leaves out for good what lies in (`after`, `up_to`]; `false` if too many stretches wait to
    /// be counted already, and nothing was changed.
    pub(super) fn leave_out(
        &mut self,
        due_times: &dyn DueTimes,
        after: UnixMs,
        up_to: UnixMs,
        kind: LeftOut,
    ) -> bool {
        if due_times.next(after).is_none_or(|due| due > up_to) {
            return true;
        }
        if self.gaps.len() >= GAPS {
            return false;
        }
        self.gaps.push(Gap { after, up_to, kind });
        if in_force(Rule::LeftOutIsDealtWith) {
            self.left_out_up_to = self.left_out_up_to.max(Some(up_to));
        }
        true
    }

    /// Counts what was left out, at most 1000 due times per call.
    pub(super) fn count(&mut self, due_times: &dyn DueTimes) -> Counted {
        let mut counted = Counted::default();
        let mut steps = STEPS;
        while let Some(gap) = self.gaps.first_mut() {
            match due_times.next(gap.after) {
                Some(due) if due <= gap.up_to => {
                    if steps == 0 {
                        break;
                    }
                    steps -= 1;
                    gap.after = due;
                    match gap.kind {
                        LeftOut::Missed => counted.missed += 1,
                        LeftOut::Overlap => counted.overlaps += 1,
                    }
                }
                _ => {
                    self.gaps.remove(0);
                }
            }
        }
        if in_force(Rule::LeftOutIsCounted) {
            self.missed = self.missed.saturating_add(counted.missed);
            self.overlaps = self.overlaps.saturating_add(counted.overlaps);
        }
        counted
    }

    /// Whether due times that were left out are still to be counted.
    pub fn has_uncounted(&self) -> bool {
        !self.gaps.is_empty()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::schedule::Every;

    /// One due time each `every_ms`, on its multiples.
    pub(in crate::state) fn every(every_ms: u64) -> Jittered {
        let every = Every::new(Duration::from_millis(every_ms), Duration::ZERO).unwrap();
        Jittered { schedule: Schedule::Every(every), jitter: Jitter::new(Duration::ZERO, b"", "") }
    }

    fn reading(watermark: i64) -> Reading {
        Reading {
            run: RunPart::new("a", UnixMs(watermark)),
            control: Control { presence: super::super::Presence::Enabled, ..Control::new("a") },
            header: HeaderControl::default(),
        }
    }

    #[test]
    fn the_newest_of_all_decides_what_is_dealt_with() {
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
        reading.run.watermark.due = UnixMs(1000);
        assert_eq!(reading.first(UnixMs(6000), within), None);
    }

    #[test]
    fn a_million_left_out_due_times_are_counted_a_thousand_at_a_time() {
        let mut control = Control::new("a");
        let every = every(10);
        assert!(control.leave_out(&every, UnixMs(0), UnixMs(25_000), LeftOut::Missed));
        assert!(control.leave_out(&every, UnixMs(25_000), UnixMs(25_100), LeftOut::Overlap));
        assert_eq!(control.left_out_up_to, Some(UnixMs(25_100)));
        assert_eq!(control.count(&every), Counted { missed: 1000, overlaps: 0 });
        assert_eq!(control.count(&every), Counted { missed: 1000, overlaps: 0 });
        assert!(control.has_uncounted());
        assert_eq!(control.count(&every), Counted { missed: 500, overlaps: 10 });
        assert!(!control.has_uncounted());
        assert_eq!((control.missed, control.overlaps), (2500, 10));
    }

    #[test]
    fn more_gaps_than_there_is_room_for_are_refused_not_forgotten() {
        let mut control = Control::new("a");
        let every = every(10);
        for number in 0..4 {
            let after = UnixMs(number * 100);
            assert!(control.leave_out(
                &every,
                after,
                after.plus(Duration::from_millis(50)),
                LeftOut::Missed
            ));
        }
        assert!(!control.leave_out(&every, UnixMs(400), UnixMs(450), LeftOut::Missed));
        assert!(control.leave_out(&every, UnixMs(400), UnixMs(405), LeftOut::Missed), "empty");
        control.count(&every);
        assert_eq!(control.missed, 20);
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
        reading.header.not_before = Some(UnixMs(99_999));
        assert!(reading.is_ahead(&every(1000), now));
    }
}
