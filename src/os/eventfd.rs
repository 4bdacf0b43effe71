//! A counter that processes wake each other by: eventfd(2).

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::call::Call;
use super::fault;

/// A counter that any process which has its descriptor can add to, and any can take.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, non-blocking and closed on exec.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        fault::check(Call::EventFd)?;
        // SAFETY: takes plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Another descriptor of the same counter.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Adds to it. What nobody takes stays, so that there is nothing to fail.
    pub fn notify(&self, times: NonZeroU64) {
        let times = times.get().to_ne_bytes();
        // SAFETY: an open descriptor; reads eight bytes of ours.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), times.as_ptr().cast(), times.len()) };
    }

    /// Takes what all have added since the last time; `None` if that is nothing.
    pub fn take(&self) -> Option<NonZeroU64> {
        let mut times = [0; 8];
        // SAFETY: an open descriptor; writes eight bytes of ours.
        let n = unsafe { libc::read(self.0.as_raw_fd(), times.as_mut_ptr().cast(), times.len()) };
        if n == 8 { NonZeroU64::new(u64::from_ne_bytes(times)) } else { None }
    }

    /// The descriptor, open as long as this value.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_stays_until_it_is_taken() {
        let one = EventFd::new().unwrap();
        let other = one.try_clone().unwrap();
        assert_eq!(one.take(), None);
        other.notify(NonZeroU64::MIN);
        one.notify(NonZeroU64::new(41).unwrap());
        assert_eq!(one.take(), NonZeroU64::new(42));
        assert_eq!(one.take(), None);
        assert_eq!(other.take(), None);
    }
}
