//! The gauges of `stub_status`.

use std::array;
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ngx::ffi::ngx_atomic_t;

use crate::os::dynamic_symbol;

/// A gauge that only an nginx with `stub_status` has, which the module's signature does not tell
/// (RUN-6); so it is looked up by name.
pub(in crate::nginx) struct Gauge {
    name: &'static CStr,
    /// The address of nginx's pointer to the counter; 0 where there is none.
    address: OnceLock<usize>,
}

/// Connections, our runs' included.
pub(in crate::nginx) static ACTIVE: Gauge = Gauge::new(c"ngx_stat_active");
/// Requests whose header is being read.
pub(in crate::nginx) static READING: Gauge = Gauge::new(c"ngx_stat_reading");
/// Requests that are being answered.
pub(in crate::nginx) static WRITING: Gauge = Gauge::new(c"ngx_stat_writing");
/// Connections that wait for a request.
static WAITING: Gauge = Gauge::new(c"ngx_stat_waiting");
/// All requests that there were.
static REQUESTS: Gauge = Gauge::new(c"ngx_stat_requests");
/// All connections that there were; any nginx has it.
static NUMBER: Gauge = Gauge::new(c"ngx_connection_counter");

impl Gauge {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: OnceLock::new() }
    }

    /// Whether this nginx has it.
    pub(in crate::nginx) fn is_there(&self) -> bool {
        self.pointer().is_some()
    }

    pub(in crate::nginx) fn increment(&self) {
        self.add(1);
    }

    pub(in crate::nginx) fn decrement(&self) {
        self.add(usize::MAX);
    }

    fn add(&self, n: usize) {
        let Some(pointer) = self.pointer() else { return };
        // SAFETY: the symbol is nginx's `ngx_atomic_t *` of this name (src/event/ngx_event.c).
        let counter = unsafe { *pointer };
        // SAFETY: as above.
        unsafe { count(counter.cast(), n) };
    }

    fn pointer(&self) -> Option<*mut *mut ngx_atomic_t> {
        let symbol = || dynamic_symbol(self.name).map_or(0, |p| p.as_ptr().expose_provenance());
        let address = *self.address.get_or_init(symbol);
        (address != 0).then(|| std::ptr::with_exposed_provenance_mut(address))
    }
}

/// Those that go back to what they were when a run has ended, and those that do not.
static ALL: [&Gauge; 6] = [&ACTIVE, &READING, &WRITING, &WAITING, &REQUESTS, &NUMBER];
const THAT_GO_BACK: usize = 4;

/// Has `body` change gauges of its own instead of nginx's, which other workers change meanwhile;
/// answers whether those that go back did.
pub(in crate::nginx) fn apart<T>(body: impl FnOnce() -> T) -> (T, bool) {
    let own: [AtomicUsize; ALL.len()] = array::from_fn(|_| AtomicUsize::new(0));
    let replaced = Replaced(array::from_fn(|n| {
        let pointer = ALL.get(n)?.pointer()?;
        // SAFETY: as in `add`; HOST-1: one thread.
        let shared = unsafe { *pointer };
        // SAFETY: as above; put back before `own` is gone.
        unsafe { *pointer = own.get(n)?.as_ptr().cast() };
        Some((pointer, shared))
    }));
    let answer = body();
    drop(replaced);
    let back = own.iter().take(THAT_GO_BACK).all(|gauge| gauge.load(Ordering::Relaxed) == 0);
    (answer, back)
}

/// nginx's pointers to gauges, and what they are to point to again.
struct Replaced([Option<(*mut *mut ngx_atomic_t, *mut ngx_atomic_t)>; ALL.len()]);

impl Drop for Replaced {
    fn drop(&mut self) {
        for (pointer, shared) in self.0.into_iter().flatten() {
            // SAFETY: what was there before.
            unsafe { *pointer = shared };
        }
    }
}

/// Adds `n` to a counter of nginx's, wrapping, and answers what it was before.
///
/// # Safety
///
/// A counter of nginx's, or null.
pub(in crate::nginx) unsafe fn count(counter: *mut usize, n: usize) -> usize {
    if counter.is_null() {
        return 0;
    }
    // SAFETY: nginx's counters are aligned words in memory that lives as long as the process, and
    // are only ever changed atomically (`ngx_event_module_init`).
    let counter = unsafe { AtomicUsize::from_ptr(counter) };
    counter.fetch_add(n, Ordering::Relaxed)
}
