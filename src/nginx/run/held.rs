//! A body that may be large, of which a run takes a share in each turn of the event loop.
//!
//! ```text
//!   filters before ──> held ──> receiver ──> filters behind
//!                       │          ^
//!                       v          │ a megabyte, or a millisecond
//!              the share is taken: waits for a slot (`turn`)
//! ```
//!
//! Meanwhile the buffers stay as they are, so that nginx takes it for a client that reads slowly: it keeps them, and
//! reads no more of an upstream than it has buffers for.

use std::cell::Cell;
use std::mem;
use std::ptr;

use ngx::ffi::{
    ngx_alloc_chain_link, ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_http_request_t,
};

use super::buffer::{Pace, is_in_memory, size, take_buffer};
use super::receiver::{Flow, Receiver};
use crate::nginx::core::turn;

/// What a run takes without a slot, however many turns that lasts.
const WITHOUT_SLOT: usize = 64 * 1024;
/// What it takes in one.
const IN_SLOT: usize = 1024 * 1024;
/// What it takes at once.
const PIECE: usize = 16 * 1024;
/// `buffered` of a connection that has something held, beside what nginx has there (RUN-24).
const BUFFERED: u32 = 0x80;

/// What of a run's body was not taken yet.
///
/// # Invariants
///
/// `left` is empty, or the run's request is open, and its links are in the pool of that.
pub(super) struct Held {
    left: Chain,
    /// How much of the first buffer was taken.
    taken: Cell<usize>,
    /// How much may still be taken.
    share: Cell<usize>,
    in_slot: Cell<bool>,
    waits: Cell<bool>,
    failed: Cell<bool>,
}

/// A chain of links.
///
/// # Invariants
///
/// `first` and `last` are its ends, or null. It is closed by null; its links are nobody else's, and each leads to a
/// buffer.
struct Chain {
    first: Cell<*mut ngx_chain_t>,
    last: Cell<*mut ngx_chain_t>,
}

impl Chain {
    fn new() -> Self {
        // INVARIANT: no links.
        Self { first: Cell::new(ptr::null_mut()), last: Cell::new(ptr::null_mut()) }
    }

    fn is_empty(&self) -> bool {
        self.first.get().is_null()
    }

    /// Puts a link behind the others.
    ///
    /// # Safety
    ///
    /// A link, closed by null, that is nobody else's and leads to a buffer; it stays for as long as the chain.
    unsafe fn push(&self, link: *mut ngx_chain_t) {
        // INVARIANT: it becomes the last one.
        let last = self.last.replace(link);
        if last.is_null() {
            self.first.set(link);
        } else {
            // SAFETY: the invariant.
            unsafe { (*last).next = link };
        }
    }

    /// Takes the first link away.
    fn pop(&self) -> *mut ngx_chain_t {
        let first = self.first.get();
        if !first.is_null() {
            // SAFETY: the invariant; ends here.
            let next = mem::replace(&mut unsafe { &mut *first }.next, ptr::null_mut());
            // INVARIANT: the next one is the first, or none is left.
            self.first.set(next);
            if next.is_null() {
                self.last.set(next);
            }
        }
        first
    }

    /// Takes all links away.
    fn take(&self) -> *mut ngx_chain_t {
        // INVARIANT: no links.
        self.last.set(ptr::null_mut());
        self.first.replace(ptr::null_mut())
    }
}

/// What was taken of a body.
pub(super) enum Share {
    /// These buffers are for the filters behind; then the run waits, if something is left.
    Taken(*mut ngx_chain_t),
    /// The receiver has enough.
    Enough,
}

/// The body cannot be taken: its file was not read, or there is no memory.
pub(super) struct Failed;

impl Held {
    pub(super) fn new() -> Self {
        Self {
            left: Chain::new(),
            taken: Cell::new(0),
            share: Cell::new(WITHOUT_SLOT),
            in_slot: Cell::new(false),
            waits: Cell::new(false),
            failed: Cell::new(false),
        }
    }

    /// The request is being closed.
    pub(super) fn forget(&self) {
        // INVARIANT: empty.
        self.left.take();
    }

    /// A slot begins; answers whether the run has waited for it.
    pub(super) fn begin_slot(&self) -> bool {
        if !self.waits.replace(false) {
            return false;
        }
        self.in_slot.set(true);
        self.share.set(IN_SLOT);
        true
    }

    /// It ends.
    pub(super) fn end_slot(&self) {
        self.in_slot.set(false);
        if !self.waits.get() {
            self.share.set(WITHOUT_SLOT);
        }
    }

    /// Whether something is left that is taken later.
    pub(super) fn waits(&self) -> bool {
        self.waits.get()
    }

    /// Takes a share of what is held, and of `chain`, which comes behind it; `enqueue` has the run wait for a slot.
    ///
    /// # Safety
    ///
    /// `r` is the open main request of the run; `chain` is closed by null, and its buffers stay
    /// until they are empty or the request is closed (RUN-14).
    pub(super) unsafe fn take(
        &self,
        r: *mut ngx_http_request_t,
        chain: *mut ngx_chain_t,
        receiver: &dyn Receiver,
        enqueue: impl FnOnce() -> Option<()>,
    ) -> Result<Share, Failed> {
        // What was lost once is not gone on without.
        if self.failed.replace(true) {
            return Err(Failed);
        }
        // SAFETY: the caller's promise.
        unsafe { self.add(r, chain) }?;
        // SAFETY: the caller's promise.
        let c = unsafe { (*r).connection };
        // SAFETY: an open request has an open connection; ends before nginx is called.
        let connection = unsafe { &mut *c };
        let share = self.take_left(connection, receiver)?;
        if !self.left.is_empty() && !self.waits.replace(true) {
            enqueue().ok_or(Failed)?;
        }
        let others = connection.buffered() & !BUFFERED;
        connection.set_buffered(if self.waits.get() { others | BUFFERED } else { others });
        self.failed.set(false);
        Ok(share)
    }

    /// # Safety
    ///
    /// As for [`take`](Self::take).
    unsafe fn add(
        &self,
        r: *mut ngx_http_request_t,
        mut chain: *mut ngx_chain_t,
    ) -> Result<(), Failed> {
        // SAFETY: an open request has its pool.
        let pool = unsafe { (*r).pool };
        while !chain.is_null() {
            // SAFETY: the caller's promise.
            let ngx_chain_t { buf, next } = unsafe { chain.read() };
            // SAFETY: as above; HOST-13: may be null.
            let link = unsafe { ngx_alloc_chain_link(pool) };
            if link.is_null() {
                return Err(Failed);
            }
            // SAFETY: just allocated.
            unsafe { link.write(ngx_chain_t { buf, next: ptr::null_mut() }) };
            // SAFETY: as above; in the pool of the request.
            unsafe { self.left.push(link) };
            chain = next;
        }
        Ok(())
    }

    fn take_left(
        &self,
        c: &mut ngx_connection_t,
        receiver: &dyn Receiver,
    ) -> Result<Share, Failed> {
        let passed = Chain::new();
        while !self.left.is_empty() && !self.is_spent() {
            // SAFETY: the invariant.
            let buf = unsafe { (*self.left.first.get()).buf };
            let pace = Pace { piece: PIECE, taken: &self.taken, goes_on: &|len| self.spend(len) };
            // SAFETY: the invariant.
            let (flow, is_all) = unsafe { take_buffer(buf, receiver, &pace) }.ok_or(Failed)?;
            if flow == Flow::Enough {
                return Ok(Share::Enough);
            }
            if !is_all {
                break;
            }
            self.taken.set(0);
            let link = self.left.pop();
            // SAFETY: the invariant; ends before nginx is called.
            if is_for_others(unsafe { &mut *buf }, c) {
                // SAFETY: it was the chain's, and is its no more.
                unsafe { passed.push(link) };
            }
        }
        Ok(Share::Taken(passed.take()))
    }

    fn is_spent(&self) -> bool {
        self.waits.get() || self.share.get() == 0
    }

    /// So much was taken; answers whether there may be more.
    fn spend(&self, len: usize) -> bool {
        let is_over = self.in_slot.get() && turn::time_is_up();
        self.share.set(if is_over { 0 } else { self.share.get().saturating_sub(len) });
        !self.is_spent()
    }
}

/// Whether the filters behind have to see a buffer that was taken: what is in a file alone, they might read once more,
/// and all of it in one turn.
fn is_for_others(buffer: &mut ngx_buf_t, c: &mut ngx_connection_t) -> bool {
    if is_in_memory(buffer) || buffer.in_file() == 0 {
        return true;
    }
    c.sent += size(buffer);
    buffer.file_pos = buffer.file_last;
    buffer.set_in_file(0);
    // Empty, it has to tell something else (`ngx_buf_special`).
    buffer.flush() != 0 || buffer.last_buf() != 0 || buffer.sync() != 0
}
