//! The protocol under faults: an etcd that interprets the very bodies that are sent, loses, delays and
//! duplicates them and their answers, hosts that die, stand still and have wrong clocks, and an oracle that
//! knows what was promised.

mod accounts;
mod broken_rules;
mod claims;
pub(in crate::fleet) mod etcd;
mod exhaustive;
mod host;
mod oracle;
mod random;
mod record;
mod scripts;
mod world;

/// Instants of the simulators are far from the ends of both types.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}
