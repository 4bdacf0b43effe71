//! The runs in progress in this worker, and the line of those that wait for a place.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::job::Job;
use crate::nginx::event::Posted;
use crate::nginx::process;

/// At most `limit` runs are in progress; who finds no place waits in the line.
///
/// # Invariants
///
/// `places` is `limit` less the [`Place`]s that exist.
pub(super) struct Line {
    places: Cell<usize>,
    looking: RefCell<VecDeque<Weak<Job>>>,
    waiting: RefCell<VecDeque<Weak<Job>>>,
    posted: Posted,
}

/// A place among the runs in progress; given back when it is dropped.
pub(super) struct Place(Rc<Line>);

impl Line {
    pub(super) fn new(limit: usize) -> Rc<Self> {
        Rc::new_cyclic(|line: &Weak<Self>| {
            let line = line.clone();
            let posted = Posted::new(move || {
                if let Some(line) = line.upgrade() {
                    line.deal();
                }
            });
            // INVARIANT: no place is taken yet.
            Self {
                places: Cell::new(limit),
                looking: RefCell::default(),
                waiting: RefCell::default(),
                posted,
            }
        })
    }

    /// Has `job` look at its record once the timers that are due now are armed again.
    pub(super) fn post(&self, job: Weak<Job>) {
        self.looking.borrow_mut().push_back(job);
        self.posted.post();
    }

    /// A place, if there is one.
    pub(super) fn place(self: &Rc<Self>) -> Option<Place> {
        let left = self.places.get().checked_sub(1)?;
        // INVARIANT: the place is made with this.
        self.places.set(left);
        Some(Place(Rc::clone(self)))
    }

    /// Puts `job` at the end of the line.
    pub(super) fn wait(&self, job: Weak<Job>) {
        self.waiting.borrow_mut().push_back(job);
    }

    fn deal(self: &Rc<Self>) {
        loop {
            let next = self.looking.borrow_mut().pop_front();
            let Some(job) = next else { break };
            if let Some(job) = job.upgrade() {
                job.deal();
            }
        }
        self.fill();
    }

    /// Gives the places that are free to those who wait, unless the worker is leaving.
    fn fill(self: &Rc<Self>) {
        while !process::is_leaving() {
            if self.waiting.borrow().is_empty() {
                return;
            }
            let Some(place) = self.place() else { return };
            let next = self.waiting.borrow_mut().pop_front();
            if let Some(job) = next.and_then(|job| job.upgrade()) {
                job.leave_line(place);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // INVARIANT: the place is gone with this.
        self.0.places.set(self.0.places.get() + 1);
        self.0.posted.post();
    }
}
