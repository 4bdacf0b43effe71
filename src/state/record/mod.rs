//! What is in the file: its layout, and records as values.

pub(in crate::state) mod claim_part;
pub(in crate::state) mod codec;
pub(in crate::state) mod control;
pub(in crate::state) mod counters;
pub(in crate::state) mod format;
pub(in crate::state) mod gaps;
pub(in crate::state) mod header;
pub(in crate::state) mod receivers;
pub(in crate::state) mod results;
pub(in crate::state) mod run;
pub(in crate::state) mod text;
pub(in crate::state) mod version1;
