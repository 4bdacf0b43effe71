//! Runs: why they take place, what is in progress, how it ended.

use std::fmt;
use std::time::Duration;

use crate::schedule::UnixMs;

/// The id of a run, the same for all its attempts; shown as 32 hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RunId(pub [u8; 16]);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which boot of the machine; a pid means something only together with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// Why a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// It is due.
    Schedule,
    /// `first=now`, and the state had never seen the timer.
    First,
    /// It was due while nobody was there, and is caught up with.
    Missed,
    /// It came due during the run before it, and was kept for afterwards.
    Queue,
    /// By an order.
    Manual,
}

/// How an attempt ended; a run ends as its last attempt did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A complete response with a status that counts as success.
    Success,
    /// Any other response.
    Failure,
    /// Cut off after `timer_timeout`.
    Timeout,
    /// Cut off by an order.
    Cancelled,
    /// Its process died, or was stopped by TERM or INT.
    Interrupted,
    /// It could not start or finish for lack of something.
    Error,
    /// The fleet's claim was won, but the run not started in time, or given up.
    Lost,
}

const TRIGGERS: [Trigger; 5] =
    [Trigger::Schedule, Trigger::First, Trigger::Missed, Trigger::Queue, Trigger::Manual];
pub(in crate::state) const OUTCOMES: [Outcome; 7] = [
    Outcome::Success,
    Outcome::Failure,
    Outcome::Timeout,
    Outcome::Cancelled,
    Outcome::Interrupted,
    Outcome::Error,
    Outcome::Lost,
];

impl Trigger {
    /// Whether the run is for no due time of the schedule.
    pub fn is_unscheduled(self) -> bool {
        matches!(self, Self::First | Self::Manual)
    }

    pub(in crate::state) fn code(self) -> u8 {
        self as u8
    }

    pub(in crate::state) fn from_code(code: u8) -> Self {
        TRIGGERS.get(usize::from(code)).copied().unwrap_or(Self::Schedule)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schedule => "schedule",
            Self::First => "first",
            Self::Missed => "missed",
            Self::Queue => "queue",
            Self::Manual => "manual",
        })
    }
}

impl Outcome {
    /// Whether it makes a row of failures longer.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Success | Self::Cancelled)
    }

    pub(in crate::state) fn code(self) -> u8 {
        self as u8
    }

    pub(in crate::state) fn from_code(code: u8) -> Self {
        OUTCOMES.get(usize::from(code)).copied().unwrap_or(Self::Error)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Error => "error",
            Self::Lost => "lost",
        })
    }
}

/// The newest due time ever taken, and the newest attempt for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark {
    /// The due time.
    pub due: UnixMs,
    /// Its attempt, 0 if the watermark was set without a run.
    pub attempt: u32,
}

/// An attempt that has been claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The run it belongs to.
    pub run: RunId,
    /// The run's due time; of a manual run the instant of the order.
    pub due: UnixMs,
    /// Why the run takes place.
    pub trigger: Trigger,
    /// Which attempt it is, from 1.
    pub number: u32,
    /// Whose.
    pub pid: u32,
    /// In which boot.
    pub boot: BootId,
    /// When the attempt started.
    pub started_at: UnixMs,
}

/// The id of a claim in a fleet: another one for each claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClaimId(pub [u8; 16]);

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A claim in a fleet that was won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetClaim {
    /// Its id.
    pub id: ClaimId,
    /// The revision at which it was made.
    pub created: u64,
    /// The fence of its newest attempt; 0 once its worker has said that it leaves it interrupted.
    pub fence: u64,
}

impl FleetClaim {
    /// Whether the worker that had it has said that it is interrupted.
    pub fn is_told(self) -> bool {
        self.fence == 0
    }
}

/// What a claim asks the fleet for; the same each time that it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its id.
    pub id: ClaimId,
    /// What it is for.
    pub kind: ClaimKind,
}

/// What a claim in a fleet is for, and what the fleet must be found to have unchanged for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// A due time.
    Due,
    /// A run by hand.
    Manual {
        /// The revision of the last result, 0 if there was none.
        result: u64,
    },
    /// One more attempt of a run whose host has died.
    Repetition {
        /// The revision of the due time that was taken last.
        last: u64,
    },
}

impl ClaimKind {
    /// The revision that must be found unchanged, as it stands in the file.
    pub(super) fn revision(self) -> u64 {
        match self {
            Self::Due => 0,
            Self::Manual { result } => result,
            Self::Repetition { last } => last,
        }
    }

    pub(super) fn of(trigger: Trigger, revision: u64) -> Self {
        match (trigger, revision) {
            (Trigger::Manual, result) => Self::Manual { result },
            (_, 0) => Self::Due,
            (_, last) => Self::Repetition { last },
        }
    }
}

/// What is in progress.
///
/// ```text
///            claim                    ended, to be repeated
/// Nothing ----------> Running -------------------------------> Waiting
///  ^ |  ^              |  ^  ^                                   | |
///  | |  +-- ended -----+  |  +---- claim of the next attempt ----+ |
///  +-|------- pause, cancel, or the next due time took over -------+
///    |                    |
///    +----> Claiming -----+
/// ```
///
/// `Running` while the run lock is free means that the process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No run.
    Nothing,
    /// An attempt is being made; its holder has the run lock.
    Running(Attempt),
    /// The attempt has ended and is to be repeated; the run lock is free, unless it is that of a fleet.
    Waiting(Attempt, Wait),
    /// The fleet is asked for it; who asks has the run lock. While that is free nobody asks, and the
    /// attempt was never started.
    Claiming(Attempt, Asked),
}

/// The time between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When the next attempt may start.
    pub next_at: UnixMs,
    /// How the last one ended.
    pub last: Ended,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its outcome.
    pub outcome: Outcome,
    /// The response's status, 0 if there was none.
    pub status: u16,
    /// How long it took, by a clock that nobody sets; kept in whole milliseconds.
    pub duration: Duration,
}

/// A run that has ended, as the record remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunResult {
    /// Its last attempt.
    pub attempt: Attempt,
    /// How that ended. The boot id is not kept.
    pub ended: Ended,
}
