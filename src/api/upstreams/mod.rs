//! What is shown of the groups with health checks: their servers, and the results of the checks.

mod complaint;
mod json;
mod metrics;
mod table;
mod view;

#[cfg(feature = "nginx")]
mod answers;
#[cfg(feature = "nginx")]
mod look;

#[cfg(feature = "nginx")]
pub(super) use answers::{one, write_all};
#[cfg(feature = "nginx")]
pub(super) use complaint::complaints;
#[cfg(feature = "nginx")]
pub(super) use look::Groups;
#[cfg(feature = "nginx")]
pub(super) use metrics::GroupMetrics;
#[cfg(feature = "nginx")]
pub(super) use table::write_table;

use super::piece::Then;
use view::GroupView;

/// What lists are written from: the groups, by number, as they are now.
pub(super) trait Upstreams {
    /// How many there are.
    fn count(&self) -> usize;

    /// One of them.
    fn view(&self, number: usize) -> Option<GroupView>;
}
