//! What can be asked of a configuration only once all of it was read.

use std::ffi::CStr;
use std::ptr::NonNull;

use ngx::ffi::{ngx_module_t, ngx_path_t};

use super::location::Location;
use super::parsing::Parsing;
use crate::nginx::core::module::Module;
use crate::nginx::core::string::bytes;
use crate::nginx::core::threads;

/// The modules whose configuration of a location begins with a pointer that is null where the
/// block has none of their directives, and is not inherited: `return`, `rewrite`, `set` and `if` of
/// the one, `try_files` of the other.
const OF_OWN_BLOCK: [&CStr; 2] = [c"ngx_http_rewrite_module", c"ngx_http_try_files_module"];

/// A configuration that was read whole, before it is taken up: no configuration of a location is
/// changed any more, and what nginx drops when it has read everything is still there.
pub struct WhollyRead<'a>(&'a Parsing<'a>);

impl<'a> WhollyRead<'a> {
    /// # Safety
    ///
    /// `parsing` is that of the `postconfiguration` hook.
    pub(in crate::nginx) unsafe fn new(parsing: &'a Parsing<'a>) -> Self {
        // INVARIANT: the caller's promise.
        Self(parsing)
    }

    /// The reading, for what can be asked at any time of it.
    pub fn parsing(&self) -> &'a Parsing<'a> {
        self.0
    }

    /// The module's configuration of a location; `None` for one of another configuration.
    pub fn configuration<M: Module>(&self, location: Location) -> Option<&'a M::Location> {
        let location = self.own(location)?;
        // SAFETY: a location of the configuration at hand, which changes no more.
        unsafe { location.configuration::<M>() }
    }

    /// The first `server_name` of a location's server, if that is a plain one: not empty, no
    /// wildcard, no regular expression.
    pub fn server_name(&self, location: Location) -> Option<&'a [u8]> {
        let location = self.own(location)?;
        // SAFETY: ANSWER-3: the names are there until the hook has returned.
        unsafe { location.server_name() }
    }

    /// The named location of this name, `@` included, in the server of `location`.
    pub fn named_location(&self, location: Location, name: &[u8]) -> Option<Location> {
        let location = self.own(location)?;
        // SAFETY: a location of the configuration at hand, whose servers were read whole.
        unsafe { location.named(name) }
    }

    /// Whether the block of a location says what happens to a request: by a content handler, `root`,
    /// `try_files`, `return` or `rewrite`.
    pub fn has_content(&self, location: Location) -> bool {
        let Some(location) = self.own(location) else { return true };
        // SAFETY: a location of the configuration at hand is there, here and below.
        let conf = unsafe { location.conf() };
        // SAFETY: as above.
        let server = unsafe { location.of_server() };
        // SAFETY: as above.
        let server = unsafe { server.conf() };
        // An inherited root is the same string (`ngx_http_core_merge_loc_conf`).
        let has_root = !std::ptr::eq(conf.root.data, server.root.data);
        let mut modules = self.modules(&OF_OWN_BLOCK);
        conf.handler.is_some()
            || has_root
            || modules.any(|module| {
                // SAFETY: as above; what it begins with is a pointer.
                let first = unsafe { location.conf_of::<*const u8>(module) };
                // SAFETY: the module's configuration, which changes no more.
                first.is_some_and(|first| !unsafe { *first.as_ptr() }.is_null())
            })
    }

    /// The directories of caches, whichever module has them: a cache manager looks after each.
    pub fn cache_paths(&self) -> impl Iterator<Item = &'a [u8]> {
        let cycle = self.0.cf().cycle;
        // SAFETY: HOST-2: the cycle that is being made; ends here.
        let paths = unsafe { &(*cycle).paths };
        // SAFETY: an array of this type (`ngx_add_path`).
        let paths = unsafe { paths.as_slice::<*mut ngx_path_t>() };
        let paths = paths.iter().filter_map(|path| NonNull::new(*path));
        // SAFETY: each is in the cycle's pool.
        let paths = paths.map(|path| unsafe { path.as_ref() });
        // SAFETY: as above.
        paths.filter(|path| path.manager.is_some()).map(|path| unsafe { bytes(path.name) })
    }

    /// Has workers begin threads for work that blocks, where they can.
    pub fn add_threads(&self) {
        // SAFETY: `postconfiguration` is called while the file is being read.
        unsafe { threads::add(self.0.as_ptr()) };
    }

    /// Those of the modules that this nginx has.
    pub(in crate::nginx) fn modules<'n>(
        &self,
        names: &'n [&'n CStr],
    ) -> impl Iterator<Item = &'a ngx_module_t> + use<'a, 'n> {
        let cycle = self.0.cf().cycle;
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
            !name.is_null() && names.contains(&unsafe { CStr::from_ptr(name) })
        })
    }

    /// The location, if it is of this configuration.
    fn own(&self, location: Location) -> Option<Location> {
        // SAFETY: `postconfiguration` has the context of the `http` block.
        unsafe { location.is_in(self.0.cf().ctx.cast()) }.then_some(location)
    }
}
