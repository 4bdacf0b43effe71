//! nginx's thread pool, where there is one.
//!
//! It is looked up at run time, since an nginx without threads loads the module too. The pool is added while a
//! configuration is read, and begun by nginx in each worker; what is found when a worker begins is used by it.

use std::cell::Cell;
use std::ffi::c_void;
use std::mem;
use std::ptr::{self, NonNull};

use ngx::ffi::{ngx_event_conf_t, ngx_event_module_t, ngx_module_t};

use super::cycle::Cycle;
use super::module::core_conf;
use super::process::Role;
use super::rc;
use crate::os::dynamic_symbol;

#[expect(nonstandard_style, unreachable_pub, reason = "made by bindgen")]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/thread_pool.rs"));
}

use bindings::ngx_thread_pool_t;
pub(in crate::nginx) use bindings::ngx_thread_task_t;
use ngx::ffi::{ngx_conf_t, ngx_cycle_t, ngx_int_t, ngx_str_t};

type Add = unsafe extern "C" fn(*mut ngx_conf_t, *mut ngx_str_t) -> *mut ngx_thread_pool_t;
type Get = unsafe extern "C" fn(*mut ngx_cycle_t, *mut ngx_str_t) -> *mut ngx_thread_pool_t;
type Post = unsafe extern "C" fn(*mut ngx_thread_pool_t, *mut ngx_thread_task_t) -> ngx_int_t;

/// A function of nginx's of this type, which is that of the headers, if this nginx has it.
macro_rules! function {
    ($name:literal, $declared:path, $type:ty) => {{
        const {
            let _: $type = $declared;
        }
        dynamic_symbol($name).map(|address| {
            // SAFETY: what has this name is nginx's function, of the type that the headers give it.
            unsafe { mem::transmute::<*mut c_void, $type>(address.as_ptr()) }
        })
    }};
}

/// The pool that is used without a name: `thread_pool default`, or one with nginx's own numbers.
const DEFAULT: &[u8] = b"default";

thread_local! {
    /// The pool that this process has begun, and the configuration that it belongs to.
    static BEGUN: Cell<Option<(NonNull<ngx_thread_pool_t>, Cycle)>> = const { Cell::new(None) };
}

/// Has workers of the configuration that is being read begin a pool, where that does no harm: an event method without
/// `notify` would end the worker, and a process without a master would lose the pool in use at a reload (THREAD-1,
/// THREAD-2).
///
/// # Safety
///
/// `cf` is what nginx passed to the hook that is running, with the file that is being read.
pub(in crate::nginx) unsafe fn add(cf: *mut ngx_conf_t) {
    // SAFETY: the caller's promise; the cycle that is being made.
    let cycle = unsafe { (*cf).cycle };
    // SAFETY: as above; ends before nginx is called.
    let cycle = unsafe { &*cycle };
    // SAFETY: as above.
    if !unsafe { can_be_notified(cycle) } {
        return;
    }
    if let Some(add) = function!(c"ngx_thread_pool_add", bindings::ngx_thread_pool_add, Add) {
        // SAFETY: the caller's promise. Without memory there is no pool, and nginx goes on.
        unsafe { add(cf, ptr::null_mut()) };
    }
}

/// Whether a thread can call this configuration's event method, and there is a master.
///
/// # Safety
///
/// A cycle that is being made, in whose modules all have their index.
unsafe fn can_be_notified(cycle: &ngx_cycle_t) -> bool {
    // SAFETY: the places are made before the configuration is read (`ngx_init_cycle`).
    let Some(core) = (unsafe { core_conf(cycle) }) else { return false };
    // SAFETY: made by `ngx_core_module_create_conf`; not set yet, or `off`.
    if unsafe { core.as_ref() }.master == 0 {
        return false;
    }
    // SAFETY: HOST-1: one thread; a static of nginx's, whose indices were set before.
    let index = unsafe { ngx::ffi::ngx_events_module.index };
    // SAFETY: each core module has its place.
    let events = unsafe { *cycle.conf_ctx.wrapping_add(index) };
    // Its own block may follow: nothing is known then.
    if events.is_null() {
        return false;
    }
    // SAFETY: as above.
    let core_index = unsafe { ngx::ffi::ngx_event_core_module.ctx_index };
    // SAFETY: what the `events` block leads to, an array with a place for each event module (`ngx_events_block`).
    let confs = unsafe { *events };
    if confs.is_null() {
        return false;
    }
    // SAFETY: as above.
    let conf = unsafe { *confs.cast::<*mut ngx_event_conf_t>().wrapping_add(core_index) };
    let Some(conf) = NonNull::new(conf) else { return false };
    // SAFETY: made by `ngx_event_core_create_conf`, and complete since the block has ended.
    let method = unsafe { conf.as_ref() }.use_;
    let all = (0..).map(|index| cycle.modules.wrapping_add(index));
    // SAFETY: the array is closed by a null pointer (`ngx_cycle_modules`).
    let mut all = all.map_while(|module| NonNull::new(unsafe { *module }));
    let is_method = |module: &NonNull<ngx_module_t>| {
        // SAFETY: modules are statics.
        let module = unsafe { module.as_ref() };
        module.type_ == ngx::ffi::NGX_EVENT_MODULE as usize && module.ctx_index == method
    };
    let Some(module) = all.find(is_method) else { return false };
    // SAFETY: modules are statics.
    let context = unsafe { module.as_ref() }.ctx.cast::<ngx_event_module_t>();
    // SAFETY: the context of an event module.
    unsafe { (*context).actions.notify }.is_some()
}

/// A process begins its work: finds the pool that nginx has begun in it.
pub(in crate::nginx) fn begin() {
    BEGUN.set(None);
    if Role::current() == Role::Helper {
        return;
    }
    let Some(get) = function!(c"ngx_thread_pool_get", bindings::ngx_thread_pool_get, Get) else {
        return;
    };
    // SAFETY: HOST-1: one thread.
    let cycle = unsafe { ngx::ffi::ngx_cycle };
    let mut name = super::string::borrowed(DEFAULT);
    // SAFETY: HOST-21; reads both.
    let pool = unsafe { get(cycle, &raw mut name) };
    BEGUN.set(NonNull::new(pool).map(|pool| (pool, Cycle::newest())));
}

/// Hands `task` to a thread; false if there is none, or the pool's queue is full.
///
/// # Safety
///
/// The task, its context and what its handler touches stay until nginx has called the handler of its event, which it
/// does from the event loop, and are left alone until then.
pub(in crate::nginx) unsafe fn post(task: *mut ngx_thread_task_t) -> bool {
    let Some(pool) = pool() else { return false };
    let Some(post) = function!(c"ngx_thread_task_post", bindings::ngx_thread_task_post, Post)
    else {
        return false;
    };
    // SAFETY: a pool that was begun in this process (THREAD-3); the caller's promise.
    unsafe { post(pool.as_ptr(), task) == rc::OK }
}

/// Whether tasks can be posted.
pub(in crate::nginx) fn are_there() -> bool {
    pool().is_some()
}

fn pool() -> Option<NonNull<ngx_thread_pool_t>> {
    BEGUN.get().filter(|(_, cycle)| cycle.is_current()).map(|(pool, _)| pool)
}

/// Whether the process is ending, which waits for its threads: asked in one of them.
pub(in crate::nginx) fn process_is_ending() -> bool {
    let terminate = &raw const ngx::ffi::ngx_terminate;
    let quit = &raw const ngx::ffi::ngx_quit;
    let process = &raw const ngx::ffi::ngx_process;
    // SAFETY: a word that a signal handler writes, read whole.
    let terminate = unsafe { terminate.read_volatile() };
    // SAFETY: as above.
    let quit = unsafe { quit.read_volatile() };
    // SAFETY: set once, before there were threads.
    let process = unsafe { process.read_volatile() };
    // Without a master there is no other end; a worker that quits waits for its runs.
    terminate != 0 || (quit != 0 && process == ngx::ffi::NGX_PROCESS_SINGLE as usize)
}
