//! An open request, as what answers it needs it.

use std::mem;
use std::ptr::{self, NonNull};

use ngx::ffi::{
    ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_event_t, ngx_http_finalize_request,
    ngx_http_log_ctx_t, ngx_http_output_filter, ngx_http_request_t, ngx_http_run_posted_requests,
    ngx_http_send_header, ngx_int_t, ngx_palloc, ngx_pool_t, ngx_str_t,
};

use crate::nginx::core::module::core_location;
use crate::nginx::core::{bits, rc};

/// A request that is open.
///
/// # Invariants
///
/// The request is open for as long as this value is there: only [`Open::finalize`], which takes the value,
/// ends it.
pub(in crate::nginx) struct Open(*mut ngx_http_request_t);

/// Whether something follows what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nginx) enum Follows {
    More,
    Nothing,
}

/// The request cannot be answered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nginx) struct CannotSend;

impl Open {
    /// # Safety
    ///
    /// `r` is an open request that nobody else finalizes while the value is there.
    pub(in crate::nginx) unsafe fn new(r: *mut ngx_http_request_t) -> Self {
        // INVARIANT: the caller's promise.
        Self(r)
    }

    pub(in crate::nginx) fn as_ptr(&self) -> *mut ngx_http_request_t {
        self.0
    }

    pub(in crate::nginx) fn pool(&self) -> *mut ngx_pool_t {
        // SAFETY: the invariant: an open request has its pool.
        unsafe { (*self.0).pool }
    }

    fn connection(&self) -> *mut ngx_connection_t {
        // SAFETY: the invariant: an open request has an open connection.
        unsafe { (*self.0).connection }
    }

    fn write_event(&self) -> *mut ngx_event_t {
        // SAFETY: an open connection has its events.
        unsafe { (*self.connection()).write }
    }

    fn main(&self) -> *mut ngx_http_request_t {
        // SAFETY: the invariant: an open request has its main request.
        unsafe { (*self.0).main }
    }

    /// Whether it is no subrequest.
    pub(in crate::nginx) fn is_main(&self) -> bool {
        ptr::eq(self.0, self.main())
    }

    /// The request stays open until it is finalized, though its content handler returns (ANSWER-1).
    pub(in crate::nginx) fn hold(&self) {
        // SAFETY: the main request of an open one is open, too; ends here.
        let main = unsafe { &mut *self.main() };
        bits::set_count(main, bits::count(main) + 1);
    }

    /// The place of the http module `index` among its contexts.
    pub(in crate::nginx) fn context(&self, index: usize) -> *mut *mut std::ffi::c_void {
        // SAFETY: the invariant.
        unsafe { (*self.0).ctx }.wrapping_add(index)
    }

    /// What nginx calls when the client has read.
    pub(in crate::nginx) fn set_write_handler(
        &self,
        handler: unsafe extern "C" fn(*mut ngx_http_request_t),
    ) {
        // SAFETY: the invariant.
        unsafe { (*self.0).write_event_handler = Some(handler) };
    }

    /// What it is finalized with when it cannot be answered as it should be: to say so is too late once its header was
    /// sent.
    pub(in crate::nginx) fn failure(&self) -> ngx_int_t {
        // SAFETY: the invariant; ends here.
        let request = unsafe { &*self.0 };
        if bits::header_sent(request) == 0 { rc::INTERNAL_SERVER_ERROR } else { rc::ERROR }
    }

    /// Sends the header that was set; `Err` is what the request ends with, as no body follows.
    pub(in crate::nginx) fn send_header(&self) -> Result<(), ngx_int_t> {
        // SAFETY: the invariant.
        let sent = unsafe { ngx_http_send_header(self.0) };
        // SAFETY: the invariant; ends here.
        let header_only = bits::header_only(unsafe { &*self.0 }) != 0;
        if sent == rc::ERROR || sent > rc::OK || header_only { Err(sent) } else { Ok(()) }
    }

    /// A buffer of its pool, empty; `None` without memory.
    pub(in crate::nginx) fn new_buffer(&self) -> Option<NonNull<ngx_buf_t>> {
        // SAFETY: the invariant; HOST-13: aligned, or null.
        let buffer = unsafe { ngx_palloc(self.pool(), size_of::<ngx_buf_t>()) };
        let buffer = NonNull::new(buffer.cast::<ngx_buf_t>())?;
        // SAFETY: plain C data, which nginx itself zeroes before use.
        let empty: ngx_buf_t = unsafe { mem::zeroed() };
        // SAFETY: just allocated, with this size.
        unsafe { buffer.write(empty) };
        Some(buffer)
    }

    /// Hands `content` to nginx's filters.
    ///
    /// # Safety
    ///
    /// The header was sent. The buffer is of this request and empty; nobody else touches the content until the
    /// buffer is empty again or the request's pool goes (RUN-14).
    pub(in crate::nginx) unsafe fn send(
        &self,
        buffer: NonNull<ngx_buf_t>,
        content: ngx_str_t,
        follows: Follows,
    ) -> Result<ngx_int_t, CannotSend> {
        // SAFETY: plain C data, which nginx itself zeroes before use.
        let mut filled: ngx_buf_t = unsafe { mem::zeroed() };
        if content.len > 0 {
            filled.pos = content.data;
            filled.start = content.data;
            filled.last = content.data.wrapping_add(content.len);
            filled.end = filled.last;
            filled.set_temporary(1);
        }
        let is_main = self.is_main();
        if follows == Follows::Nothing {
            filled.set_last_buf(is_main.into());
            filled.set_last_in_chain(1);
            // Without a last buffer there has to be something in it, or a reason for it to be empty.
            filled.set_sync((!is_main && content.len == 0).into());
        } else {
            filled.set_flush(1);
        }
        // SAFETY: the caller's promise: nobody reads it now.
        unsafe { buffer.write(filled) };
        let mut chain = ngx_chain_t { buf: buffer.as_ptr(), next: ptr::null_mut() };
        // SAFETY: the caller's promise; the filters copy the link (RUN-14).
        let sent = unsafe { ngx_http_output_filter(self.0, &raw mut chain) };
        if sent == rc::ERROR { Err(CannotSend) } else { Ok(sent) }
    }

    /// Whether something that was handed over has not left yet, as `ngx_http_writer` has it; and also
    /// what the connection has of a subrequest whose turn it is to be sent.
    pub(in crate::nginx) fn is_buffered(&self) -> bool {
        // SAFETY: the invariant; ends here.
        let request = unsafe { &*self.0 };
        // SAFETY: as above.
        let connection = unsafe { &*self.connection() };
        bits::buffered(request) != 0
            || !request.postponed.is_null()
            || ((ptr::eq(self.0, request.main) || ptr::eq(connection.data, self.0.cast()))
                && connection.buffered() != 0)
    }

    /// Whether `limit_rate` has it wait.
    fn is_delayed(&self) -> bool {
        // SAFETY: an open connection has its events.
        unsafe { (*self.write_event()).delayed() != 0 }
    }

    /// Whether its client has to read, or time has to pass, before more can be sent.
    pub(in crate::nginx) fn must_wait(&self) -> bool {
        self.is_delayed() || self.is_buffered()
    }

    /// Sends what was handed over, as `ngx_http_writer` does; `Err` is what it is to be finalized with.
    pub(in crate::nginx) fn flush(&self) -> Result<(), ngx_int_t> {
        // SAFETY: an open connection has its events.
        if unsafe { (*self.write_event()).timedout() } != 0 {
            // SAFETY: as above.
            unsafe { (*self.connection()).set_timedout(1) };
            return Err(rc::REQUEST_TIME_OUT);
        }
        if self.is_delayed() || !self.is_buffered() {
            return Ok(());
        }
        // SAFETY: the invariant; something was sent, and so was the header.
        let sent = unsafe { ngx_http_output_filter(self.0, ptr::null_mut()) };
        if sent == rc::ERROR { Err(rc::ERROR) } else { Ok(()) }
    }

    /// Has nginx call the write handler when more can be sent, or after `send_timeout`.
    pub(in crate::nginx) fn wait(&self) -> Result<(), CannotSend> {
        // SAFETY: the main request of an open one is open, too; ends here.
        let main = unsafe { &*self.main() };
        // SAFETY: as above: it has a location.
        let conf = unsafe { core_location(main) };
        let Some(conf) = conf.map(NonNull::as_ptr) else { return Err(CannotSend) };
        // SAFETY: the request's location has its configuration.
        let timeout = unsafe { (*conf).send_timeout };
        // SAFETY: as above.
        let low = unsafe { (*conf).send_lowat };
        let write = self.write_event();
        // What `limit_rate` has it wait for has a timer of its own.
        if !self.is_delayed() {
            // SAFETY: the event of an open connection.
            unsafe { ngx::ffi::ngx_add_timer(write, timeout) };
        }
        // SAFETY: as above.
        let handled = unsafe { ngx::ffi::ngx_handle_write_event(write, low) };
        if handled == rc::OK { Ok(()) } else { Err(CannotSend) }
    }

    /// Has the write handler left alone until it waits again.
    pub(in crate::nginx) fn stop_waiting(&self) -> Result<(), CannotSend> {
        let write = self.write_event();
        // SAFETY: the event of an open connection.
        if unsafe { (*write).timer_set() } != 0 {
            // SAFETY: it is in the tree.
            unsafe { ngx::ffi::ngx_del_timer(write) };
        }
        // A method that tells of what is so, not of what has changed, would tell of it again and again.
        // SAFETY: as above.
        let handled = unsafe { ngx::ffi::ngx_handle_write_event(write, 0) };
        if handled == rc::OK { Ok(()) } else { Err(CannotSend) }
    }

    pub(in crate::nginx) fn finalize(self, code: ngx_int_t) {
        // SAFETY: the invariant; nothing of it is touched afterwards.
        unsafe { ngx_http_finalize_request(self.0, code) };
    }
}

/// Does `work` with an open request as if an event of its connection had come: lines in the log are of it, and what
/// it leaves to be run of other requests of the connection is run.
///
/// # Safety
///
/// `r` is an open request.
pub(in crate::nginx) unsafe fn as_event_of(r: *mut ngx_http_request_t, work: impl FnOnce()) {
    // SAFETY: the caller's promise.
    let c = unsafe { (*r).connection };
    // SAFETY: an open connection has its log.
    let log = unsafe { (*c).log };
    // SAFETY: as above; what the log of an http connection leads to begins with this (RUN-3).
    let context = unsafe { (*log).data }.cast::<ngx_http_log_ctx_t>();
    // SAFETY: as above; as `ngx_http_set_log_request` does.
    unsafe { (*context).current_request = r };
    work();
    // SAFETY: looks at `destroyed` first (RUN-8).
    unsafe { ngx_http_run_posted_requests(c) };
}
