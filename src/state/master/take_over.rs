//! A file of format 1 that masters of an older module use, as in a binary upgrade: it stays as it is
//! until the last of them has gone. Then one of the workers that wait for that converts it.
//!
//! Such masters hold the use lock for as long as they live. The master of the waiting workers does not,
//! so that they can see that; they take it for their master in the end, on the description that they
//! have from it.

use crate::os::file::reopen;
use crate::os::lock::{Holder, LockKind, Tried};
use crate::state::record::format::USE_LOCK;
use crate::state::record::header::{Identity, Records};
use crate::state::worker::notice::{Action, Failure, Notice};
use crate::state::worker::paged_file::{PagedFile, read_identity};
use crate::state::worker::store::{Health, Record};

use super::convert::{self, convert, may_convert};
use super::file::Opener;
use super::state::{Opened, State};

/// What came of trying to take a file over.
#[derive(Debug)]
pub enum TakenOver {
    /// It is ours: what opening it would have given.
    Yes(Opened),
    /// It is in use still.
    NotYet,
    /// A call has failed. What was done is not done again.
    Failed(Notice),
}

impl State {
    /// Takes over the file that this state [waits](State::waits) for. To be called once a second by
    /// workers, with an opener that does not wait; who finds the file left converts it, and has `load`
    /// write into the records what the configuration says.
    pub fn take_over(
        &self,
        names: &[&str],
        opener: &mut Opener<'_>,
        load: impl FnOnce(&Opened, &mut Opener<'_>),
    ) -> TakenOver {
        let taken = self.with_pages(|shared| self.try_take_over(shared, names, opener, load));
        match taken.unwrap_or(Ok(None)) {
            Ok(Some(taken)) => TakenOver::Yes(taken),
            Ok(None) => TakenOver::NotYet,
            Err(failure) => TakenOver::Failed(failure.into()),
        }
    }

    fn try_take_over(
        &self,
        shared: &PagedFile,
        names: &[&str],
        opener: &mut Opener<'_>,
        load: impl FnOnce(&Opened, &mut Opener<'_>),
    ) -> Result<Option<Opened>, Failure> {
        // Workers of one master exclude each other only with descriptions of their own.
        let pages = match self.own_description(shared, reopen) {
            Ok(file) => PagedFile::new(file),
            Err(_) => PagedFile::locked_by(
                Holder::Process,
                shared.file().try_clone().map_err(Action::Open.failed())?,
            ),
        };
        let own = self.by(pages);
        let taken = own.with_pages(|pages| {
            if identity(pages)?.is_some_and(|it| it.records == Records::Current) {
                return lock(shared, LockKind::Shared);
            }
            if !lock(pages, LockKind::Exclusive)? {
                return Ok(false);
            }
            let converted = own.convert(pages, names, opener, load);
            // Shared by both before it is let go by one: no other may find it free.
            let taken = lock(pages, LockKind::Shared).and_then(|_| {
                if matches!(converted, Ok(true)) {
                    lock(shared, LockKind::Shared)
                } else {
                    Ok(false)
                }
            });
            pages.unlock_at(USE_LOCK).map_err(Action::Lock.failed())?;
            converted.and(taken)
        });
        if !taken.unwrap_or(Ok(false))? {
            return Ok(None);
        }
        let Some(identity) = own.with_pages(identity).transpose()?.flatten() else {
            return Ok(None);
        };
        let mut notices = Vec::new();
        let records = own.records(names, opener, &mut notices);
        if notices.iter().any(|notice| matches!(notice, Notice::HeaderLocked)) {
            // Somebody is adding records, for whom this one does not wait.
            return Ok(None);
        }
        let lacking = records.iter().any(Record::is_lacking);
        let health = if lacking { Health::Degraded } else { Health::of(identity.newness) };
        Ok(Some(Opened { state: self.taken_over(health), records, notices }))
    }

    /// Converts the file and loads the configuration; the caller has it alone. `false` if it is not to be
    /// converted yet.
    fn convert(
        &self,
        pages: &PagedFile,
        names: &[&str],
        opener: &mut Opener<'_>,
        load: impl FnOnce(&Opened, &mut Opener<'_>),
    ) -> Result<bool, Failure> {
        let Some(mut old) = identity(pages)? else { return Ok(false) };
        if old.records == Records::Current {
            return Ok(true);
        }
        if !may_convert(pages).map_err(Action::Lock.failed())? {
            return Ok(false);
        }
        old.pid_file = opener.pid_file.clone();
        convert(pages, &mut old, opener.now).map_err(Action::Write.failed())?;
        let mut notices = Vec::new();
        let records = self.records(names, opener, &mut notices);
        load(&Opened { state: self.clone(), records, notices }, opener);
        // Records may have been added.
        let Some(mut grown) = identity(pages)? else { return Ok(false) };
        convert::end(pages, &mut grown).map_err(Action::Write.failed())?;
        Ok(true)
    }
}

fn lock(pages: &PagedFile, kind: LockKind) -> Result<bool, Failure> {
    let tried = pages.try_lock_at(USE_LOCK, kind).map_err(Action::Lock.failed())?;
    Ok(tried == Tried::Taken)
}

fn identity(pages: &PagedFile) -> Result<Option<Identity>, Failure> {
    Ok(read_identity(pages).map_err(Action::Read.failed())?.ok())
}
