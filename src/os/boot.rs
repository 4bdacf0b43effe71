//! What a pid belongs to: a boot of the machine, and a namespace of pids.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::schedule::stable_hash;

/// The kernel's random id of this boot, as 16 bytes, another one in each namespace of pids that is not
/// the host's: a pid means something only together with it.
///
/// Where `/proc/sys/kernel/random/boot_id` cannot be read, the boot's instant from `/proc/stat`
/// stands in for it, and where there is no `/proc` at all, zeros: then a pid from before a reboot
/// cannot be distinguished from a living one, but the record's lock still can.
/// See random(4), proc(5) and `pid_namespaces(7)`.
pub fn boot_id() -> [u8; 16] {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| parse_uuid(text.trim()))
        .or_else(|| boot_time_id(&fs::read_to_string("/proc/stat").ok()?))
        .unwrap_or_default();
    in_namespace(id, inode("pid", OF_HOST))
}

/// The kernel's random id of this boot, another one in each namespace of time that is not the host's: the
/// time since boot means something only together with it. `None` where it cannot be read.
/// See random(4) and `time_namespaces(7)`.
pub fn clock_id() -> Option<u128> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = parse_uuid(id.trim())?;
    Some(u128::from_be_bytes(id) ^ u128::from(inode("time", TIME_OF_HOST) ^ TIME_OF_HOST))
}

/// The inodes of the host's namespaces: `PROC_PID_INIT_INO` and `PROC_TIME_INIT_INO` of Linux.
const OF_HOST: u64 = 0xefff_fffc;
const TIME_OF_HOST: u64 = 0xefff_fffa;

/// The inode of this process's namespace of this type; the host's where that cannot be read.
fn inode(name: &str, of_host: u64) -> u64 {
    fs::metadata(format!("/proc/self/ns/{name}")).map_or(of_host, |namespace| namespace.ino())
}

fn in_namespace(id: [u8; 16], namespace: u64) -> [u8; 16] {
    (u128::from_le_bytes(id) ^ u128::from(namespace ^ OF_HOST)).to_le_bytes()
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
        assert_eq!(clock_id(), clock_id());
        assert_ne!(clock_id(), Some(0));
    }

    #[test]
    fn differs_in_each_namespace_of_pids_and_is_the_boot_s_in_the_host_s() {
        let id = |namespace| in_namespace([7; 16], namespace);
        assert_eq!(id(OF_HOST), [7; 16]);
        assert_ne!(id(4_026_532_001), id(4_026_532_002));
        assert_ne!(id(4_026_532_001), id(OF_HOST));
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
