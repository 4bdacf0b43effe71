//! Runs a location now, without a client, and tells how it ended.

pub(in crate::nginx) mod connect;
pub(in crate::nginx) mod connection;
mod head;
pub(in crate::nginx) mod phases;
mod request;
mod start;
mod state;
pub mod trial;
pub mod variable;

pub use request::{Access, Method, Request, StartError, Uri};
pub use start::{InProgress, Started, start};
pub use state::{Origin, RequestEnd};
