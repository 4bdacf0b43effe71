//! Users.

/// Whether this process runs as root (geteuid(2)).
pub fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
