//! What the timers of one worker have in common.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::{self, Discriminant};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::messages::{self, Finder};
use super::run_queue::RunQueue;
use super::telling::Tellings;
use crate::conf::{MainConf, TimerConf};
use crate::nginx::log::Log;
use crate::os::memory::fallible;
use crate::state::{Counted, Edited, Notice, Owner, Store};
use crate::throttle::Throttle;

/// This worker, attached to the state.
pub(super) struct Worker {
    pub(super) store: Store,
    pub(super) queue: Rc<RunQueue>,
    slot: usize,
    workers: usize,
    path: Option<PathBuf>,
    /// The state's order number, as last seen.
    seen: Cell<u64>,
    /// How many timers need a look each second.
    watched: Cell<usize>,
    /// Whether something was left behind that another worker is to take up.
    leaves_work: Cell<bool>,
    /// Those who tell receivers of events.
    pub(super) tellings: Rc<Tellings>,
    timers: Rc<Vec<TimerConf>>,
    /// What lasts is found again with each due time, and logged once a minute.
    throttles: RefCell<HashMap<ThrottleKey, Throttle>>,
}

/// What is logged once a minute: a kind of notice, and the timer.
type ThrottleKey = (Discriminant<Notice>, Box<str>);

impl Worker {
    pub(super) fn new(
        store: Store,
        slot: usize,
        workers: usize,
        main: &MainConf,
        path: Option<&Path>,
    ) -> Rc<Self> {
        let seen = Cell::new(store.order_number());
        Rc::new(Self {
            store,
            queue: RunQueue::new(main.max_running()),
            slot,
            workers,
            path: path.map(Path::to_owned),
            seen,
            watched: Cell::new(0),
            leaves_work: Cell::new(false),
            tellings: Rc::default(),
            timers: main.shared_timers(),
            throttles: RefCell::default(),
        })
    }

    /// The state file, if there is one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// Whether this worker runs the timer when the state does not say who does.
    pub(super) fn owner(&self, timer: &TimerConf) -> Owner {
        let own = timer.worker.slot(&timer.name, self.workers) == self.slot;
        if own { Owner::This } else { Owner::Other }
    }

    /// How long this worker lets others go first.
    pub(super) fn claim_delay(&self, timer: &TimerConf, period: Duration) -> Duration {
        timer.worker.claim_delay(self.slot, self.workers, period)
    }

    /// Whether another process wants all timers to be looked at.
    pub(super) fn has_news(&self) -> bool {
        let number = self.store.order_number();
        self.seen.replace(number) != number
    }

    /// One timer more, or less, needs a look each second.
    pub(super) fn count_watched(&self, more: bool) {
        let watched = self.watched.get();
        self.watched.set(if more { watched + 1 } else { watched.saturating_sub(1) });
    }

    /// Whether any timer needs what is done each second.
    pub(super) fn needs_tick(&self) -> bool {
        self.watched.get() > 0 || self.store.has_any_unwritten()
    }

    /// A run that waits was left behind by this worker, which is leaving.
    pub(super) fn leave_work(&self) {
        self.leaves_work.set(true);
    }

    /// Has other workers look at all their timers, if something was left behind.
    pub(super) fn tell_others(&self) {
        if self.leaves_work.take() {
            // A lock that is held now is held by somebody who raises the number too.
            let (Edited::Done(()) | Edited::NotWritten(()) | Edited::Again | Edited::Failed) =
                self.store.raise();
        }
    }

    /// Logs what the store reports.
    pub(super) fn report(&self) {
        if self.store.has_notices() {
            self.write(self.store.take_notices());
        }
    }

    /// The same but for due times that were left out; answers how many.
    pub(super) fn report_but_left_out(&self) -> Counted {
        let mut left_out = Counted::default();
        let mut others = self.store.take_notices();
        others.retain(|notice| {
            let Notice::LeftOut { counted, .. } = notice else { return true };
            left_out.missed += counted.missed;
            left_out.overlaps += counted.overlaps;
            left_out.elsewhere += counted.elsewhere;
            false
        });
        self.write(others);
        left_out
    }

    fn write(&self, notices: Vec<Notice>) {
        let mut finder = Finder::new(&self.timers);
        for notice in notices {
            if self.passes(&notice) {
                let log = finder.log_of(&notice).unwrap_or(Log::cycle());
                messages::write(log, self.path.as_deref(), &notice);
            }
        }
    }

    fn passes(&self, notice: &Notice) -> bool {
        let (Notice::Failed { .. }
        | Notice::HeaderDamaged
        | Notice::Damaged { .. }
        | Notice::NotCounted { .. }
        | Notice::Lost { .. }) = notice
        else {
            return true;
        };
        let key = (mem::discriminant(notice), notice.timer().unwrap_or_default().into());
        let mut throttles = self.throttles.borrow_mut();
        if fallible(|| throttles.try_reserve(1)).is_err() {
            return true;
        }
        let throttle = throttles.entry(key).or_default();
        throttle.pass(Instant::now()).is_some()
    }
}
