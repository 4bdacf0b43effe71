//! What is asked of the engine that decides for a fleet, and what it answers.
//!
//! Each [`Ask`] is one transaction: its conditions and its changes hold together or not at all, and where
//! the conditions do not hold, the answer says what stands there instead.

use std::fmt;

use super::values::{
    ClaimId, ClaimRequest, Done, Last, LastResult, Pause, Revision, Run, Versioned,
};
use crate::schedule::UnixMs;
use crate::state::Trigger;

/// One transaction about one timer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Changes nothing.
    Read,
    /// If the timer is unknown, and no run has begun or ended since: `last` is this.
    Init {
        /// When the run was made that is there, zero if there is none.
        run_created: Revision,
        /// When `result` was written, zero if it is missing.
        result_modified: Revision,
        /// What `last` is then.
        last: Last,
    },
    /// If nothing runs, the due time is newer than `last`, and there is no pause: `run` and `last` are this
    /// claim's. A repetition has another condition than the due time, a claim by hand neither.
    Claim {
        /// The claim.
        claim: ClaimRequest,
        /// By hand: when `result` was last written.
        result_modified: Revision,
    },
    /// If nothing runs and `last` has not been written since: `run` and `last` are this claim's again.
    ClaimAgain {
        /// The claim.
        claim: ClaimRequest,
        /// When it was written.
        last_modified: Revision,
    },
    /// If this very run is there: it beats.
    Beat {
        /// The run.
        run: Run,
        /// When it was made.
        created: Revision,
    },
    /// If this very run is there, and `last` has not been written since: both say the next attempt.
    Attempt {
        /// The claim, with the number of that attempt.
        claim: ClaimRequest,
        /// When the run was made.
        created: Revision,
        /// When `last` was written.
        last_modified: Revision,
        /// How many beats there were.
        beat: u32,
    },
    /// If this very run is there: it has ended.
    End {
        /// When it was made.
        created: Revision,
        /// How it ended. By hand it leaves `done` alone.
        result: LastResult,
    },
    /// A due time gets no run: `last` is this.
    Close {
        /// When the run was made that is there, zero if there is none.
        created: Revision,
        /// What `last` is then. Its due time has to be newer than that of the present one.
        last: Last,
    },
    /// If `last` has not been written since: it is written once more, as it is.
    CloseRepetition {
        /// When it was written.
        last_modified: Revision,
        /// What it is.
        last: Last,
    },
    /// If this run has not been written since: it is removed, and `result` says how it ended.
    Remove {
        /// When it was written.
        modified: Revision,
        /// How it ended.
        result: LastResult,
        /// Whether `done` says so, too.
        is_last: bool,
    },
    /// Nothing is claimed from now on.
    Pause(Scope, Pause),
    /// If none of `last` was written since: the pause ends.
    Resume {
        /// Which.
        scope: Scope,
        /// What `last` of each timer is then, and when it was written.
        timers: Vec<(String, Revision, Last)>,
        /// Whether the pause is removed with it: in the last part of a resume that is too big for one.
        ends: bool,
    },
    /// If `last` has not been written since: it is this, and what is not readable is removed.
    Reset {
        /// When it was written, zero if it is missing.
        last_modified: Revision,
        /// What it is then.
        last: Last,
        /// Another key whose value is not ours, and when it was written.
        removes: Option<(&'static str, Revision)>,
    },
}

/// What a pause is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One timer.
    Timer,
    /// All timers of the fleet.
    Fleet,
}

/// What stands in the engine about a timer, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// That revision.
    pub revision: Revision,
    /// The run that is in progress.
    pub run: Option<Versioned<Run>>,
    /// The newest due time that was taken.
    pub last: Option<Versioned<Last>>,
    /// How the last scheduled run ended.
    pub done: Option<Versioned<Done>>,
    /// How the last run ended.
    pub result: Option<Versioned<LastResult>>,
    /// The timer's pause.
    pub pause: Option<Versioned<Pause>>,
    /// The fleet's pause.
    pub fleet_pause: Option<Versioned<Pause>>,
}

/// By which pause a timer is paused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Paused {
    /// Whose pause it is.
    pub scope: Scope,
    /// The pause.
    pub pause: Pause,
}

impl View {
    /// The pause that keeps due times from being claimed.
    pub fn paused(&self) -> Option<Paused> {
        let of = |pause: &Option<Versioned<Pause>>, scope| {
            pause.as_ref().map(|pause| Paused { scope, pause: pause.value.clone() })
        };
        of(&self.fleet_pause, Scope::Fleet).or_else(|| of(&self.pause, Scope::Timer))
    }

    /// Whether this claim wrote `last`.
    pub fn is_last(&self, claim: ClaimId) -> bool {
        self.last.as_ref().is_some_and(|last| last.value.claim == Some(claim))
    }

    /// The newest due time that was taken.
    pub fn due(&self) -> Option<UnixMs> {
        self.last.as_ref().map(|last| last.value.due)
    }

    /// The same, if it is older than this one: what a claim of it finds.
    pub fn due_before(&self, due: UnixMs) -> Option<UnixMs> {
        self.due().filter(|last| *last < due)
    }

    /// Makes `last` anew, if all is still as it was seen here.
    pub fn init(&self, last: Last) -> Ask {
        Ask::Init {
            run_created: self.run.as_ref().map_or(Revision(0), |run| run.created),
            result_modified: self.result.as_ref().map_or(Revision(0), |result| result.modified),
            last,
        }
    }

    /// The due time of the run that is in progress, unless that is by hand.
    pub fn running(&self) -> Option<UnixMs> {
        let run = self.run.as_ref().map(|run| &run.value);
        run.filter(|run| run.trigger != Trigger::Manual).map(|run| run.due)
    }

    /// The newest due time that was run, as far as the runs show it: one that is in progress, and the last one
    /// that has ended, unless that was by hand.
    pub fn newest_run(&self) -> Option<UnixMs> {
        let result = self.result.as_ref().map(|result| &result.value);
        let ended = result.filter(|result| result.trigger != Trigger::Manual);
        self.running().max(ended.map(|result| result.due))
    }
}

/// What the engine says to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The conditions held, and all is written.
    Applied(Box<Applied>),
    /// They did not, and nothing is written by this copy; or nothing was to be written ([`Ask::Read`]).
    Seen(Box<View>),
    /// The engine refuses, and has done nothing with this copy, unless [`Denial::may_be_applied`].
    Denied(Denial),
    /// Anything else: it may have been applied, it may be applied later, or never.
    Unknown,
}

/// What an applied transaction answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Applied {
    /// At which revision.
    pub revision: Revision,
    /// Of a claim: `last` as it was before.
    pub last_before: Option<Last>,
    /// Of a claim: the last run that ended.
    pub result: Option<LastResult>,
    /// Of a claim: the last scheduled run that ended.
    pub done: Option<Done>,
}

/// Why the engine refuses. What it displays is a fragment of a log line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// It has to be authenticated, or to be again.
    Unauthenticated,
    /// The user has no right to it, or may not be authenticated.
    Forbidden(String),
    /// The request is none that the engine knows.
    Invalid(String),
    /// No such path.
    NoGateway,
    /// Nothing can be written: the quota of the disk is used up.
    NoSpace,
    /// Revisions are smaller than they were.
    RevisionsWentBack,
    /// It is another cluster than before.
    OtherCluster,
    /// A key under the prefix has a value that is not ours.
    Foreign {
        /// Which.
        key: &'static str,
        /// When it was written, if it is another one than `last`.
        modified: Option<Revision>,
        /// When `last` was written, zero if it is missing.
        last_modified: Revision,
        /// The newest due time that was taken, if that is readable.
        last_due: Option<UnixMs>,
    },
    /// The newest due time that was taken lies too far ahead of the engine's time.
    LastAhead {
        /// That due time.
        due: UnixMs,
    },
}

impl Denial {
    /// Whether the transaction may have been applied all the same. That of a restored copy was; and etcd 3.4
    /// applies the one that fills the quota, and answers it like those that come later (`quotaApplierV3` in
    /// etcdserver/apply.go).
    pub fn may_be_applied(&self) -> bool {
        matches!(self, Self::RevisionsWentBack | Self::OtherCluster | Self::NoSpace)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthenticated => f.write_str("authentication is required"),
            Self::Forbidden(message) | Self::Invalid(message) => f.write_str(message),
            Self::NoGateway => f.write_str("JSON gateway is off"),
            Self::NoSpace => f.write_str("database space exceeded"),
            Self::RevisionsWentBack => f.write_str("revisions have gone back"),
            Self::OtherCluster => f.write_str("cluster is another one"),
            Self::Foreign { key, .. } => write!(f, "value of \"{key}\" is not readable"),
            Self::LastAhead { due } => {
                write!(f, "newest due time {due} is ahead of the cluster's time")
            }
        }
    }
}

/// What each answer of the engine says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Header {
    /// Which cluster: revisions of two clusters cannot be compared.
    pub cluster: u64,
    /// Which member answers.
    pub member: u64,
    /// The revision of the answer.
    pub revision: Revision,
}

/// An answer that was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decoded {
    /// Its header, if it has one.
    pub header: Option<Header>,
    /// What it says.
    pub answer: Answer,
}

/// A request to be made: a POST with a JSON body.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The path.
    pub path: &'static str,
    /// The body.
    pub body: String,
}

/// A response that has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: &'a [u8],
}

/// The most timers that are read at once.
pub const MOST_READ: usize = 12;
/// The most bytes of a response that is read.
pub const MOST_BYTES: usize = 64 * 1024;

/// An engine's language.
pub trait Engine {
    /// The request for a transaction about a timer.
    fn request(&self, timer: &str, ask: &Ask) -> Request;
    /// What the response to it says.
    fn decode(&self, ask: &Ask, response: Response<'_>) -> Decoded;
    /// The request that reads several timers, at most [`MOST_READ`].
    fn read_many(&self, timers: &[&str]) -> Request;
    /// What the response to it says: an answer for each timer, in that order; or one for all.
    fn decode_many(
        &self,
        timers: usize,
        response: Response<'_>,
    ) -> (Option<Header>, Result<Vec<Answer>, Answer>);
    /// The request for a token.
    fn authenticate(&self, user: &str, password: &str) -> Request;
    /// The token in its response, to be sent in the header `Authorization`.
    fn token(&self, response: Response<'_>) -> Result<String, Answer>;
}
