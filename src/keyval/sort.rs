//! A merge sort that can be left and gone on with.

use std::cmp::Ordering;

use crate::os::memory::{NoMemory, fallible};

/// A row that is being sorted.
///
/// Runs of `width` items are in order; `to` has what was merged of two neighbours at a time so far.
#[derive(Debug)]
pub(super) struct MergeSort<T> {
    from: Vec<T>,
    to: Vec<T>,
    width: usize,
    left: Run,
    right: Run,
}

/// What is not merged yet of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    at: usize,
    end: usize,
}

/// So many items are merged in a step.
const STEP: usize = 256;

impl<T: Copy> MergeSort<T> {
    pub(super) fn new(from: Vec<T>) -> Result<Self, NoMemory> {
        let mut to = Vec::new();
        fallible(|| to.try_reserve_exact(from.len()))?;
        Ok(Self { from, to, width: 1, left: Run::default(), right: Run::default() })
    }

    /// Goes on a little; the row once it is in order.
    pub(super) fn step(&mut self, compare: impl Fn(&T, &T) -> Ordering) -> Option<Vec<T>> {
        if self.width >= self.from.len() {
            return Some(std::mem::take(&mut self.from));
        }
        for _ in 0..STEP {
            if self.to.len() == self.from.len() {
                std::mem::swap(&mut self.from, &mut self.to);
                self.to.clear();
                self.width = self.width.saturating_mul(2);
                (self.left, self.right) = (Run::default(), Run::default());
                return None;
            }
            if self.left.at == self.left.end && self.right.at == self.right.end {
                self.next_runs();
            }
            let left = self.from.get(self.left.at).filter(|_| self.left.at < self.left.end);
            let right = self.from.get(self.right.at).filter(|_| self.right.at < self.right.end);
            let next = match (left, right) {
                (Some(left), Some(right)) if compare(left, right) == Ordering::Greater => right,
                (None, Some(right)) => right,
                (Some(left), _) => left,
                (None, None) => return None,
            };
            let is_left = left.is_some_and(|left| std::ptr::eq(left, next));
            // There is room for all of them.
            self.to.push(*next);
            let run = if is_left { &mut self.left } else { &mut self.right };
            run.at += 1;
        }
        None
    }

    fn next_runs(&mut self) {
        let (from, len) = (self.right.end, self.from.len());
        let middle = from.saturating_add(self.width).min(len);
        let end = middle.saturating_add(self.width).min(len);
        self.left = Run { at: from, end: middle };
        self.right = Run { at: middle, end };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_row_is_sorted_and_equal_items_stay_in_their_order() {
        let mut random = 7_u64;
        for len in (0..70).chain([255, 256, 257, 1000, 5000]) {
            let row: Vec<(u64, usize)> = (0..len)
                .map(|at| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 55, at)
                })
                .collect();
            let mut sort = MergeSort::new(row.clone()).unwrap();
            let sorted = loop {
                if let Some(sorted) = sort.step(|a, b| a.0.cmp(&b.0)) {
                    break sorted;
                }
            };
            let mut expected = row;
            expected.sort_unstable();
            assert_eq!(sorted, expected, "{len}");
        }
    }
}
