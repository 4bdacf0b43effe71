//! Strings of nginx's.

use std::ffi::CStr;

use ngx::core::NgxStr;
use ngx::ffi::ngx_str_t;

use crate::os::Escaped;

/// The bytes of a string of nginx's.
///
/// # Safety
///
/// `string` holds `len` initialized bytes that live and stay unchanged for `'a`, or its length is
/// zero.
pub(in crate::nginx) unsafe fn bytes<'a>(string: ngx_str_t) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { NgxStr::from_ngx_str(string) }.as_bytes()
}

/// `bytes` as a string of nginx's, which must not outlive them nor be written through.
pub(in crate::nginx) const fn borrowed(bytes: &[u8]) -> ngx_str_t {
    ngx_str_t { len: bytes.len(), data: bytes.as_ptr().cast_mut() }
}

/// A constant as a string of nginx's, with a zero byte behind it.
pub(in crate::nginx) const fn constant(string: &'static CStr) -> ngx_str_t {
    ngx_str_t { len: string.count_bytes(), data: string.as_ptr().cast_mut().cast() }
}

/// Bytes from outside, for a message: what is not UTF-8, or a control character, is escaped as `\xNN`.
pub fn escaped(bytes: &[u8]) -> Escaped<'_> {
    Escaped::of_bytes(bytes)
}
