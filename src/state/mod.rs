//! The state file: what has been taken, what is in progress and what was left out, over reload,
//! crash, upgrade and restart.
#![forbid(unsafe_code)]

mod master;
mod policy;
mod record;
#[cfg(test)]
mod tests;
mod worker;

pub use crate::os::Escaped;
pub use master::attach::Master;
pub use master::check::check;
pub use master::file::{Opener, PATIENCE};
pub use master::load::{Before, First, Loaded};
pub use master::path::{PathError, StatePath};
pub use master::state::{Opened, State, open};
pub use master::take_over::{TakeOver, TakenOver};
pub use policy::decide::{
    Decision, MissedPolicy, OverlapPolicy, Policy, Scheduled, Wanted, decide,
};
pub use policy::due::{DueTimes, Jittered, Reading};
pub use policy::events::{Events, Happened, Subscription};
pub use policy::fleet::OpenEnd;
pub use policy::left_out::Counted;
pub use policy::look::{Around, Look};
pub use policy::retry::RetryPolicy;
pub use record::claim_part::LastResult;
pub use record::control::Paused;
pub use record::format::{RECEIVERS, TEXT_BYTES};
pub use record::header::{HeaderControl, PidFile};
pub use record::receivers::Event;
pub use record::run::{
    Asked, Attempt, BootId, ClaimId, ClaimKind, Ended, FleetClaim, Outcome, Progress, RunId,
    RunResult, Trigger,
};
pub use worker::attempt::{ClaimAttempt, Step};
pub use worker::claim::{Claim, Finished};
pub use worker::edit::{Edited, Ordered};
pub use worker::events::{AfterTry, EVENT_TRIES, EventClaim, EventStep};
pub use worker::notice::{Action, Notice};
pub use worker::open_claim::{OpenClaim, OpenEnded, Resumed};
pub use worker::recover::Recovered;
pub use worker::store::{Health, Owner, Process, Record, Steps, Store, TimerRef, Unread};

#[cfg(test)]
pub(crate) use self::{
    master::state::Backing,
    policy::look::newest_started,
    record::control::Presence,
    record::gaps::LeftOut,
    record::header::Bad,
    record::run::{Wait, Watermark},
};
