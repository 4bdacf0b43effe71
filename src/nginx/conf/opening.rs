//! A configuration that was read and is about to be taken up.

use ngx::ffi::ngx_cycle_t;

use crate::nginx::core::cycle::Cycle;
use crate::nginx::core::log::Log;
use crate::nginx::core::module::core_conf;
use crate::nginx::core::string::bytes;

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

impl Opening {
    /// # Safety
    ///
    /// `cycle` is the one that is about to be taken up.
    pub(in crate::nginx) unsafe fn of(cycle: &ngx_cycle_t) -> Self {
        let purpose = Purpose::current();
        // SAFETY: HOST-21: it has its log, and is the newest.
        let log = unsafe { Log::of(cycle.log, Cycle::newest()) };
        // SAFETY: HOST-21: it is complete.
        let Some(core) = (unsafe { core_conf(cycle) }) else {
            return Self { purpose, log, pid_file: Vec::new(), workers: None };
        };
        // SAFETY: `ngx_core_module_init_conf` has filled it in before zones are made.
        let core = unsafe { core.as_ref() };
        // SAFETY: it lives in the cycle's pool.
        let pid_file = unsafe { bytes(core.pid) }.to_vec();
        // As `ngx_worker_process_init`: only root's workers become somebody else.
        let workers = crate::os::is_root().then_some((core.user, core.group));
        Self { purpose, log, pid_file, workers }
    }
}
