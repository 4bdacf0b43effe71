//! Numbers and names at fixed offsets of a part.
//!
//! What lies beyond the bytes at hand reads as zero and is not written: the layout's constants
//! keep within their part, and no file content can turn an offset into a panic.

use crate::schedule::UnixMs;

use super::format::{Field, NAME_BYTES};

/// "Never", and "no such instant".
pub(in crate::state) const NEVER: UnixMs = UnixMs(i64::MIN);

/// A part to read from.
#[derive(Clone, Copy)]
pub(in crate::state) struct Decoder<'a>(pub(in crate::state) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(in crate::state) fn bytes<const N: usize>(self, Field(at): Field<N>) -> [u8; N] {
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    pub(in crate::state) fn u8(self, field: Field<1>) -> u8 {
        u8::from_le_bytes(self.bytes(field))
    }

    pub(in crate::state) fn u16(self, field: Field<2>) -> u16 {
        u16::from_le_bytes(self.bytes(field))
    }

    pub(in crate::state) fn u32(self, field: Field<4>) -> u32 {
        u32::from_le_bytes(self.bytes(field))
    }

    pub(in crate::state) fn u64(self, field: Field<8>) -> u64 {
        u64::from_le_bytes(self.bytes(field))
    }

    pub(in crate::state) fn i64(self, field: Field<8>) -> i64 {
        i64::from_le_bytes(self.bytes(field))
    }

    pub(in crate::state) fn instant(self, field: Field<8>) -> UnixMs {
        UnixMs(self.i64(field))
    }

    /// An instant, or `None` for "never".
    pub(in crate::state) fn some_instant(self, field: Field<8>) -> Option<UnixMs> {
        Some(self.instant(field)).filter(|instant| *instant != NEVER)
    }

    /// A number of items, as the file says, but not more than there is room for.
    pub(in crate::state) fn count(self, field: Field<4>, most: usize) -> usize {
        usize::try_from(self.u32(field)).unwrap_or(most).min(most)
    }

    /// Item `number` of a row of items that begins with `field`.
    pub(in crate::state) fn item<const N: usize>(
        self,
        Field(at): Field<N>,
        number: usize,
        bytes: usize,
    ) -> Self {
        Self(self.0.get(at + number * bytes..).unwrap_or_default())
    }

    /// A length byte and that many bytes of UTF-8.
    pub(in crate::state) fn name(self, Field(at): Field<{ NAME_BYTES + 1 }>) -> Option<&'a str> {
        let len = usize::from(self.0.get(at).copied()?);
        let bytes = self.0.get(at + 1..at + 1 + len)?;
        if len > NAME_BYTES { None } else { std::str::from_utf8(bytes).ok() }
    }
}

/// A part to write into.
pub(in crate::state) struct Encoder<'a>(pub(in crate::state) &'a mut [u8]);

impl Encoder<'_> {
    pub(in crate::state) fn put<const N: usize>(&mut self, field: Field<N>, bytes: [u8; N]) {
        self.put_slice(field, &bytes);
    }

    /// What is longer than the field is not written.
    pub(in crate::state) fn put_slice<const N: usize>(
        &mut self,
        Field(at): Field<N>,
        bytes: &[u8],
    ) {
        if bytes.len() <= N {
            if let Some(record) = self.0.get_mut(at..at + bytes.len()) {
                record.copy_from_slice(bytes);
            }
        }
    }

    pub(in crate::state) fn u8(&mut self, field: Field<1>, value: u8) {
        self.put(field, [value]);
    }

    pub(in crate::state) fn u16(&mut self, field: Field<2>, value: u16) {
        self.put(field, value.to_le_bytes());
    }

    pub(in crate::state) fn u32(&mut self, field: Field<4>, value: u32) {
        self.put(field, value.to_le_bytes());
    }

    pub(in crate::state) fn u64(&mut self, field: Field<8>, value: u64) {
        self.put(field, value.to_le_bytes());
    }

    pub(in crate::state) fn i64(&mut self, field: Field<8>, value: i64) {
        self.put(field, value.to_le_bytes());
    }

    pub(in crate::state) fn instant(&mut self, field: Field<8>, value: UnixMs) {
        self.i64(field, value.0);
    }

    pub(in crate::state) fn some_instant(&mut self, field: Field<8>, value: Option<UnixMs>) {
        self.instant(field, value.unwrap_or(NEVER));
    }

    pub(in crate::state) fn count(&mut self, field: Field<4>, value: usize) {
        self.u32(field, u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// Item `number` of a row of items that begins with `field`.
    pub(in crate::state) fn item<const N: usize>(
        &mut self,
        Field(at): Field<N>,
        number: usize,
        bytes: usize,
    ) -> Encoder<'_> {
        Encoder(self.0.get_mut(at + number * bytes..).unwrap_or_default())
    }

    pub(in crate::state) fn name(&mut self, field: Field<{ NAME_BYTES + 1 }>, name: &str) {
        let Field(at) = field;
        let bytes = name.as_bytes();
        if let Some(len) = u8::try_from(bytes.len()).ok().filter(|_| bytes.len() <= NAME_BYTES) {
            self.u8(Field(at), len);
            self.put_slice(Field::<NAME_BYTES>(at + 1), bytes);
        }
    }
}
