//! What a zone has when nginx starts, and after a reload.
//!
//! The memory of a zone of the same name, size and type stays, with what is in it. A new one is filled
//! from that of the configuration before, if it fits; else from the state file; else it is empty.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::clocks;
use super::fetch::show;
use super::save::{path_hash, remove_left};
use crate::TimerModule;
use crate::conf::{KeyvalZone, MainConf, now};
use crate::keyval::{
    Build, Built, Encoder, Format, Limits, Meta, Publishing, Refusal, Segment, When, Writer,
    read_state, refused,
};
use crate::nginx::conf::{Opening, Unusable};
use crate::nginx::hooks::with_main;
use crate::nginx::log::{Level, Log};
use crate::nginx::process::is_reload;
use crate::os::file::{
    FileOwner, Refusal as Refused, directory_of, is_a_directory, metadata, open_to_read_as,
    owner_may_write, read_at, rename_as, with_suffix,
};
use crate::os::memory::fallible;
use crate::os::{process, random_bytes};
use crate::state::Escaped;

/// Looks whether the workers can write the state files.
///
/// # Errors
///
/// They cannot.
pub fn open(main: &MainConf, opening: &Opening) -> Result<(), Unusable> {
    let workers = owner(opening.workers);
    main.keep_workers(workers);
    for zone in main.keyval_zones() {
        let Some(path) = zone.state() else { continue };
        owner_may_write(workers, directory_of(path)).map_err(|error| Unusable {
            why: format!(
                "directory of state file \"{}\" is not writable in {}",
                Escaped::of(path),
                zone.position
            ),
            errno: error.raw_os_error().unwrap_or(0),
        })?;
    }
    Ok(())
}

fn owner(workers: Option<(u32, u32)>) -> FileOwner {
    workers.map_or_else(FileOwner::of_this_process, |(uid, gid)| FileOwner { uid, gid })
}

/// Fills the zones that are new, in the process that has read the configuration.
pub fn load(main: &MainConf, log: Log) {
    for zone in main.keyval_zones() {
        if zone.is_new() {
            zone.begin();
            fill(zone, main.workers(), log);
        }
        if let Some(path) = zone.state() {
            remove_left(path);
        }
    }
}

fn fill(zone: &KeyvalZone, workers: FileOwner, log: Log) {
    let name = &zone.name;
    let mut why = None;
    if is_reload() {
        let before = in_before(zone, refused).flatten();
        zone.with(|segment| segment.set_refused(before.as_deref()));
        match of_before(zone) {
            Some(Ok((built, _))) => return put(zone, built, None),
            Some(Err(refusal)) => why = Some(show(zone, &refusal)),
            None => {}
        }
    }
    if let Some(path) = zone.state() {
        match of_file(zone, path, workers) {
            Ok(Some((built, up_to_date))) => return put(zone, built, Some((path, up_to_date))),
            Ok(None) => {}
            Err(Bad::Unread(error)) => {
                log.write_error(
                    Level::Crit,
                    error.raw_os_error().unwrap_or(0),
                    format_args!(
                        "keyval \"{name}\": state file \"{}\" is not read",
                        Escaped::of(path)
                    ),
                );
                zone.with(|segment| segment.set_refused(Some("state file is not read")));
            }
            Err(Bad::Refused(refusal)) => why = why.or_else(|| Some(show(zone, &refusal))),
            Err(Bad::Damaged(what)) => {
                move_aside(name, path, what, workers, log);
                let why = format!("state file {what}");
                zone.with(|segment| segment.set_refused(Some(&why)));
            }
        }
    }
    if let Some(why) = why {
        zone.with(|segment| segment.set_refused(Some(&why)));
        log.write(Level::Warn, format_args!("keyval \"{name}\": {why}, it is empty"));
    }
}

/// Makes a content current, in memory that no worker uses yet.
fn put(zone: &KeyvalZone, built: Built, saved: Option<(&Path, u64)>) {
    zone.with(|segment| {
        let pid = std::process::id();
        let writer = Writer::take(segment, pid, process::start_time(pid), |_, _| true)?;
        let mut publishing = Publishing::begin(segment, &writer, built).ok()?;
        while let Ok(None) = publishing.step(segment, &writer) {}
        writer.give_back(segment);
        if let Some((path, up_to_date)) = saved {
            segment.set_saved(path_hash(path), segment.generation(), up_to_date);
            // That of the configuration before was of another content.
            segment.set_refused(None);
        }
        Some(())
    });
}

/// What `look` makes of the zone of this name in the configuration before; `None` if there is none.
fn in_before<T>(zone: &KeyvalZone, look: impl FnOnce(&Segment<'_>) -> T) -> Option<T> {
    let seen = with_main::<TimerModule, _>(|before| {
        let old = before.keyval_zones().iter().find(|old| old.name == zone.name)?;
        old.with(look)
    });
    seen.flatten()
}

/// The content of the zone of this name in the configuration before; `None` if there is none.
fn of_before(zone: &KeyvalZone) -> Option<Result<(Built, u64), Refusal>> {
    let file = in_before(zone, |segment| {
        let (generation, meta, _, _) = segment.meta()?;
        let up_to_date = segment.up_to_date(generation, meta.taken);
        let meta = Meta { taken: up_to_date, ..meta };
        // A worker may replace it meanwhile: at once again.
        let mut tries = 0..3;
        let file = tries.find_map(|_| {
            segment.look_at_current(|image| {
                let mut encoder = Encoder::new(&meta, When::default());
                loop {
                    match encoder.step(image) {
                        Ok(None) => {}
                        Ok(Some(file)) => return Some(file),
                        Err(_) => return None,
                    }
                }
            })
        });
        file.and_then(|(_, file)| file).map(|file| (file, meta))
    });
    let (file, meta) = file.flatten()?;
    let (_, content) = read_state(&file)?;
    let taken = meta.taken;
    Some(build(zone, content, meta).map(|built| (built, taken)))
}

fn build(zone: &KeyvalZone, content: &[u8], meta: Meta) -> Result<Built, Refusal> {
    let mut body = Vec::new();
    fallible(|| body.try_reserve_exact(content.len()))?;
    body.extend_from_slice(content);
    let limits = Limits { kind: zone.kind, words: zone.words, min: 0 };
    let seed = random_bytes::<8>().map_or(0, u64::from_le_bytes);
    let mut build = Build::new(body, Format::Json, limits, meta, seed);
    loop {
        if let Some(built) = build.step()? {
            return Ok(built);
        }
    }
}

/// Why a state file gives no content.
enum Bad {
    /// It stays where it is.
    Unread(io::Error),
    /// It is what it should be, and does not fit.
    Refused(Refusal),
    Damaged(&'static str),
}

/// The content of a state file, and when it was up to date; `None` if there is no file.
fn of_file(
    zone: &KeyvalZone,
    path: &Path,
    workers: FileOwner,
) -> Result<Option<(Built, u64)>, Bad> {
    let file = match open_to_read_as(workers, path) {
        Ok(file) => file,
        Err(error) => {
            return match Refused::of(&error) {
                Some(Refused::Missing) => Ok(None),
                Some(Refused::SymbolicLink) => Err(Bad::Damaged("is a symbolic link")),
                Some(Refused::NotRegular) => Err(Bad::Damaged("is not a regular file")),
                _ => Err(Bad::Unread(error)),
            };
        }
    };
    let bytes = read(zone, &file)?;
    let (head, content) = read_state(&bytes).ok_or(Bad::Damaged("is damaged"))?;
    let taken = now().saturating_sub(head.when.age(&clocks()));
    let meta = Meta { taken_wall: head.when.time, taken, source: 0, etag: head.etag };
    match build(zone, content, meta) {
        Ok(built) => Ok(Some((built, taken))),
        Err(refusal) => Err(Bad::Refused(refusal)),
    }
}

fn read(zone: &KeyvalZone, file: &File) -> Result<Vec<u8>, Bad> {
    let about = metadata(file).map_err(Bad::Unread)?;
    // Others may need what is in it.
    if about.is_dir() {
        return Err(Bad::Unread(is_a_directory()));
    }
    if !about.is_file() {
        return Err(Bad::Damaged("is not a regular file"));
    }
    if about.nlink() != 1 {
        return Err(Bad::Damaged("has another link"));
    }
    // A byte of a content may be written as six.
    let limit = zone.words.saturating_mul(8 * 6).saturating_add(64 * 1024);
    let len = usize::try_from(about.len()).ok().filter(|len| *len <= limit);
    let len = len.ok_or(Bad::Damaged("is too large"))?;
    let mut bytes = Vec::new();
    fallible(|| bytes.try_reserve_exact(len)).map_err(|why| Bad::Refused(why.into()))?;
    bytes.resize(len, 0);
    let read = read_at(file, &mut bytes, 0).map_err(Bad::Unread)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn move_aside(name: &str, path: &Path, what: &str, workers: FileOwner, log: Log) {
    let aside = with_suffix(path, ".bad");
    let shown = Escaped::of(path);
    match rename_as(workers, path, &aside) {
        Ok(()) => {
            let aside = Escaped::of(&aside);
            log.write(
                Level::Crit,
                format_args!(
                    "keyval \"{name}\": state file \"{shown}\" {what}, moved to \"{aside}\""
                ),
            );
        }
        Err(error) => {
            log.write_error(
                Level::Crit,
                error.raw_os_error().unwrap_or(0),
                format_args!(
                    "keyval \"{name}\": state file \"{shown}\" {what}, and cannot be moved aside"
                ),
            );
        }
    }
}
