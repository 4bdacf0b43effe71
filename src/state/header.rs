//! The header page: whose file it is, and what holds for all its timers.

use crate::schedule::{UnixMs, stable_hash};

use super::control::{Paused, get_pause, put_pause};
use super::fields::{Fields, FieldsMut};
use super::format::{
    HEADER_CONTROL, IDENTITY, MAGIC, MOST_PAGES, PAGE_BYTES, PID_FILE_BYTES, Part, VERSION,
};
use super::shown::Shown;

/// The identity part of the header: written under the header lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// How many pages the file has, this one included.
    pub(super) pages: u32,
    pub(super) newness: Newness,
    pub(super) created_at: UnixMs,
    pub(super) pid_file: PidFile,
}

/// Whether the names that the file does not know may be taken for new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newness {
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

    /// What tells instances apart.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

impl std::fmt::Display for PidFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Shown::of_bytes(&self.name).fmt(f)
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

impl Identity {
    /// The whole first page of a new file.
    pub(super) fn encode(&self) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        let mut to = FieldsMut(&mut bytes);
        to.put(0, &MAGIC);
        to.u32(16, VERSION);
        to.count(20, PAGE_BYTES);
        to.u32(24, self.pages);
        to.u32(28, u32::from(self.newness == Newness::Recovered));
        to.instant(32, self.created_at);
        to.u64(40, self.pid_file.hash);
        to.count(48, self.pid_file.name.len());
        to.put(64, &self.pid_file.name);
        IDENTITY.seal(&mut bytes[IDENTITY.at..IDENTITY.at + IDENTITY.bytes]);
        let control = HeaderControl::default().encode();
        bytes[HEADER_CONTROL.at..HEADER_CONTROL.at + HEADER_CONTROL.bytes]
            .copy_from_slice(&control);
        bytes
    }

    /// Only what is written when the identity changes: all before the control part.
    pub(super) fn encode_part(&self) -> [u8; HEADER_CONTROL.at] {
        let page = self.encode();
        std::array::from_fn(|at| page.get(at).copied().unwrap_or_default())
    }

    /// Reads the first page of a file of `file_bytes`.
    ///
    /// # Errors
    ///
    /// What is wrong with the content.
    pub(super) fn decode(page: &[u8], file_bytes: u64) -> Result<Self, Bad> {
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
            let ours = is_whole(IDENTITY) || is_whole(HEADER_CONTROL);
            return Err(if ours { Bad::Damaged } else { Bad::Foreign });
        }
        if page.len() < PAGE_BYTES {
            return Err(Bad::Truncated);
        }
        let from = Fields(page);
        if from.u32(16) > VERSION {
            return Err(Bad::Newer);
        }
        if !IDENTITY.is_whole(IDENTITY.of(page)) {
            return Err(Bad::Damaged);
        }
        let pages = from.u32(24);
        if !(1..=MOST_PAGES).contains(&pages) {
            return Err(Bad::Damaged);
        }
        if file_bytes < u64::from(pages) * PAGE_BYTES as u64 {
            return Err(Bad::Truncated);
        }
        let len = from.count(48, PID_FILE_BYTES);
        Ok(Self {
            pages,
            newness: if from.u32(28) == 0 { Newness::Ordinary } else { Newness::Recovered },
            created_at: from.instant(32),
            pid_file: PidFile {
                hash: from.u64(40),
                name: page.get(64..64 + len).unwrap_or_default().into(),
            },
        })
    }
}

/// The control part of the header: what holds for all timers; written under the header's edit
/// lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderControl {
    /// How often it was written.
    pub(super) serial: u64,
    /// Due times up to here are dealt with.
    pub not_before: Option<UnixMs>,
    /// The pause of all timers, independent of each one's own.
    pub paused: Option<Paused>,
}

impl HeaderControl {
    /// The part as it stands in the file.
    pub(super) fn encode(&self) -> [u8; HEADER_CONTROL.bytes] {
        let mut bytes = [0; HEADER_CONTROL.bytes];
        let mut to = FieldsMut(&mut bytes);
        to.u64(8, self.serial);
        to.some_instant(16, self.not_before);
        put_pause(&mut to, 24, self.paused);
        HEADER_CONTROL.seal(&mut bytes);
        bytes
    }

    /// Reads the part; `None` if its checksum is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let from = Fields(bytes);
        HEADER_CONTROL.is_whole(bytes).then(|| Self {
            serial: from.u64(8),
            not_before: from.some_instant(16),
            paused: get_pause(from, 24),
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
        bad[16] = 2;
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
