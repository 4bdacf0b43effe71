//! What `timer_cleanup` says.

use std::path::PathBuf;
use std::time::Duration;

use super::glob::Glob;
use crate::os::directory::{Attributes, FileTime};

/// What is removed, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory, absolute, without links when the configuration was read.
    pub path: PathBuf,
    /// Only what is older goes.
    pub older: Duration,
    /// Only what has a name like this.
    pub pattern: Option<Glob>,
    /// Which time of a file counts.
    pub by: By,
    /// So many stay whatever their age, the newest of the whole tree.
    pub keep: usize,
    /// Whether directories go that have been emptied.
    pub empty_dirs: bool,
    /// So many are removed at most.
    pub max: u64,
    /// Whether nothing is removed, only counted.
    pub dry_run: bool,
}

/// A time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// When it was last written.
    Modified,
    /// When it was last read.
    Accessed,
}

impl By {
    /// This time of a file.
    pub(super) fn of(self, attributes: &Attributes) -> FileTime {
        match self {
            Self::Modified => attributes.modified,
            Self::Accessed => attributes.accessed,
        }
    }
}

impl Options {
    /// Whether a file of this name is one of those that may go.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(name))
    }
}
