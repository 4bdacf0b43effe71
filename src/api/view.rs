//! What there is to be seen of a timer: its configuration, its record and the clock.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::schedule::UnixMs;
use crate::state::{DueTimes, Jittered, LastResult, Progress, Reading, RunResult, Scheduled};

/// A timer, as the configuration has it.
#[derive(Clone, Debug)]
pub(super) struct Configured {
    pub(super) name: String,
    pub(super) due_times: Jittered,
    pub(super) scheduled: Scheduled,
    pub(super) worker: AssignedTo,
    pub(super) server: String,
    pub(super) location: String,
    /// `FILE:LINE`.
    pub(super) config: String,
    pub(super) timeout: Duration,
}

/// Which worker arms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AssignedTo {
    /// The one in this slot.
    Slot(usize),
    /// Any.
    Any,
}

/// How a timer is, the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Its attempt has exceeded its timeout by 10 s.
    Stuck,
    /// A run is in progress; it may wait for its next attempt.
    Running,
    /// `enabled=off`.
    Disabled,
    /// It is paused, or all timers are.
    Paused,
    /// It is more than 5 s behind the start of its next due time.
    Late,
    /// None of these.
    Idle,
    /// Its record cannot be read.
    Unknown,
}

/// One look at a timer.
pub(super) struct View<'a> {
    pub(super) timer: &'a Configured,
    /// `None`: somebody was writing each time that it was read.
    pub(super) reading: Option<Reading>,
    pub(super) now: UnixMs,
    /// Reads the results of its last runs, newest first.
    pub(super) results: &'a dyn Fn(&Reading) -> Vec<RunResult>,
}

const STUCK_AFTER: Duration = Duration::from_secs(10);
const LATE_AFTER: Duration = Duration::from_secs(5);
/// So many failures in a row are not well.
const FAILING: u32 = 3;

impl View<'_> {
    /// The results of its last runs, newest first.
    pub(super) fn results(&self) -> Vec<RunResult> {
        self.reading.as_ref().map_or_else(Vec::new, self.results)
    }

    /// The newest of them.
    pub(super) fn last(&self) -> Option<LastResult> {
        self.reading.as_ref()?.claim.last_result
    }

    /// How it is.
    pub(super) fn status(&self) -> Status {
        let Some(reading) = &self.reading else { return Status::Unknown };
        match reading.claim.progress {
            Progress::Running(_) if self.stuck_for().is_some() => Status::Stuck,
            Progress::Running(_) | Progress::Waiting(..) => Status::Running,
            Progress::Nothing if self.timer.scheduled == Scheduled::Off => Status::Disabled,
            Progress::Nothing if reading.is_paused(self.now) => Status::Paused,
            Progress::Nothing if self.late_by() > LATE_AFTER => Status::Late,
            Progress::Nothing => Status::Idle,
        }
    }

    /// How long its attempt has been going on, if that is too long.
    pub(super) fn stuck_for(&self) -> Option<Duration> {
        let Progress::Running(attempt) = self.reading.as_ref()?.claim.progress else { return None };
        let since = self.now.since(attempt.started_at);
        (since > self.timer.timeout.saturating_add(STUCK_AFTER)).then_some(since)
    }

    /// The first due time that has not been handled; none while it is paused or disabled.
    pub(super) fn next_due(&self) -> Option<UnixMs> {
        if self.timer.scheduled == Scheduled::Off {
            return None;
        }
        self.reading.as_ref()?.next_due(&self.timer.due_times, self.now)
    }

    /// How far it is behind the start of that.
    pub(super) fn late_by(&self) -> Duration {
        self.next_due()
            .filter(|due| *due < self.now)
            .map_or(Duration::ZERO, |due| self.now.since(self.timer.due_times.start(due)))
    }

    /// How many of its runs in a row were no success, if those are so many that it is not well.
    pub(super) fn failing(&self) -> Option<u32> {
        let failures = self.reading.as_ref()?.claim.consecutive_failures;
        (failures >= FAILING).then_some(failures)
    }

    /// Whether its status is `late`, or would be if it were not running.
    pub(super) fn is_late(&self) -> bool {
        self.late_by() > LATE_AFTER
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stuck => "stuck",
            Self::Running => "running",
            Self::Disabled => "disabled",
            Self::Paused => "paused",
            Self::Late => "late",
            Self::Idle => "idle",
            Self::Unknown => "unknown",
        })
    }
}
