//! Taking over a file of format 1: in place, page by page, so that it needs no directory that can be
//! written and no room, and stays the file that it is.
//!
//! The header is converted first, in one write that also says that records are still to be converted:
//! from then on a module of format 1 refuses the file as a newer one. Each record is converted in one
//! write; which ones are tells their checksums. Who is killed leaves a file with which the next one goes
//! on.

use std::io;

use crate::os::file::sync;
use crate::os::lock::Held;
use crate::schedule::UnixMs;
use crate::state::record::format::{CLAIM, CONTROL, PAGE_BYTES};
use crate::state::record::header::{HeaderControl, Identity, RecordsFormat};
use crate::state::record::text::is_text;
use crate::state::record::version1;
use crate::state::worker::paged_file::PagedFile;

use super::quota::Quota;

/// Whether the file may be converted now, as far as others than masters go. Workers whose master was
/// killed go on; while one of them is at a record, its run is in progress.
///
/// # Errors
///
/// What a system call reports.
pub(in crate::state) fn may_convert(pages: &PagedFile) -> io::Result<bool> {
    Ok(pages.any_record_held()? == Held::Nowhere)
}

/// The conversion of what is still in format 1, except the mark in the header that something is: see
/// [`end`]. Who goes on with it has the file alone.
#[derive(Debug)]
pub(in crate::state) struct Conversion {
    next: u32,
    pages: u32,
}

impl Conversion {
    /// Begins with the header.
    ///
    /// # Errors
    ///
    /// What a system call reports.
    pub(in crate::state) fn begin(
        pages: &PagedFile,
        identity: &mut Identity,
        now: UnixMs,
    ) -> io::Result<Self> {
        if identity.records == RecordsFormat::Old {
            convert_header(pages, identity, now)?;
        }
        Ok(Self { next: 1, pages: identity.pages })
    }

    /// Converts as many records as `quota` says; answers whether all are.
    ///
    /// # Errors
    ///
    /// What a system call reports; what was converted until then is not converted again.
    pub(in crate::state) fn go_on(
        &mut self,
        pages: &PagedFile,
        quota: &mut Quota,
    ) -> io::Result<bool> {
        while self.next < self.pages {
            if !quota.take() {
                return Ok(false);
            }
            let bytes = pages.read_record(self.next)?;
            if !is_current(&bytes) {
                if let Some(converted) = version1::convert_record(&bytes) {
                    pages.write(&converted, CLAIM.offset(self.next))?;
                }
            }
            self.next += 1;
        }
        Ok(true)
    }
}

/// Converts all of it at once.
///
/// # Errors
///
/// As above.
pub(in crate::state) fn convert(
    pages: &PagedFile,
    identity: &mut Identity,
    now: UnixMs,
) -> io::Result<()> {
    Conversion::begin(pages, identity, now)?.go_on(pages, &mut Quota::All)?;
    // On the disk before anything says so.
    sync(pages.file())
}

/// Says in the header that nothing is in format 1 any more.
///
/// # Errors
///
/// What a system call reports.
pub(in crate::state) fn end(pages: &PagedFile, identity: &mut Identity) -> io::Result<()> {
    identity.records = RecordsFormat::Current;
    pages.write(&identity.encode_part(), 0)
}

fn convert_header(pages: &PagedFile, identity: &mut Identity, now: UnixMs) -> io::Result<()> {
    let old = pages.read_page(0)?;
    let (control, order_number) = version1::decode_header(&old);
    // What holds for all timers is lost with a damaged part: what came due until now is none of theirs.
    let control = control
        .unwrap_or_else(|| HeaderControl { not_before: Some(now), ..HeaderControl::default() });
    identity.records = RecordsFormat::Mixed;
    pages.write(&identity.encode_with(&control, order_number), 0)
}

/// Whether a page is none of format 1: free, or with anything of this one in it.
fn is_current(page: &[u8; PAGE_BYTES]) -> bool {
    *page == [0; PAGE_BYTES]
        || CLAIM.is_whole(CLAIM.of(page))
        || CONTROL.is_whole(CONTROL.of(page))
        || is_text(page)
}
