//! Runs a location now, without a client, and reports how it ended.

mod buffer;
mod capture;
pub(in crate::nginx) mod connect;
pub(in crate::nginx) mod connection;
pub(in crate::nginx) mod filters;
pub(in crate::nginx) mod guarded;
mod head;
mod held;
mod inside;
pub(in crate::nginx) mod phases;
mod receiver;
mod request;
mod start;
mod state;
pub mod trial;
pub mod variable;
#[cfg(feature = "panic-points")]
mod witness;

pub use filters::show_responses;
pub use receiver::{Flow, NextFilter, Receiver, ResponseHead};
pub use request::{Access, Begin, Method, Place, Request, StartError, Uri};
pub use start::{InProgress, Started, start, start_at};
pub use state::{Guard, Origin, RequestEnd};

pub(in crate::nginx) use connection::RunConnection;
pub(in crate::nginx) use inside::Inside;
pub(in crate::nginx) use receiver::fields;
pub(in crate::nginx) use start::start_attached;
pub(in crate::nginx) use state::Attached;
