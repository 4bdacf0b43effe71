//! Bodies of `text/plain`: lines `key`, or `key value`.

use std::borrow::Cow;

use super::{LONGEST_KEY, LONGEST_VALUE, Parsed, Refusal};

/// Where in a text.
#[derive(Debug, Default)]
pub(super) struct TextParser {
    at: usize,
    line: u64,
}

/// Longer than any line of a key and a value.
const LONGEST_LINE: usize = LONGEST_KEY + LONGEST_VALUE + 1024;
const MARK: &[u8] = "\u{feff}".as_bytes();

impl TextParser {
    /// Up to where the body was read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Reads a line.
    pub(super) fn step<'a>(&mut self, body: &'a [u8]) -> Result<Parsed<'a>, Refusal> {
        if self.at == 0 && body.starts_with(MARK) {
            self.at = MARK.len();
        }
        let rest = body.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Parsed::End);
        }
        self.line += 1;
        let window = rest.get(..LONGEST_LINE).unwrap_or(rest);
        let end = window.iter().position(|byte| *byte == b'\n');
        if end.is_none() && window.len() < rest.len() {
            return Err(Refusal::line(self.line, "line is too long"));
        }
        let line = window.get(..end.unwrap_or(window.len())).unwrap_or_default();
        self.at += line.len() + usize::from(end.is_some());
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(Parsed::Nothing);
        }
        if std::str::from_utf8(line).is_err() {
            return Err(Refusal::line(self.line, "not UTF-8"));
        }
        let blank = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (key, value) = line.split_at_checked(blank).unwrap_or((line, b""));
        let value = value.trim_ascii();
        let value = if value.is_empty() { b"1" } else { value };
        Ok(Parsed::Pair { key: Cow::Borrowed(key), value: Cow::Borrowed(value), line: self.line })
    }
}
