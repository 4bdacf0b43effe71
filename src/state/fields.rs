//! Numbers and names at fixed places of a part.
//!
//! What lies beyond the bytes at hand reads as zero and is not written: the layout's constants
//! keep within their part, and no file content can turn an offset into a panic.

use crate::schedule::UnixMs;

use super::format::NAME_BYTES;

/// "Never", and "no such instant".
pub(super) const NEVER: UnixMs = UnixMs(i64::MIN);

/// A part to read from.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    pub(super) fn u8(self, at: usize) -> u8 {
        u8::from_le_bytes(self.bytes(at))
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    pub(super) fn i64(self, at: usize) -> i64 {
        i64::from_le_bytes(self.bytes(at))
    }

    pub(super) fn instant(self, at: usize) -> UnixMs {
        UnixMs(self.i64(at))
    }

    /// An instant, or `None` for "never".
    pub(super) fn some_instant(self, at: usize) -> Option<UnixMs> {
        Some(self.instant(at)).filter(|instant| *instant != NEVER)
    }

    /// A number of `len` results or gaps, as the file says, but not more than there is room for.
    pub(super) fn count(self, at: usize, most: usize) -> usize {
        usize::try_from(self.u32(at)).unwrap_or(most).min(most)
    }

    /// The rest from `at` on.
    pub(super) fn from(self, at: usize) -> Self {
        Self(self.0.get(at..).unwrap_or_default())
    }

    /// A length byte and that many bytes of UTF-8.
    pub(super) fn name(self, at: usize) -> Option<&'a str> {
        let len = usize::from(self.u8(at));
        let bytes = self.0.get(at + 1..at + 1 + len)?;
        if len > NAME_BYTES { None } else { std::str::from_utf8(bytes).ok() }
    }
}

/// A part to write into.
pub(super) struct FieldsMut<'a>(pub(super) &'a mut [u8]);

impl FieldsMut<'_> {
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn u8(&mut self, at: usize, value: u8) {
        self.put(at, &[value]);
    }

    pub(super) fn u16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, at: usize, value: i64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn instant(&mut self, at: usize, value: UnixMs) {
        self.i64(at, value.0);
    }

    pub(super) fn some_instant(&mut self, at: usize, value: Option<UnixMs>) {
        self.instant(at, value.unwrap_or(NEVER));
    }

    pub(super) fn count(&mut self, at: usize, value: usize) {
        self.u32(at, u32::try_from(value).unwrap_or(u32::MAX));
    }

    pub(super) fn name(&mut self, at: usize, name: &str) {
        let bytes = name.as_bytes();
        if let Some(len) = u8::try_from(bytes.len()).ok().filter(|_| bytes.len() <= NAME_BYTES) {
            self.u8(at, len);
            self.put(at + 1, bytes);
        }
    }
}
