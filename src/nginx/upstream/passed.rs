//! Which group a location passes to.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::time::Duration;

use ngx::ffi::{ngx_http_upstream_conf_t, ngx_module_t};

use super::group::Group;
use crate::nginx::conf::location::Location;
use crate::nginx::conf::wholly_read::WhollyRead;

/// What a location passes its requests to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// An `upstream` block, with the longest of the location's timeouts.
    Group(Group, Duration),
    /// A host name or an address.
    Implicit,
    /// What variables make: or the location has a content handler that passes to nothing.
    Variable,
    /// Nothing: the location has no content handler.
    Nothing,
}

/// The modules whose location configuration begins with an `ngx_http_upstream_conf_t`.
const MODULES: [&CStr; 6] = [
    c"ngx_http_proxy_module",
    c"ngx_http_fastcgi_module",
    c"ngx_http_uwsgi_module",
    c"ngx_http_scgi_module",
    c"ngx_http_memcached_module",
    c"ngx_http_grpc_module",
];

impl Passed {
    /// What `location` passes to.
    pub fn of(location: Location, read: &WhollyRead<'_>) -> Self {
        if !location.is_there() {
            return Self::Nothing;
        }
        for module in modules(read) {
            // SAFETY: it is there.
            let Some(conf) = (unsafe { conf_of(location, module) }) else { continue };
            // SAFETY: the module's configuration of the location, which changes no more.
            let conf = unsafe { conf.as_ref() };
            let Some(upstream) = NonNull::new(conf.upstream) else { continue };
            // SAFETY: a group of the configuration that is read.
            let group = unsafe { Group::of(upstream) };
            if group.is_implicit() {
                return Self::Implicit;
            }
            let longest = conf.connect_timeout.max(conf.send_timeout).max(conf.read_timeout);
            let longest = Duration::from_millis(u64::try_from(longest).unwrap_or(u64::MAX));
            return Self::Group(group, longest);
        }
        // SAFETY: it is there.
        let handler = unsafe { location.conf() }.handler;
        if handler.is_some() { Self::Variable } else { Self::Nothing }
    }
}

/// Those of the modules that this nginx has.
fn modules<'a>(read: &WhollyRead<'a>) -> impl Iterator<Item = &'a ngx_module_t> {
    let cycle = read.parsing().cf().cycle;
    // SAFETY: HOST-2: the cycle that is being made.
    let first = unsafe { (*cycle).modules };
    let all = (0..).map(move |index| first.wrapping_add(index));
    // SAFETY: the array is closed by a null pointer (`ngx_cycle_modules`).
    let all = all.map_while(|module| NonNull::new(unsafe { *module }));
    // SAFETY: modules are statics; what nginx writes to them it has written before.
    let all = all.map(|module| unsafe { module.as_ref() });
    all.filter(|module| {
        let name = module.name;
        // SAFETY: a module's name is a constant, if it has one.
        !name.is_null() && MODULES.contains(&unsafe { CStr::from_ptr(name) })
    })
}

/// The configuration of a location that the module of this name has.
pub(super) fn conf_of_module(
    location: Location,
    name: &CStr,
    read: &WhollyRead<'_>,
) -> Option<NonNull<ngx_http_upstream_conf_t>> {
    if !location.is_there() {
        return None;
    }
    // SAFETY: a module's name is a constant; those of `modules` have one.
    let module = modules(read).find(|module| unsafe { CStr::from_ptr(module.name) } == name)?;
    // SAFETY: it is there.
    unsafe { conf_of(location, module) }
}

/// The configuration of a location that such a module has.
///
/// # Safety
///
/// The location is there.
unsafe fn conf_of(
    location: Location,
    module: &ngx_module_t,
) -> Option<NonNull<ngx_http_upstream_conf_t>> {
    // SAFETY: the caller's promise.
    let confs = unsafe { location.conf() }.loc_conf;
    if confs.is_null() {
        return None;
    }
    // SAFETY: each http module has its place in a location's configurations.
    let conf = unsafe { *confs.wrapping_add(module.ctx_index) };
    NonNull::new(conf.cast())
}
