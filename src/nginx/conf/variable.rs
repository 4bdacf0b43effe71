//! Variables of the configuration, evaluated for a request.

use ngx::ffi::{
    ngx_hash_key_t, ngx_http_get_flushed_variable, ngx_http_get_variable_index, ngx_http_request_t,
    ngx_http_variable_t, ngx_uint_t,
};

use super::parsing::{Parsing, Refused};
use super::wholly_read::WhollyRead;
use crate::nginx::core::cycle::Cycle;
use crate::nginx::core::module::core_main;
use crate::nginx::core::string::{borrowed, bytes};

/// A variable that is used in the configuration.
///
/// # Invariants
///
/// `index` is that of a variable of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    index: ngx_uint_t,
    cycle: Cycle,
}

impl Variable {
    /// Its value in a request, computed anew if it may change; empty if it has none, and if the
    /// request is one of another configuration.
    ///
    /// # Safety
    ///
    /// `r` is an open request.
    pub(in crate::nginx) unsafe fn evaluate(self, r: *mut ngx_http_request_t) -> Vec<u8> {
        // A request that is open while an older configuration is in use has that one's variables.
        if !self.cycle.is_current() {
            return Vec::new();
        }
        // SAFETY: the caller's promise; the invariant.
        let value = unsafe { ngx_http_get_flushed_variable(r, self.index) };
        // SAFETY: a value of the request, or null.
        let Some(value) = (unsafe { value.as_ref() }) else { return Vec::new() };
        if value.not_found() != 0 || value.valid() == 0 || value.data.is_null() {
            return Vec::new();
        }
        let len = usize::try_from(value.len()).unwrap_or(0);
        // SAFETY: a valid value has so many bytes.
        unsafe { std::slice::from_raw_parts(value.data, len) }.to_vec()
    }
}

impl Parsing<'_> {
    /// The variable `name`, without its `$`; nginx refuses the configuration when it was read if
    /// there is none.
    ///
    /// # Errors
    ///
    /// nginx has said why.
    pub fn variable(&mut self, name: &[u8]) -> Result<Variable, Refused> {
        let mut name = borrowed(name);
        // SAFETY: HOST-2; nginx copies the name.
        let index = unsafe { ngx_http_get_variable_index(self.as_ptr(), &raw mut name) };
        let index = ngx_uint_t::try_from(index).map_err(|_| Refused::AlreadyLogged)?;
        // INVARIANT: nginx gave it.
        Ok(Variable { index, cycle: Cycle::newest() })
    }
}

impl WhollyRead<'_> {
    /// Whether there is a variable `name`, without its `$`: by its name, or as one of a family such as
    /// `$http_...` (`ngx_http_variables_init_vars`, which comes next).
    pub fn has_variable(&self, name: &[u8]) -> bool {
        let name = name.to_ascii_lowercase();
        // SAFETY: HOST-2: `postconfiguration` has the context of the `http` block.
        let Some(main) = (unsafe { core_main(self.parsing().cf()) }) else { return true };
        // SAFETY: made by `ngx_http_core_create_main_conf`; nothing changes it meanwhile.
        let main = unsafe { main.as_ref() };
        // SAFETY: there from `preconfiguration` until the variables are set up, which is later.
        let Some(keys) = (unsafe { main.variables_keys.as_ref() }) else { return true };
        // SAFETY: an array of this type (`ngx_hash_keys_array_init`).
        let keys = unsafe { keys.keys.as_slice::<ngx_hash_key_t>() };
        // SAFETY: an array of this type (`ngx_http_variables_add_core_vars`).
        let families = unsafe { main.prefix_variables.as_slice::<ngx_http_variable_t>() };
        // SAFETY: names live in the cycle's pool.
        let is_key = keys.iter().any(|key| unsafe { bytes(key.key) } == name);
        // SAFETY: as above.
        is_key || families.iter().any(|family| name.starts_with(unsafe { bytes(family.name) }))
    }
}
