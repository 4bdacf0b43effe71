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
//! | records | length of the key << 32, length of the value; the bytes of both; zeros up to the next word |
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

use super::address::Network;
use super::words::{Value, Words, halves, word_of};
use super::{Kind, LONGEST_VALUE};

/// What an image begins with.
pub(super) const HEADER: usize = 16;
const MARK: u64 = u64::from_le_bytes(*b"keyval\x02\0");

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

/// A pair in an image: where its record is, and how long key and value are.
#[derive(Clone, Copy, Debug)]
struct Record {
    at: usize,
    key: usize,
    value: usize,
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
pub(super) fn place(key: &[u8], seed: u64, slots: usize) -> (usize, u64) {
    let hash = xxh3_64_with_seed(key, seed);
    let at = (u128::from(hash) * slots as u128) >> 64;
    (usize::try_from(at).unwrap_or(0), hash << 32)
}

/// Where the value of `key` is in the image that is in these words, of the kind `string`. All that a look-up mostly does
/// is here, and in what calls it.
#[expect(clippy::inline_always, reason = "a fifth of the instructions")]
#[inline(always)]
pub(super) fn find_equal<W: Words>(words: W, layout: Layout, key: &[u8]) -> Option<Value> {
    let Layout { index, entries, seed, .. } = layout;
    let (records, slots) = (words.row(0, index)?, words.row(index, entries)?);
    let (mut at, tag) = place(key, seed, entries);
    for _ in 0..entries {
        let slot = slots.word(at)?;
        if slot == 0 {
            return None;
        }
        if (slot ^ tag) >> 32 == 0 {
            if let Some(value) = value_of(records, halves(slot).1, key) {
                return Some(value);
            }
        }
        at = if at + 1 == entries { 0 } else { at + 1 };
    }
    None
}

/// Where the value in the record at this place is, if it is one of this key.
#[expect(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn value_of<W: Words>(records: W, at: usize, key: &[u8]) -> Option<Value> {
    let (key_len, len) = halves(records.word(at)?);
    if key_len != key.len() {
        return None;
    }
    let record = records.row(at + 1, (key_len + len).div_ceil(8))?;
    let (parts, rest) = (key.chunks_exact(8), key.chunks_exact(8).remainder());
    let mut number = 0;
    for part in parts {
        let part = part.first_chunk().copied().unwrap_or_default();
        if record.word(number)? != u64::from_le_bytes(part) {
            return None;
        }
        number += 1;
    }
    // What is behind it in the last word is of the value.
    if !rest.is_empty() && (record.word(number)? ^ word_of(rest)) << (64 - 8 * rest.len()) != 0 {
        return None;
    }
    Some(Value { from: (at + 1) * 8 + key_len, len })
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
            let mut value = record.value();
            value.len = value.len.min(LONGEST_VALUE);
            let _ = self.append(value, &mut etag);
        }
        Meta { taken_wall: word(6), taken: word(7), source: word(8), etag }
    }

    /// When it was taken, in milliseconds that nobody sets back.
    pub(super) fn taken(&self) -> u64 {
        self.words.word(7).unwrap_or(0)
    }

    /// Where the value of `key` is.
    pub(super) fn look_up(&self, key: &[u8]) -> Option<Value> {
        let record = match self.layout.kind {
            Kind::String => return find_equal(self.words, self.layout, key),
            Kind::Prefix => self.find_prefix(key),
            Kind::Ip => self.find_network(key),
        }?;
        Some(record.value())
    }

    fn find_prefix(&self, key: &[u8]) -> Option<Record> {
        let mut at = self.last_not_behind(|at| {
            let record = self.record(halves(self.words.word(self.layout.index + at)?).1)?;
            let common = self.common(record, key)?;
            let theirs = self.byte(record.key_from() + common).filter(|_| common < record.key);
            Some(theirs.cmp(&key.get(common).copied()))
        })?;
        let first = self.record(halves(self.words.word(self.layout.index + at)?).1)?;
        // All that a key begins with has as much in common with what is looked up as it has itself.
        let common = self.common(first, key)?;
        loop {
            let (link, place) = halves(self.words.word(self.layout.index + at)?);
            let record = self.record(place)?;
            if record.key <= common {
                return Some(record);
            }
            at = link.checked_sub(1).filter(|link| *link < at)?;
        }
    }

    fn find_network(&self, key: &[u8]) -> Option<Record> {
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
    fn record(&self, at: usize) -> Option<Record> {
        if at < HEADER || at >= self.layout.index {
            return None;
        }
        let (key, value) = halves(self.words.word(at)?);
        let words = key.checked_add(value)?.div_ceil(8);
        (at + 1 + words <= self.layout.index).then_some(Record { at, key, value })
    }

    /// How many bytes the key of a record and `key` have in common.
    fn common(&self, record: Record, key: &[u8]) -> Option<usize> {
        let longest = record.key.min(key.len());
        let words = key.get(..longest)?.chunks_exact(8);
        let rest = words.remainder();
        for (number, bytes) in words.enumerate() {
            let bytes = bytes.first_chunk().copied().unwrap_or_default();
            let differs = self.words.word(record.at + 1 + number)? ^ u64::from_le_bytes(bytes);
            if differs != 0 {
                return Some(number * 8 + (differs.trailing_zeros() / 8) as usize);
            }
        }
        let done = longest - rest.len();
        let same =
            |(at, byte): (usize, &u8)| self.byte(record.key_from() + done + at) == Some(*byte);
        Some(done + rest.iter().enumerate().take_while(|it| same(*it)).count())
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.words.word(at / 8)?.to_le_bytes().get(at % 8).copied()
    }

    /// Appends the value; `None` without memory, or if it is not there.
    fn append(&self, value: Value, to: &mut Vec<u8>) -> Option<()> {
        crate::os::memory::fallible(|| to.try_reserve(value.len.next_multiple_of(8))).ok()?;
        let before = to.len();
        value.copy(self.words, |word| to.extend_from_slice(&word))?;
        to.truncate(before + value.len);
        Some(())
    }
}

impl Record {
    fn key_from(&self) -> usize {
        (self.at + 1) * 8
    }

    fn value(&self) -> Value {
        Value { from: self.key_from() + self.key, len: self.value }
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
                image.append(Value { from: record.key_from(), len: record.key }, key)?;
                image.append(record.value(), value)?;
                return Some(true);
            }
        }
        Some(false)
    }
}
