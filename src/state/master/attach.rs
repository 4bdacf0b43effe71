//! How a worker gets at the state that its master has opened.

use std::fs::File;
use std::io;

use crate::os::file::{FileId, open_existing, reopen};
use crate::os::lock::Holder;
use crate::schedule::UnixMs;
use crate::state::worker::notice::{Action, Notice};
use crate::state::worker::paged_file::PagedFile;
use crate::state::worker::store::{Health, Process, Store};

use super::state::State;

impl State {
    /// Attaches a worker, with a description of its own. Where none can be had (no `/proc`, a file
    /// that could not be given to the workers), a worker whose master is another process goes on
    /// with the descriptor that it has from it, and the locks are those of its process.
    pub fn attach(&self, master: Master, process: Process, now: UnixMs) -> Store {
        self.attach_with(reopen, master, process, now)
    }

    pub(in crate::state) fn attach_with(
        &self,
        reopen: impl FnOnce(&File) -> io::Result<File>,
        master: Master,
        process: Process,
        now: UnixMs,
    ) -> Store {
        let own = if self.waits() {
            None
        } else {
            self.with_pages(|pages| self.own_description(pages, reopen))
        };
        let store =
            |pages, health| Store::new(pages, process, health, self.claims.borrow().health(), now);
        let pages = match (own, master) {
            (None, _) => return store(None, Health::Degraded),
            (Some(Ok(file)), _) => Ok(PagedFile::new(file)),
            (Some(Err(_)), Master::Another) => {
                let taken = self.pages.take().ok_or(io::ErrorKind::NotFound.into());
                taken.map(|pages| PagedFile::locked_by(Holder::Process, pages.into_file()))
            }
            // Nobody else has this file, and in one process the table of claims excludes.
            (Some(Err(_)), Master::This) => {
                let cloned = self.with_pages(|pages| pages.file().try_clone());
                let cloned = cloned.unwrap_or(Err(io::ErrorKind::NotFound.into()));
                cloned.map(PagedFile::new)
            }
        };
        match pages {
            Ok(pages) => store(Some(pages), self.health()),
            Err(error) => {
                let store = store(None, Health::Degraded);
                store.inner.notice(Notice::Failed { action: Action::Open, error });
                store
            }
        }
    }

    /// The same file with a description of its own: through `/proc`, or by its path.
    pub(in crate::state) fn own_description(
        &self,
        pages: &PagedFile,
        reopen: impl FnOnce(&File) -> io::Result<File>,
    ) -> io::Result<File> {
        if pages.holder() == Holder::Process {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let file = pages.file();
        reopen(file).or_else(|error| {
            let Some(path) = self.path() else { return Err(error) };
            let opened = open_existing(path)?;
            let same = FileId::of(&opened)? == FileId::of(file)?;
            if same { Ok(opened) } else { Err(error) }
        })
    }
}

/// Who the master is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Master {
    /// Another process: this one is a worker of it.
    Another,
    /// This process, which is the only worker, too.
    This,
}
