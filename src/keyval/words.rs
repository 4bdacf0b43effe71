//! Words that an image is in, and bytes in them.

use std::sync::atomic::{self, AtomicU64};

/// Words that an image is in: a process's own, or such that others may change meanwhile.
pub trait Words: Copy {
    /// The word of this number.
    fn word(self, at: usize) -> Option<u64>;
    /// So many from this one on, if all of them are there.
    fn row(self, from: usize, count: usize) -> Option<Self>;
}

impl Words for &[[u8; 8]] {
    fn word(self, at: usize) -> Option<u64> {
        self.get(at).map(|word| u64::from_le_bytes(*word))
    }

    fn row(self, from: usize, count: usize) -> Option<Self> {
        self.get(from..from.checked_add(count)?)
    }
}

impl Words for &[AtomicU64] {
    fn word(self, at: usize) -> Option<u64> {
        self.get(at).map(|word| word.load(atomic::Ordering::Relaxed))
    }

    fn row(self, from: usize, count: usize) -> Option<Self> {
        self.get(from..from.checked_add(count)?)
    }
}

/// Where the value of a key is, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) from: usize,
    /// How long it is.
    pub(super) len: usize,
}

impl Value {
    /// How many words [`copy`](Self::copy) puts.
    pub(super) fn words(self) -> usize {
        self.len.div_ceil(8)
    }

    /// Puts the value, and what is behind it in its last word; `None` if it is not there.
    #[inline]
    pub(super) fn copy<W: Words>(self, words: W, mut put: impl FnMut([u8; 8])) -> Option<()> {
        let (from, skipped) = (self.from / 8, self.from % 8);
        let words = words.row(from, (skipped + self.len).div_ceil(8))?;
        for at in 0..self.words() {
            let word = words.word(at).unwrap_or(0);
            // There may be none behind the last one that is needed.
            let next = words.word(at + 1).unwrap_or(0);
            let shift = 8 * skipped;
            let both = if shift == 0 { word } else { word >> shift | next << (64 - shift) };
            put(both.to_le_bytes());
        }
        Some(())
    }
}

/// The first and the last 32 bits.
pub(super) fn halves(word: u64) -> (usize, usize) {
    let half = |half: u64| usize::try_from(half).unwrap_or(usize::MAX);
    (half(word >> 32), half(word & u64::from(u32::MAX)))
}

/// Fewer than eight bytes as the lowest of a word.
pub(super) fn word_of(bytes: &[u8]) -> u64 {
    let (len, mut word) = (bytes.len(), 0);
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        word = u64::from(u32::from_le_bytes(*first));
        return word | u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4));
    }
    for (at, byte) in bytes.iter().enumerate() {
        word |= u64::from(*byte) << (8 * at);
    }
    word
}
