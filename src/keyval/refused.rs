//! Why the last response did not become the content of a zone, in the zone's memory: all workers answer the same.
//!
//! Of the two words before the text one has its length, the other a checksum: a text that two have written at a time,
//! or somebody who died, is none.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh64::xxh64;

use super::segment::Segment;

/// The longest text, in bytes.
const LONGEST: usize = 256;
/// Who reads while another one writes tries again, so often.
const TRIES: usize = 8;
const DOTS: &str = "...";

impl Segment<'_> {
    /// Keeps why a response was refused; `None` if it was taken.
    pub fn set_refused(&self, why: Option<&str>) {
        let [len, checksum, text @ ..] = self.spare() else { return };
        len.store(0, Ordering::SeqCst);
        let Some(why) = why else { return };
        let why = shown(why);
        for (to, from) in text.iter().zip(why.as_bytes().chunks(8)) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(from) {
                *to = *from;
            }
            to.store(u64::from_le_bytes(word), Ordering::SeqCst);
        }
        checksum.store(xxh64(why.as_bytes(), 0), Ordering::SeqCst);
        len.store(why.len() as u64, Ordering::SeqCst);
    }
}

/// Why the last response was refused; `None` if it was taken.
pub fn refused(segment: &Segment<'_>) -> Option<String> {
    let [len, checksum, text @ ..] = segment.spare() else { return None };
    (0..TRIES).find_map(|_| read(len, checksum, text))
}

fn read(len: &AtomicU64, checksum: &AtomicU64, text: &[AtomicU64]) -> Option<String> {
    let len = usize::try_from(len.load(Ordering::SeqCst)).ok()?;
    let words = text.iter().map(|word| word.load(Ordering::SeqCst).to_le_bytes());
    let bytes: Vec<u8> = words.flatten().take(len.min(LONGEST)).collect();
    let is_whole = !bytes.is_empty()
        && bytes.len() == len
        && xxh64(&bytes, 0) == checksum.load(Ordering::SeqCst);
    is_whole.then(|| String::from_utf8(bytes).ok()).flatten()
}

/// The text on one line, and no longer than may be.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        let before = shown.len();
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
        if shown.len() > LONGEST - DOTS.len() {
            shown.truncate(before);
            shown.push_str(DOTS);
            break;
        }
    }
    shown
}

/// The same reason without keys, which may be as secret as their values: what is in quotes, and is not of the syntax of
/// JSON, in a reason that names a line.
pub fn without_keys(why: &str) -> String {
    if !why.starts_with("line ") {
        return why.to_owned();
    }
    let (mut kept, mut rest) = (String::new(), why);
    while let Some((before, behind)) = rest.split_once('"') {
        // Quotes of a key are escaped, as is what escapes them.
        let mut is_escaped = false;
        let end = behind.find(|character| {
            let is_end = character == '"' && !is_escaped;
            is_escaped = character == '\\' && !is_escaped;
            is_end
        });
        let (key, behind) = end
            .and_then(|end| Some((behind.get(..end)?, behind.get(end + 1..)?)))
            .unwrap_or((behind, ""));
        let is_syntax = matches!(key, "," | ":" | "{" | "}" | "[" | "]");
        let key = if is_syntax { key } else { DOTS };
        for text in [before, "\"", key, "\""] {
            kept.push_str(text);
        }
        rest = behind;
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Vec<AtomicU64> {
        (0..Segment::words_for(8)).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_reason_is_kept_until_a_response_is_taken() {
        let memory = memory();
        let segment = Segment::begin(&memory).unwrap();
        assert_eq!(refused(&segment), None);
        for (why, expected) in [
            ("no memory", "no memory".to_owned()),
            ("line 3: duplicate key \"é\"", "line 3: duplicate key \"é\"".to_owned()),
            ("a\n\x1b\u{85}b", "a\\n\\u{1b}\\u{85}b".to_owned()),
            (&"x".repeat(253), "x".repeat(253)),
            (&"x".repeat(300), "x".repeat(253) + "..."),
            (&"é".repeat(200), "é".repeat(126) + "..."),
            (&"\n".repeat(127), "\\n".repeat(126) + "..."),
            ("short", "short".to_owned()),
        ] {
            segment.set_refused(Some(why));
            assert_eq!(refused(&segment), Some(expected));
        }
        // The rest of the header is others'.
        assert_eq!((segment.generation(), segment.saved(0)), (0, (0, 0)));
        segment.set_refused(None);
        assert_eq!(refused(&segment), None);
    }

    #[test]
    fn damage_is_no_reason() {
        let memory = memory();
        let segment = Segment::begin(&memory).unwrap();
        segment.set_refused(Some("line 1: unexpected end"));
        for word in segment.spare().iter().take(5) {
            let before = word.load(Ordering::SeqCst);
            for other in [0, 1, u64::MAX, before ^ 1] {
                word.store(other, Ordering::SeqCst);
                assert_eq!(refused(&segment), None);
            }
            word.store(before, Ordering::SeqCst);
        }
        assert!(refused(&segment).is_some());
    }

    #[test]
    fn keys_are_left_out() {
        for (why, expected) in [
            ("line 3: duplicate key \"beta\"", "line 3: duplicate key \"...\""),
            ("line 3: duplicate key \"be\\\"ta\\\\\"", "line 3: duplicate key \"...\""),
            ("line 1: \",\" or \"}\" is expected", "line 1: \",\" or \"}\" is expected"),
            ("line 2: \"ab\" is not an address", "line 2: \"...\" is not an address"),
            ("line 3: duplicate key \"a\"", "line 3: duplicate key \"...\""),
            ("line 2: key \"abc\\\"...", "line 2: key \"...\""),
            ("response of type \"text/html\", not", "response of type \"text/html\", not"),
        ] {
            assert_eq!(without_keys(why), expected);
        }
    }
}
