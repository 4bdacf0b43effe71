//! A worker's view of the state.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::os::lock::{Held, Tried};
use crate::schedule::UnixMs;

use super::control::Control;
use super::due::{DueTimes, Reading};
use super::format::{CONTROL, HEADER_CONTROL, PAGE_BYTES, Part, RUN};
use super::header::HeaderControl;
use super::notice::{Action, Notice};
use super::pages::Pages;
use super::rules::{Rule, in_force};
use super::run::{BootId, RunPart};

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
const READ_TRIES: u32 = 8;
/// Notices that nobody fetches are not kept without end.
const NOTICES: usize = 256;

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
    pages: Option<Pages>,
    pub(super) process: Process,
    attached_at: UnixMs,
    timers: RefCell<HashMap<Box<str>, Mine>>,
    notices: RefCell<Vec<Notice>>,
    opened: Health,
    /// Of the last access to the file.
    health: Cell<Health>,
}

/// What this worker alone knows of a timer.
#[derive(Default)]
struct Mine {
    claimed: Claimed,
    /// Parts that are newer than those in the file, because they could not be written.
    run: Option<RunPart>,
    control: Option<Control>,
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
    /// The last access to the file failed, or it has no room: the timers go on without.
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

impl Locked<'_> {
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
            opened,
            health: Cell::new(Health::Ok),
        };
        Self { inner: Rc::new(inner) }
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

    /// Whether the state can be relied on, as far as this worker has seen.
    pub fn health(&self) -> Health {
        match self.inner.health.get() {
            Health::Degraded => Health::Degraded,
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

impl Inner {
    fn try_read(&self, place: &Place) -> Option<Reading> {
        let page = match (&self.pages, place.page) {
            (Some(pages), Some(page)) => pages.read_page(page).map_err(|error| {
                self.fail(Action::Read, error);
            }),
            _ => Err(()),
        };
        let (run, control) = match page {
            Ok(page) if page == [0; PAGE_BYTES] => return None,
            Ok(page) => (
                self.newest_run(place, RunPart::decode(RUN.of(&page))?),
                self.newest_control(place, Control::decode(CONTROL.of(&page))?),
            ),
            Err(()) => (self.remembered_run(place), self.remembered_control(place)),
        };
        let is_ours = *run.name == *place.name && *control.name == *place.name;
        let (run, control) = if is_ours {
            (run, control)
        } else {
            (self.remembered_run(place), self.remembered_control(place))
        };
        Some(Reading { run, control, header: self.try_read_header()? })
    }

    pub(super) fn try_read_header(&self) -> Option<HeaderControl> {
        let Some(pages) = &self.pages else { return Some(HeaderControl::default()) };
        match pages.read_part::<{ HEADER_CONTROL.bytes }>(HEADER_CONTROL, 0) {
            Ok(bytes) => HeaderControl::decode(&bytes),
            Err(error) => {
                self.fail(Action::Read, error);
                Some(HeaderControl::default())
            }
        }
    }

    /// Reads the run part once; `Err` if its checksum is wrong.
    pub(super) fn try_read_run(&self, place: &Place) -> Result<RunPart, Torn> {
        let (Some(pages), Some(page)) = (&self.pages, place.page) else {
            return Ok(self.remembered_run(place));
        };
        match pages.read_part::<{ RUN.bytes }>(RUN, page) {
            Ok(bytes) => RunPart::decode(&bytes).map(|run| self.newest_run(place, run)).ok_or(Torn),
            Err(error) => {
                self.fail(Action::Read, error);
                Ok(self.remembered_run(place))
            }
        }
    }

    /// The same of the control part.
    pub(super) fn try_read_control(&self, place: &Place) -> Result<Control, Torn> {
        let (Some(pages), Some(page)) = (&self.pages, place.page) else {
            return Ok(self.remembered_control(place));
        };
        match pages.read_part::<{ CONTROL.bytes }>(CONTROL, page) {
            Ok(bytes) => Control::decode(&bytes)
                .map(|control| self.newest_control(place, control))
                .ok_or(Torn),
            Err(error) => {
                self.fail(Action::Read, error);
                Ok(self.remembered_control(place))
            }
        }
    }

    /// Writes the run part; the caller holds the run lock.
    pub(super) fn write_run(&self, place: &Place, run: &mut RunPart) -> Written {
        run.serial = run.serial.saturating_add(1);
        let written = self.write(RUN, place.page, &run.encode());
        self.mine(place, |mine| mine.run = (written == Written::No).then(|| run.clone()));
        written
    }

    /// Writes the control part; the caller holds the edit lock.
    pub(super) fn write_control(&self, place: &Place, control: &mut Control) -> Written {
        control.serial = control.serial.saturating_add(1);
        let written = self.write(CONTROL, place.page, &control.encode());
        self.mine(place, |mine| mine.control = (written == Written::No).then(|| control.clone()));
        written
    }

    /// Writes the header's control part; the caller holds its lock.
    pub(super) fn write_header(&self, header: &mut HeaderControl) -> Written {
        header.serial = header.serial.saturating_add(1);
        self.write(HEADER_CONTROL, Some(0), &header.encode())
    }

    /// Raises the order number; the caller holds the header's edit lock.
    pub(super) fn raise_order_number(&self) -> Written {
        let Some(pages) = &self.pages else { return Written::No };
        let raised = pages.order_number().and_then(|number| {
            let number = number.wrapping_add(1).to_le_bytes();
            pages.write(&number, super::format::ORDER_NUMBER_AT)
        });
        self.written(raised)
    }

    fn write(&self, part: Part, page: Option<u32>, bytes: &[u8]) -> Written {
        match (&self.pages, page) {
            (Some(pages), Some(page)) => self.written(pages.write_part(part, page, bytes)),
            _ => Written::No,
        }
    }

    fn written(&self, result: io::Result<()>) -> Written {
        match result {
            Ok(()) => {
                self.health.set(Health::Ok);
                Written::Yes
            }
            Err(error) => {
                self.fail(Action::Write, error);
                Written::No
            }
        }
    }

    /// Tries the lock of a part; `None` if another description holds it. Where there is nothing
    /// to lock, or locking fails, nobody is excluded.
    pub(super) fn try_lock(&self, part: Part, page: Option<u32>) -> Option<Locked<'_>> {
        let page = match (&self.pages, page) {
            (Some(pages), Some(page)) => match pages.try_lock(part, page) {
                Ok(Tried::Taken) => Some(page),
                Ok(Tried::Refused) => return None,
                Err(error) => {
                    self.fail(Action::Lock, error);
                    None
                }
            },
            _ => None,
        };
        Some(Locked { inner: self, part, page })
    }

    /// Tries the run lock; `None` also if a claim of this worker has it, over which the kernel
    /// would grant it once more, and take it away with the second one's end.
    pub(super) fn try_run_lock(&self, place: &Place) -> Option<Locked<'_>> {
        if in_force(Rule::TableOfClaims) && self.claimed(place) == Claimed::Yes {
            return None;
        }
        self.try_lock(RUN, place.page)
    }

    pub(super) fn unlock(&self, part: Part, page: Option<u32>) {
        if let (Some(pages), Some(page)) = (&self.pages, page)
            && let Err(error) = pages.unlock(part, page)
        {
            self.fail(Action::Lock, error);
        }
    }

    /// Whether another process holds the run lock.
    pub(super) fn run_lock_held(&self, place: &Place) -> Held {
        match (&self.pages, place.page) {
            (Some(pages), Some(page)) => pages.held(RUN, page).unwrap_or_else(|error| {
                self.fail(Action::Lock, error);
                Held::Nowhere
            }),
            _ => Held::Nowhere,
        }
    }

    pub(super) fn claimed(&self, place: &Place) -> Claimed {
        self.mine(place, |mine| mine.claimed)
    }

    pub(super) fn set_claimed(&self, place: &Place, claimed: Claimed) {
        self.mine(place, |mine| mine.claimed = claimed);
    }

    /// Forgets a run part that could not be written.
    pub(super) fn forget_run(&self, place: &Place) {
        self.mine(place, |mine| mine.run = None);
    }

    pub(super) fn notice(&self, notice: Notice) {
        let mut notices = self.notices.borrow_mut();
        if notices.len() < NOTICES {
            notices.push(notice);
        }
    }

    fn fail(&self, action: Action, error: io::Error) {
        self.health.set(Health::Degraded);
        self.notice(Notice::Failed { action, error });
    }

    /// What this worker wrote, or would have written, if that is newer than `run`.
    fn newest_run(&self, place: &Place, run: RunPart) -> RunPart {
        self.mine(place, |mine| {
            mine.run.clone().filter(|mine| mine.serial > run.serial).unwrap_or(run)
        })
    }

    fn newest_control(&self, place: &Place, control: Control) -> Control {
        self.mine(place, |mine| {
            mine.control.clone().filter(|mine| mine.serial > control.serial).unwrap_or(control)
        })
    }

    fn remembered_run(&self, place: &Place) -> RunPart {
        self.mine(place, |mine| mine.run.clone())
            .unwrap_or_else(|| RunPart::new(&place.name, self.attached_at))
    }

    fn remembered_control(&self, place: &Place) -> Control {
        self.mine(place, |mine| mine.control.clone())
            .unwrap_or_else(|| Control::anew(&place.name, self.attached_at))
    }

    fn mine<T>(&self, place: &Place, look: impl FnOnce(&mut Mine) -> T) -> T {
        let mut timers = self.timers.borrow_mut();
        if let Some(mine) = timers.get_mut(&place.name) {
            return look(mine);
        }
        look(timers.entry(place.name.clone()).or_default())
    }
}
