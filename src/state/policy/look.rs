//! The due times around an instant: found once per look, and then carried along.

use crate::schedule::UnixMs;

use super::due::DueTimes;

/// A due time, and when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The due time.
    pub due: UnixMs,
    /// Its start: later by the jitter.
    pub start: UnixMs,
}

/// The due times around an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// The one right before `started`, if that is known.
    before: Option<UnixMs>,
    /// The newest one that has started.
    pub started: Option<Due>,
    /// The one after it.
    pub next: Option<Due>,
}

impl Around {
    /// Those around `now`.
    pub fn at(due_times: &dyn DueTimes, now: UnixMs) -> Self {
        let due = |due| Due { due, start: due_times.start(due) };
        let newest = due_times.newest(now).map(due);
        let (started, next) = match newest {
            Some(newest) if newest.start > now => {
                // Its start is still to come, and that of the one before lies before it.
                (due_times.newest(UnixMs(newest.due.0.saturating_sub(1))).map(due), Some(newest))
            }
            _ => (newest, due_times.next(newest.map_or(now, |newest| newest.due)).map(due)),
        };
        Self { before: None, started, next }
    }

    /// Those around `now`, from those around an instant before: with one search, or none, unless the
    /// clock has jumped.
    #[must_use]
    pub fn moved_to(self, due_times: &dyn DueTimes, now: UnixMs) -> Self {
        let Some((started, next)) = self.started.zip(self.next) else {
            return Self::at(due_times, now);
        };
        if started.start <= now && now < next.start {
            return self;
        }
        let due = if now >= next.start { due_times.next(next.due) } else { None };
        if let Some(due) = due {
            let after = Due { due, start: due_times.start(due) };
            if now < after.start {
                return Self { before: Some(started.due), started: Some(next), next: Some(after) };
            }
        }
        Self::at(due_times, now)
    }
}

/// One look at a timer: an instant, and the due times around it.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// To find others by.
    pub due_times: &'a dyn DueTimes,
    /// Those around `now`.
    pub around: Around,
    /// When it takes place.
    pub now: UnixMs,
}

#[cfg(test)]
impl<'a> Look<'a> {
    /// A look at `now` by somebody who knows no due time yet.
    pub(in crate::state) fn at(due_times: &'a dyn DueTimes, now: UnixMs) -> Self {
        Self { due_times, around: Around::at(due_times, now), now }
    }
}

impl Look<'_> {
    /// The distance of the newest due time that has started and the one after it, in milliseconds.
    pub fn period_ms(&self) -> i64 {
        let both = self.around.started.zip(self.around.next);
        both.map_or(i64::MAX, |(started, next)| next.due.ms_since(started.due))
    }

    /// How late the newest due time that has started may be seen, in milliseconds, without being
    /// missed: 1 s, or a period.
    pub(in crate::state) fn missed_after_ms(&self) -> i64 {
        self.period_ms().min(1000)
    }

    /// The first due time later than `handled`, up to which all are handled.
    pub(in crate::state) fn first_after(&self, handled: UnixMs) -> Option<Due> {
        match (self.around.started, self.around.next) {
            (Some(started), Some(next)) if started.due <= handled && handled < next.due => {
                Some(next)
            }
            _ => {
                let due = self.due_times.next(handled)?;
                Some(Due { due, start: self.due_times.start(due) })
            }
        }
    }

    /// Whether no due time lies between `handled` and the newest one that has started.
    pub(in crate::state) fn follows(&self, handled: UnixMs, due: UnixMs) -> bool {
        let known = self.around.started.is_some_and(|started| started.due == due)
            && self.around.before.is_some_and(|before| before <= handled);
        known || self.due_times.next(handled).is_none_or(|next| next >= due)
    }
}

/// The newest due time whose start time is not later than `now`.
pub(crate) fn newest_started(due_times: &dyn DueTimes, now: UnixMs) -> Option<UnixMs> {
    Around::at(due_times, now).started.map(|started| started.due)
}
