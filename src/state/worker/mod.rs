//! The state in a worker: claims, their ends, and what others write meanwhile.

pub(in crate::state) mod access;
pub(in crate::state) mod attempt;
#[cfg(test)]
pub(in crate::state) mod broken_rules;
pub(in crate::state) mod claim;
pub(in crate::state) mod edit;
pub(in crate::state) mod events;
pub(in crate::state) mod exclusion;
pub(in crate::state) mod local_record;
pub(in crate::state) mod locked;
pub(in crate::state) mod locked_read;
pub(in crate::state) mod notice;
pub(in crate::state) mod open_claim;
pub(in crate::state) mod paged_file;
pub(in crate::state) mod recover;
pub(in crate::state) mod shared_claims;
pub(in crate::state) mod shared_health;
pub(in crate::state) mod store;
pub(in crate::state) mod texts;
mod wanted;
