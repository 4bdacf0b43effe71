//! A page for each name. By the master, under the header lock.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use crate::os::file::metadata;
use crate::os::lock::Tried;
use crate::schedule::UnixMs;

use super::control::{Control, Presence};
use super::file::{Opener, grow, read_identity};
use super::format::{CONTROL, PAGE_BYTES, Part, RUN};
use super::notice::{Action, Notice};
use super::pages::Pages;
use super::run_part::RunPart;
use super::store::Place;

/// How long a timer that is no longer configured keeps its record.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A page under somebody's hands reads as damaged; so often it is read again.
const TRIES: u32 = 64;

/// A page as a scan sees it.
pub(super) enum Page {
    Free,
    Record {
        run: Option<Box<RunPart>>,
        control: Option<Box<Control>>,
    },
    /// Neither part is whole.
    Damaged,
}

impl Page {
    pub(super) fn read(pages: &Pages, page: u32) -> io::Result<Self> {
        let mut seen = Self::Damaged;
        for _ in 0..TRIES {
            let bytes = pages.read_page(page)?;
            if bytes == [0; PAGE_BYTES] {
                return Ok(Self::Free);
            }
            let run = RunPart::decode(RUN.of(&bytes)).map(Box::new);
            let control = Control::decode(CONTROL.of(&bytes)).map(Box::new);
            match (run, control) {
                (None, None) => {}
                (run @ Some(_), control @ Some(_)) => return Ok(Self::Record { run, control }),
                (run, control) => seen = Self::Record { run, control },
            }
        }
        Ok(seen)
    }

    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Record { run: Some(run), .. } => Some(&run.name),
            Self::Record { control: Some(control), .. } => Some(&control.name),
            _ => None,
        }
    }

    /// Whether the page may be given to another name.
    fn is_reusable(&self, now: UnixMs) -> bool {
        match self {
            Self::Free | Self::Damaged => true,
            Self::Record { control: Some(control), .. } => {
                matches!(control.presence, Presence::Absent | Presence::Unloaded)
                    && control.last_seen_at.is_some_and(|seen| seen.plus(KEPT) < now)
            }
            Self::Record { .. } => false,
        }
    }
}

/// Finds the record of each name, or allocates one; a name that finds no room has a place without
/// a page.
pub(super) fn allocate(
    pages: &Pages,
    names: &[&str],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) -> Vec<Place> {
    let mut found = match scan(pages) {
        Ok(found) => found,
        Err(error) => {
            notices.push(Notice::Failed { action: Action::Read, error });
            return names.iter().map(|name| Place::nowhere(name)).collect();
        }
    };
    if names.iter().any(|name| !found.pages.contains_key(*name)) {
        add(pages, names, &mut found, opener, notices);
    }
    let place = |name: &&str| Place { page: found.pages.get(*name).copied(), name: (*name).into() };
    names.iter().map(place).collect()
}

/// What a file has.
struct Found {
    /// The page of each name.
    pages: HashMap<Box<str>, u32>,
    /// Whether there are records whose name is lost: then nothing is "never seen".
    damage: Damage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    None,
    Some,
}

fn scan(pages: &Pages) -> io::Result<Found> {
    let mut found = Found { pages: HashMap::new(), damage: Damage::None };
    let Ok(identity) = read_identity(pages)? else { return Ok(found) };
    for number in 1..identity.pages {
        let page = Page::read(pages, number)?;
        if matches!(page, Page::Damaged) {
            found.damage = Damage::Some;
        }
        if let Some(name) = page.name() {
            // Of two records of one name, which only a fault can make, the first one counts.
            found.pages.entry(name.into()).or_insert(number);
        }
    }
    Ok(found)
}

fn add(
    pages: &Pages,
    names: &[&str],
    found: &mut Found,
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) {
    let failed = |error| Notice::Failed { action: Action::Lock, error };
    let _locked = match opener.lock_header(pages) {
        Ok(Some(locked)) => locked,
        Ok(None) => return notices.push(Notice::HeaderLocked),
        Err(error) => return notices.push(failed(error)),
    };
    // Another master may have added names before it let go of the lock.
    let (Ok(Ok(mut identity)), Ok(now_found)) = (read_identity(pages), scan(pages)) else {
        return;
    };
    *found = now_found;
    let missing: Vec<&str> =
        names.iter().copied().filter(|name| !found.pages.contains_key(*name)).collect();
    let mut missing = missing.into_iter();
    let mut page = 1;
    let mut room = Ok(());
    let mut next = missing.next();
    while let Some(name) = next {
        if page >= identity.pages {
            if room.is_err() {
                break;
            }
            let more = u32::try_from(missing.len() + 1).unwrap_or(1);
            room = grow(pages, &mut identity, more);
            continue;
        }
        if give(pages, page, name, found.damage, opener.now).is_some() {
            if found.damage == Damage::Some {
                notices.push(Notice::Damaged { name: name.into() });
            }
            found.pages.insert(name.into(), page);
            next = missing.next();
        }
        page += 1;
    }
    notices.extend(room.err());
}

/// Gives a page to `name`, if it is free and nobody is at it.
fn give(pages: &Pages, page: u32, name: &str, damage: Damage, now: UnixMs) -> Option<()> {
    if !Page::read(pages, page).ok()?.is_reusable(now) {
        return None;
    }
    let _run = PartLocked::try_new(pages, RUN, page)?;
    let _edit = PartLocked::try_new(pages, CONTROL, page)?;
    Page::read(pages, page).ok().filter(|seen| seen.is_reusable(now))?;
    let mut control = match damage {
        Damage::None => Control::new(name),
        Damage::Some => Control::anew(name, now),
    };
    control.last_seen_at = Some(now);
    let mut bytes = [0; PAGE_BYTES];
    let mut put = |at: usize, part: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + part.len()) {
            place.copy_from_slice(part);
        }
    };
    put(RUN.at, &RunPart::new(name, now).encode());
    put(CONTROL.at, &control.encode());
    pages.write(&bytes, RUN.offset(page)).ok()
}

/// A lock on a part of a page, for as long as the value lives.
pub(super) struct PartLocked<'a> {
    pages: &'a Pages,
    part: Part,
    page: u32,
}

impl<'a> PartLocked<'a> {
    pub(super) fn try_new(pages: &'a Pages, part: Part, page: u32) -> Option<Self> {
        match pages.try_lock(part, page) {
            Ok(Tried::Taken) => Some(Self { pages, part, page }),
            _ => None,
        }
    }
}

impl Drop for PartLocked<'_> {
    fn drop(&mut self) {
        // A lock that cannot be released goes with its descriptor.
        drop(self.pages.unlock(self.part, self.page));
    }
}

/// Writes the records of one file into another, where they are newer than what that one has.
pub(super) fn transplant(
    from: &Pages,
    to: &Pages,
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) {
    let Ok(count) = pages_of(from) else { return };
    let records: Vec<(Box<RunPart>, Box<Control>)> = (1..count)
        .filter_map(|page| match Page::read(from, page) {
            Ok(Page::Record { run: Some(run), control: Some(control) }) => Some((run, control)),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = records.iter().map(|(run, _)| &*run.name).collect();
    let places = allocate(to, &names, opener, notices);
    for ((run, control), place) in records.iter().zip(places) {
        let Some(page) = place.page else { continue };
        // A record whose lock is held has a newer life than ours.
        if let Some(_lock) = PartLocked::try_new(to, RUN, page)
            && to.read_part::<{ RUN.bytes }>(RUN, page).is_ok_and(|bytes| {
                RunPart::decode(&bytes).is_none_or(|there| there.serial < run.serial)
            })
            && let Err(error) = to.write_part(RUN, page, &run.encode())
        {
            notices.push(Notice::Failed { action: Action::Write, error });
        }
        if let Some(_lock) = PartLocked::try_new(to, CONTROL, page)
            && to.read_part::<{ CONTROL.bytes }>(CONTROL, page).is_ok_and(|bytes| {
                Control::decode(&bytes).is_none_or(|there| there.serial < control.serial)
            })
            && let Err(error) = to.write_part(CONTROL, page, &control.encode())
        {
            notices.push(Notice::Failed { action: Action::Write, error });
        }
    }
}

/// How many pages a file that is held open has: as its header says, or, if that was overwritten,
/// as its length does.
fn pages_of(pages: &Pages) -> io::Result<u32> {
    if let Ok(identity) = read_identity(pages)? {
        return Ok(identity.pages);
    }
    let bytes = metadata(pages.file())?.len();
    Ok(u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(0))
}
