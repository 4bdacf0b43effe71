//! The last result of a check, as it is shown.

use std::time::Duration;

use xxhash_rust::xxh64::xxh64;

use super::word::{Bits, Word};
use crate::health::verdict::CheckOutcome;
use crate::schedule::UnixMs;

/// The reason of a result has at most so many bytes.
pub const REASON_BYTES: usize = 120;

/// The result of the last check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// When it ended.
    pub at: UnixMs,
    /// How long it took.
    pub duration: Duration,
    /// Its result.
    pub outcome: CheckOutcome,
    /// Why; empty if it passed.
    pub reason: String,
}

/// A checksum, when, how long with outcome and length, and the text.
pub(super) const WORDS: usize = 3 + REASON_BYTES / 8;

const LEN: Bits = Bits { at: 0, len: 7 };
const OUTCOME: Bits = Bits { at: 7, len: 2 };
const DURATION: Bits = Bits { at: 9, len: 55 };

/// Writes it: two who write at once leave what nobody reads, until the next is written.
pub(super) fn write(words: &[Word<'_>; WORDS], last: &Last) {
    let text = cut(&last.reason);
    let micros = u64::try_from(last.duration.as_micros()).unwrap_or(u64::MAX);
    let len = u64::try_from(text.len()).unwrap_or(0);
    let mut values = [0_u64; WORDS];
    values[1] = last.at.to_bits();
    values[2] = DURATION.put(micros) | OUTCOME.put(code(last.outcome)) | LEN.put(len);
    for (value, bytes) in values.iter_mut().skip(3).zip(text.as_bytes().chunks(8)) {
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        *value = u64::from_le_bytes(word);
    }
    values[0] = checksum(&values);
    for (word, value) in words.iter().zip(values) {
        word.store(value);
    }
}

/// Reads it; `None` before the first, and while one is written.
pub(super) fn read(words: &[Word<'_>; WORDS]) -> Option<Last> {
    let values = words.map(Word::load);
    if values[0] != checksum(&values) {
        return None;
    }
    let text: Vec<u8> = values.iter().skip(3).flat_map(|word| word.to_le_bytes()).collect();
    let len = usize::try_from(LEN.of(values[2])).ok()?;
    Some(Last {
        at: UnixMs::from_bits(values[1]),
        duration: Duration::from_micros(DURATION.of(values[2])),
        outcome: outcome(OUTCOME.of(values[2]))?,
        reason: String::from_utf8_lossy(text.get(..len)?).into_owned(),
    })
}

/// Never 0, which memory is before anything was written.
fn checksum(values: &[u64; WORDS]) -> u64 {
    let bytes: Vec<u8> = values.iter().skip(1).flat_map(|word| word.to_le_bytes()).collect();
    xxh64(&bytes, 0) | 1
}

/// As much as fits, never in the middle of a character.
fn cut(text: &str) -> &str {
    let room = text.len().min(REASON_BYTES);
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// How an outcome is written; 0 is none.
pub(super) fn code(outcome: CheckOutcome) -> u64 {
    match outcome {
        CheckOutcome::Passed => 1,
        CheckOutcome::Failed => 2,
        CheckOutcome::Inconclusive => 3,
    }
}

/// The outcome that is written so.
pub(super) fn outcome(code: u64) -> Option<CheckOutcome> {
    match code {
        1 => Some(CheckOutcome::Passed),
        2 => Some(CheckOutcome::Failed),
        3 => Some(CheckOutcome::Inconclusive),
        _ => None,
    }
}
