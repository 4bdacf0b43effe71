//! Symbols of the running program.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// The address of a symbol that the program or one of its libraries exports (dlsym(3)).
pub fn dynamic_symbol(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: looks the name up, and reads nothing else.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}
