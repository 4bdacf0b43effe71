//! A file without a path: `memfd_create(2)`, or what comes next to it.

use std::ffi::CString;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::call::Call;
use super::fault;
use super::file::{create_new, unlink};
use super::random::random_bytes;

/// Creates an empty file in memory, gone with its last descriptor; close-on-exec. `name` is for
/// the reader of `/proc` only.
///
/// # Errors
///
/// What `memfd_create(2)` reports, or a `name` with a NUL in it.
pub fn create_memory_file(name: &str) -> io::Result<File> {
    fault::check(Call::MemoryFile)?;
    let name = CString::new(name)?;
    // SAFETY: `name` is a NUL-terminated string that lives until the call has returned.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has just opened `fd`, and nothing else knows of it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Creates an empty file without a path in a directory for such files, for where
/// `memfd_create(2)` is forbidden: gone with its last descriptor; close-on-exec.
///
/// # Errors
///
/// What open(2) or unlink(2) reports.
pub fn create_unlinked_file(name: &str) -> io::Result<File> {
    let mut made = Err(io::ErrorKind::NotFound.into());
    for directory in ["/dev/shm", "/tmp", "/var/tmp"] {
        let directory = Path::new(directory);
        made = create_nameless(directory).or_else(|_| create_and_unlink(directory, name));
        if made.is_ok() {
            break;
        }
    }
    let file = made?;
    // As that of memfd_create(2): who has a descriptor may open it again, and nobody else can
    // reach it. A worker that still may not has the master's descriptor.
    drop(file.set_permissions(Permissions::from_mode(0o666)));
    Ok(file)
}

fn create_nameless(directory: &Path) -> io::Result<File> {
    fault::check(Call::Open)?;
    let flags = libc::O_TMPFILE | libc::O_EXCL | libc::O_CLOEXEC;
    OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(directory)
}

fn create_and_unlink(directory: &Path, name: &str) -> io::Result<File> {
    let random = u64::from_le_bytes(random_bytes()?);
    let path = directory.join(format!("{name}.{random:016x}"));
    let file = create_new(&path)?;
    unlink(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use crate::os::file::{FileId, reopen};

    #[test]
    fn is_opened_again_with_the_same_content() {
        let first = create_memory_file("timers").unwrap();
        first.write_all_at(b"watermark", 0).unwrap();
        let second = reopen(&first).unwrap();
        assert_eq!(FileId::of(&first).unwrap(), FileId::of(&second).unwrap());
        let mut content = [0; 9];
        second.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"watermark");
        assert!(create_memory_file("a\0b").is_err());
    }

    #[test]
    fn a_file_without_a_name_stands_in_for_it() {
        for file in [
            create_unlinked_file("timers").unwrap(),
            create_nameless(&std::env::temp_dir()).unwrap(),
            create_and_unlink(&std::env::temp_dir(), "timers").unwrap(),
        ] {
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            file.write_all_at(b"watermark", 0).unwrap();
            let second = reopen(&file).unwrap();
            assert_eq!(second.metadata().unwrap().len(), 9);
        }
    }
}
