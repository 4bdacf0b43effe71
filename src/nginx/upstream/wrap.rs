//! Stands before the balancer of each group, which picks the server of a request.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;

use ngx::ffi::{
    ngx_http_request_t, ngx_http_upstream_init_peer_pt, ngx_http_upstream_srv_conf_t, ngx_int_t,
};

use super::first_line;
use super::group;
use super::judging::finalize;
use super::pin::Pin;
use crate::nginx::conf::parsing::Refused;
use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::guard::guard;
use crate::nginx::core::{pool, rc};
use crate::nginx::run::{filters, guarded};
use crate::os::memory;

type Init =
    unsafe extern "C" fn(*mut ngx_http_request_t, *mut ngx_http_upstream_srv_conf_t) -> ngx_int_t;

/// The balancer of a group.
struct Balancer {
    group: usize,
    pool: usize,
    init: ngx_http_upstream_init_peer_pt,
}

thread_local! {
    /// Those that this module stands before, by the address of their group.
    static BALANCERS: RefCell<Vec<Balancer>> = const { RefCell::new(Vec::new()) };
}

/// What a group's balancer is replaced by. A static, so that there is one address.
static INIT: Init = init_peer;

/// Stands before the balancers of all groups of a configuration, those that nginx makes of host names
/// too, so that servers can be pinned, and before all filters, so that what they answer is seen. A request
/// that is pinned to none has its own balancer. Without checks there is none of it: clients' requests would
/// pass through it for nothing.
///
/// # Errors
///
/// No memory.
pub fn allow_pinning(read: &WhollyRead<'_>) -> Result<(), Refused> {
    stand_before_all(read)
}

/// The same, so that guarded runs are asked before each connection whether they go on: without fleets there
/// is none of it.
///
/// # Errors
///
/// No memory.
pub fn watch_connects(read: &WhollyRead<'_>) -> Result<(), Refused> {
    stand_before_all(read)
}

fn stand_before_all(read: &WhollyRead<'_>) -> Result<(), Refused> {
    let pool = read.parsing().cf().pool;
    // SAFETY: HOST-2: the pool of the cycle that is made, which is looked at as a number only.
    let registered = unsafe { pool::on_destroy(pool, forget, pool.cast()) };
    registered.ok_or(Refused::AlreadyLogged)?;
    for conf in group::all(read) {
        // SAFETY: a group of the configuration that is read, complete now.
        let peer = unsafe { &raw mut (*conf.as_ptr()).peer };
        // SAFETY: as above.
        let before = unsafe { (*peer).init };
        if before.is_some_and(|before| ptr::fn_addr_eq(before, INIT)) {
            continue;
        }
        let balancer = Balancer { group: conf.as_ptr().addr(), pool: pool.addr(), init: before };
        BALANCERS.with_borrow_mut(|all| {
            let at = all.partition_point(|other| other.group < balancer.group);
            memory::fallible(|| all.try_reserve(1))?;
            all.insert(at, balancer);
            Ok::<(), Refused>(())
        })?;
        // SAFETY: as above: nothing sets it any more (UPSTREAM-1).
        unsafe { (*peer).init = Some(INIT) };
    }
    filters::install();
    Ok(())
}

/// The cleanup of a cycle's pool.
unsafe extern "C" fn forget(pool: *mut c_void) {
    guard((), || {
        let _ = BALANCERS.try_with(|all| {
            all.borrow_mut().retain(|balancer| balancer.pool != pool.addr());
        });
    });
}

/// The balancer that the group has.
fn balancer_of(group: *mut ngx_http_upstream_srv_conf_t) -> ngx_http_upstream_init_peer_pt {
    BALANCERS.with_borrow(|all| {
        let found = all.binary_search_by_key(&group.addr(), |balancer| balancer.group);
        found.ok().and_then(|at| all.get(at)).and_then(|balancer| balancer.init)
    })
}

unsafe extern "C" fn init_peer(
    r: *mut ngx_http_request_t,
    group: *mut ngx_http_upstream_srv_conf_t,
) -> ngx_int_t {
    let (balancer, answer) = guard((None, rc::ERROR), || {
        // SAFETY: nginx calls it with an open request that has an upstream.
        match unsafe { Pin::of(r) } {
            Some(pin) => {
                // SAFETY: as above, and with the group that it has come to.
                let answer = unsafe { pin.enter(r, group, finalize) };
                if answer == rc::OK {
                    // SAFETY: as above.
                    unsafe { first_line::wait_for(&pin, r) };
                }
                (None, answer)
            }
            None => (balancer_of(group), rc::ERROR),
        }
    });
    let Some(balancer) = balancer else { return answer };
    // SAFETY: the group's own, called as nginx calls it.
    let answer = unsafe { balancer(r, group) };
    if answer == rc::OK {
        // SAFETY: as above: it has begun with the request.
        guard((), || unsafe { guarded::watch(r) });
    }
    answer
}
