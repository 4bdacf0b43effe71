//! A file without a path: `memfd_create(2)`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::fault::{self, Call};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    use crate::os::file::{Identity, reopen};

    #[test]
    fn is_opened_again_with_the_same_content() {
        let first = create_memory_file("timers").unwrap();
        first.write_all_at(b"watermark", 0).unwrap();
        let second = reopen(&first).unwrap();
        assert_eq!(Identity::of(&first).unwrap(), Identity::of(&second).unwrap());
        let mut content = [0; 9];
        second.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"watermark");
        assert!(create_memory_file("a\0b").is_err());
    }
}
