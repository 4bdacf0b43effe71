//! A worker's view of the state.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::os::memory::{NoMemory, fallible};
use crate::schedule::UnixMs;
use crate::state::policy::due::{DueTimes, Reading};
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::Control;
use crate::state::record::format::{HEADER_CONTROL, RECORD_BYTES, TEXT_PAGES, name_hash};
use crate::state::record::header::{HeaderControl, Newness};
use crate::state::record::run::{BootId, RunResult};

use super::notice::{Action, Notice};
use super::paged_file::PagedFile;
use super::shared_claims::{Claimant, SharedClaim};
use super::shared_health::SharedHealth;

/// Where the record of a timer is; given out by the master, valid for one cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which of the timers of the cycle it is.
    pub(in crate::state) number: usize,
    /// `None`: the file has no room for it, and the timer is degraded.
    pub(in crate::state) page: Option<u32>,
    /// The pages of its text, as many as it has.
    pub(in crate::state) texts: [Option<u32>; TEXT_PAGES],
    pub(in crate::state) name: Arc<str>,
    /// The hash by which its claim part says whose it is.
    pub(in crate::state) name_hash: u64,
    /// What the workers of this master have claimed of it.
    pub(in crate::state) claims: Option<SharedClaim>,
}

impl Record {
    /// The timer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the file has no room for it.
    pub(in crate::state) fn is_lacking(&self) -> bool {
        self.page.is_none()
    }

    /// The same timer without its record.
    pub(in crate::state) fn lost(&self) -> Self {
        Self { page: None, ..self.clone() }
    }

    /// A record that no file has a page for.
    pub(in crate::state) fn nowhere(name: &str) -> Self {
        let name_hash = name_hash(name);
        let texts = [None; TEXT_PAGES];
        Self { number: 0, page: None, texts, name: name.into(), name_hash, claims: None }
    }
}

/// A timer, as the calls that act on its record need it.
#[derive(Clone, Copy)]
pub struct TimerRef<'a> {
    /// Its record.
    pub record: &'a Record,
    /// Its due times.
    pub due_times: &'a dyn DueTimes,
    /// Whether it belongs to this worker when the state is degraded.
    pub owner: Owner,
    /// `timer_timeout`: how long an attempt may take.
    pub timeout: Duration,
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
    /// When it was started: [`crate::os::process::start_time`].
    pub started: u32,
    /// The boot it belongs to: [`crate::os::boot::boot_id`].
    pub boot: BootId,
}

impl Process {
    pub(in crate::state) fn holder(self) -> Claimant {
        Claimant { pid: self.pid, started: self.started }
    }
}

/// Why a record could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The unlocked read was torn eight times. To be repeated after each of [`Steps`]; then the
    /// answer is "unknown", and who needs more calls [`Store::repair`].
    Torn,
    /// There is none, or reading it failed: what it says is unknown, and its owner runs it.
    Lost,
}

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
pub(in crate::state) const READ_TRIES: u32 = 8;

/// A worker's own attachment to the state.
///
/// # Invariants
///
/// The descriptor below has an open file description of its own, so that its locks are this
/// worker's alone. A run lock on it is held exactly as long as a [`Claim`](crate::state::Claim) or a
/// look under the lock lives; the table of claims says which are.
#[derive(Clone)]
pub struct Store {
    pub(in crate::state) inner: Rc<Inner>,
}

pub(in crate::state) struct Inner {
    /// `None`: nothing could be attached to; all timers are degraded.
    pub(in crate::state) pages: Option<PagedFile>,
    pub(in crate::state) process: Process,
    pub(in crate::state) attached_at: UnixMs,
    /// By the numbers of their [`Record`]s.
    pub(in crate::state) timers: RefCell<Vec<LocalRecord>>,
    /// Whether one of them may have what could not be written.
    pub(in crate::state) unwritten: Cell<bool>,
    pub(in crate::state) notices: RefCell<Vec<Notice>>,
    /// What holds for all timers, where that could not be written.
    pub(in crate::state) header: Cell<Option<HeaderControl>>,
    /// The same as it was read last, and the bytes that it was read from.
    pub(in crate::state) known_header: Cell<HeaderControl>,
    pub(in crate::state) known_header_bytes: Cell<Option<[u8; HEADER_CONTROL.bytes]>>,
    opened: Health,
    /// Whether an access to the file has failed lately, in any worker.
    pub(in crate::state) failing: SharedHealth,
    /// Locks that could not be released.
    pub(in crate::state) unreleased: RefCell<Vec<u64>>,
    order_number: Cell<u64>,
}

/// An edit whose read fails is tried so often before this worker alone remembers it: others do not know of
/// it then, and may take or count the same due times.
pub(in crate::state) const UNREAD_EDIT_TRIES: u32 = 5;
/// The same of one whose write fails. A full disk is no matter of a moment, and an order does not wait long.
pub(in crate::state) const UNWRITTEN_EDIT_TRIES: u32 = 2;

/// What this worker alone knows of a timer.
#[derive(Default)]
pub(in crate::state) struct LocalRecord {
    pub(in crate::state) claimed: Claimed,
    /// Parts that are newer than those in the file, because they could not be written.
    pub(in crate::state) claim: Option<Box<ClaimPart>>,
    pub(in crate::state) control: Option<Box<Control>>,
    /// The record as it was read or written last, of a timer that belongs to this worker.
    pub(in crate::state) known: Option<Box<[u8; RECORD_BYTES]>>,
    /// What has happened while there was no record, or it could not be read; its counters are those
    /// of this time.
    pub(in crate::state) apart: Option<Box<ClaimPart>>,
    /// The results that could not be written, oldest first; the last one is the newest of `apart`, or,
    /// without that, of `claim`.
    pub(in crate::state) results: Vec<RunResult>,
    /// That of a run which waited in the file when one of `apart` took over from it: the one before them.
    pub(in crate::state) taken_over: Option<Box<RunResult>>,
    /// How many edits in a row have failed.
    failed_edits: u32,
}

/// An entry of the table of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::state) enum Claimed {
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

impl Health {
    /// That of a file as its header has it.
    pub(in crate::state) fn of(newness: Newness) -> Self {
        match newness {
            Newness::Ordinary => Self::Ok,
            Newness::Recovered => Self::Recovered,
        }
    }
}

/// The result of writing a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Written {
    Yes,
    /// This worker remembers it instead.
    No,
}

impl LocalRecord {
    /// Whether an edit that has failed is to be tried again in a moment.
    pub(in crate::state) fn tries_edit_again(&mut self, tries: u32) -> bool {
        self.failed_edits = self.failed_edits.saturating_add(1);
        self.failed_edits < tries
    }

    /// An edit has not failed.
    pub(in crate::state) fn edit_is_done(&mut self) {
        self.failed_edits = 0;
    }
}

impl Store {
    pub(in crate::state) fn new(
        pages: Option<PagedFile>,
        process: Process,
        opened: Health,
        failing: SharedHealth,
        now: UnixMs,
    ) -> Self {
        let inner = Inner {
            pages,
            process,
            attached_at: now,
            timers: RefCell::default(),
            unwritten: Cell::new(false),
            notices: RefCell::default(),
            header: Cell::default(),
            known_header: Cell::default(),
            known_header_bytes: Cell::new(None),
            opened,
            failing,
            unreleased: RefCell::default(),
            order_number: Cell::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Room for what this worker knows of so many timers: none is made later.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn make_room(&self, timers: usize) -> Result<(), NoMemory> {
        let mut local = self.inner.timers.borrow_mut();
        fallible(|| local.try_reserve_exact(timers))?;
        local.resize_with(timers, LocalRecord::default);
        Ok(())
    }

    /// Reads a record, without a lock.
    ///
    /// # Errors
    ///
    /// Somebody was writing each time, or there is nothing to read: see [`Unread`]. An I/O error is
    /// a [`Notice`] too.
    pub fn read(&self, record: &Record) -> Result<Reading, Unread> {
        for _ in 0..READ_TRIES {
            match self.inner.try_read(record) {
                Err(Unread::Torn) => {}
                read => return read,
            }
        }
        Err(Unread::Torn)
    }

    /// The same; who is to run a timer that has no record, or whose record cannot be read, goes on
    /// with what it knows itself.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn read_for(&self, timer: TimerRef<'_>) -> Result<Reading, Unread> {
        match self.read(timer.record) {
            Err(Unread::Lost) if timer.owner == Owner::This => {
                Ok(self.inner.local_reading(timer.record))
            }
            Ok(reading) if timer.owner == Owner::This => {
                self.inner.remember(timer.record, &reading);
                Ok(reading)
            }
            read => read,
        }
    }

    /// The results of the timer's last runs, newest first: as many as the record has places for, except
    /// those that are being written or cannot be read.
    pub fn results(&self, record: &Record, reading: &Reading) -> Vec<RunResult> {
        self.inner.read_results(record, &reading.claim)
    }

    /// What holds for all timers; what was read last, if it cannot be read now.
    pub fn header(&self) -> HeaderControl {
        (0..READ_TRIES)
            .find_map(|_| self.inner.try_read_header())
            .unwrap_or_else(|| self.inner.known_header.get())
    }

    /// The order number of the state: raised by each order, and by each worker that leaves work
    /// behind. Who sees it change looks at all its timers.
    pub fn order_number(&self) -> u64 {
        if let Some(pages) = &self.inner.pages {
            match pages.order_number() {
                Ok(number) => self.inner.order_number.set(number),
                Err(error) => self.inner.fail(Action::Read, error),
            }
        }
        self.inner.order_number.get()
    }

    /// Whether something has happened since the last call of [`Self::take_notices`].
    pub fn has_notices(&self) -> bool {
        !self.inner.notices.borrow().is_empty()
    }

    /// What has happened since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.inner.notices.take()
    }

    /// Whether the state can be relied on: as far as any worker of this master has seen lately, and
    /// as this one sees now, by reading, writing and locking the header.
    pub fn health(&self) -> Health {
        let inner = &self.inner;
        if !inner.is_whole() || !inner.may_write_and_lock() || inner.failing.is_failing() {
            return Health::Degraded;
        }
        inner.opened
    }

    #[cfg(test)]
    pub(in crate::state) fn set_fault(&self, fault: super::paged_file::WriteFault) {
        if let Some(pages) = &self.inner.pages {
            pages.set_fault(fault);
        }
    }

    /// Whether a write has been lost because the process was killed before it.
    #[cfg(test)]
    pub(in crate::state) fn was_killed(&self) -> bool {
        use super::paged_file::WriteFault;
        self.inner.pages.as_ref().is_some_and(|pages| pages.fault() == WriteFault::Killed)
    }
}
