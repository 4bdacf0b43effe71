//! Random bytes.

use std::io;

/// `N` random bytes from the kernel, without waiting (getrandom(2)).
///
/// # Errors
///
/// The kernel's entropy pool is not ready yet, early after boot.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256, "more could be cut short by a signal") };

    let mut bytes = [0; N];
    // SAFETY: writes at most `N` bytes to the array.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, libc::GRND_NONBLOCK) };
    if usize::try_from(n) == Ok(N) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differ_each_time() {
        assert_ne!(random_bytes::<16>().unwrap(), random_bytes::<16>().unwrap());
    }
}
