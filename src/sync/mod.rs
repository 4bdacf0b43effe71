//! Data sync at work: responses of runs become the content of zones, which state files keep.
//!
//! - [`Fetch`]: takes a response, and makes it the content of a zone, a little in each turn;
//! - `save`: state files, written beside the event loop;
//! - `load`: what a zone has when nginx starts, and after a reload.
#![forbid(unsafe_code)]

mod fetch;
mod load;
mod save;

pub use fetch::{Fetch, Taking};
pub use load::{load, open};
pub use save::end;

use crate::conf::{KeyvalZone, now};
use crate::keyval::{SinceBoot, When};
use crate::os::boot::clock_id;
use crate::os::{boot_time, wall_clock};

/// What a sender calls the content of a zone; empty if there is none, or it is too old.
pub fn etag(zone: &KeyvalZone) -> Vec<u8> {
    let meta = zone.with(|segment| {
        let (generation, meta, _, _) = segment.meta()?;
        let age = now().saturating_sub(segment.up_to_date(generation, meta.taken));
        let is_over = zone.age().is_some_and(|limit| age > limit.timeout);
        Some(meta.etag).filter(|_| !is_over)
    });
    meta.flatten().unwrap_or_default()
}

/// This instant, as a state file has it.
fn clocks() -> When {
    let ms = i64::try_from(boot_time().as_millis()).unwrap_or(i64::MAX);
    When {
        time: u64::try_from(wall_clock().0).unwrap_or(0),
        boot: clock_id().map(|id| SinceBoot { id: format!("{id:032x}"), ms }),
    }
}
