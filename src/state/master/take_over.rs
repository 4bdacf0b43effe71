//! A file of format 1 that masters of an older module use, as in a binary upgrade: it stays as it is
//! until the last of them has gone. Then one of the workers that wait for that converts it.
//!
//! Such masters hold the use lock for as long as they live. The master of the waiting workers does not,
//! so that they can see that; they take it for their master in the end, on the description that they
//! have from it.
//!
//! ```text
//!   the first worker, which has the file alone until the end     the others, once the header says so
//!   Convert ──> Find ──> Add ──> Sync ──> Load ──> end           Find ──> end
//! ```
//!
//! Each of these takes many turns of the event loop, a few records in each. Who is killed in between
//! leaves a file of which the header says that records are still to be converted: the next one goes
//! through all of it once more, and what was done is not done again.

use std::rc::Rc;
use std::time::Duration;

use crate::os::Syncing;
use crate::os::file::{reopen, sync};
use crate::os::lock::{Holder, LockKind, Tried};
use crate::schedule::UnixMs;
use crate::state::record::format::USE_LOCK;
use crate::state::record::header::{Identity, RecordsFormat};
use crate::state::worker::notice::{Action, Failure, Notice};
use crate::state::worker::paged_file::{PagedFile, read_identity};
use crate::state::worker::store::{Health, Record};

use super::allocate::Addition;
use super::convert::{self, Conversion, may_convert};
use super::file::Opener;
use super::load::{Before, Loaded, Loading};
use super::quota::Quota;
use super::scan::Scan;
use super::state::{Opened, State};

/// The result of trying to take a file over.
#[derive(Debug)]
pub enum TakenOver {
    /// It is ours: what opening it would have given, and what loading it.
    Yes(Opened, Vec<Notice>),
    /// It is being done, here or by another worker: to be called again after this time.
    GoesOn(Duration),
    /// It is in use still.
    NotYet,
    /// A call has failed. What was done is not done again.
    Failed(Notice),
}

/// After this time a worker goes on: what waits for it has its turn between.
const NEXT_TURN: Duration = Duration::from_millis(1);
/// Who is waited for is looked at after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A file that is being taken over; it is let go when this is dropped.
#[derive(Debug)]
pub struct TakeOver {
    /// The state by a description of this worker alone.
    own: State,
    converted_by: ConvertedBy,
    /// One instant for all that is converted, and a later one for all that is loaded.
    now: UnixMs,
    phase: Phase,
    notices: Vec<Notice>,
    /// What there is to log of the load.
    loaded: Vec<Notice>,
}

/// Which worker converts the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConvertedBy {
    This,
    Other,
}

/// What is done next.
#[derive(Debug)]
enum Phase {
    Convert(Conversion),
    Find(Scan),
    Add(Addition),
    Sync(Option<Syncing>, Rc<Vec<Record>>),
    Load(Loading, Rc<Vec<Record>>),
    End(Rc<Vec<Record>>),
}

/// What the configuration says of a timer: by its number, with its record.
pub(in crate::state) type LoadedBy<'a> =
    dyn for<'r> Fn(usize, &'r Record) -> Option<Loaded<'r>> + 'a;

impl State {
    /// Takes over the file that this state [waits](State::waits) for. To be called once a second by
    /// workers, with an opener that does not wait; who finds the file left converts it, and writes into
    /// the records what the configuration says. `taking` keeps what was done until the next call.
    pub fn take_over(
        &self,
        taking: &mut Option<TakeOver>,
        names: &[&str],
        opener: &mut Opener<'_>,
        loaded: &LoadedBy<'_>,
    ) -> TakenOver {
        let taken = self.with_pages(|shared| {
            let begun = match taking.take() {
                Some(current) => Ok(current),
                None => self.begin_to_take(shared, names, opener)?,
            };
            let mut current = match begun {
                Ok(current) => current,
                Err(not_begun) => return Ok(not_begun),
            };
            if let Some(after) = current.go_on(names, opener, loaded)? {
                let ends_here = current.own.with_pages(is_of_a_turn).unwrap_or(true);
                *taking = (!ends_here).then_some(current);
                return Ok(TakenOver::GoesOn(after));
            }
            current.end(self, shared)
        });
        let failed = |failure: Failure| TakenOver::Failed(failure.into());
        taken.unwrap_or(Ok(TakenOver::NotYet)).unwrap_or_else(failed)
    }

    /// Begins, if that can be.
    fn begin_to_take(
        &self,
        shared: &PagedFile,
        names: &[&str],
        opener: &Opener<'_>,
    ) -> Result<Result<TakeOver, TakenOver>, Failure> {
        // Workers of one master exclude each other only with descriptions of their own.
        let pages = match self.own_description(shared, reopen) {
            Ok(file) => PagedFile::new(file),
            Err(_) => PagedFile::locked_by(
                Holder::Process,
                shared.file().try_clone().map_err(Action::Open.failed())?,
            ),
        };
        let begin = |converted_by, phase, own| {
            let (notices, loaded) = (Vec::new(), Vec::new());
            TakeOver { own, converted_by, now: opener.now, phase, notices, loaded }
        };
        let records = identity(&pages)?.map(|identity| identity.records);
        if records == Some(RecordsFormat::Current) {
            if !lock(shared, LockKind::Shared)? {
                return Ok(Err(TakenOver::NotYet));
            }
            let find = Phase::Find(find(&pages, names)?);
            return Ok(Ok(begin(ConvertedBy::Other, find, self.by(pages))));
        }
        if !lock(&pages, LockKind::Exclusive)? {
            // Who converts it now is no master of the older module, and is about to end.
            let is_converted = records == Some(RecordsFormat::Mixed);
            let wait = TakenOver::GoesOn(LOOK_AGAIN);
            return Ok(Err(if is_converted { wait } else { TakenOver::NotYet }));
        }
        let old = identity(&pages)?.filter(|it| it.records != RecordsFormat::Current);
        let Some(mut old) = old else { return Ok(Err(TakenOver::NotYet)) };
        if !may_convert(&pages).map_err(Action::Lock.failed())? {
            return Ok(Err(TakenOver::NotYet));
        }
        old.pid_file = opener.pid_file.clone();
        let conversion = Conversion::begin(&pages, &mut old, opener.now);
        let convert = Phase::Convert(conversion.map_err(Action::Write.failed())?);
        Ok(Ok(begin(ConvertedBy::This, convert, self.by(pages))))
    }
}

impl TakeOver {
    /// Does a part of what is left; `None` if nothing is, else after which time to go on.
    fn go_on(
        &mut self,
        names: &[&str],
        opener: &mut Opener<'_>,
        loaded: &LoadedBy<'_>,
    ) -> Result<Option<Duration>, Failure> {
        let own = self.own.clone();
        let gone_on = own.with_pages(|pages| {
            let at_once = is_of_a_turn(pages);
            loop {
                let mut quota = if at_once { Quota::All } else { Quota::of_a_turn() };
                let after = self.step(pages, names, &mut quota, opener, loaded)?;
                if !at_once || after != Some(NEXT_TURN) {
                    return Ok(after);
                }
            }
        });
        gone_on.unwrap_or(Ok(None))
    }

    fn step(
        &mut self,
        pages: &PagedFile,
        names: &[&str],
        quota: &mut Quota,
        opener: &mut Opener<'_>,
        loaded: &LoadedBy<'_>,
    ) -> Result<Option<Duration>, Failure> {
        let next = match &mut self.phase {
            Phase::Convert(conversion) => {
                // A worker whose master was killed may have begun a run meanwhile.
                if !may_convert(pages).map_err(Action::Lock.failed())? {
                    return Ok(Some(LOOK_AGAIN));
                }
                let done = conversion.go_on(pages, quota).map_err(Action::Write.failed())?;
                if done { Some(Phase::Find(find(pages, names)?)) } else { None }
            }
            Phase::Find(scan) => {
                let done = scan.go_on(pages, self.now, quota).map_err(Action::Read.failed())?;
                match (done, self.converted_by) {
                    (false, _) => None,
                    (true, ConvertedBy::This) => Some(Phase::Add(scan.add())),
                    (true, ConvertedBy::Other) => {
                        Some(Phase::End(self.own.at(scan.pages(), names)))
                    }
                }
            }
            Phase::Add(addition) => {
                let Some(_locked) = opener.lock_header(pages).map_err(Action::Lock.failed())?
                else {
                    return Ok(Some(LOOK_AGAIN));
                };
                let done = addition.go_on(pages, names, self.now, quota, &mut self.notices);
                done.then(|| Phase::Sync(None, self.own.at(addition.pages(), names)))
            }
            Phase::Load(loading, records) => {
                let timer = |number| records.get(number).and_then(|record| loaded(number, record));
                opener.now = self.now;
                loading.go_on(pages, &timer, opener, quota).then(|| {
                    let names = names.iter().copied().collect();
                    self.loaded = loading.end(&self.own, pages, &names, opener);
                    Phase::End(Rc::clone(records))
                })
            }
            Phase::Sync(syncing @ None, records) => {
                // Where there can be no thread it takes as long as it takes.
                let may_go_on = !is_of_a_turn(pages);
                *syncing = may_go_on.then(|| Syncing::begin(pages.file()).ok()).flatten();
                if syncing.is_some() {
                    None
                } else {
                    sync(pages.file()).map_err(Action::Sync.failed())?;
                    Some(Phase::Load(Loading::new(pages, Before::Loaded), Rc::clone(records)))
                }
            }
            Phase::Sync(syncing, records) => {
                let Some(ended) = syncing.take_if(|it| it.has_ended()) else {
                    return Ok(Some(LOOK_AGAIN));
                };
                ended.end().map_err(Action::Sync.failed())?;
                Some(Phase::Load(Loading::new(pages, Before::Loaded), Rc::clone(records)))
            }
            Phase::End(_) => return Ok(None),
        };
        if let Some(next) = next {
            if matches!(next, Phase::Load(..)) {
                // What comes due from now on is the timers'.
                self.now = opener.now;
            }
            self.phase = next;
        }
        Ok(Some(NEXT_TURN))
    }

    /// Says in the header that all is converted, and leaves the file to those who share it.
    fn end(self, state: &State, shared: &PagedFile) -> Result<TakenOver, Failure> {
        let Phase::End(records) = self.phase else { return Ok(TakenOver::NotYet) };
        let ended = self.own.with_pages(|pages| {
            let Some(mut identity) = identity(pages)? else { return Ok(None) };
            if self.converted_by == ConvertedBy::This {
                convert::end(pages, &mut identity).map_err(Action::Write.failed())?;
                // Shared by both before it is let go by one: no other may find it free.
                if !(lock(pages, LockKind::Shared)? && lock(shared, LockKind::Shared)?) {
                    return Ok(None);
                }
                pages.unlock_at(USE_LOCK).map_err(Action::Lock.failed())?;
            }
            let lacking = records.iter().any(Record::is_lacking);
            Ok(Some(if lacking { Health::Degraded } else { Health::of(identity.newness) }))
        });
        let Some(health) = ended.unwrap_or(Ok(None))? else { return Ok(TakenOver::NotYet) };
        let opened = Opened { state: state.taken_over(health), records, notices: self.notices };
        Ok(TakenOver::Yes(opened, self.loaded))
    }
}

/// Whether what is locked is let go of with the turn: a lock of the process goes with any descriptor of
/// the file that the process closes, that of a thread that syncs too.
fn is_of_a_turn(pages: &PagedFile) -> bool {
    pages.holder() == Holder::Process
}

fn find(pages: &PagedFile, names: &[&str]) -> Result<Scan, Failure> {
    Scan::new(pages, names).map_err(Action::Read.failed())
}

fn lock(pages: &PagedFile, kind: LockKind) -> Result<bool, Failure> {
    let tried = pages.try_lock_at(USE_LOCK, kind).map_err(Action::Lock.failed())?;
    Ok(tried == Tried::Taken)
}

fn identity(pages: &PagedFile) -> Result<Option<Identity>, Failure> {
    Ok(read_identity(pages).map_err(Action::Read.failed())?.ok())
}
