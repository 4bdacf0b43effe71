//! `timer_cleanup`.

use std::ffi::{CStr, OsStr};
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::parameters::{Parameters, number};
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::cleanup::{By, Glob, Options};
use crate::nginx::conf::{
    Arguments, ConfPosition, ContentHandler, Context, Location, LocationDirective, Parsing,
    Refused, WhollyRead, parse_time,
};
use crate::nginx::escaped;
use crate::nginx::http::Handler;
use crate::os::memory::push;

/// What is younger is never removed.
const YOUNGEST: Duration = Duration::from_secs(60);
/// How many may be kept: each takes memory.
const MOST_KEPT: usize = 100_000;
/// How many files a run removes, unless it says otherwise.
const MAX: u64 = 100_000;

const PARAMETERS: [&str; 7] = ["older", "match", "by", "keep", "empty_dirs", "max", "dry_run"];
const ON_OFF: &str = "\"on\" or \"off\"";

/// `timer_cleanup path older=time ...`: a run removes old files; `H` answers its requests.
pub struct TimerCleanup<H>(PhantomData<H>);

/// A `timer_cleanup`, of which more is known when all was read.
pub(super) struct Definition {
    location: Location,
    /// That of the directive.
    handler: Option<ContentHandler>,
    /// The path as it is written, and as it leads to files.
    written: Vec<u8>,
    path: PathBuf,
    position: ConfPosition,
}

impl<H: Handler<Module = TimerModule>> LocationDirective for TimerCleanup<H> {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_cleanup";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.cleanup.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let mut words = parsing.arguments();
        let written = words.next().unwrap_or_default();
        let parameters = Parameters::read(words, &PARAMETERS)?;
        let location = parsing.location();
        if location.content_handler().is_some() {
            return Err(Refused::Because("location already has a content handler".to_owned()));
        }
        let path = path(written, parsing)?;
        let options = options(path.clone(), &parameters)?;
        parsing.answer_by::<H>();
        let definition = Definition {
            location,
            handler: location.content_handler(),
            written: written.to_vec(),
            path,
            position: parsing.position(),
        };
        conf.cleanup = Some(Arc::new(options));
        Ok(push(&mut main.cleanups, definition)?)
    }
}

fn options(path: PathBuf, parameters: &Parameters<'_>) -> Result<Options, Refused> {
    let on = |word: &[u8]| match word {
        b"on" => Some(true),
        b"off" => Some(false),
        _ => None,
    };
    let older = parameters.get("older", "a time of at least 1m", |word| {
        parse_time(word).filter(|older| *older >= YOUNGEST)
    })?;
    let Some(older) = older else {
        let why = "\"timer_cleanup\" must have \"older\" parameter";
        return Err(Refused::Because(why.to_owned()));
    };
    let keep = parameters.get("keep", "a number up to 100000", |word| {
        number(word).filter(|keep| *keep <= MOST_KEPT)
    })?;
    let by = parameters.get("by", "\"mtime\" or \"atime\"", |word| match word {
        b"mtime" => Some(By::Modified),
        b"atime" => Some(By::Accessed),
        _ => None,
    })?;
    let max =
        parameters.get("max", "a number above 0", |word| number(word).filter(|max| *max > 0))?;
    Ok(Options {
        path,
        older,
        pattern: parameters.get("match", "a pattern of file names", Glob::parse)?,
        by: by.unwrap_or(By::Modified),
        keep: keep.unwrap_or(0),
        empty_dirs: parameters.get("empty_dirs", ON_OFF, on)?.unwrap_or(false),
        max: max.unwrap_or(MAX),
        dry_run: parameters.get("dry_run", ON_OFF, on)?.unwrap_or(false),
    })
}

fn not_allowed(written: &[u8], why: impl std::fmt::Display) -> String {
    format!("path \"{}\" is not allowed: {why}", escaped(written))
}

/// The directory without links, which stays what it is until the next load.
fn path(written: &[u8], parsing: &Parsing<'_>) -> Result<PathBuf, Refused> {
    let refused = |why: &str| Refused::Because(not_allowed(written, why));
    let path = Path::new(OsStr::from_bytes(written));
    if !path.is_absolute() {
        let written = escaped(written);
        return Err(Refused::Because(format!("path \"{written}\" must be absolute")));
    }
    if written.contains(&b'$') {
        return Err(refused("it must not have variables"));
    }
    let path = without_links(path)?.ok_or_else(|| refused("what is before \"..\" is not there"))?;
    if path.components().count() <= 2 {
        return Err(refused("it is the root directory, or lies directly in it"));
    }
    if path.exists() && !path.is_dir() {
        return Err(refused("it is not a directory"));
    }
    let prefix = canonical(Path::new(OsStr::from_bytes(parsing.prefix())));
    if prefix.starts_with(&path) {
        return Err(refused("nginx's prefix lies in it"));
    }
    let binary = std::env::current_exe().ok();
    let binary = binary.as_deref().and_then(Path::parent).map(canonical);
    if binary.is_some_and(|binary| binary.starts_with(&path)) {
        return Err(refused("nginx's binary lies in it"));
    }
    let file = Path::new(OsStr::from_bytes(parsing.main_file()));
    // Both where a link to the file is and where that leads to.
    let directories = [file.parent().map(canonical), canonical(file).parent().map(Path::to_owned)];
    for directory in directories.into_iter().flatten() {
        if directory.starts_with(&path) {
            return Err(refused("the configuration lies in it"));
        }
        if path.starts_with(&directory) {
            return Err(refused("it lies in the configuration's directory"));
        }
    }
    Ok(path)
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Resolves what is there of a path; what is not there yet may be made later, and is no link then. `None` if
/// `..` follows on what is not there.
fn without_links(path: &Path) -> Result<Option<PathBuf>, Refused> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            Ok(there) => {
                let path = missing.iter().rev().fold(there, |path, name| path.join(name));
                return Ok(Some(path));
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {}
            Err(error) => {
                let (errno, path) = (error.raw_os_error().unwrap_or(0), path.display());
                return Err(Refused::Errno(errno, format!("realpath() \"{path}\" failed")));
            }
        }
        match ancestor.components().next_back() {
            Some(Component::Normal(name)) => missing.push(name),
            _ => return Ok(None),
        }
    }
    Ok(Some(path.to_owned()))
}

/// Looks at what can be known only once all was read.
///
/// # Errors
///
/// A location has no timer, another content handler, or a path around or in a cache.
pub(super) fn resolve(main: &mut MainConf, read: &WhollyRead<'_>) -> Result<(), Refused> {
    let definitions = std::mem::take(&mut main.cleanups);
    if definitions.is_empty() {
        return Ok(());
    }
    // A cache that nginx is still to make is not there yet; links before it are.
    let cache = |path| {
        let path = Path::new(OsStr::from_bytes(path));
        without_links(path).ok().flatten().unwrap_or_else(|| path.to_owned())
    };
    let caches: Vec<PathBuf> = read.cache_paths().map(cache).collect();
    for Definition { location, handler, written, path, position } in definitions {
        let has_timer =
            read.configuration::<TimerModule>(location).is_some_and(|conf| conf.timer.is_some());
        if !has_timer {
            let why = "\"timer_cleanup\" requires \"timer\"".to_owned();
            return Err(Refused::At(position, why));
        }
        if location.content_handler() != handler {
            let why = "location already has a content handler".to_owned();
            return Err(Refused::At(position, why));
        }
        for cache in &caches {
            let shown = escaped(cache.as_os_str().as_bytes());
            if path.starts_with(cache) {
                let why = not_allowed(&written, format_args!("it lies in the cache \"{shown}\""));
                return Err(Refused::At(position, why));
            }
            if cache.starts_with(&path) {
                let why = not_allowed(&written, format_args!("the cache \"{shown}\" lies in it"));
                return Err(Refused::At(position, why));
            }
        }
    }
    read.add_threads();
    Ok(())
}
