//! Sends the answer to a client's request, large ones in pieces.
//!
//! ```text
//!            others are at work, or the time is up
//!   begin ───────────────────────────────────────────┐
//!     │                                              v          its turn
//!     │ all of it fits into a piece          waiting for a slot ──────────> at work
//!     ├──> sent whole <────────────────────────────  ^  ^ ^                  │ │ │
//!     │                                              │  │ └── more is left ──┘ │ │
//!     │                                              │  └── its timer: not yet ─┘ │
//!     │                                              └── its write event: the client reads slowly
//!     └──> the last piece was handed over, or the client is gone <───────────────┘
//! ```
//!
//! A job that a thread does ([`background`]) waits for a slot when that has ended. In a slot ([`turn`]) an answer
//! makes one piece, and none before the last one has left: a slow client costs the memory of one piece.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::mem;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::time::Duration;

use ngx::ffi::{ngx_buf_t, ngx_http_request_t, ngx_int_t, ngx_str_t};

use super::background::{self, Waits};
use super::client_request::ClientRequest;
use super::open::{CannotSend, Follows, Open, as_event_of};
use super::response::{
    Answer, AskAgain, Begun, Body, Job, More, PIECE, Pieces, Progress, Response, fill, respond,
};
use crate::nginx::core::event::{EventTimer, Hold, Next};
use crate::nginx::core::guard::{guard, guard_else};
use crate::nginx::core::module::{Module, context_index};
use crate::nginx::core::turn::{self, QueueEnd, Work};
use crate::nginx::core::{pool, rc};
use crate::os::memory::{self, NoMemory, fallible};

/// An answer that is not complete in the content handler.
///
/// # Invariants
///
/// `request` is the open request to whose pool the reply belongs, which nobody else finalizes; null once
/// the reply has finalized it or its pool is going. Each buffer of `pieces` is of that pool and reads at most the
/// bytes beside it, which are not touched until the buffer is empty or the pool is going.
struct Reply {
    request: Cell<*mut ngx_http_request_t>,
    todo: RefCell<Todo>,
    pieces: RefCell<Vec<OutBuffer>>,
    is_queued: Cell<bool>,
    timer: RefCell<Option<EventTimer>>,
    on_write: unsafe extern "C" fn(*mut ngx_http_request_t),
}

enum Todo {
    Nothing,
    Ask(AskAgain),
    Respond(Response),
    Send(Box<dyn Pieces>),
    Work(Box<dyn Job>),
    /// A thread does it.
    Wait,
    /// Ends with an error.
    Fail,
}

/// What nginx was handed, and the memory that it reads.
struct OutBuffer {
    buffer: NonNull<ngx_buf_t>,
    bytes: Vec<u8>,
}

/// Begins to answer.
///
/// # Safety
///
/// `r` is an open request in its content handler, which answers what this does.
pub(in crate::nginx) unsafe fn begin<M: Module>(
    r: *mut ngx_http_request_t,
    answer: Answer,
) -> ngx_int_t {
    let holds = OnceCell::new();
    guard_else(
        // SAFETY: the caller's promise.
        || begin_holding::<M>(unsafe { Open::new(r) }, answer, &holds),
        || match holds.get() {
            Some(reply) => {
                reply.fail();
                rc::DONE
            }
            // SAFETY: the caller's promise; what had it when it panicked is gone.
            None => unsafe { Open::new(r) }.failure(),
        },
    )
}

/// The same; a reply that `holds` the request is the one that finalizes it.
fn begin_holding<M: Module>(open: Open, answer: Answer, holds: &OnceCell<Rc<Reply>>) -> ngx_int_t {
    let take_over = |open: &Open| {
        let reply = Reply::new::<M>(open)?;
        open.hold();
        Some(holds.get_or_init(|| reply))
    };
    let response = match answer {
        Answer::Now(response) => response,
        Answer::Later(after, ask) => {
            let Some(reply) = take_over(&open) else { return rc::INTERNAL_SERVER_ERROR };
            reply.go_on_after(after, Todo::Ask(ask));
            return rc::DONE;
        }
        Answer::Background(job) => {
            let Some(reply) = take_over(&open) else { return rc::INTERNAL_SERVER_ERROR };
            reply.begin_job(&open, job);
            return rc::DONE;
        }
    };
    if matches!(response.body, Body::Pieces(_)) && !turn::begin_slot() {
        let Some(reply) = take_over(&open) else { return rc::INTERNAL_SERVER_ERROR };
        reply.go_on_after(Duration::ZERO, Todo::Respond(response));
        return rc::DONE;
    }
    match respond(&open, response) {
        Begun::Ended(code) => code,
        Begun::More(pieces, first, more) => {
            let Some(reply) = take_over(&open) else { return rc::ERROR };
            reply.begin_pieces(open, pieces, first, more);
            rc::DONE
        }
    }
}

/// The cleanup of the request's pool.
unsafe extern "C" fn release(reply: *mut c_void) {
    // SAFETY: the cleanup's data is what `Reply::new` made of an `Rc`.
    let reply = unsafe { Rc::from_raw(reply.cast_const().cast::<Reply>()) };
    // INVARIANT: the pool is going.
    reply.request.set(ptr::null_mut());
    guard((), || {
        reply.end();
        drop(reply);
    });
}

/// The request's write event.
unsafe extern "C" fn on_write<M: Module>(r: *mut ngx_http_request_t) {
    // SAFETY: nginx calls the handler with an open request.
    let open = unsafe { Open::new(r) };
    let place = open.context(context_index::<M>());
    // SAFETY: an open request has a place for each http module.
    let reply = unsafe { *place }.cast_const().cast::<Reply>();
    if reply.is_null() {
        return;
    }
    // SAFETY: `Reply::new` has put it there; the pool of the open request holds a count.
    unsafe { Rc::increment_strong_count(reply) };
    // SAFETY: the count was raised for this very `Rc`.
    let reply = unsafe { Rc::from_raw(reply) };
    guard_else(|| reply.on_write(open), || reply.fail());
}

impl Reply {
    /// A reply that the pool of the request keeps, and that its events find; `None` without memory.
    fn new<M: Module>(open: &Open) -> Option<Rc<Self>> {
        let reply = Rc::new(Self {
            request: Cell::new(open.as_ptr()),
            todo: RefCell::new(Todo::Nothing),
            pieces: RefCell::default(),
            is_queued: Cell::new(false),
            timer: RefCell::new(None),
            on_write: on_write::<M>,
        });
        let kept = Rc::into_raw(Rc::clone(&reply)).cast_mut();
        // SAFETY: the pool of an open request; the cleanup gives up the count that `into_raw` holds.
        if unsafe { pool::on_destroy(open.pool(), release, kept.cast()) }.is_none() {
            // SAFETY: made by `into_raw` just now.
            drop(unsafe { Rc::from_raw(kept.cast_const()) });
            return None;
        }
        let place = open.context(context_index::<M>());
        // SAFETY: an open request has a place for each http module. The request is in its content handler: no
        // internal redirect clears the place any more while the reply is at work.
        unsafe { *place = kept.cast() };
        Some(reply)
    }

    /// Nothing is left to be done; what was handed over stays.
    fn end(&self) {
        self.request.set(ptr::null_mut());
        drop(self.todo.replace(Todo::Nothing));
        drop(self.timer.take());
    }

    /// Ends, and so may the request.
    fn finalize(&self, open: Open, code: ngx_int_t) {
        self.end();
        open.finalize(code);
    }

    /// Ends after a panic, unless it has ended before that, or a thread is at work, whose end is waited for.
    fn fail(&self) {
        let r = self.request.get();
        let waits = self.todo.try_borrow().is_ok_and(|todo| matches!(*todo, Todo::Wait));
        if !r.is_null() && !waits {
            // SAFETY: the invariant; what was at work with the request when it panicked is gone.
            let open = unsafe { Open::new(r) };
            let code = open.failure();
            self.finalize(open, code);
        }
    }

    /// Is to do this in a slot of its own, after this time.
    fn go_on_after(self: &Rc<Self>, after: Duration, todo: Todo) {
        self.todo.replace(todo);
        if after.is_zero() {
            self.enqueue(QueueEnd::Back);
            return;
        }
        let weak = Rc::downgrade(self);
        let timer = self.timer.take().unwrap_or_else(|| {
            EventTimer::new(Hold::HoldsExit, move || {
                if let Some(reply) = weak.upgrade() {
                    reply.enqueue(QueueEnd::Front);
                }
                Next::Stop
            })
        });
        timer.arm(after);
        self.timer.replace(Some(timer));
    }

    fn enqueue(self: &Rc<Self>, end: QueueEnd) {
        if self.is_queued.get() || self.request.get().is_null() {
            return;
        }
        match turn::enqueue(self, end) {
            Ok(()) => self.is_queued.set(true),
            Err(NoMemory) => self.fail(),
        }
    }

    /// Does what is to be done.
    fn work_on(self: &Rc<Self>, open: Open) {
        let todo = self.todo.replace(Todo::Nothing);
        match todo {
            Todo::Nothing => {}
            Todo::Wait => drop(self.todo.replace(Todo::Wait)),
            Todo::Fail => self.finalize(open, rc::INTERNAL_SERVER_ERROR),
            Todo::Work(job) => self.work_on_job(open, job),
            Todo::Ask(_) if !memory::enough() => self.finalize(open, rc::SERVICE_UNAVAILABLE),
            Todo::Ask(ask) => {
                // SAFETY: an open request; the view ends with the call.
                let answer = ask(&unsafe { ClientRequest::new(open.as_ptr()) });
                self.act_on(open, answer);
            }
            Todo::Respond(response) => self.respond(open, response),
            Todo::Send(_) => {
                self.todo.replace(todo);
                self.go_on(open);
            }
        }
    }

    fn act_on(self: &Rc<Self>, open: Open, answer: Answer) {
        match answer {
            Answer::Now(response) => self.respond(open, response),
            Answer::Later(after, ask) => self.go_on_after(after, Todo::Ask(ask)),
            Answer::Background(job) => self.begin_job(&open, job),
        }
    }

    /// Has a thread do a job, or does it in slots.
    fn begin_job(self: &Rc<Self>, open: &Open, job: Box<dyn Job>) {
        open.set_write_handler(self.on_write);
        self.todo.replace(Todo::Wait);
        let waits: Rc<dyn Waits> = Rc::<Self>::clone(self);
        if let Err(job) = background::begin(open, waits, job) {
            self.go_on_after(Duration::ZERO, Todo::Work(job));
        }
    }

    /// Does some of it; a job that a thread has done says so at once.
    fn work_on_job(self: &Rc<Self>, open: Open, mut job: Box<dyn Job>) {
        if job.work(&|| !turn::time_is_up()) == Progress::More {
            return self.go_on_after(Duration::ZERO, Todo::Work(job));
        }
        // SAFETY: an open request; the view ends with the call.
        let answer = job.answer(&unsafe { ClientRequest::new(open.as_ptr()) });
        self.act_on(open, answer);
    }

    fn respond(self: &Rc<Self>, open: Open, response: Response) {
        match respond(&open, response) {
            Begun::Ended(code) => self.finalize(open, code),
            Begun::More(pieces, first, more) => self.begin_pieces(open, pieces, first, more),
        }
    }

    fn begin_pieces(
        self: &Rc<Self>,
        open: Open,
        pieces: Box<dyn Pieces>,
        first: Vec<u8>,
        more: More,
    ) {
        self.todo.replace(Todo::Send(pieces));
        open.set_write_handler(self.on_write);
        match self.send(&open, first, more) {
            Ok(_) => self.go_on_later(open, more),
            Err(CannotSend) => self.finalize(open, rc::ERROR),
        }
    }

    fn on_write(self: &Rc<Self>, open: Open) {
        match *self.todo.borrow() {
            Todo::Send(_) => {}
            Todo::Work(_) | Todo::Fail => return self.enqueue(QueueEnd::Front),
            Todo::Nothing | Todo::Ask(_) | Todo::Respond(_) | Todo::Wait => return,
        }
        if let Err(code) = open.flush() {
            return self.finalize(open, code);
        }
        if open.must_wait() {
            return self.wait(open);
        }
        if open.stop_waiting() == Err(CannotSend) {
            return self.finalize(open, rc::ERROR);
        }
        // In a slot of its own: nginx may be in the middle of other requests of the connection.
        self.enqueue(QueueEnd::Back);
    }

    /// Makes a piece and sends it, if what was sent before has left.
    fn go_on(self: &Rc<Self>, open: Open) {
        if open.must_wait() {
            return self.wait(open);
        }
        let made = self.room(&open).and_then(|mut bytes| {
            let mut todo = self.todo.borrow_mut();
            let Todo::Send(pieces) = &mut *todo else { return Ok((bytes, More::No)) };
            fill(&mut **pieces, &mut bytes).map(|more| (bytes, more))
        });
        let Ok((bytes, more)) = made else { return self.finalize(open, rc::ERROR) };
        match (self.send(&open, bytes, more), more) {
            (Err(CannotSend), _) => self.finalize(open, rc::ERROR),
            // What is still to be sent nginx sends by itself.
            (Ok(code), More::No) => self.finalize(open, code),
            (Ok(_), _) => self.go_on_later(open, more),
        }
    }

    fn go_on_later(self: &Rc<Self>, open: Open, more: More) {
        if open.must_wait() {
            return self.wait(open);
        }
        let after = if let More::After(after) = more { after } else { Duration::ZERO };
        let todo = self.todo.replace(Todo::Nothing);
        self.go_on_after(after, todo);
    }

    /// Waits until the client has taken what was sent.
    fn wait(&self, open: Open) {
        if open.wait() == Err(CannotSend) {
            self.finalize(open, rc::ERROR);
        }
    }

    /// Memory for the next piece: that of one that was read to its end, if there is one.
    fn room(&self, _: &Open) -> Result<Vec<u8>, NoMemory> {
        let mut pieces = self.pieces.borrow_mut();
        // SAFETY: the invariant: with the request its pool is there.
        let free = pieces.iter_mut().find(|piece| unsafe { piece.is_read() });
        // INVARIANT: its buffer is empty.
        let mut bytes = free.map(|piece| mem::take(&mut piece.bytes)).unwrap_or_default();
        bytes.clear();
        if bytes.capacity() > PIECE {
            bytes = Vec::new();
        }
        if bytes.capacity() < PIECE {
            fallible(|| bytes.try_reserve_exact(PIECE))?;
        }
        Ok(bytes)
    }

    /// Hands a piece to nginx.
    fn send(&self, open: &Open, bytes: Vec<u8>, more: More) -> Result<ngx_int_t, CannotSend> {
        let mut pieces = self.pieces.borrow_mut();
        // SAFETY: the invariant: with the request its pool is there.
        let read = pieces.iter().position(|piece| unsafe { piece.is_read() });
        let at = read.unwrap_or(pieces.len());
        if read.is_none() {
            fallible(|| pieces.try_reserve(1)).map_err(|NoMemory| CannotSend)?;
            let buffer = open.new_buffer().ok_or(CannotSend)?;
            pieces.push(OutBuffer { buffer, bytes: Vec::new() });
        }
        let piece = pieces.get_mut(at).ok_or(CannotSend)?;
        // INVARIANT: its buffer is empty.
        piece.bytes = bytes;
        if piece.bytes.is_empty() && more != More::No {
            return Ok(rc::OK);
        }
        let content = ngx_str_t { len: piece.bytes.len(), data: piece.bytes.as_mut_ptr() };
        let buffer = piece.buffer;
        drop(pieces);
        let follows = if more == More::No { Follows::Nothing } else { Follows::More };
        // SAFETY: a header comes before all pieces; the invariant: an empty buffer, and bytes on the heap that stay.
        unsafe { open.send(buffer, content, follows) }
    }
}

impl Waits for Reply {
    fn take_back(self: Rc<Self>, job: Option<Box<dyn Job>>) {
        // It ended with the pool of its request, or goes on, even should the write event be lost.
        if !self.request.get().is_null() {
            self.todo.replace(job.map_or(Todo::Fail, Todo::Work));
            let is_queued = self.is_queued.get();
            self.is_queued.set(is_queued || turn::enqueue(&self, QueueEnd::Front).is_ok());
        }
    }
}

impl Work for Reply {
    fn work(self: Rc<Self>) {
        self.is_queued.set(false);
        let r = self.request.get();
        if r.is_null() {
            return;
        }
        let work = || {
            // SAFETY: the invariant.
            let open = unsafe { Open::new(r) };
            guard_else(|| self.work_on(open), || self.fail());
        };
        // SAFETY: the invariant.
        unsafe { as_event_of(r, work) };
    }
}

impl OutBuffer {
    /// Whether nginx has read it to its end.
    ///
    /// # Safety
    ///
    /// The pool of the request is there.
    unsafe fn is_read(&self) -> bool {
        // SAFETY: the invariant: a buffer of that pool.
        let ngx_buf_t { pos, last, .. } = unsafe { ptr::read(self.buffer.as_ptr()) };
        pos == last
    }
}
