//! The system layer: what needs libc or `unsafe` and is not nginx's. Safe on the outside.

mod background;
pub mod boot;
pub mod call;
mod clock;
pub mod directory;
mod escaped;
mod eventfd;
pub mod fault;
pub mod file;
mod file_id;
pub mod lock;
pub mod memory;
pub mod memory_file;
pub mod process;
mod random;
#[cfg(test)]
pub(crate) mod scratch;
mod secret;
mod shared_memory;
mod socket;
mod symbol;
mod user;

pub use background::{Background, Syncing};
pub use clock::{Share, boot_time, monotonic, wall_clock};
pub use escaped::Escaped;
pub use eventfd::EventFd;
pub use random::random_bytes;
pub use secret::{Secret, SecretError};
pub use shared_memory::SharedMemory;
pub use socket::SocketPair;
pub use symbol::dynamic_symbol;
pub use user::is_root;
