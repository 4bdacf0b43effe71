//! The nginx layer: everything that names nginx's types or is called by nginx.
//!
//! Safe on the outside. Nothing in here knows of timers as a feature; it offers directives,
//! variables, events, processes, logs and one primitive: *run this location now, without a client,
//! and report how it ended* ([`run::start`]).
//!
//! Each folder may use those above it:
//!
//! - `core`: strings, memory, logs, processes, events;
//! - [`conf`]: directives, locations, and a configuration that is taken up;
//! - [`run`]: a run's request and its connection;
//! - [`http`]: answers to clients;
//! - [`upstream`]: groups of servers;
//! - [`hooks`]: the descriptor of the module, and what nginx calls in it.
//!
//! SAFETY comments cite the facts of SAFETY.md (`HOST-n`, `RUN-n`) or an invariant that stands
//! beside its type.

pub mod conf;
mod core;
pub mod hooks;
pub mod http;
pub mod run;
pub mod upstream;

pub use self::core::string::escaped;
pub use self::core::{event, log, module, notifier, process, text, turn};
