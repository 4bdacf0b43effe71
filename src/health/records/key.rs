//! What a slot is known by.

use xxhash_rust::xxh64::xxh64;

/// One check of one server of a group; or what is kept of a group itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) words: [u64; 2],
    pub(super) check: u64,
}

impl Key {
    /// The check with this `identity`, which its own parameters make up, of a server of the group: by
    /// the bytes of its address, never by its place in the list.
    pub fn of_server(group: &[u8], identity: &[u8], address: &[u8], backup: bool) -> Self {
        Self::of(&[b"server", group, identity, address, &[u8::from(backup)]], &[group, identity])
    }

    /// The group itself.
    pub fn of_group(group: &[u8]) -> Self {
        Self::of(&[b"group", group], &[group])
    }

    /// What all slots of a check have in common, and those of no other.
    pub fn check(&self) -> u64 {
        self.check
    }

    fn of(parts: &[&[u8]], check: &[&[u8]]) -> Self {
        let all = joined(parts);
        let words = [xxh64(&all, 1), xxh64(&all, 2)];
        Self { words, check: xxh64(&joined(check), 3) }
    }
}

/// Different parts are different bytes, wherever they end.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in parts {
        joined.extend_from_slice(&part.len().to_le_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_counts() {
        let key = Key::of_server(b"a", b"b", b"c", false);
        assert_eq!(key, Key::of_server(b"a", b"b", b"c", false));
        assert_eq!(key.check(), Key::of_server(b"a", b"b", b"x", true).check());
        for other in [
            Key::of_server(b"ab", b"", b"c", false),
            Key::of_server(b"a", b"bc", b"", false),
            Key::of_server(b"a", b"b", b"c", true),
            Key::of_server(b"x", b"b", b"c", false),
            Key::of_group(b"a"),
        ] {
            assert_ne!(key.words, other.words);
        }
    }
}
