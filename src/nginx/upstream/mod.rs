//! Groups of servers: which one a location passes to, and which of its servers get requests.

mod group;
mod list;
mod passed;
mod peers;

pub use group::Group;
pub use passed::Passed;
pub use peers::{Down, Mark, Marked, Membership, Peer, Peers, UnknownLayout, Unreadable};
