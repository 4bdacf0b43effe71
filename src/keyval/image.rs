//! An image: all pairs of a content, in words, with offsets instead of pointers.
//!
//! | words | what |
//! |---|---|
//! | 0 | mark and kind |
//! | 1 | how many words the image has |
//! | 2 | how many pairs |
//! | 3, 4 | where the index begins, and how many entries it has |
//! | 5 | the seed of the hash |
//! | 6, 7 | when the content was taken: Unix time, and time that nobody sets back, in milliseconds |
//! | 8 | a hash of what it was made from |
//! | 9 | where the record of the etag is; 0 for none |
//! | 10 to 15 | 0 |
//! | records | length of the key << 32, length of the value; the bytes of each, with zeros up to the next word |
//! | index | by kind, see below |
//!
//! - `string`: a hash table. A slot is 0, or 32 bits of the hash << 32, the place of the record.
//! - `prefix`: the keys in order. An entry is the number of the longest shorter key that it begins with,
//!   plus 1, << 32, the place of the record.
//! - `ip`: the networks in order, of four words: the bits of the address, family << 8 and length, and as
//!   above with the smallest network that contains it.
//!
//! What is looked up in order is the last key that is not behind it: that is one which begins like it, or
//! a link leads from it to the longest such one.

use std::cmp::Ordering;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Kind;
use super::address::Network;
use super::words::{Text, Words, halves, words_for};

/// What an image begins with.
pub(super) const HEADER: usize = 16;
const MARK: u64 = u64::from_le_bytes(*b"keyval\x03\0");

/// What is known of a content beside its pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// When it was taken, in milliseconds of Unix time.
    pub taken_wall: u64,
    /// The same in milliseconds that nobody sets back.
    pub taken: u64,
    /// A hash of what it was made from.
    pub source: u64,
    /// What its sender calls this version; empty for none.
    pub etag: Vec<u8>,
}

/// An image in words.
#[derive(Clone, Copy, Debug)]
pub struct Image<W> {
    words: W,
    layout: Layout,
}

/// What an image's header says of its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) kind: Kind,
    len: usize,
    count: u64,
    index: usize,
    entries: usize,
    seed: u64,
}

impl Layout {
    /// That of no image.
    pub(super) const NONE: Self =
        Self { kind: Kind::String, len: 0, count: 0, index: 0, entries: 0, seed: 0 };
}

/// A pair in an image.
#[derive(Clone, Copy, Debug)]
struct Record<W> {
    key: Text<W>,
    value: Text<W>,
}

/// The words of a header.
pub(super) struct Header<'a> {
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) count: u64,
    pub(super) index: usize,
    pub(super) entries: usize,
    pub(super) seed: u64,
    pub(super) etag: usize,
    pub(super) meta: &'a Meta,
}

impl Header<'_> {
    pub(super) fn words(&self) -> [u64; HEADER] {
        let meta = self.meta;
        let words = [
            MARK | kind_number(self.kind) << 56,
            self.len as u64,
            self.count,
            self.index as u64,
            self.entries as u64,
            self.seed,
            meta.taken_wall,
            meta.taken,
            meta.source,
            self.etag as u64,
        ];
        std::array::from_fn(|at| words.get(at).copied().unwrap_or(0))
    }
}

fn kind_number(kind: Kind) -> u64 {
    match kind {
        Kind::String => 1,
        Kind::Ip => 2,
        Kind::Prefix => 3,
    }
}

/// How many words an entry of the index has.
pub(super) fn entry_words(kind: Kind) -> usize {
    if kind == Kind::Ip { 4 } else { 1 }
}

/// Where a key is looked for first among `slots`, and what its slot has in the upper half.
#[expect(clippy::inline_always, reason = "a look-up does it")]
#[inline(always)]
pub(super) fn place(key: &[u8], seed: u64, slots: usize) -> (usize, u64) {
    let hash = xxh3_64_with_seed(key, seed);
    let at = (u128::from(hash) * slots as u128) >> 64;
    (usize::try_from(at).unwrap_or(0), hash << 32)
}

/// The value of `key` in the image that is in these words, of the kind `string`. All that a look-up mostly does is here,
/// and in what calls it.
#[expect(clippy::inline_always, reason = "a fifth of the instructions")]
#[inline(always)]
pub(super) fn find_equal<W: Words>(words: W, layout: Layout, key: &[u8]) -> Option<Text<W>> {
    let Layout { index, entries, seed, .. } = layout;
    let (at, tag) = place(key, seed, entries);
    match find_among(words.row(index + at, entries - at)?, words, key, tag) {
        Found::Here(found) => found,
        Found::Behind => find_in_front(words.row(index, at)?, words, key, tag),
    }
}

/// What slots say of a key.
enum Found<W> {
    /// Its value, if it has one.
    Here(Option<Text<W>>),
    /// Nothing: it would be behind them.
    Behind,
}

#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn find_among<W: Words>(slots: W, words: W, key: &[u8], tag: u64) -> Found<W> {
    for slot in slots.each() {
        if slot == 0 {
            return Found::Here(None);
        }
        if (slot ^ tag) >> 32 == 0 {
            let Some(record) = record(words, halves(slot).1) else { return Found::Here(None) };
            if record.key.is(key) {
                return Found::Here(Some(record.value));
            }
        }
    }
    Found::Behind
}

/// The same where the last slot was in use: the first follows it.
#[cold]
fn find_in_front<W: Words>(slots: W, words: W, key: &[u8], tag: u64) -> Option<Text<W>> {
    match find_among(slots, words, key, tag) {
        Found::Here(found) => found,
        Found::Behind => None,
    }
}

/// The record at this place, if all of it is there.
#[inline]
fn record<W: Words>(words: W, at: usize) -> Option<Record<W>> {
    let (key, value) = halves(words.word(at)?);
    let in_key = words_for(key);
    let (keys, values) = words.row(at + 1, in_key + words_for(value))?.split(in_key)?;
    let (key, value) = (Text { words: keys, len: key }, Text { words: values, len: value });
    Some(Record { key, value })
}

impl<W: Words> Image<W> {
    /// What is in these words; `None` if that is no image.
    pub fn of(words: W) -> Option<Self> {
        // All of it is there, or nothing.
        words.word(HEADER - 1)?;
        let number = |at| usize::try_from(words.word(at)?).ok();
        let kind = match (words.word(0)? ^ MARK).rotate_left(8) {
            1 => Kind::String,
            2 => Kind::Ip,
            3 => Kind::Prefix,
            _ => return None,
        };
        let (len, index, entries) = (number(1)?, number(3)?, number(4)?);
        let end = entries.checked_mul(entry_words(kind))?.checked_add(index)?;
        let is_whole = index >= HEADER && end <= len && words.word(len.checked_sub(1)?).is_some();
        let (count, seed) = (words.word(2)?, words.word(5)?);
        let layout = Layout { kind, len, count, index, entries, seed };
        is_whole.then_some(Self { words, layout })
    }

    /// The image in these words that is known to have this layout: with another, all that is found is nonsense.
    pub(super) fn known(words: W, layout: Layout) -> Self {
        Self { words, layout }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// How many pairs it has.
    pub fn count(&self) -> u64 {
        self.layout.count
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> u64 {
        (self.layout.len as u64).saturating_mul(8)
    }

    /// What is known of it.
    pub fn meta(&self) -> Meta {
        let word = |at| self.words.word(at).unwrap_or(0);
        let mut etag = Vec::new();
        let record = usize::try_from(word(9)).ok().filter(|at| *at > 0);
        if let Some(record) = record.and_then(|at| self.record(at)) {
            let _ = record.value.append(&mut etag);
        }
        Meta { taken_wall: word(6), taken: word(7), source: word(8), etag }
    }

    /// When it was taken, in milliseconds that nobody sets back.
    pub(super) fn taken(&self) -> u64 {
        self.words.word(7).unwrap_or(0)
    }

    /// The value of `key`.
    pub(super) fn look_up(&self, key: &[u8]) -> Option<Text<W>> {
        let record = match self.layout.kind {
            Kind::String => return find_equal(self.words, self.layout, key),
            Kind::Prefix => self.find_prefix(key),
            Kind::Ip => self.find_network(key),
        }?;
        Some(record.value)
    }

    fn find_prefix(&self, key: &[u8]) -> Option<Record<W>> {
        let mut at = self.last_not_behind(|at| {
            let record = self.record(halves(self.words.word(self.layout.index + at)?).1)?;
            let common = record.key.common(key);
            Some(record.key.byte(common).cmp(&key.get(common).copied()))
        })?;
        let first = self.record(halves(self.words.word(self.layout.index + at)?).1)?;
        // All that a key begins with has as much in common with what is looked up as it has itself.
        let common = first.key.common(key);
        loop {
            let (link, place) = halves(self.words.word(self.layout.index + at)?);
            let record = self.record(place)?;
            if record.key.len <= common {
                return Some(record);
            }
            at = link.checked_sub(1).filter(|link| *link < at)?;
        }
    }

    fn find_network(&self, key: &[u8]) -> Option<Record<W>> {
        let wanted = Network::parse(key)?;
        let mut at = self.last_not_behind(|at| Some(self.network(at)?.cmp(&wanted)))?;
        loop {
            let (link, place) = halves(self.words.word(self.layout.index + at * 4 + 3)?);
            if self.network(at)?.contains(wanted) {
                return self.record(place);
            }
            at = link.checked_sub(1).filter(|link| *link < at)?;
        }
    }

    fn network(&self, at: usize) -> Option<Network> {
        let word = |more| self.words.word(self.layout.index + at * 4 + more);
        let [family, len] = u16::try_from(word(2)?).ok()?.to_be_bytes();
        Some(Network { bits: u128::from(word(0)?) << 64 | u128::from(word(1)?), family, len })
    }

    /// The last entry that `compare` does not find greater than what is looked up.
    fn last_not_behind(&self, compare: impl Fn(usize) -> Option<Ordering>) -> Option<usize> {
        let (mut from, mut to) = (0, self.layout.entries);
        while from < to {
            let middle = from + (to - from) / 2;
            if compare(middle)? == Ordering::Greater {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        from.checked_sub(1)
    }

    /// The record at this place, if all of it is there.
    fn record(&self, at: usize) -> Option<Record<W>> {
        record(self.words, at)
    }
}

/// The pairs of an image.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<W> {
    image: Image<W>,
    at: usize,
}

/// So many empty slots are passed over at a time.
const EMPTY: usize = 4096;

impl<W: Words> Pairs<W> {
    /// The pairs from this entry of the index on.
    pub fn from(image: Image<W>, at: usize) -> Self {
        Self { image, at }
    }

    /// Which entry of the index is next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next pair, appended to `key` and `value`: `Some(true)` if there is one, `Some(false)` if it is to be asked
    /// again, `None` behind the last.
    pub fn next(&mut self, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Option<bool> {
        let image = &self.image;
        for _ in 0..EMPTY {
            if self.at >= image.layout.entries {
                return None;
            }
            let words = entry_words(image.layout.kind);
            let entry = image.words.word(image.layout.index + self.at * words + words - 1)?;
            self.at += 1;
            if entry != 0 {
                let record = image.record(halves(entry).1)?;
                record.key.append(key)?;
                record.value.append(value)?;
                return Some(true);
            }
        }
        Some(false)
    }
}
