//! Which process this is, and whether it is about to leave.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use ngx::ffi::{ngx_cycle_t, ngx_list_part_t, ngx_open_file_t};

use super::cycle;
use super::module::core_conf;
use super::string::bytes;
use crate::os::file::FileId;

/// What a process that ran the `init_process` hooks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The only process (`master_process off`); its slot is 0.
    Single,
    /// A worker in this slot; the successor of a dead worker inherits it (HOST-9).
    Worker(usize),
    /// The cache manager or loader, whose slot number says nothing (HOST-8).
    Helper,
}

impl Role {
    /// The role of this process.
    pub fn current() -> Self {
        // SAFETY: HOST-1: one thread; nginx sets it before the `init_process` hooks run.
        let process = unsafe { ngx::ffi::ngx_process };
        if process == ngx::ffi::NGX_PROCESS_SINGLE as usize {
            Self::Single
        } else if process == ngx::ffi::NGX_PROCESS_WORKER as usize {
            // SAFETY: HOST-1: one thread; set together with `ngx_process`.
            Self::Worker(unsafe { ngx::ffi::ngx_worker })
        } else {
            Self::Helper
        }
    }

    /// The slot whose timers belong to this process, if any may.
    pub fn slot(self) -> Option<usize> {
        match self {
            Self::Single => Some(0),
            Self::Worker(slot) => Some(slot),
            Self::Helper => None,
        }
    }
}

/// Whether this process is exiting (QUIT, TERM, or a reload), and so starts nothing.
pub fn is_leaving() -> bool {
    // SAFETY: HOST-1: one thread; signal handlers only ever write whole words.
    let exiting = unsafe { ngx::ffi::ngx_exiting };
    // SAFETY: as above.
    let terminate = unsafe { ngx::ffi::ngx_terminate };
    // SAFETY: as above.
    let quit = unsafe { ngx::ffi::ngx_quit };
    exiting != 0 || terminate != 0 || quit != 0
}

/// Whether the configuration that is taken up follows another one in the same process. Only while it
/// is taken up; afterwards there is always one.
pub fn is_reload() -> bool {
    // SAFETY: HOST-1: one thread.
    let cycle = unsafe { ngx::ffi::ngx_cycle };
    // SAFETY: HOST-21; of the first cycle, which has no configurations, only that is set.
    !cycle.is_null() && unsafe { !(*cycle).conf_ctx.is_null() }
}

/// The number of worker processes that this configuration asks for; 1 without a master.
///
/// # Safety
///
/// A complete cycle.
pub(in crate::nginx) unsafe fn worker_count(cycle: &ngx_cycle_t) -> usize {
    // SAFETY: the caller's promise.
    let Some(conf) = (unsafe { core_conf(cycle) }) else { return 1 };
    // SAFETY: complete once the configuration was read.
    let conf = unsafe { conf.as_ref() };
    let (master, workers) = (conf.master, conf.worker_processes);
    if master == 0 { 1 } else { usize::try_from(workers).unwrap_or(1).max(1) }
}

/// Brings nginx's cached time up to date. Only for `init_process`, where it is as old as the
/// reading of the configuration; never in a handler (HOST-5).
pub(in crate::nginx) fn update_time() {
    // SAFETY: HOST-1: one thread; takes its own lock.
    unsafe { ngx::ffi::ngx_time_update() };
}

/// The files of this nginx that are there now: its logs, and its pid files.
pub fn own_files() -> Vec<FileId> {
    // SAFETY: HOST-1: one thread.
    let cycle = unsafe { ngx::ffi::ngx_cycle };
    // SAFETY: HOST-21.
    let cycle = unsafe { &*cycle };
    let mut own = Vec::new();
    let mut part: *const ngx_list_part_t = &raw const cycle.open_files.part;
    while let Some(files) = NonNull::new(part.cast_mut()) {
        // SAFETY: a part of the list, the last of which leads to none; here and below nothing of nginx's is called.
        let ngx_list_part_t { elts, nelts, next } = unsafe { files.read() };
        for index in 0..nelts {
            // SAFETY: its elements are of this type (`ngx_conf_open_file`).
            let fd = unsafe { (*elts.cast::<ngx_open_file_t>().wrapping_add(index)).fd };
            own.extend(FileId::of_descriptor(fd));
        }
        part = next;
    }
    // SAFETY: HOST-21.
    if let Some(core) = unsafe { core_conf(cycle) } {
        // SAFETY: complete once the configuration was read.
        let core = unsafe { core.as_ref() };
        for path in [core.pid, core.oldpid] {
            // SAFETY: it lives in the cycle's pool.
            let path = Path::new(OsStr::from_bytes(unsafe { bytes(path) }));
            own.extend(FileId::at(path).ok());
        }
    }
    own
}

/// The version of the nginx that this module was built for, which is the one that loads it
/// (`ngx_add_module`).
pub fn nginx_version() -> &'static str {
    ngx::ffi::NGINX_VERSION.to_str().unwrap_or_default()
}

/// This host's name, as nginx has it.
pub fn host_name() -> String {
    let name = cycle::in_use(|cycle| cycle.hostname);
    // SAFETY: it lives in the cycle's pool.
    String::from_utf8_lossy(unsafe { bytes(name) }).into_owned()
}
