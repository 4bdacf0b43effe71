//! A hook between the reading of a configuration and the opening of its sockets.
//!
//! It is the init callback of a shared zone: the last place that may refuse a configuration so that
//! the old one goes on, and the first at which paths are made (HOST-18). The zone itself is not used.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use ngx::ffi::{
    ngx_core_conf_t, ngx_cycle_t, ngx_int_t, ngx_palloc, ngx_shared_memory_add, ngx_shm_zone_t,
    ngx_str_t,
};

use super::conf::{Parsing, Refused};
use super::cycle::Cycle;
use super::guard::guard;
use super::log::{Level, Log};
use super::module::{HttpModule, has_memory};
use super::process::core_conf;
use super::{bytes, rc};

/// What is known of a configuration that is about to be taken up.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Whether nginx only tests it.
    pub purpose: Purpose,
    /// Its log.
    pub log: Log,
    /// The path of the pid file.
    pub pid_file: Vec<u8>,
    /// User and group of the workers, where those are not the master's own.
    pub workers: Option<(u32, u32)>,
}

/// What a configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `nginx -t` and `-T`: to be judged, by reading only (HOST-16).
    Test,
    /// To be used.
    Use,
}

impl Purpose {
    /// What the configuration at hand is read for.
    pub fn current() -> Self {
        // SAFETY: HOST-1: one thread; set when the command line was read.
        let test = unsafe { ngx::ffi::ngx_test_config };
        if test == 0 { Self::Use } else { Self::Test }
    }
}

/// Why a configuration is refused after it was read, with the `errno` for nginx to add.
#[derive(Debug)]
pub struct Unusable {
    /// The sentence.
    pub why: String,
    /// The error of the system behind it; 0 for none.
    pub errno: i32,
}

/// What the zone leads to, in the pool of the cycle.
struct Place<M: HttpModule> {
    main: *const M::Main,
    cycle: *mut ngx_cycle_t,
}

const NAME: &CStr = c"ngx_http_timer_module";
/// Enough for what nginx itself puts at the beginning of a zone (`ngx_init_zone_pool`).
const SIZE: usize = 32 * 1024;

/// Adds the zone, in postconfiguration.
pub(super) fn add<M: HttpModule>(
    main: *const M::Main,
    parsing: &Parsing<'_>,
) -> Result<(), Refused> {
    let cf = parsing.cf();
    // SAFETY: HOST-2: the cycle's pool; HOST-13: aligned, or null.
    let place = unsafe { ngx_palloc(cf.pool, size_of::<Place<M>>()) }.cast::<Place<M>>();
    let Some(place) = NonNull::new(place) else { return Err(Refused::AlreadyLogged) };
    // SAFETY: just allocated with this size.
    unsafe { place.write(Place { main, cycle: cf.cycle }) };

    let mut name = ngx_str_t { len: NAME.count_bytes(), data: NAME.as_ptr().cast_mut().cast() };
    let tag = M::descriptor().cast_mut().cast();
    // SAFETY: HOST-2; nginx keeps the name, which is a constant.
    let zone = unsafe { ngx_shared_memory_add(parsing.as_ptr(), &raw mut name, SIZE, tag) };
    // SAFETY: a zone of the cycle that is being made, or null.
    let Some(zone) = (unsafe { zone.as_mut() }) else { return Err(Refused::AlreadyLogged) };
    zone.init = Some(init::<M>);
    zone.data = place.as_ptr().cast();
    Ok(())
}

unsafe extern "C" fn init<M: HttpModule>(zone: *mut ngx_shm_zone_t, _: *mut c_void) -> ngx_int_t {
    guard(rc::ERROR, || {
        // SAFETY: nginx passes the zone that `add` has filled in.
        let place = unsafe { (*zone).data }.cast::<Place<M>>();
        // SAFETY: as above; it lives in the pool of the cycle that is being made.
        let cycle = unsafe { (*place).cycle };
        // SAFETY: as above.
        let main = unsafe { (*place).main };
        // SAFETY: made by `create_main_conf`; only read from now on.
        let Some(main) = (unsafe { main.as_ref() }) else { return rc::ERROR };
        if !has_memory() {
            return rc::ERROR;
        }
        // SAFETY: as above.
        let opening = unsafe { opening(cycle) };
        match M::open(main, &opening) {
            Ok(()) => rc::OK,
            Err(Unusable { why, errno }) => {
                opening.log.write_error(Level::Emerg, errno, format_args!("{why}"));
                rc::ERROR
            }
        }
    })
}

/// # Safety
///
/// A complete cycle.
unsafe fn opening(cycle: *mut ngx_cycle_t) -> Opening {
    // SAFETY: the caller's promise.
    let core: *const ngx_core_conf_t = unsafe { core_conf(cycle) };
    let purpose = Purpose::current();
    // SAFETY: HOST-21: the cycle that is being taken up.
    let log = unsafe { (*cycle).log };
    // SAFETY: as above; it is the newest.
    let log = unsafe { Log::of(log, Cycle::newest()) };
    if core.is_null() {
        return Opening { purpose, log, pid_file: Vec::new(), workers: None };
    }
    // SAFETY: `ngx_core_module_init_conf` has filled it in before zones are made.
    let pid_file = unsafe { (*core).pid };
    // SAFETY: as above.
    let user = unsafe { (*core).user };
    // SAFETY: as above.
    let group = unsafe { (*core).group };
    // SAFETY: it lives in the cycle's pool.
    let pid_file = unsafe { bytes(pid_file) }.to_vec();
    // As `ngx_worker_process_init`: only root's workers become somebody else.
    let workers = crate::os::is_root().then_some((user, group));
    Opening { purpose, log, pid_file, workers }
}
