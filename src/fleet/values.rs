//! What the engine keeps of a timer.

use std::str::FromStr;
use std::time::Duration;

use crate::schedule::UnixMs;
pub use crate::state::{ClaimId, Outcome};
use crate::state::{RunId, Trigger};

/// A number that the engine gives each of its changes; it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A value, and the revisions at which its key was made and last written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// When the key was made.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
}

/// What a host is called: 1 to 64 characters of `A-Za-z0-9._-`. Nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node(String);

/// The most characters of a node's name.
const NODE_CHARS: usize = 64;

impl Default for Node {
    fn default() -> Self {
        Self("localhost".to_owned())
    }
}

impl Node {
    /// The name, if it is one.
    pub fn parse(name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_one = (1..=NODE_CHARS).contains(&name.len()) && name.bytes().all(allowed);
        is_one.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a claim is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimKind {
    /// For a due time.
    Due,
    /// By an order; no due time is taken.
    ByHand,
    /// One more attempt of a run that was interrupted.
    Repetition {
        /// When `last`, which names that run, was written.
        last_modified: Revision,
    },
}

/// A claim as it is sent, again and again, until its answer is definite. The record of the host keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRequest {
    /// Its identity, the same each time it is sent.
    pub id: ClaimId,
    /// Why it is made.
    pub kind: ClaimKind,
    /// The run it is for.
    pub run: RunId,
    /// The run's due time; by hand, the instant of the order.
    pub due: UnixMs,
    /// Which attempt of the run comes first, from 1.
    pub attempt: u32,
    /// Why the run takes place.
    pub trigger: Trigger,
    /// When the claim was made, by the host's wall clock.
    pub started_at: UnixMs,
    /// Whose.
    pub node: Node,
    /// After how long without a beat others remove the run.
    pub ttl: Duration,
    /// A hash of the schedule.
    pub schedule: u64,
}

/// `last`: the newest due time that was claimed, closed or passed over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Last {
    /// The due time.
    pub due: UnixMs,
    /// The newest attempt for it, 0 if it was closed without a run.
    pub attempt: u32,
    /// Its run; `None` if there is none.
    pub run: Option<RunId>,
    /// The claim that wrote it; `None` if no claim did.
    pub claim: Option<ClaimId>,
    /// Whose.
    pub node: Node,
    /// The hash of the schedule there.
    pub schedule: u64,
}

/// `run`: a run that is in progress somewhere, or whose holder has died.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The claim that holds it.
    pub claim: ClaimId,
    /// Its id.
    pub id: RunId,
    /// The host.
    pub node: Node,
    /// Its due time.
    pub due: UnixMs,
    /// Its attempt.
    pub attempt: u32,
    /// Why it takes place.
    pub trigger: Trigger,
    /// After how long without a beat it may be removed.
    pub ttl: Duration,
    /// How many beats there were.
    pub beat: u32,
    /// When it was claimed, by the holder's wall clock.
    pub started_at: UnixMs,
}

/// `done`: how the last scheduled run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Done {
    /// The run.
    pub run: RunId,
    /// Its claim.
    pub claim: ClaimId,
    /// How it ended.
    pub outcome: Outcome,
}

/// `result`: the last run that ended, of any trigger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LastResult {
    /// Its claim.
    pub claim: ClaimId,
    /// The run.
    pub run: RunId,
    /// The host.
    pub node: Node,
    /// Its due time.
    pub due: UnixMs,
    /// Its last attempt.
    pub attempt: u32,
    /// Why it took place.
    pub trigger: Trigger,
    /// How it ended.
    pub outcome: Outcome,
    /// When its last attempt started, by the holder's wall clock.
    pub started_at: UnixMs,
    /// How long that took.
    pub duration: Duration,
    /// When the last success started.
    pub last_success_at: Option<UnixMs>,
    /// How many runs have failed in a row.
    pub consecutive_failures: u32,
}

/// `pause`: no due time is claimed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pause {
    /// Who paused it.
    pub node: Node,
    /// Since when.
    pub since: UnixMs,
    /// Until when; `None` for until it is resumed.
    pub until: Option<UnixMs>,
}

impl Run {
    /// That of a claim, after so many beats.
    pub fn of(claim: &ClaimRequest, beat: u32) -> Self {
        Self {
            claim: claim.id,
            id: claim.run,
            node: claim.node.clone(),
            due: claim.due,
            attempt: claim.attempt,
            trigger: claim.trigger,
            ttl: claim.ttl,
            beat,
            started_at: claim.started_at,
        }
    }
}

impl Last {
    /// That of a claim.
    pub fn of(claim: &ClaimRequest) -> Self {
        Self {
            due: claim.due,
            attempt: claim.attempt,
            run: Some(claim.run),
            claim: Some(claim.id),
            node: claim.node.clone(),
            schedule: claim.schedule,
        }
    }

    /// Where no run is meant: of a timer that is new, resumed or reset.
    pub fn without_run(due: UnixMs, node: Node, schedule: u64) -> Self {
        Self { due, attempt: 0, run: None, claim: None, node, schedule }
    }

    /// That of a claim whose due time gets no run.
    pub fn closed_by(claim: &ClaimRequest) -> Self {
        Self { attempt: 0, run: None, ..Self::of(claim) }
    }
}

impl Done {
    /// That of a scheduled run that has ended so.
    pub fn of(result: &LastResult) -> Self {
        Self { run: result.run, claim: result.claim, outcome: result.outcome }
    }
}

impl LastResult {
    /// That of a run which has ended so, after the one `before` it.
    pub fn of(
        run: &Run,
        before: Option<&Self>,
        outcome: Outcome,
        started_at: UnixMs,
        duration: Duration,
    ) -> Self {
        let (last_success_at, failures) = before
            .map_or((None, 0), |before| (before.last_success_at, before.consecutive_failures));
        let is_success = outcome == Outcome::Success;
        Self {
            claim: run.claim,
            run: run.id,
            node: run.node.clone(),
            due: run.due,
            attempt: run.attempt,
            trigger: run.trigger,
            outcome,
            started_at,
            duration,
            last_success_at: if is_success { Some(started_at) } else { last_success_at },
            consecutive_failures: match outcome {
                Outcome::Success => 0,
                _ => failures.saturating_add(u32::from(outcome.is_failure())),
            },
        }
    }
}

const OUTCOMES: [(Outcome, &str); 7] = [
    (Outcome::Success, "success"),
    (Outcome::Failure, "failure"),
    (Outcome::Timeout, "timeout"),
    (Outcome::Cancelled, "cancelled"),
    (Outcome::Interrupted, "interrupted"),
    (Outcome::Error, "error"),
    (Outcome::Lost, "lost"),
];

impl FromStr for Outcome {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        OUTCOMES.iter().find(|(_, known)| *known == name).map(|(outcome, _)| *outcome).ok_or(())
    }
}
