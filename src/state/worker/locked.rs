//! A lock on a byte of the file, for as long as a value lives.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::rc::Rc;

use crate::os::lock::{LockKind, Tried};
use crate::state::record::format::PAGE_BYTES;

use super::paged_file::PagedFile;
use super::store::Inner;

/// By whom a byte is unlocked.
pub(in crate::state) trait Unlock {
    /// Unlocks a byte, now or as soon as that can be.
    fn unlock(&self, byte: u64);
}

/// A lock that was taken, and goes when this is dropped.
#[derive(Debug)]
pub(in crate::state) struct Locked<P: Deref<Target: Unlock>> {
    by: P,
    byte: u64,
}

impl<P: Deref<Target: Unlock>> Locked<P> {
    /// The byte is locked by the file of `by`.
    pub(in crate::state) fn new(by: P, byte: u64) -> Self {
        Self { by, byte }
    }

    /// The page that it is on.
    pub(in crate::state) fn page(&self) -> Option<u32> {
        u32::try_from(self.byte / PAGE_BYTES as u64).ok()
    }
}

impl Locked<&Inner> {
    /// The same lock, for as long as a claim lives.
    pub(in crate::state) fn keep(self, inner: &Rc<Inner>) -> Locked<Rc<Inner>> {
        Locked { by: Rc::clone(inner), byte: ManuallyDrop::new(self).byte }
    }
}

impl<P: Deref<Target: Unlock>> Drop for Locked<P> {
    fn drop(&mut self) {
        self.by.unlock(self.byte);
    }
}

/// For the master, who looks at a file for a moment.
impl Unlock for PagedFile {
    fn unlock(&self, byte: u64) {
        // A lock that cannot be released goes with its descriptor.
        drop(self.unlock_at(byte));
    }
}

impl PagedFile {
    /// Locks a byte; `None` if others hold it.
    pub(in crate::state) fn lock_at(&self, byte: u64) -> io::Result<Option<Locked<&Self>>> {
        let tried = self.try_lock_at(byte, LockKind::Exclusive)?;
        Ok((tried == Tried::Taken).then(|| Locked::new(self, byte)))
    }
}
