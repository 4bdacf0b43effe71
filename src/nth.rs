//! One of a list that many share.
#![forbid(unsafe_code)]

use std::ops::Deref;
use std::rc::Rc;

/// One of a shared list, kept by its number. It has no memory of its own, and keeps no count in what it
/// is: a count in each would give each worker a copy of the memory that the master has filled.
///
/// # Invariants
///
/// `number` is that of one of `all`.
#[derive(Debug)]
pub struct Nth<T> {
    all: Rc<Vec<T>>,
    number: usize,
}

impl<T> Nth<T> {
    /// Each of a list.
    pub fn each(all: &Rc<Vec<T>>) -> impl Iterator<Item = Self> {
        // INVARIANT: the numbers of all.
        (0..all.len()).map(|number| Self { all: Rc::clone(all), number })
    }

    /// Whether both are the same one of the same list.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.all, &other.all) && self.number == other.number
    }

    /// Its number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }
}

impl<T> Clone for Nth<T> {
    fn clone(&self) -> Self {
        Self { all: Rc::clone(&self.all), number: self.number }
    }
}

impl<T> Deref for Nth<T> {
    type Target = T;

    #[expect(clippy::indexing_slicing, reason = "the invariant")]
    fn deref(&self) -> &T {
        &self.all[self.number]
    }
}
