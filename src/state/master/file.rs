//! The state file as the master opens, makes and moves it.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::os::file::{
    FileId, FileOwner, create_new_as, give_to, open_existing_as, rename_as, restrict_as, sync,
    sync_directory_of, with_suffix,
};
use crate::os::lock::{Holder, LockKind, Tried, is_unsupported};
use crate::os::memory_file::{create_memory_file, create_unlinked_file};
use crate::schedule::UnixMs;
use crate::state::record::format::{HEADER_LOCK, MOST_PAGES, PAGE_BYTES, USE_LOCK};
use crate::state::record::header::{Bad, Identity, Newness, PidFile, RecordsFormat};
use crate::state::worker::locked::Locked;
use crate::state::worker::notice::{Action, Failure, Notice};
use crate::state::worker::paged_file::{PagedFile, probe, read_identity};

use super::convert::{self, convert, may_convert};
use super::path::{OpenError, check_file, open_error};

/// Who opens the state, when, and how it may wait.
pub struct Opener<'a> {
    /// The instance.
    pub pid_file: &'a PidFile,
    /// The user and group of the workers.
    pub workers: FileOwner,
    /// The wall clock.
    pub now: UnixMs,
    /// Waits; the master has nothing else to do.
    pub wait: &'a mut dyn FnMut(Duration),
    /// For how long it may still wait, for all locks of opening and loading together; at first
    /// [`PATIENCE`].
    pub patience: Duration,
}

/// For how long the master waits for locks that others hold before it goes on without them.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits before it asks again.
const LOCK_WAIT: Duration = Duration::from_millis(5);

/// Who else uses the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Users {
    /// No other master.
    OnlyUs,
    /// Another one, maybe of the same instance: a binary upgrade.
    Others,
}

/// A file under its use lock.
pub(in crate::state) struct Used {
    pub(in crate::state) users: Users,
    pub(in crate::state) identity: Result<Identity, Bad>,
    /// Whether it was empty before.
    pub(in crate::state) is_new: IsNew,
}

/// Whether this master has made, or filled, the file just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum IsNew {
    Yes,
    No,
}

impl Opener<'_> {
    /// Waits; `None` if it has waited for long enough.
    pub(in crate::state) fn wait_for(&mut self, time: Duration) -> Option<()> {
        self.patience = self.patience.checked_sub(time)?;
        (self.wait)(time);
        Some(())
    }

    /// Takes the header lock; `None` if others hold it for too long.
    pub(in crate::state) fn lock_header<'a>(
        &mut self,
        pages: &'a PagedFile,
    ) -> io::Result<Option<Locked<&'a PagedFile>>> {
        loop {
            if let Some(locked) = pages.lock_at(HEADER_LOCK)? {
                return Ok(Some(locked));
            }
            if self.wait_for(LOCK_WAIT).is_none() {
                return Ok(None);
            }
        }
    }

    /// Takes the use lock, shared, for as long as the description lives; tells whether it could
    /// have been had alone. A file of format 1 is converted first; one that others use is left as it
    /// is, and not locked. An empty file that nobody else uses is filled as one of `newness`, if
    /// it may be a new one.
    pub(in crate::state) fn lock_use(
        &mut self,
        pages: &PagedFile,
        newness: Option<Newness>,
    ) -> Result<Used, Failure> {
        let lock = |kind| pages.try_lock_at(USE_LOCK, kind).map_err(Action::Lock.failed());
        loop {
            if lock(LockKind::Exclusive)? == Tried::Taken {
                let signed = self.sign(pages, newness);
                if is_old(pages) {
                    unlock_use(pages)?;
                } else {
                    lock(LockKind::Shared)?;
                }
                let (identity, is_new) = signed?;
                return Ok(Used { users: Users::OnlyUs, identity, is_new });
            }
            if lock(LockKind::Shared)? == Tried::Taken {
                break;
            }
            // Somebody has it alone, for as long as it takes to sign.
            if self.wait_for(LOCK_WAIT).is_none() {
                break;
            }
        }
        let read = || read_identity(pages).map_err(Action::Read.failed());
        let mut identity = read()?;
        if identity.is_err() {
            // Maybe they were just writing it.
            let _locked = self.lock_header(pages).map_err(Action::Lock.failed())?;
            identity = read()?;
        }
        if identity.as_ref().is_ok_and(|identity| identity.records != RecordsFormat::Current) {
            // Its workers are to see whether masters of the old format use it.
            unlock_use(pages)?;
        }
        Ok(Used { users: Users::Others, identity, is_new: IsNew::No })
    }

    /// Writes our name into the header, if the file is whole or empty; the caller has the file
    /// alone.
    fn sign(
        &self,
        pages: &PagedFile,
        newness: Option<Newness>,
    ) -> Result<(Result<Identity, Bad>, IsNew), Failure> {
        let write = |bytes: &[u8]| pages.write(bytes, 0).map_err(Action::Write.failed());
        match (read_identity(pages).map_err(Action::Read.failed())?, newness) {
            (Ok(mut identity), _) => {
                let is_ours = identity.pid_file == *self.pid_file;
                identity.pid_file = self.pid_file.clone();
                if identity.records != RecordsFormat::Current {
                    if !may_convert(pages).map_err(Action::Lock.failed())? {
                        return Ok((Ok(identity), IsNew::No));
                    }
                    convert(pages, &mut identity, self.now)
                        .and_then(|()| convert::end(pages, &mut identity))
                        .map_err(Action::Write.failed())?;
                } else if !is_ours {
                    write(&identity.encode_part())?;
                }
                Ok((Ok(identity), IsNew::No))
            }
            (Err(Bad::Empty), Some(newness)) => {
                let identity = self.identity(newness);
                write(&identity.encode())?;
                Ok((Ok(identity), IsNew::Yes))
            }
            (Err(bad), _) => Ok((Err(bad), IsNew::No)),
        }
    }

    pub(in crate::state) fn identity(&self, newness: Newness) -> Identity {
        Identity {
            pages: 1,
            newness,
            records: RecordsFormat::Current,
            created_at: self.now,
            pid_file: self.pid_file.clone(),
        }
    }

    /// Opens what is at `path`, or makes an empty file there: whoever first has the use lock
    /// alone fills it. `None` if somebody removed or made it in this very instant.
    pub(in crate::state) fn open_file(&self, path: &Path) -> Result<Option<PagedFile>, OpenError> {
        let file = match open_existing_as(self.workers, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match create_new_as(self.workers, path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                    created => created,
                }
            }
            opened => opened,
        };
        let file = file.map_err(|error| open_error(path, error))?;
        check_file(path, &file, self.workers)?;
        Ok(Some(PagedFile::new(file)))
    }

    /// Gives the file to the workers, last of all: without `CAP_FOWNER` nothing can be changed in
    /// a file of another user.
    pub(in crate::state) fn hand_over(
        &self,
        path: &Path,
        pages: &PagedFile,
        is_new: IsNew,
        notices: &mut Vec<Notice>,
    ) {
        let not_owned =
            |failure: Failure| Notice::NotOwned { action: failure.action, error: failure.error };
        let file = pages.file();
        let restricted = restrict_as(self.workers, file).map_err(Action::Mode.failed());
        if is_new == IsNew::Yes {
            let synced = sync(file).map_err(Action::Sync.failed());
            notices.extend(synced.err().map(Notice::from));
            // A directory that cannot be synced costs the file at a power cut, no more.
            drop(sync_directory_of(path));
        }
        let given = give_to(file, self.workers).map_err(Action::Own.failed());
        notices.extend(restricted.and(given).err().map(not_owned));
    }

    /// Makes a file in memory, or, where that is forbidden, one without a name.
    pub(in crate::state) fn create_memory(
        &self,
        notices: &mut Vec<Notice>,
    ) -> Result<PagedFile, Failure> {
        let file = match create_memory_file("timers.state") {
            Ok(file) => file,
            Err(error) => {
                let failure = Action::MemoryFile.failed()(error);
                let Ok(file) = create_unlinked_file("timers.state") else { return Err(failure) };
                notices.push(Notice::Unlinked { action: failure.action, error: failure.error });
                file
            }
        };
        let pages = PagedFile::new(file);
        let pages = match probe(&pages) {
            Err(error) if is_unsupported(&error) => {
                PagedFile::locked_by(Holder::Process, pages.into_file())
            }
            _ => pages,
        };
        let identity = self.identity(Newness::Ordinary);
        pages.write(&identity.encode(), 0).map_err(Action::Write.failed())?;
        Ok(pages)
    }

    /// Moves a bad file aside, if it is still the one at `path`; one that cannot be renamed, as
    /// where it is a mount point, gets a new header. The caller knows that no other master uses it.
    pub(in crate::state) fn move_aside(
        &mut self,
        path: &Path,
        pages: &PagedFile,
        bad: Bad,
    ) -> Notice {
        let moved = self.lock_header(pages).and_then(|locked| {
            let _locked = locked.ok_or(io::ErrorKind::WouldBlock)?;
            let moved_to = with_suffix(path, ".bad");
            if FileId::at(path)? == FileId::of(pages.file())? {
                if let Err(error) = rename_as(self.workers, path, &moved_to) {
                    let rewritten = self.rewrite(pages, bad, moved_to).map_err(|_| error)?;
                    return Ok(Notice::Rewritten { bad, copied_to: rewritten });
                }
            }
            Ok(Notice::MovedAside { moved_to, bad })
        });
        moved.unwrap_or_else(|error| Notice::NotMoved { bad, error: Some(error) })
    }
}

/// Whether something of the file is still in format 1.
fn is_old(pages: &PagedFile) -> bool {
    matches!(read_identity(pages), Ok(Ok(identity)) if identity.records != RecordsFormat::Current)
}

fn unlock_use(pages: &PagedFile) -> Result<(), Failure> {
    pages.unlock_at(USE_LOCK).map_err(Action::Lock.failed())
}

/// Makes room for `more` further records; the caller holds the header lock, and has it synced.
///
/// # Errors
///
/// What went wrong; `identity` says how far it came.
pub(in crate::state) fn grow(
    pages: &PagedFile,
    identity: &mut Identity,
    more: u32,
) -> Result<(), Notice> {
    let mut grown = Ok(());
    for _ in 0..more.next_multiple_of(GROWTH) {
        let offset = u64::from(identity.pages) * PAGE_BYTES as u64;
        // Written zeros, not a hole: what is there now can be written when the disk is full.
        grown = if identity.pages < MOST_PAGES {
            pages.write(&[0; PAGE_BYTES], offset)
        } else {
            Err(io::ErrorKind::FileTooLarge.into())
        };
        if grown.is_err() {
            break;
        }
        identity.pages += 1;
    }
    let failed = |action| move |error| Notice::Failed { action, error };
    pages.write(&identity.encode_part(), 0).map_err(failed(Action::Write))?;
    grown.map_err(failed(Action::Write))
}

/// The file grows by this many pages at a time.
const GROWTH: u32 = 16;
