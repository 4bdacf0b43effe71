//! In which order the checks of one worker start: so many at once, and none of those that wait is held
//! up by others that last long.

use std::collections::VecDeque;

use crate::os::memory::{NoMemory, fallible, push};

/// So many checks are in progress at once.
pub const MOST: usize = 64;
/// So many of one kind, while others wait.
const HALF: usize = MOST / 2;

/// What waits, and what is in progress. The checks of a group wait in two lanes: those whose last one
/// ended in time, and those that had to be waited for.
#[derive(Debug, Default)]
pub struct Lanes {
    all: Vec<Lane>,
    running: usize,
    /// Which lane comes first now.
    turn: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<usize>,
    running: usize,
}

/// A lane of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneOf(usize);

impl LaneOf {
    /// The lane of group number `group`.
    pub fn new(group: usize, is_slow: bool) -> Self {
        Self(2 * group + usize::from(is_slow))
    }
}

impl Lanes {
    /// Room for one more group.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn join(&mut self) -> Result<(), NoMemory> {
        push(&mut self.all, Lane::default())?;
        push(&mut self.all, Lane::default())
    }

    /// `check` waits; one that could not be noted for lack of memory is told so.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn wait(&mut self, lane: LaneOf, check: usize) -> Result<(), NoMemory> {
        let Some(lane) = self.all.get_mut(lane.0) else { return Err(NoMemory) };
        fallible(|| lane.waiting.try_reserve(1))?;
        lane.waiting.push_back(check);
        Ok(())
    }

    /// The next one that may start, with its lane: it is in progress until [`end`](Self::end).
    pub fn start(&mut self) -> Option<(LaneOf, usize)> {
        let number = self.next_lane()?;
        let lane = self.all.get_mut(number)?;
        let check = lane.waiting.pop_front()?;
        lane.running += 1;
        self.running += 1;
        self.turn = (number + 1) % self.all.len();
        Some((LaneOf(number), check))
    }

    /// One of this lane is over.
    pub fn end(&mut self, lane: LaneOf) {
        if let Some(lane) = self.all.get_mut(lane.0) {
            lane.running = lane.running.saturating_sub(1);
            self.running = self.running.saturating_sub(1);
        }
    }

    /// How many are in progress.
    pub fn running(&self) -> usize {
        self.running
    }

    fn next_lane(&self) -> Option<usize> {
        if self.running >= MOST {
            return None;
        }
        let count = self.all.len();
        let in_turn = (0..count).map(|ahead| (self.turn + ahead) % count);
        let mut may_start = in_turn.filter(|number| self.waits(*number) && !self.is_full(*number));
        may_start.next()
    }

    /// Whether it has its half already, or its group has, while another waits.
    fn is_full(&self, number: usize) -> bool {
        let running = |number: usize| self.all.get(number).map_or(0, |lane| lane.running);
        let others = || (0..self.all.len()).filter(|other| self.waits(*other));
        let group = number / 2;
        running(number) >= HALF && others().any(|other| other != number)
            || running(2 * group) + running(2 * group + 1) >= HALF
                && others().any(|other| other / 2 != group)
    }

    fn waits(&self, number: usize) -> bool {
        self.all.get(number).is_some_and(|lane| !lane.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(groups: usize) -> Lanes {
        let mut lanes = Lanes::default();
        for _ in 0..groups {
            lanes.join().unwrap();
        }
        lanes
    }

    fn wait(lanes: &mut Lanes, lane: LaneOf, checks: std::ops::Range<usize>) {
        for check in checks {
            lanes.wait(lane, check).unwrap();
        }
    }

    #[test]
    fn one_group_alone_may_have_all() {
        let mut lanes = lanes(2);
        let lane = LaneOf::new(0, false);
        wait(&mut lanes, lane, 0..100);
        let started: Vec<_> = std::iter::from_fn(|| lanes.start()).collect();
        assert_eq!(started, (0..MOST).map(|check| (lane, check)).collect::<Vec<_>>());
        lanes.end(lane);
        assert_eq!(lanes.start(), Some((lane, MOST)), "in the order in which they came");
        assert_eq!(lanes.start(), None);
    }

    #[test]
    fn groups_take_turns_and_none_has_more_than_half() {
        let mut lanes = lanes(3);
        let [a, b, c] = [0, 1, 2].map(|group| LaneOf::new(group, false));
        wait(&mut lanes, a, 0..200);
        wait(&mut lanes, b, 200..220);
        let first: Vec<_> = std::iter::from_fn(|| lanes.start()).take(4).collect();
        assert_eq!(first, [(a, 0), (b, 200), (a, 1), (b, 201)]);
        while lanes.start().is_some() {}
        assert_eq!(lanes.running(), MOST);
        for _ in 0..20 {
            lanes.end(b);
        }
        while lanes.start().is_some() {}
        // `a` has all of it; a group that comes gets what ends until it has half.
        wait(&mut lanes, c, 300..400);
        for _ in 0..HALF {
            lanes.end(a);
            assert_eq!(lanes.start().map(|(lane, _)| lane), Some(c));
        }
        lanes.end(a);
        assert_eq!(lanes.start().map(|(lane, _)| lane), Some(a));
    }

    #[test]
    fn those_that_must_be_waited_for_do_not_hold_up_the_others() {
        let mut lanes = lanes(1);
        let (quick, slow) = (LaneOf::new(0, false), LaneOf::new(0, true));
        wait(&mut lanes, slow, 0..100);
        wait(&mut lanes, quick, 100..200);
        let started: Vec<_> = std::iter::from_fn(|| lanes.start()).collect();
        let count = |of| started.iter().filter(|(lane, _)| *lane == of).count();
        assert_eq!((count(slow), count(quick)), (HALF, HALF));
        for _ in 0..68 {
            lanes.end(quick);
            assert_eq!(lanes.start().map(|(lane, _)| lane), Some(quick));
        }
        lanes.end(quick);
        assert_eq!(lanes.start().map(|(lane, _)| lane), Some(slow), "nobody else waits");
    }

    #[test]
    fn something_starts_as_long_as_there_is_room() {
        let mut random: u64 = 1;
        let mut lanes = lanes(4);
        let mut running: Vec<LaneOf> = Vec::new();
        let mut waiting = 0;
        for step in 0..20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            let number = usize::try_from(random >> 40).unwrap();
            match random >> 62 {
                0 | 1 => {
                    lanes.wait(LaneOf(number % 8), number).unwrap();
                    waiting += 1;
                }
                2 if !running.is_empty() => {
                    lanes.end(running.swap_remove(number % running.len()));
                }
                _ => {
                    let started = lanes.start();
                    assert_eq!(started.is_some(), waiting > 0 && running.len() < MOST);
                    waiting -= usize::from(started.is_some());
                    running.extend(started.map(|(lane, _)| lane));
                }
            }
            assert_eq!(lanes.running(), running.len());
        }
    }
}
