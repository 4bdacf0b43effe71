//! A location of the configuration.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use ngx::ffi::{
    ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t, ngx_http_core_srv_conf_t,
    ngx_http_server_name_t, ngx_module_t,
};
use ngx::http::HttpModuleConfExt;

use super::uri;
use crate::nginx::core::cycle::Cycle;
use crate::nginx::core::log::Log;
use crate::nginx::core::module::{Module, core_location, core_server, location_of};
use crate::nginx::core::string::bytes;

/// A location of the configuration, and the server it stands in.
///
/// # Invariants
///
/// Both point to configurations that are there as long as the cycle is.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    conf: NonNull<ngx_http_core_loc_conf_t>,
    server: NonNull<ngx_http_core_srv_conf_t>,
    cycle: Cycle,
}

/// What answers the requests of a location, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHandler(usize);

/// How a location is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocationKind {
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
    /// The location to whose block `block` belongs.
    ///
    /// # Safety
    ///
    /// `block` leads to the configurations with which a directive in a `location` block is read, of
    /// `cycle`.
    pub(in crate::nginx) unsafe fn of(block: &impl HttpModuleConfExt, cycle: Cycle) -> Self {
        // SAFETY: the caller's promise.
        let conf = unsafe { core_location(block) };
        // SAFETY: as above.
        let server = unsafe { core_server(block) };
        // SAFETY: the core module's place is set for each block (`ngx_http_core_location`).
        let conf = unsafe { conf.unwrap_unchecked() };
        // SAFETY: as above.
        let server = unsafe { server.unwrap_unchecked() };
        // INVARIANT: the caller's promise.
        Self { conf, server, cycle }
    }

    /// Whether its configuration is in memory.
    pub(in crate::nginx) fn is_there(self) -> bool {
        self.cycle.is_alive()
    }

    /// Whether its configuration is the one in use.
    pub(in crate::nginx) fn is_in_use(self) -> bool {
        self.cycle.is_current()
    }

    /// # Safety
    ///
    /// It is there for `'a`, during which its configuration is not being read on.
    pub(in crate::nginx) unsafe fn conf<'a>(self) -> &'a ngx_http_core_loc_conf_t {
        // SAFETY: the caller's promise.
        unsafe { self.conf.as_ref() }
    }

    /// # Safety
    ///
    /// As for [`conf`](Self::conf).
    pub(in crate::nginx) unsafe fn server<'a>(self) -> &'a ngx_http_core_srv_conf_t {
        // SAFETY: the caller's promise.
        unsafe { self.server.as_ref() }
    }

    pub(in crate::nginx) fn conf_ptr(&self) -> *mut ngx_http_core_loc_conf_t {
        self.conf.as_ptr()
    }

    pub(in crate::nginx) fn server_ptr(&self) -> *mut ngx_http_core_srv_conf_t {
        self.server.as_ptr()
    }

    /// What its server has outside of any location.
    ///
    /// # Safety
    ///
    /// It is there.
    pub(in crate::nginx) unsafe fn of_server(self) -> Self {
        // SAFETY: the caller's promise.
        let server = unsafe { self.server() };
        // SAFETY: a server's context is that with which its directives were read.
        unsafe { Self::of(server, self.cycle) }
    }

    /// The named location of this name in its server.
    ///
    /// # Safety
    ///
    /// It is there, and its `http` block was read whole.
    pub(in crate::nginx) unsafe fn named(self, name: &[u8]) -> Option<Self> {
        // SAFETY: the caller's promise.
        let first = NonNull::new(unsafe { self.server() }.named_locations)?;
        let all = (0..).map(|index| first.as_ptr().wrapping_add(index));
        // SAFETY: the array is closed by a null pointer (`ngx_http_init_locations`).
        let mut all = all.map_while(|place| NonNull::new(unsafe { *place }));
        let is_its = |conf: &NonNull<ngx_http_core_loc_conf_t>| {
            // SAFETY: a location of the server.
            let its = unsafe { conf.as_ref() }.name;
            // SAFETY: the name lives in the cycle's pool.
            let its = unsafe { bytes(its) };
            its == name
        };
        // INVARIANT: a location of the same cycle and server.
        all.find(is_its).map(|conf| Self { conf, ..self })
    }

    /// The modules' configurations of it; a server has them in its context.
    ///
    /// # Safety
    ///
    /// It is there.
    pub(in crate::nginx) unsafe fn confs(self) -> *mut *mut c_void {
        // SAFETY: the caller's promise.
        let confs = unsafe { self.conf() }.loc_conf;
        if !confs.is_null() {
            return confs;
        }
        // SAFETY: as above.
        let context = unsafe { self.server() }.ctx;
        // SAFETY: made with the server.
        unsafe { (*context).loc_conf }
    }

    /// How it is chosen; by name alone once its configuration is gone.
    pub fn kind(self) -> LocationKind {
        if !self.is_there() {
            return LocationKind::Named;
        }
        // SAFETY: it is there; ends here.
        let conf = unsafe { self.conf() };
        if conf.named() != 0 {
            LocationKind::Named
        } else if has_regex(conf) {
            LocationKind::Regex
        } else if conf.exact_match() != 0 {
            LocationKind::Exact
        } else {
            LocationKind::Prefix
        }
    }

    /// Its name as configured: `/uri`, `@name`, or a pattern; empty once its configuration is gone.
    pub fn name(self) -> Vec<u8> {
        if !self.is_there() {
            return Vec::new();
        }
        // SAFETY: it is there.
        let name = unsafe { self.conf() }.name;
        // SAFETY: the name lives in the cycle's pool.
        unsafe { bytes(name) }.to_vec()
    }

    /// What answers its requests, if a directive has said so; `None` once its configuration is gone.
    pub fn content_handler(self) -> Option<ContentHandler> {
        if !self.is_there() {
            return None;
        }
        // SAFETY: it is there.
        let handler = unsafe { self.conf() }.handler?;
        Some(ContentHandler((handler as *const ()).addr()))
    }

    /// The log that `error_log` sets for it.
    pub fn log(self) -> Log {
        if !self.is_there() {
            return Log::cycle();
        }
        // SAFETY: it is there.
        let log = unsafe { self.conf() }.error_log;
        // SAFETY: it lives in the pool of the location's cycle.
        unsafe { Log::of(log, self.cycle) }
    }

    /// Whether it is a location of the `http` block of this context.
    ///
    /// # Safety
    ///
    /// The context is that of an `http` block that is there.
    pub(in crate::nginx) unsafe fn is_in(self, context: *const ngx_http_conf_ctx_t) -> bool {
        if !self.is_there() {
            return false;
        }
        // SAFETY: it is there.
        let own = unsafe { self.server() }.ctx;
        // SAFETY: a server has its context.
        let main = unsafe { (*own).main_conf };
        // SAFETY: the caller's promise.
        ptr::eq(main, unsafe { (*context).main_conf })
    }

    /// The module's configuration of this location.
    ///
    /// # Safety
    ///
    /// Its cycle lives for `'a`, and was read whole: a directive's handler has it as `&mut`.
    pub(in crate::nginx) unsafe fn configuration<'a, M: Module>(self) -> Option<&'a M::Location> {
        // SAFETY: the caller's promise.
        let loc_conf = unsafe { self.conf() }.loc_conf;
        let none = ptr::null_mut();
        let context = ngx_http_conf_ctx_t { main_conf: none, srv_conf: none, loc_conf };
        // SAFETY: as above.
        let conf = unsafe { location_of::<M>(&context) };
        // SAFETY: as above; it changes no more.
        conf.map(|conf| unsafe { conf.as_ref() })
    }

    /// What any module keeps for it.
    ///
    /// # Safety
    ///
    /// It is there, and `T` is what the module's configuration begins with.
    pub(in crate::nginx) unsafe fn conf_of<T>(self, module: &ngx_module_t) -> Option<NonNull<T>> {
        // SAFETY: the caller's promise.
        let confs = unsafe { self.conf() }.loc_conf;
        if confs.is_null() {
            return None;
        }
        // SAFETY: each http module has its place in a location's configurations.
        let conf = unsafe { *confs.wrapping_add(module.ctx_index) };
        NonNull::new(conf.cast())
    }

    /// The first `server_name` of its server, if that is a plain one.
    ///
    /// # Safety
    ///
    /// Its server was read whole, and the reading lasts for `'a`: the names go with it (ANSWER-3).
    pub(in crate::nginx) unsafe fn server_name<'a>(self) -> Option<&'a [u8]> {
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
    /// none, and once its configuration is gone.
    pub fn first_server_name(self) -> Vec<u8> {
        if !self.is_there() {
            return Vec::new();
        }
        // The array of all names is gone once the configuration was read; this is what
        // `$server_name` shows.
        // SAFETY: it is there.
        let name = unsafe { self.server() }.server_name;
        // SAFETY: ANSWER-3: it lives in the cycle's pool.
        unsafe { bytes(name) }.to_vec()
    }

    /// Whether the constant `uri`, with its arguments, lies within the location; any will do for a
    /// named one. False if it is no valid URI, and once its configuration is gone.
    pub fn contains(self, log: Log, uri: &[u8]) -> bool {
        if !self.is_there() {
            return false;
        }
        // SAFETY: it is there.
        let merge_slashes = unsafe { self.server() }.merge_slashes;
        uri::normalized(log, uri, merge_slashes).is_some_and(|path| self.contains_path(&path))
    }

    /// Whether the constant `uri`, with its arguments, is a valid one, wherever it lies; false once
    /// its configuration is gone.
    pub fn takes(self, log: Log, uri: &[u8]) -> bool {
        if !self.is_there() {
            return false;
        }
        // SAFETY: it is there.
        let merge_slashes = unsafe { self.server() }.merge_slashes;
        uri::normalized(log, uri, merge_slashes).is_some()
    }

    /// Whether it has `alias`; false once its configuration is gone.
    pub fn has_alias(self) -> bool {
        // SAFETY: it is there.
        self.is_there() && unsafe { self.conf() }.alias != 0
    }

    /// Whether it has `post_action`; false once its configuration is gone.
    pub fn has_post_action(self) -> bool {
        // SAFETY: it is there.
        self.is_there() && unsafe { self.conf() }.post_action.len > 0
    }

    /// Whether a normalized path, as in `$uri`, lies within the location.
    pub(in crate::nginx) fn contains_path(self, path: &[u8]) -> bool {
        match self.kind() {
            LocationKind::Named => true,
            LocationKind::Exact => path == self.name(),
            LocationKind::Prefix => path.starts_with(&self.name()),
            LocationKind::Regex => self.matches(path),
        }
    }

    #[cfg(ngx_feature = "pcre2")]
    fn matches(self, path: &[u8]) -> bool {
        if !self.is_there() {
            return false;
        }
        // SAFETY: it is there.
        let Some(regex) = NonNull::new(unsafe { self.conf() }.regex) else { return false };
        // SAFETY: a compiled pattern of the cycle.
        let regex = unsafe { (*regex.as_ptr()).regex };
        let mut path = crate::nginx::core::string::borrowed(path);
        // SAFETY: reads the path, and writes no captures for lack of room.
        let matched =
            unsafe { ngx::ffi::ngx_regex_exec(regex, &raw mut path, std::ptr::null_mut(), 0) };
        matched >= 0
    }

    /// With the old PCRE library, `ngx_regex_exec` is a macro that only C can expand: the URI is
    /// then judged at each run alone (`ngx_http_regex_exec`).
    #[cfg(not(ngx_feature = "pcre2"))]
    #[expect(clippy::unused_self, reason = "the other builds look at the location")]
    fn matches(self, _: &[u8]) -> bool {
        true
    }
}

#[cfg(ngx_feature = "pcre")]
fn has_regex(conf: &ngx_http_core_loc_conf_t) -> bool {
    !conf.regex.is_null()
}

#[cfg(not(ngx_feature = "pcre"))]
fn has_regex(_: &ngx_http_core_loc_conf_t) -> bool {
    false
}
