//! Health checks: which servers of an upstream group get requests.
//!
//! - [`matching`] and [`grpc`]: the tests that a response must pass;
//! - [`due`]: when a check is due; [`lanes`]: in which order those that are due start;
//! - [`pulse`]: whether the worker itself was late;
//! - [`records`]: what all workers share, in memory: who makes a check now, and the result of the last;
//! - [`shared`]: where these are, over reloads;
//! - [`verdict`]: from results to a server's state, and from states to its marks.
#![forbid(unsafe_code)]

pub mod due;
pub mod grpc;
pub mod lanes;
pub mod matching;
pub mod pulse;
pub mod records;
pub mod shared;
pub mod verdict;
