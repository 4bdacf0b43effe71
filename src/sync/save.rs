//! State files: written in a thread, and put in place with rename(2).
//!
//! ```text
//!   a content is current ──> encode, a little in each turn ──> a thread: write, fsync ──> rename
//!                ^                                                                         │
//!                └──────────────── another one has become current meanwhile ───────────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use xxhash_rust::xxh64::xxh64;

use super::clocks;
use crate::conf::{KeyvalZone, now};
use crate::keyval::Encoder;
use crate::nginx::log::{Level, Log};
use crate::nginx::turn::{InTurns, Stepped};
use crate::os::file::{
    FileOwner, create_new, directory_of, rename_as, sync, unlink, with_suffix, write_at,
};
use crate::os::{Background, boot_time, random_bytes};
use crate::state::Escaped;
use crate::throttle::Throttle;

/// The files that are being written by this process, one for each zone.
#[derive(Default)]
struct Saves(Vec<Rc<Save>>);

thread_local! {
    static SAVES: RefCell<Saves> = const { RefCell::new(Saves(Vec::new())) };
    /// The state files, by their hashes, whose directories this process has looked through for what others left.
    static LOOKED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The writing of a zone's state file.
struct Save {
    zone: Rc<KeyvalZone>,
    turns: RefCell<Option<InTurns>>,
    thread: RefCell<Option<Writing>>,
    failures: Throttle,
    is_on: Cell<bool>,
}

/// A file that is being written beside the event loop.
struct Writing {
    thread: Background,
    file: TempFile,
}

/// A temporary file, and what it will be.
struct TempFile {
    temporary: PathBuf,
    path: PathBuf,
    generation: u64,
    up_to_date: u64,
}

/// How often to look whether a thread has ended.
const LOOK: Duration = Duration::from_millis(5);
/// So much is written at a time without a thread.
const PIECE: usize = 64 * 1024;
/// In milliseconds.
const HOUR: u64 = 60 * 60 * 1000;
/// A temporary file that was last written to so long ago is nobody's.
const LEFT: Duration = Duration::from_secs(10 * 60);
/// A process that ends waits so long for a disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a state file is known by in memory.
pub(super) fn path_hash(path: &Path) -> u64 {
    xxh64(path.as_os_str().as_encoded_bytes(), 1) | 1
}

/// Has the state file of a zone written, if that has not what the zone has.
pub(super) fn look(zone: &Rc<KeyvalZone>) {
    if zone.state().is_none() {
        return;
    }
    let save = SAVES.with_borrow_mut(|saves| {
        saves.0.retain(|save| save.is_on.get() || Rc::ptr_eq(&save.zone, zone));
        let found = saves.0.iter().find(|save| Rc::ptr_eq(&save.zone, zone)).map(Rc::clone);
        found.unwrap_or_else(|| {
            let save = Rc::new(Save {
                zone: Rc::clone(zone),
                turns: RefCell::default(),
                thread: RefCell::default(),
                failures: Throttle::default(),
                is_on: Cell::new(false),
            });
            saves.0.push(Rc::clone(&save));
            save
        })
    });
    if !save.is_on.get() {
        save.begin();
    }
}

impl Save {
    /// Begins, if there is something to be written.
    fn begin(self: &Rc<Self>) {
        let Some(mut work) = self.next() else { return };
        self.is_on.set(true);
        let me = Rc::downgrade(self);
        let turns = InTurns::begin(move || {
            let Some(me) = me.upgrade() else { return Stepped::End };
            let step = work.step(&me);
            if step == Stepped::End {
                me.is_on.set(false);
                // What has become current meanwhile.
                if work.is_done {
                    me.begin();
                }
            }
            step
        });
        drop(self.turns.replace(Some(turns)));
    }

    /// What is to be written; `None` if the file has it.
    fn next(&self) -> Option<Work> {
        let path = self.zone.state()?;
        let found = self.zone.with(|segment| {
            let (generation, meta, _, _) = segment.meta()?;
            let up_to_date = segment.up_to_date(generation, meta.taken);
            let (saved, saved_age) = segment.saved(path_hash(path));
            // The file has to know that the content was found to be up to date: after a restart it would be old.
            let drift = self.zone.age().map_or(HOUR, |age| (age.timeout / 4).min(HOUR));
            let is_saved = saved == generation && up_to_date.saturating_sub(saved_age) < drift;
            (!is_saved).then_some((generation, meta, up_to_date))
        });
        let (generation, meta, up_to_date) = found.flatten()?;
        let age = now().saturating_sub(up_to_date);
        let file =
            TempFile { temporary: temporary(path), path: path.to_owned(), generation, up_to_date };
        Some(Work {
            stage: Stage::Encode(Encoder::new(&meta, clocks().before(age))),
            file: Some(file),
            is_done: false,
        })
    }

    /// The file was written: puts it in place, unless another process has put a newer one there; answers whether
    /// that was done.
    fn put(&self, file: &TempFile, written: io::Result<()>) -> bool {
        let hash = path_hash(&file.path);
        let is_newer = self.zone.with(|segment| {
            let (saved, saved_age) = segment.saved(hash);
            (file.generation, file.up_to_date) > (saved, saved_age)
        });
        let put = written.and_then(|()| {
            if is_newer == Some(false) {
                return unlink(&file.temporary);
            }
            rename_as(FileOwner::of_this_process(), &file.temporary, &file.path)
        });
        let is_done = put.is_ok();
        match put {
            Ok(()) => {
                self.failures.end_row();
                if is_newer == Some(true) {
                    self.zone.with(|segment| {
                        segment.set_saved(hash, file.generation, file.up_to_date);
                    });
                }
            }
            Err(error) => {
                let _ = unlink(&file.temporary);
                self.fail(&file.path, &error);
            }
        }
        is_done
    }

    fn fail(&self, path: &Path, error: &io::Error) {
        if self.failures.pass(Instant::now()).is_some() {
            let (name, path) = (&self.zone.name, Escaped::of(path));
            Log::cycle().write_error(
                Level::Error,
                error.raw_os_error().unwrap_or(0),
                format_args!("keyval \"{name}\": state file \"{path}\" is not written"),
            );
        }
    }
}

/// One file on its way.
struct Work {
    stage: Stage,
    file: Option<TempFile>,
    /// Whether the file was put in place.
    is_done: bool,
}

enum Stage {
    Encode(Encoder),
    Thread,
    Pieces(File, Vec<u8>, usize),
    Ended,
}

impl Work {
    fn step(&mut self, save: &Save) -> Stepped {
        let generation = self.file.as_ref().map_or(0, |file| file.generation);
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Encode(mut encoder) => {
                let step =
                    save.zone.with(|segment| segment.look(generation, |image| encoder.step(image)));
                match step.flatten() {
                    Some(Ok(None)) => {
                        self.stage = Stage::Encode(encoder);
                        Stepped::Again
                    }
                    Some(Ok(Some(bytes))) => self.write(bytes, save),
                    Some(Err(_)) => Stepped::End,
                    // Two others have become current since: the newest one is written.
                    None => {
                        self.is_done = true;
                        Stepped::End
                    }
                }
            }
            Stage::Thread => {
                let ended = save.thread.borrow().as_ref().is_none_or(|it| it.thread.has_ended());
                if !ended {
                    self.stage = Stage::Thread;
                    return Stepped::After(LOOK);
                }
                if let Some(writing) = save.thread.take() {
                    self.end(save, &writing.file, writing.thread.end());
                }
                Stepped::End
            }
            Stage::Pieces(file, bytes, at) => {
                let rest = bytes.get(at..).unwrap_or_default();
                let piece = rest.get(..PIECE).unwrap_or(rest);
                let written = write_at(&file, piece, at as u64);
                let next = at + piece.len();
                if written.is_ok() && next < bytes.len() {
                    self.stage = Stage::Pieces(file, bytes, next);
                    return Stepped::Again;
                }
                // fsync(2) would hold everybody up. A file that a power failure has cut is known by its checksum.
                if let Some(file) = self.file.take() {
                    self.end(save, &file, written);
                }
                Stepped::End
            }
            Stage::Ended => Stepped::End,
        }
    }

    fn end(&mut self, save: &Save, file: &TempFile, written: io::Result<()>) {
        self.is_done = save.put(file, written);
    }

    fn write(&mut self, bytes: Vec<u8>, save: &Save) -> Stepped {
        let Some(file) = self.file.take() else { return Stepped::End };
        let opened = match create_new(&file.temporary) {
            Ok(opened) => opened,
            Err(error) => {
                save.fail(&file.path, &error);
                return Stepped::End;
            }
        };
        let bytes = std::sync::Arc::new(bytes);
        let begun = opened.try_clone().and_then(|to| {
            let bytes = std::sync::Arc::clone(&bytes);
            let left = is_first_look(&file.path).then(|| file.path.clone());
            Background::begin("timer-keyval", move || {
                if let Some(path) = left {
                    remove_left(&path);
                }
                write_at(&to, &bytes, 0).and_then(|()| sync(&to))
            })
        });
        let Ok(thread) = begun else {
            self.file = Some(file);
            let bytes = std::sync::Arc::try_unwrap(bytes).unwrap_or_default();
            self.stage = Stage::Pieces(opened, bytes, 0);
            return Stepped::Again;
        };
        save.thread.replace(Some(Writing { thread, file }));
        self.stage = Stage::Thread;
        Stepped::After(LOOK)
    }
}

/// The process is about to end: what is written is put in place, if that takes no time.
pub fn end() {
    let saves = SAVES.take();
    let until = Instant::now() + PATIENCE;
    for save in saves.0 {
        drop(save.turns.take());
        let Some(writing) = save.thread.take() else { continue };
        while !writing.thread.has_ended() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        if writing.thread.has_ended() {
            save.put(&writing.file, writing.thread.end());
        } else {
            let _ = unlink(&writing.file.temporary);
        }
    }
}

/// What a temporary file's name has behind that of the state file, and before a random number.
const TEMPORARY: &str = ".tmp-";

/// A name that nobody else has, in containers that share a directory either.
fn temporary(path: &Path) -> PathBuf {
    // Early after boot there may be no random number.
    let other = || u64::from(std::process::id()) << 32 ^ u64::from(boot_time().subsec_nanos());
    let random = random_bytes().map_or_else(|_| other(), u64::from_le_bytes);
    with_suffix(path, &format!("{TEMPORARY}{random:016x}"))
}

/// Whether this process writes this file for the first time.
fn is_first_look(path: &Path) -> bool {
    let hash = path_hash(path);
    LOOKED.with_borrow_mut(|looked| {
        let is_first = !looked.contains(&hash);
        if is_first {
            looked.push(hash);
        }
        is_first
    })
}

/// Removes temporary files that nobody writes to any more.
pub(super) fn remove_left(path: &Path) {
    let Some(name) = path.file_name().map(|name| name.as_encoded_bytes().to_vec()) else { return };
    let Ok(entries) = std::fs::read_dir(directory_of(path)) else { return };
    for entry in entries.flatten() {
        let other = entry.file_name();
        let rest = other.as_encoded_bytes().strip_prefix(name.as_slice());
        let number = rest.and_then(|rest| rest.strip_prefix(TEMPORARY.as_bytes()));
        let is_temporary = number
            .is_some_and(|number| number.len() == 16 && number.iter().all(u8::is_ascii_hexdigit));
        if is_temporary && entry.metadata().is_ok_and(|about| is_left(&about)) {
            let _ = unlink(&entry.path());
        }
    }
}

fn is_left(about: &Metadata) -> bool {
    let age = about.modified().ok().and_then(|written| written.elapsed().ok());
    about.is_file() && age.is_some_and(|age| age > LEFT)
}
