//! Groups of servers: which one a location passes to.

mod group;
mod passed;

pub use group::Group;
pub use passed::Passed;
