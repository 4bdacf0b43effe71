//! A directive's own block, in which other directives stand than in the rest of the configuration.

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};

use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::ffi::{ngx_command_t, ngx_conf_parse, ngx_conf_t};

use super::parsing::{Parsing, Refused};
use crate::nginx::core::guard::guard;
use crate::os::memory::{self, NoMemory};

impl Parsing<'_> {
    /// Reads the block of the directive, as `types` and `map` do: each directive in it is shown to
    /// `read`.
    ///
    /// # Errors
    ///
    /// nginx has said why: what `read` refuses, or what is no block.
    pub fn block<F>(&mut self, mut read: F) -> Result<(), Refused>
    where
        F: FnMut(&mut Parsing<'_>) -> Result<(), Refused>,
    {
        let cf = self.as_ptr();
        // SAFETY: HOST-2.
        let before = unsafe { cf.read() };
        // SAFETY: as above.
        unsafe { (*cf).handler = Some(directive::<F>) };
        // SAFETY: as above.
        unsafe { (*cf).handler_conf = (&raw mut read).cast() };
        // SAFETY: HOST-2: a handler may read the block of its directive (`ngx_http_map_block`).
        let parsed = unsafe { ngx_conf_parse(cf, ptr::null_mut()) };
        // SAFETY: as above; all else is as it was, too (`ngx_http_map_block`).
        unsafe { cf.write(before) };
        if parsed == NGX_CONF_OK { Ok(()) } else { Err(Refused::AlreadyLogged) }
    }
}

unsafe extern "C" fn directive<F>(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    read: *mut c_void,
) -> *mut c_char
where
    F: FnMut(&mut Parsing<'_>) -> Result<(), Refused>,
{
    guard(NGX_CONF_ERROR, || {
        let Some(cf) = NonNull::new(cf) else { return NGX_CONF_ERROR };
        // SAFETY: HOST-2: nginx passes on what `block` has set, which lasts until the block was read.
        let read = unsafe { &mut *read.cast::<F>() };
        // SAFETY: HOST-2.
        let mut parsing = unsafe { Parsing::new(cf) };
        let done = if memory::enough() { read(&mut parsing) } else { Err(NoMemory.into()) };
        done.map_or_else(|refused| parsing.refuse(refused), |()| NGX_CONF_OK)
    })
}
