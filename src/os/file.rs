//! Files by path and by descriptor.
//!
//! Nothing here follows a symbolic link in the last component of a path, and every descriptor is
//! close-on-exec.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The permission bits of a file that nobody but its owner may see.
const OWNER_ONLY: u32 = 0o600;

/// `O_NONBLOCK`: a FIFO at the path must not hang the master; it means nothing to a regular file.
const NO_SURPRISES: libc::c_int = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;

/// Which file it is, whatever path leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of an open file.
    ///
    /// # Errors
    ///
    /// What fstat(2) reports.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// The identity of what `path` leads to.
    ///
    /// # Errors
    ///
    /// What lstat(2) reports.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::symlink_metadata(path)?))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Why open(2) or stat(2) refused a path, as far as the path itself is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A symbolic link.
    SymbolicLink,
    /// A directory, a FIFO without a reader, a socket or a device.
    NotRegular,
    /// The path, or what leads to it, is not there.
    Missing,
    /// Its permissions.
    NotPermitted,
}

impl Refusal {
    /// What `error` blames the path for; `None` for a fault of the system.
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            libc::ELOOP => Some(Self::SymbolicLink),
            libc::EISDIR | libc::ENXIO | libc::ENODEV => Some(Self::NotRegular),
            libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG => Some(Self::Missing),
            libc::EACCES | libc::EPERM => Some(Self::NotPermitted),
            _ => None,
        }
    }
}

/// Opens an existing file for reading and writing.
///
/// # Errors
///
/// What open(2) reports; `ELOOP` for a symbolic link.
pub fn open_existing(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(NO_SURPRISES).open(path)
}

/// Creates a file that must not exist yet, for its owner alone.
///
/// # Errors
///
/// What open(2) reports; `EEXIST` if there is anything at `path`.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .custom_flags(NO_SURPRISES)
        .open(path)
}

/// Opens the file of `file` once more, through `/proc`: the same inode whatever became of its
/// path, with a description (and so with locks) of its own.
///
/// # Errors
///
/// What open(2) reports; `ENOENT` where there is no `/proc`.
pub fn reopen(file: &File) -> io::Result<File> {
    // The magic link itself has to be followed, hence no O_NOFOLLOW.
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives `file` to `owner` and takes all rights from others.
///
/// # Errors
///
/// What fchown(2) or fchmod(2) reports.
pub fn give_to(file: &File, owner: Owner) -> io::Result<()> {
    let metadata = file.metadata()?;
    if (metadata.uid(), metadata.gid()) != (owner.uid, owner.gid) {
        std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))?;
    }
    if metadata.mode() & 0o7777 != OWNER_ONLY {
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    }
    Ok(())
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

impl Owner {
    /// Who this process is, as far as files are concerned.
    pub fn of_this_process() -> Self {
        // SAFETY: geteuid(2) takes nothing and cannot fail.
        let uid = unsafe { libc::geteuid() };
        // SAFETY: getegid(2) takes nothing and cannot fail.
        let gid = unsafe { libc::getegid() };
        Self { uid, gid }
    }
}

/// Makes the entries of the directory that holds `path` durable.
///
/// # Errors
///
/// What open(2) or fsync(2) reports.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// What the system says of a path that leads through something else than a directory.
pub fn not_a_directory() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTDIR)
}

/// The directory that holds `path`.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// `path` with `suffix` at its end.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use crate::os::scratch::Scratch;

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        create_new(&path).unwrap();
        let link = scratch.path("link");
        symlink(&path, &link).unwrap();
        assert_eq!(open_existing(&link).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(create_new(&link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(open_existing(&path).is_ok());
        let refused = Refusal::of(&open_existing(&link).unwrap_err());
        assert_eq!(refused, Some(Refusal::SymbolicLink));
        assert_eq!(Refusal::of(&io::Error::from_raw_os_error(libc::EIO)), None);
    }

    #[test]
    fn a_replaced_file_is_told_by_its_identity() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let first = create_new(&path).unwrap();
        assert_eq!(Identity::of(&first).unwrap(), Identity::at(&path).unwrap());
        fs::rename(&path, with_suffix(&path, ".bad")).unwrap();
        create_new(&path).unwrap();
        assert_ne!(Identity::of(&first).unwrap(), Identity::at(&path).unwrap());
        assert_eq!(Identity::of(&reopen(&first).unwrap()).unwrap(), Identity::of(&first).unwrap());
    }

    #[test]
    fn nobody_else_may_read_it() {
        let scratch = Scratch::new();
        let file = create_new(&scratch.path("file")).unwrap();
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        give_to(&file, Owner::of_this_process()).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_path_without_a_directory_lies_in_the_current_one() {
        assert_eq!(directory_of(Path::new("timers.state")), Path::new("."));
        assert_eq!(directory_of(Path::new("/run/timers.state")), Path::new("/run"));
        assert_eq!(with_suffix(Path::new("/run/a"), ".bad"), Path::new("/run/a.bad"));
    }
}
