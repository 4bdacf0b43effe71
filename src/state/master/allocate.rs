//! A page for each name. By the master, under the header lock.

use std::collections::HashSet;
use std::io;
use std::mem;
use std::ops::Range;
use std::vec;

use crate::os::file::{metadata, sync};
use crate::schedule::UnixMs;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::Control;
use crate::state::record::format::{
    CLAIM, CONTROL, MOST_PAGES, PAGE_BYTES, Part, RING_AT, RING_BYTES, name_hash,
};
use crate::state::record::header::Identity;
use crate::state::worker::locked::Locked;
use crate::state::worker::notice::{Action, Notice};
use crate::state::worker::paged_file::{PagedFile, read_identity};

use super::file::{Opener, grow};
use super::quota::Quota;
use super::scan::{Again, Damage, Scan, ScannedPage};

/// The page of each name: found, or given to it; none for one that finds no room.
pub(in crate::state) fn allocate(
    pages: &PagedFile,
    names: &[&str],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) -> Vec<Option<u32>> {
    match Scan::all(pages, names, opener.now) {
        Ok(scan) if scan.is_complete() => scan.found,
        Ok(scan) => add(pages, names, opener, notices).unwrap_or(scan.found),
        Err(error) => {
            notices.push(Notice::Failed { action: Action::Read, error });
            vec![None; names.len()]
        }
    }
}

/// Gives a page to each name that has none; `None`: nothing could be done.
fn add(
    pages: &PagedFile,
    names: &[&str],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) -> Option<Vec<Option<u32>>> {
    let failed = |error| Notice::Failed { action: Action::Lock, error };
    let _locked = match opener.lock_header(pages) {
        Ok(Some(locked)) => locked,
        Ok(None) => {
            notices.push(Notice::HeaderLocked);
            return None;
        }
        Err(error) => {
            notices.push(failed(error));
            return None;
        }
    };
    // Another master may have added names before it let go of the lock.
    let mut addition = Scan::all(pages, names, opener.now).ok()?.add();
    addition.go_on(pages, names, opener.now, &mut Quota::All, notices);
    if addition.has_grown {
        let synced = sync(pages.file());
        notices.extend(synced.err().map(|error| Notice::Failed { action: Action::Sync, error }));
    }
    Some(addition.found)
}

/// Pages for names that have none; who goes on with it holds the header lock.
#[derive(Debug)]
pub(in crate::state) struct Addition {
    /// The page of each name.
    pub(super) found: Vec<Option<u32>>,
    free: vec::IntoIter<u32>,
    grown: Range<u32>,
    /// Whether the file is longer now, which is on the disk once it was synced.
    has_grown: bool,
    /// By how many pages the file may grow still, once others have run out: by no more than there are
    /// names, whatever others keep locked.
    growth: Option<usize>,
    damage: Damage,
    next: usize,
}

impl Scan {
    /// What comes next, if there are names without a page.
    pub(in crate::state) fn add(&mut self) -> Addition {
        Addition::new(self)
    }
}

impl Addition {
    fn new(scan: &mut Scan) -> Self {
        Self {
            found: mem::take(&mut scan.found),
            free: mem::take(&mut scan.reusable).into_iter(),
            grown: 0..0,
            has_grown: false,
            growth: None,
            damage: scan.damage,
            next: 0,
        }
    }

    /// The page of each name.
    pub(in crate::state) fn pages(&self) -> &[Option<u32>] {
        &self.found
    }

    /// Gives away as many pages as `quota` says; answers whether all names have one that can have.
    pub(in crate::state) fn go_on(
        &mut self,
        pages: &PagedFile,
        names: &[&str],
        now: UnixMs,
        quota: &mut Quota,
        notices: &mut Vec<Notice>,
    ) -> bool {
        let Ok(Ok(mut identity)) = read_identity(pages) else { return true };
        while let (Some(name), Some(found)) = (names.get(self.next), self.found.get(self.next)) {
            if found.is_some() {
                self.next += 1;
                continue;
            }
            if !quota.take() {
                return false;
            }
            let Some(page) = self.free.next().or_else(|| self.grown.next()) else {
                if !self.grow(pages, &mut identity, quota.left(), notices) {
                    return true;
                }
                continue;
            };
            if give(pages, page, name, self.damage, now).is_none() {
                continue;
            }
            if self.damage == Damage::Some {
                notices.push(Notice::Damaged { name: (*name).into() });
            }
            if let Some(found) = self.found.get_mut(self.next) {
                *found = Some(page);
            }
        }
        true
    }

    /// Makes the file longer; `false` if it is to grow no more.
    fn grow(
        &mut self,
        pages: &PagedFile,
        identity: &mut Identity,
        at_most: usize,
        notices: &mut Vec<Notice>,
    ) -> bool {
        let missing = || self.found.iter().skip(self.next).filter(|page| page.is_none()).count();
        let growth = self.growth.unwrap_or_else(missing);
        if growth == 0 {
            return false;
        }
        let (first, more) = (identity.pages, growth.min(at_most).max(1));
        let grown = grow(pages, identity, u32::try_from(more).unwrap_or(u32::MAX));
        self.grown = first..identity.pages;
        self.growth =
            Some(if grown.is_err() { 0 } else { growth.saturating_sub(self.grown.len()) });
        self.has_grown = true;
        notices.extend(grown.err());
        true
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
    let given = allocate(to, &names, opener, notices);
    let mut fail = |action, error| notices.push(Notice::Failed { action, error });
    for ((name, at), page) in found.iter().zip(given) {
        let Some(page) = page else { continue };
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
    if let Some(_lock) = try_lock(to, CLAIM, page) {
        if to.read_part::<{ CLAIM.bytes }>(CLAIM, page).is_ok_and(|bytes| {
            ClaimPart::decode(&bytes).is_none_or(|there| there.serial < claim.serial)
        }) {
            let ring = from.read_ring::<RING_BYTES>(at)?;
            to.write(&ring, CLAIM.offset(page) + RING_AT as u64)?;
            to.write_part(CLAIM, page, &claim.encode())?;
        }
    }
    if let Some(_lock) = try_lock(to, CONTROL, page) {
        if to.read_part::<{ CONTROL.bytes }>(CONTROL, page).is_ok_and(|bytes| {
            Control::decode(&bytes, name).is_ok_and(|there| there.serial < control.serial)
                || Control::name_in(&bytes).is_none()
        }) {
            to.write_part(CONTROL, page, &control.encode(name))?;
        }
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
