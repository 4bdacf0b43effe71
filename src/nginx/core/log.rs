//! nginx's error log.

use std::fmt::{self, Write};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use ngx::ffi::{ngx_err_t, ngx_log_t, ngx_uint_t};

use super::cycle::{self, Cycle};
use super::text::Text;

/// The severity of a line, as in `error_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// The configuration is refused.
    Emerg = ngx::ffi::NGX_LOG_EMERG,
    /// A defect of ours.
    Alert = ngx::ffi::NGX_LOG_ALERT,
    /// Something that needs a person.
    Crit = ngx::ffi::NGX_LOG_CRIT,
    /// Work was left out or failed for good.
    Error = ngx::ffi::NGX_LOG_ERR,
    /// Work will be tried again.
    Warn = ngx::ffi::NGX_LOG_WARN,
    /// A change of state.
    Notice = ngx::ffi::NGX_LOG_NOTICE,
    /// Normal running.
    Info = ngx::ffi::NGX_LOG_INFO,
}

/// A log of nginx's: one of a configuration's, or, once that is gone, and if it is none, the log of
/// the running cycle.
///
/// # Invariants
///
/// Points to a log that is there as long as the configuration is.
#[derive(Clone, Copy)]
pub struct Log(Option<(NonNull<ngx_log_t>, Cycle)>);

/// nginx cuts lines at 2048 bytes (HOST-15), its own beginning, the text of an errno, for which it
/// keeps 50, and the context included.
const LONGEST: usize = 1900;

impl Log {
    /// A handle for `log`; the running cycle's log if it is null.
    ///
    /// # Safety
    ///
    /// `log` is there as long as `cycle` is, or is null.
    pub(in crate::nginx) unsafe fn of(log: *mut ngx_log_t, cycle: Cycle) -> Self {
        // INVARIANT: the caller's promise.
        Self(NonNull::new(log).map(|log| (log, cycle)))
    }

    /// The log of the running cycle, whichever that is when a line is written.
    pub fn cycle() -> Self {
        Self(None)
    }

    /// The log as it is now: not to be kept for longer than its cycle.
    pub(in crate::nginx) fn as_ptr(self) -> *mut ngx_log_t {
        if let Some((log, cycle)) = self.0 {
            if cycle.is_alive() {
                return log.as_ptr();
            }
        }
        let log = cycle::in_use(|cycle| cycle.log);
        if log.is_null() { silent() } else { log }
    }

    /// Writes a line, if the log's level asks for it.
    pub fn write(self, level: Level, message: fmt::Arguments<'_>) {
        self.write_error(level, 0, message);
    }

    /// The same, and nginx adds the text of `errno` (none for 0).
    pub fn write_error(self, level: Level, errno: ngx_err_t, message: fmt::Arguments<'_>) {
        // SAFETY: it is there now.
        unsafe { write_to(self.as_ptr(), level, errno, message) };
    }
}

/// Writes a line to `log`, if its level asks for it, with the text of `errno` (none for 0).
///
/// # Safety
///
/// `log` is one of nginx's that is there.
pub(in crate::nginx) unsafe fn write_to(
    log: *mut ngx_log_t,
    level: Level,
    errno: ngx_err_t,
    message: fmt::Arguments<'_>,
) {
    // SAFETY: the caller's promise.
    if unsafe { (*log).log_level } < level as ngx_uint_t {
        return;
    }
    let mut text = Text::<LONGEST>::new();
    let _ = text.write_fmt(message);
    // SAFETY: the caller's promise.
    unsafe { ngx::log::log_error(level as ngx_uint_t, log, errno, text.as_bytes()) };
}

/// A log that writes nothing, and is always there.
pub(in crate::nginx) fn silent() -> *mut ngx_log_t {
    // Its level, 0, is below all others, so that nothing else of it is looked at.
    static mut SILENT: MaybeUninit<ngx_log_t> = MaybeUninit::zeroed();
    (&raw mut SILENT).cast()
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ptr::addr_of!(self.0).fmt(f)
    }
}
