//! From a body to an image, a little at a time.

use std::cmp::Ordering;

use super::address::Network;
use super::image::{HEADER, Header, entry_words, place};
use super::json::JsonParser;
use super::sort::MergeSort;
use super::text::TextParser;
use super::words::halves;
use super::{Format, Kind, Meta, Parsed, Refusal, Shown, check};
use crate::os::memory::{fallible, push};

/// What a content must be like.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How keys are compared.
    pub kind: Kind,
    /// How many words the image may take.
    pub words: usize,
    /// How many keys there must be.
    pub min: u64,
}

/// An image in this process's own memory.
pub type Built = Vec<[u8; 8]>;

/// An image in the making.
///
/// ```text
///   parse ──> string: fill the hash table ─────────────────> done
///     └─────> ip, prefix: sort ──> link each to its parent ──┘
/// ```
#[derive(Debug)]
pub struct Build {
    body: Vec<u8>,
    limits: Limits,
    meta: Meta,
    seed: u64,
    /// The image, up to where it is made.
    words: Built,
    etag: usize,
    index: usize,
    count: usize,
    stage: Stage,
}

/// A pair that is not in the index yet.
#[derive(Clone, Copy, Debug)]
struct Entry {
    record: u32,
    line: u32,
    network: Network,
}

/// What is behind `network` where keys are no networks.
const NO_NETWORK: Network = Network { family: 0, bits: 0, len: 0 };

#[derive(Debug)]
enum Stage {
    Parse(Parser, Vec<Entry>),
    /// Makes room for so many slots.
    Room(usize, Vec<Entry>),
    /// Fills them with the entries from this one on.
    Fill(usize, Vec<Entry>),
    Sort(MergeSort<Entry>),
    /// The entries, the next one, and those that contain it.
    Link(Vec<Entry>, usize, Vec<u32>),
    Done,
}

#[derive(Debug)]
enum Parser {
    Json(JsonParser),
    Text(TextParser),
}

impl Parser {
    /// Up to where the body was read.
    fn at(&self) -> usize {
        match self {
            Self::Json(parser) => parser.at(),
            Self::Text(parser) => parser.at(),
        }
    }
}

/// So much of a stage is done in a step.
const STEP: usize = 64;
/// So much of the body is read in a step, and one pair more.
const BYTES: usize = 64 * 1024;
const ROOM: usize = 32 * 1024;

impl Build {
    /// An image of what `body` says.
    pub fn new(body: Vec<u8>, format: Format, limits: Limits, meta: Meta, seed: u64) -> Self {
        let parser = match format {
            Format::Json => Parser::Json(JsonParser::new()),
            Format::Text => Parser::Text(TextParser::default()),
        };
        let (stage, words) = (Stage::Parse(parser, Vec::new()), Vec::new());
        Self { body, limits, meta, seed, words, etag: 0, index: 0, count: 0, stage }
    }

    /// Goes on a little; the image once it is made.
    ///
    /// # Errors
    ///
    /// Why there will be none.
    pub fn step(&mut self) -> Result<Option<Built>, Refusal> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Parse(parser, entries) => self.stage = self.parse(parser, entries)?,
            Stage::Room(slots, entries) => self.stage = self.make_room(slots, entries)?,
            Stage::Fill(at, entries) => self.stage = self.fill(at, entries)?,
            Stage::Sort(mut sort) => {
                let sorted = sort.step(|a, b| self.compare(a, b));
                self.stage = match sorted {
                    Some(sorted) => Stage::Link(sorted, 0, Vec::new()),
                    None => Stage::Sort(sort),
                };
            }
            Stage::Link(entries, at, inside) => self.stage = self.link(entries, at, inside)?,
            Stage::Done => return Ok(Some(self.finish())),
        }
        Ok(None)
    }

    fn parse(&mut self, mut parser: Parser, mut entries: Vec<Entry>) -> Result<Stage, Refusal> {
        if self.words.is_empty() {
            self.append(&[0; HEADER])?;
            if !self.meta.etag.is_empty() {
                let etag = std::mem::take(&mut self.meta.etag);
                self.etag = self.words.len();
                self.record(b"", &etag)?;
                self.meta.etag = etag;
            }
        }
        let body = std::mem::take(&mut self.body);
        let end = parser.at().saturating_add(BYTES);
        for _ in 0..STEP {
            if parser.at() >= end {
                break;
            }
            let parsed = match &mut parser {
                Parser::Json(parser) => parser.step(&body),
                Parser::Text(parser) => parser.step(&body),
            }?;
            match parsed {
                Parsed::Nothing => {}
                Parsed::End => return self.parsed(entries),
                Parsed::Pair { key, value, line } => {
                    check(&key, &value, line)?;
                    let network = match self.limits.kind {
                        Kind::Ip => Network::parse(&key).ok_or_else(|| {
                            let key = Shown(&key);
                            Refusal::line(
                                line,
                                format!("{key} is not an address and not a network"),
                            )
                        })?,
                        _ => NO_NETWORK,
                    };
                    let record = self.record(&key, &value)?;
                    let line = u32::try_from(line).unwrap_or(u32::MAX);
                    push(&mut entries, Entry { record, line, network })?;
                    let least = entries.len().saturating_mul(entry_words(self.limits.kind));
                    self.must_fit(self.words.len().saturating_add(least))?;
                }
            }
        }
        self.body = body;
        Ok(Stage::Parse(parser, entries))
    }

    fn parsed(&mut self, entries: Vec<Entry>) -> Result<Stage, Refusal> {
        let count = entries.len() as u64;
        if count < self.limits.min {
            return Err(Refusal::TooFew { count, min: self.limits.min });
        }
        let slots = match self.limits.kind {
            // Half of them stay empty, so that a key is soon found, or found not to be there.
            Kind::String => 2 * entries.len() + 1,
            kind => entries.len().saturating_mul(entry_words(kind)),
        };
        (self.index, self.count) = (self.words.len(), entries.len());
        let end = self.index.saturating_add(slots);
        self.must_fit(end)?;
        fallible(|| self.words.try_reserve_exact(slots))?;
        if self.limits.kind == Kind::String {
            return Ok(Stage::Room(end, entries));
        }
        Ok(Stage::Sort(MergeSort::new(entries)?))
    }

    fn make_room(&mut self, end: usize, entries: Vec<Entry>) -> Result<Stage, Refusal> {
        let next = self.words.len().saturating_add(ROOM).min(end);
        fallible(|| self.words.try_reserve(next.saturating_sub(self.words.len())))?;
        self.words.resize(next, [0; 8]);
        Ok(if next < end { Stage::Room(end, entries) } else { Stage::Fill(0, entries) })
    }

    fn fill(&mut self, from: usize, entries: Vec<Entry>) -> Result<Stage, Refusal> {
        let slots = self.words.len() - self.index;
        for entry in entries.iter().skip(from).take(STEP) {
            let key = self.key_of(entry.record);
            let (first, tag) = place(key, self.seed, slots);
            let mut path = (first..slots).chain(0..first);
            let free = loop {
                let Some(at) = path.next() else { return Err(Refusal::DoesNotFit) };
                let slot =
                    self.words.get(self.index + at).map_or(0, |slot| u64::from_le_bytes(*slot));
                if slot == 0 {
                    break at;
                }
                let (hash, record) = halves(slot);
                if hash == halves(tag).0 && self.key_of(number(record)) == key {
                    return Err(duplicate(entry.line, key));
                }
            };
            if let Some(slot) = self.words.get_mut(self.index + free) {
                *slot = (tag | u64::from(entry.record)).to_le_bytes();
            }
        }
        let next = from + STEP;
        Ok(if next < entries.len() { Stage::Fill(next, entries) } else { Stage::Done })
    }

    fn link(
        &mut self,
        entries: Vec<Entry>,
        from: usize,
        mut inside: Vec<u32>,
    ) -> Result<Stage, Refusal> {
        let is_ip = self.limits.kind == Kind::Ip;
        for (at, entry) in entries.iter().enumerate().skip(from).take(STEP) {
            let before = at.checked_sub(1).and_then(|at| entries.get(at));
            if before.is_some_and(|before| self.compare(before, entry) == Ordering::Equal) {
                let line = before.map_or(0, |before| before.line).max(entry.line);
                return Err(duplicate(line, self.key_of(entry.record)));
            }
            while let Some(last) = inside.last().and_then(|last| entries.get(*last as usize)) {
                let contains = if is_ip {
                    last.network.contains(entry.network)
                } else {
                    self.key_of(entry.record).starts_with(self.key_of(last.record))
                };
                if contains {
                    break;
                }
                inside.pop();
            }
            let parent = inside.last().map_or(0, |last| u64::from(*last) + 1);
            let network = entry.network;
            if is_ip {
                let half = |shift: u32| {
                    u64::try_from(network.bits >> shift & u128::from(u64::MAX)).unwrap_or(0)
                };
                let about = u16::from_be_bytes([network.family, network.len]);
                self.append(&[half(64), half(0), u64::from(about)])?;
            }
            self.append(&[parent << 32 | u64::from(entry.record)])?;
            push(&mut inside, u32::try_from(at).unwrap_or(u32::MAX))?;
        }
        let next = from + STEP;
        Ok(if next < entries.len() { Stage::Link(entries, next, inside) } else { Stage::Done })
    }

    fn finish(&mut self) -> Built {
        let kind = self.limits.kind;
        let mut words = std::mem::take(&mut self.words);
        let (len, index, count) = (words.len(), self.index, self.count as u64);
        let entries = (len - index) / entry_words(kind);
        let (seed, etag, meta) = (self.seed, self.etag, &self.meta);
        let header = Header { kind, len, count, index, entries, seed, etag, meta };
        for (to, from) in words.iter_mut().zip(header.words()) {
            *to = from.to_le_bytes();
        }
        words
    }

    fn must_fit(&self, words: usize) -> Result<(), Refusal> {
        let fits = words <= self.limits.words && u32::try_from(words).is_ok();
        if fits { Ok(()) } else { Err(Refusal::DoesNotFit) }
    }

    fn append(&mut self, words: &[u64]) -> Result<(), Refusal> {
        fallible(|| self.words.try_reserve(words.len()))?;
        self.words.extend(words.iter().map(|word| word.to_le_bytes()));
        Ok(())
    }

    /// Appends a record; answers its place.
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<u32, Refusal> {
        let place = self.words.len();
        let value_at = place + 1 + key.len().div_ceil(8);
        let end = value_at.saturating_add(value.len().div_ceil(8));
        self.must_fit(end)?;
        self.append(&[(key.len() as u64) << 32 | value.len() as u64])?;
        fallible(|| self.words.try_reserve(end - place))?;
        self.words.resize(end, [0; 8]);
        for (at, from) in [(place + 1, key), (value_at, value)] {
            let to = self.words.as_flattened_mut().get_mut(at * 8..);
            // There is room for both.
            if let Some(to) = to.and_then(|to| to.get_mut(..from.len())) {
                to.copy_from_slice(from);
            }
        }
        Ok(number(place))
    }

    /// The key of the record at this place.
    fn key_of(&self, record: u32) -> &[u8] {
        let at = record as usize;
        let len = self.words.get(at).map_or(0, |word| halves(u64::from_le_bytes(*word)).0);
        let from = (at + 1) * 8;
        self.words.as_flattened().get(from..from + len).unwrap_or_default()
    }

    fn compare(&self, a: &Entry, b: &Entry) -> Ordering {
        match self.limits.kind {
            Kind::Ip => a.network.cmp(&b.network),
            _ => self.key_of(a.record).cmp(self.key_of(b.record)),
        }
    }
}

/// A place in an image, which is never longer (see [`Build::must_fit`]).
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

fn duplicate(line: u32, key: &[u8]) -> Refusal {
    Refusal::line(line.into(), format!("duplicate key {}", Shown(key)))
}
