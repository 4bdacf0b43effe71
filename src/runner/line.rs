//! The runs in progress in this worker, and the line of those that wait for a place.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::job::Job;
use crate::nginx::event::{Hold, Next, Posted, Timer};
use crate::nginx::process;

/// At most `limit` runs are in progress; who finds no place waits in the line.
///
/// # Invariants
///
/// `places` is `limit` less the [`Place`]s that exist.
pub(super) struct Line {
    places: Cell<usize>,
    /// Those whose time has come, looked at first.
    looking: RefCell<VecDeque<Weak<Job>>>,
    /// Those that another process may have changed.
    news: RefCell<VecDeque<Weak<Job>>>,
    waiting: RefCell<VecDeque<Weak<Job>>>,
    posted: Posted,
    /// Goes on with what was too much for one turn of the event loop.
    next_turn: Timer,
    /// Whether that is armed.
    rests: Cell<bool>,
}

/// How long a turn of the event loop may look at records.
const TURN: Duration = Duration::from_millis(5);
/// The next turn comes after this time.
const NEXT_TURN: Duration = Duration::from_millis(1);

/// A place among the runs in progress; given back when it is dropped.
pub(super) struct Place(Rc<Line>);

impl Line {
    pub(super) fn new(limit: usize) -> Rc<Self> {
        Rc::new_cyclic(|line: &Weak<Self>| {
            let again = line.clone();
            let next_turn = Timer::new(Hold::Cancelable, move || {
                if let Some(line) = again.upgrade() {
                    line.rests.set(false);
                    line.deal();
                }
                Next::Stop
            });
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
                news: RefCell::default(),
                waiting: RefCell::default(),
                posted,
                next_turn,
                rests: Cell::new(false),
            }
        })
    }

    /// Has `job` look at its record once the timers that are due now are armed again.
    pub(super) fn post(&self, job: Weak<Job>) {
        self.looking.borrow_mut().push_back(job);
        self.come();
    }

    /// The same, after those whose time has come.
    pub(super) fn post_news(&self, job: Weak<Job>) {
        self.news.borrow_mut().push_back(job);
        self.come();
    }

    /// Posts, unless this turn's time is up: what posts while it is posted would make the turn
    /// longer.
    fn come(&self) {
        if !self.rests.get() {
            self.posted.post();
        }
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
        let until = Instant::now() + TURN;
        while let Some(job) = self.next() {
            if let Some(job) = job.upgrade() {
                job.deal();
            }
            if Instant::now() >= until {
                self.rests.set(true);
                self.next_turn.arm(NEXT_TURN);
                break;
            }
        }
        self.fill();
    }

    fn next(&self) -> Option<Weak<Job>> {
        let first = self.looking.borrow_mut().pop_front();
        first.or_else(|| self.news.borrow_mut().pop_front())
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
        self.0.come();
    }
}
