//! Work beside the event loop: how long it takes is the disk's affair.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread::{Builder, JoinHandle};

use super::call::Call;
use super::fault;

/// Work in a thread that does nothing else, and touches nothing of nginx's.
#[derive(Debug)]
pub struct Background(JoinHandle<io::Result<()>>);

impl Background {
    /// Begins, in a thread of this name.
    ///
    /// # Errors
    ///
    /// There can be no such thread.
    pub fn begin(
        name: &str,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        without_signals(|| Builder::new().name(name.to_owned()).spawn(work)).map(Self)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// What the work reports.
    pub fn end(self) -> io::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }
}

/// A file that is being made durable.
#[derive(Debug)]
pub struct Syncing(Background);

impl Syncing {
    /// Begins, in a thread that does nothing else.
    ///
    /// # Errors
    ///
    /// There can be no such thread, or no further descriptor.
    pub fn begin(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let failed = fault::check(Call::Sync);
        Background::begin("timer-fsync", move || failed.and_then(|()| file.sync_all())).map(Self)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// What fsync(2) reports.
    pub fn end(self) -> io::Result<()> {
        self.0.end()
    }
}

/// Does `work`, and what it starts, where no signal comes: nginx's are for the thread that waits for events.
fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: writes the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: reads the set that was written above, and writes the other.
    let masked =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let answer = work();
    if masked == 0 {
        // SAFETY: reads the set that the first call has written.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::os::scratch::Scratch;

    #[test]
    fn a_file_is_synced_and_signals_come_as_before() {
        let signals = || {
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: reads nothing, and writes the set.
            let read =
                unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), set.as_mut_ptr()) };
            assert_eq!(read, 0);
            // SAFETY: the set was written above.
            unsafe { libc::sigismember(set.as_ptr(), libc::SIGTERM) }
        };
        let scratch = Scratch::new();
        let path = scratch.path("file");
        fs::write(&path, "content").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(signals(), 0);
        let (masked, syncing) = (without_signals(signals), Syncing::begin(&file).unwrap());
        assert_eq!((masked, signals()), (1, 0));
        while !syncing.has_ended() {
            std::thread::yield_now();
        }
        syncing.end().unwrap();
    }
}
