//! The text of a timer in its pages: what the last run that failed has received.

use crate::state::policy::due::Reading;
use crate::state::policy::events::Happened;
use crate::state::record::format::{PAGE_BYTES, TEXT_BYTES, TEXT_PAGE_BYTES};
use crate::state::record::text::{decode_page, encode_page, pages_for};

use super::notice::Action;
use super::store::{Inner, READ_TRIES, Record, Store};

impl Store {
    /// The text of the timer's last failure, if there is one, and nobody is writing it.
    pub fn failure_text(&self, record: &Record, reading: &Reading) -> Option<String> {
        let serial = reading.claim.failure_text;
        if serial == 0 {
            return None;
        }
        (0..READ_TRIES).find_map(|_| self.inner.try_read_text(record, serial))
    }
}

impl Store {
    /// The text of the failure that an event tells of.
    pub fn event_text(&self, record: &Record, happened: &Happened) -> Option<String> {
        let failed = happened.result.is_some_and(|result| result.ended.outcome.is_failure());
        let claim = self.inner.try_read_claim(record).ok().filter(|_| failed)?;
        let serial = Some(claim.failure_text).filter(|serial| *serial == happened.number)?;
        (0..READ_TRIES).find_map(|_| self.inner.try_read_text(record, serial))
    }
}

impl Inner {
    /// Writes the text with this serial, as much of it as there is room for; answers the serial, or 0 if
    /// it could not be written. The caller holds the run lock.
    pub(super) fn write_text(&self, record: &Record, serial: u64, text: &str) -> u64 {
        let Some(file) = &self.pages else { return 0 };
        let pages = record.texts.iter().flatten().count();
        let room = TEXT_BYTES.min(pages * TEXT_PAGE_BYTES);
        let end = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let text = text.get(..end.unwrap_or(0)).unwrap_or_default().as_bytes();
        if text.is_empty() {
            return 0;
        }
        for (index, page) in record.texts.iter().flatten().enumerate().take(pages_for(text.len())) {
            let bytes = encode_page(serial, record.name_hash, index, text);
            if let Err(error) = file.write(&bytes, u64::from(*page) * PAGE_BYTES as u64) {
                self.fail(Action::Write, error);
                return 0;
            }
        }
        serial
    }

    fn try_read_text(&self, record: &Record, serial: u64) -> Option<String> {
        let file = self.pages.as_ref()?;
        let mut text = Vec::new();
        for (index, page) in record.texts.iter().flatten().enumerate() {
            let bytes = file.read_record(*page).map_err(|error| self.fail(Action::Read, error));
            let page = decode_page(&bytes.ok()?)?;
            let is_its = page.owner == record.name_hash && page.index == index;
            if !is_its || page.serial != serial {
                return None;
            }
            text.extend(page.content);
            if text.len() >= page.length {
                return String::from_utf8(text).ok();
            }
        }
        None
    }
}
