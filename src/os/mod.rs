//! What the operating system gives: descriptors, byte-range locks, memory files.
//!
//! Thin and safe on the outside. All `unsafe` and all of libc that is not nginx's lives here.

pub mod boot;
pub mod file;
pub mod lock;
pub mod memory_file;
#[cfg(test)]
pub(crate) mod scratch;
