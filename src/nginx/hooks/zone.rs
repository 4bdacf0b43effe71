//! A hook between the reading of a configuration and the opening of its sockets.
//!
//! It is the init callback of a shared zone: the last place that may refuse a configuration so that
//! the old one goes on, and the first at which paths are made (HOST-18). The zone itself is not used.

use std::ffi::c_void;
use std::ptr::NonNull;

use ngx::ffi::{ngx_cycle_t, ngx_int_t, ngx_palloc, ngx_shared_memory_add, ngx_shm_zone_t};
use ngx::ngx_string;

use super::http_module::{HttpModule, has_memory};
use crate::nginx::conf::opening::{Opening, Unusable};
use crate::nginx::conf::parsing::{Parsing, Refused};
use crate::nginx::core::guard::guard;
use crate::nginx::core::log::Level;
use crate::nginx::core::rc;

/// What the zone leads to, in the pool of the cycle.
struct ZoneData<M: HttpModule> {
    main: *const M::Main,
    cycle: *mut ngx_cycle_t,
}

/// Enough for what nginx itself puts at the beginning of a zone (`ngx_init_zone_pool`).
const SIZE: usize = 32 * 1024;

/// Adds the zone, in postconfiguration.
pub(in crate::nginx) fn add<M: HttpModule>(
    main: *const M::Main,
    parsing: &Parsing<'_>,
) -> Result<(), Refused> {
    let cf = parsing.cf();
    // SAFETY: HOST-2: the cycle's pool; HOST-13: aligned, or null.
    let data = unsafe { ngx_palloc(cf.pool, size_of::<ZoneData<M>>()) }.cast::<ZoneData<M>>();
    let Some(data) = NonNull::new(data) else { return Err(Refused::AlreadyLogged) };
    // SAFETY: just allocated with this size.
    unsafe { data.write(ZoneData { main, cycle: cf.cycle }) };

    let mut name = ngx_string!("ngx_http_timer_module");
    let tag = M::descriptor().cast_mut().cast();
    // SAFETY: HOST-2; nginx keeps the name, which is a constant.
    let zone = unsafe { ngx_shared_memory_add(parsing.as_ptr(), &raw mut name, SIZE, tag) };
    // SAFETY: a zone of the cycle that is being made, or null.
    let Some(zone) = (unsafe { zone.as_mut() }) else { return Err(Refused::AlreadyLogged) };
    zone.init = Some(init::<M>);
    zone.data = data.as_ptr().cast();
    Ok(())
}

unsafe extern "C" fn init<M: HttpModule>(zone: *mut ngx_shm_zone_t, _: *mut c_void) -> ngx_int_t {
    guard(rc::ERROR, || {
        // SAFETY: nginx passes the zone that `add` has filled in.
        let data = unsafe { (*zone).data }.cast::<ZoneData<M>>();
        // SAFETY: as above; it lives in the pool of the cycle that is being made.
        let cycle = unsafe { (*data).cycle };
        // SAFETY: as above.
        let main = unsafe { (*data).main };
        // SAFETY: made by `create_main_conf`; only read from now on.
        let Some(main) = (unsafe { main.as_ref() }) else { return rc::ERROR };
        if !has_memory() {
            return rc::ERROR;
        }
        // SAFETY: as above; ends here.
        let cycle = unsafe { &*cycle };
        // SAFETY: as above.
        let opening = unsafe { Opening::of(cycle) };
        match M::open(main, &opening) {
            Ok(()) => rc::OK,
            Err(Unusable { why, errno }) => {
                opening.log.write_error(Level::Emerg, errno, format_args!("{why}"));
                rc::ERROR
            }
        }
    })
}
