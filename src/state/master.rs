//! The master's view of the state: opened in the init callback of a zone, loaded in `init_module`,
//! attached to by each worker.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::os::file::{Identity as FileIdentity, give_to, open_existing, reopen};
use crate::os::lock::is_unsupported;
use crate::schedule::UnixMs;

use super::allocate::{allocate, transplant};
use super::file::{Opener, Users, read_identity};
use super::header::{Bad, Newness};
use super::judge::judge;
use super::notice::{Action, Notice};
use super::pages::Pages;
use super::path::{OpenError, PathError, StatePath};
use super::store::{Health, Place, Process, Store};

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
    pages: Rc<RefCell<Option<Pages>>>,
    backing: Backing,
    health: Health,
}

/// Where the state really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// In the configured file.
    File,
    /// In memory, as configured or for want of a file.
    Memory,
    /// Nowhere: not even memory could be had.
    Nothing,
}

/// What [`open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// The state.
    pub state: State,
    /// One place for each name, in their order.
    pub places: Vec<Place>,
    /// What there is to log.
    pub notices: Vec<Notice>,
}

/// How often to begin again when somebody else moves or makes the file at the same time.
const OPEN_TRIES: u32 = 400;

/// Opens the state for a new cycle, makes or moves the file where that is due, and finds or
/// allocates a record for each of `names`. `held` is the state of the cycle before. Not for `-t`
/// and `-s`: see [`check`](super::check).
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
    let held = held.filter(|held| held.configured.path() == configured.path());
    let in_file = match configured.path() {
        Some(path) => open_at(path, configured, held, names, opener, &mut notices)?,
        None => Err(Health::Ok),
    };
    let state = in_file.unwrap_or_else(|health| match held {
        // What the master holds open is better than a memory that knows nothing.
        Some(held) => State { health, ..held.clone() },
        None => open_memory(configured, health, opener, &mut notices),
    });
    let places = state.with_pages(|pages| allocate(pages, names, opener, &mut notices));
    let places = places.unwrap_or_else(|| names.iter().map(|name| Place::nowhere(name)).collect());
    let lacking = places.iter().any(|place| place.page.is_none());
    let health = if lacking { Health::Degraded } else { state.health };
    Ok(Opened { state: State { health, ..state }, places, notices })
}

fn open_memory(
    configured: &StatePath,
    health: Health,
    opener: &Opener<'_>,
    notices: &mut Vec<Notice>,
) -> State {
    let state = |pages: Option<Pages>, backing, health| State {
        configured: configured.clone(),
        pages: Rc::new(RefCell::new(pages)),
        backing,
        health,
    };
    match opener.create_memory() {
        Ok(pages) => state(Some(pages), Backing::Memory, health),
        Err(error) => {
            notices.push(Notice::Failed { action: Action::Open, error });
            state(None, Backing::Nothing, Health::Degraded)
        }
    }
}

/// Opens the file at `path`; the inner error is the health of a state that has to be kept in
/// memory instead.
fn open_at(
    path: &Path,
    configured: &StatePath,
    held: Option<&State>,
    names: &[&str],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Result<State, Health>, PathError> {
    let mut newness = Newness::Ordinary;
    for _ in 0..OPEN_TRIES {
        let found = match opener.open_file(path) {
            Ok(found) => found,
            Err(error) => return give_up(error, configured, notices),
        };
        let Some(found) = found else {
            if let Err(error) = opener.create(path, newness) {
                return give_up(error, configured, notices);
            }
            continue;
        };
        let state = match held.filter(|held| held.is_file(&found)) {
            Some(held) => held.clone(),
            None => State {
                configured: configured.clone(),
                pages: Rc::new(RefCell::new(Some(found))),
                backing: Backing::File,
                health: Health::Ok,
            },
        };
        match state.adopt(path, opener, notices)? {
            Adopted::Whole(file_newness) => {
                let health = match file_newness {
                    Newness::Ordinary => Health::Ok,
                    Newness::Recovered => Health::Recovered,
                };
                let state = State { health, ..state };
                if let Some(held) = held.filter(|held| !Rc::ptr_eq(&held.pages, &state.pages)) {
                    if held.backing == Backing::File && newness == Newness::Ordinary {
                        notices.push(Notice::Replaced);
                    }
                    state.inherit(held, names, opener, notices);
                }
                return Ok(Ok(state));
            }
            Adopted::MovedAside => newness = Newness::Recovered,
            Adopted::Unusable(health) => return Ok(Err(health)),
        }
    }
    notices
        .push(Notice::InMemory { action: Action::Open, error: io::ErrorKind::WouldBlock.into() });
    Ok(Err(Health::Degraded))
}

/// What came of looking into a file.
enum Adopted {
    Whole(Newness),
    MovedAside,
    Unusable(Health),
}

impl State {
    /// Where the state really is.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The path of the file that the state is in; `None` in memory.
    pub fn path(&self) -> Option<&Path> {
        self.configured.path().filter(|_| self.backing == Backing::File)
    }

    /// Whether the state can be relied on, as far as opening it has shown.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Attaches a worker, with a description of its own. Only where there is no `/proc` does it
    /// matter which slot it is: the file is then opened by its path, and memory is slot 0's alone.
    pub fn attach(&self, slot: u32, process: Process, now: UnixMs) -> Store {
        self.attach_with(reopen, slot, process, now)
    }

    pub(super) fn attach_with(
        &self,
        reopen: impl FnOnce(&std::fs::File) -> io::Result<std::fs::File>,
        slot: u32,
        process: Process,
        now: UnixMs,
    ) -> Store {
        let attached = self.with_pages(|pages| {
            let file = pages.file();
            reopen(file).or_else(|error| match (self.backing, self.configured.path()) {
                (Backing::File, Some(path)) => {
                    let opened = open_existing(path)?;
                    let same = FileIdentity::of(&opened)? == FileIdentity::of(file)?;
                    if same { Ok(opened) } else { Err(error) }
                }
                (Backing::Memory, _) if slot == 0 => file.try_clone(),
                _ => Err(error),
            })
        });
        match attached {
            Some(Ok(file)) => Store::new(Some(Pages::new(file)), process, self.health, now),
            Some(Err(error)) => {
                let store = Store::new(None, process, Health::Degraded, now);
                store.inner.notice(Notice::Failed { action: Action::Open, error });
                store
            }
            None => Store::new(None, process, Health::Degraded, now),
        }
    }

    /// Closes the master's descriptor in a process that is not the master: in each worker once it
    /// is attached, and in the cache manager and loader.
    pub fn close(&self) {
        self.pages.take();
    }

    pub(super) fn with_pages<T>(&self, look: impl FnOnce(&Pages) -> T) -> Option<T> {
        self.pages.borrow().as_ref().map(look)
    }

    fn is_file(&self, found: &Pages) -> bool {
        self.with_pages(|pages| {
            let identity = |pages: &Pages| FileIdentity::of(pages.file()).ok();
            identity(pages).is_some_and(|held| identity(found) == Some(held))
        })
        .unwrap_or(false)
    }

    /// Takes the use lock, looks into the file, and moves it aside if it is bad.
    fn adopt(
        &self,
        path: &Path,
        opener: &mut Opener<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<Adopted, PathError> {
        let adopted = self.with_pages(|pages| {
            let (users, signed) = opener.lock_use(pages)?;
            if let (Users::Others, Some(identity), StatePath::Default(_)) =
                (users, &signed, &self.configured)
                && identity.pid_file != *opener.pid_file
            {
                return Ok(Err(PathError::in_use(path, identity.pid_file.clone())));
            }
            let bad = match read_identity(pages)? {
                Ok(identity) => {
                    if let Err(error) = give_to(pages.file(), opener.workers) {
                        notices.push(Notice::Failed { action: Action::Own, error });
                    }
                    return Ok(Ok(Adopted::Whole(identity.newness)));
                }
                Err(bad) => bad,
            };
            let bad = judge(pages, bad)?;
            if bad == Bad::Foreign && matches!(self.configured, StatePath::Named(_)) {
                return Ok(Err(PathError::foreign_content(path)));
            }
            let notice = match users {
                Users::OnlyUs => opener.move_aside(path, pages, bad),
                Users::Others => Notice::NotMoved { bad, error: None },
            };
            let moved = matches!(notice, Notice::MovedAside { .. });
            notices.push(notice);
            Ok(Ok(if moved { Adopted::MovedAside } else { Adopted::Unusable(Health::Degraded) }))
        });
        let (notice, health) = match adopted {
            Some(Ok(adopted)) => return adopted,
            None => return Ok(Adopted::Unusable(Health::Degraded)),
            Some(Err(error)) if is_unsupported(&error) => {
                (Notice::InMemory { action: Action::Lock, error }, Health::Ok)
            }
            Some(Err(error)) => (Notice::Failed { action: Action::Read, error }, Health::Degraded),
        };
        notices.push(notice);
        Ok(Adopted::Unusable(health))
    }

    /// Takes over the records of the file or memory that the cycle before holds open.
    fn inherit(
        &self,
        held: &Self,
        names: &[&str],
        opener: &mut Opener<'_>,
        notices: &mut Vec<Notice>,
    ) {
        held.with_pages(|from| {
            self.with_pages(|to| transplant(from, to, names, opener, notices));
        });
    }
}

/// A fault of the system never keeps nginx from starting, and at the default path neither does a
/// directory that cannot be written.
fn give_up(
    error: OpenError,
    configured: &StatePath,
    notices: &mut Vec<Notice>,
) -> Result<Result<State, Health>, PathError> {
    let in_memory = |action, error| (Notice::InMemory { action, error }, Health::Ok);
    let (notice, health) = match (error, configured) {
        (OpenError::Path(error), StatePath::Default(_)) => {
            in_memory(Action::Open, error.into_unwritable()?)
        }
        (OpenError::Path(error), _) => return Err(error),
        (OpenError::Fault(error), _) if is_unsupported(&error) => in_memory(Action::Lock, error),
        (OpenError::Fault(error), StatePath::Default(_))
            if error.kind() == io::ErrorKind::ReadOnlyFilesystem =>
        {
            in_memory(Action::Open, error)
        }
        (OpenError::Fault(error), _) => {
            (Notice::Failed { action: Action::Open, error }, Health::Degraded)
        }
    };
    notices.push(notice);
    Ok(Err(health))
}
