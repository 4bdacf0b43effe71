//! A bad file that has to stay where it is: a mount point, or in a directory that cannot be written.

use std::io;
use std::path::{Path, PathBuf};

use crate::os::file::{create_new_as, metadata, sync, unlink, write_at};
use crate::state::record::format::{HEADER_CONTROL, MOST_PAGES, PAGE_BYTES};
use crate::state::record::header::{Bad, HeaderControl, Identity, Newness, RecordsFormat};
use crate::state::record::version1;
use crate::state::worker::paged_file::{PagedFile, read_identity};

use super::file::Opener;

/// What is longer is not copied.
const COPIED: u64 = 64 << 20;

impl Opener<'_> {
    /// Writes a new header over a bad one, and keeps the records that are whole, in one write: who
    /// is killed leaves the old or the new one. What the file was is copied to `copy`, if that can
    /// be done. The caller holds the header lock.
    ///
    /// # Errors
    ///
    /// Why the file is as it was: it could not be written, or what it says would be lost.
    pub(in crate::state) fn rewrite(
        &self,
        pages: &PagedFile,
        bad: Bad,
        copy: PathBuf,
    ) -> io::Result<Option<PathBuf>> {
        let bytes = metadata(pages.file())?.len();
        let copied = self.copy(pages, bytes, &copy);
        // Of these not even the records are ours to read.
        let keeps_records = !matches!(bad, Bad::Foreign | Bad::Newer);
        if !keeps_records {
            copied.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        }
        let whole = u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(MOST_PAGES);
        let count = if keeps_records { whole.clamp(1, MOST_PAGES) } else { 1 };
        // What they were written by is not known any more.
        let records = if keeps_records { RecordsFormat::Mixed } else { RecordsFormat::Current };
        let identity = Identity { pages: count, records, ..self.identity(Newness::Recovered) };
        let page = pages.read_page(0)?;
        match version1::decode_header(&page) {
            _ if keeps_records && HeaderControl::decode(HEADER_CONTROL.of(&page)).is_some() => {
                pages.write(&identity.encode_part(), 0)?;
            }
            (Some(control), number) if keeps_records => {
                pages.write(&identity.encode_with(&control, number), 0)?;
            }
            _ => pages.write(&identity.encode(), 0)?,
        }
        sync(pages.file())?;
        read_identity(pages)?.map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(copied.is_ok().then_some(copy))
    }

    fn copy(&self, pages: &PagedFile, bytes: u64, to: &Path) -> io::Result<()> {
        if bytes > COPIED {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // Of an earlier time, as a rename would replace it.
        drop(unlink(to));
        let file = create_new_as(self.workers, to)?;
        for page in 0..u32::try_from(bytes.div_ceil(PAGE_BYTES as u64)).unwrap_or(0) {
            let at = u64::from(page) * PAGE_BYTES as u64;
            let content = pages.read_page(page)?;
            let len = usize::try_from(bytes - at).map_or(PAGE_BYTES, |len| len.min(PAGE_BYTES));
            write_at(&file, content.get(..len).unwrap_or(&content), at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::os::fault::{Call, CallFault, Effect, Repeat, with};
    use crate::os::file::with_suffix;

    use crate::state::tests::fixture::*;
    use crate::state::*;

    const MOUNT_POINT: CallFault = CallFault {
        call: Some(Call::Rename),
        after: 0,
        repeat: Repeat::FromThenOn,
        effect: Effect::Errno(16),
    };

    #[test]
    fn a_mount_point_gets_a_new_header_and_keeps_its_records() {
        for at in [0, 24, 100, 2100] {
            let mut fixture = Fixture::file(&["a", "b"]);
            run_once(&mut fixture, "a");
            fixture.first = First::Now;
            let path = fixture.configured.path().unwrap().to_path_buf();
            let bytes = |flip: usize| {
                let mut bytes = fs::read(&path).unwrap();
                bytes[flip] ^= 1;
                bytes[40] ^= 1;
                bytes
            };
            let bad = bytes(at);
            fs::write(&path, &bad).unwrap();
            let notices = with(MOUNT_POINT, || fixture.reload(&["a", "b", "c"]).unwrap());
            let copied = with_suffix(&path, ".bad");
            assert!(
                matches!(&notices[..], [Notice::Rewritten { bad: Bad::Damaged, copied_to: Some(to) }]
                    if *to == copied),
                "{notices:?}"
            );
            assert_eq!(fs::read(&copied).unwrap(), bad);
            assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Recovered);
            assert_eq!(counts(&fixture, "a"), 1);
            let reading = fixture.worker(1).read(record(&fixture, "c")).unwrap();
            assert_eq!(
                reading.first(crate::schedule::UnixMs(fixture.now), std::time::Duration::MAX),
                None
            );
            run_once(&mut fixture, "a");
            assert!(with(MOUNT_POINT, || fixture.reload(&["a", "b"]).unwrap()).is_empty());
            assert_eq!(counts(&fixture, "a"), 2);
        }
    }

    #[test]
    fn what_is_not_ours_is_overwritten_only_if_it_was_copied() {
        let mut fixture = Fixture::closed(StatePath::Default);
        let path = fixture.configured.path().unwrap().to_path_buf();
        let copied = with_suffix(&path, ".bad");
        fs::create_dir(&copied).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let notices = with(MOUNT_POINT, || fixture.reload(&["a"]).unwrap());
        assert!(matches!(notices[0], Notice::NotMoved { bad: Bad::Foreign, error: Some(_) }));
        assert_eq!(fs::read(&path).unwrap(), b"#!/bin/sh\n");
        fs::remove_dir(&copied).unwrap();
        fixture.state = None;
        let notices = with(MOUNT_POINT, || fixture.reload(&["a"]).unwrap());
        assert!(matches!(notices[..], [Notice::Rewritten { copied_to: Some(_), .. }]));
        assert_eq!(fs::read(&copied).unwrap(), b"#!/bin/sh\n");
        assert_eq!(fixture.state.as_ref().unwrap().backing(), Backing::File);
    }
}
