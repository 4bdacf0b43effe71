//! Refuses to be loaded into an nginx whose structures differ from those of the headers that the module
//! was built with: its signature does not tell (BITS-2).

use std::ffi::{CStr, c_char};

use ngx::ffi::ngx_conf_t;

use super::{bits, process};

unsafe extern "C" {
    fn ngx_http_timer_layout(cf: *mut ngx_conf_t) -> *const c_char;
}

/// Compares; called before anything else of a configuration is read.
///
/// # Errors
///
/// Why the configuration is refused.
///
/// # Safety
///
/// `cf` is that of the `preconfiguration` hook.
pub(in crate::nginx) unsafe fn check(cf: *mut ngx_conf_t) -> Result<(), String> {
    if let Some(field) = bits::differs() {
        return Err(format!(
            "\"{field}\" is not where the bindings of \"ngx_http_timer_module\" have it, \
             this version of nginx is not supported"
        ));
    }
    // SAFETY: the caller's promise; uses memory of its own, and puts back what it changes.
    let differs = unsafe { ngx_http_timer_layout(cf) };
    if differs.is_null() {
        return Ok(());
    }
    // SAFETY: a constant of `layout.c`.
    let differs = unsafe { CStr::from_ptr(differs) }.to_string_lossy();
    Err(Foreign(&differs).to_string())
}

/// What is wrong, and what to do.
struct Foreign<'a>(&'a str);

impl std::fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (differs, version) = (self.0, process::nginx_version());
        write!(
            f,
            "\"ngx_http_timer_module\" was built for another nginx/{version}: its \"{differs}\" \
             differs, build it with the sources of this nginx (Debian: package \"nginx-dev\" of \
             the same revision as \"nginx\")"
        )
    }
}
