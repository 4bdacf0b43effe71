//! Files by path and by descriptor.
//!
//! Nothing here follows a symbolic link in the last component of a path, and every descriptor is
//! close-on-exec.

use std::ffi::{CString, OsString};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::call::Call;
use super::fault;
pub use super::file_id::FileId;
pub use super::user::{FileOwner, owner_may_write};
use super::user::{as_user, may_write};

/// The permission bits of a file that nobody but its owner may see.
const OWNER_ONLY: u32 = 0o600;

/// `O_NONBLOCK`: a FIFO at the path must not hang the master; it means nothing to a regular file.
const NO_SURPRISES: libc::c_int = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;

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

/// Whether no file can have this name.
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENAMETOOLONG)
}

/// Opens an existing file for reading and writing.
///
/// # Errors
///
/// What open(2) reports; `ELOOP` for a symbolic link.
pub fn open_existing(path: &Path) -> io::Result<File> {
    fault::check(Call::Open)?;
    OpenOptions::new().read(true).write(true).custom_flags(NO_SURPRISES).open(path)
}

/// Opens an existing file for reading, without a trace where that may be.
///
/// # Errors
///
/// What open(2) reports; `ELOOP` for a symbolic link.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    fault::check(Call::Open)?;
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    // Only its owner, or who may act as that, may leave the time of the last access alone.
    open(NO_SURPRISES | libc::O_NOATIME).or_else(|_| open(NO_SURPRISES))
}

/// The same, as `owner` where this process may not.
///
/// # Errors
///
/// What open(2) reports.
pub fn open_to_read_as(owner: FileOwner, path: &Path) -> io::Result<File> {
    or_as(owner, || open_to_read(path))
}

/// [`open_existing`], as `owner` where this process may not.
///
/// # Errors
///
/// What open(2) reports.
pub fn open_existing_as(owner: FileOwner, path: &Path) -> io::Result<File> {
    or_as(owner, || open_existing(path))
}

/// Creates a file that must not exist yet, for its owner alone.
///
/// # Errors
///
/// What open(2) reports; `EEXIST` if there is anything at `path`.
pub fn create_new(path: &Path) -> io::Result<File> {
    fault::check(Call::Open)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .custom_flags(NO_SURPRISES)
        .open(path)
}

/// The same, as `owner` where this process may not.
///
/// # Errors
///
/// What open(2) reports.
pub fn create_new_as(owner: FileOwner, path: &Path) -> io::Result<File> {
    or_as(owner, || create_new(path))
}

/// Whether `path` may be read and written, or, if it is a directory, whether files may be made
/// in it: by this process or as `owner`. Changes nothing.
///
/// # Errors
///
/// What faccessat(2) reports.
pub fn may_write_as(owner: FileOwner, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    or_as(owner, || may_write(&name, path))
}

/// Does `work` as this process is, and where it has not the rights for that, as `owner`.
fn or_as<T>(owner: FileOwner, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error)
            if Refusal::of(&error) == Some(Refusal::NotPermitted)
                && owner != FileOwner::of_this_process() =>
        {
            as_user(owner, work).unwrap_or(Err(error))
        }
        done => done,
    }
}

/// Opens the file of `file` once more, through `/proc`: the same inode whatever became of its
/// path, with a description (and so with locks) of its own.
///
/// # Errors
///
/// What open(2) reports; `ENOENT` where there is no `/proc`.
pub fn reopen(file: &File) -> io::Result<File> {
    fault::check(Call::Open)?;
    // The magic link itself has to be followed, hence no O_NOFOLLOW.
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Takes all rights to `file` from everybody but its owner, as `owner` where this process may
/// not.
///
/// # Errors
///
/// What fstat(2) or fchmod(2) reports.
pub fn restrict_as(owner: FileOwner, file: &File) -> io::Result<()> {
    if metadata(file)?.mode() & 0o7777 == OWNER_ONLY {
        return Ok(());
    }
    or_as(owner, || {
        fault::check(Call::Mode)?;
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))
    })
}

/// Gives `file` to `owner`.
///
/// # Errors
///
/// What fstat(2) or fchown(2) reports.
pub fn give_to(file: &File, owner: FileOwner) -> io::Result<()> {
    let metadata = metadata(file)?;
    if (metadata.uid(), metadata.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    fault::check(Call::Own)?;
    std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))
}

/// Reads into `bytes` from `offset` on, until they are full or the file ends; answers how many.
///
/// # Errors
///
/// What pread(2) reports.
pub fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let len = fault::transfer(Call::Read, rest.len())?;
        match file.read_at(rest.get_mut(..len).unwrap_or_default(), offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
///
/// What pwrite(2) reports; some of the bytes may have been written.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let len = fault::transfer(Call::Write, rest.len())?;
        match file.write_at(rest.get(..len).unwrap_or_default(), offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has a write beyond `RLIMIT_FSIZE` fail with EFBIG, in this process and in those that it forks, unless
/// the signal SIGXFSZ has a handler: by default it kills, and the limit is a full disk to us.
pub fn survive_size_limit() {
    // SAFETY: sets the disposition of a signal that has no handler of ours.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before != libc::SIG_DFL && before != libc::SIG_IGN && before != libc::SIG_ERR {
        // SAFETY: a handler that was there before.
        unsafe { libc::signal(libc::SIGXFSZ, before) };
    }
}

/// The result of fstat(2) for `file`.
///
/// # Errors
///
/// What it reports.
pub fn metadata(file: &File) -> io::Result<Metadata> {
    fault::check(Call::Stat)?;
    file.metadata()
}

/// Makes the content of `file` durable.
///
/// # Errors
///
/// What fsync(2) reports.
pub fn sync(file: &File) -> io::Result<()> {
    fault::check(Call::Sync)?;
    file.sync_all()
}

/// Renames a file, as `owner` where this process may not; what is at `to` is replaced.
///
/// # Errors
///
/// What rename(2) reports.
pub fn rename_as(owner: FileOwner, from: &Path, to: &Path) -> io::Result<()> {
    or_as(owner, || {
        fault::check(Call::Rename)?;
        fs::rename(from, to)
    })
}

/// Removes the name of a file.
///
/// # Errors
///
/// What unlink(2) reports.
pub fn unlink(path: &Path) -> io::Result<()> {
    fault::check(Call::Unlink)?;
    fs::remove_file(path)
}

/// Makes the entries of the directory that holds `path` durable.
///
/// # Errors
///
/// What open(2) or fsync(2) reports.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    fault::check(Call::Open)?;
    sync(&File::open(directory_of(path))?)
}

/// What the system says of a path that leads through something else than a directory.
pub fn not_a_directory() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTDIR)
}

/// What the system says of a directory where there should be a file.
pub fn is_a_directory() -> io::Error {
    io::Error::from_raw_os_error(libc::EISDIR)
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

    use crate::os::fault::{CallFault, Effect, Repeat, fired, with};
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
        assert_eq!(FileId::of(&first).unwrap(), FileId::at(&path).unwrap());
        fs::rename(&path, with_suffix(&path, ".bad")).unwrap();
        create_new(&path).unwrap();
        assert_ne!(FileId::of(&first).unwrap(), FileId::at(&path).unwrap());
        assert_eq!(FileId::of(&reopen(&first).unwrap()).unwrap(), FileId::of(&first).unwrap());
    }

    #[test]
    fn nobody_else_may_read_it() {
        let scratch = Scratch::new();
        let file = create_new(&scratch.path("file")).unwrap();
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        restrict_as(FileOwner::of_this_process(), &file).unwrap();
        give_to(&file, FileOwner::of_this_process()).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_path_without_a_directory_lies_in_the_current_one() {
        assert_eq!(directory_of(Path::new("timers.state")), Path::new("."));
        assert_eq!(directory_of(Path::new("/run/timers.state")), Path::new("/run"));
        assert_eq!(with_suffix(Path::new("/run/a"), ".bad"), Path::new("/run/a.bad"));
    }

    #[test]
    fn what_is_transferred_in_parts_arrives_whole() {
        let scratch = Scratch::new();
        let file = create_new(&scratch.path("file")).unwrap();
        let short = CallFault {
            call: None,
            after: 0,
            repeat: Repeat::FromThenOn,
            effect: Effect::Short(3),
        };
        let mut bytes = [0; 12];
        with(short, || {
            write_at(&file, b"0123456789", 5).unwrap();
            assert_eq!(read_at(&file, &mut bytes, 4).unwrap(), 11);
        });
        assert_eq!(&bytes, b"\x000123456789\0");
        assert!(fired() > 6);
    }

    #[test]
    fn a_fault_befalls_the_call_that_it_is_for() {
        let scratch = Scratch::new();
        let file = create_new(&scratch.path("file")).unwrap();
        let fault = CallFault {
            call: Some(Call::Write),
            after: 1,
            repeat: Repeat::Once,
            effect: Effect::Errno(libc::EIO),
        };
        with(fault, || {
            write_at(&file, b"a", 0).unwrap();
            sync(&file).unwrap();
            assert_eq!(write_at(&file, b"b", 0).unwrap_err().raw_os_error(), Some(libc::EIO));
            write_at(&file, b"c", 0).unwrap();
        });
        assert_eq!(fired(), 1);
    }
}
