//! The wall clock.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use crate::schedule::UnixMs;

/// The wall clock's time now, read from the system: nginx's own cached time may be as old as a turn
/// of its event loop is long.
pub fn wall_clock() -> UnixMs {
    let ms =
        |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => UnixMs(ms(after)),
        Err(before) => UnixMs(-ms(before.duration())),
    }
}
