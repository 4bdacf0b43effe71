//! The identity of files.

use std::fs::{self, File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::call::Call;
use super::fault;

/// Which file it is, whatever path leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file with this inode on this device.
    pub(super) fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    /// Whether both are of the same file system.
    pub(super) fn is_on_device_of(self, other: Self) -> bool {
        self.device == other.device
    }

    /// The identity of an open file.
    ///
    /// # Errors
    ///
    /// What fstat(2) reports.
    pub fn of(file: &File) -> io::Result<Self> {
        fault::check(Call::Stat)?;
        Ok(Self::from(&file.metadata()?))
    }

    /// The identity of what a descriptor of this process is open on, if it is.
    pub fn of_descriptor(fd: RawFd) -> Option<Self> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: whatever the number is, only the structure is written.
        if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: it was written.
        let stat = unsafe { stat.assume_init() };
        Some(Self::new(stat.st_dev, stat.st_ino))
    }

    /// The identity of what `path` leads to.
    ///
    /// # Errors
    ///
    /// What lstat(2) reports.
    pub fn at(path: &Path) -> io::Result<Self> {
        fault::check(Call::Stat)?;
        Ok(Self::from(&fs::symlink_metadata(path)?))
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}
