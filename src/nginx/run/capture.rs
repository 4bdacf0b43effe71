//! The log lines of a run that somebody wants to see before they are written.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use ngx::ffi::{ngx_log_t, ngx_uint_t, u_char};

use super::connection::RunConnection;
use crate::nginx::core::guard::guard;

/// Errors are to be seen even where the location's log does not have them.
const LOWEST: ngx_uint_t = ngx::ffi::NGX_LOG_ERR as ngx_uint_t;

/// The writer of a run's log.
static WRITER: unsafe extern "C" fn(*mut ngx_log_t, ngx_uint_t, *mut u_char, usize) = write;

/// Has the lines of the run's log shown to what is inside the run; to be called again when nginx has
/// given the log another location's settings (RUN-17).
///
/// # Safety
///
/// The run's connection is open.
pub(super) unsafe fn install(run: NonNull<RunConnection>) {
    // SAFETY: the caller's promise; ends here.
    let run = unsafe { &mut *run.as_ptr() };
    let is_installed = run.log.writer.is_some_and(|writer| ptr::fn_addr_eq(writer, WRITER));
    if is_installed {
        return;
    }
    run.passed = run.log;
    run.passed.handler = None;
    run.log.writer = Some(WRITER);
    run.log.wdata = ptr::from_mut(run).cast::<c_void>();
    run.log.next = ptr::null_mut();
    run.log.log_level = run.log.log_level.max(LOWEST);
}

unsafe extern "C" fn write(log: *mut ngx_log_t, level: ngx_uint_t, line: *mut u_char, len: usize) {
    guard((), || {
        // SAFETY: `install` has set it, in a log that lives as long as the run's connection.
        let run = unsafe { (*log).wdata }.cast::<RunConnection>();
        let Some(run) = NonNull::new(run) else { return };
        // SAFETY: a line of this length, on the stack of nginx's function.
        let line = unsafe { std::slice::from_raw_parts(line, len) };
        // SAFETY: as above.
        let context = unsafe { (*run.as_ptr()).context };
        // SAFETY: as above.
        let mut passed = unsafe { (*run.as_ptr()).passed };
        let (text, message) = parts(line, context);
        // SAFETY: the run of an open connection.
        let inside = unsafe { RunConnection::state(run) }.and_then(|state| state.inside());
        let level = inside.map_or(level, |inside| inside.line(level, message));
        if passed.log_level < level {
            return;
        }
        // SAFETY: a log of the location's; its handler was left out, since the text has a context.
        unsafe { ngx::log::log_error(level, &raw mut passed, 0, text) };
    });
}

/// Of a line, what comes behind time, level, process and connection; and that without its context
/// behind the action, which has this length.
fn parts(line: &[u8], context: usize) -> (&[u8], &[u8]) {
    let line = line.trim_ascii_end();
    let behind = |text: &'_ [u8], mark: &[u8]| {
        let at = text.windows(mark.len()).position(|window| window == mark);
        at.map(|at| at + mark.len())
    };
    // `TIME [LEVEL] PID#TID: *CONNECTION TEXT`
    let mut from = behind(line, b"] ").unwrap_or(0);
    from += behind(line.get(from..).unwrap_or_default(), b": ").unwrap_or(0);
    let mut text = line.get(from..).unwrap_or_default();
    if text.starts_with(b"*") {
        let blank = behind(text, b" ").unwrap_or(0);
        text = text.get(blank..).unwrap_or_default();
    }
    let message = text.get(..text.len().saturating_sub(context)).unwrap_or_default();
    (text, message)
}
