//! The gauges of `stub_status`.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nginx_sys::ngx_atomic_t;

use crate::os::dynamic_symbol;

/// A gauge that only an nginx with `stub_status` has, which the module's signature does not tell
/// (RUN-6); so it is looked up by name.
pub(super) struct Gauge {
    name: &'static CStr,
    /// The address of nginx's pointer to the counter; 0 where there is none.
    address: OnceLock<usize>,
}

/// Connections, our runs' included.
pub(super) static ACTIVE: Gauge = Gauge::new(c"ngx_stat_active");
/// Requests whose header is being read.
pub(super) static READING: Gauge = Gauge::new(c"ngx_stat_reading");
/// Requests that are being answered.
pub(super) static WRITING: Gauge = Gauge::new(c"ngx_stat_writing");

impl Gauge {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: OnceLock::new() }
    }

    pub(super) fn increment(&self) {
        self.add(1);
    }

    pub(super) fn decrement(&self) {
        self.add(usize::MAX);
    }

    fn add(&self, n: usize) {
        let address =
            *self.address.get_or_init(|| dynamic_symbol(self.name).map_or(0, |p| p.addr().get()));
        if address == 0 {
            return;
        }
        let pointer = std::ptr::with_exposed_provenance::<*mut ngx_atomic_t>(address);
        // SAFETY: the symbol is nginx's `ngx_atomic_t *` of this name (src/event/ngx_event.c).
        let counter = unsafe { *pointer };
        count(counter.cast(), n);
    }
}

/// Adds `n` to a counter of nginx's, wrapping, and answers what it was before.
pub(super) fn count(counter: *mut usize, n: usize) -> usize {
    if counter.is_null() {
        return 0;
    }
    // SAFETY: nginx's counters are aligned words in memory that lives as long as the process, and
    // are only ever changed atomically (`ngx_event_module_init`).
    let counter = unsafe { AtomicUsize::from_ptr(counter) };
    counter.fetch_add(n, Ordering::Relaxed)
}
