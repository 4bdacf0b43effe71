//! The state file: what has been taken, what is in progress and what was left out, over reload,
//! crash, upgrade and restart.
#![forbid(unsafe_code)]

mod access;
mod allocate;
mod attach;
mod attempt;
#[cfg(test)]
mod bounded_tests;
#[cfg(test)]
mod broken_rules;
mod check;
#[cfg(test)]
mod check_tests;
mod claim;
mod claim_part;
#[cfg(test)]
mod claim_tests;
mod codec;
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
mod escaped;
mod exclusion;
#[cfg(test)]
mod fault_tests;
mod file;
#[cfg(test)]
mod fixture;
mod format;
mod header;
mod judge;
mod left_out;
mod load;
#[cfg(test)]
mod load_tests;
mod local_record;
mod locked;
mod locked_read;
mod look;
#[cfg(test)]
mod make_tests;
mod master;
mod notice;
#[cfg(test)]
mod open_tests;
mod paged_file;
mod path;
mod recover;
mod results;
mod retry;
mod rewrite;
#[cfg(test)]
mod rng;
mod run;
mod shared_claims;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod simulator_tests;
mod store;
mod take_over;
#[cfg(test)]
mod take_over_tests;
mod version1;

pub use attach::Master;
pub use attempt::{ClaimAttempt, Step};
pub use check::check;
pub use claim::{Claim, Finished};
pub use claim_part::{ClaimPart, Counters, LastResult};
pub use control::{Control, LeftOut, Order, Paused, Presence};
pub use decide::{Decision, MissedPolicy, OverlapPolicy, Policy, Scheduled, Wanted, decide};
pub use due::{DueTimes, Jittered, Reading};
pub use edit::{Edited, Ordered};
pub use escaped::Escaped;
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
pub use store::{Health, Owner, Process, Record, Steps, Store, Timer, Unread};
pub use take_over::TakenOver;
