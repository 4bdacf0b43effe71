//! Users: who this process is, and what it may do to files as somebody else.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::call::Call;
use super::fault;

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOwner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

impl FileOwner {
    /// Who this process is, as far as files are concerned.
    pub fn of_this_process() -> Self {
        // SAFETY: geteuid(2) takes nothing and cannot fail.
        let uid = unsafe { libc::geteuid() };
        // SAFETY: getegid(2) takes nothing and cannot fail.
        let gid = unsafe { libc::getegid() };
        Self { uid, gid }
    }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    FileOwner::of_this_process().uid == 0
}

/// Does `work` with the rights that `owner` has to files, in this thread; `None` if this process
/// may not act as that user.
///
/// Root without `CAP_DAC_OVERRIDE` cannot open a file of the worker user, nor make one in a
/// directory of theirs; with `CAP_SETUID` it can act as them.
pub(super) fn as_user<T>(owner: FileOwner, work: impl FnOnce() -> T) -> Option<T> {
    let myself = FileOwner::of_this_process();
    let acting = Acting { myself };
    let became = become_user(owner);
    let done = became.then(work);
    drop(acting);
    done
}

/// Whether `owner`, whatever this process may, may read and write `path`, or, if it is a directory, may make files
/// in it.
///
/// # Errors
///
/// What faccessat(2) reports.
pub fn owner_may_write(owner: FileOwner, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    if owner == FileOwner::of_this_process() {
        return may_write(&name, path);
    }
    // Who may not become another one cannot ask for it.
    as_user(owner, || may_write(&name, path)).unwrap_or_else(|| may_write(&name, path))
}

pub(super) fn may_write(name: &CStr, path: &Path) -> io::Result<()> {
    fault::check(Call::Stat)?;
    let mode = if path.is_dir() { libc::W_OK | libc::X_OK } else { libc::R_OK | libc::W_OK };
    // SAFETY: reads `name`, a NUL-terminated string that lives until the call has returned.
    let answer = unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), mode, libc::AT_EACCESS) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends with the process being itself again.
struct Acting {
    myself: FileOwner,
}

impl Drop for Acting {
    fn drop(&mut self) {
        // The effective user and group may always be taken back (setfsuid(2)).
        become_user(self.myself);
    }
}

/// Sets the user and group that count for access to files; answers whether that was granted.
fn become_user(owner: FileOwner) -> bool {
    // SAFETY: setfsgid(2) takes a number, and changes this thread only.
    unsafe { libc::setfsgid(owner.gid) };
    // SAFETY: setfsuid(2), likewise.
    unsafe { libc::setfsuid(owner.uid) };
    // Neither call says whether it was refused; an id that does not exist changes nothing and
    // answers the one in force.
    // SAFETY: as above.
    let gid = unsafe { libc::setfsgid(u32::MAX) };
    // SAFETY: as above.
    let uid = unsafe { libc::setfsuid(u32::MAX) };
    (u32::try_from(uid), u32::try_from(gid)) == (Ok(owner.uid), Ok(owner.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use crate::os::scratch::Scratch;

    #[test]
    fn a_file_is_made_as_another_user_and_then_as_oneself_again() {
        let scratch = Scratch::new();
        let owner_of = |name| {
            let metadata = fs::metadata(scratch.path(name)).unwrap();
            FileOwner { uid: metadata.uid(), gid: metadata.gid() }
        };
        let myself = FileOwner::of_this_process();
        let other = FileOwner { uid: 12_345, gid: 23_456 };
        let make = |name| fs::write(scratch.path(name), b"");
        fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o777)).unwrap();
        match as_user(other, || make("theirs")) {
            Some(done) => {
                done.unwrap();
                assert_eq!(owner_of("theirs"), other);
            }
            None => assert!(!is_root()),
        }
        make("mine").unwrap();
        assert_eq!(owner_of("mine"), myself);
        assert!(as_user(myself, || ()).is_some());
    }
}
