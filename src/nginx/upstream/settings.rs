//! What the directives of the proxy module say in a location.

use std::ffi::CStr;

use ngx::ffi::{ngx_command_t, ngx_http_upstream_conf_t, ngx_module_t, ngx_str_t, ngx_uint_t};

use super::passed::conf_of_module;
use crate::nginx::conf::location::Location;
use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::string::bytes;

const PROXY: &CStr = c"ngx_http_proxy_module";

/// What keeps a request from being sent as it is, once, or its response from being that of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Altered {
    /// `proxy_cache`.
    Cache,
    /// `proxy_intercept_errors`.
    InterceptErrors,
    /// `proxy_set_body`.
    Body,
    /// `proxy_method`.
    Method,
    /// `proxy_pass_request_headers off`.
    NoHeaders,
    /// `proxy_pass_request_body off`.
    NoBody,
    /// `proxy_next_upstream` with `non_idempotent`.
    NonIdempotent,
}

/// What the proxy module does in `location` to its requests and responses, if anything.
pub fn altered(location: Location, read: &WhollyRead<'_>) -> Option<Altered> {
    const NON_IDEMPOTENT: ngx_uint_t = ngx::ffi::NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT as ngx_uint_t;

    let conf = conf_of_module(location, PROXY, read)?;
    let module = read.modules(&[PROXY]).next()?;
    let first = conf.as_ptr();
    // SAFETY: the module's configuration of the location, which changes no more.
    let conf = unsafe { conf.as_ref() };
    let body = offset_of(module, b"proxy_set_body").is_some_and(|at| {
        // SAFETY: UPSTREAM-10: a string of this configuration.
        unsafe { first.cast::<ngx_str_t>().wrapping_byte_add(at).read() }.len > 0
    });
    let method = offset_of(module, b"proxy_method").is_some_and(|at| {
        // SAFETY: UPSTREAM-10: a pointer in this configuration.
        !unsafe { first.cast::<*const u8>().wrapping_byte_add(at).read() }.is_null()
    });
    [
        (has_cache(conf), Altered::Cache),
        (conf.intercept_errors != 0, Altered::InterceptErrors),
        (body, Altered::Body),
        (method, Altered::Method),
        (conf.pass_request_headers == 0, Altered::NoHeaders),
        (conf.pass_request_body == 0, Altered::NoBody),
        (conf.next_upstream & NON_IDEMPOTENT != 0, Altered::NonIdempotent),
    ]
    .into_iter()
    .find_map(|(is_so, what)| is_so.then_some(what))
}

#[cfg(ngx_feature = "http_cache")]
fn has_cache(conf: &ngx_http_upstream_conf_t) -> bool {
    conf.cache() != 0
}

#[cfg(not(ngx_feature = "http_cache"))]
fn has_cache(_: &ngx_http_upstream_conf_t) -> bool {
    false
}

/// Where a module's configuration has the value of this directive (UPSTREAM-10).
fn offset_of(module: &ngx_module_t, name: &[u8]) -> Option<usize> {
    let all = (0..).map(|index| module.commands.wrapping_add(index));
    // SAFETY: the table of a module is closed by a command without a name.
    let all = all.map(|command: *mut ngx_command_t| unsafe { command.read() });
    let mut all = all.take_while(|command| command.name.len > 0);
    // SAFETY: a constant of the module's.
    all.find(|command| unsafe { bytes(command.name) } == name).map(|command| command.offset)
}
