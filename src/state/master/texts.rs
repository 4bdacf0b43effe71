//! Pages for the texts of timers: found, or made by the master, under the header lock.

use std::collections::{HashMap, HashSet};
use std::io;
use std::rc::Rc;

use crate::os::file::sync;
use crate::state::record::format::{PAGE_BYTES, TEXT_PAGES, name_hash};
use crate::state::record::text::{TextPage, decode_page, encode_page, is_text, pages_for};
use crate::state::worker::notice::{Action, Notice};
use crate::state::worker::paged_file::{PagedFile, read_identity};
use crate::state::worker::store::Record;

use super::file::{Opener, grow};
use super::scan::{Again, ScannedPage};
use super::state::State;

impl State {
    /// The same records, each with the pages for a text of so many bytes. Where there is no room for one,
    /// the timer is as well without.
    pub fn with_texts(
        &self,
        records: Rc<Vec<Record>>,
        bytes: &[usize],
        opener: &mut Opener<'_>,
        notices: &mut Vec<Notice>,
    ) -> Rc<Vec<Record>> {
        if self.waits() || bytes.iter().all(|bytes| *bytes == 0) {
            return records;
        }
        let mut with_texts = (*records).clone();
        let wanted: Vec<WantedText> = records
            .iter()
            .zip(bytes)
            .enumerate()
            .filter(|(_, (record, _))| record.page.is_some())
            .flat_map(|(number, (record, bytes))| {
                (0..pages_for(*bytes)).map(move |index| (number, (record.name_hash, index)))
            })
            .collect();
        let made = self.with_pages(|pages| make(pages, &wanted, opener, notices));
        match made.unwrap_or(Ok(HashMap::new())) {
            Ok(made) => {
                for (number, text) in &wanted {
                    let texts = with_texts.get_mut(*number).map(|record| &mut record.texts);
                    if let Some(place) = texts.and_then(|texts| texts.get_mut(text.1)) {
                        *place = made.get(text).copied();
                    }
                }
            }
            Err(error) => notices.push(Notice::Failed { action: Action::Read, error }),
        }
        Rc::new(with_texts)
    }
}

/// The hash of a timer's name, and which page of its text.
type PageOfText = (u64, usize);
/// The number of a timer, and a page of its text.
type WantedText = (usize, PageOfText);

/// What is known of the pages of a file.
#[derive(Default)]
struct Found {
    texts: HashMap<PageOfText, u32>,
    /// Those that may be given to a text.
    reusable: Vec<u32>,
}

fn make(
    pages: &PagedFile,
    wanted: &[WantedText],
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) -> io::Result<HashMap<PageOfText, u32>> {
    let found = find(pages)?;
    if wanted.iter().all(|(_, text)| found.texts.contains_key(text)) {
        return Ok(found.texts);
    }
    let Some(_locked) = opener.lock_header(pages)? else {
        notices.push(Notice::HeaderLocked);
        return Ok(found.texts);
    };
    // Another master may have made some before it let go of the lock.
    let mut found = find(pages)?;
    let Ok(mut identity) = read_identity(pages)? else { return Ok(found.texts) };
    let missing = wanted.iter().filter(|(_, text)| !found.texts.contains_key(text)).count();
    if missing > found.reusable.len() {
        let more = u32::try_from(missing - found.reusable.len()).unwrap_or(u32::MAX);
        let first = identity.pages;
        notices.extend(grow(pages, &mut identity, more).err());
        found.reusable.extend(first..identity.pages);
    }
    let mut reusable = found.reusable.into_iter();
    for (_, text) in wanted {
        if found.texts.contains_key(text) {
            continue;
        }
        let Some(page) = reusable.next() else { break };
        let empty = encode_page(0, text.0, text.1, b"");
        match pages.write(&empty, u64::from(page) * PAGE_BYTES as u64) {
            Ok(()) => drop(found.texts.insert(*text, page)),
            Err(error) => notices.push(Notice::Failed { action: Action::Write, error }),
        }
    }
    let synced = sync(pages.file());
    notices.extend(synced.err().map(|error| Notice::Failed { action: Action::Sync, error }));
    Ok(found.texts)
}

/// Looks at all pages. That of a text stays one of a text, since a process that is about to write it may
/// know nothing of its new owner; a free one may become one.
fn find(pages: &PagedFile) -> io::Result<Found> {
    let (mut found, mut owners, mut orphans) = (Found::default(), HashSet::new(), Vec::new());
    let count = read_identity(pages)?.map_or(0, |identity| identity.pages);
    let mut again = Again::new();
    for number in 1..count {
        match ScannedPage::read(pages, number, &mut again)? {
            ScannedPage::Free => found.reusable.push(number),
            ScannedPage::Text => match read_text(pages, number)? {
                Some(page) if page.index < TEXT_PAGES => {
                    let text = (page.owner, page.index);
                    // Of two of one owner, which only a fault can make, the first one counts.
                    let first = *found.texts.entry(text).or_insert(number);
                    orphans.push((number, (first == number).then_some(page.owner)));
                }
                _ => orphans.push((number, None)),
            },
            ScannedPage::Record { claim, control } => {
                let its = control.map(|control| name_hash(&control.0));
                owners.extend(its.or_else(|| claim.map(|claim| claim.name_hash)));
            }
            ScannedPage::Damaged => {}
        }
    }
    found.texts.retain(|(owner, _), _| owners.contains(owner));
    let is_orphan = |owner: Option<u64>| owner.is_none_or(|owner| !owners.contains(&owner));
    let orphans = orphans.into_iter().filter(|(_, owner)| is_orphan(*owner));
    // Free ones come last: they may become records, too.
    found.reusable.splice(0..0, orphans.map(|(number, _)| number));
    Ok(found)
}

/// Reads a page of a text; `None` if it stays torn: somebody may be writing it.
fn read_text(pages: &PagedFile, number: u32) -> io::Result<Option<TextPage>> {
    const TRIES: u32 = 64;
    for _ in 0..TRIES {
        let bytes = pages.read_record(number)?;
        if let Some(page) = decode_page(&bytes) {
            return Ok(Some(page));
        }
        if !is_text(&bytes) {
            break;
        }
    }
    Ok(None)
}
