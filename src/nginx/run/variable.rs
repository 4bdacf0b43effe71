//! Variables.

use std::ffi::CStr;
use std::rc::Rc;

use ngx::ffi::{
    ngx_http_add_variable, ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, ngx_str_t,
};

use super::connection::RunConnection;
use super::state::Origin;
use crate::nginx::conf::parsing::{Parsing, Refused};
use crate::nginx::core::guard::guard;
use crate::nginx::core::rc;
use crate::nginx::core::string::constant;
use crate::nginx::core::text::Text;

/// The longest value.
pub const LONGEST: usize = 160;

/// A variable of the module's.
pub trait Variable {
    /// Its name, without `$`.
    const NAME: &'static CStr;

    /// Writes its value, of at most [`LONGEST`] bytes; `origin` is that of the run which the
    /// request belongs to, if it does to one.
    fn write(origin: Option<Rc<dyn Origin>>, value: &mut Text<LONGEST>);
}

/// Adds a variable, before the configuration is read.
///
/// # Errors
///
/// nginx has said why: no memory, or a variable of this name exists.
pub fn add<V: Variable>(parsing: &mut Parsing<'_>) -> Result<(), Refused> {
    add_by(V::NAME, get::<V>, parsing)
}

type Get = unsafe extern "C" fn(
    *mut ngx_http_request_t,
    *mut ngx_http_variable_value_t,
    usize,
) -> ngx_int_t;

fn add_by(name: &'static CStr, get: Get, parsing: &mut Parsing<'_>) -> Result<(), Refused> {
    let mut name = constant(name);
    // No flags: a value belongs to the run, so nginx may keep it for the request.
    // SAFETY: HOST-2: called in preconfiguration; nginx copies the name.
    let variable = unsafe { ngx_http_add_variable(parsing.as_ptr(), &raw mut name, 0) };
    if variable.is_null() {
        return Err(Refused::AlreadyLogged);
    }
    // SAFETY: just made, or found with the same name and changeable.
    unsafe { (*variable).get_handler = Some(get) };
    Ok(())
}

/// A variable of any length, which not all requests have.
pub trait OptionalVariable {
    /// Its name, without `$`.
    const NAME: &'static CStr;

    /// Its value, if there is one; `origin` as in [`Variable::write`].
    fn value(origin: Option<Rc<dyn Origin>>) -> Option<Vec<u8>>;
}

/// Adds a variable, as [`add`].
///
/// # Errors
///
/// As above.
pub fn add_optional<V: OptionalVariable>(parsing: &mut Parsing<'_>) -> Result<(), Refused> {
    add_by(V::NAME, get_optional::<V>, parsing)
}

unsafe extern "C" fn get_optional<V: OptionalVariable>(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard(rc::ERROR, || {
        // SAFETY: nginx evaluates variables for open requests.
        let origin = unsafe { RunConnection::run_of(r) }.map(|(origin, _)| origin);
        let Some(text) = V::value(origin) else {
            // SAFETY: nginx passes the value to be set.
            unsafe { &mut *value }.set_not_found(1);
            return rc::OK;
        };
        // SAFETY: as above.
        unsafe { set(r, value, &text) }
    })
}

unsafe extern "C" fn get<V: Variable>(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard(rc::ERROR, || {
        // SAFETY: nginx evaluates variables for open requests.
        let origin = unsafe { RunConnection::run_of(r) }.map(|(origin, _)| origin);
        let mut text = Text::new();
        V::write(origin, &mut text);
        // SAFETY: nginx passes an open request, and the value to be set.
        unsafe { set(r, value, text.as_bytes()) }
    })
}

/// Sets a value.
///
/// # Safety
///
/// An open request, and a value of its to be set.
unsafe fn set(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    text: &[u8],
) -> ngx_int_t {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above.
    let Some(text) = (unsafe { ngx_str_t::from_bytes(pool, text) }) else { return rc::ERROR };
    // SAFETY: the caller's promise.
    let value = unsafe { &mut *value };
    value.set_len(u32::try_from(text.len).unwrap_or(0));
    value.set_valid(1);
    value.set_no_cacheable(0);
    value.set_not_found(0);
    value.data = text.data;
    rc::OK
}
