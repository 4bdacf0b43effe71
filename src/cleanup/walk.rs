//! The walk through the tree.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::newest::Newest;
use super::options::Options;
use super::report::{Failure, Problem, Report};
use crate::os::call::Call;
use crate::os::directory::{Attributes, Directory, Entered, FileTime, Kind, is_not_empty};
use crate::os::file::FileId;
use crate::os::memory::NoMemory;
use crate::schedule::UnixMs;

/// How many levels are walked, each with a descriptor.
const DEEPEST: usize = 64;
/// How many failures are told.
const TOLD: usize = 8;

/// A clean-up at work.
///
/// # Invariants
///
/// `levels` leads from the directory of the options down, each a directory that the current entry of the one before
/// has led to.
#[derive(Debug)]
pub struct Walk {
    options: Arc<Options>,
    /// Files that are left alone.
    own: Vec<FileId>,
    /// What has this time, or a newer one, is not old.
    young: FileTime,
    newest: Newest,
    phase: Phase,
    levels: Vec<Level>,
    report: Report,
    /// Whether the last entry that something was to be done with has failed.
    in_row: bool,
}

#[derive(Debug)]
struct Level {
    directory: Directory,
    /// Whether something in it was removed.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The newest are to be looked for.
    BeforeLook,
    /// They are being looked for.
    Look,
    /// What is old is to be removed.
    BeforeRemove,
    /// It is being removed.
    Remove,
}

/// What a step leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// It was the last one.
    Last,
}

impl Walk {
    /// A clean-up that begins at this time, and leaves the files `own` alone.
    pub fn new(options: Arc<Options>, now: UnixMs, own: Vec<FileId>) -> Self {
        let older = i64::try_from(options.older.as_millis()).unwrap_or(i64::MAX);
        let young = now.0.saturating_sub(older);
        let young = FileTime {
            seconds: young.div_euclid(1000),
            nanoseconds: young.rem_euclid(1000) * 1_000_000,
        };
        let report = Report { dry_run: options.dry_run, ..Report::default() };
        let newest = Newest::new(options.keep);
        let phase = if options.keep > 0 { Phase::BeforeLook } else { Phase::BeforeRemove };
        Self { options, own, young, newest, phase, levels: Vec::new(), report, in_row: false }
    }

    /// What was done so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Where.
    pub fn path(&self) -> &std::path::Path {
        &self.options.path
    }

    /// Opens the directory for this phase.
    fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        match Directory::open(&self.options.path) {
            Ok(directory) => self.levels.push(Level { directory, lost: false }),
            Err(error) => {
                self.phase = Phase::Remove;
                self.fail(Call::OpenAt, &error, None);
            }
        }
    }

    /// Looks at one entry, and does with it what is to be done.
    pub fn step(&mut self) -> Step {
        let Some(level) = self.levels.last_mut() else { return self.next_phase() };
        match level.directory.advance() {
            _ if self.report.max_reached => self.leave(),
            Ok(true) => self.entry(),
            Ok(false) => self.leave(),
            Err(error) => {
                // What is below may have been removed by somebody else.
                if self.levels.len() == 1 || error.kind() != io::ErrorKind::NotFound {
                    self.fail(Call::List, &error, None);
                }
                self.leave();
            }
        }
        Step::More
    }

    fn next_phase(&mut self) -> Step {
        match self.phase {
            Phase::BeforeLook => self.begin(Phase::Look),
            Phase::BeforeRemove | Phase::Look => self.begin(Phase::Remove),
            Phase::Remove => return Step::Last,
        }
        Step::More
    }

    fn entry(&mut self) {
        let Some(level) = self.levels.last() else { return };
        let directory = &level.directory;
        match directory.kind() {
            Kind::Directory => return self.enter(),
            Kind::Other => return,
            Kind::Regular if !self.options.matches(directory.name()) => return self.keep(),
            Kind::Regular | Kind::Unknown => {}
        }
        match directory.attributes() {
            Ok(Attributes { kind: Kind::Directory, .. }) => self.enter(),
            Ok(attributes) if attributes.kind == Kind::Regular => {
                let matches = self.options.matches(directory.name());
                if matches { self.file(&attributes) } else { self.keep() }
            }
            Ok(_) => {}
            Err(error) => self.fail_entry(Call::StatAt, &error),
        }
    }

    fn enter(&mut self) {
        let Some(level) = self.levels.last() else { return };
        if self.levels.len() >= DEEPEST {
            return self.fail_with(Problem::TooDeep, Some(level.directory.name().to_vec()));
        }
        match level.directory.enter() {
            // INVARIANT: its current entry has led here.
            Ok(Entered::Directory(directory)) => {
                self.levels.push(Level { directory, lost: false });
            }
            Ok(Entered::Elsewhere) => {}
            Err(error) => self.fail_entry(Call::OpenAt, &error),
        }
    }

    /// A regular file that may go, if it is old.
    fn file(&mut self, attributes: &Attributes) {
        let time = self.options.by.of(attributes);
        if self.phase == Phase::Look {
            if self.newest.see(time, attributes.id) == Err(NoMemory) {
                // Without knowing the newest nothing can go.
                self.levels.clear();
                self.phase = Phase::Remove;
                self.fail_with(Problem::NoMemory, None);
            }
            return;
        }
        let is_old = time < self.young && !self.newest.has(time, attributes.id);
        if !is_old || self.own.contains(&attributes.id) {
            return self.keep();
        }
        let Some(level) = self.levels.last_mut() else { return };
        let removed = if self.options.dry_run { Ok(()) } else { level.directory.unlink() };
        match removed {
            Ok(()) => {
                level.lost = true;
                self.in_row = false;
                self.report.removed += 1;
                self.report.bytes = self.report.bytes.saturating_add(attributes.size);
                self.report.max_reached = self.report.removed >= self.options.max;
            }
            Err(error) => self.fail_entry(Call::UnlinkAt, &error),
        }
    }

    fn keep(&mut self) {
        if self.phase == Phase::Remove {
            self.report.kept += 1;
        }
    }

    /// Goes up a level; the directory that is left goes if it was emptied.
    fn leave(&mut self) {
        let Some(Level { directory: left, lost }) = self.levels.pop() else { return };
        let Some(above) = self.levels.last_mut() else { return };
        if !lost || !self.options.empty_dirs || self.options.dry_run {
            return;
        }
        // Something else may be there now.
        if !above.directory.attributes().is_ok_and(|now| now.id == left.id()) {
            return;
        }
        match above.directory.remove_directory() {
            Ok(()) => above.lost = true,
            Err(error) if is_not_empty(&error) => {}
            Err(error) => self.fail_entry(Call::UnlinkAt, &error),
        }
    }

    /// Something could not be done with the current entry; no harm if it has vanished.
    fn fail_entry(&mut self, call: Call, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound {
            return;
        }
        let name = self.levels.last().map(|level| level.directory.name().to_vec());
        self.fail(call, error, name);
    }

    fn fail(&mut self, call: Call, error: &io::Error, name: Option<Vec<u8>>) {
        self.fail_with(Problem::Call(call, error.raw_os_error().unwrap_or(0)), name);
    }

    /// Notes what could not be done in the directory at hand, or with what is in it.
    fn fail_with(&mut self, problem: Problem, name: Option<Vec<u8>>) {
        if self.phase == Phase::Look {
            return;
        }
        self.report.errors += 1;
        if std::mem::replace(&mut self.in_row, true) || self.report.failures.len() >= TOLD {
            return;
        }
        let above = self.levels.len().saturating_sub(1);
        let above = self.levels.iter().take(above).map(|level| level.directory.name().to_vec());
        let mut path: PathBuf = self.options.path.clone();
        path.extend(above.chain(name).map(|name| OsStr::from_bytes(&name).to_owned()));
        self.report.failures.push(Failure { path, problem });
    }
}
