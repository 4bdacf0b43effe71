//! Once per fleet: which one of several hosts runs a timer at a due time.
//!
//! An engine outside decides by transactions; [`engine`] says what is asked of it and what it answers,
//! and [`etcd`] is the one implementation. The protocol is three machines that do no I/O and read no
//! clock: [`Claiming`] sends a claim until its answer is definite, [`Holding`] keeps a run that was won and
//! ends it, [`Observing`] removes a run whose holder has died. `docs/protocol.md` has the rules.
#![forbid(unsafe_code)]

mod claimed;
mod claiming;
mod clock;
mod engine;
mod etcd;
mod holding;
mod instant;
mod observing;
mod revisions;
#[cfg(test)]
mod tests;
mod values;

pub use claimed::{ClaimOptions, Claimed, NotClaimed, WhileRunning, Won, repetition};
pub use claiming::Claiming;
pub use clock::{AHEAD_MS, EngineClock};
pub use engine::{
    Answer, Ask, Decoded, Denial, Engine, Header, MOST_BYTES, MOST_READ, Request, Response, Scope,
    View,
};
pub use etcd::Etcd;
pub use holding::{AttemptEnded, Held, Holding};
pub use instant::{BootMs, Do};
pub use observing::{Observed, Observing};
pub use revisions::{Newest, RevisionSays, judge_header};
pub use values::{
    ClaimId, ClaimKind, ClaimRequest, Last, LastResult, Node, Outcome, Pause, Revision, Run,
    Versioned,
};
