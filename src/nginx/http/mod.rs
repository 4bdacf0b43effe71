//! Answers to clients' requests.

mod background;
pub(in crate::nginx) mod client_request;
pub(in crate::nginx) mod handler;
mod open;
mod reply;
pub mod response;

pub use client_request::ClientRequest;
pub use handler::{Block, Handler};
