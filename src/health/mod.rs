//! Health checks: which servers of an upstream group get requests.
//!
//! - [`matching`]: the tests that a response must pass;
//! - [`records`]: what all workers share, in memory: who makes a check now, and what came of the last;
//! - [`verdict`]: from results to a server's state, and from states to its marks.
#![forbid(unsafe_code)]

pub mod matching;
pub mod records;
pub mod verdict;
