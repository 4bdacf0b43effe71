//! Whether the file can be accessed, as all workers of this master know it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::os::{SharedMemory, monotonic};

/// When an access to the file has failed, in any worker.
#[derive(Clone, Debug)]
pub(in crate::state) struct SharedHealth(Arc<SharedMemory>);

/// A failure is a thing of the past after this time; what lasts fails again each second.
const FAILS_FOR: Duration = Duration::from_secs(3);

impl SharedHealth {
    pub(in crate::state) fn new() -> io::Result<Self> {
        SharedMemory::new(1).map(|memory| Self(Arc::new(memory)))
    }

    /// An access has failed.
    pub(in crate::state) fn fail(&self) {
        if let Some(word) = self.0.word(0) {
            let now = u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX);
            word.store(now.max(1), Ordering::SeqCst);
        }
    }

    /// What has failed so far is past.
    pub(in crate::state) fn clear(&self) {
        if let Some(word) = self.0.word(0) {
            word.store(0, Ordering::SeqCst);
        }
    }

    /// Whether one has failed lately.
    pub(in crate::state) fn is_failing(&self) -> bool {
        let failed = self.0.word(0).map_or(0, |word| word.load(Ordering::SeqCst));
        failed != 0 && monotonic().saturating_sub(Duration::from_millis(failed)) < FAILS_FOR
    }
}
