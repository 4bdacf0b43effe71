//! The newest files of a tree, in room for as many as are kept.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::os::directory::FileTime;
use crate::os::file::FileId;
use crate::os::memory::{NoMemory, fallible};

/// What is newer or, of the same age, comes first in an order that is always the same.
type Age = (FileTime, FileId);

/// The newest of all that were shown to it.
#[derive(Debug)]
pub(super) struct Newest {
    keep: usize,
    /// The oldest of them on top.
    heap: BinaryHeap<Reverse<Age>>,
}

impl Newest {
    /// For so many; no room for them yet.
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, heap: BinaryHeap::new() }
    }

    /// A file of the tree.
    pub(super) fn see(&mut self, time: FileTime, id: FileId) -> Result<(), NoMemory> {
        let age = Reverse((time, id));
        if self.heap.len() < self.keep {
            fallible(|| self.heap.try_reserve(1))?;
            self.heap.push(age);
        } else if let Some(mut oldest) = self.heap.peek_mut() {
            if age < *oldest {
                *oldest = age;
            }
        }
        Ok(())
    }

    /// Whether a file is one of them. Another name of one that is counts as that, and so does what is newer than all
    /// that were there.
    pub(super) fn has(&self, time: FileTime, id: FileId) -> bool {
        let is_full = self.heap.len() >= self.keep;
        self.keep > 0
            && (!is_full || self.heap.peek().is_none_or(|Reverse(oldest)| (time, id) >= *oldest))
    }
}
