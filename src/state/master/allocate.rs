//! A page for each name. By the master, under the header lock.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use crate::os::file::metadata;
use crate::schedule::UnixMs;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::{Control, Presence};
use crate::state::record::format::{
    CLAIM, CONTROL, MOST_PAGES, PAGE_BYTES, Part, RING_AT, RING_BYTES, name_hash,
};
use crate::state::worker::locked::Locked;
use crate::state::worker::notice::{Action, Notice};
use crate::state::worker::paged_file::{PagedFile, read_identity};
use crate::state::worker::store::Record;

use super::convert::is_text;
use super::file::{Opener, grow};

/// How long a timer that is no longer configured keeps its record.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How often pages that read as damaged are read again: they may be under somebody's hands.
struct Again(u32);

impl Again {
    /// Each page so often,
    const EACH: u32 = 64;

    /// and all pages of a file together so often.
    fn new() -> Self {
        Self(4096)
    }
}

/// A page as a scan sees it.
enum ScannedPage {
    Free,
    Record {
        claim: Option<Box<ClaimPart>>,
        control: Option<Box<(Box<str>, Control)>>,
    },
    /// Of a text: whatever is wrong with it, it is no record.
    Text,
    /// Neither part is whole.
    Damaged,
}

impl ScannedPage {
    fn read(pages: &PagedFile, page: u32, again: &mut Again) -> io::Result<Self> {
        let mut seen = Self::read_once(pages, page)?;
        for _ in 0..Again::EACH.min(again.0) {
            if !matches!(
                seen,
                Self::Damaged
                    | Self::Record { claim: None, .. }
                    | Self::Record { control: None, .. }
            ) {
                break;
            }
            again.0 -= 1;
            match Self::read_once(pages, page)? {
                // One part of a record is better than none.
                Self::Damaged => {}
                better => seen = better,
            }
        }
        Ok(seen)
    }

    fn read_once(pages: &PagedFile, page: u32) -> io::Result<Self> {
        let bytes = pages.read_record(page)?;
        if bytes == [0; PAGE_BYTES] {
            return Ok(Self::Free);
        }
        let claim = ClaimPart::decode(CLAIM.of(&bytes)).map(Box::new);
        let control = CONTROL.of(&bytes);
        let control = Control::name_in(control)
            .map(|name| Box::new((name.into(), Control::decode_whole(control))));
        Ok(match (claim, control) {
            (None, None) if is_text(&bytes) => Self::Text,
            (None, None) => Self::Damaged,
            (claim, control) => Self::Record { claim, control },
        })
    }

    /// Whose record it is, by the hash of the name.
    fn name_hash(&self) -> Option<u64> {
        match self {
            Self::Record { control: Some(control), .. } => Some(name_hash(&control.0)),
            Self::Record { claim: Some(claim), .. } => Some(claim.name_hash),
            _ => None,
        }
    }

    /// Whether the page may be given to another name.
    fn is_reusable(&self, now: UnixMs) -> bool {
        match self {
            Self::Free | Self::Damaged => true,
            Self::Record { control: Some(control), .. } => {
                let (_, control) = &**control;
                matches!(control.presence, Presence::Absent | Presence::Unloaded)
                    && control.last_seen_at.is_some_and(|seen| seen.plus(KEPT) < now)
            }
            Self::Record { .. } | Self::Text => false,
        }
    }
}

/// Finds the record of each name, or allocates one; a name that finds no room has a place without
/// a page.
pub(in crate::state) fn allocate(
    pages: &PagedFile,
    names: &[&str],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) -> Vec<Record> {
    let mut found = match scan(pages, names, opener.now) {
        Ok(found) => found,
        Err(error) => {
            notices.push(Notice::Failed { action: Action::Read, error });
            return names.iter().map(|name| Record::nowhere(name)).collect();
        }
    };
    if found.pages.len() < names.len() {
        add(pages, names, &mut found, opener, notices);
    }
    let record =
        |name: &&str| Record { page: found.pages.get(*name).copied(), ..Record::nowhere(name) };
    names.iter().map(record).collect()
}

/// What a file has. However many records that are, no more is kept of them than there are names.
struct Found<'a> {
    /// The page of each name.
    pages: HashMap<&'a str, u32>,
    /// Pages that may be given to names without one.
    reusable: Vec<u32>,
    /// Whether there are records whose name is lost: then nothing is "never seen".
    damage: Damage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    None,
    Some,
}

fn scan<'a>(pages: &PagedFile, names: &[&'a str], now: UnixMs) -> io::Result<Found<'a>> {
    let mut wanted = HashMap::new();
    let mut found = Found { pages: HashMap::new(), reusable: Vec::new(), damage: Damage::None };
    wanted.try_reserve(names.len())?;
    found.pages.try_reserve(names.len())?;
    found.reusable.try_reserve_exact(names.len())?;
    wanted.extend(names.iter().map(|name| (name_hash(name), *name)));

    let Ok(identity) = read_identity(pages)? else { return Ok(found) };
    let mut again = Again::new();
    for number in 1..identity.pages {
        let page = ScannedPage::read(pages, number, &mut again)?;
        if matches!(page, ScannedPage::Damaged) {
            found.damage = Damage::Some;
        }
        if let Some(name) = page.name_hash().and_then(|hash| wanted.get(&hash)) {
            // Of two records of one name, which only a fault can make, the first one counts.
            found.pages.entry(name).or_insert(number);
        } else if found.reusable.len() < names.len() && page.is_reusable(now) {
            found.reusable.push(number);
        }
    }
    Ok(found)
}

fn add<'a>(
    pages: &PagedFile,
    names: &[&'a str],
    found: &mut Found<'a>,
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
    let (Ok(Ok(mut identity)), Ok(now_found)) =
        (read_identity(pages), scan(pages, names, opener.now))
    else {
        return;
    };
    *found = now_found;
    let mut missing = names.len() - found.pages.len();
    let mut free = mem::take(&mut found.reusable).into_iter();
    let mut grown = None;
    for name in names {
        if found.pages.contains_key(name) {
            continue;
        }
        let given = loop {
            let more = || grown.as_mut().and_then(Range::next);
            let Some(page) = free.next().or_else(more) else {
                if grown.is_some() {
                    break None;
                }
                let first = identity.pages;
                let more = u32::try_from(missing).unwrap_or(u32::MAX);
                notices.extend(grow(pages, &mut identity, more).err());
                grown = Some(first..identity.pages);
                continue;
            };
            if give(pages, page, name, found.damage, opener.now).is_some() {
                break Some(page);
            }
        };
        let Some(page) = given else { break };
        if found.damage == Damage::Some {
            notices.push(Notice::Damaged { name: (*name).into() });
        }
        found.pages.insert(name, page);
        missing -= 1;
    }
}

/// Gives a page to `name`, if it is free and nobody is at it.
fn give(pages: &PagedFile, page: u32, name: &str, damage: Damage, now: UnixMs) -> Option<()> {
    let _run = try_lock(pages, CLAIM, page)?;
    let _edit = try_lock(pages, CONTROL, page)?;
    ScannedPage::read_once(pages, page).ok().filter(|seen| seen.is_reusable(now))?;
    let mut control = match damage {
        Damage::None => Control::new(),
        Damage::Some => Control::anew(now),
    };
    control.last_seen_at = Some(now);
    let mut bytes = [0; PAGE_BYTES];
    let mut put = |at: usize, part: &[u8]| {
        if let Some(record) = bytes.get_mut(at..at + part.len()) {
            record.copy_from_slice(part);
        }
    };
    put(CLAIM.at, &ClaimPart::new(name_hash(name), now).encode());
    put(CONTROL.at, &control.encode(name));
    pages.write(&bytes, CLAIM.offset(page)).ok()
}

/// Locks a part of a page; `None` if others hold it, or it cannot be locked.
pub(in crate::state) fn try_lock(
    pages: &PagedFile,
    part: Part,
    page: u32,
) -> Option<Locked<&PagedFile>> {
    pages.lock_at(part.offset(page)).ok().flatten()
}

/// How many records of timers that are not configured are taken over into another file.
const OTHERS: usize = 16 * 1024;

/// Writes the records of one file into another, where they are newer than what that one has: those
/// of `names`, and others as far as there is room for them.
pub(in crate::state) fn transplant(
    from: &PagedFile,
    to: &PagedFile,
    names: &[&str],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) {
    let mut fail = |action, error| notices.push(Notice::Failed { action, error });
    let found = match records_of(from, names) {
        Ok(found) => found,
        Err(error) => return fail(Action::Read, error),
    };
    let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
    let records = allocate(to, &names, opener, notices);
    let mut fail = |action, error| notices.push(Notice::Failed { action, error });
    for ((name, at), record) in found.iter().zip(records) {
        let Some(page) = record.page else { continue };
        let Ok(ScannedPage::Record { claim: Some(claim), control: Some(control) }) =
            ScannedPage::read(from, *at, &mut Again::new())
        else {
            continue;
        };
        let (its, control) = *control;
        if its != *name || claim.name_hash != name_hash(name) {
            continue;
        }
        if let Err(error) = copy(from, *at, to, page, &claim, name, &control) {
            fail(Action::Write, error);
        }
    }
}

/// Writes a record into another file, where it is newer.
fn copy(
    from: &PagedFile,
    at: u32,
    to: &PagedFile,
    page: u32,
    claim: &ClaimPart,
    name: &str,
    control: &Control,
) -> io::Result<()> {
    // A record whose lock is held has a newer life than ours.
    if let Some(_lock) = try_lock(to, CLAIM, page)
        && to.read_part::<{ CLAIM.bytes }>(CLAIM, page).is_ok_and(|bytes| {
            ClaimPart::decode(&bytes).is_none_or(|there| there.serial < claim.serial)
        })
    {
        let ring = from.read_ring::<RING_BYTES>(at)?;
        to.write(&ring, CLAIM.offset(page) + RING_AT as u64)?;
        to.write_part(CLAIM, page, &claim.encode())?;
    }
    if let Some(_lock) = try_lock(to, CONTROL, page)
        && to.read_part::<{ CONTROL.bytes }>(CONTROL, page).is_ok_and(|bytes| {
            Control::decode(&bytes, name).is_ok_and(|there| there.serial < control.serial)
                || Control::name_in(&bytes).is_none()
        })
    {
        to.write_part(CONTROL, page, &control.encode(name))?;
    }
    Ok(())
}

/// The whole records of a file that is held open, with the page of each.
fn records_of(pages: &PagedFile, names: &[&str]) -> io::Result<Vec<(Box<str>, u32)>> {
    let mut wanted = HashSet::new();
    wanted.try_reserve(names.len())?;
    wanted.extend(names.iter().copied());
    let mut found: Vec<(Box<str>, u32)> = Vec::new();
    let mut others = 0;
    let mut again = Again::new();
    for number in 1..pages_of(pages)? {
        let page = ScannedPage::read(pages, number, &mut again)?;
        let ScannedPage::Record { claim: Some(_), control: Some(control) } = page else { continue };
        if !wanted.remove(&*control.0) {
            others += 1;
            if others > OTHERS {
                continue;
            }
        }
        found.try_reserve(1)?;
        found.push((control.0, number));
    }
    Ok(found)
}

/// How many pages a file that is held open has: as its header says, or, if that was overwritten,
/// as its length does.
fn pages_of(pages: &PagedFile) -> io::Result<u32> {
    if let Ok(identity) = read_identity(pages)? {
        return Ok(identity.pages);
    }
    let bytes = metadata(pages.file())?.len();
    Ok(u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(MOST_PAGES).min(MOST_PAGES))
}
