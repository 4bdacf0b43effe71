//! Due times that get no run: left out for good at once, and counted as soon as that can be.

use crate::schedule::UnixMs;
use crate::state::record::control::Control;
use crate::state::record::gaps::{Gap, LeftOut};

use super::due::DueTimes;

/// What was counted of the due times that had no run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Missed ones.
    pub missed: u64,
    /// Overlaps.
    pub overlaps: u64,
    /// Those that the fleet has dealt with.
    pub elsewhere: u64,
}

impl Counted {
    fn add(&mut self, kind: LeftOut, count: u64) {
        let sum = match kind {
            LeftOut::Missed => &mut self.missed,
            LeftOut::Overlap => &mut self.overlaps,
            LeftOut::Elsewhere => &mut self.elsewhere,
        };
        *sum = sum.saturating_add(count);
    }

    pub(in crate::state) fn plus(self, more: Self) -> Self {
        Self {
            missed: self.missed.saturating_add(more.missed),
            overlaps: self.overlaps.saturating_add(more.overlaps),
            elsewhere: self.elsewhere.saturating_add(more.elsewhere),
        }
    }

    pub(in crate::state) fn less(self, less: Self) -> Self {
        Self {
            missed: self.missed.saturating_sub(less.missed),
            overlaps: self.overlaps.saturating_sub(less.overlaps),
            elsewhere: self.elsewhere.saturating_sub(less.elsewhere),
        }
    }
}

/// How many due times are counted in one event at most, where they have to be found one by one.
const STEPS: u32 = 1000;

impl Control {
    /// Leaves out for good what lies in (`after`, `up_to`]: as an overlap what waited in the queue,
    /// and all before it, the rest as `kind` says.
    pub(in crate::state) fn leave_out_behind(
        &mut self,
        due_times: &dyn DueTimes,
        after: UnixMs,
        queued: Option<UnixMs>,
        up_to: UnixMs,
        kind: LeftOut,
    ) {
        if let Some(queued) = queued {
            self.leave_out(due_times, after, queued, LeftOut::Overlap);
        }
        self.leave_out(due_times, queued.unwrap_or(after), up_to, kind);
    }

    /// Leaves out for good what lies in (`after`, `up_to`]: rule "left out is handled". Where no further stretch can wait to be
    /// counted, the newest one is stretched: what is counted may then be too much, or of the wrong
    /// kind, but nothing runs that was left out, and nothing waits for the count.
    pub(in crate::state) fn leave_out(
        &mut self,
        due_times: &dyn DueTimes,
        after: UnixMs,
        up_to: UnixMs,
        kind: LeftOut,
    ) {
        if due_times.next(after).is_none_or(|due| due > up_to) {
            return;
        }
        self.left_out_up_to = self.left_out_up_to.max(Some(up_to));
        let is_full = self.gaps.is_full();
        if let Some(last) = self.gaps.last_mut() {
            if is_full
                || (last.kind == kind
                    && due_times.next(last.up_to).is_none_or(|between| between > after))
            {
                last.up_to = last.up_to.max(up_to);
                return;
            }
        }
        self.gaps.push(Gap { after, up_to, kind, counted: 0 });
    }

    /// Counts what was left out: rule "left out is counted"; at most 1000 due times per call where they have to be found one by one;
    /// answers the numbers of the stretches that are counted to their end now.
    pub(in crate::state) fn count(&mut self, due_times: &dyn DueTimes) -> Counted {
        let (mut told, mut counted) = (Counted::default(), Counted::default());
        let mut steps = STEPS;
        while let Some(gap) = self.gaps.first_mut() {
            let (found, reached) = due_times.count(gap.after, gap.up_to, steps);
            steps = steps.saturating_sub(u32::try_from(found).unwrap_or(u32::MAX));
            gap.after = reached;
            counted.add(gap.kind, found);
            let in_all = found.saturating_add(gap.counted.into());
            gap.counted = u32::try_from(in_all).unwrap_or(u32::MAX);
            if reached < gap.up_to {
                break;
            }
            told.add(gap.kind, in_all);
            self.gaps.remove_first();
        }
        self.set_counts(self.counts().plus(counted));
        told
    }

    /// What has been counted so far.
    pub(in crate::state) fn counts(&self) -> Counted {
        let Self { missed, overlaps, elsewhere, .. } = *self;
        Counted { missed, overlaps, elsewhere }
    }

    /// Puts other counts in their place.
    pub(in crate::state) fn set_counts(&mut self, counts: Counted) {
        (self.missed, self.overlaps) = (counts.missed, counts.overlaps);
        self.elsewhere = counts.elsewhere;
    }

    /// Whether due times that were left out are still to be counted.
    pub fn has_uncounted(&self) -> bool {
        !self.gaps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::policy::due::Jittered;
    use crate::state::policy::due::tests::every;
    use crate::state::record::format::GAPS;

    /// The same due times, found one by one.
    struct OneByOne(Jittered);

    impl DueTimes for OneByOne {
        fn next(&self, after: UnixMs) -> Option<UnixMs> {
            self.0.next(after)
        }
        fn newest(&self, at: UnixMs) -> Option<UnixMs> {
            self.0.newest(at)
        }
        fn count(&self, after: UnixMs, up_to: UnixMs, most: u32) -> (u64, UnixMs) {
            crate::schedule::count_one_by_one(|after| self.next(after), after, up_to, most)
        }
        fn period_ms(&self, at: UnixMs) -> i64 {
            self.0.period_ms(at)
        }
        fn start(&self, due: UnixMs) -> UnixMs {
            self.0.start(due)
        }
    }

    #[test]
    fn what_is_found_one_by_one_is_counted_a_thousand_at_a_time_and_told_once() {
        let mut control = Control::new();
        let every = OneByOne(every(10));
        control.leave_out(&every, UnixMs(0), UnixMs(25_000), LeftOut::Missed);
        control.leave_out(&every, UnixMs(25_000), UnixMs(25_100), LeftOut::Overlap);
        assert_eq!(control.left_out_up_to, Some(UnixMs(25_100)));
        assert_eq!(control.count(&every), Counted::default());
        assert_eq!((control.missed, control.overlaps), (1000, 0));
        assert_eq!(control.count(&every), Counted::default());
        assert!(control.has_uncounted());
        assert_eq!(control.count(&every), Counted { missed: 2500, overlaps: 10, elsewhere: 0 });
        assert!(!control.has_uncounted());
        assert_eq!((control.missed, control.overlaps), (2500, 10));
    }

    #[test]
    fn a_fixed_rate_is_counted_at_once_however_long_it_stood_still() {
        let mut control = Control::new();
        let to_now = UnixMs(1_800_000_000_000);
        control.leave_out(&every(10), UnixMs(0), to_now, LeftOut::Missed);
        let missed = 180_000_000_000;
        assert_eq!(control.count(&every(10)), Counted { missed, ..Counted::default() });
        assert!(!control.has_uncounted());
    }

    #[test]
    fn stretches_that_touch_are_one_and_too_many_stop_nobody() {
        let mut control = Control::new();
        let every = OneByOne(every(10));
        for number in 0..100 {
            let (after, up_to) = (UnixMs(number * 50), UnixMs(number * 50 + 50));
            control.leave_out(&every, after, up_to, LeftOut::Missed);
        }
        assert_eq!(control.gaps.len(), 1);
        for number in 100..200 {
            let kind = if number % 2 == 0 { LeftOut::Overlap } else { LeftOut::Missed };
            let (after, up_to) = (UnixMs(number * 50), UnixMs(number * 50 + 50));
            control.leave_out(&every, after, up_to, kind);
        }
        assert_eq!(control.gaps.len(), GAPS);
        assert_eq!(control.left_out_up_to, Some(UnixMs(10_000)));
        while control.has_uncounted() {
            control.count(&every);
        }
        assert_eq!(control.missed + control.overlaps, 1000, "each is counted once");
    }
}
