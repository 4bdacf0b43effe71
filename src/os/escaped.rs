//! What comes from outside as a log line shows it.

use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path, or other bytes, on one line: what is no character, or a control character, is shown as `\xHH`, as
/// nginx's access log does it.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a [u8]);

impl<'a> Escaped<'a> {
    /// The path to show.
    pub fn of(path: &'a Path) -> Self {
        Self(path.as_os_str().as_bytes())
    }

    /// The same for what nginx has as bytes.
    pub fn of_bytes(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    let mut bytes = [0; 4];
                    hex(f, character.encode_utf8(&mut bytes).as_bytes())?;
                } else {
                    f.write_char(character)?;
                }
            }
            hex(f, chunk.invalid())?;
        }
        Ok(())
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02X}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_on_one_line() {
        for (bytes, shown) in [
            (&b"/var/lib/nginx/timers.state"[..], "/var/lib/nginx/timers.state"),
            (b"", ""),
            (b"a b\"c\\d%s", "a b\"c\\d%s"),
            (b"a\nb\r\t\x7f\0", "a\\x0Ab\\x0D\\x09\\x7F\\x00"),
            ("\u{e4}\u{1f552}\u{85}".as_bytes(), "\u{e4}\u{1f552}\\xC2\\x85"),
            (b"\xff\xfe/\xc3", "\\xFF\\xFE/\\xC3"),
        ] {
            assert_eq!(Escaped::of_bytes(bytes).to_string(), shown);
        }
    }
}
