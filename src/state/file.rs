//! The state file as the master opens, makes and moves it.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::os::file::{
    Identity as FileIdentity, Owner, create_new, give_to, link, metadata, open_existing, rename,
    sync, sync_directory_of, unlink, with_suffix,
};
use crate::os::lock::{Kind, Tried, try_lock, unlock};
use crate::os::memory_file::create_memory_file;
use crate::schedule::UnixMs;

use super::format::{HEADER_LOCK, MOST_PAGES, PAGE_BYTES, USE_LOCK};
use super::header::{Bad, Identity, Newness, PidFile};
use super::notice::{Action, Notice};
use super::pages::Pages;
use super::path::{OpenError, check_file, is_half_made, open_error, temporary};

/// Who opens the state, when, and how it may wait.
pub struct Opener<'a> {
    /// The instance.
    pub pid_file: &'a PidFile,
    /// The user and group of the workers.
    pub workers: Owner,
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
pub(super) enum Users {
    /// No other master.
    OnlyUs,
    /// Another one, maybe of the same instance: a binary upgrade.
    Others,
}

/// A lock of the master, released when dropped.
pub(super) struct HeaderLocked<'a>(&'a Pages);

impl Drop for HeaderLocked<'_> {
    fn drop(&mut self) {
        // A lock that cannot be released goes with its descriptor.
        drop(unlock(self.0.file(), HEADER_LOCK));
    }
}

impl Opener<'_> {
    /// Waits; `None` if it has waited for long enough.
    pub(super) fn wait_for(&mut self, time: Duration) -> Option<()> {
        self.patience = self.patience.checked_sub(time)?;
        (self.wait)(time);
        Some(())
    }

    /// Takes the header lock; `None` if others hold it for too long.
    pub(super) fn lock_header<'a>(
        &mut self,
        pages: &'a Pages,
    ) -> io::Result<Option<HeaderLocked<'a>>> {
        loop {
            if try_lock(pages.file(), HEADER_LOCK, Kind::Exclusive)? == Tried::Taken {
                return Ok(Some(HeaderLocked(pages)));
            }
            if self.wait_for(LOCK_WAIT).is_none() {
                return Ok(None);
            }
        }
    }

    /// Takes the use lock, shared, for as long as the description lives; tells whether it could
    /// have been had alone.
    pub(super) fn lock_use(&mut self, pages: &Pages) -> io::Result<(Users, Option<Identity>)> {
        loop {
            if try_lock(pages.file(), USE_LOCK, Kind::Exclusive)? == Tried::Taken {
                let identity = self.sign(pages);
                try_lock(pages.file(), USE_LOCK, Kind::Shared)?;
                return Ok((Users::OnlyUs, identity?));
            }
            if try_lock(pages.file(), USE_LOCK, Kind::Shared)? == Tried::Taken {
                return Ok((Users::Others, read_identity(pages)?.ok()));
            }
            // Somebody has it alone, for as long as it takes to sign.
            if self.wait_for(LOCK_WAIT).is_none() {
                return Ok((Users::Others, None));
            }
        }
    }

    /// Writes our name into the header, if the file is whole; the caller has the file alone.
    fn sign(&self, pages: &Pages) -> io::Result<Option<Identity>> {
        let Ok(mut identity) = read_identity(pages)? else { return Ok(None) };
        if identity.pid_file != *self.pid_file {
            identity.pid_file = self.pid_file.clone();
            pages.write(&identity.encode_part(), 0)?;
        }
        Ok(Some(identity))
    }

    /// Opens what is at `path`; `None` if there is nothing.
    pub(super) fn open_file(&self, path: &Path) -> Result<Option<Pages>, OpenError> {
        let file = match open_existing(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(open_error(path, error)),
        };
        check_file(path, &file, self.workers)?;
        if metadata(&file).is_ok_and(|metadata| is_half_made(path, &metadata)) {
            drop(unlink(&temporary(path)));
        }
        Ok(Some(Pages::new(file)))
    }

    /// Makes a new file at `path`, whole from the first instant on. If there is one meanwhile,
    /// nothing happens.
    pub(super) fn create(&mut self, path: &Path, newness: Newness) -> Result<(), OpenError> {
        let temporary = temporary(path);
        let file = match create_new(&temporary) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return self.remove_stale(&temporary);
            }
            Err(error) => return Err(open_error(path, error)),
        };
        let pages = Pages::new(file);
        let made = self.fill(&pages, newness).and_then(|()| {
            match link(&temporary, path) {
                // Another master was faster with this name, or took ours for a stale one.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                    ) =>
                {
                    Ok(())
                }
                linked => linked,
            }
        });
        drop(unlink(&temporary));
        made.map_err(OpenError::Fault)?;
        // A directory that cannot be synced costs the file at a power cut, no more.
        drop(sync_directory_of(path));
        Ok(())
    }

    fn fill(&self, pages: &Pages, newness: Newness) -> io::Result<()> {
        // The lock tells others that the temporary file is not a stale one.
        try_lock(pages.file(), USE_LOCK, Kind::Exclusive)?;
        let identity =
            Identity { pages: 1, newness, created_at: self.now, pid_file: self.pid_file.clone() };
        pages.write(&identity.encode(), 0)?;
        give_to(pages.file(), self.workers)?;
        sync(pages.file())
    }

    /// Removes a temporary file that its maker left behind; a living maker is waited for.
    fn remove_stale(&mut self, temporary: &Path) -> Result<(), OpenError> {
        if let Ok(file) = open_existing(temporary)
            && try_lock(&file, USE_LOCK, Kind::Exclusive).map_err(OpenError::Fault)?
                == Tried::Refused
        {
            let waited = self.wait_for(LOCK_WAIT);
            return waited.ok_or(OpenError::Fault(io::ErrorKind::WouldBlock.into()));
        }
        match unlink(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(open_error(temporary, error))
            }
            _ => Ok(()),
        }
    }

    /// Makes a file in memory.
    pub(super) fn create_memory(&self) -> io::Result<Pages> {
        let pages = Pages::new(create_memory_file("timers.state")?);
        let identity = Identity {
            pages: 1,
            newness: Newness::Ordinary,
            created_at: self.now,
            pid_file: self.pid_file.clone(),
        };
        pages.write(&identity.encode(), 0)?;
        give_to(pages.file(), self.workers)?;
        Ok(pages)
    }

    /// Moves a bad file aside, if it is still the one at `path`. The caller knows that no other
    /// master uses it.
    pub(super) fn move_aside(&mut self, path: &Path, pages: &Pages, bad: Bad) -> Notice {
        let moved = self.lock_header(pages).and_then(|locked| {
            let _locked = locked.ok_or(io::ErrorKind::WouldBlock)?;
            let moved_to = with_suffix(path, ".bad");
            if FileIdentity::at(path)? == FileIdentity::of(pages.file())? {
                rename(path, &moved_to)?;
            }
            Ok(moved_to)
        });
        match moved {
            Ok(moved_to) => Notice::MovedAside { moved_to, bad },
            Err(error) => Notice::NotMoved { bad, error: Some(error) },
        }
    }
}

/// Makes room for `more` further records; the caller holds the header lock.
///
/// # Errors
///
/// What went wrong; `identity` says how far it came.
pub(super) fn grow(pages: &Pages, identity: &mut Identity, more: u32) -> Result<(), Notice> {
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
    grown.map_err(failed(Action::Grow))?;
    sync(pages.file()).map_err(failed(Action::Sync))
}

/// The file grows by this many pages at a time.
const GROWTH: u32 = 16;

/// Reads the header of a file.
pub(super) fn read_identity(pages: &Pages) -> io::Result<Result<Identity, Bad>> {
    let bytes = metadata(pages.file())?.len();
    let page = pages.read_page(0)?;
    let there = usize::try_from(bytes).map_or(PAGE_BYTES, |bytes| bytes.min(PAGE_BYTES));
    Ok(Identity::decode(page.get(..there).unwrap_or(&page), bytes))
}
