//! The hash behind offsets, jitter and slots.

/// A hash of `parts` that never changes: the same in each version, on each host and architecture.
///
/// FNV-1a over the parts, each followed by the byte 0xff (which UTF-8 does not contain, so that
/// `["a", "b"]` and `["ab"]` differ), then the finalizer of `MurmurHash3`, since FNV's high bits
/// alone are poor for short input.
/// <http://www.isthe.com/chongo/tech/comp/fnv/>, <https://github.com/aappleby/smhasher>.
pub fn stable_hash(parts: &[&[u8]]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    let mut hash = OFFSET_BASIS;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }

    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        assert_ne!(stable_hash(&[b"a", b"b"]), stable_hash(&[b"ab"]));
        assert_ne!(stable_hash(&[b"a", b""]), stable_hash(&[b"a"]));
    }

    #[test]
    fn spreads_similar_names_evenly() {
        let mut buckets = [0_u32; 8];
        for n in 0..8000 {
            let hash = stable_hash(&[format!("timer-{n}").as_bytes()]);
            buckets[usize::try_from(hash % 8).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
    }
}
