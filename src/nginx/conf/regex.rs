//! Regular expressions, by nginx's own PCRE: they mean the same as elsewhere in the configuration.

use std::mem;
use std::ptr::NonNull;

use ngx::ffi::{
    NGX_MAX_CONF_ERRSTR, ngx_int_t, ngx_regex_compile, ngx_regex_compile_t, ngx_regex_t, ngx_str_t,
};

use super::parsing::{Parsing, Refused};
use crate::nginx::core::cycle::Cycle;
use crate::nginx::core::rc;
use crate::nginx::core::string::bytes;

unsafe extern "C" {
    fn ngx_http_timer_regex_exec(regex: *mut ngx_regex_t, data: *mut u8, len: usize) -> ngx_int_t;
}

/// `NGX_REGEX_NO_MATCHED` (`src/core/ngx_regex.h`): PCRE's, the same in both versions of it.
const NO_MATCHED: ngx_int_t = -1;

/// A regular expression of the configuration.
///
/// # Invariants
///
/// Points to a compiled one that is there as long as the configuration is.
#[derive(Clone, Copy, Debug)]
pub struct Regex(NonNull<ngx_regex_t>, Cycle);

impl Regex {
    /// Whether it matches; `None` if PCRE cannot tell, and once its configuration is gone.
    pub fn is_match(self, text: &[u8]) -> Option<bool> {
        if !self.1.is_alive() {
            return None;
        }
        let (data, len) = (text.as_ptr().cast_mut(), text.len());
        // SAFETY: the invariant; reads the text only.
        let found = unsafe { ngx_http_timer_regex_exec(self.0.as_ptr(), data, len) };
        match found {
            0.. => Some(true),
            NO_MATCHED => Some(false),
            _ => None,
        }
    }
}

impl Parsing<'_> {
    /// Compiles a regular expression, which lives as long as the configuration.
    ///
    /// # Errors
    ///
    /// What PCRE says of it.
    pub fn regex(&mut self, pattern: &[u8]) -> Result<Regex, Refused> {
        let cf = self.cf();
        // What PCRE keeps of it lies behind a zero byte (`pcre_compile`).
        // SAFETY: HOST-2: the pool is there.
        let terminated = unsafe { ngx_str_t::from_bytes(cf.pool, &[pattern, b"\0"].concat()) };
        let Some(terminated) = terminated else { return Err(Refused::AlreadyLogged) };
        let mut error = [0_u8; NGX_MAX_CONF_ERRSTR as usize];
        // SAFETY: plain C data, which nginx itself zeroes before use.
        let mut compile: ngx_regex_compile_t = unsafe { mem::zeroed() };
        compile.pattern = ngx_str_t { len: pattern.len(), data: terminated.data };
        compile.pool = cf.pool;
        compile.err = ngx_str_t { len: error.len(), data: error.as_mut_ptr() };
        // SAFETY: all that it reads is set; the pattern lives in the cycle's pool.
        if unsafe { ngx_regex_compile(&raw mut compile) } != rc::OK {
            // SAFETY: within `error`, as long as nginx says.
            let why = unsafe { bytes(compile.err) };
            return Err(Refused::Because(String::from_utf8_lossy(why).into_owned()));
        }
        let Some(regex) = NonNull::new(compile.regex) else {
            return Err(Refused::AlreadyLogged);
        };
        // INVARIANT: compiled, and given back with the cycle's pool.
        Ok(Regex(regex, Cycle::newest()))
    }
}
