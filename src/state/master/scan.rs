//! The search for the records of names, in all pages of a file.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use crate::schedule::UnixMs;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::{Control, Presence};
use crate::state::record::format::{CLAIM, CONTROL, PAGE_BYTES, name_hash};
use crate::state::record::text::is_text;
use crate::state::worker::paged_file::{PagedFile, read_identity};

use super::quota::Quota;

/// What is known of a file so far. However many records it has, no more is kept of them than there are
/// names.
#[derive(Debug)]
pub(in crate::state) struct Scan {
    /// The number of each name, by its hash.
    wanted: HashMap<u64, usize>,
    /// The page of each name.
    pub(super) found: Vec<Option<u32>>,
    /// Pages that may be given to names without one.
    pub(super) reusable: Vec<u32>,
    /// Whether there are records whose name is lost: then nothing is "never seen".
    pub(super) damage: Damage,
    again: Again,
    next: u32,
    pages: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    None,
    Some,
}

impl Scan {
    pub(in crate::state) fn new(pages: &PagedFile, names: &[&str]) -> io::Result<Self> {
        let (mut wanted, mut found, mut reusable) = (HashMap::new(), Vec::new(), Vec::new());
        wanted.try_reserve(names.len())?;
        found.try_reserve_exact(names.len())?;
        reusable.try_reserve_exact(names.len())?;
        wanted.extend(names.iter().enumerate().map(|(number, name)| (name_hash(name), number)));
        found.resize(names.len(), None);
        let pages = read_identity(pages)?.map_or(0, |identity| identity.pages);
        let again = Again::new();
        Ok(Self { wanted, found, reusable, damage: Damage::None, again, next: 1, pages })
    }

    /// Looks at as many pages as `quota` says; answers whether that were the last ones.
    pub(in crate::state) fn go_on(
        &mut self,
        pages: &PagedFile,
        now: UnixMs,
        quota: &mut Quota,
    ) -> io::Result<bool> {
        while self.next < self.pages {
            if !quota.take() {
                return Ok(false);
            }
            let page = ScannedPage::read(pages, self.next, &mut self.again)?;
            if matches!(page, ScannedPage::Damaged) {
                self.damage = Damage::Some;
            }
            let number = page.name_hash().and_then(|hash| self.wanted.get(&hash));
            if let Some(found) = number.and_then(|number| self.found.get_mut(*number)) {
                // Of two records of one name, which only a fault can make, the first one counts.
                found.get_or_insert(self.next);
            } else if self.reusable.len() < self.found.len() && page.is_reusable(now) {
                self.reusable.push(self.next);
            }
            self.next += 1;
        }
        Ok(true)
    }

    /// All of it at once.
    pub(super) fn all(pages: &PagedFile, names: &[&str], now: UnixMs) -> io::Result<Self> {
        let mut scan = Self::new(pages, names)?;
        scan.go_on(pages, now, &mut Quota::All)?;
        Ok(scan)
    }

    /// Whether each name has a page.
    pub(super) fn is_complete(&self) -> bool {
        self.found.iter().all(Option::is_some)
    }

    /// The page of each name.
    pub(in crate::state) fn pages(&self) -> &[Option<u32>] {
        &self.found
    }
}

/// How long a timer that is no longer configured keeps its record.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How often pages that read as damaged are read again: they may be under somebody's hands.
#[derive(Debug)]
pub(super) struct Again(u32);

impl Again {
    /// Each page so often,
    const EACH: u32 = 64;

    /// and all pages of a file together so often.
    pub(super) fn new() -> Self {
        Self(4096)
    }
}

/// A page as a scan sees it.
pub(super) enum ScannedPage {
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
    pub(super) fn read(pages: &PagedFile, page: u32, again: &mut Again) -> io::Result<Self> {
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

    pub(super) fn read_once(pages: &PagedFile, page: u32) -> io::Result<Self> {
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
    pub(super) fn is_reusable(&self, now: UnixMs) -> bool {
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
