//! Key-value pairs in memory that all workers share: read from a body, laid out as one image, looked up.
//!
//! ```text
//!   body ──> parse ──> build ──> image, private ──> publish ──> image, shared ──> look_up
//!            each in steps, a little at a time                  of two halves, one is current
//! ```
//!
//! An image never changes; it is replaced as a whole. What is in shared memory is never trusted: each
//! offset is looked at before it is followed, so that damage is a key that is not found, and no crash.
#![forbid(unsafe_code)]

mod address;
mod build;
mod image;
mod json;
mod refused;
mod segment;
mod sort;
mod state;
mod text;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::os::memory::NoMemory;

pub use build::{Build, Built, Limits};
pub use image::{Meta, Pairs};
pub use refused::{refused, without_keys};
pub use segment::{Age, Publishing, Seen, Segment, Writer};
pub use state::{Encoder, SinceBoot, When, read_state};

/// How keys are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key is equal.
    String,
    /// The key is an address or a network that contains the one which is looked up.
    Ip,
    /// The key is how the one begins which is looked up.
    Prefix,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::String, Self::Ip, Self::Prefix];

    /// As it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Ip => "ip",
            Self::Prefix => "prefix",
        }
    }
}

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An object.
    Json,
    /// Lines of `key` or `key value`.
    Text,
}

/// Why a body becomes no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What is wrong in this line.
    Line(u64, String),
    /// It is larger than the zone.
    DoesNotFit,
    /// It has fewer keys than it must.
    TooFew {
        /// So many.
        count: u64,
        /// At least so many.
        min: u64,
    },
    /// There is no memory.
    NoMemory,
}

impl From<NoMemory> for Refusal {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl Refusal {
    fn line(line: u64, why: impl Into<String>) -> Self {
        Self::Line(line, why.into())
    }
}

/// Where a value is put.
pub trait Room {
    /// Puts a value of so many bytes, which are in these words, in the place of what was put before.
    ///
    /// # Errors
    ///
    /// There is no memory.
    fn fill(&mut self, len: usize, words: impl Iterator<Item = u64>) -> Result<(), NoMemory>;
}

/// The longest key, in bytes.
pub const LONGEST_KEY: usize = 8 * 1024;
/// The longest value, in bytes.
pub const LONGEST_VALUE: usize = 1024 * 1024;

/// One step of a parser.
#[derive(Debug, PartialEq, Eq)]
enum Parsed<'a> {
    /// A pair, in this line.
    Pair { key: std::borrow::Cow<'a, [u8]>, value: std::borrow::Cow<'a, [u8]>, line: u64 },
    /// Nothing yet.
    Nothing,
    /// All was read.
    End,
}

/// Looks at a pair before it is kept.
fn check(key: &[u8], value: &[u8], line: u64) -> Result<(), Refusal> {
    let why = if key.is_empty() {
        "empty key".to_owned()
    } else if key.len() > LONGEST_KEY {
        format!("key {} is longer than 8k", Shown(key))
    } else if value.len() > LONGEST_VALUE {
        format!("value of {} is longer than 1m", Shown(key))
    } else if key.contains(&0) || value.contains(&0) {
        format!("zero byte in key or value of {}", Shown(key))
    } else {
        return Ok(());
    };
    Err(Refusal::Line(line, why))
}

/// A key in quotes, on one line, and not too long for the log.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.0.get(..64).unwrap_or(self.0);
        let dots = if cut.len() < self.0.len() { "..." } else { "" };
        write!(f, "\"{}{dots}\"", cut.escape_ascii())
    }
}
