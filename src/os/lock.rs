//! Byte-range locks (fcntl(2)), of two kinds that exclude each other. The kernel lets go of both
//! when their process ends, however it does.
//!
//! A lock of an *open file description* (Linux 3.15): two descriptors from two calls of open(2)
//! exclude each other, also within one process, while all that share one description (by dup or
//! fork) share the lock, and a second lock on it always succeeds. It goes with the last descriptor
//! of the description.
//!
//! A lock of a *process* (POSIX): processes exclude each other, also those that share a
//! description. It goes as soon as the process closes any descriptor of the file.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};

use super::call::Call;
use super::fault;

/// To whom a lock belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The open file description, which no other process may share.
    Description,
    /// The process, which may have no other descriptor of the file.
    Process,
}

/// How a byte is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// With any number of others that hold it shared.
    Shared,
    /// Alone.
    Exclusive,
}

/// The result of an attempt to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The byte is locked, or its lock was converted to the kind asked for.
    Taken,
    /// Another holder has it. A lock of ours on it stays as it was.
    Refused,
}

/// Whether another holder has a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// An exclusive lock would be refused now.
    Elsewhere,
    /// An exclusive lock would be granted now; our own locks do not count.
    Nowhere,
}

/// Locks the byte at `offset`, or converts our lock on it; never waits.
///
/// # Errors
///
/// What fcntl(2) reports; see [`is_unsupported`].
pub fn try_lock(file: impl AsFd, holder: Holder, offset: u64, kind: LockKind) -> io::Result<Tried> {
    let command = holder.choose(libc::F_OFD_SETLK, libc::F_SETLK);
    let lock_type = match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    };
    match control(file, command, lock_type, offset..=offset) {
        Ok(_) => Ok(Tried::Taken),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(Tried::Refused)
        }
        Err(error) => Err(error),
    }
}

/// Lets go of the byte at `offset`.
///
/// # Errors
///
/// What fcntl(2) reports.
pub fn unlock(file: impl AsFd, holder: Holder, offset: u64) -> io::Result<()> {
    let command = holder.choose(libc::F_OFD_SETLK, libc::F_SETLK);
    control(file, command, libc::F_UNLCK, offset..=offset).map(drop)
}

/// Whether another holder has the byte at `offset`; takes nothing.
///
/// # Errors
///
/// What fcntl(2) reports.
pub fn held(file: impl AsFd, holder: Holder, offset: u64) -> io::Result<Held> {
    any_held(file, holder, offset..=offset)
}

/// The same for any of these bytes.
///
/// # Errors
///
/// What fcntl(2) reports.
pub fn any_held(file: impl AsFd, holder: Holder, bytes: RangeInclusive<u64>) -> io::Result<Held> {
    let command = holder.choose(libc::F_OFD_GETLK, libc::F_GETLK);
    let answer = control(file, command, libc::F_WRLCK, bytes)?;
    Ok(if libc::c_int::from(answer.l_type) == libc::F_UNLCK {
        Held::Nowhere
    } else {
        Held::Elsewhere
    })
}

/// Whether `error` says that the file system (or the kernel) knows no such locks.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK)
    )
}

impl Holder {
    fn choose(self, description: libc::c_int, process: libc::c_int) -> libc::c_int {
        match self {
            Self::Description => description,
            Self::Process => process,
        }
    }
}

fn control(
    file: impl AsFd,
    command: libc::c_int,
    lock_type: libc::c_int,
    bytes: RangeInclusive<u64>,
) -> io::Result<libc::flock> {
    fault::check(Call::Lock)?;
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut lock = libc::flock {
        l_type: libc::c_short::try_from(lock_type).map_err(invalid)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(invalid)?,
        l_start: libc::off_t::try_from(*bytes.start()).map_err(invalid)?,
        l_len: libc::off_t::try_from(bytes.end() - bytes.start() + 1).map_err(invalid)?,
        l_pid: 0,
    };
    // SAFETY: the borrowed descriptor is open for the call; the four commands take a pointer
    // to one `flock`, which is initialised, ours alone and outlives the call.
    let answer = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(lock) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    use crate::os::file::reopen;
    use crate::os::memory_file::create_memory_file;

    const OFD: Holder = Holder::Description;

    /// What was closed just now stays locked until a process that another test has forked meanwhile has
    /// begun its program.
    fn comes(condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < end, "it does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn two_descriptions_exclude_each_other_per_byte() {
        let a = create_memory_file("lock").unwrap();
        let b = reopen(&a).unwrap();
        assert_eq!(try_lock(&a, OFD, 4096, LockKind::Exclusive).unwrap(), Tried::Taken);
        assert_eq!(try_lock(&b, OFD, 4096, LockKind::Exclusive).unwrap(), Tried::Refused);
        assert_eq!(try_lock(&b, OFD, 4097, LockKind::Exclusive).unwrap(), Tried::Taken);
        assert_eq!(held(&b, OFD, 4096).unwrap(), Held::Elsewhere);
        assert_eq!(held(&a, OFD, 4096).unwrap(), Held::Nowhere);
        assert_eq!(any_held(&b, OFD, 5..=4096).unwrap(), Held::Elsewhere);
        assert_eq!(any_held(&b, OFD, 5..=4095).unwrap(), Held::Nowhere);
        unlock(&a, OFD, 4096).unwrap();
        assert_eq!(held(&b, OFD, 4096).unwrap(), Held::Nowhere);
        assert_eq!(try_lock(&b, OFD, 4096, LockKind::Exclusive).unwrap(), Tried::Taken);
    }

    #[test]
    fn closing_the_last_descriptor_lets_go() {
        let a = create_memory_file("lock").unwrap();
        let b = reopen(&a).unwrap();
        let shared_with_b = b.try_clone().unwrap();
        assert_eq!(try_lock(&b, OFD, 0, LockKind::Exclusive).unwrap(), Tried::Taken);
        drop(b);
        assert_eq!(held(&a, OFD, 0).unwrap(), Held::Elsewhere);
        drop(shared_with_b);
        comes(|| held(&a, OFD, 0).unwrap() == Held::Nowhere);
    }

    #[test]
    fn a_refused_upgrade_keeps_the_shared_lock() {
        let a = create_memory_file("lock").unwrap();
        let (b, c) = (reopen(&a).unwrap(), reopen(&a).unwrap());
        assert_eq!(try_lock(&a, OFD, 0, LockKind::Shared).unwrap(), Tried::Taken);
        assert_eq!(try_lock(&b, OFD, 0, LockKind::Shared).unwrap(), Tried::Taken);
        assert_eq!(try_lock(&a, OFD, 0, LockKind::Exclusive).unwrap(), Tried::Refused);
        drop(b);
        assert_eq!(held(&c, OFD, 0).unwrap(), Held::Elsewhere);
        comes(|| try_lock(&a, OFD, 0, LockKind::Exclusive).unwrap() == Tried::Taken);
        assert_eq!(try_lock(&a, OFD, 0, LockKind::Shared).unwrap(), Tried::Taken);
        assert_eq!(try_lock(&c, OFD, 0, LockKind::Shared).unwrap(), Tried::Taken);
    }

    #[test]
    fn a_descriptor_that_cannot_be_locked_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(try_lock(&file, OFD, u64::MAX, LockKind::Shared).is_err());
        assert!(is_unsupported(&io::Error::from_raw_os_error(libc::ENOLCK)));
        assert!(!is_unsupported(&io::Error::from_raw_os_error(libc::EIO)));
    }

    /// What another process, which shares our descriptors, gets for its own.
    fn in_a_child(work: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child does nothing but `work`, a call or two of fcntl(2), and _exit(2).
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = i32::from(!work());
            // SAFETY: ends the child.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        // SAFETY: writes the status of our own child.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        status == 0
    }

    #[test]
    fn processes_that_share_a_description_exclude_each_other() {
        let taken = |file, holder| {
            matches!(try_lock(file, holder, 7, LockKind::Exclusive), Ok(Tried::Taken))
        };
        let file = &create_memory_file("lock").unwrap();
        assert!(taken(file, Holder::Process));
        assert!(
            taken(file, Holder::Process),
            "a second time, which the table of claims is there for"
        );
        assert_eq!(held(file, Holder::Process, 7).unwrap(), Held::Nowhere);
        assert!(in_a_child(|| !taken(file, Holder::Process)
            && matches!(held(file, Holder::Process, 7), Ok(Held::Elsewhere))));
        // The two kinds exclude each other, whoever holds which.
        assert!(!taken(&reopen(file).unwrap(), OFD));
    }

    #[test]
    fn a_lock_of_a_process_goes_with_any_descriptor_of_the_file() {
        let file = &create_memory_file("lock").unwrap();
        let free = || in_a_child(|| matches!(held(file, Holder::Process, 7), Ok(Held::Nowhere)));
        assert_eq!(try_lock(file, Holder::Process, 7, LockKind::Exclusive).unwrap(), Tried::Taken);
        assert!(!free());
        drop(reopen(file).unwrap());
        assert!(free());
    }
}
