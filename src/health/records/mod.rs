//! What all workers share of the checks: who makes one now, its result, how the server stands.
//!
//! The records are words of memory that all workers map, changed without a lock. A worker that is
//! killed or stopped between any two steps holds up nothing but its own check, until its process is
//! gone or its deadline is over. What has to agree is in one word each: who claims a check with his
//! deadline; a server's standing with what it was counted from; the place of a slot with the process
//! of its making. A result that was not written whole is known by its checksum.
//!
//! ```text
//!          find_or_make            ready                      retire
//!   free ───────────────> making ─────────> ready ───────────────────────> retired
//!                           ^                                                 │
//!                           └─────────────────────────────────────────────────┘
//! ```

mod claim;
mod key;
mod last;
mod slot;
mod table;
mod word;

#[cfg(test)]
mod tests;

pub use claim::{Ask, CheckClaim, CheckResult, NotClaimed, RecordedResult};
pub use key::Key;
pub use last::Last;
pub use slot::{CheckCounters, Downtime, Flag, Slot, Strip};
pub use table::{NoSlot, Records};
