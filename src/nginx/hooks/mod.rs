//! The module as nginx sees it: its descriptor, and the hooks in it as methods.

mod descriptor;
mod http_module;
mod zone;

pub use descriptor::{context, descriptor, with_main};
pub use http_module::{HttpModule, InitProcess};
