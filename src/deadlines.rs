//! Which of many is due first: a heap whose entries can be moved, and that allocates when it is made
//! larger only.
#![forbid(unsafe_code)]

use std::time::Instant;

use crate::os::memory::{NoMemory, fallible, push};

/// The deadlines of a number of things, at most one of each.
///
/// # Invariants
///
/// `heap` has the numbers of those that have a deadline, none before its parent; `place` says where
/// in it each is.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: Vec<usize>,
    place: Vec<Option<usize>>,
    at: Vec<Option<Instant>>,
}

impl Deadlines {
    /// Room for one more; answers its number, counted from 0.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn join(&mut self) -> Result<usize, NoMemory> {
        let number = self.place.len();
        // Room in the heap is made now: setting a deadline cannot fail.
        fallible(|| self.heap.try_reserve(number + 1 - self.heap.len()))?;
        push(&mut self.at, None)?;
        push(&mut self.place, None).inspect_err(|_| {
            self.at.pop();
        })?;
        Ok(number)
    }

    /// Sets the deadline of `number`, or moves it.
    pub fn set(&mut self, number: usize, at: Instant) {
        let Some(deadline) = self.at.get_mut(number) else { return };
        *deadline = Some(at);
        let from = self.place.get(number).copied().flatten().unwrap_or_else(|| {
            // INVARIANT: the last one, until it is moved.
            self.heap.push(number);
            self.note(self.heap.len() - 1);
            self.heap.len() - 1
        });
        let from = self.rise(from);
        self.sink(from);
    }

    /// Takes the deadline of `number` away.
    pub fn clear(&mut self, number: usize) {
        let Some(from) = self.place.get_mut(number).and_then(Option::take) else { return };
        if let Some(at) = self.at.get_mut(number) {
            *at = None;
        }
        self.heap.swap_remove(from);
        if from < self.heap.len() {
            // INVARIANT: another one is in its place.
            self.note(from);
            let from = self.rise(from);
            self.sink(from);
        }
    }

    /// The first deadline.
    pub fn first(&self) -> Option<Instant> {
        self.at_place(0)
    }

    /// Takes the first deadline away if it is not later than `now`; answers whose it was.
    pub fn pop(&mut self, now: Instant) -> Option<usize> {
        if self.first()? > now {
            return None;
        }
        let number = self.heap.first().copied()?;
        self.clear(number);
        Some(number)
    }

    fn at_place(&self, place: usize) -> Option<Instant> {
        self.heap.get(place).and_then(|number| self.at.get(*number).copied().flatten())
    }

    fn note(&mut self, place: usize) {
        let number = self.heap.get(place).copied();
        if let Some(noted) = number.and_then(|number| self.place.get_mut(number)) {
            *noted = Some(place);
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.note(one);
        self.note(other);
    }

    /// Towards the root, while it is before its parent.
    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.at_place(parent) <= self.at_place(place) {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        place
    }

    /// Away from the root, while one of its children is before it.
    fn sink(&mut self, mut place: usize) {
        loop {
            let children = [2 * place + 1, 2 * place + 2];
            let child = children.into_iter().filter(|child| *child < self.heap.len());
            let Some(child) = child.min_by_key(|child| self.at_place(*child)) else { return };
            if self.at_place(place) <= self.at_place(child) {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_is_always_first() {
        let epoch = Instant::now();
        let mut deadlines = Deadlines::default();
        let mut model: Vec<Option<u64>> = Vec::new();
        let mut random: u64 = 7;
        for step in 0..50_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            let number = usize::try_from(random >> 40).unwrap() % (model.len() + 1);
            let ms = (random >> 33) % 1000;
            match random >> 60 {
                _ if number == model.len() && number < 300 => {
                    assert_eq!(deadlines.join(), Ok(number));
                    model.push(None);
                }
                0..9 if number < model.len() => {
                    deadlines.set(number, epoch + Duration::from_millis(ms));
                    model[number] = Some(ms);
                }
                9..12 if number < model.len() => {
                    deadlines.clear(number);
                    model[number] = None;
                }
                _ => {
                    let first = model.iter().flatten().min().copied();
                    let due = first.filter(|first| *first <= ms);
                    match deadlines.pop(epoch + Duration::from_millis(ms)) {
                        Some(number) => assert_eq!(model[number].take(), due),
                        None => assert_eq!(due, None),
                    }
                }
            }
            let first = model.iter().flatten().min().copied();
            assert_eq!(deadlines.first(), first.map(|ms| epoch + Duration::from_millis(ms)));
        }
    }

    #[test]
    fn what_nobody_has_is_nothing() {
        let mut deadlines = Deadlines::default();
        assert_eq!((deadlines.first(), deadlines.pop(Instant::now())), (None, None));
        deadlines.set(0, Instant::now());
        deadlines.clear(0);
        assert_eq!(deadlines.first(), None);
    }
}
