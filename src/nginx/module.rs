//! The module's hooks: from nginx's function tables to safe methods.

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};

use ngx::ffi::{
    ngx_conf_t, ngx_cycle_t, ngx_http_conf_ctx_t, ngx_http_module_t, ngx_int_t, ngx_module_t,
    ngx_pool_t,
};

use super::conf::{Parsing, Refused};
use super::cycle::Cycle;
use super::guard::guard;
use super::handler::Block;
use super::location::Location;
use super::log::{Level, Log};
use super::process::{self, Role};
use super::read::WhollyRead;
use super::zone::{self, Opening, Purpose, Unusable};
use super::{access, connection, layout, pool, rc};
use crate::os::memory;

/// What an http module has and does.
pub trait HttpModule: 'static {
    /// Its configuration of the `http` block.
    type Main: Default + 'static;
    /// Its configuration of each `http`, `server` and `location` block.
    type Location: Default + 'static;

    /// Its descriptor.
    fn descriptor() -> *const ngx_module_t;

    /// Before the `http` block is read: the place to add variables.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn before_configuration(parsing: &mut Parsing<'_>) -> Result<(), Refused>;

    /// Gives `conf`, that of `block`, what it has not set itself from the enclosing block.
    fn inherit(conf: &mut Self::Location, from: &Self::Location, block: &Block);

    /// After the `http` block was read and all was inherited.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn after_configuration(main: &mut Self::Main, read: &WhollyRead<'_>) -> Result<(), Refused>;

    /// A configuration was read, and is about to be taken up: what it needs is opened, and nothing
    /// is changed that the configuration in use relies on.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn open(main: &Self::Main, opening: &Opening) -> Result<(), Unusable>;

    /// A configuration for so many `workers` is taken up, in the process that has read it; not for
    /// a test of it.
    fn loaded(main: &Self::Main, workers: usize, log: Log);

    /// A process begins its work.
    fn process_begins(main: &Self::Main, process: Process);

    /// A process is about to end.
    fn process_ends();
}

/// A process that begins its work.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// What it is.
    pub role: Role,
    /// How many workers there are.
    pub workers: usize,
}

/// The http module's table of hooks.
pub const fn context<M: HttpModule>() -> ngx_http_module_t {
    ngx_http_module_t {
        preconfiguration: Some(preconfiguration::<M>),
        postconfiguration: Some(postconfiguration::<M>),
        create_main_conf: Some(create::<M::Main>),
        init_main_conf: None,
        create_srv_conf: None,
        merge_srv_conf: None,
        create_loc_conf: Some(create::<M::Location>),
        merge_loc_conf: Some(merge::<M>),
    }
}

/// The module's descriptor, but for its tables.
pub const fn descriptor<M: HttpModule>() -> ngx_module_t {
    ngx_module_t {
        type_: ngx::ffi::NGX_HTTP_MODULE as usize,
        init_module: Some(init_module::<M>),
        init_process: Some(init_process::<M>),
        exit_process: Some(exit_process::<M>),
        ..ngx_module_t::default()
    }
}

/// Whether a hook may begin that has to do with the reading of a configuration; if not, says why it
/// is refused.
pub(super) fn has_memory() -> bool {
    let enough = memory::enough();
    if !enough {
        Log::cycle().write(Level::Emerg, format_args!("timer: no memory"));
    }
    enough
}

/// The module's place among the http modules.
pub(super) fn context_index<M: HttpModule>() -> usize {
    // SAFETY: the module's own descriptor, a static; nginx sets the index before any hook runs.
    unsafe { (*M::descriptor()).ctx_index }
}

/// The module's main configuration in `context`, null if there is none.
///
/// # Safety
///
/// `context` is that of an `http` block that is read or was read, or null.
pub(super) unsafe fn main_of<M: HttpModule>(context: *mut ngx_http_conf_ctx_t) -> *mut M::Main {
    if context.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the caller's promise.
    let confs = unsafe { (*context).main_conf };
    // SAFETY: the array has a place for each http module.
    let conf = unsafe { confs.add(context_index::<M>()) };
    // SAFETY: as above; the place holds what `create_main_conf` answered, or null.
    unsafe { *conf }.cast()
}

/// The module's configuration among those of a location.
///
/// # Safety
///
/// `confs` is the `loc_conf` of a block of a configuration that was read, which lives for `'a`.
pub(super) unsafe fn location_of<'a, M: HttpModule>(
    confs: *mut *mut c_void,
) -> Option<&'a M::Location> {
    // SAFETY: the array has a place for each http module.
    let conf = unsafe { confs.add(context_index::<M>()) };
    // SAFETY: as above; the place holds what `create_loc_conf` answered.
    let conf = unsafe { *conf }.cast::<M::Location>();
    // SAFETY: as above; it changes no more once the configuration was read.
    unsafe { conf.as_ref() }
}

/// The module's main configuration in a complete cycle; `None` where there is no `http` block.
///
/// # Safety
///
/// A complete cycle, which lives for `'a`.
unsafe fn main_of_cycle<'a, M: HttpModule>(cycle: *mut ngx_cycle_t) -> Option<&'a M::Main> {
    // SAFETY: the caller's promise.
    let confs = unsafe { (*cycle).conf_ctx };
    // SAFETY: `index` is set by `ngx_preinit_modules`.
    let index = unsafe { ngx::ffi::ngx_http_module.index };
    // SAFETY: `conf_ctx` has a place for each module's index.
    let context = unsafe { confs.add(index) };
    // SAFETY: as above; for the http module it holds its context, or null.
    let context = unsafe { *context }.cast::<ngx_http_conf_ctx_t>();
    // SAFETY: see before.
    let main = unsafe { main_of::<M>(context) };
    // SAFETY: made by `create_main_conf`, lives as long as the cycle, changes no more.
    unsafe { main.as_ref() }
}

/// Shows the module's main configuration of the cycle in use to `look`; `None` where there is no
/// `http` block.
pub fn with_main<M: HttpModule, T>(look: impl FnOnce(&M::Main) -> T) -> Option<T> {
    // SAFETY: HOST-1: one thread.
    let cycle = unsafe { ngx::ffi::ngx_cycle };
    // The reference ends with the call, in the course of which no cycle comes or goes.
    // SAFETY: HOST-21: `ngx_cycle` always points to a complete cycle.
    unsafe { main_of_cycle::<M>(cycle) }.map(look)
}

/// A value on the heap that is dropped with `pool`; null without memory.
///
/// # Safety
///
/// A pool that is there.
unsafe fn in_pool<T>(pool: *mut ngx_pool_t, value: T) -> *mut T {
    let value = Box::into_raw(Box::new(value));
    // SAFETY: the caller's promise.
    if unsafe { pool::on_destroy(pool, drop_boxed::<T>, value.cast()) }.is_none() {
        // SAFETY: made of a box just now, and nobody else has it.
        drop(unsafe { Box::from_raw(value) });
        return ptr::null_mut();
    }
    value
}

unsafe extern "C" fn drop_boxed<T>(value: *mut c_void) {
    guard((), || {
        // SAFETY: `in_pool` made it of a box of this type; a pool runs each cleanup once.
        drop(unsafe { Box::from_raw(value.cast::<T>()) });
    });
}

unsafe extern "C" fn create<T: Default>(cf: *mut ngx_conf_t) -> *mut c_void {
    guard(ptr::null_mut(), || {
        // SAFETY: HOST-2.
        let pool = unsafe { (*cf).pool };
        if !has_memory() {
            return ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { in_pool(pool, T::default()) }.cast()
    })
}

unsafe extern "C" fn merge<M: HttpModule>(
    cf: *mut ngx_conf_t,
    from: *mut c_void,
    conf: *mut c_void,
) -> *mut c_char {
    guard(ptr::without_provenance_mut(usize::MAX), || {
        if !has_memory() {
            return ptr::without_provenance_mut(usize::MAX);
        }
        // SAFETY: what `create_loc_conf` made; two different blocks' configurations.
        let from = unsafe { &*from.cast::<M::Location>() };
        // SAFETY: as above.
        let conf = unsafe { &mut *conf.cast::<M::Location>() };
        // SAFETY: HOST-2: while configurations are merged, the context is that of the block.
        let context = unsafe { (*cf).ctx };
        // SAFETY: ANSWER-2.
        let block = unsafe { Location::from_context(context.cast(), Cycle::newest()) };
        M::inherit(conf, from, &Block::new(block));
        ptr::null_mut()
    })
}

unsafe extern "C" fn preconfiguration<M: HttpModule>(cf: *mut ngx_conf_t) -> ngx_int_t {
    hook(cf, |parsing| {
        layout::check(parsing)?;
        Cycle::begin(parsing)?;
        M::before_configuration(parsing)
    })
}

unsafe extern "C" fn postconfiguration<M: HttpModule>(cf: *mut ngx_conf_t) -> ngx_int_t {
    hook(cf, |parsing| {
        // SAFETY: HOST-2: `postconfiguration` has the context of the `http` block.
        let main = unsafe { main_of::<M>(parsing.cf().ctx.cast()) };
        // SAFETY: made by `create_main_conf`; no other reference to it is alive.
        let main = unsafe { main.as_mut() }.ok_or(Refused::AlreadyLogged)?;
        access::install(parsing)?;
        // SAFETY: in `postconfiguration`.
        M::after_configuration(main, &unsafe { WhollyRead::new(parsing) })?;
        zone::add::<M>(main, parsing)
    })
}

fn hook(
    cf: *mut ngx_conf_t,
    body: impl FnOnce(&mut Parsing<'_>) -> Result<(), Refused>,
) -> ngx_int_t {
    guard(rc::ERROR, || {
        let Some(cf) = NonNull::new(cf) else { return rc::ERROR };
        if !has_memory() {
            return rc::ERROR;
        }
        // SAFETY: HOST-2.
        let mut parsing = unsafe { Parsing::new(cf) };
        match body(&mut parsing) {
            Ok(()) => rc::OK,
            Err(refused) => {
                parsing.refuse(refused);
                rc::ERROR
            }
        }
    })
}

/// Always `NGX_OK`: an error would end the master, at a reload too (HOST-18).
unsafe extern "C" fn init_module<M: HttpModule>(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard((), || {
        // SAFETY: HOST-21: nginx passes a complete cycle to its hooks.
        if let Some(main) = unsafe { main_of_cycle::<M>(cycle) } {
            // SAFETY: as above; it has an `http` block.
            unsafe { access::put_first(cycle) };
            if Purpose::current() == Purpose::Use {
                // SAFETY: HOST-21: the cycle that is taken up.
                let log = unsafe { (*cycle).log };
                // SAFETY: as above; it is the newest.
                let log = unsafe { Log::of(log, Cycle::newest()) };
                // SAFETY: as above.
                let workers = unsafe { process::worker_count(cycle) };
                M::loaded(main, workers, log);
            }
        }
    });
    rc::OK
}

/// Always `NGX_OK`: a worker that ends with an error here is never started again (HOST-18).
unsafe extern "C" fn init_process<M: HttpModule>(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    guard((), || {
        // SAFETY: HOST-21: nginx passes a complete cycle to its hooks.
        if let Some(main) = unsafe { main_of_cycle::<M>(cycle) } {
            process::update_time();
            connection::prepare();
            // SAFETY: as above.
            let workers = unsafe { process::worker_count(cycle) };
            M::process_begins(main, Process { role: Role::current(), workers });
        }
    });
    rc::OK
}

unsafe extern "C" fn exit_process<M: HttpModule>(_: *mut ngx_cycle_t) {
    guard((), M::process_ends);
}
