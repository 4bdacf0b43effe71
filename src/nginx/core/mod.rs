//! What all of the layer is built on: strings, memory, logs, processes, events.

pub mod as_any;
pub(in crate::nginx) mod bits;
pub(in crate::nginx) mod cycle;
pub mod event;
pub(in crate::nginx) mod gauges;
pub(in crate::nginx) mod guard;
pub(in crate::nginx) mod layout;
pub mod log;
pub mod module;
pub mod notifier;
#[cfg(feature = "panic-points")]
mod panics;
pub(in crate::nginx) mod pool;
pub mod process;
pub(in crate::nginx) mod rc;
pub(in crate::nginx) mod string;
pub mod text;
pub(in crate::nginx) mod threads;
pub mod turn;
