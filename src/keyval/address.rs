//! Addresses and networks.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A network; an address is one of the longest length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network {
    /// 4 or 6.
    pub(super) family: u8,
    /// The address from the highest bit on; what is not of the network is zero.
    pub(super) bits: u128,
    /// How many bits are of the network.
    pub(super) len: u8,
}

impl Network {
    /// Reads `address` or `address/length`. IPv4 in IPv6 (`::ffff:192.0.2.1`) is IPv4.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(length(len)?)),
            None => (text, None),
        };
        if let Ok(address) = address.parse::<Ipv4Addr>() {
            return Self::v4(address, len.unwrap_or(32));
        }
        let address = address.parse::<Ipv6Addr>().ok()?;
        let len = len.unwrap_or(128);
        match address.to_ipv4_mapped() {
            Some(address) if len >= 96 => Self::v4(address, len - 96),
            _ => Self::new(6, address.to_bits(), len, 128),
        }
    }

    fn v4(address: Ipv4Addr, len: u8) -> Option<Self> {
        Self::new(4, u128::from(address.to_bits()) << 96, len, 32)
    }

    fn new(family: u8, bits: u128, len: u8, longest: u8) -> Option<Self> {
        (len <= longest).then_some(Self { family, bits: bits & mask(len), len })
    }

    /// Whether all addresses of `other` are in this network.
    pub(super) fn contains(self, other: Self) -> bool {
        self.family == other.family
            && self.len <= other.len
            && other.bits & mask(self.len) == self.bits
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

fn length(text: &str) -> Option<u8> {
    let is_number = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Option<Network> {
        Network::parse(text.as_bytes())
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "x",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/-1",
            "1.2.3.4/+1",
            "1.2.3.4/0001",
            "::/129",
            "1.2.3.4 ",
            "[::1]",
            "fe80::1%eth0",
            "01.2.3.4",
            "unix:",
        ] {
            assert_eq!(network(text), None, "{text}");
        }
        assert_eq!(Network::parse(b"\xff"), None);
    }

    #[test]
    fn host_bits_mean_nothing_and_mapped_addresses_are_version_4() {
        assert_eq!(network("10.1.2.3/8"), network("10.0.0.0/8"));
        assert_eq!(network("::ffff:10.1.2.3"), network("10.1.2.3"));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        assert_eq!(network("2001:DB8::1"), network("2001:db8:0::1/128"));
        assert_ne!(network("::/0"), network("0.0.0.0/0"));
    }

    #[test]
    fn a_network_contains_what_begins_like_it() {
        let contains = |a, b| network(a).unwrap().contains(network(b).unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1") && contains("0.0.0.0/0", "1.1.1.1"));
        assert!(contains("::/0", "2001:db8::1") && !contains("::/0", "1.1.1.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0") && !contains("10.0.0.0/8", "10.0.0.0/7"));
        assert!(contains("10.0.0.1", "10.0.0.1") && !contains("10.0.0.1", "10.0.0.2"));
    }
}
