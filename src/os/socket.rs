//! A pair of sockets that leads nowhere.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Two connected stream sockets, neither of which is ever read or written.
pub struct SocketPair {
    one: OwnedFd,
    _other: OwnedFd,
}

impl SocketPair {
    /// A new pair (socketpair(2)), non-blocking and closed on exec.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let mut fds = [-1; 2];
        // SAFETY: writes two descriptors to the array.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else owns.
        let one = unsafe { OwnedFd::from_raw_fd(fds[0]) };
        // SAFETY: as above.
        let other = unsafe { OwnedFd::from_raw_fd(fds[1]) };
        Ok(Self { one, _other: other })
    }

    /// The descriptor of one end, open as long as the pair.
    pub fn descriptor(&self) -> RawFd {
        self.one.as_raw_fd()
    }

    /// Whether that descriptor is still open: it is in the hands of others, too.
    pub fn is_open(&self) -> bool {
        // SAFETY: takes plain numbers.
        unsafe { libc::fcntl(self.one.as_raw_fd(), libc::F_GETFD) != -1 }
    }
}
