//! What every access to the file goes through: parts read and written, locks, the table of claims,
//! and what this worker remembers where the file fails.
//!
//! What a call that failed was to tell is unknown: it is never taken for a new record.

use std::io;

use crate::os::lock::{Held, Tried};

use super::control::Control;
use super::due::Reading;
use super::file::{probe, read_identity};
use super::format::{CONTROL, HEADER_CONTROL, ORDER_NUMBER_AT, PAGE_BYTES, PROBE_AT, Part, RUN};
use super::header::HeaderControl;
use super::notice::{Action, Notice};
use super::pages::Pages;
use super::rules::{Rule, in_force};
use super::run_part::RunPart;
use super::store::{Claimed, Inner, Locked, Mine, Place, READ_TRIES, Unread, Written};

/// Notices that nobody fetches are not kept without end.
const NOTICES: usize = 256;

/// What came of an attempt to lock a part.
pub(super) enum Lock<'a> {
    Taken(Locked<'a>),
    /// Another description holds it.
    Refused,
    /// There is nothing to lock, or locking fails: nobody is excluded.
    Unknown,
}

/// The right to read and write a part once.
pub(super) struct EditLock<'a> {
    _lock: Option<Locked<'a>>,
}

impl Inner {
    /// Reads a record once.
    pub(super) fn try_read(&self, place: &Place) -> Result<Reading, Unread> {
        let (pages, page) = self.record(place).ok_or(Unread::Lost)?;
        let bytes = self.known(pages.read_record(page))?;
        let (run, control) = if bytes == [0; PAGE_BYTES] {
            (None, None)
        } else {
            (RunPart::decode(RUN.of(&bytes)), Control::decode(CONTROL.of(&bytes)))
        };
        let run = self.newest_run(place, run).ok_or(Unread::Torn)?;
        let control = self.newest_control(place, control).ok_or(Unread::Torn)?;
        if *run.name != *place.name || *control.name != *place.name {
            return Err(Unread::Lost);
        }
        let header = self.try_read_header().ok_or(Unread::Torn)?;
        Ok(Reading { run, control, header })
    }

    pub(super) fn try_read_header(&self) -> Option<HeaderControl> {
        let Some(pages) = &self.pages else { return Some(self.known_header.get()) };
        match self.known(pages.read_part::<{ HEADER_CONTROL.bytes }>(HEADER_CONTROL, 0)) {
            Ok(bytes) => {
                let header = HeaderControl::decode(&bytes).or_else(|| self.header.get())?;
                self.known_header.set(header);
                Some(header)
            }
            Err(_) => Some(self.header.get().unwrap_or_else(|| self.known_header.get())),
        }
    }

    /// Whether the file has its header and all the pages that it tells of.
    pub(super) fn is_whole(&self) -> bool {
        let Some(pages) = &self.pages else { return true };
        // One that is being written reads as damaged.
        (0..READ_TRIES).any(|_| matches!(read_identity(pages), Ok(Ok(_))))
    }

    /// Whether the file can be written and locked now.
    pub(super) fn may_write_and_lock(&self) -> bool {
        let Some(pages) = &self.pages else { return true };
        let now = self.attached_at.0.to_le_bytes();
        let written = pages.write(&now, PROBE_AT).map_err(|error| (Action::Write, error));
        let locked = probe(pages).map_err(|error| (Action::Lock, error));
        match written.and(locked) {
            Ok(()) => true,
            Err((action, error)) => {
                self.fail(action, error);
                false
            }
        }
    }

    /// Reads the run part once.
    pub(super) fn try_read_run(&self, place: &Place) -> Result<RunPart, Unread> {
        let (pages, page) = self.record(place).ok_or(Unread::Lost)?;
        let bytes = self.known(pages.read_part::<{ RUN.bytes }>(RUN, page))?;
        self.newest_run(place, RunPart::decode(&bytes)).ok_or(Unread::Torn)
    }

    /// The same of the control part.
    pub(super) fn try_read_control(&self, place: &Place) -> Result<Control, Unread> {
        let (pages, page) = self.record(place).ok_or(Unread::Lost)?;
        let bytes = self.known(pages.read_part::<{ CONTROL.bytes }>(CONTROL, page))?;
        self.newest_control(place, Control::decode(&bytes)).ok_or(Unread::Torn)
    }

    fn record(&self, place: &Place) -> Option<(&Pages, u32)> {
        self.pages.as_ref().zip(place.page)
    }

    fn known<T>(&self, read: io::Result<T>) -> Result<T, Unread> {
        read.map_err(|error| {
            self.fail(Action::Read, error);
            Unread::Lost
        })
    }

    /// Writes the run part; the caller holds the run lock.
    pub(super) fn write_run(&self, place: &Place, run: &mut RunPart) -> Written {
        run.serial = run.serial.saturating_add(1);
        if place.page.is_none() {
            self.mine(place, |mine| mine.local = Some(Box::new(run.clone())));
            return Written::No;
        }
        let written = self.write(RUN, place.page, &run.encode());
        self.mine(place, |mine| {
            mine.local = None;
            mine.run = (written == Written::No).then(|| Box::new(run.clone()));
            if let Some(known) = &mut mine.known {
                known.0 = run.without_history();
            }
        });
        written
    }

    /// Writes the control part; the caller holds the edit lock.
    pub(super) fn write_control(&self, place: &Place, control: &mut Control) -> Written {
        let written = self.try_write_control(place, control);
        self.keep_control(place, control, written);
        written
    }

    /// The same; what could not be written is not remembered.
    pub(super) fn try_write_control(&self, place: &Place, control: &mut Control) -> Written {
        control.serial = control.serial.saturating_add(1);
        self.write(CONTROL, place.page, &control.encode())
    }

    /// Remembers a control part that was written, or could not be.
    pub(super) fn keep_control(&self, place: &Place, control: &Control, written: Written) {
        self.mine(place, |mine| {
            mine.control = (written == Written::No).then(|| Box::new(control.clone()));
            if let Some(known) = &mut mine.known {
                known.1 = control.clone();
            }
        });
    }

    /// Writes the header's control part; the caller holds its lock.
    pub(super) fn write_header(&self, header: &mut HeaderControl) -> Written {
        header.serial = header.serial.saturating_add(1);
        let written = self.write(HEADER_CONTROL, Some(0), &header.encode());
        self.header.set((written == Written::No).then_some(*header));
        written
    }

    /// Raises the order number; the caller holds the header's edit lock.
    pub(super) fn raise_order_number(&self) -> Written {
        let Some(pages) = &self.pages else { return Written::No };
        let raised = pages.order_number().and_then(|number| {
            let number = number.wrapping_add(1).to_le_bytes();
            pages.write(&number, ORDER_NUMBER_AT)
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
            Ok(()) => Written::Yes,
            Err(error) => {
                self.fail(Action::Write, error);
                Written::No
            }
        }
    }

    /// Tries the lock of a part.
    pub(super) fn try_lock(&self, part: Part, page: Option<u32>) -> Lock<'_> {
        self.release_left();
        let (Some(pages), Some(page)) = (&self.pages, page) else { return Lock::Unknown };
        match pages.try_lock(part, page) {
            Ok(Tried::Taken) => {
                // Its new holder releases it.
                self.unreleased.borrow_mut().retain(|left| *left != (part, page));
                Lock::Taken(Locked::new(self, part, page))
            }
            Ok(Tried::Refused) => Lock::Refused,
            Err(error) => {
                self.fail(Action::Lock, error);
                Lock::Unknown
            }
        }
    }

    /// The same for one read and one write, which are done without a lock where locking fails; `None`
    /// if another description holds it.
    pub(super) fn try_edit_lock(&self, part: Part, page: Option<u32>) -> Option<EditLock<'_>> {
        match self.try_lock(part, page) {
            Lock::Taken(lock) => Some(EditLock { _lock: Some(lock) }),
            Lock::Unknown => Some(EditLock { _lock: None }),
            Lock::Refused => None,
        }
    }

    /// Tries the run lock; refused also if a claim of this worker has it, over which the kernel
    /// would grant it once more, and take it away with the second one's end.
    pub(super) fn try_run_lock(&self, place: &Place) -> Lock<'_> {
        if in_force(Rule::TableOfClaims) && self.claimed(place) == Claimed::Yes {
            return Lock::Refused;
        }
        self.try_lock(RUN, place.page)
    }

    pub(super) fn unlock(&self, part: Part, page: u32) {
        let Some(pages) = &self.pages else { return };
        if let Err(error) = pages.unlock(part, page) {
            self.fail(Action::Lock, error);
            // It would keep others out for as long as this worker lives.
            self.unreleased.borrow_mut().push((part, page));
        }
    }

    /// Releases the locks that could not be released before.
    pub(super) fn release_left(&self) {
        if let Some(pages) = &self.pages {
            let mut left = self.unreleased.borrow_mut();
            left.retain(|(part, page)| pages.unlock(*part, *page).is_err());
        }
    }

    /// Whether another process holds the run lock; `None` if that cannot be told.
    pub(super) fn run_lock_held(&self, place: &Place) -> Option<Held> {
        let (pages, page) = self.record(place)?;
        match pages.held(RUN, page) {
            Ok(held) => Some(held),
            Err(error) => {
                self.fail(Action::Lock, error);
                None
            }
        }
    }

    pub(super) fn claimed(&self, place: &Place) -> Claimed {
        self.mine(place, |mine| mine.claimed)
    }

    pub(super) fn set_claimed(&self, place: &Place, claimed: Claimed) {
        self.mine(place, |mine| mine.claimed = claimed);
    }

    pub(super) fn notice(&self, notice: Notice) {
        let mut notices = self.notices.borrow_mut();
        if notices.len() < NOTICES {
            notices.push(notice);
        }
    }

    pub(super) fn fail(&self, action: Action, error: io::Error) {
        self.failing.fail();
        self.notice(Notice::Failed { action, error });
    }

    pub(super) fn mine<T>(&self, place: &Place, look: impl FnOnce(&mut Mine) -> T) -> T {
        let mut timers = self.timers.borrow_mut();
        if let Some(mine) = timers.get_mut(&place.name) {
            return look(mine);
        }
        look(timers.entry(place.name.clone()).or_default())
    }
}
