//! What the store reports to the log. It writes no line itself.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use crate::os::call::Call as Action;
use crate::schedule::UnixMs;

use super::store::Health;
use crate::state::policy::left_out::Counted;
use crate::state::record::header::Bad;
use crate::state::record::run::{Attempt, RunId};

/// Something an administrator should read; the caller puts it into nginx's words and limits how
/// often.
#[derive(Debug)]
pub enum Notice {
    /// crit: the file was bad, was moved to `moved_to`, and a new one was made.
    MovedAside {
        /// Where it is now.
        moved_to: PathBuf,
        /// What was wrong with it.
        bad: Bad,
    },
    /// crit: the file was bad and could not be renamed; it has a new header, and keeps the records
    /// that are whole.
    Rewritten {
        /// What was wrong with it.
        bad: Bad,
        /// Where what it was is now, if that could be kept.
        copied_to: Option<PathBuf>,
    },
    /// crit: the file is bad, but another master uses it, or it could not be moved: this master
    /// works in memory.
    NotMoved {
        /// What is wrong with it.
        bad: Bad,
        /// Why it is still there.
        error: Option<io::Error>,
    },
    /// warn: masters of an older module use the file, which stays as it is until they have gone; no
    /// timer runs here.
    Waits,
    /// crit: somebody deleted or replaced the file; its records were written into the new one.
    Replaced,
    /// The state is kept in memory instead of in the file. Warn where that is as good, except
    /// restarts; crit where the state is degraded.
    InMemory {
        /// What failed.
        action: Action,
        /// Why.
        error: io::Error,
        /// What is to be thought of the state.
        health: Health,
    },
    /// warn: memory, too, is a file, in a directory and without a name.
    Unlinked {
        /// What failed.
        action: Action,
        /// Why.
        error: io::Error,
    },
    /// crit: there is no memory for the state, either; all timers are degraded.
    Nowhere {
        /// What failed.
        action: Action,
        /// Why.
        error: io::Error,
    },
    /// warn: the file could not be given to the workers, who use the master's descriptor.
    NotOwned {
        /// What failed.
        action: Action,
        /// Why.
        error: io::Error,
    },
    /// crit: another master has held the header lock for 2 s; timers without a record are
    /// degraded.
    HeaderLocked,
    /// crit, once a minute: reading, writing or locking the file failed; the state is degraded.
    Failed {
        /// What failed.
        action: Action,
        /// Why.
        error: io::Error,
    },
    /// warn: the record of this timer was damaged; it starts anew.
    Damaged {
        /// The timer.
        name: Arc<str>,
    },
    /// warn: what holds for all timers was damaged; a pause of all is forgotten.
    HeaderDamaged,
    /// error: the record belongs to another timer by now; the timer runs without one.
    Lost {
        /// The timer.
        name: Arc<str>,
    },
    /// warn: an instant of the record lay this far ahead of the clock.
    ClockSetBack {
        /// The timer.
        name: Arc<str>,
        /// By how much.
        by_ms: i64,
    },
    /// error: the process that made this attempt has died.
    Interrupted {
        /// The timer.
        name: Arc<str>,
        /// Its attempt.
        attempt: Attempt,
        /// When it is repeated, if it is.
        retry_at: Option<UnixMs>,
        /// How many attempts there are in all.
        attempts: u32,
    },
    /// error: a living process has had a run of this timer for too long, and no lock tells whether it
    /// still has: it is not waited for any more.
    TakenOver {
        /// The timer.
        name: Arc<str>,
        /// The process.
        pid: u32,
        /// For how long.
        since: Duration,
    },
    /// Due times that had no run were counted (error, or warn where one runs for all).
    LeftOut {
        /// The timer.
        name: Arc<str>,
        /// How many.
        counted: Counted,
    },
    /// error: an edit lock was refused for too long while a timer was loaded.
    NotLoaded {
        /// The timer.
        name: Arc<str>,
    },
    /// error: an edit lock was refused for too long while due times were to be left out.
    NotCounted {
        /// The timer.
        name: Arc<str>,
    },
    /// notice: the schedule differs from the one that was loaded before.
    ScheduleChanged {
        /// The timer.
        name: Arc<str>,
    },
    /// warn: the timer is paused, and was before this start.
    IsPaused {
        /// The timer; `None` for the pause of all.
        name: Option<Arc<str>>,
        /// Since when.
        since: UnixMs,
    },
    /// error: an order that no worker took in time was dropped.
    OrderDropped {
        /// The timer.
        name: Arc<str>,
        /// The run that will not be.
        run: RunId,
    },
}

impl Notice {
    /// The timer that it concerns.
    pub fn timer(&self) -> Option<&str> {
        match self {
            Self::MovedAside { .. }
            | Self::Rewritten { .. }
            | Self::NotMoved { .. }
            | Self::Waits
            | Self::Replaced
            | Self::InMemory { .. }
            | Self::Unlinked { .. }
            | Self::Nowhere { .. }
            | Self::NotOwned { .. }
            | Self::HeaderLocked
            | Self::Failed { .. }
            | Self::HeaderDamaged => None,
            Self::IsPaused { name, .. } => name.as_deref(),
            Self::Damaged { name }
            | Self::Lost { name }
            | Self::ClockSetBack { name, .. }
            | Self::Interrupted { name, .. }
            | Self::LeftOut { name, .. }
            | Self::TakenOver { name, .. }
            | Self::NotLoaded { name }
            | Self::NotCounted { name }
            | Self::ScheduleChanged { name }
            | Self::OrderDropped { name, .. } => Some(name),
        }
    }
}

/// A system call that failed.
#[derive(Debug)]
pub(in crate::state) struct Failure {
    pub(in crate::state) action: Action,
    pub(in crate::state) error: io::Error,
}

impl Action {
    /// Says that this is the call that failed.
    pub(in crate::state) fn failed(self) -> impl Fn(io::Error) -> Failure {
        move |error| Failure { action: self, error }
    }
}

impl From<Failure> for Notice {
    fn from(failure: Failure) -> Self {
        Self::Failed { action: failure.action, error: failure.error }
    }
}
