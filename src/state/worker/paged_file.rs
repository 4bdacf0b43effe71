//! The file below the store: whole parts of pages, read and written at their offsets, and the
//! lock bytes. A call that fails is made once more at once.

use std::fs::File;
use std::io;

use crate::os::file::{metadata, read_at, write_at};
use crate::os::lock::{self, Held, Holder, LockKind, Tried};
use crate::state::record::format::{
    CLAIM, MOST_PAGES, ORDER_NUMBER, PAGE_BYTES, Part, RECORD_BYTES, RING_AT,
};
use crate::state::record::header::{Bad, Identity};

/// A description of the state file.
#[derive(Debug)]
pub(in crate::state) struct PagedFile {
    file: File,
    holder: Holder,
    #[cfg(test)]
    fault: std::cell::Cell<WriteFault>,
    #[cfg(test)]
    seen: super::broken_rules::ReadsAndLocks,
}

/// What befalls the writes of a description.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::state) enum WriteFault {
    #[default]
    None,
    /// They fail, as on a full disk.
    Full,
    /// So many succeed; at the next one the process is killed.
    KilledAfter(u32),
    /// It was killed: nothing of what it does reaches the file.
    Killed,
}

impl PagedFile {
    pub(in crate::state) fn new(file: File) -> Self {
        Self::locked_by(Holder::Description, file)
    }

    pub(in crate::state) fn locked_by(holder: Holder, file: File) -> Self {
        Self {
            file,
            holder,
            #[cfg(test)]
            fault: std::cell::Cell::default(),
            #[cfg(test)]
            seen: super::broken_rules::ReadsAndLocks::default(),
        }
    }

    pub(in crate::state) fn file(&self) -> &File {
        &self.file
    }

    pub(in crate::state) fn into_file(self) -> File {
        self.file
    }

    /// Lets a fault befall the writes from now on.
    #[cfg(test)]
    pub(in crate::state) fn set_fault(&self, fault: WriteFault) {
        self.fault.set(fault);
    }

    #[cfg(test)]
    pub(in crate::state) fn fault(&self) -> WriteFault {
        self.fault.get()
    }

    /// Reads a page; what lies behind the file's end reads as zero.
    pub(in crate::state) fn read_page(&self, page: u32) -> io::Result<[u8; PAGE_BYTES]> {
        let mut bytes = [0; PAGE_BYTES];
        self.read(&mut bytes, u64::from(page) * PAGE_BYTES as u64)?;
        Ok(bytes)
    }

    /// Reads the page of a record, or one that may become a record's.
    ///
    /// # Errors
    ///
    /// What pread(2) reports, or that it read less than there is. Of a file that was cut short, what is
    /// missing reads as zero.
    pub(in crate::state) fn read_record(&self, page: u32) -> io::Result<[u8; PAGE_BYTES]> {
        let mut bytes = [0; PAGE_BYTES];
        self.read_whole(&mut bytes, u64::from(page) * PAGE_BYTES as u64)?;
        Ok(bytes)
    }

    /// Reads one part of a page.
    ///
    /// # Errors
    ///
    /// As above.
    pub(in crate::state) fn read_part<const N: usize>(
        &self,
        part: Part,
        page: u32,
    ) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_whole(&mut bytes, part.offset(page))?;
        Ok(bytes)
    }

    /// Reads the parts of a record at the beginning of its page.
    ///
    /// # Errors
    ///
    /// As above.
    pub(in crate::state) fn read_parts(
        &self,
        page: u32,
        bytes: &mut [u8; RECORD_BYTES],
    ) -> io::Result<()> {
        self.read_whole(bytes, u64::from(page) * PAGE_BYTES as u64)
    }

    /// Reads a record's ring of results.
    ///
    /// # Errors
    ///
    /// As above.
    pub(in crate::state) fn read_ring<const N: usize>(&self, page: u32) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_whole(&mut bytes, u64::from(page) * PAGE_BYTES as u64 + RING_AT as u64)?;
        Ok(bytes)
    }

    fn read_whole(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let whole = bytes.len();
        let end = offset + whole as u64;
        again(|| match read_at(&self.file, bytes, offset)? {
            read if read < whole && metadata(&self.file)?.len() >= end => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            _ => Ok(()),
        })?;
        #[cfg(test)]
        self.seen.read(bytes, offset);
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        again(|| read_at(&self.file, bytes, offset)).map(drop)
    }

    /// Writes one part of a page; the caller holds its lock.
    pub(in crate::state) fn write_part(
        &self,
        part: Part,
        page: u32,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.write(bytes, part.offset(page))
    }

    /// Writes `bytes` at `offset`.
    pub(in crate::state) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        match self.fault.get() {
            WriteFault::None => {}
            WriteFault::Full => return Err(io::ErrorKind::StorageFull.into()),
            WriteFault::KilledAfter(0) | WriteFault::Killed => {
                self.fault.set(WriteFault::Killed);
                return Ok(());
            }
            WriteFault::KilledAfter(writes) => self.fault.set(WriteFault::KilledAfter(writes - 1)),
        }
        #[cfg(test)]
        let bytes = &super::broken_rules::written(&self.file, bytes, offset);
        again(|| write_at(&self.file, bytes, offset))
    }

    /// The header's order number. Eight aligned bytes: a torn one would only be one look too many.
    pub(in crate::state) fn order_number(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read_whole(&mut bytes, ORDER_NUMBER.in_header())?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Who holds the locks.
    pub(in crate::state) fn holder(&self) -> Holder {
        self.holder
    }

    pub(in crate::state) fn try_lock(&self, part: Part, page: u32) -> io::Result<Tried> {
        self.try_lock_at(part.offset(page), LockKind::Exclusive)
    }

    pub(in crate::state) fn held(&self, part: Part, page: u32) -> io::Result<Held> {
        self.held_at(part.offset(page))
    }

    pub(in crate::state) fn held_at(&self, offset: u64) -> io::Result<Held> {
        again(|| lock::held(&self.file, self.holder, offset))
    }

    /// Whether others have locked any record.
    pub(in crate::state) fn any_record_held(&self) -> io::Result<Held> {
        let first = PAGE_BYTES as u64;
        let last = u64::from(MOST_PAGES) * PAGE_BYTES as u64;
        again(|| lock::any_held(&self.file, self.holder, first..=last))
    }

    pub(in crate::state) fn try_lock_at(&self, offset: u64, kind: LockKind) -> io::Result<Tried> {
        let tried = again(|| lock::try_lock(&self.file, self.holder, offset, kind))?;
        #[cfg(test)]
        if tried == Tried::Taken {
            self.seen.locked(offset);
        }
        Ok(tried)
    }

    pub(in crate::state) fn unlock_at(&self, offset: u64) -> io::Result<()> {
        #[cfg(test)]
        self.seen.unlocked(offset);
        // Kept, it would keep others out.
        lock::unlock(&self.file, self.holder, offset)
            .or_else(|_| lock::unlock(&self.file, self.holder, offset))
    }
}

/// Reads the header of a file.
pub(in crate::state) fn read_identity(pages: &PagedFile) -> io::Result<Result<Identity, Bad>> {
    let page = pages.read_page(0)?;
    // Asked for last: another master may be making the file longer.
    let bytes = metadata(pages.file())?.len();
    let there = usize::try_from(bytes).map_or(PAGE_BYTES, |bytes| bytes.min(PAGE_BYTES));
    Ok(Identity::decode(page.get(..there).unwrap_or(&page), bytes))
}

/// Whether the file can be locked at all, in each of the ways that workers do it.
///
/// # Errors
///
/// What fcntl(2) reports.
pub(in crate::state) fn probe(pages: &PagedFile) -> io::Result<()> {
    pages.held(CLAIM, PROBED_PAGE)?;
    if pages.try_lock(CLAIM, PROBED_PAGE)? == Tried::Taken {
        pages.unlock_at(CLAIM.offset(PROBED_PAGE))?;
    }
    Ok(())
}

/// A page that no file has.
const PROBED_PAGE: u32 = u32::MAX;

/// Makes a call that has failed once more, unless it is one that nobody knows here.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    call().or_else(|error| if lock::is_unsupported(&error) { Err(error) } else { call() })
}
