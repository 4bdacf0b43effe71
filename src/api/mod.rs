//! What is shown of the timers, and what is done with them by hand: routes, JSON, text, metrics.
//!
//! ```text
//!   request ──> route ──> GET: read the records ──> view ──> json | text | metrics | health
//!                 │
//!                 └─────> POST: may it? ──> order in the record ──> the owner is woken
//! ```
//!
//! Any worker answers, from the records and the configuration alone: a worker that hangs, or is
//! gone, cannot hide that it does. What can be done without nginx stands in files that know nothing
//! of it, and is tested there.
#![forbid(unsafe_code)]

mod day;
mod definition;
mod fleet;
mod health;
mod json;
mod metrics;
mod origin;
mod page;
mod piece;
mod query_args;
mod route;
mod samples;
mod table;
mod upstreams;
mod view;

#[cfg(test)]
mod tests;

#[cfg(feature = "nginx")]
mod act;
#[cfg(feature = "nginx")]
mod check;
#[cfg(feature = "nginx")]
mod fleet_act;
#[cfg(feature = "nginx")]
mod fleets;
#[cfg(feature = "nginx")]
mod keyvals;
#[cfg(feature = "nginx")]
mod lists;
#[cfg(feature = "nginx")]
mod next;
#[cfg(feature = "nginx")]
mod response;
#[cfg(feature = "nginx")]
mod serve;
#[cfg(feature = "nginx")]
mod snapshot;

#[cfg(feature = "nginx")]
pub use serve::Api;
