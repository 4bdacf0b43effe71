//! Memory that a process shares with all that it forks.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use super::fault::{self, Call};

/// A row of words, all zero at first, shared with the processes that are forked while it lives.
///
/// # Invariants
///
/// `words` is a mapping of `count` words of its own, which lasts until the value is dropped.
#[derive(Debug)]
pub struct SharedMemory {
    words: NonNull<AtomicU64>,
    count: usize,
}

impl SharedMemory {
    /// Memory for `count` words.
    ///
    /// # Errors
    ///
    /// What mmap(2) reports.
    pub fn new(count: usize) -> io::Result<Self> {
        fault::check(Call::Map)?;
        let bytes = count.checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: asks for new memory; nothing that is mapped is touched.
        let words = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
        if words == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // INVARIANT: just mapped, with this size.
        let words = NonNull::new(words.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { words, count })
    }

    /// All words of memory that is never given back, for what may be kept for any time.
    pub fn leak(self) -> &'static [AtomicU64] {
        let memory = std::mem::ManuallyDrop::new(self);
        // SAFETY: the invariant: so many words, which now last as long as the process; other processes
        // touch them by atomic operations only.
        unsafe { std::slice::from_raw_parts(memory.words.as_ptr(), memory.count) }
    }

    /// How many words there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The word of this number.
    pub fn word(&self, number: usize) -> Option<&AtomicU64> {
        if number >= self.count {
            return None;
        }
        // SAFETY: the invariant: the mapping has so many words, and is page-aligned.
        let word = unsafe { self.words.add(number) };
        // SAFETY: as above; other processes touch it by atomic operations only.
        Some(unsafe { word.as_ref() })
    }
}

// SAFETY: the mapping may be used and given back by any thread; all access to it is atomic.
unsafe impl Send for SharedMemory {}

// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<AtomicU64>();
        // SAFETY: the invariant; references into it do not outlive the value.
        unsafe { libc::munmap(self.words.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn begins_with_zeros_and_ends_at_its_count() {
        let memory = SharedMemory::new(1000).unwrap();
        assert_eq!(memory.word(999).unwrap().fetch_add(7, Ordering::SeqCst), 0);
        assert_eq!(memory.word(999).unwrap().load(Ordering::SeqCst), 7);
        assert!(memory.word(1000).is_none());
        assert!(SharedMemory::new(usize::MAX).is_err());
        assert_eq!(SharedMemory::new(600).unwrap().leak().len(), 600);
        assert!(SharedMemory::new(0).is_err(), "mmap(2) knows no empty mapping");
    }
}
