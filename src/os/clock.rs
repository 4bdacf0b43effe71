//! Clocks.

use std::time::{Duration, Instant};

use crate::schedule::UnixMs;

/// The wall clock's time now, read from the system: nginx's own cached time may be as old as a turn
/// of its event loop is long.
pub fn wall_clock() -> UnixMs {
    // The kernel refuses to be set to an instant before 1970 (settimeofday(2)).
    let since_1970 = clock(libc::CLOCK_REALTIME);
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    UnixMs(seconds.saturating_mul(1000).saturating_add(since_1970.subsec_millis().into()))
}

/// The share of a turn of the event loop that one kind of work may take before clients are served
/// again.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    began: Instant,
}

/// With all that the processor did otherwise, and what a disk took: its clock costs no system call.
const SHARE: Duration = Duration::from_millis(5);

impl Share {
    /// It begins now.
    pub fn begin() -> Self {
        Self::begin_at(Instant::now())
    }

    /// The same for one who has just looked at the clock.
    pub fn begin_at(now: Instant) -> Self {
        Self { began: now }
    }

    /// Whether it is used up.
    pub fn is_spent(&self) -> bool {
        self.is_spent_at(Instant::now())
    }

    /// The same for one who has just looked at the clock.
    pub fn is_spent_at(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= SHARE
    }
}

/// The time since some instant that is the same for all processes of this boot; nobody sets it.
pub fn monotonic() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

/// The time since boot, that of suspension included; nobody sets it.
pub fn boot_time() -> Duration {
    clock(libc::CLOCK_BOOTTIME)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a value of ours.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn a_share_ends() {
        let share = Share::begin();
        sleep(SHARE);
        assert!(share.is_spent());
    }
}
