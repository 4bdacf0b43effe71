//! Directories by descriptor: what is in them is looked at, entered and removed by its name in a directory that is
//! open, without following a symbolic link.
//!
//! Between two calls another process may put something else at a name. Whatever it is, a link is not followed and
//! another file system is not entered; what is removed is the name in the open directory.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use super::call::Call;
use super::fault;
use super::file::FileId;
use super::memory::{NoMemory, fallible};

/// What is read of a directory at a time.
const BUFFER: usize = 8 * 1024;

const ENTER: libc::c_int = libc::O_RDONLY
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NONBLOCK
    | libc::O_CLOEXEC
    | libc::O_NOCTTY;

/// A directory that is being read, entry by entry.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    id: FileId,
    /// The mount that it is on, where somebody has asked; a bind mount has the device of what it shows.
    mount: OnceCell<Option<u64>>,
    /// What was read, as `linux_dirent64`.
    buffer: Vec<u8>,
    /// The current entry, and where the next one begins.
    entry: Option<DirectoryEntry>,
    next: usize,
}

/// Where in the buffer an entry's name is, and what the kernel says it is.
#[derive(Clone, Copy, Debug)]
struct DirectoryEntry {
    name: (usize, usize),
    kind: Kind,
}

/// What an entry was when the directory was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link, a FIFO, a socket or a device.
    Other,
    /// The file system does not say.
    Unknown,
}

/// What fstatat(2) says of an entry itself.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Which file it is.
    pub id: FileId,
    /// What it is.
    pub kind: Kind,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: FileTime,
    /// When it was last read.
    pub accessed: FileTime,
}

/// A time of a file: seconds since 1970, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of the second.
    pub nanoseconds: i64,
}

/// What an entry leads to.
#[derive(Debug)]
pub enum Entered {
    /// The directory.
    Directory(Directory),
    /// Nothing that is entered: another file system or mount, or no directory any more.
    Elsewhere,
}

/// How a name is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// By openat2(2), which knows links and mounts.
    Kernel,
    /// By openat(2), component by component.
    Steps,
}

/// Whether the kernel has no openat2(2), or a filter of system calls forbids it.
static IS_WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

impl Directory {
    /// Opens the directory at an absolute path, in which no component may be a symbolic link.
    ///
    /// # Errors
    ///
    /// What open(2) reports; `ELOOP` or `ENOTDIR` for a symbolic link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let how =
            if IS_WITHOUT_OPENAT2.load(Ordering::Relaxed) { Open::Steps } else { Open::Kernel };
        Self::open_by(how, path)
    }

    fn open_by(how: Open, path: &Path) -> io::Result<Self> {
        if how == Open::Kernel {
            let whole = CString::new(path.as_os_str().as_bytes())?;
            match open2(libc::AT_FDCWD, &whole, libc::RESOLVE_NO_SYMLINKS) {
                Err(error) if is_missing(&error) => {}
                opened => return Self::new(opened?),
            }
        }
        let mut fd = open_at(libc::AT_FDCWD, c"/", libc::O_PATH)?;
        for component in path.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => {
                    let name = CString::new(name.as_bytes())?;
                    fd = open_at(fd.as_raw_fd(), &name, libc::O_PATH)?;
                }
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Self::new(open_at(fd.as_raw_fd(), c".", 0)?)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let id = FileId::of(&file)?;
        let fd = OwnedFd::from(file);
        Ok(Self { fd, id, mount: OnceCell::new(), buffer: Vec::new(), entry: None, next: 0 })
    }

    /// Which one it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    fn mount(&self) -> Option<u64> {
        *self.mount.get_or_init(|| mount_of(&self.fd))
    }

    /// Goes to the next entry; whether there is one.
    ///
    /// # Errors
    ///
    /// What getdents64(2) reports, or `ENOMEM`.
    pub fn advance(&mut self) -> io::Result<bool> {
        loop {
            self.entry = None;
            if self.next >= self.buffer.len() && !self.read()? {
                return Ok(false);
            }
            let Some((entry, next)) = parse(&self.buffer, self.next) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            self.next = next;
            self.entry = Some(entry);
            if !matches!(self.name(), b"." | b"..") {
                return Ok(true);
            }
        }
    }

    /// Reads what comes next into the buffer; whether there is something.
    fn read(&mut self) -> io::Result<bool> {
        fault::check(Call::List)?;
        self.next = 0;
        self.buffer.clear();
        fallible(|| self.buffer.try_reserve_exact(BUFFER))
            .map_err(|NoMemory| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let fd = self.fd.as_raw_fd();
        let room = self.buffer.as_mut_ptr();
        // SAFETY: an open descriptor; writes at most `BUFFER` bytes, which were reserved.
        let read = unsafe { libc::syscall(libc::SYS_getdents64, fd, room, BUFFER) };
        let Ok(read) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
        // SAFETY: the kernel has written so many.
        unsafe { self.buffer.set_len(read.min(BUFFER)) };
        Ok(read > 0)
    }

    /// The name of the current entry; empty if there is none.
    pub fn name(&self) -> &[u8] {
        self.c_name().to_bytes()
    }

    fn c_name(&self) -> &CStr {
        let name = self.entry.and_then(|entry| self.buffer.get(entry.name.0..=entry.name.1));
        name.and_then(|name| CStr::from_bytes_with_nul(name).ok()).unwrap_or_default()
    }

    /// What the current entry was when the directory was read.
    pub fn kind(&self) -> Kind {
        self.entry.map_or(Kind::Unknown, |entry| entry.kind)
    }

    /// What the current entry is now; of a link itself.
    ///
    /// # Errors
    ///
    /// What fstatat(2) reports.
    pub fn attributes(&self) -> io::Result<Attributes> {
        fault::check(Call::StatAt)?;
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
        let (fd, name) = (self.fd.as_raw_fd(), self.c_name());
        // SAFETY: an open descriptor and a C string; writes the structure.
        if unsafe { libc::fstatat(fd, name.as_ptr(), stat.as_mut_ptr(), flags) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was written.
        let stat = unsafe { stat.assume_init() };
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFREG => Kind::Regular,
            _ => Kind::Other,
        };
        Ok(Attributes {
            id: FileId::new(stat.st_dev, stat.st_ino),
            kind,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: FileTime { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec },
            accessed: FileTime { seconds: stat.st_atime, nanoseconds: stat.st_atime_nsec },
        })
    }

    /// Opens the current entry, if it is a directory of the same file system and mount.
    ///
    /// # Errors
    ///
    /// What openat(2) reports.
    pub fn enter(&self) -> io::Result<Entered> {
        let how =
            if IS_WITHOUT_OPENAT2.load(Ordering::Relaxed) { Open::Steps } else { Open::Kernel };
        match self.enter_by(how) {
            Err(error) if how == Open::Kernel && is_missing(&error) => {
                IS_WITHOUT_OPENAT2.store(true, Ordering::Relaxed);
                self.enter_by(Open::Steps)
            }
            entered => entered,
        }
    }

    fn enter_by(&self, how: Open) -> io::Result<Entered> {
        let (fd, name) = (self.fd.as_raw_fd(), self.c_name());
        let opened = match how {
            Open::Kernel => open2(
                fd,
                name,
                libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV,
            ),
            Open::Steps => open_at(fd, name, 0),
        };
        let opened = match opened.map_err(|error| (error.raw_os_error(), error)) {
            Ok(opened) => opened,
            Err((Some(libc::ELOOP | libc::ENOTDIR | libc::EXDEV), _)) => {
                return Ok(Entered::Elsewhere);
            }
            Err((_, error)) => return Err(error),
        };
        let entered = Self::new(opened)?;
        let is_same = entered.id.is_on_device_of(self.id)
            && (how == Open::Kernel || entered.mount() == self.mount());
        Ok(if is_same { Entered::Directory(entered) } else { Entered::Elsewhere })
    }

    /// Removes the current entry, which may be anything but a directory.
    ///
    /// # Errors
    ///
    /// What unlinkat(2) reports.
    pub fn unlink(&self) -> io::Result<()> {
        self.remove(0)
    }

    /// Removes the current entry, which is an empty directory.
    ///
    /// # Errors
    ///
    /// What unlinkat(2) reports; `ENOTEMPTY` or `EEXIST` for one that is not empty.
    pub fn remove_directory(&self) -> io::Result<()> {
        self.remove(libc::AT_REMOVEDIR)
    }

    fn remove(&self, flags: libc::c_int) -> io::Result<()> {
        fault::check(Call::UnlinkAt)?;
        let (fd, name) = (self.fd.as_raw_fd(), self.c_name());
        // SAFETY: an open descriptor and a C string.
        let done = unsafe { libc::unlinkat(fd, name.as_ptr(), flags) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Whether removing a directory has failed because it is not empty.
pub fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST))
}

/// Whether there is no openat2(2): old kernels, and filters of system calls that do not know it.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

fn open_at(fd: RawFd, name: &CStr, more: libc::c_int) -> io::Result<OwnedFd> {
    without_trace(|flags| {
        fault::check(Call::OpenAt)?;
        // SAFETY: a descriptor that is open, and a C string.
        let fd = unsafe { libc::openat(fd, name.as_ptr(), ENTER | more | flags) };
        owned(fd.into())
    })
}

fn open2(fd: RawFd, name: &CStr, resolve: u64) -> io::Result<OwnedFd> {
    without_trace(|flags| {
        fault::check(Call::OpenAt)?;
        // SAFETY: plain C data, for which the kernel takes zeros as nothing.
        let mut how: libc::open_how = unsafe { mem::zeroed() };
        how.flags = u64::try_from(ENTER | flags).unwrap_or(0);
        how.resolve = resolve;
        let (name, size) = (name.as_ptr(), size_of::<libc::open_how>());
        // SAFETY: a descriptor that is open, a C string, and a structure of this size.
        owned(unsafe { libc::syscall(libc::SYS_openat2, fd, name, &raw const how, size) })
    })
}

/// Only its owner, or who may act as that, may leave the time of the last access alone.
fn without_trace(open: impl Fn(libc::c_int) -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    match open(libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(0),
        opened => opened,
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: a new descriptor, which nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The mount that a descriptor is on; `None` without `/proc`.
fn mount_of(fd: &OwnedFd) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// The entry at `from`, and where the one behind it begins: see getdents64(2).
fn parse(buffer: &[u8], from: usize) -> Option<(DirectoryEntry, usize)> {
    let length = buffer.get(from + 16..from + 18)?;
    let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
    let kind = match *buffer.get(from + 18)? {
        libc::DT_DIR => Kind::Directory,
        libc::DT_REG => Kind::Regular,
        libc::DT_UNKNOWN => Kind::Unknown,
        _ => Kind::Other,
    };
    let begin = from + 19;
    let name = buffer.get(begin..from + length)?;
    let end = begin + name.iter().position(|byte| *byte == 0)?;
    Some((DirectoryEntry { name: (begin, end), kind }, from + length))
}

#[cfg(test)]
mod tests;
