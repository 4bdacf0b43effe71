//! Bodies of `application/json`: one object, whose values are strings, numbers or truth values.
//!
//! Tokens are found here, one in a step, so that a body can be read a little at a time and none is
//! nested; what is in a token is read by `serde_json`.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::{LONGEST_KEY, LONGEST_VALUE, Parsed, Refusal, Shown};

/// Where in an object.
#[derive(Debug)]
pub(super) struct JsonParser {
    at: usize,
    line: u64,
    expects: Expects,
    /// The key whose value comes, with its quotes.
    key: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Object,
    FirstKeyOrEnd,
    Key,
    Colon,
    Value,
    CommaOrEnd,
    Nothing,
}

/// So many blanks are skipped in a step.
const BLANKS: usize = 64 * 1024;
/// A byte may be written as six.
const LONGEST_TOKEN: usize = 6 * LONGEST_VALUE + 2;
const MARK: &[u8] = "\u{feff}".as_bytes();

impl JsonParser {
    pub(super) fn new() -> Self {
        Self { at: 0, line: 1, expects: Expects::Object, key: (0, 0) }
    }

    /// Up to where the body was read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Reads a token.
    pub(super) fn step<'a>(&mut self, body: &'a [u8]) -> Result<Parsed<'a>, Refusal> {
        if self.at == 0 && body.starts_with(MARK) {
            self.at = MARK.len();
        }
        let Some(first) = self.skip_blanks(body) else { return Ok(Parsed::Nothing) };
        let Some(first) = first else {
            return if self.expects == Expects::Nothing {
                Ok(Parsed::End)
            } else {
                Err(self.refuse("unexpected end"))
            };
        };
        self.expects = match (self.expects, first) {
            (Expects::Object, b'{') => Expects::FirstKeyOrEnd,
            (Expects::Object, _) => return Err(self.refuse("not an object")),
            (Expects::FirstKeyOrEnd | Expects::CommaOrEnd, b'}') => Expects::Nothing,
            (Expects::CommaOrEnd, b',') => Expects::Key,
            (Expects::Colon, b':') => Expects::Value,
            (Expects::FirstKeyOrEnd | Expects::Key, b'"') => {
                let end = self.end_of_string(body)?;
                self.key = (self.at, end);
                self.at = end;
                self.expects = Expects::Colon;
                return Ok(Parsed::Nothing);
            }
            (Expects::Value, _) => return self.value(body, first),
            (Expects::Nothing, _) => return Err(self.refuse("unexpected data after the object")),
            (Expects::FirstKeyOrEnd | Expects::Key, _) => {
                return Err(self.refuse("a key is expected"));
            }
            (Expects::CommaOrEnd, _) => return Err(self.refuse("\",\" or \"}\" is expected")),
            (Expects::Colon, _) => return Err(self.refuse("\":\" is expected")),
        };
        self.at += 1;
        Ok(Parsed::Nothing)
    }

    /// The next byte that is no blank, if there is one; `None` if there are too many to skip in a step.
    #[expect(clippy::option_option, reason = "two questions: is it known, and is there one")]
    fn skip_blanks(&mut self, body: &[u8]) -> Option<Option<u8>> {
        for _ in 0..BLANKS {
            match body.get(self.at) {
                Some(b'\n') => self.line += 1,
                Some(b' ' | b'\t' | b'\r') => {}
                other => return Some(other.copied()),
            }
            self.at += 1;
        }
        None
    }

    fn refuse(&self, why: &str) -> Refusal {
        Refusal::line(self.line, why)
    }

    /// Where the string ends whose first quote is next.
    fn end_of_string(&self, body: &[u8]) -> Result<usize, Refusal> {
        let mut at = self.at + 1;
        let limit = self.at.saturating_add(LONGEST_TOKEN);
        loop {
            let rest = body.get(at..).unwrap_or_default();
            let rest = rest.get(..limit.saturating_sub(at)).unwrap_or(rest);
            let Some(more) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else {
                let why =
                    if at + rest.len() >= limit { "string is too long" } else { "unexpected end" };
                return Err(self.refuse(why));
            };
            at += more;
            if body.get(at) == Some(&b'"') {
                return Ok(at + 1);
            }
            at += 2;
        }
    }

    fn string<'a>(&self, token: &'a [u8]) -> Result<Cow<'a, [u8]>, Refusal> {
        let Ok(token) = std::str::from_utf8(token) else { return Err(self.refuse("not UTF-8")) };
        let read = if token.contains('\\') {
            serde_json::from_str::<String>(token).map(|text| Cow::Owned(text.into_bytes()))
        } else {
            serde_json::from_str::<&str>(token).map(|text| Cow::Borrowed(text.as_bytes()))
        };
        read.map_err(|_| self.refuse("invalid string"))
    }

    fn value<'a>(&mut self, body: &'a [u8], first: u8) -> Result<Parsed<'a>, Refusal> {
        let key = self.string(body.get(self.key.0..self.key.1).unwrap_or_default())?;
        let (start, line) = (self.at, self.line);
        let refuse = |what: &str| {
            let key = key.get(..LONGEST_KEY).unwrap_or(&key);
            Err(Refusal::Line(line, format!("value of {} is {what}", Shown(key))))
        };
        let (value, end) = match first {
            b'{' => return refuse("an object"),
            b'[' => return refuse("an array"),
            b'"' => {
                let end = self.end_of_string(body)?;
                (self.string(body.get(start..end).unwrap_or_default())?, end)
            }
            _ => {
                let rest = body.get(start..).unwrap_or_default();
                let rest = rest.get(..LONGEST_VALUE).unwrap_or(rest);
                let ends = |byte: &u8| {
                    matches!(byte, b',' | b'}' | b']' | b'"' | b':' | b' ' | b'\t' | b'\r' | b'\n')
                };
                let len = rest.iter().position(ends).unwrap_or(rest.len());
                let token = rest.get(..len).unwrap_or_default();
                let value: &[u8] = match token {
                    b"true" => b"1",
                    b"false" => b"0",
                    b"null" => return refuse("null"),
                    // As it is written: "1e400" and "1.0" are numbers, too.
                    _ if serde_json::from_slice::<IgnoredAny>(token).is_ok() => token,
                    _ => return Err(self.refuse("invalid value")),
                };
                (Cow::Borrowed(value), start + len)
            }
        };
        self.at = end;
        self.expects = Expects::CommaOrEnd;
        Ok(Parsed::Pair { key, value, line })
    }
}
