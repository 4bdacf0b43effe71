//! Reading under a lock, where what is not whole is not torn, but damaged.

use crate::schedule::UnixMs;
use crate::state::policy::due::Reading;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::Control;
use crate::state::record::format::{CONTROL, HEADER_CONTROL};
use crate::state::record::header::HeaderControl;

use super::access::{EditLock, Unreadable};
use super::notice::Notice;
use super::store::{READ_TRIES, Record, Store};

/// Why a record could not be read under its run lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Blocked {
    /// Another lock is held elsewhere.
    Again,
    /// A part was damaged, and has been written anew.
    Repaired,
    /// There is no record, reading it failed, or it belongs to another timer by now.
    Lost,
}

impl Store {
    /// Reads all parts while the caller excludes others; a damaged one is written anew.
    pub(in crate::state) fn read_locked(
        &self,
        record: &Record,
        now: UnixMs,
    ) -> Result<Reading, Blocked> {
        let inner = &self.inner;
        // Ordinarily all of it is whole, and is read in one piece.
        if let Ok(reading) = inner.try_read(record) {
            return Ok(reading);
        }
        let claim = match inner.try_read_claim(record) {
            Ok(claim) => claim,
            Err(Unreadable::Others) => return Err(self.lost(record)),
            Err(Unreadable::Lost) => return Err(Blocked::Lost),
            Err(Unreadable::Torn) => {
                self.renew_claim(record, now);
                return Err(Blocked::Repaired);
            }
        };
        let control = self.control_or_repaired(record, now)?;
        let header = self.header_or_repaired(now)?;
        Ok(Reading { claim, control, header })
    }

    fn control_or_repaired(&self, record: &Record, now: UnixMs) -> Result<Box<Control>, Blocked> {
        for _ in 0..READ_TRIES {
            match self.inner.try_read_control(record) {
                Ok(control) => return Ok(control),
                Err(Unreadable::Others) => return Err(self.lost(record)),
                Err(Unreadable::Lost) => return Err(Blocked::Lost),
                Err(Unreadable::Torn) => {}
            }
        }
        // Under its lock it is not torn, but damaged.
        let _lock = self.inner.try_edit_lock(CONTROL, record.page).ok_or(Blocked::Again)?;
        self.control_locked(record, now)
    }

    fn header_or_repaired(&self, now: UnixMs) -> Result<HeaderControl, Blocked> {
        if let Some(header) = (0..READ_TRIES).find_map(|_| self.inner.try_read_header()) {
            return Ok(header);
        }
        let _lock = self.lock_header().ok_or(Blocked::Again)?;
        Ok(self.header_locked(now))
    }

    /// The record belongs to another timer by now.
    fn lost(&self, record: &Record) -> Blocked {
        self.inner.notice(Notice::Lost { name: record.name.clone() });
        Blocked::Lost
    }

    /// Puts a new claim part in the place of a damaged one: the timer starts anew at `now`. The
    /// caller holds the run lock.
    fn renew_claim(&self, record: &Record, now: UnixMs) {
        self.inner.notice(Notice::Damaged { name: record.name.clone() });
        let mut claim = ClaimPart::new(record.name_hash, now);
        // Whether an order was carried out is lost with the part: none is carried out twice.
        if let Ok(control) = self.inner.try_read_control(record) {
            if control.order.number > 0 {
                claim.orders_done = control.order.number;
            }
        }
        self.inner.write_claim(record, &mut claim, None);
    }

    /// The control part under its lock, which the caller holds; written anew if it is damaged.
    pub(in crate::state) fn control_locked(
        &self,
        record: &Record,
        now: UnixMs,
    ) -> Result<Box<Control>, Blocked> {
        match self.inner.try_read_control(record) {
            Ok(control) => Ok(control),
            Err(Unreadable::Others) => Err(self.lost(record)),
            Err(Unreadable::Lost) => Err(Blocked::Lost),
            Err(Unreadable::Torn) => {
                self.inner.notice(Notice::Damaged { name: record.name.clone() });
                let mut control = Box::new(Control::anew(now));
                // An order's number must be above all that were done.
                if let Ok(claim) = self.inner.try_read_claim(record) {
                    control.order.number = claim.orders_done;
                }
                self.inner.write_control(record, &mut control);
                Ok(control)
            }
        }
    }

    /// The same for the header.
    pub(in crate::state) fn header_locked(&self, now: UnixMs) -> HeaderControl {
        self.inner.try_read_header().unwrap_or_else(|| {
            self.inner.notice(Notice::HeaderDamaged);
            let mut header = HeaderControl { not_before: Some(now), ..HeaderControl::default() };
            self.inner.write_header(&mut header);
            header
        })
    }

    /// The header's edit lock; without it where locking fails, `None` if it is held elsewhere.
    pub(in crate::state) fn lock_header(&self) -> Option<EditLock<'_>> {
        self.inner.try_edit_lock(HEADER_CONTROL, Some(0))
    }
}
