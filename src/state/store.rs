//! A worker's view of the state.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use crate::os::memory::{NoMemory, fallible};
use crate::schedule::UnixMs;

use super::control::Control;
use super::due::{DueTimes, Reading};
use super::format::Part;
use super::header::HeaderControl;
use super::notice::{Action, Notice};
use super::pages::Pages;
use super::run::BootId;
use super::run_part::RunPart;

/// Where the record of a timer is; given out by the master, valid for one cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `None`: the file has no room for it, and the timer is degraded.
    pub(super) page: Option<u32>,
    pub(super) name: Box<str>,
}

impl Place {
    /// The timer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same timer without its record.
    pub(super) fn lost(&self) -> Self {
        Self { page: None, name: self.name.clone() }
    }

    /// A place that no file has.
    pub fn nowhere(name: &str) -> Self {
        Self { page: None, name: name.into() }
    }
}

/// A timer, as the calls that act on its record need it.
#[derive(Clone, Copy)]
pub struct Timer<'a> {
    /// Its record.
    pub place: &'a Place,
    /// Its due times.
    pub due_times: &'a dyn DueTimes,
    /// Whether it falls to this worker when the state is degraded.
    pub owner: Owner,
}

/// Which worker runs a timer for which the file cannot tell who does: the one in its own slot,
/// with `timer_worker any` the one in slot 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This one.
    This,
    /// Another one.
    Other,
}

/// Who this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// The boot it belongs to: [`crate::os::boot::boot_id`].
    pub boot: BootId,
}

/// The unlocked read was torn eight times. To be repeated after each of [`Steps`]; then the
/// answer is "unknown", and who needs more calls [`Store::repair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn;

/// The waits of a reader or of a refused lock: 1, 2, 4 ... 64 ms.
#[derive(Clone, Debug, Default)]
pub struct Steps(u32);

impl Iterator for Steps {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = (self.0 < 7).then(|| Duration::from_millis(1 << self.0));
        self.0 += 1;
        wait
    }
}

/// How often a torn read is repeated at once.
pub(super) const READ_TRIES: u32 = 8;

/// A worker's own attachment to the state.
///
/// # Invariants
///
/// The descriptor below has an open file description of its own, so that its locks are this
/// worker's alone. A run lock on it is held exactly as long as a [`Claim`](super::Claim) or a
/// look under the lock lives; the table of claims says which are.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Rc<Inner>,
}

pub(super) struct Inner {
    /// `None`: nothing could be attached to; all timers are degraded.
    pub(super) pages: Option<Pages>,
    pub(super) process: Process,
    pub(super) attached_at: UnixMs,
    pub(super) timers: RefCell<HashMap<Box<str>, Mine>>,
    pub(super) notices: RefCell<Vec<Notice>>,
    /// What holds for all timers, where that could not be written.
    pub(super) header: Cell<Option<HeaderControl>>,
    opened: Health,
    /// Of the last access to the file.
    pub(super) health: Cell<Health>,
}

/// What this worker alone knows of a timer.
#[derive(Default)]
pub(super) struct Mine {
    pub(super) claimed: Claimed,
    /// Parts that are newer than those in the file, because they could not be written.
    pub(super) run: Option<RunPart>,
    pub(super) control: Option<Control>,
}

/// An entry of the table of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Claimed {
    /// This worker holds no claim of the timer.
    #[default]
    No,
    /// It does.
    Yes,
}

/// Whether the state can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ok,
    /// It can; it took the place of a bad file at the last load.
    Recovered,
    /// The last access to the file failed, it has no room, or somebody has damaged it: the timers
    /// go on without.
    Degraded,
}

/// What came of writing a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Yes,
    /// This worker remembers it instead.
    No,
}

/// A lock on one part, released when dropped.
pub(super) struct Locked<'a> {
    inner: &'a Inner,
    part: Part,
    page: Option<u32>,
}

impl<'a> Locked<'a> {
    pub(super) fn new(inner: &'a Inner, part: Part, page: Option<u32>) -> Self {
        Self { inner, part, page }
    }

    /// Leaves the lock to a claim, whose drop releases it.
    pub(super) fn keep(mut self) {
        self.page = None;
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.inner.unlock(self.part, self.page);
    }
}

impl Store {
    pub(super) fn new(pages: Option<Pages>, process: Process, opened: Health, now: UnixMs) -> Self {
        let inner = Inner {
            pages,
            process,
            attached_at: now,
            timers: RefCell::default(),
            notices: RefCell::default(),
            header: Cell::default(),
            opened,
            health: Cell::new(Health::Ok),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Room for what this worker knows of so many timers: none is made later.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn make_room(&self, timers: usize) -> Result<(), NoMemory> {
        let mut mine = self.inner.timers.borrow_mut();
        fallible(|| mine.try_reserve(timers))
    }

    /// Reads a record, without a lock.
    ///
    /// An I/O error is a [`Notice`]; the answer is then what this worker remembers.
    ///
    /// # Errors
    ///
    /// Somebody was writing each time; see [`Torn`].
    pub fn read(&self, place: &Place) -> Result<Reading, Torn> {
        (0..READ_TRIES).find_map(|_| self.inner.try_read(place)).ok_or(Torn)
    }

    /// The order number of the state: raised by each order, and by each worker that leaves work
    /// behind. Who sees it change looks at all its timers.
    pub fn order_number(&self) -> u64 {
        let Some(pages) = &self.inner.pages else { return 0 };
        pages.order_number().unwrap_or_else(|error| {
            self.inner.fail(Action::Read, error);
            0
        })
    }

    /// What has happened since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.inner.notices.take()
    }

    /// Whether the state can be relied on, as far as this worker has seen. A worker that only reads
    /// has seen no write fail: it looks at the file itself.
    pub fn health(&self) -> Health {
        match self.inner.health.get() {
            Health::Degraded => Health::Degraded,
            _ if !self.inner.is_whole() => Health::Degraded,
            _ => self.inner.opened,
        }
    }

    /// Who this process is.
    pub fn process(&self) -> Process {
        self.inner.process
    }

    #[cfg(test)]
    pub(super) fn set_fault(&self, fault: super::pages::Fault) {
        if let Some(pages) = &self.inner.pages {
            pages.set_fault(fault);
        }
    }

    /// Whether a write has been lost because the process was killed before it.
    #[cfg(test)]
    pub(super) fn was_killed(&self) -> bool {
        use super::pages::Fault;
        self.inner.pages.as_ref().is_some_and(|pages| pages.fault() == Fault::Killed)
    }
}
