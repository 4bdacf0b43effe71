//! A group of servers of the configuration.

use std::ptr::NonNull;

use ngx::ffi::{
    ngx_addr_t, ngx_http_upstream_main_conf_t, ngx_http_upstream_resolved_t,
    ngx_http_upstream_server_t, ngx_http_upstream_srv_conf_t,
};
use ngx::http::{HttpModule as _, HttpModuleConfExt, NgxHttpUpstreamModule};

use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::cycle::Cycle;
use crate::nginx::core::string::bytes;

/// A group of servers: an `upstream` block, or one that nginx makes of a host name.
///
/// # Invariants
///
/// Points to a configuration that is there as long as the cycle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    conf: NonNull<ngx_http_upstream_srv_conf_t>,
    cycle: Cycle,
}

impl Group {
    /// # Safety
    ///
    /// `conf` is a group of the configuration that was read last.
    pub(in crate::nginx) unsafe fn of(conf: NonNull<ngx_http_upstream_srv_conf_t>) -> Self {
        // INVARIANT: the caller's promise.
        Self { conf, cycle: Cycle::newest() }
    }

    /// The `upstream` block of this name.
    pub fn named(name: &[u8], read: &WhollyRead<'_>) -> Option<Self> {
        // SAFETY: a group of this configuration.
        let mut groups = all(read).map(|conf| unsafe { Self::of(conf) });
        groups.find(|group| !group.is_implicit() && group.name().eq_ignore_ascii_case(name))
    }

    /// Its configuration; `None` once that is gone.
    pub(in crate::nginx) fn conf(self) -> Option<NonNull<ngx_http_upstream_srv_conf_t>> {
        self.cycle.is_alive().then_some(self.conf)
    }

    /// Its name; empty once its configuration is gone.
    pub fn name(self) -> Vec<u8> {
        let Some(conf) = self.conf() else { return Vec::new() };
        // SAFETY: it is there.
        let name = unsafe { conf.as_ref() }.host;
        // SAFETY: it lives in the cycle's pool.
        unsafe { bytes(name) }.to_vec()
    }

    /// Whether nginx has made it of a host name.
    pub fn is_implicit(self) -> bool {
        const BLOCK: usize = ngx::ffi::NGX_HTTP_UPSTREAM_CREATE as usize;

        // SAFETY: it is there.
        self.conf().is_none_or(|conf| unsafe { conf.as_ref() }.flags & BLOCK == 0)
    }

    /// Whether nginx comes to it by this name (`ngx_http_upstream_init_request`).
    pub(super) fn is_called(self, name: &ngx_http_upstream_resolved_t) -> bool {
        let Some(conf) = self.conf() else { return false };
        // SAFETY: it is there.
        let port = unsafe { conf.as_ref() }.port;
        let same_port = port == name.port || (port == 0 && name.no_port != 0);
        // SAFETY: a string of the request's.
        same_port && unsafe { bytes(name.host) }.eq_ignore_ascii_case(&self.name())
    }

    /// Whether its servers are in shared memory.
    pub fn has_zone(self) -> bool {
        let Some(conf) = self.conf() else { return false };
        // SAFETY: it is there.
        has_zone(unsafe { conf.as_ref() })
    }

    /// Whether a `unix:` server is configured in it.
    pub fn has_unix_servers(self) -> bool {
        let Some(conf) = self.conf() else { return false };
        // SAFETY: it is there.
        let servers = NonNull::new(unsafe { conf.as_ref() }.servers);
        let Some(servers) = servers else { return false };
        // SAFETY: in the pool of the cycle (`ngx_http_upstream`), and changes no more.
        let servers = unsafe { servers.as_ref() };
        // SAFETY: an array of this type.
        let servers = unsafe { servers.as_slice::<ngx_http_upstream_server_t>() };
        servers.iter().any(|server| {
            // SAFETY: a server's addresses.
            unsafe { addresses(server) }.iter().any(|address| {
                // SAFETY: an address has at least its family.
                let family = unsafe { (*address.sockaddr).sa_family };
                i32::from(family) == libc::AF_UNIX
            })
        })
    }
}

/// All groups of a configuration, those that nginx has made of host names too.
pub(super) fn all<'a>(
    read: &WhollyRead<'a>,
) -> impl Iterator<Item = NonNull<ngx_http_upstream_srv_conf_t>> + use<'a> {
    // SAFETY: `postconfiguration` has the context of the `http` block.
    let main = unsafe { main(read.parsing().cf()) };
    // SAFETY: made by the module, and changes no more.
    let upstreams = main.map(|main| unsafe { &main.as_ref().upstreams });
    // SAFETY: an array of this type (`ngx_http_upstream_create_main_conf`).
    let upstreams =
        upstreams.map(|all| unsafe { all.as_slice::<*mut ngx_http_upstream_srv_conf_t>() });
    upstreams.unwrap_or_default().iter().filter_map(|conf| NonNull::new(*conf))
}

/// # Safety
///
/// A server of a group that is there for `'a`.
unsafe fn addresses<'a>(server: &ngx_http_upstream_server_t) -> &'a [ngx_addr_t] {
    if server.addrs.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise: so many addresses, in the cycle's pool.
    unsafe { std::slice::from_raw_parts(server.addrs, server.naddrs) }
}

/// The upstream module's configuration of the `http` block.
///
/// # Safety
///
/// `of` is one of nginx's that is there.
unsafe fn main(of: &impl HttpModuleConfExt) -> Option<NonNull<ngx_http_upstream_main_conf_t>> {
    // SAFETY: the caller's promise; the type is that of the module.
    unsafe { of.http_main_conf_unchecked(NgxHttpUpstreamModule::module()) }
}

#[cfg(ngx_feature = "http_upstream_zone")]
fn has_zone(conf: &ngx_http_upstream_srv_conf_t) -> bool {
    !conf.shm_zone.is_null()
}

#[cfg(not(ngx_feature = "http_upstream_zone"))]
fn has_zone(_: &ngx_http_upstream_srv_conf_t) -> bool {
    false
}
