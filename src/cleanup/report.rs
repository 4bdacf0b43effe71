//! What a clean-up has done.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::os::call::Call;

/// What was done, as it is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many files were removed, or would have been.
    pub removed: u64,
    /// Their size.
    pub bytes: u64,
    /// How many regular files were left.
    pub kept: u64,
    /// What could not be removed or looked at.
    pub errors: u64,
    /// Whether there may be more, since as many were removed as may be.
    #[serde(skip_serializing_if = "is_not")]
    pub max_reached: bool,
    /// Whether nothing was removed.
    #[serde(skip_serializing_if = "is_not")]
    pub dry_run: bool,
    /// The first of each row of errors, of which a few are kept.
    #[serde(skip)]
    pub failures: Vec<Failure>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_not(flag: &bool) -> bool {
    !flag
}

/// What could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// With what.
    pub path: PathBuf,
    /// Why.
    pub problem: Problem,
}

/// Why something could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A system call has failed, with this errno.
    Call(Call, i32),
    /// A directory lies deeper than is walked.
    TooDeep,
    /// There is no memory.
    NoMemory,
}

impl Report {
    /// Whether it has failed: there was something to do, and nothing of it could be done.
    pub fn has_failed(&self) -> bool {
        self.errors > 0 && self.removed == 0
    }
}

/// As it stands in the log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { removed, bytes, kept, errors, .. } = self;
        write!(f, "removed {removed} files, {bytes} bytes, kept {kept}, {errors} errors")?;
        if self.max_reached {
            f.write_str(", stopped at \"max\"")?;
        }
        if self.dry_run {
            f.write_str(", dry run")?;
        }
        Ok(())
    }
}
