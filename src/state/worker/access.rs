//! What every access to the file goes through: parts read and written, locks, the table of claims,
//! and what this worker remembers where the file fails.
//!
//! What a call that failed was to tell is unknown: it is never taken for a new record.

use std::io;

use crate::os::lock::{Held, Tried};
use crate::state::policy::due::Reading;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::{Control, NotIts};
use crate::state::record::format::{
    CLAIM, CONTROL, HEADER_CONTROL, ORDER_NUMBER, PROBE, Part, RECORD_BYTES, RESULTS, RING_BYTES,
    result_part,
};
use crate::state::record::header::HeaderControl;
use crate::state::record::results::decode_ring;
use crate::state::record::run::RunResult;

use super::locked::{Locked, Unlock};
use super::notice::{Action, Notice};
use super::paged_file::{PagedFile, probe, read_identity};
use super::store::{Claimed, Inner, LocalRecord, READ_TRIES, Record, Unread, Written};

/// Notices that nobody fetches are not kept without end.
const NOTICES: usize = 256;

/// Why a part could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Unreadable {
    /// Its checksum is wrong: somebody is writing, or, under its lock, it is damaged.
    Torn,
    /// There is none, or reading it failed.
    Lost,
    /// It belongs to another timer by now.
    Others,
}

impl From<Unreadable> for Unread {
    fn from(why: Unreadable) -> Self {
        match why {
            Unreadable::Torn => Self::Torn,
            Unreadable::Lost | Unreadable::Others => Self::Lost,
        }
    }
}

/// Keeps a result that cannot be written yet, but no more than a record has room for.
fn keep(results: &mut Vec<RunResult>, ended: Option<RunResult>) {
    results.extend(ended);
    let too_many = results.len().saturating_sub(RESULTS);
    results.drain(..too_many);
}

/// The result of an attempt to lock a part.
pub(in crate::state) enum Lock<'a> {
    Taken(Locked<&'a Inner>),
    /// Another description holds it.
    Refused,
    /// There is nothing to lock, or locking fails: nobody is excluded.
    Unknown,
}

/// The right to read and write a part once: its lock, or nothing where locking fails.
pub(in crate::state) type EditLock<'a> = Option<Locked<&'a Inner>>;

impl Inner {
    /// Reads a record once.
    pub(in crate::state) fn try_read(&self, record: &Record) -> Result<Reading, Unread> {
        let (pages, page) = self.record(record).ok_or(Unread::Lost)?;
        let mut bytes = [0; RECORD_BYTES];
        self.known(pages.read_parts(page, &mut bytes))?;
        let claim = self.its_claim(record, CLAIM.of(&bytes))?;
        let control = self.its_control(record, CONTROL.of(&bytes))?;
        let header = self.try_read_header().ok_or(Unread::Torn)?;
        Ok(Reading { claim, control, header })
    }

    pub(in crate::state) fn try_read_header(&self) -> Option<HeaderControl> {
        let Some(pages) = &self.pages else { return Some(self.known_header.get()) };
        match self.known(pages.read_part::<{ HEADER_CONTROL.bytes }>(HEADER_CONTROL, 0)) {
            Ok(bytes) if self.known_header_bytes.get() == Some(bytes) => {
                Some(self.known_header.get())
            }
            Ok(bytes) => {
                let decoded = HeaderControl::decode(&bytes);
                let header = decoded.or_else(|| self.header.get())?;
                self.known_header.set(header);
                self.known_header_bytes.set(decoded.map(|_| bytes));
                Some(header)
            }
            Err(_) => Some(self.header.get().unwrap_or_else(|| self.known_header.get())),
        }
    }

    /// Whether the file has its header and all the pages that it tells of.
    pub(in crate::state) fn is_whole(&self) -> bool {
        let Some(pages) = &self.pages else { return true };
        // One that is being written reads as damaged.
        (0..READ_TRIES).any(|_| matches!(read_identity(pages), Ok(Ok(_))))
    }

    /// Whether the file can be written and locked now.
    pub(in crate::state) fn may_write_and_lock(&self) -> bool {
        let Some(pages) = &self.pages else { return true };
        let now = self.attached_at.0.to_le_bytes();
        let written = pages.write(&now, PROBE.in_header()).map_err(|error| (Action::Write, error));
        let locked = probe(pages).map_err(|error| (Action::Lock, error));
        match written.and(locked) {
            Ok(()) => true,
            Err((action, error)) => {
                self.fail(action, error);
                false
            }
        }
    }

    /// Reads the claim part once.
    pub(in crate::state) fn try_read_claim(
        &self,
        record: &Record,
    ) -> Result<Box<ClaimPart>, Unreadable> {
        let (pages, page) = self.record(record).ok_or(Unreadable::Lost)?;
        let bytes = self.known(pages.read_part::<{ CLAIM.bytes }>(CLAIM, page))?;
        self.its_claim(record, &bytes)
    }

    /// The same of the control part.
    pub(in crate::state) fn try_read_control(
        &self,
        record: &Record,
    ) -> Result<Box<Control>, Unreadable> {
        let (pages, page) = self.record(record).ok_or(Unreadable::Lost)?;
        let bytes = self.known(pages.read_part::<{ CONTROL.bytes }>(CONTROL, page))?;
        self.its_control(record, &bytes)
    }

    /// The claim part of a timer in these bytes, with what this worker knows better.
    fn its_claim(&self, record: &Record, bytes: &[u8]) -> Result<Box<ClaimPart>, Unreadable> {
        let claim = if self.is_known(record, CLAIM, bytes) {
            Some(Box::new(ClaimPart::decode_whole(bytes)))
        } else {
            let claim = ClaimPart::decode(bytes).map(Box::new);
            if claim.as_ref().is_some_and(|claim| claim.name_hash != record.name_hash) {
                return Err(Unreadable::Others);
            }
            claim.inspect(|_| self.know(record, CLAIM, bytes))
        };
        self.newest_claim(record, claim).ok_or(Unreadable::Torn)
    }

    /// The same of the control part.
    fn its_control(&self, record: &Record, bytes: &[u8]) -> Result<Box<Control>, Unreadable> {
        let control = if self.is_known(record, CONTROL, bytes) {
            Some(Box::new(Control::decode_whole(bytes)))
        } else {
            match Control::decode(bytes, &record.name) {
                Ok(control) => {
                    self.know_control(record, bytes, &control);
                    Some(Box::new(control))
                }
                Err(NotIts::Damaged) => None,
                Err(NotIts::Others) => return Err(Unreadable::Others),
            }
        };
        self.newest_control(record, control).ok_or(Unreadable::Torn)
    }

    /// The results that belong to a claim part, newest first; without those that cannot be read.
    pub(in crate::state) fn read_results(
        &self,
        record: &Record,
        claim: &ClaimPart,
    ) -> Vec<RunResult> {
        self.read_numbered(record, claim).into_iter().map(|(_, result)| result).collect()
    }

    /// The same, each with its number.
    pub(super) fn read_numbered(
        &self,
        record: &Record,
        claim: &ClaimPart,
    ) -> Vec<(u64, RunResult)> {
        let unwritten = self.local_record(record, |local| local.unwritten_results());
        let numbers = (1..=claim.results_ever).rev();
        let mut results: Vec<_> = numbers.zip(unwritten.into_iter().rev()).collect();
        let written = claim.results_ever.saturating_sub(results.len() as u64);
        if let Some((pages, page)) = self.record(record).filter(|_| written > 0) {
            if let Ok(ring) = self.known(pages.read_ring::<RING_BYTES>(page)) {
                results.extend(decode_ring(&ring, written));
            }
        }
        results.truncate(RESULTS);
        results
    }

    fn record(&self, record: &Record) -> Option<(&PagedFile, u32)> {
        self.pages.as_ref().zip(record.page)
    }

    fn known<T>(&self, read: io::Result<T>) -> Result<T, Unreadable> {
        read.map_err(|error| {
            self.fail(Action::Read, error);
            Unreadable::Lost
        })
    }

    /// Writes the claim part, and before it the result of the run that it says has ended: who is killed
    /// in between leaves a result that nothing refers to, and whose place is the next one's. The caller
    /// holds the run lock.
    pub(in crate::state) fn write_claim(
        &self,
        record: &Record,
        claim: &mut ClaimPart,
        ended: Option<RunResult>,
    ) -> Written {
        claim.serial = claim.serial.saturating_add(1);
        if record.page.is_none() {
            self.local_record(record, |local| {
                keep(&mut local.results, ended);
                local.apart = Some(Box::new(claim.clone()));
            });
            return Written::No;
        }
        let mut results = self.local_record(record, |local| local.unwritten_results());
        let mut newest_first = ended.iter().chain(results.iter().rev());
        let mut numbers = (1..=claim.results_ever).rev();
        let is_written = |result: &RunResult| {
            let Some(number) = numbers.next() else { return true };
            let bytes = result.encode(number);
            self.write(result_part(number), record.page, &bytes) == Written::Yes
        };
        let written = if newest_first.all(is_written) {
            let mut bytes = [0; CLAIM.bytes];
            claim.encode_to(&mut bytes);
            self.write_known(record, CLAIM, &bytes)
        } else {
            Written::No
        };
        if written == Written::Yes {
            results = Vec::new();
        } else {
            keep(&mut results, ended);
        }
        self.local_record(record, |local| {
            local.apart = None;
            local.taken_over = None;
            local.results = results;
            local.claim = (written == Written::No).then(|| Box::new(claim.clone()));
        });
        self.note_unwritten(written);
        written
    }

    /// Writes the control part; the caller holds the edit lock.
    pub(in crate::state) fn write_control(
        &self,
        record: &Record,
        control: &mut Control,
    ) -> Written {
        let written = self.try_write_control(record, control);
        self.keep_control(record, control, written);
        written
    }

    /// The same; what could not be written is not remembered.
    pub(in crate::state) fn try_write_control(
        &self,
        record: &Record,
        control: &mut Control,
    ) -> Written {
        control.serial = control.serial.saturating_add(1);
        self.write_known(record, CONTROL, &control.encode(&record.name))
    }

    /// Remembers a control part that was written, or could not be.
    pub(in crate::state) fn keep_control(
        &self,
        record: &Record,
        control: &Control,
        written: Written,
    ) {
        self.local_record(record, |local| {
            local.control = (written == Written::No).then(|| Box::new(control.clone()));
        });
        if let Some((claims, up_to)) = record.claims.as_ref().zip(control.left_out_up_to) {
            claims.leave_out(up_to);
        }
        self.note_unwritten(written);
    }

    fn note_unwritten(&self, written: Written) {
        if written == Written::No {
            self.unwritten.set(true);
        }
    }

    /// Writes the header's control part; the caller holds its lock.
    pub(in crate::state) fn write_header(&self, header: &mut HeaderControl) -> Written {
        header.serial = header.serial.saturating_add(1);
        let written = self.write(HEADER_CONTROL, Some(0), &header.encode());
        self.header.set((written == Written::No).then_some(*header));
        written
    }

    /// Raises the order number; the caller holds the header's edit lock.
    pub(in crate::state) fn raise_order_number(&self) -> Written {
        let Some(pages) = &self.pages else { return Written::No };
        let raised = pages.order_number().and_then(|number| {
            let number = number.wrapping_add(1).to_le_bytes();
            pages.write(&number, ORDER_NUMBER.in_header())
        });
        self.written(raised)
    }

    /// Writes a part of a record, and knows it then.
    fn write_known(&self, record: &Record, part: Part, bytes: &[u8]) -> Written {
        let written = self.write(part, record.page, bytes);
        if written == Written::Yes {
            self.know(record, part, bytes);
        }
        written
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
    pub(in crate::state) fn try_lock(&self, part: Part, page: Option<u32>) -> Lock<'_> {
        self.release_left();
        let (Some(pages), Some(page)) = (&self.pages, page) else { return Lock::Unknown };
        match pages.try_lock(part, page) {
            Ok(Tried::Taken) => {
                // Its new holder releases it.
                let byte = part.offset(page);
                self.unreleased.borrow_mut().retain(|left| *left != byte);
                Lock::Taken(Locked::new(self, byte))
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
    pub(in crate::state) fn try_edit_lock(
        &self,
        part: Part,
        page: Option<u32>,
    ) -> Option<EditLock<'_>> {
        match self.try_lock(part, page) {
            Lock::Taken(lock) => Some(Some(lock)),
            Lock::Unknown => Some(None),
            Lock::Refused => None,
        }
    }

    /// Tries the run lock; refused also if a claim of this worker has it, over which the kernel
    /// would grant it once more, and take it away with the second one's end.
    pub(in crate::state) fn try_run_lock(&self, record: &Record) -> Lock<'_> {
        if self.claimed(record) == Claimed::Yes {
            return Lock::Refused;
        }
        self.try_lock(CLAIM, record.page)
    }

    /// Releases the locks that could not be released before.
    pub(in crate::state) fn release_left(&self) {
        if let Some(pages) = &self.pages {
            let mut left = self.unreleased.borrow_mut();
            left.retain(|byte| pages.unlock_at(*byte).is_err());
        }
    }

    /// Whether another process holds the run lock; `None` if that cannot be told.
    pub(in crate::state) fn run_lock_held(&self, record: &Record) -> Option<Held> {
        let (pages, page) = self.record(record)?;
        match pages.held(CLAIM, page) {
            Ok(held) => Some(held),
            Err(error) => {
                self.fail(Action::Lock, error);
                None
            }
        }
    }

    pub(in crate::state) fn claimed(&self, record: &Record) -> Claimed {
        self.local_record(record, |local| local.claimed)
    }

    pub(in crate::state) fn set_claimed(&self, record: &Record, claimed: Claimed) {
        self.local_record(record, |local| local.claimed = claimed);
    }

    pub(in crate::state) fn notice(&self, notice: Notice) {
        let mut notices = self.notices.borrow_mut();
        if notices.len() < NOTICES {
            notices.push(notice);
        }
    }

    pub(in crate::state) fn fail(&self, action: Action, error: io::Error) {
        self.failing.fail();
        self.notice(Notice::Failed { action, error });
    }

    pub(in crate::state) fn local_record<T>(
        &self,
        record: &Record,
        look: impl FnOnce(&mut LocalRecord) -> T,
    ) -> T {
        let mut timers = self.timers.borrow_mut();
        if let Some(local) = timers.get_mut(record.number) {
            return look(local);
        }
        let mut local = LocalRecord::default();
        let answer = look(&mut local);
        timers.resize_with(record.number, LocalRecord::default);
        timers.push(local);
        answer
    }
}

/// For a worker, whose locks would keep others out for as long as it lives.
impl Unlock for Inner {
    fn unlock(&self, byte: u64) {
        let Some(pages) = &self.pages else { return };
        if let Err(error) = pages.unlock_at(byte) {
            self.fail(Action::Lock, error);
            self.unreleased.borrow_mut().push(byte);
        }
    }
}
