//! The system layer: what needs libc or `unsafe` and is not nginx's. Safe on the outside.

mod clock;
mod random;
mod socket;
mod symbol;

pub use clock::wall_clock;
pub use random::random_bytes;
pub use socket::SocketPair;
pub use symbol::dynamic_symbol;
