//! A location of the configuration.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use nginx_sys::{
    ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t, ngx_http_core_srv_conf_t,
    ngx_http_server_name_t, ngx_int_t,
};

use super::bytes;
use super::log::Log;
use super::module::{self, HttpModule};
use super::uri;

/// A location of the configuration, and the server it stands in.
///
/// # Invariants
///
/// Both point to configurations of one cycle that was read, and a handle is not used after its
/// cycle.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    conf: NonNull<ngx_http_core_loc_conf_t>,
    server: NonNull<ngx_http_core_srv_conf_t>,
}

/// How a location is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `location @name`: by name alone.
    Named,
    /// `location = /uri`.
    Exact,
    /// `location /uri` or `location ^~ /uri`.
    Prefix,
    /// `location ~ pattern` or `location ~* pattern`.
    Regex,
}

impl Location {
    /// The location whose block `context` belongs to.
    ///
    /// # Safety
    ///
    /// `context` is the one with which a directive in a `location` block is read.
    pub(super) unsafe fn from_context(context: *mut ngx_http_conf_ctx_t) -> Self {
        // SAFETY: `index` and `ctx_index` are set before any configuration is read.
        let core = unsafe { nginx_sys::ngx_http_core_module.ctx_index };
        // SAFETY: the caller's promise.
        let confs = unsafe { (*context).loc_conf };
        // SAFETY: the caller's promise.
        let servers = unsafe { (*context).srv_conf };
        // SAFETY: the arrays have a place for each http module.
        let conf = unsafe { confs.add(core) };
        // SAFETY: as above.
        let server = unsafe { servers.add(core) };
        // SAFETY: as above.
        let conf = unsafe { *conf }.cast();
        // SAFETY: as above.
        let server = unsafe { *server }.cast();
        // SAFETY: the core module's place is set for each block (`ngx_http_core_location`).
        let conf = unsafe { NonNull::new_unchecked(conf) };
        // SAFETY: as above.
        let server = unsafe { NonNull::new_unchecked(server) };
        // INVARIANT: both belong to the cycle that is being read.
        Self { conf, server }
    }

    pub(super) fn conf(&self) -> &ngx_http_core_loc_conf_t {
        // SAFETY: the invariant; only the reading of a configuration changes it, and no reference
        // is kept over a call into nginx.
        unsafe { self.conf.as_ref() }
    }

    pub(super) fn server(&self) -> &ngx_http_core_srv_conf_t {
        // SAFETY: as above.
        unsafe { self.server.as_ref() }
    }

    pub(super) fn conf_ptr(&self) -> *mut ngx_http_core_loc_conf_t {
        self.conf.as_ptr()
    }

    pub(super) fn server_ptr(&self) -> *mut ngx_http_core_srv_conf_t {
        self.server.as_ptr()
    }

    /// What its server has outside of any location.
    pub(super) fn of_server(self) -> Self {
        // SAFETY: a server's context is that with which its directives were read.
        unsafe { Self::from_context(self.server().ctx) }
    }

    /// The modules' configurations of it; a server has them in its context.
    pub(super) fn confs(&self) -> *mut *mut c_void {
        let confs = self.conf().loc_conf;
        if !confs.is_null() {
            return confs;
        }
        // SAFETY: made with the server.
        unsafe { (*self.server().ctx).loc_conf }
    }

    /// How it is chosen.
    pub fn kind(&self) -> Kind {
        let conf = self.conf();
        if conf.named() != 0 {
            Kind::Named
        } else if self.has_regex() {
            Kind::Regex
        } else if conf.exact_match() != 0 {
            Kind::Exact
        } else {
            Kind::Prefix
        }
    }

    /// Its name as configured: `/uri`, `@name`, or a pattern.
    pub fn name(&self) -> &[u8] {
        // SAFETY: the name lives in the cycle's pool.
        unsafe { bytes(self.conf().name) }
    }

    /// The log that `error_log` sets for it.
    pub fn log(&self) -> Log {
        // SAFETY: the invariant: it lives in the pool of the location's cycle.
        unsafe { Log::from_ptr(self.conf().error_log) }
    }

    /// Whether it is a location of the `http` block of this context.
    pub(super) fn is_in(self, context: *const ngx_http_conf_ctx_t) -> bool {
        let own = self.server().ctx;
        // SAFETY: a server has its context, and the caller that of an `http` block.
        let main = unsafe { (*own).main_conf };
        // SAFETY: as above.
        ptr::eq(main, unsafe { (*context).main_conf })
    }

    /// The module's configuration of this location.
    ///
    /// # Safety
    ///
    /// Its cycle lives for `'a`, and was read whole: a directive's handler has it as `&mut`.
    pub(super) unsafe fn configuration<'a, M: HttpModule>(self) -> Option<&'a M::Location> {
        // SAFETY: the caller's promise.
        unsafe { module::location_of::<M>(self.conf().loc_conf) }
    }

    /// The first `server_name` of its server, if that is a plain one.
    ///
    /// # Safety
    ///
    /// Its server was read whole, and the reading lasts for `'a`: the names go with it (ANSWER-3).
    pub(super) unsafe fn server_name<'a>(self) -> Option<&'a [u8]> {
        // SAFETY: the invariant.
        let server = unsafe { self.server.as_ref() };
        // SAFETY: an array of this type, complete once the server's block was read.
        let names = unsafe { server.server_names.as_slice::<ngx_http_server_name_t>() };
        let name = names.first()?;
        #[cfg(ngx_feature = "pcre")]
        if !name.regex.is_null() {
            return None;
        }
        // SAFETY: the name lives in the cycle's pool.
        let name = unsafe { bytes(name.name) };
        let plain = !name.is_empty() && !name.starts_with(b".") && !name.contains(&b'*');
        plain.then_some(name)
    }

    /// The first `server_name` of its server as it is written, whatever it is; empty if there is
    /// none.
    pub fn first_server_name(&self) -> &[u8] {
        // The array of all names is gone once the configuration was read; this is what
        // `$server_name` shows.
        // SAFETY: ANSWER-3: it lives in the cycle's pool.
        unsafe { bytes(self.server().server_name) }
    }

    /// Whether the constant `uri`, with its arguments, lies within the location; any will do for a
    /// named one. False if it is no valid URI.
    pub fn contains(&self, log: Log, uri: &[u8]) -> bool {
        let merge_slashes = self.server().merge_slashes;
        uri::normalized(log, uri, merge_slashes).is_some_and(|path| self.contains_path(&path))
    }

    /// Whether a normalized path, as in `$uri`, lies within the location.
    pub(super) fn contains_path(&self, path: &[u8]) -> bool {
        match self.kind() {
            Kind::Named => true,
            Kind::Exact => path == self.name(),
            Kind::Prefix => path.starts_with(self.name()),
            Kind::Regex => self.matches(path),
        }
    }

    #[cfg(ngx_feature = "pcre")]
    fn has_regex(&self) -> bool {
        !self.conf().regex.is_null()
    }

    #[cfg(not(ngx_feature = "pcre"))]
    fn has_regex(&self) -> bool {
        false
    }

    #[cfg(ngx_feature = "pcre2")]
    fn matches(&self, path: &[u8]) -> bool {
        let Some(regex) = NonNull::new(self.conf().regex) else { return false };
        // SAFETY: a compiled pattern of the cycle.
        let regex = unsafe { (*regex.as_ptr()).regex };
        let mut path = super::borrowed(path);
        // SAFETY: reads the path, and writes no captures for want of room.
        let matched =
            unsafe { nginx_sys::ngx_regex_exec(regex, &raw mut path, std::ptr::null_mut(), 0) };
        matched >= 0 as ngx_int_t
    }

    /// With the old PCRE library, `ngx_regex_exec` is a macro that only C can expand: the URI is
    /// then judged at each run alone (`ngx_http_regex_exec`).
    #[cfg(not(ngx_feature = "pcre2"))]
    #[expect(clippy::unused_self, reason = "the other builds look at the location")]
    fn matches(&self, _: &[u8]) -> bool {
        true
    }
}
