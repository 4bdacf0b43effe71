//! The state file: what has been taken, what is in progress and what was left out, over reload,
//! crash, upgrade and restart.
#![forbid(unsafe_code)]

mod access;
mod allocate;
mod attach;
mod attempt;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod bounded_tests;
#[cfg(test)]
mod broken_rules;
#[cfg(test)]
mod chance;
mod check;
#[cfg(test)]
mod check_tests;
mod claim;
mod claim_part;
#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod contention_tests;
mod control;
mod convert;
#[cfg(test)]
mod convert_tests;
mod decide;
#[cfg(test)]
mod decide_tests;
mod due;
mod edit;
mod exclusion;
#[cfg(test)]
mod fault_tests;
mod fields;
mod file;
mod format;
mod header;
mod judge;
mod left_out;
mod load;
#[cfg(test)]
mod load_tests;
mod local;
mod locked;
mod look;
#[cfg(test)]
mod make_tests;
mod master;
#[cfg(test)]
mod model;
mod notice;
#[cfg(test)]
mod open_tests;
mod pages;
mod path;
mod recover;
mod results;
mod retry;
mod rewrite;
mod run;
mod shared_claims;
mod shown;
mod store;
mod take_over;
#[cfg(test)]
mod take_over_tests;
mod under_lock;
mod version1;
#[cfg(test)]
mod world;

pub use attach::Master;
pub use attempt::{ClaimAttempt, Step};
pub use check::check;
pub use claim::{Claim, Finished};
pub use claim_part::{ClaimPart, Counters, LastResult};
pub use control::{Control, LeftOut, Order, Paused, Presence};
pub use decide::{Decision, MissedPolicy, OverlapPolicy, Policy, Scheduled, Wanted, decide};
pub use due::{DueTimes, Jittered, Reading};
pub use edit::{Edited, Ordered};
pub use file::{Opener, PATIENCE};
pub use format::{NAME_BYTES, RESULTS};
pub use header::{Bad, HeaderControl, PidFile};
pub use left_out::Counted;
pub use load::{Before, First, Loaded};
pub use look::{Around, Due, Look, newest_started};
pub use master::{Backing, Opened, State, open};
pub use notice::{Action, Notice};
pub use path::{PathError, StatePath};
pub use recover::Recovered;
pub use retry::RetryPolicy;
pub use run::{
    Attempt, BootId, Ended, Outcome, Progress, RunId, RunResult, Trigger, Wait, Watermark,
};
pub use shown::Shown;
pub use store::{Health, Owner, Place, Process, Steps, Store, Timer, Unread};
pub use take_over::TakenOver;
