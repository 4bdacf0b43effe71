//! Which of many is due first: a heap whose entries can be moved, and that allocates when it is made
//! larger only.
#![forbid(unsafe_code)]

use std::time::Instant;

use crate::os::memory::{NoMemory, fallible, push};

/// The deadlines of a number of things, at most one of each.
///
/// # Invariants
///
/// No entry of `heap` is due before its parent; `place` says where in it the deadline of each thing is.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: Vec<Entry>,
    place: Vec<Option<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    number: usize,
}

/// How many children an entry has: few levels, and the children of one stand together in memory.
const CHILDREN: usize = 4;

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
        push(&mut self.place, None)?;
        Ok(number)
    }

    /// Sets the deadline of `number`, or moves it.
    pub fn set(&mut self, number: usize, at: Instant) {
        let entry = Entry { at, number };
        match self.place.get(number).copied() {
            Some(Some(place)) => {
                let place = self.rise(place, entry);
                self.sink(place, entry);
            }
            Some(None) => {
                self.heap.push(entry);
                self.rise(self.heap.len() - 1, entry);
            }
            None => {}
        }
    }

    /// Takes the deadline of `number` away.
    pub fn clear(&mut self, number: usize) {
        let Some(place) = self.place.get_mut(number).and_then(Option::take) else { return };
        // The last one takes its place.
        let Some(last) = self.heap.pop().filter(|last| last.number != number) else { return };
        let place = self.rise(place, last);
        self.sink(place, last);
    }

    /// The first deadline.
    pub fn first(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.at)
    }

    /// Takes the first deadline away if it is not later than `now`; answers whose it was.
    pub fn pop(&mut self, now: Instant) -> Option<usize> {
        let first = self.heap.first().filter(|first| first.at <= now)?.number;
        self.clear(first);
        Some(first)
    }

    fn put(&mut self, place: usize, entry: Entry) {
        if let Some(to) = self.heap.get_mut(place) {
            *to = entry;
        }
        if let Some(to) = self.place.get_mut(entry.number) {
            *to = Some(place);
        }
    }

    /// Puts `entry` at `place`, or nearer to the root, behind a parent that is not due after it.
    fn rise(&mut self, mut place: usize, entry: Entry) -> usize {
        while let Some(above) = place.checked_sub(1).map(|place| place / CHILDREN) {
            let parent = self.heap.get(above).copied().filter(|parent| parent.at > entry.at);
            let Some(parent) = parent else { break };
            self.put(place, parent);
            place = above;
        }
        self.put(place, entry);
        place
    }

    /// Puts `entry` at `place`, or farther from the root, before children that are not due before it.
    fn sink(&mut self, mut place: usize, entry: Entry) {
        loop {
            let (mut next, mut first) = (None, entry);
            let children = self.heap.iter().enumerate().skip(CHILDREN * place + 1).take(CHILDREN);
            for (at, child) in children {
                if child.at < first.at {
                    (next, first) = (Some(at), *child);
                }
            }
            self.put(place, first);
            let Some(next) = next else { return };
            place = next;
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
