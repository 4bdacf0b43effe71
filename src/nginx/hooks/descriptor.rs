//! The module's descriptor: nginx's function tables, from which the hooks are called.

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};

use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::ffi::{ngx_conf_t, ngx_cycle_t, ngx_http_module_t, ngx_int_t, ngx_module_t, ngx_pool_t};

use super::http_module::{HttpModule, InitProcess, has_memory};
use super::zone;
use crate::nginx::conf::location::Location;
use crate::nginx::conf::opening::Purpose;
use crate::nginx::conf::parsing::{Parsing, Refused};
use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::cycle::{self, Cycle};
use crate::nginx::core::guard::{guard, guard_else};
use crate::nginx::core::log::Log;
use crate::nginx::core::module::{Module, main_of};
use crate::nginx::core::process::{self, Role};
use crate::nginx::core::{layout, pool, rc, threads};
use crate::nginx::http::handler::Block;
#[cfg(feature = "panic-points")]
use crate::nginx::run::filters;
use crate::nginx::run::{connect, phases};

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

/// The module's descriptor, except its tables.
pub const fn descriptor<M: HttpModule>() -> ngx_module_t {
    ngx_module_t {
        type_: ngx::ffi::NGX_HTTP_MODULE as usize,
        init_module: Some(init_module::<M>),
        init_process: Some(init_process::<M>),
        exit_process: Some(exit_process::<M>),
        ..ngx_module_t::default()
    }
}

/// The module's main configuration in a cycle; `None` where there is no `http` block, and in a cycle
/// that has no configurations.
///
/// # Safety
///
/// A cycle that has been read and lives for `'a`, or one without configurations (HOST-21).
unsafe fn main_of_cycle<'a, M: Module>(cycle: &ngx_cycle_t) -> Option<&'a M::Main> {
    if cycle.conf_ctx.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let main = unsafe { main_of::<M>(cycle) };
    // SAFETY: made by `create_main_conf`, lives as long as the cycle, changes no more.
    main.map(|main| unsafe { main.as_ref() })
}

/// Shows the module's main configuration of the cycle in use to `look`; `None` if there is none.
pub fn with_main<M: Module, T>(look: impl FnOnce(&M::Main) -> T) -> Option<T> {
    // The reference ends with the call, in the course of which no cycle comes or goes.
    // SAFETY: HOST-21.
    let main = cycle::in_use(|cycle| unsafe { main_of_cycle::<M>(cycle) });
    main.map(look)
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
    guard(NGX_CONF_ERROR, || {
        if !has_memory() {
            return NGX_CONF_ERROR;
        }
        // SAFETY: what `create_loc_conf` made; two different blocks' configurations.
        let from = unsafe { &*from.cast::<M::Location>() };
        // SAFETY: as above.
        let conf = unsafe { &mut *conf.cast::<M::Location>() };
        // SAFETY: HOST-2; ends here.
        let cf = unsafe { &*cf };
        // SAFETY: ANSWER-2: while configurations are merged, the context is that of the block.
        let block = unsafe { Location::of(cf, Cycle::newest()) };
        M::inherit(conf, from, &Block::new(block));
        NGX_CONF_OK
    })
}

unsafe extern "C" fn preconfiguration<M: HttpModule>(cf: *mut ngx_conf_t) -> ngx_int_t {
    hook(cf, |parsing| {
        // SAFETY: in `preconfiguration`.
        unsafe { layout::check(parsing.as_ptr()) }.map_err(Refused::Because)?;
        // SAFETY: HOST-2: the pool of the cycle that is made.
        unsafe { Cycle::begin(parsing.cf().pool, forget) }.ok_or(Refused::AlreadyLogged)?;
        M::before_configuration(parsing)
    })
}

/// The cleanup of a cycle's pool, before whose end nothing of it is given back.
unsafe extern "C" fn forget(cycle: *mut c_void) {
    guard_else(|| Cycle::end(cycle), || Cycle::end(cycle));
}

unsafe extern "C" fn postconfiguration<M: HttpModule>(cf: *mut ngx_conf_t) -> ngx_int_t {
    hook(cf, |parsing| {
        // SAFETY: HOST-2: `postconfiguration` has the context of the `http` block.
        let main = unsafe { main_of::<M>(parsing.cf()) };
        let mut main = main.ok_or(Refused::AlreadyLogged)?;
        // SAFETY: made by `create_main_conf`; no other reference to it is alive.
        let main = unsafe { main.as_mut() };
        phases::install(parsing)?;
        // There each run has a receiver.
        #[cfg(feature = "panic-points")]
        filters::install();
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
        let cycle = unsafe { &*cycle };
        // SAFETY: as above.
        if let Some(main) = unsafe { main_of_cycle::<M>(cycle) } {
            // SAFETY: as above; it has an `http` block.
            unsafe { phases::put_first(cycle) };
            if Purpose::current() == Purpose::Use {
                // SAFETY: as above; it is the newest, which is taken up.
                let log = unsafe { Log::of(cycle.log, Cycle::newest()) };
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
        let cycle = unsafe { &*cycle };
        // SAFETY: as above.
        if let Some(main) = unsafe { main_of_cycle::<M>(cycle) } {
            // SAFETY: as above.
            let workers = unsafe { process::worker_count(cycle) };
            process::update_time();
            connect::prepare();
            threads::begin();
            M::process_begins(main, InitProcess { role: Role::current(), workers });
        }
    });
    rc::OK
}

unsafe extern "C" fn exit_process<M: HttpModule>(_: *mut ngx_cycle_t) {
    guard((), M::process_ends);
}
