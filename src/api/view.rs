//! What there is to be seen of a timer: its configuration, its record and the clock.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::fleet::FleetView;
use crate::schedule::UnixMs;
use crate::state::{
    DueTimes, Jittered, LastResult, Paused, Progress, Reading, RunResult, Scheduled,
};

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
    /// So many failures in a row are not well.
    pub(super) unhealthy_after: u32,
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
    /// It is paused, or all timers are, on this host or in the fleet.
    Paused,
    /// It is more than 5 s behind the start of its next due time.
    Late,
    /// None of these.
    Idle,
    /// Its record cannot be read.
    Unknown,
}

/// How well a timer is, the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TimerHealth {
    /// Its record cannot be read.
    Unknown,
    /// Its attempt has exceeded its timeout by 10 s.
    Stuck,
    /// It is more than 5 s behind the start of its next due time.
    Late,
    /// As many of its runs in a row failed as `timer_unhealthy_after` says.
    Failing,
    /// The last run that was not cancelled failed.
    Failed,
    /// None of these.
    Ok,
}

impl TimerHealth {
    /// All of them, the first that fits first.
    pub(super) const ALL: [Self; 6] =
        [Self::Unknown, Self::Stuck, Self::Late, Self::Failing, Self::Failed, Self::Ok];

    /// Whether `health` answers 200: a single failure may be made up for by the next run.
    pub(super) fn is_well(self) -> bool {
        matches!(self, Self::Failed | Self::Ok)
    }
}

/// One look at a timer.
pub(super) struct View<'a> {
    pub(super) timer: &'a Configured,
    /// `None`: somebody was writing each time that it was read.
    pub(super) reading: Option<Reading>,
    pub(super) now: UnixMs,
    /// Reads the results of its last runs, newest first.
    pub(super) results: &'a dyn Fn(&Reading) -> Vec<RunResult>,
    /// Reads the text of its last failure.
    pub(super) failure_text: &'a dyn Fn(&Reading) -> Option<String>,
    /// Its fleet, if it is in one.
    pub(super) fleet: Option<&'a FleetView>,
}

const STUCK_AFTER: Duration = Duration::from_secs(10);
const LATE_AFTER: Duration = Duration::from_secs(5);

impl View<'_> {
    /// The results of its last runs, newest first.
    pub(super) fn results(&self) -> Vec<RunResult> {
        self.reading.as_ref().map_or_else(Vec::new, self.results)
    }

    /// The newest of them.
    pub(super) fn last(&self) -> Option<LastResult> {
        let elsewhere = self.fleet.and_then(FleetView::last);
        let here = self.own_last();
        match (here, elsewhere) {
            // What ended here says its status, too.
            (Some(here), Some(elsewhere)) if here.started_at >= elsewhere.started_at => Some(here),
            (here, elsewhere) => elsewhere.or(here),
        }
    }

    /// The newest of those that this host has made.
    pub(super) fn own_last(&self) -> Option<LastResult> {
        self.reading.as_ref()?.claim.last_result
    }

    /// How it is.
    pub(super) fn status(&self) -> Status {
        let Some(reading) = &self.reading else { return Status::Unknown };
        match reading.claim.progress {
            Progress::Running(_) if self.stuck_for().is_some() => Status::Stuck,
            Progress::Running(_) | Progress::Waiting(..) => Status::Running,
            _ if self.timer.scheduled == Scheduled::Off => Status::Disabled,
            _ if reading.is_paused(self.now) || self.fleet_pause().is_some() => Status::Paused,
            _ if self.late_by() > LATE_AFTER => Status::Late,
            Progress::Nothing | Progress::Claiming(..) => Status::Idle,
        }
    }

    /// The pause that keeps its fleet from running it.
    pub(super) fn fleet_pause(&self) -> Option<Paused> {
        self.fleet.and_then(|fleet| fleet.paused(self.now))
    }

    /// How well it is.
    pub(super) fn health(&self) -> TimerHealth {
        if self.reading.is_none() {
            TimerHealth::Unknown
        } else if self.stuck_for().is_some() {
            TimerHealth::Stuck
        } else if self.is_late() {
            TimerHealth::Late
        } else if self.failures() >= self.timer.unhealthy_after {
            TimerHealth::Failing
        } else if self.failures() > 0 {
            TimerHealth::Failed
        } else {
            TimerHealth::Ok
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
        if self.timer.scheduled == Scheduled::Off || self.fleet_pause().is_some() {
            return None;
        }
        self.reading.as_ref()?.next_due(&self.timer.due_times, self.now)
    }

    /// The instant after which its due times are to come: now, or the end of a pause; `None` if it is
    /// disabled, or paused without end.
    pub(super) fn due_after(&self) -> Option<UnixMs> {
        let reading = self.reading.as_ref().filter(|_| self.timer.scheduled == Scheduled::On)?;
        let pauses = [reading.control.paused, reading.header.paused, self.fleet_pause()];
        let holding = pauses.into_iter().flatten().filter(|paused| paused.holds(self.now));
        holding
            .map(|paused| paused.until)
            .try_fold(self.now, |after, until| Some(after.max(until?)))
    }

    /// Its next due times, `count` at most.
    pub(super) fn next_due_times(&self, count: usize) -> Vec<UnixMs> {
        let schedule = &self.timer.due_times.schedule;
        let next = |after: UnixMs| schedule.next(after).filter(|due| due.is_in_calendar());
        let first = self.due_after().and_then(next);
        std::iter::successors(first, |due| next(*due)).take(count).collect()
    }

    /// How far it is behind the start of its first due time that has not been handled.
    pub(super) fn late_by(&self) -> Duration {
        self.next_due()
            .filter(|due| *due < self.now)
            .map_or(Duration::ZERO, |due| self.now.since(self.timer.due_times.start(due)))
    }

    /// How many of its runs in a row failed, without those that were cancelled.
    pub(super) fn failures(&self) -> u32 {
        match self.fleet.and_then(FleetView::result) {
            Some(result) => result.consecutive_failures,
            None => self.reading.as_ref().map_or(0, |it| it.claim.consecutive_failures),
        }
    }

    /// Start of the last success.
    pub(super) fn last_success(&self) -> Option<UnixMs> {
        match self.fleet.and_then(FleetView::result) {
            Some(result) => result.last_success_at.map(super::fleet::in_calendar),
            None => self.reading.as_ref()?.claim.last_success_at,
        }
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

impl fmt::Display for TimerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Stuck => "stuck",
            Self::Late => "late",
            Self::Failing => "failing",
            Self::Failed => "failed",
            Self::Ok => "ok",
        })
    }
}
