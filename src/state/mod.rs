//! The state file: what has been taken, what is in progress and what was left out, over reload,
//! crash, upgrade and restart.
#![forbid(unsafe_code)]

mod checksum;
mod control;
mod fields;
mod format;
mod header;
mod run;

pub use control::{Control, LeftOut, Order, Paused, Presence};
pub use format::{NAME_BYTES, RESULTS};
pub use header::{Bad, HeaderControl, PidFile};
pub use run::{
    Attempt, BootId, Counters, Ended, Outcome, Progress, RunId, RunPart, RunResult, Trigger, Wait,
    Watermark,
};
