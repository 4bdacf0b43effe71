//! Leaves out what is there for clients: the pre-access and access phases (RUN-9).

use std::mem;
use std::ptr;

use ngx::ffi::{
    ngx_array_push, ngx_cycle_t, ngx_http_handler_pt, ngx_http_phase_engine_t,
    ngx_http_phase_handler_t, ngx_http_request_t, ngx_int_t,
};

use super::capture;
use super::connection::RunConnection;
use super::request::Access;
use super::state::{KeptBody, RunState};
use crate::nginx::conf::parsing::{Parsing, Refused};
use crate::nginx::core::guard::guard;
use crate::nginx::core::module::core_main;
use crate::nginx::core::{bits, rc};

const PREACCESS: usize = ngx::ffi::ngx_http_phases_NGX_HTTP_PREACCESS_PHASE as usize;

type PhaseHandler = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;
type Checker =
    unsafe extern "C" fn(*mut ngx_http_request_t, *mut ngx_http_phase_handler_t) -> ngx_int_t;

/// What this module's handler is known by. A static, so that there is one address.
static HANDLER: PhaseHandler = leave_out;

/// Registers the handler, in postconfiguration.
pub(in crate::nginx) fn install(parsing: &Parsing<'_>) -> Result<(), Refused> {
    // SAFETY: HOST-2: `postconfiguration` has the context of the `http` block.
    let main = unsafe { core_main(parsing.cf()) };
    let Some(main) = main else { return Err(Refused::AlreadyLogged) };
    // SAFETY: the core module's configuration of this `http` block.
    let handlers = unsafe { &raw mut (*main.as_ptr()).phases[PREACCESS].handlers };
    // SAFETY: an array of handlers (`ngx_http_init_phases`).
    let handler = unsafe { ngx_array_push(handlers) }.cast::<ngx_http_handler_pt>();
    if handler.is_null() {
        return Err(Refused::AlreadyLogged);
    }
    // SAFETY: the new element, of this type.
    unsafe { handler.write(Some(HANDLER)) };
    Ok(())
}

/// Puts the handler before those of modules that were loaded later, in a cycle that was read: all
/// handlers of a phase have the same checker and the same way on, so that they can change places.
///
/// # Safety
///
/// A complete cycle that has an `http` block.
pub(in crate::nginx) unsafe fn put_first(cycle: &ngx_cycle_t) {
    // SAFETY: the caller's promise.
    let Some(main) = (unsafe { core_main(cycle) }) else { return };
    // SAFETY: the core module's configuration.
    let first = unsafe { main.as_ref() }.phase_engine.handlers;

    let is_own = |entry: ngx_http_phase_handler_t| {
        entry.handler.is_some_and(|handler| ptr::fn_addr_eq(handler, HANDLER))
    };
    // SAFETY: those of the cycle.
    let Some(index) = unsafe { entries(first) }.position(is_own) else { return };
    let mut at = first.wrapping_add(index);
    // SAFETY: an entry of the array.
    let own = unsafe { at.read() };
    // A phase is recognized by its `next`, the index behind it.
    while at > first {
        let before = at.wrapping_sub(1);
        // SAFETY: not before the array's first entry.
        let other = unsafe { before.read() };
        if other.next != own.next {
            break;
        }
        // SAFETY: as above; before workers exist, nobody else looks at the array.
        unsafe { (*at).handler = other.handler };
        at = before;
    }
    // SAFETY: an entry of the same phase.
    unsafe { (*at).handler = own.handler };
}

/// The entries from `first` to the end of the last phase.
///
/// # Safety
///
/// `first` is an entry of a phase engine's, which is there while the answer is.
unsafe fn entries(
    first: *const ngx_http_phase_handler_t,
) -> impl Iterator<Item = ngx_http_phase_handler_t> {
    let entries = (0..).map(move |index| first.wrapping_add(index));
    // SAFETY: RUN-9: the array is closed by a checker alone, the last one that is read.
    let entries = entries.take_while(|entry| unsafe { (**entry).checker }.is_some());
    // SAFETY: what has a checker is an entry.
    entries.map(|entry| unsafe { entry.read() })
}

/// The phases of the configuration that `r` is in.
///
/// # Safety
///
/// `r` is an open request.
pub(super) unsafe fn engine(r: *mut ngx_http_request_t) -> ngx_http_phase_engine_t {
    // SAFETY: the caller's promise; ends here.
    let request = unsafe { &*r };
    // SAFETY: as above.
    let main = unsafe { core_main(request) };
    // SAFETY: each `http` block has a configuration of the core module's.
    let main = unsafe { main.unwrap_unchecked() };
    // SAFETY: as above.
    unsafe { main.as_ref() }.phase_engine
}

/// Has a run's main request go on behind the access phase, or in the content phase; other requests
/// pass.
unsafe extern "C" fn leave_out(r: *mut ngx_http_request_t) -> ngx_int_t {
    let behind = guard(None, || {
        // SAFETY: nginx calls a phase handler with an open request.
        let main = unsafe { (*r).main };
        if r != main {
            return None;
        }
        // SAFETY: as above.
        let c = unsafe { (*r).connection };
        // SAFETY: as above.
        let run = unsafe { RunConnection::of(c) }?;
        // SAFETY: as above.
        let state = unsafe { RunConnection::state(run) }?;
        if let Some(inside) = state.inside() {
            // SAFETY: as above.
            unsafe { capture::install(run) };
            // SAFETY: as above.
            unsafe { keep_body(r, &state) };
            // SAFETY: as above.
            unsafe { inside.before_content(r) };
            // SAFETY: as above.
            let handlers = unsafe { engine(r) }.handlers;
            // SAFETY: those of a phase engine.
            return Some(unsafe { content_phase(handlers) });
        }
        match state.access() {
            // SAFETY: as above.
            Access::LeftOut => Some(unsafe { behind_access(r) }),
            Access::Checked => None,
        }
    });
    let Some(behind) = behind else { return rc::DECLINED };
    // SAFETY: as above.
    unsafe { (*r).phase_handler = behind };
    // SAFETY: as above; the request may end inside, and is not touched any more.
    unsafe { ngx::ffi::ngx_http_core_run_phases(r) };
    rc::DONE
}

/// Has the content handler read the request's body, for which it calls the filter of this module
/// (RUN-15).
///
/// # Safety
///
/// `r` is the open main request of this run.
unsafe fn keep_body(r: *mut ngx_http_request_t, state: &RunState) {
    // SAFETY: the caller's promise; ends here.
    let request = unsafe { &mut *r };
    // "client_body_in_file_only" would leave a file of each.
    bits::set_request_body_in_file_only(request, 0);
    let body = mem::replace(&mut request.request_body, ptr::null_mut());
    // SAFETY: one that the run was given, or null.
    let chain = unsafe { body.as_ref() }.map_or(ptr::null_mut(), |body| body.bufs);
    let length = mem::replace(&mut request.headers_in.content_length_n, 0);
    state.keep_body(KeptBody { chain, length });
}

/// The index of the first handler of the content phase, which is the last one.
///
/// # Safety
///
/// The handlers of a phase engine.
pub(super) unsafe fn content_phase(handlers: *const ngx_http_phase_handler_t) -> ngx_int_t {
    let (mut first, mut last) = (0, None);
    // SAFETY: the caller's promise.
    for (index, checker) in (0..).zip(unsafe { entries(handlers) }.filter_map(|it| it.checker)) {
        if last.is_none_or(|last: Checker| !ptr::fn_addr_eq(last, checker)) {
            (first, last) = (index, Some(checker));
        }
    }
    first
}

/// The index of the handler that looks for the location; there is one (`ngx_http_init_phase_handlers`).
///
/// # Safety
///
/// The handlers of a phase engine.
pub(super) unsafe fn find_config(handlers: *const ngx_http_phase_handler_t) -> ngx_int_t {
    const FIND_CONFIG: Checker = ngx::ffi::ngx_http_core_find_config_phase;

    // SAFETY: the caller's promise.
    let checkers = unsafe { entries(handlers) }.filter_map(|entry| entry.checker);
    let mut found = (0..).zip(checkers);
    found.find(|(_, checker)| ptr::fn_addr_eq(*checker, FIND_CONFIG)).map_or(0, |(index, _)| index)
}

/// The index of the first handler behind the access phase; without an access phase, behind the
/// pre-access phase.
///
/// # Safety
///
/// `r` is an open request in its pre-access phase.
unsafe fn behind_access(r: *mut ngx_http_request_t) -> ngx_int_t {
    const POST_ACCESS: Checker = ngx::ffi::ngx_http_core_post_access_phase;

    // SAFETY: the caller's promise.
    let handlers = unsafe { engine(r) }.handlers;
    // SAFETY: as above.
    let current = unsafe { (*r).phase_handler };
    let entry = handlers.wrapping_offset(current);
    // SAFETY: the entry that is being run.
    let checkers = unsafe { entries(entry) }.filter_map(|entry| entry.checker);
    let behind = (current + 1..).zip(checkers);
    let mut behind = behind.filter(|(_, checker)| ptr::fn_addr_eq(*checker, POST_ACCESS));
    if let Some((index, _)) = behind.next() {
        return index;
    }
    // SAFETY: as above.
    let next = unsafe { (*entry).next };
    ngx_int_t::try_from(next).unwrap_or(current + 1)
}
