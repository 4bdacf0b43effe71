//! System calls, by the names that messages give them.

use std::fmt;

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// pread(2).
    Read,
    /// pwrite(2).
    Write,
    /// fcntl(2), with the commands for locks.
    Lock,
    /// open(2).
    Open,
    /// fstat(2), stat(2) and lstat(2).
    Stat,
    /// rename(2).
    Rename,
    /// unlink(2).
    Unlink,
    /// fsync(2).
    Sync,
    /// fchown(2).
    Own,
    /// fchmod(2).
    Mode,
    /// `memfd_create(2)`.
    MemoryFile,
    /// eventfd(2).
    EventFd,
    /// mmap(2).
    Map,
    /// openat(2) and openat2(2).
    OpenAt,
    /// fstatat(2).
    StatAt,
    /// unlinkat(2).
    UnlinkAt,
    /// getdents64(2).
    List,
}

/// As nginx writes it: `open()`.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "pread()",
            Self::Write => "pwrite()",
            Self::Lock => "fcntl()",
            Self::Open => "open()",
            Self::Stat => "fstat()",
            Self::Rename => "rename()",
            Self::Unlink => "unlink()",
            Self::Sync => "fsync()",
            Self::Own => "fchown()",
            Self::Mode => "fchmod()",
            Self::MemoryFile => "memfd_create()",
            Self::EventFd => "eventfd()",
            Self::Map => "mmap()",
            Self::OpenAt => "openat()",
            Self::StatAt => "fstatat()",
            Self::UnlinkAt => "unlinkat()",
            Self::List => "getdents64()",
        })
    }
}
