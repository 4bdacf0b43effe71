//! Clean-up: which files below a directory are old, and their removal, in small steps.
//!
//! ```text
//!   begin ──> the newest are noted (with keep=) ──> what is old is removed ──> Report
//! ```
//!
//! Both walk the tree entry by entry ([`Walk::step`]), with a descriptor for each level. Who calls it decides
//! how many steps are taken at a time, and in which thread.
#![forbid(unsafe_code)]

mod glob;
mod newest;
mod options;
mod report;
mod walk;

#[cfg(test)]
mod tests;

pub use glob::Glob;
pub use options::{By, Options};
#[cfg(test)]
pub(crate) use report::Report;
pub use report::{Failure, Problem};
pub use walk::{Step, Walk};
