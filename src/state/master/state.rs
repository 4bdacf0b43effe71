//! The master's view of the state: opened in the init callback of a zone, loaded in `init_module`,
//! attached to by each worker.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::os::file::FileId;
use crate::os::lock::is_unsupported;
use crate::state::record::header::{Bad, Newness, RecordsFormat};
use crate::state::worker::notice::{Action, Failure, Notice};
use crate::state::worker::paged_file::{PagedFile, probe};
use crate::state::worker::shared_claims::SharedClaims;
use crate::state::worker::store::{Health, Record};

use super::allocate::{allocate, transplant};
use super::file::{Opener, Users};
use super::judge::judge;
use super::path::{OpenError, PathError, StatePath};

/// The state of one configuration cycle.
///
/// # Invariants
///
/// The description is shared by all cycles that use the same file, and holds the use lock. A
/// worker attaches with a description of its own and closes this one, so that the use lock goes
/// with the master.
#[derive(Clone, Debug)]
pub struct State {
    configured: StatePath,
    pub(in crate::state) pages: Rc<RefCell<Option<PagedFile>>>,
    backing: Backing,
    health: Health,
    waits: Waits,
    pub(in crate::state) claims: Rc<RefCell<SharedClaims>>,
}

/// Whether a state has to wait until masters of an older module have left its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// It is free to use.
    No,
    /// No run may start until [`State::take_over`].
    Yes,
}

/// Where the state really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// In the configured file.
    File,
    /// In memory, as configured or for lack of a file.
    Memory,
    /// Nowhere: not even memory could be had.
    Nothing,
}

/// What [`open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// The state.
    pub state: State,
    /// One record for each name, in their order.
    pub records: Rc<Vec<Record>>,
    /// What there is to log.
    pub notices: Vec<Notice>,
}

/// How often to begin again when somebody else moves or makes the file at the same time.
const OPEN_TRIES: u32 = 400;

/// Opens the state for a new cycle, makes or moves the file where that is due, and finds or
/// allocates a record for each of `names`. `held` is the state of the cycle before. Not for `-t`
/// and `-s`: see [`check`](crate::state::check).
///
/// Nothing that a load would change is changed: the cycle may still be refused.
///
/// # Errors
///
/// A bad path, or one that another instance uses: the configuration is to be refused. Everything
/// else is a [`Notice`].
pub fn open(
    configured: &StatePath,
    held: Option<&State>,
    names: &[&str],
    opener: &mut Opener<'_>,
) -> Result<Opened, PathError> {
    let mut notices = Vec::new();
    // What was claimed stays claimed, wherever the state is.
    let claims = match held {
        Some(held) => Rc::clone(&held.claims),
        None => Rc::new(RefCell::new(SharedClaims::new().map_err(PathError::no_memory)?)),
    };
    claims.borrow_mut().give(names).map_err(PathError::no_memory)?;
    let held = held.filter(|held| held.is_at(configured));
    let in_file = match configured.path() {
        Some(path) => open_at(path, configured, held, &claims, names, opener, &mut notices)?,
        None => Err(NoFile::as_configured()),
    };
    let state = in_file
        .unwrap_or_else(|why| why.do_without(configured, held, &claims, opener, &mut notices));
    let records = state.records(names, opener, &mut notices);
    let lacking = records.iter().any(Record::is_lacking);
    let health = if lacking { Health::Degraded } else { state.health };
    Ok(Opened { state: State { health, ..state }, records, notices })
}

/// The state cannot be in the file.
struct NoFile {
    /// Whether that is as good.
    health: Health,
    /// Why, where that has not been said yet.
    failure: Option<Failure>,
}

impl NoFile {
    fn as_configured() -> Self {
        Self { health: Health::Ok, failure: None }
    }

    fn because(failure: Failure, health: Health) -> Self {
        Self { health, failure: Some(failure) }
    }

    /// A file system without locks leaves no choice; anything else is to be mended.
    fn of_fault(failure: Failure) -> Self {
        let no_locks = failure.action == Action::Lock && is_unsupported(&failure.error);
        let health = if no_locks { Health::Ok } else { Health::Degraded };
        Self::because(failure, health)
    }

    /// A call on the file that is in use has failed: workers see for themselves how long that lasts.
    fn of_file_in_use(self, known: Option<Health>) -> Self {
        let health = known.filter(|_| self.failure.is_some()).unwrap_or(self.health);
        Self { health, ..self }
    }

    /// Goes on with what the master holds open, which is better than a memory that knows nothing;
    /// else in memory.
    fn do_without(
        self,
        configured: &StatePath,
        held: Option<&State>,
        claims: &Rc<RefCell<SharedClaims>>,
        opener: &Opener<'_>,
        notices: &mut Vec<Notice>,
    ) -> State {
        let in_memory = held.is_none_or(|held| held.backing != Backing::File);
        notices.extend(self.failure.map(|failure| match failure {
            Failure { action, error } if in_memory => {
                Notice::InMemory { action, error, health: self.health }
            }
            failure => failure.into(),
        }));
        match held.filter(|held| held.backing != Backing::Nothing) {
            Some(held) => State { health: self.health, ..held.clone() },
            None => open_memory(configured, self.health, claims, opener, notices),
        }
    }
}

fn open_memory(
    configured: &StatePath,
    health: Health,
    claims: &Rc<RefCell<SharedClaims>>,
    opener: &Opener<'_>,
    notices: &mut Vec<Notice>,
) -> State {
    let state = |pages: Option<PagedFile>, backing, health| State {
        configured: configured.clone(),
        pages: Rc::new(RefCell::new(pages)),
        backing,
        health,
        waits: Waits::No,
        claims: Rc::clone(claims),
    };
    let made = opener.create_memory(notices);
    match made.and_then(|pages| probe(&pages).map_err(Action::Lock.failed()).map(|()| pages)) {
        Ok(pages) => state(Some(pages), Backing::Memory, health),
        Err(Failure { action, error }) => {
            notices.push(Notice::Nowhere { action, error });
            state(None, Backing::Nothing, Health::Degraded)
        }
    }
}

/// Opens the file at `path`, or makes it.
fn open_at(
    path: &Path,
    configured: &StatePath,
    held: Option<&State>,
    claims: &Rc<RefCell<SharedClaims>>,
    names: &[&str],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Result<State, NoFile>, PathError> {
    let mut newness = Newness::Ordinary;
    for _ in 0..OPEN_TRIES {
        let found = match opener.open_file(path) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) => return give_up(error, configured).map(Err),
        };
        let in_use = held.filter(|held| held.is_file(&found)).cloned();
        let known_health = in_use.as_ref().map(|held| held.health);
        // An empty file that is in use was emptied meanwhile.
        let if_empty = in_use.is_none().then_some(newness);
        let state = in_use.unwrap_or_else(|| State {
            configured: configured.clone(),
            pages: Rc::new(RefCell::new(Some(found))),
            backing: Backing::File,
            health: Health::Ok,
            waits: Waits::No,
            claims: Rc::clone(claims),
        });
        match state.adopt(path, if_empty, opener, notices)? {
            Adopted::Whole(file_newness) => {
                let health = Health::of(file_newness);
                let state = State { health, waits: Waits::No, ..state };
                if let Some(held) = held.filter(|held| !Rc::ptr_eq(&held.pages, &state.pages)) {
                    if held.backing == Backing::File && newness == Newness::Ordinary {
                        notices.push(Notice::Replaced);
                    }
                    state.inherit(held, names, opener, notices);
                }
                return Ok(Ok(state));
            }
            Adopted::Waits => {
                notices.push(Notice::Waits);
                return Ok(Ok(State { health: Health::Degraded, waits: Waits::Yes, ..state }));
            }
            Adopted::MovedAside => newness = Newness::Recovered,
            Adopted::Unusable(why) => return Ok(Err(why.of_file_in_use(known_health))),
        }
    }
    let changing = Action::Open.failed()(io::ErrorKind::WouldBlock.into());
    Ok(Err(NoFile::because(changing, Health::Degraded)))
}

/// The result of looking into a file.
enum Adopted {
    Whole(Newness),
    /// Others use it in format 1.
    Waits,
    MovedAside,
    Unusable(NoFile),
}

impl State {
    /// Where the state really is.
    #[cfg(test)]
    pub(in crate::state) fn backing(&self) -> Backing {
        self.backing
    }

    /// The path of the file that the state is in; `None` in memory.
    pub fn path(&self) -> Option<&Path> {
        self.configured.path().filter(|_| self.backing == Backing::File)
    }

    /// Whether no run may start until [`State::take_over`].
    pub fn waits(&self) -> bool {
        self.waits == Waits::Yes
    }

    /// The same state by another description of its file, which nobody else uses.
    pub(in crate::state) fn by(&self, pages: PagedFile) -> Self {
        let pages = Rc::new(RefCell::new(Some(pages)));
        Self { pages, waits: Waits::No, ..self.clone() }
    }

    /// The same state once it need not wait any more.
    pub(in crate::state) fn taken_over(&self, health: Health) -> Self {
        Self { health, waits: Waits::No, ..self.clone() }
    }

    /// Finds or allocates a record for each of `names`.
    pub(in crate::state) fn records(
        &self,
        names: &[&str],
        opener: &mut Opener<'_>,
        notices: &mut Vec<Notice>,
    ) -> Rc<Vec<Record>> {
        let usable = !self.waits();
        let records =
            usable.then(|| self.with_pages(|pages| allocate(pages, names, opener, notices)));
        match records.flatten() {
            Some(pages) => self.at(&pages, names),
            None => self.at(&vec![None; names.len()], names),
        }
    }

    /// The records of `names` at these pages.
    pub(in crate::state) fn at(&self, pages: &[Option<u32>], names: &[&str]) -> Rc<Vec<Record>> {
        let claims = self.claims.borrow();
        let record = |(number, (name, page)): (usize, (&&str, &Option<u32>))| Record {
            number,
            page: *page,
            claims: claims.of(name),
            ..Record::nowhere(name)
        };
        Rc::new(names.iter().zip(pages).enumerate().map(record).collect())
    }

    /// Whether the state can be relied on, as far as opening it has shown.
    pub fn health(&self) -> Health {
        self.health
    }

    /// These timers were loaded. What failed before a load that did not is a thing of the past.
    pub(in crate::state) fn note_load(&self, names: &HashSet<&str>, has_failed: bool) {
        let mut claims = self.claims.borrow_mut();
        claims.keep(names);
        if has_failed { claims.health().fail() } else { claims.health().clear() }
    }

    /// Closes the master's descriptor in a process that is not the master: in each worker once it
    /// is attached, and in the cache manager and loader.
    pub fn close(&self) {
        self.pages.take();
    }

    pub(in crate::state) fn with_pages<T>(&self, look: impl FnOnce(&PagedFile) -> T) -> Option<T> {
        self.pages.borrow().as_ref().map(look)
    }

    /// Whether the state that is configured so would be this one.
    pub fn is_at(&self, configured: &StatePath) -> bool {
        self.configured.path() == configured.path()
    }

    fn is_file(&self, found: &PagedFile) -> bool {
        self.with_pages(|pages| {
            let identity = |pages: &PagedFile| FileId::of(pages.file()).ok();
            identity(pages).is_some_and(|held| identity(found) == Some(held))
        })
        .unwrap_or(false)
    }

    /// Takes the use lock, looks into the file, and moves it aside if it is bad.
    fn adopt(
        &self,
        path: &Path,
        newness: Option<Newness>,
        opener: &mut Opener<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<Adopted, PathError> {
        let adopted = self.with_pages(|pages| {
            let used = opener.lock_use(pages, newness)?;
            probe(pages).map_err(Action::Lock.failed())?;
            let bad = match used.identity {
                Ok(identity)
                    if used.users == Users::Others
                        && matches!(self.configured, StatePath::Default(_))
                        && identity.pid_file != *opener.pid_file =>
                {
                    return Ok(Err(PathError::in_use(path, identity.pid_file)));
                }
                Ok(identity) if identity.records != RecordsFormat::Current => {
                    return Ok(Ok(Adopted::Waits));
                }
                Ok(identity) => {
                    opener.hand_over(path, pages, used.is_new, notices);
                    return Ok(Ok(Adopted::Whole(identity.newness)));
                }
                Err(bad) => bad,
            };
            let bad = judge(pages, bad).map_err(Action::Read.failed())?;
            if bad == Bad::Foreign && matches!(self.configured, StatePath::Named(_)) {
                return Ok(Err(PathError::foreign_content(path)));
            }
            let notice = match used.users {
                Users::OnlyUs => opener.move_aside(path, pages, bad),
                Users::Others => Notice::NotMoved { bad, error: None },
            };
            let moved = matches!(notice, Notice::MovedAside { .. } | Notice::Rewritten { .. });
            notices.push(notice);
            Ok(Ok(if moved {
                Adopted::MovedAside
            } else {
                Adopted::Unusable(NoFile { health: Health::Degraded, failure: None })
            }))
        });
        let failure = match adopted {
            Some(Ok(adopted)) => return adopted,
            Some(Err(failure)) => failure,
            None => Action::Open.failed()(io::ErrorKind::NotFound.into()),
        };
        Ok(Adopted::Unusable(NoFile::of_fault(failure)))
    }

    /// Takes over the records of the file or memory that the cycle before holds open.
    fn inherit(
        &self,
        held: &Self,
        names: &[&str],
        opener: &mut Opener<'_>,
        notices: &mut Vec<Notice>,
    ) {
        if held.waits() {
            return;
        }
        held.with_pages(|from| {
            self.with_pages(|to| transplant(from, to, names, opener, notices));
        });
    }
}

/// A fault of the system never keeps nginx from starting, and at the default path neither does a
/// directory that cannot be written.
fn give_up(error: OpenError, configured: &StatePath) -> Result<NoFile, PathError> {
    match (error, configured) {
        (OpenError::Path(error), StatePath::Default(_)) => {
            let failure = Action::Open.failed()(error.into_unwritable()?);
            Ok(NoFile::because(failure, Health::Ok))
        }
        (OpenError::Path(error), _) => Err(error),
        (OpenError::Fault(failure), StatePath::Default(_))
            if failure.error.kind() == io::ErrorKind::ReadOnlyFilesystem =>
        {
            Ok(NoFile::because(failure, Health::Ok))
        }
        (OpenError::Fault(failure), _) => Ok(NoFile::of_fault(failure)),
    }
}
