//! The beginning of a run's response, as text.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::rc::Rc;

use crate::nginx::run::{Flow, Receiver, ResponseHead};
use crate::os::memory::fallible;

/// Takes the first bytes of a response's body.
pub(super) struct Captured {
    limit: usize,
    bytes: RefCell<Vec<u8>>,
}

impl Captured {
    /// For so many bytes; `None` for none.
    pub(super) fn new(limit: usize) -> Option<Rc<Self>> {
        (limit > 0).then(|| Rc::new(Self { limit, bytes: RefCell::default() }))
    }

    /// What came, as text: bytes that are no UTF-8 are replaced.
    pub(super) fn text(&self) -> String {
        text_of(&self.bytes.borrow(), self.limit)
    }
}

impl Receiver for Captured {
    fn head(&self, _: &ResponseHead<'_>) -> Flow {
        Flow::More
    }

    fn body(&self, piece: &[u8]) -> Flow {
        let mut bytes = self.bytes.borrow_mut();
        let more = piece.len().min(self.limit.saturating_sub(bytes.len()));
        // Without memory it ends here, and the run goes on.
        if fallible(|| bytes.try_reserve(more)).is_ok() {
            bytes.extend_from_slice(piece.get(..more).unwrap_or_default());
        }
        Flow::More
    }

    fn is_full(&self) -> bool {
        self.bytes.borrow().len() >= self.limit
    }
}

/// Both take a response.
pub(super) struct Both(pub(super) Rc<dyn Receiver>, pub(super) Rc<dyn Receiver>);

impl Receiver for Both {
    fn head(&self, head: &ResponseHead<'_>) -> Flow {
        self.0.head(head);
        self.1.head(head)
    }

    fn body(&self, piece: &[u8]) -> Flow {
        self.0.body(piece);
        self.1.body(piece)
    }

    fn is_full(&self) -> bool {
        self.0.is_full() && self.1.is_full()
    }

    fn takes_shares(&self) -> bool {
        self.0.takes_shares() || self.1.takes_shares()
    }
}

/// The first `limit` bytes of a body as a text that is not longer, either.
fn text_of(bytes: &[u8], limit: usize) -> String {
    let is_cut = bytes.len() >= limit;
    let mut text = String::new();
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        // A character that was cut in two is left out.
        let is_half = is_cut && chunks.peek().is_none();
        if !chunk.invalid().is_empty() && !is_half {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

/// A text in quotes, on one line, and not longer than a line of the log has room for.
pub(super) struct QuotedResponse<'a>(pub(super) &'a str);

/// How many characters of it are shown.
const SHOWN: usize = 200;

impl fmt::Display for QuotedResponse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut left = SHOWN;
        let mut escaped = String::new();
        for character in self.0.chars() {
            escaped.clear();
            match character {
                '"' | '\\' => escaped.extend(['\\', character]),
                '\n' => escaped.push_str("\\n"),
                '\r' => escaped.push_str("\\r"),
                '\t' => escaped.push_str("\\t"),
                _ if character.is_control() => {
                    let mut bytes = [0; 4];
                    for byte in character.encode_utf8(&mut bytes).bytes() {
                        write!(escaped, "\\x{byte:02X}")?;
                    }
                }
                _ => escaped.push(character),
            }
            let length = escaped.chars().count();
            if length > left {
                return f.write_str("...\"");
            }
            left -= length;
            f.write_str(&escaped)?;
        }
        f.write_char('"')
    }
}
