//! The text of a timer: pages of its own, each with a checksum.

use super::codec::{Decoder, Encoder};
use super::format::{
    PAGE_BYTES, TEXT, TEXT_BYTES, TEXT_MARK, TEXT_MARK_AT, TEXT_PAGE_BYTES, text as at,
};

/// One page of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::state) struct TextPage {
    /// Which text of its owner it is: 0 if it is of none yet.
    pub(in crate::state) serial: u64,
    /// The hash of the name of the timer whose text it is.
    pub(in crate::state) owner: u64,
    /// Which page of the text.
    pub(in crate::state) index: usize,
    /// The length of the whole text.
    pub(in crate::state) length: usize,
    /// The bytes of the text that are in it.
    pub(in crate::state) content: Vec<u8>,
}

/// How many pages a text of so many bytes takes.
pub(in crate::state) fn pages_for(bytes: usize) -> usize {
    bytes.min(TEXT_BYTES).div_ceil(TEXT_PAGE_BYTES)
}

/// Whether a page is one of a timer's text, be it whole or not.
pub(in crate::state) fn is_text(page: &[u8; PAGE_BYTES]) -> bool {
    page.get(TEXT_MARK_AT..) == Some(&TEXT_MARK)
}

/// A page as it stands in the file, of this text of its owner.
pub(in crate::state) fn encode_page(
    serial: u64,
    owner: u64,
    index: usize,
    text: &[u8],
) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    let mut to = Encoder(&mut bytes);
    to.u64(at::SERIAL, serial);
    to.u64(at::OWNER, owner);
    to.count(at::INDEX, index);
    to.count(at::LENGTH, text.len());
    let rest = text.get(index.saturating_mul(TEXT_PAGE_BYTES)..).unwrap_or_default();
    to.put_slice(at::CONTENT, rest.get(..TEXT_PAGE_BYTES).unwrap_or(rest));
    to.put(at::MARK, TEXT_MARK);
    if let Some(text) = bytes.get_mut(..TEXT.bytes) {
        TEXT.seal(text);
    }
    bytes
}

/// Reads a page; `None` if it is none of a text, or torn.
pub(in crate::state) fn decode_page(bytes: &[u8; PAGE_BYTES]) -> Option<TextPage> {
    if !is_text(bytes) || !TEXT.is_whole(TEXT.of(bytes)) {
        return None;
    }
    let from = Decoder(bytes);
    let index = from.count(at::INDEX, TEXT_BYTES);
    let length = from.count(at::LENGTH, TEXT_BYTES);
    let here = length.saturating_sub(index.saturating_mul(TEXT_PAGE_BYTES)).min(TEXT_PAGE_BYTES);
    let content: [u8; TEXT_PAGE_BYTES] = from.bytes(at::CONTENT);
    Some(TextPage {
        serial: from.u64(at::SERIAL),
        owner: from.u64(at::OWNER),
        index,
        length,
        content: content.get(..here).unwrap_or_default().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record::format::TEXT_PAGES;

    #[test]
    fn a_text_of_any_length_survives_its_pages() {
        for length in [0, 1, 4055, 4056, 4057, 8112, 8113, 8192] {
            let text: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut joined = Vec::new();
            for index in 0..TEXT_PAGES {
                let page = decode_page(&encode_page(7, 9, index, &text)).unwrap();
                assert_eq!(
                    (page.serial, page.owner, page.index, page.length),
                    (7, 9, index, length)
                );
                joined.extend(page.content);
            }
            assert_eq!(joined, text, "{length}");
        }
        assert_eq!([0, 1, 4056, 4057, 8192, 9999].map(pages_for), [0, 1, 1, 2, 3, 3]);
    }

    #[test]
    fn a_flipped_bit_is_seen_anywhere() {
        let mut bytes = encode_page(1, 2, 0, b"disk full");
        for at in 0..PAGE_BYTES {
            bytes[at] ^= 0x10;
            assert_eq!(decode_page(&bytes), None, "{at}");
            bytes[at] ^= 0x10;
        }
        assert!(decode_page(&bytes).is_some());
    }
}
