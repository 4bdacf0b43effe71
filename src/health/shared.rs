//! The records of this nginx: over reloads, in memory that each worker has from the master.
//!
//! ```text
//!   configuration read ──> prepare: room, if more is needed     (this may refuse the configuration)
//!   configuration in use ──> take_up: what was there is frozen, and moves   (this changes something)
//! ```
//!
//! Most reloads need no more room: old and new workers then have the same records, claims and all.
//! Room only grows, in steps of twice as much, and none is given back: a worker may keep a claim for
//! as long as it likes.

use std::cell::Cell;
use std::io;

use super::records::Records;
use crate::os::SharedMemory;

thread_local! {
    static IN_USE: Cell<Option<Records<'static>>> = const { Cell::new(None) };
    /// Larger ones, for a configuration that is not in use yet.
    static LARGER: Cell<Option<Records<'static>>> = const { Cell::new(None) };
}

/// The fewest slots that there are.
const FEWEST: usize = 512;

/// Makes room for so many slots, of which half stay empty, so that one is soon found; 0: none is
/// needed.
///
/// # Errors
///
/// What mmap(2) reports.
pub fn prepare(slots: usize) -> io::Result<()> {
    let room = slots.saturating_mul(2);
    let is_enough = |records: Option<Records<'_>>| records.is_some_and(|it| it.len() >= room);
    if slots == 0 || is_enough(IN_USE.get()) || is_enough(LARGER.get()) {
        return Ok(());
    }
    let room = room.max(FEWEST).checked_next_power_of_two().ok_or(io::ErrorKind::OutOfMemory)?;
    let memory = SharedMemory::new(Records::words_for(room))?;
    LARGER.set(Records::new(memory.leak()));
    Ok(())
}

/// The configuration for which room was made is in use.
pub fn take_up() {
    let Some(larger) = LARGER.take() else { return };
    if let Some(before) = IN_USE.get() {
        before.freeze();
        larger.copy_from(&before);
    }
    IN_USE.set(Some(larger));
}

/// The records; `None` if no configuration has needed any.
pub fn records() -> Option<Records<'static>> {
    IN_USE.get()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::records::Key;
    use super::super::verdict::Standing;
    use super::*;
    use crate::schedule::UnixMs;

    #[test]
    fn records_grow_and_never_shrink() {
        assert!(prepare(0).is_ok());
        take_up();
        assert!(records().is_none());

        prepare(1).unwrap();
        assert!(records().is_none(), "nothing changes before it is in use");
        take_up();
        let first = records().unwrap();
        assert_eq!(first.len(), FEWEST);
        let key = Key::of_server(b"a", b"", b"1", false);
        let now = Duration::from_secs(1000);
        first.find_or_make(&key, Standing::Checking, now, UnixMs(1)).unwrap();

        // Refused configurations change nothing, and do not take more each time.
        prepare(1000).unwrap();
        let larger = LARGER.get().unwrap();
        prepare(900).unwrap();
        assert_eq!(LARGER.get().unwrap().len(), larger.len());
        assert!(!first.is_frozen());
        take_up();
        let second = records().unwrap();
        assert!(first.is_frozen() && !second.is_frozen());
        assert_eq!(second.len(), 2048);
        assert_eq!(second.find(&key).unwrap().verdict().standing, Standing::Checking);

        prepare(1).unwrap();
        take_up();
        assert_eq!(records().unwrap().len(), 2048);
        assert!(!second.is_frozen());
    }
}
