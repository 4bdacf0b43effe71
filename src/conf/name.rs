//! Names of timers.

use std::fmt;

/// The longest name, in bytes.
const LONGEST: usize = 127;

/// A timer's name: 1 to 127 characters of `A-Za-z0-9._-`, not beginning with `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimerName(String);

impl TimerName {
    /// Reads a name; `None` if it is none.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if word.len() > LONGEST || !word.iter().all(valid) {
            return None;
        }
        match word.first() {
            None | Some(b'.' | b'-') => None,
            Some(_) => String::from_utf8(word.to_vec()).ok().map(Self),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TimerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name as configured, in which `$server_name` may stand for the first name of the server: known
/// only once the whole server was read.
#[derive(Clone, Debug)]
pub(super) struct NameTemplate {
    word: Vec<u8>,
    parts: Vec<Vec<u8>>,
}

impl NameTemplate {
    /// Reads a name with any number of `$server_name` in it; `None` if no server's name could make
    /// it a valid one.
    pub(super) fn parse(word: &[u8]) -> Option<Self> {
        let parts = split(word);
        // Any plain name will do here; the real one is looked at when it is known.
        TimerName::parse(&parts.join(b"x".as_slice()))?;
        Some(Self { word: word.to_vec(), parts })
    }

    /// The name as configured.
    pub(super) fn word(&self) -> &[u8] {
        &self.word
    }

    /// Whether it needs the server's name.
    pub(super) fn needs_server_name(&self) -> bool {
        self.parts.len() > 1
    }

    /// The name with `server_name` in its place; `None` if that makes no valid one.
    pub(super) fn resolve(&self, server_name: &[u8]) -> Option<TimerName> {
        TimerName::parse(&self.parts.join(server_name))
    }
}

/// What stands between each `$server_name` or `${server_name}`.
fn split(word: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut rest = word;
    while let Some((byte, behind)) = rest.split_first() {
        if let Some(behind) = after_variable(rest) {
            parts.push(Vec::new());
            rest = behind;
            continue;
        }
        if let Some(part) = parts.last_mut() {
            part.push(*byte);
        }
        rest = behind;
    }
    parts
}

fn after_variable(word: &[u8]) -> Option<&[u8]> {
    if let Some(behind) = word.strip_prefix(b"${server_name}") {
        return Some(behind);
    }
    let behind = word.strip_prefix(b"$server_name")?;
    // Not the beginning of a longer variable's name.
    let ends = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'_';
    behind.first().is_none_or(ends).then_some(behind)
}
