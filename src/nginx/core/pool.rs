//! Memory of nginx's pools.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use ngx::ffi::{ngx_pnalloc, ngx_pool_cleanup_add, ngx_pool_t, ngx_str_t};

/// What a pool calls before its memory is given back.
pub(in crate::nginx) type Cleanup = unsafe extern "C" fn(*mut c_void);

/// Has the pool call `handler` with `data`, once, when it is destroyed; `None` without memory.
///
/// # Safety
///
/// `pool` is alive, and `data` is what `handler` may be called with until the pool is destroyed.
pub(in crate::nginx) unsafe fn on_destroy(
    pool: *mut ngx_pool_t,
    handler: Cleanup,
    data: *mut c_void,
) -> Option<()> {
    // SAFETY: the caller's promise; HOST-13: may be null.
    let mut cleanup = NonNull::new(unsafe { ngx_pool_cleanup_add(pool, 0) })?;
    // SAFETY: just made, and nobody else has it.
    let cleanup = unsafe { cleanup.as_mut() };
    cleanup.handler = Some(handler);
    cleanup.data = data;
    Some(())
}

/// Copies of `parts`, one behind the other, in the pool; `None` without memory.
///
/// # Safety
///
/// `pool` is alive.
pub(in crate::nginx) unsafe fn concat(pool: *mut ngx_pool_t, parts: &[&[u8]]) -> Option<ngx_str_t> {
    let len = parts.iter().try_fold(0_usize, |len, part| len.checked_add(part.len()))?;
    // SAFETY: the caller's promise; HOST-13: may be null.
    let data = NonNull::new(unsafe { ngx_pnalloc(pool, len) })?.cast::<u8>().as_ptr();
    let mut at = 0;
    for part in parts {
        // SAFETY: just allocated with the length of all parts.
        unsafe { ptr::copy_nonoverlapping(part.as_ptr(), data.wrapping_add(at), part.len()) };
        at += part.len();
    }
    Some(ngx_str_t { len, data })
}
