//! What every access to the file goes through: parts read and written, locks, the table of claims,
//! and what this worker remembers where the file fails.

use std::io;

use crate::os::lock::{Held, Tried};

use super::control::Control;
use super::due::Reading;
use super::file::read_identity;
use super::format::{CONTROL, HEADER_CONTROL, ORDER_NUMBER_AT, PAGE_BYTES, Part, RUN};
use super::header::HeaderControl;
use super::notice::{Action, Notice};
use super::rules::{Rule, in_force};
use super::run_part::RunPart;
use super::store::{Claimed, Health, Inner, Locked, Mine, Place, READ_TRIES, Torn, Written};

/// Notices that nobody fetches are not kept without end.
const NOTICES: usize = 256;

impl Inner {
    pub(super) fn try_read(&self, place: &Place) -> Option<Reading> {
        let page = match (&self.pages, place.page) {
            (Some(pages), Some(page)) => pages.read_page(page).map_err(|error| {
                self.fail(Action::Read, error);
            }),
            _ => Err(()),
        };
        let (run, control) = match page {
            Ok(page) => {
                let (run, control) = if page == [0; PAGE_BYTES] {
                    (None, None)
                } else {
                    (RunPart::decode(RUN.of(&page)), Control::decode(CONTROL.of(&page)))
                };
                (self.newest_run(place, run)?, self.newest_control(place, control)?)
            }
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
            Ok(bytes) => HeaderControl::decode(&bytes).or_else(|| self.header.get()),
            Err(error) => {
                self.fail(Action::Read, error);
                Some(self.header.get().unwrap_or_default())
            }
        }
    }

    /// Whether the file has its header and all the pages that it tells of.
    pub(super) fn is_whole(&self) -> bool {
        let Some(pages) = &self.pages else { return true };
        // One that is being written reads as damaged.
        (0..READ_TRIES).any(|_| matches!(read_identity(pages), Ok(Ok(_))))
    }

    /// Reads the run part once; `Err` if its checksum is wrong.
    pub(super) fn try_read_run(&self, place: &Place) -> Result<RunPart, Torn> {
        let (Some(pages), Some(page)) = (&self.pages, place.page) else {
            return Ok(self.remembered_run(place));
        };
        match pages.read_part::<{ RUN.bytes }>(RUN, page) {
            Ok(bytes) => self.newest_run(place, RunPart::decode(&bytes)).ok_or(Torn),
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
            Ok(bytes) => self.newest_control(place, Control::decode(&bytes)).ok_or(Torn),
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
        Some(Locked::new(self, part, page))
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

    pub(super) fn fail(&self, action: Action, error: io::Error) {
        self.health.set(Health::Degraded);
        self.notice(Notice::Failed { action, error });
    }

    /// What this worker would have written, if that is newer than what is in the file or nothing
    /// whole is there.
    fn newest_run(&self, place: &Place, run: Option<RunPart>) -> Option<RunPart> {
        let mine = self.mine(place, |mine| mine.run.clone());
        match (mine, run) {
            (Some(mine), Some(run)) if mine.serial <= run.serial => Some(run),
            (mine, run) => mine.or(run),
        }
    }

    fn newest_control(&self, place: &Place, control: Option<Control>) -> Option<Control> {
        let mine = self.mine(place, |mine| mine.control.clone());
        match (mine, control) {
            (Some(mine), Some(control)) if mine.serial <= control.serial => Some(control),
            (mine, control) => mine.or(control),
        }
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
