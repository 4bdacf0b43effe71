//! What a claim depends on, and what becomes of it.

use super::engine::{Denial, Paused, View};
use super::instant::BootMs;
use super::values::{Done, Last, LastResult, Outcome, Revision, Run};
use crate::schedule::UnixMs;
use crate::state::{OpenEnd, OverlapPolicy};

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claimed {
    /// The run is ours.
    Won(Box<Won>),
    /// The same, too late to start it: it is lost, and [`Holding`](super::Holding) still ends it.
    WonTooLate(Box<Won>),
    /// It is not ours.
    Not(NotClaimed),
}

impl Claimed {
    /// What the record makes of it; `seen` is the due time that the fleet was seen to have taken last before.
    pub fn end(&self, seen: Option<UnixMs>) -> OpenEnd {
        let last = |won: &Won| won.last_before.as_ref().map(|last| last.due).or(seen);
        match self {
            Self::Won(won) => {
                OpenEnd::Won { created: won.created.0, fence: won.fence.0, last: last(won) }
            }
            Self::WonTooLate(won) => OpenEnd::Lost { last: last(won) },
            Self::Not(not) => match not {
                NotClaimed::Overlap(_) => {
                    OpenEnd::Overlap { policy: OverlapPolicy::Skip, last: seen }
                }
                NotClaimed::Lost => OpenEnd::Lost { last: seen },
                NotClaimed::Elsewhere { up_to, .. } => OpenEnd::Elsewhere { up_to: *up_to },
                NotClaimed::Paused(_) => OpenEnd::Paused { last: seen },
                NotClaimed::Missed => OpenEnd::Missed { last: seen },
                NotClaimed::Busy(_) | NotClaimed::Refused(_) => OpenEnd::Released,
            },
        }
    }
}

/// What became of a claim that was not won.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NotClaimed {
    /// A run is in progress; the due time is closed for the whole fleet.
    Overlap(Box<Run>),
    /// The next due time has come, and nothing runs; the due time is closed for the whole fleet.
    Missed,
    /// It was ours, and was taken away before it started.
    Lost,
    /// The fleet has handled all due times up to this one.
    Elsewhere {
        /// The newest of them.
        up_to: UnixMs,
        /// Whether this claim may have been won for a while.
        unknown: bool,
    },
    /// Nothing is claimed meanwhile; the due time is not counted.
    Paused(Paused),
    /// By hand: a run is in progress for too long. Of a repetition: somebody else was first.
    Busy(Option<Box<Run>>),
    /// The engine refuses; the due time stays open.
    Refused(Denial),
}

/// What a claim that was won has to go on with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Won {
    /// When `run` was made: what all that follows is conditional on.
    pub created: Revision,
    /// The revision of its last write that was answered.
    pub fence: Revision,
    /// When that write was sent.
    pub sent: BootMs,
    /// When this claim wrote `last`, if that is known.
    pub last_modified: Option<Revision>,
    /// `last` before this claim, if that is known: due times up to it were handled by the fleet.
    pub last_before: Option<Last>,
    /// The last run that ended.
    pub result: Option<LastResult>,
    /// The last scheduled run that ended.
    pub done: Option<Done>,
}

/// What is done while a run is in progress elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhileRunning {
    /// The due time is an overlap as soon as that run is known to be alive.
    Skip,
    /// The due time waits for its end, until the next one comes (`timer_overlap queue`).
    Queue,
}

/// What a claim depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimOptions {
    /// What is done while a run is in progress elsewhere.
    pub while_running: WhileRunning,
    /// The run that is known to be alive ([`Observing::alive`](super::Observing::alive)).
    pub alive: Option<Revision>,
    /// What `last` is at least if the engine has forgotten the timer, while an earlier due time is run: the
    /// newest due time before that of the claim, or the latter itself if it was missed already.
    pub if_forgotten: UnixMs,
    /// Whether it may have been sent before: by a worker that has left or died.
    pub sent_before: bool,
    /// Whatever differs from claim to claim.
    pub seed: u64,
}

/// The run that may be repeated, and when `last` was written for it: it was interrupted, nothing runs, there is
/// no pause, and of the attempts that `timer_retry` allows there is one more.
pub fn repetition(view: &View, attempts: u32) -> Option<(Last, Revision)> {
    let last = view.last.as_ref()?;
    let run = last.value.run?;
    let interrupted = match view.done.as_ref().map(|done| done.value) {
        Some(done) if done.run == run => done.outcome == Outcome::Interrupted,
        _ => true,
    };
    let may_be = view.run.is_none() && view.paused().is_none();
    (interrupted && may_be && last.value.attempt < attempts)
        .then(|| (last.value.clone(), last.modified))
}
