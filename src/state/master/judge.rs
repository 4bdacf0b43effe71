//! Whether a file is a damaged state file, or a file of another kind.

use std::io;

use crate::os::file::metadata;
use crate::state::record::format::{CLAIM, CONTROL, PAGE_BYTES, TEXT};
use crate::state::record::header::Bad;
use crate::state::record::text::is_text;
use crate::state::record::version1;
use crate::state::worker::paged_file::PagedFile;

/// So many pages are searched for a record: more than a state file with a damaged header has that
/// holds none among them.
const SEARCHED: u64 = 16 * 1024;

/// Looks once more at a file of which the header says nothing of whose it is: a file of ours has
/// a right checksum somewhere.
pub(in crate::state) fn judge(pages: &PagedFile, bad: Bad) -> io::Result<Bad> {
    if bad != Bad::Foreign {
        return Ok(bad);
    }
    let count = metadata(pages.file())?.len().div_ceil(PAGE_BYTES as u64).min(SEARCHED);
    for page in 1..u32::try_from(count).unwrap_or(1) {
        let bytes = pages.read_page(page)?;
        let parts = [CLAIM, CONTROL, version1::RUN, version1::RECORD_CONTROL];
        if parts.into_iter().any(|part| part.is_whole(part.of(&bytes)))
            || (is_text(&bytes) && TEXT.is_whole(TEXT.of(&bytes)))
        {
            return Ok(Bad::Damaged);
        }
    }
    Ok(bad)
}
