//! Memory that all workers share: nginx's zones, which a reload keeps (HOST-26).

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use ngx::core::Pool;
use ngx::ffi::{
    ngx_int_t, ngx_pagesize, ngx_shared_memory_add, ngx_shm_zone_t, ngx_slab_alloc, ngx_slab_pool_t,
};

use super::parsing::{Parsing, Refused};
use crate::nginx::core::cycle::Cycle;
use crate::nginx::core::guard::guard;
use crate::nginx::core::rc;

/// A zone of a configuration: a row of words.
///
/// # Invariants
///
/// Points to a place in the pool of the cycle.
#[derive(Clone, Copy, Debug)]
pub struct SharedZone(NonNull<Area>, Cycle);

/// Where the words are.
///
/// # Invariants
///
/// `start` is null, or leads to `count` words in a zone of the cycle.
#[derive(Clone, Copy)]
struct Area {
    start: *mut AtomicU64,
    count: usize,
    is_new: bool,
}

/// Zones of one name with different tags have nothing in common: a tag for each kind.
static TAGS: [u8; 8] = [0; 8];

/// What nginx keeps at the beginning of a zone, and beside each page (`ngx_slab_init`).
const BEGINNING: usize = 64 * 1024;

/// A page of memory, in bytes.
pub fn page_size() -> usize {
    // SAFETY: HOST-1: one thread; set when nginx starts (`ngx_os_init`).
    unsafe { ngx_pagesize }
}

impl Parsing<'_> {
    /// Adds a zone of so many words; one of the same name, size and kind has the memory that it had in the
    /// configuration before.
    ///
    /// # Errors
    ///
    /// nginx has said why: a zone of this name is there for something else, or no memory.
    pub fn shared_zone(
        &self,
        name: &[u8],
        count: usize,
        kind: usize,
    ) -> Result<SharedZone, Refused> {
        let bytes = count.checked_mul(size_of::<AtomicU64>()).ok_or(Refused::NoMemory)?;
        let size = bytes.checked_add(bytes / 128 + BEGINNING).ok_or(Refused::NoMemory)?;
        // SAFETY: HOST-2: the cycle's pool.
        let pool = unsafe { Pool::from_ngx_pool(self.cf().pool) };
        let area = NonNull::new(pool.alloc_type::<Area>()).ok_or(Refused::AlreadyLogged)?;
        // SAFETY: just allocated, for one.
        // INVARIANT: no words yet.
        unsafe { area.write(Area { start: ptr::null_mut(), count, is_new: false }) };
        // SAFETY: HOST-2.
        let name = unsafe { ngx::ffi::ngx_str_t::from_bytes(pool.as_ptr(), name) };
        let mut name = name.ok_or(Refused::AlreadyLogged)?;
        let tag = TAGS.as_ptr().wrapping_add(kind % TAGS.len()).cast_mut();
        // SAFETY: HOST-2; the name is in the cycle's pool.
        let zone = unsafe { ngx_shared_memory_add(self.as_ptr(), &raw mut name, size, tag.cast()) };
        // SAFETY: a zone of the cycle that is being made, or null.
        let Some(zone) = (unsafe { zone.as_mut() }) else { return Err(Refused::AlreadyLogged) };
        zone.init = Some(init);
        zone.data = area.as_ptr().cast();
        // INVARIANT: in the pool of the newest cycle.
        Ok(SharedZone(area, Cycle::newest()))
    }
}

impl SharedZone {
    /// Shows the words to `look`, which calls nothing of nginx's that takes zones up or gives them back; `None`
    /// while they are not there, and once they are gone.
    pub fn with<T>(&self, look: impl FnOnce(&[AtomicU64]) -> T) -> Option<T> {
        let area = self.area()?;
        if area.start.is_null() {
            return None;
        }
        // SAFETY: the invariant; whoever else has them uses atomic operations.
        Some(look(unsafe { std::slice::from_raw_parts(area.start, area.count) }))
    }

    /// Whether nobody has used the words before.
    pub fn is_new(&self) -> bool {
        self.area().is_some_and(|area| area.is_new)
    }

    #[inline]
    fn area(&self) -> Option<&Area> {
        let Self(area, cycle) = self;
        // Without a master the process goes on after a reload, which gives back zones that are in use no more.
        if !cycle.is_newest() && !cycle.is_in_use() {
            return None;
        }
        // SAFETY: the invariant; nothing changes it but `init`.
        Some(unsafe { area.as_ref() })
    }
}

/// Called when the zone's memory is there, with the data of the zone before if that is the same.
unsafe extern "C" fn init(zone: *mut ngx_shm_zone_t, before: *mut c_void) -> ngx_int_t {
    guard(rc::ERROR, || {
        // SAFETY: nginx passes the zone that `shared_zone` has filled in.
        let area = unsafe { (*zone).data }.cast::<Area>();
        // SAFETY: as above; its memory begins with a pool (`ngx_init_zone_pool`).
        let pool = unsafe { (*zone).shm.addr }.cast::<c_void>().cast::<ngx_slab_pool_t>();
        // SAFETY: as above.
        let count = unsafe { (*area).count };
        // SAFETY: as above.
        let exists = unsafe { (*zone).shm.exists };
        let is_new = before.is_null() && exists == 0;
        if is_new {
            // SAFETY: HOST-26: nobody else uses the pool yet.
            let start = unsafe { ngx_slab_alloc(pool, count * size_of::<AtomicU64>()) };
            if start.is_null() {
                return rc::ERROR;
            }
            // SAFETY: as above.
            unsafe { (*pool).data = start };
        }
        // SAFETY: as above: where whoever made the zone has put them.
        let start = unsafe { (*pool).data }.cast::<AtomicU64>();
        // SAFETY: as above; nobody else looks at it while zones are made.
        // INVARIANT: so many words were asked for, when it was made: its size is the same.
        unsafe { area.write(Area { start, count, is_new }) };
        rc::OK
    })
}
