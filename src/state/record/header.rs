//! The header page: whose file it is, and what holds for all its timers.

use crate::schedule::{UnixMs, stable_hash};

use super::codec::{Decoder, Encoder};
use super::control::{Paused, get_pause, put_pause};
use super::format::{
    HEADER_CONTROL, IDENTITY, MAGIC, MOST_PAGES, ORDER_NUMBER, PAGE_BYTES, PID_FILE_BYTES, Part,
    VERSION, header as control_at, identity as at,
};
use super::version1;
use crate::os::Escaped;

/// The identity part of the header: written under the header lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::state) struct Identity {
    /// How many pages the file has, this one included.
    pub(in crate::state) pages: u32,
    pub(in crate::state) newness: Newness,
    pub(in crate::state) records: RecordsFormat,
    pub(in crate::state) created_at: UnixMs,
    pub(in crate::state) pid_file: PidFile,
}

/// In which format the records of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum RecordsFormat {
    /// This one.
    Current,
    /// Some may still be in format 1; the header is in this one.
    Mixed,
    /// Header and records are in format 1.
    Old,
}

/// Whether the names that the file does not know may be taken for new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Newness {
    /// They may.
    Ordinary,
    /// The file took the place of a bad one, and no load has filled it yet.
    Recovered,
}

/// The name of an instance: its pid file, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    hash: u64,
    name: Box<[u8]>,
}

impl PidFile {
    /// An instance by its pid file.
    pub fn new(name: &[u8]) -> Self {
        let cut = name.get(..PID_FILE_BYTES).unwrap_or(name);
        Self { hash: stable_hash(&[b"pid", name]), name: cut.into() }
    }

    /// What distinguishes instances.
    pub(in crate::state) fn hash(&self) -> u64 {
        self.hash
    }
}

impl std::fmt::Display for PidFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Escaped::of_bytes(&self.name).fmt(f)
    }
}

/// What is wrong with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Nothing in its first page is ours.
    Foreign,
    /// There is nothing in it.
    Empty,
    /// It begins with zeros where the magic should be.
    Blank,
    /// It ends before its last record.
    Truncated,
    /// A part of the header is wrong, and another one right.
    Damaged,
    /// A newer version of the module wrote it.
    Newer,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Foreign => "is not a state file",
            Self::Empty => "is empty",
            Self::Blank => "has an empty header",
            Self::Truncated => "is truncated",
            Self::Damaged => "is damaged",
            Self::Newer => "has a newer format",
        })
    }
}

/// Bits of the identity part.
const RECOVERED: u32 = 1;
const MIXED: u32 = 2;

impl Identity {
    /// The whole first page of a new file.
    pub(in crate::state) fn encode(&self) -> [u8; PAGE_BYTES] {
        self.encode_with(&HeaderControl::default(), 0)
    }

    /// The same with what an older file says.
    pub(in crate::state) fn encode_with(
        &self,
        control: &HeaderControl,
        order_number: u64,
    ) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        let mut to = Encoder(&mut bytes);
        to.put(at::MAGIC, MAGIC);
        to.u32(at::VERSION, VERSION);
        to.count(at::PAGE_BYTES, PAGE_BYTES);
        to.u32(at::PAGES, self.pages);
        let recovered = if self.newness == Newness::Recovered { RECOVERED } else { 0 };
        let mixed = if self.records == RecordsFormat::Current { 0 } else { MIXED };
        to.u32(at::BITS, recovered | mixed);
        to.instant(at::CREATED_AT, self.created_at);
        to.u64(at::PID_FILE_HASH, self.pid_file.hash);
        to.count(at::PID_FILE_LENGTH, self.pid_file.name.len());
        to.put_slice(at::PID_FILE, &self.pid_file.name);
        to.put(ORDER_NUMBER, order_number.to_le_bytes());
        IDENTITY.seal(&mut bytes[IDENTITY.at..IDENTITY.at + IDENTITY.bytes]);
        bytes[HEADER_CONTROL.at..HEADER_CONTROL.at + HEADER_CONTROL.bytes]
            .copy_from_slice(&control.encode());
        bytes
    }

    /// Only what is written when the identity changes: all before the control part.
    pub(in crate::state) fn encode_part(&self) -> [u8; HEADER_CONTROL.at] {
        let page = self.encode();
        std::array::from_fn(|at| page.get(at).copied().unwrap_or_default())
    }

    /// Reads the first page of a file of `file_bytes`.
    ///
    /// # Errors
    ///
    /// What is wrong with the content.
    pub(in crate::state) fn decode(page: &[u8], file_bytes: u64) -> Result<Self, Bad> {
        if page.is_empty() {
            return Err(Bad::Empty);
        }
        let magic = page.get(..MAGIC.len()).unwrap_or(page);
        if magic.iter().all(|byte| *byte == 0) {
            return Err(Bad::Blank);
        }
        if !MAGIC.starts_with(magic) {
            // Of what was ours, another part than the magic is whole.
            let is_whole = |part: Part| part.is_whole(part.of(page));
            let parts = [IDENTITY, HEADER_CONTROL, version1::HEADER_CONTROL];
            let ours = parts.into_iter().any(is_whole);
            return Err(if ours { Bad::Damaged } else { Bad::Foreign });
        }
        if page.len() < PAGE_BYTES {
            return Err(Bad::Truncated);
        }
        let from = Decoder(page);
        let version = from.u32(at::VERSION);
        if version > VERSION {
            return Err(Bad::Newer);
        }
        if !IDENTITY.is_whole(IDENTITY.of(page)) {
            return Err(Bad::Damaged);
        }
        let pages = from.u32(at::PAGES);
        if !(1..=MOST_PAGES).contains(&pages) {
            return Err(Bad::Damaged);
        }
        if file_bytes < u64::from(pages) * PAGE_BYTES as u64 {
            return Err(Bad::Truncated);
        }
        let len = from.count(at::PID_FILE_LENGTH, PID_FILE_BYTES);
        let name: [u8; PID_FILE_BYTES] = from.bytes(at::PID_FILE);
        let bits = from.u32(at::BITS);
        Ok(Self {
            pages,
            newness: if bits & RECOVERED == 0 { Newness::Ordinary } else { Newness::Recovered },
            records: match version {
                VERSION if bits & MIXED == 0 => RecordsFormat::Current,
                VERSION => RecordsFormat::Mixed,
                _ => RecordsFormat::Old,
            },
            created_at: from.instant(at::CREATED_AT),
            pid_file: PidFile {
                hash: from.u64(at::PID_FILE_HASH),
                name: name.get(..len).unwrap_or_default().into(),
            },
        })
    }
}

/// The control part of the header: what holds for all timers; written under the header's edit
/// lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderControl {
    /// How often it was written.
    pub(in crate::state) serial: u64,
    /// Due times up to here are handled.
    pub not_before: Option<UnixMs>,
    /// The pause of all timers, independent of each one's own.
    pub paused: Option<Paused>,
}

impl HeaderControl {
    /// The part as it stands in the file.
    pub(in crate::state) fn encode(&self) -> [u8; HEADER_CONTROL.bytes] {
        let mut bytes = [0; HEADER_CONTROL.bytes];
        let mut to = Encoder(&mut bytes);
        to.u64(control_at::SERIAL, self.serial);
        to.some_instant(control_at::NOT_BEFORE, self.not_before);
        put_pause(&mut to, control_at::PAUSED_SINCE, control_at::PAUSED_UNTIL, self.paused);
        HEADER_CONTROL.seal(&mut bytes);
        bytes
    }

    /// Reads the part; `None` if its checksum is wrong.
    pub(in crate::state) fn decode(bytes: &[u8]) -> Option<Self> {
        let from = Decoder(bytes);
        HEADER_CONTROL.is_whole(bytes).then(|| Self {
            serial: from.u64(control_at::SERIAL),
            not_before: from.some_instant(control_at::NOT_BEFORE),
            paused: get_pause(from, control_at::PAUSED_SINCE, control_at::PAUSED_UNTIL),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            pages: 1,
            newness: Newness::Recovered,
            records: RecordsFormat::Mixed,
            created_at: UnixMs(7),
            pid_file: PidFile::new(b"/run/nginx.pid"),
        }
    }

    #[test]
    fn everything_survives_the_file() {
        let page = identity().encode();
        assert_eq!(Identity::decode(&page, 4096), Ok(identity()));
        assert_eq!(identity().encode_part(), page[..HEADER_CONTROL.at]);
        let control = HeaderControl {
            serial: 4,
            not_before: Some(UnixMs(9)),
            paused: Some(Paused { since: UnixMs(1), until: None }),
        };
        assert_eq!(HeaderControl::decode(&control.encode()), Some(control));
        let control = HeaderControl::decode(HEADER_CONTROL.of(&page));
        assert_eq!(control, Some(HeaderControl::default()));
    }

    #[test]
    fn bad_content_is_told_apart() {
        let page = identity().encode();
        let decode = |bytes: &[u8]| Identity::decode(bytes, bytes.len() as u64);
        assert_eq!(decode(b""), Err(Bad::Empty));
        assert_eq!(decode(&[0; 9000]), Err(Bad::Blank));
        assert_eq!(decode(&[0; 3]), Err(Bad::Blank));
        assert_eq!(decode(b"#!/bin/sh\n"), Err(Bad::Foreign));
        assert_eq!(decode(b"root"), Err(Bad::Foreign));
        assert_eq!(decode(&page[..3]), Err(Bad::Truncated));
        assert_eq!(decode(&page[..4095]), Err(Bad::Truncated));
        let mut bad = page;
        bad[0] ^= 1;
        assert_eq!(decode(&bad), Err(Bad::Damaged));
        bad[100] ^= 1;
        assert_eq!(decode(&bad), Err(Bad::Damaged), "the control part is whole");
        bad[2100] ^= 1;
        assert_eq!(decode(&bad), Err(Bad::Foreign));
        bad[0] ^= 1;
        assert_eq!(decode(&bad), Err(Bad::Damaged));
        bad[16] = 3;
        assert_eq!(decode(&bad), Err(Bad::Newer));
        let two_pages = Identity { pages: 2, ..identity() }.encode();
        assert_eq!(decode(&two_pages), Err(Bad::Truncated));
    }

    #[test]
    fn long_names_differ_behind_the_cut() {
        let mut name = vec![b'a'; 2000];
        let first = PidFile::new(&name);
        name[1999] = b'b';
        let second = PidFile::new(&name);
        assert_ne!(first, second);
        assert_eq!(first.to_string().len(), PID_FILE_BYTES);
        let page = Identity { pid_file: first.clone(), ..identity() }.encode();
        assert_eq!(Identity::decode(&page, 4096).map(|identity| identity.pid_file), Ok(first));
    }
}
