//! nginx's error log.

use std::fmt::{self, Write};
use std::ptr::{self, NonNull};

use std::mem::MaybeUninit;

use nginx_sys::{ngx_cycle_t, ngx_err_t, ngx_log_error_core, ngx_log_t, ngx_uint_t};

use super::text::Text;

/// The severity of a line, as in `error_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// The configuration is refused.
    Emerg = nginx_sys::NGX_LOG_EMERG,
    /// A defect of ours.
    Alert = nginx_sys::NGX_LOG_ALERT,
    /// Something that needs a person.
    Crit = nginx_sys::NGX_LOG_CRIT,
    /// Work was left out or failed for good.
    Error = nginx_sys::NGX_LOG_ERR,
    /// Work will be tried again.
    Warn = nginx_sys::NGX_LOG_WARN,
    /// A change of state.
    Notice = nginx_sys::NGX_LOG_NOTICE,
    /// Normal running.
    Info = nginx_sys::NGX_LOG_INFO,
}

/// A log of nginx's.
///
/// # Invariants
///
/// Points to a log that lives as long as the configuration cycle from which the handle was taken,
/// and a handle is not used after its cycle.
#[derive(Clone, Copy)]
pub struct Log(NonNull<ngx_log_t>);

/// nginx cuts lines at 2048 bytes (HOST-15), its own beginning, the text of an errno, for which it
/// keeps 50, and the context included.
const LONGEST: usize = 1900;

impl Log {
    /// A handle for `log`; the cycle's log if it is null.
    ///
    /// # Safety
    ///
    /// `log` lives as long as the configuration cycle that is in use, or as the handle, or is null.
    pub(super) unsafe fn from_ptr(log: *mut ngx_log_t) -> Self {
        // INVARIANT: the caller's promise.
        NonNull::new(log).map_or_else(Self::cycle, Self)
    }

    /// The log of the running cycle.
    pub fn cycle() -> Self {
        // SAFETY: HOST-1: one thread; nginx sets `ngx_cycle` before it loads modules.
        let cycle = unsafe { nginx_sys::ngx_cycle };
        // SAFETY: HOST-21: `ngx_cycle` always points to a complete cycle.
        unsafe { Self::of(cycle) }
    }

    /// The log of `cycle`.
    ///
    /// # Safety
    ///
    /// `cycle` is complete, and lives as long as the handle is used.
    pub(super) unsafe fn of(cycle: *const ngx_cycle_t) -> Self {
        // SAFETY: the caller's promise.
        let log = unsafe { (*cycle).log };
        // INVARIANT: the cycle's, or one that lives for ever.
        Self(NonNull::new(log).unwrap_or_else(silent))
    }

    pub(super) fn as_ptr(self) -> *mut ngx_log_t {
        self.0.as_ptr()
    }

    /// Writes a line, if the log's level asks for it.
    pub fn write(self, level: Level, message: fmt::Arguments<'_>) {
        self.write_error(level, 0, message);
    }

    /// The same, and nginx adds the text of `errno` (none for 0).
    pub fn write_error(self, level: Level, errno: ngx_err_t, message: fmt::Arguments<'_>) {
        let log = self.as_ptr();
        // SAFETY: the type's invariant.
        if unsafe { (*log).log_level } < level as ngx_uint_t {
            return;
        }
        let mut text = Text::<LONGEST>::new();
        let _ = text.write_fmt(message);
        let text = text.as_bytes();
        let format = c"%*s".as_ptr();
        // SAFETY: the type's invariant; "%*s" takes a size_t and a pointer (`ngx_vslprintf`).
        unsafe {
            ngx_log_error_core(level as ngx_uint_t, log, errno, format, text.len(), text.as_ptr());
        };
    }
}

/// A log that writes nothing.
fn silent() -> NonNull<ngx_log_t> {
    // Its level, 0, is below all others, so that nothing else of it is looked at.
    static mut SILENT: MaybeUninit<ngx_log_t> = MaybeUninit::zeroed();
    let silent = &raw mut SILENT;
    // SAFETY: the address of a static.
    unsafe { NonNull::new_unchecked(silent) }.cast()
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ptr::addr_of!(self.0).fmt(f)
    }
}
