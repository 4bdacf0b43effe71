//! Which boot of the machine this is.

use std::fs;

use crate::schedule::stable_hash;

/// The kernel's random id of this boot, as 16 bytes; a pid means something only together with it.
///
/// Where `/proc/sys/kernel/random/boot_id` cannot be read, the boot's instant from `/proc/stat`
/// stands in for it, and where there is no `/proc` at all, zeros: then a pid from before a reboot
/// cannot be told from a living one, but the record's lock still can.
/// See random(4) and proc(5).
pub fn boot_id() -> [u8; 16] {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| parse_uuid(text.trim()))
        .or_else(|| boot_time_id(&fs::read_to_string("/proc/stat").ok()?))
        .unwrap_or_default()
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    for byte in &mut id {
        let high = char::from(digits.next()?).to_digit(16)?;
        let low = char::from(digits.next()?).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    digits.next().is_none().then_some(id)
}

fn boot_time_id(stat: &str) -> Option<[u8; 16]> {
    let boot_time = stat.lines().find(|line| line.starts_with("btime "))?;
    let mut id = [0; 16];
    let (low, high) = id.split_at_mut(8);
    low.copy_from_slice(&stable_hash(&[b"boot", boot_time.as_bytes()]).to_le_bytes());
    high.copy_from_slice(&stable_hash(&[b"time", boot_time.as_bytes()]).to_le_bytes());
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_twice() {
        assert_eq!(boot_id(), boot_id());
        assert_ne!(boot_id(), [0; 16]);
    }

    #[test]
    fn odd_boot_ids_are_no_panic() {
        let id = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0x00, 0x11, 0xff));
        for odd in
            ["", "zz", "00112233-4455-6677-8899-aabbccddeef", "é0112233445566778899aabbccddee"]
        {
            assert_eq!(parse_uuid(odd), None, "{odd}");
        }
        let too_long = "00112233-4455-6677-8899-aabbccddeeff0";
        assert_eq!(parse_uuid(too_long), None);
        assert_ne!(boot_time_id("cpu 1\nbtime 1764000000\n"), boot_time_id("btime 1764000001\n"));
        assert_eq!(boot_time_id("cpu 1\n"), None);
    }
}
