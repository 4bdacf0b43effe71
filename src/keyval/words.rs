//! Words that an image is in, and bytes in them.

use std::sync::atomic::{self, AtomicU64};

use super::LONGEST_VALUE;
use crate::os::memory::fallible;

/// Words that an image is in: a process's own, or such that others may change meanwhile.
pub trait Words: Copy {
    /// The word of this number.
    fn word(self, at: usize) -> Option<u64>;
    /// So many from this one on, if all of them are there.
    fn row(self, from: usize, count: usize) -> Option<Self>;
    /// Those before this one, and the rest.
    fn split(self, at: usize) -> Option<(Self, Self)>;
    /// One after the other.
    fn each(self) -> impl Iterator<Item = u64>;
}

impl Words for &[[u8; 8]] {
    fn word(self, at: usize) -> Option<u64> {
        self.get(at).map(|word| u64::from_le_bytes(*word))
    }

    fn row(self, from: usize, count: usize) -> Option<Self> {
        self.get(from..from.checked_add(count)?)
    }

    fn split(self, at: usize) -> Option<(Self, Self)> {
        self.split_at_checked(at)
    }

    fn each(self) -> impl Iterator<Item = u64> {
        self.iter().map(|word| u64::from_le_bytes(*word))
    }
}

impl Words for &[AtomicU64] {
    fn word(self, at: usize) -> Option<u64> {
        self.get(at).map(|word| word.load(atomic::Ordering::Relaxed))
    }

    fn row(self, from: usize, count: usize) -> Option<Self> {
        self.get(from..from.checked_add(count)?)
    }

    fn split(self, at: usize) -> Option<(Self, Self)> {
        self.split_at_checked(at)
    }

    fn each(self) -> impl Iterator<Item = u64> {
        self.iter().map(|word| word.load(atomic::Ordering::Relaxed))
    }
}

/// A text in an image: its words, of which the last is filled up with zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<W> {
    pub(super) words: W,
    /// How long it is, in bytes.
    pub(super) len: usize,
}

impl<W: Words> Text<W> {
    #[expect(clippy::inline_always, reason = "a look-up does it")]
    #[inline(always)]
    pub(super) fn is(self, bytes: &[u8]) -> bool {
        if self.len != bytes.len() {
            return false;
        }
        let parts = bytes.chunks_exact(8);
        let rest = parts.remainder();
        let mut words = self.words.each();
        for (part, word) in parts.zip(&mut words) {
            if word.to_le_bytes() != *part {
                return false;
            }
        }
        if rest.is_empty() {
            return true;
        }
        let last = match bytes.last_chunk() {
            Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
            None => word_of(rest),
        };
        words.next() == Some(last)
    }

    /// With how many bytes both begin.
    pub(super) fn common(self, bytes: &[u8]) -> usize {
        let longest = self.len.min(bytes.len());
        for (number, (part, word)) in bytes.chunks(8).zip(self.words.each()).enumerate() {
            let differs = word ^ word_of(part);
            if differs != 0 {
                return longest.min(number * 8 + (differs.trailing_zeros() / 8) as usize);
            }
        }
        longest
    }

    pub(super) fn byte(self, at: usize) -> Option<u8> {
        let word = self.words.word(at / 8).filter(|_| at < self.len)?;
        word.to_le_bytes().get(at % 8).copied()
    }

    /// Appends it; `None` without memory, and where a text is never as long.
    pub(super) fn append(self, to: &mut Vec<u8>) -> Option<()> {
        if self.len > LONGEST_VALUE {
            return None;
        }
        fallible(|| to.try_reserve(self.len.next_multiple_of(8))).ok()?;
        let end = to.len() + self.len;
        for word in self.words.each() {
            to.extend_from_slice(&word.to_le_bytes());
        }
        to.truncate(end);
        Some(())
    }
}

/// How many words so many bytes take, which a half of a word can say.
pub(super) fn words_for(bytes: usize) -> usize {
    bytes.wrapping_add(7) / 8
}

/// The first and the last 32 bits.
pub(super) fn halves(word: u64) -> (usize, usize) {
    let half = |half: u64| usize::try_from(half).unwrap_or(usize::MAX);
    (half(word >> 32), half(word & u64::from(u32::MAX)))
}

/// At most eight bytes as the lowest of a word.
fn word_of(bytes: &[u8]) -> u64 {
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
