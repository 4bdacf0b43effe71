//! Health checks at work: the groups that are checked, and what is marked in them.
//!
//! - [`group`]: a group's servers with their records, and its marks;
//! - [`load`]: what a new configuration needs before a worker serves a request by it.
#![forbid(unsafe_code)]

pub mod group;
pub mod load;
