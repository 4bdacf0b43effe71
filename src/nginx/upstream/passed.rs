//! Which group a location passes to.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::time::Duration;

use ngx::ffi::ngx_http_upstream_conf_t;

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
        for module in read.modules(&MODULES) {
            // SAFETY: it is there; the type is that of these modules.
            let conf = unsafe { location.conf_of::<ngx_http_upstream_conf_t>(module) };
            let Some(conf) = conf else { continue };
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

/// The configuration of a location that the module of this name has, one of [`MODULES`].
pub(super) fn conf_of_module(
    location: Location,
    name: &CStr,
    read: &WhollyRead<'_>,
) -> Option<NonNull<ngx_http_upstream_conf_t>> {
    if !location.is_there() || !MODULES.contains(&name) {
        return None;
    }
    let module = read.modules(&[name]).next()?;
    // SAFETY: it is there; the type is that of these modules.
    unsafe { location.conf_of(module) }
}
