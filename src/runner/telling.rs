//! How many requests tell one receiver of events at once; the others wait for their turn.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};

use super::job::Job;
use crate::os::memory::{NoMemory, fallible};

/// Those who tell receivers of events in this worker. A receiver that does not answer holds nobody
/// who tells another one.
#[derive(Default)]
pub(super) struct Tellings {
    /// By the receiver's id; of none that nobody tells of anything.
    receivers: RefCell<HashMap<u32, ReceiverQueue>>,
}

#[derive(Default)]
struct ReceiverQueue {
    /// How many tell it of an event.
    telling: usize,
    waiting: VecDeque<Waiting>,
}

/// A job, and which of its receivers it waits for.
struct Waiting {
    job: Weak<Job>,
    index: usize,
}

/// So many tell one receiver at once, whatever happens to how many timers.
const MOST: usize = 8;

/// The right to tell one receiver of an event; whoever waits first looks when it is dropped.
pub(super) struct Telling {
    all: Rc<Tellings>,
    id: u32,
}

impl Tellings {
    /// The right to tell the receiver with this id of an event. `None`: as many do as may, and the job
    /// looks again when one of them has ended.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn begin(
        self: &Rc<Self>,
        id: u32,
        job: &Weak<Job>,
        index: usize,
    ) -> Result<Option<Telling>, NoMemory> {
        let mut receivers = self.receivers.borrow_mut();
        fallible(|| receivers.try_reserve(1))?;
        let receiver = receivers.entry(id).or_default();
        if receiver.telling < MOST {
            receiver.telling += 1;
            return Ok(Some(Telling { all: Rc::clone(self), id }));
        }
        fallible(|| receiver.waiting.try_reserve(1))?;
        receiver.waiting.push_back(Waiting { job: Weak::clone(job), index });
        Ok(None)
    }

    /// Whoever waits first, as one has ended.
    fn end(&self, id: u32) -> Option<Waiting> {
        let mut receivers = self.receivers.borrow_mut();
        let receiver = receivers.get_mut(&id)?;
        receiver.telling = receiver.telling.saturating_sub(1);
        let next = receiver.waiting.pop_front();
        if receiver.telling == 0 && receiver.waiting.is_empty() {
            receivers.remove(&id);
        }
        next
    }

    /// Whoever waits next, where the one before has gone.
    fn next(&self, id: u32) -> Option<Waiting> {
        self.receivers.borrow_mut().get_mut(&id)?.waiting.pop_front()
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let mut next = self.all.end(self.id);
        while let Some(Waiting { job, index }) = next {
            if job.upgrade().is_some_and(|job| job.look_at_receiver(index)) {
                return;
            }
            next = self.all.next(self.id);
        }
    }
}
