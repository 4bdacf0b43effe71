//! Sends the answer to a client's request, large ones in pieces.
//!
//! ```text
//!                 Later                         the wait is over
//!   begin ──────────────────> waiting for an answer ──────────────┐
//!     │ Now, all of it made in one turn                           │
//!     ├──────────> sent whole <───────────────────────────────────┤
//!     │ Now, more than that                                       │
//!     └──> sending pieces <───────────────────────────────────────┘
//!            │    ^   └── the client is slow: its write event ──┐
//!            │    └───────── the turn's time is up: a timer ────┘
//!            └──> the last piece was handed over, or the client is gone
//! ```
//!
//! A turn of the event loop makes pieces until its time is up ([`Turn`]), or `PIECE` bytes of an
//! answer; the answers for which no time was left come in a later one. No piece is made before the one before it has left, so that a client that does not
//! read costs one piece of memory, and what its answer was gathered in before.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::time::Duration;

use nginx_sys::{
    ngx_buf_t, ngx_http_finalize_request, ngx_http_log_ctx_t, ngx_http_output_filter,
    ngx_http_request_t, ngx_http_run_posted_requests, ngx_int_t, ngx_str_t,
};

use super::event::{Hold, Next, Timer};
use super::guard::{guard, guard_else};
use super::handler::{ClientRequest, core_location};
use super::module::{self, HttpModule};
use super::response::{
    Answer, AskAgain, Begun, More, Pieces, Turn, fill, is_buffered, new_buffer, respond, send,
};
use super::{bits, pool, rc};
use crate::os::memory::{self, NoMemory, fallible};

/// The next turn comes after this time.
const NEXT_TURN: Duration = Duration::from_millis(1);

/// An answer that takes more than one turn.
///
/// # Invariants
///
/// `request` is the open request to whose pool the reply belongs, and null once that has been
/// finalized by the reply or its pool is going. What `buffer` points to, and all of `kept`, is not
/// touched while nginx may still read it: until the buffer is empty, or the pool is going.
struct Reply {
    request: Cell<*mut ngx_http_request_t>,
    todo: RefCell<Todo>,
    timer: RefCell<Option<Timer>>,
    piece: RefCell<Vec<u8>>,
    kept: RefCell<Vec<Vec<u8>>>,
    buffer: Cell<*mut ngx_buf_t>,
    /// The turn in which it was at work last.
    last_turn: Cell<u64>,
}

enum Todo {
    Nothing,
    Ask(AskAgain),
    Send(Box<dyn Pieces>),
}

/// Begins to answer.
///
/// # Safety
///
/// `r` is an open request in its content handler, which answers what this does.
pub(super) unsafe fn begin<M: HttpModule>(r: *mut ngx_http_request_t, answer: Answer) -> ngx_int_t {
    let holds = OnceCell::new();
    guard_else(
        || begin_holding::<M>(r, answer, &holds),
        || match holds.get() {
            Some(reply) => {
                reply.fail();
                rc::DONE
            }
            None => after_panic(r),
        },
    )
}

/// The same; a reply that `holds` the request is the one that finalizes it.
fn begin_holding<M: HttpModule>(
    r: *mut ngx_http_request_t,
    answer: Answer,
    holds: &OnceCell<Rc<Reply>>,
) -> ngx_int_t {
    let response = match answer {
        Answer::Now(response) => response,
        Answer::Later(after, ask) => {
            let Some(reply) = new_reply::<M>(r) else { return rc::INTERNAL_SERVER_ERROR };
            hold(r);
            holds.get_or_init(|| reply).ask(after, ask);
            return rc::DONE;
        }
    };
    // SAFETY: an open request in its content handler.
    match unsafe { respond(r, response) } {
        Begun::Ended(code) => code,
        Begun::More(pieces, first) => {
            let Some(reply) = new_reply::<M>(r) else { return rc::ERROR };
            hold(r);
            holds.get_or_init(|| reply).begin_pieces::<M>(r, pieces, first);
            rc::DONE
        }
    }
}

/// What an open request is finalized with after a panic: to answer is too late once its header was sent.
fn after_panic(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: an open request; ends here.
    let request = unsafe { &*r };
    if bits::header_sent(request) == 0 { rc::INTERNAL_SERVER_ERROR } else { rc::ERROR }
}

/// The request waits for us: its content handler answers `NGX_DONE`, and the reply finalizes it.
fn hold(r: *mut ngx_http_request_t) {
    // SAFETY: an open request.
    let main = unsafe { (*r).main };
    // SAFETY: as above; ends here.
    let main = unsafe { &mut *main };
    bits::set_count(main, bits::count(main) + 1);
}

/// A reply that the pool of `r` keeps, and that the events of `r` find.
fn new_reply<M: HttpModule>(r: *mut ngx_http_request_t) -> Option<Rc<Reply>> {
    let reply = Rc::new(Reply {
        request: Cell::new(r),
        todo: RefCell::new(Todo::Nothing),
        timer: RefCell::new(None),
        piece: RefCell::default(),
        kept: RefCell::default(),
        buffer: Cell::new(ptr::null_mut()),
        last_turn: Cell::new(Turn::current().number),
    });
    let kept = Rc::into_raw(Rc::clone(&reply)).cast_mut();
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: the cleanup gives up the count that `into_raw` holds.
    if unsafe { pool::on_destroy(pool, release, kept.cast()) }.is_none() {
        // SAFETY: made by `into_raw` just now.
        drop(unsafe { Rc::from_raw(kept.cast_const()) });
        return None;
    }
    let place = context_place::<M>(r);
    // SAFETY: an open request has a place for each http module. The request is in its content handler, or behind it: no internal redirect
    // clears the place any more while the reply is at work.
    unsafe { *place = kept.cast() };
    let weak = Rc::downgrade(&reply);
    let timer = Timer::new(Hold::HoldsExit, move || {
        if let Some(reply) = weak.upgrade() {
            reply.turn::<M>();
        }
        Next::Stop
    });
    reply.timer.replace(Some(timer));
    Some(reply)
}

/// The cleanup of the request's pool.
unsafe extern "C" fn release(reply: *mut c_void) {
    // SAFETY: the cleanup's data is what `new_reply` made of an `Rc`.
    let reply = unsafe { Rc::from_raw(reply.cast_const().cast::<Reply>()) };
    // INVARIANT: the pool is going.
    reply.request.set(ptr::null_mut());
    guard((), || {
        reply.end();
        drop(reply);
    });
}

/// The request's write event.
unsafe extern "C" fn on_write<M: HttpModule>(r: *mut ngx_http_request_t) {
    // SAFETY: an open request has a place for each http module.
    let reply = unsafe { *context_place::<M>(r) }.cast_const().cast::<Reply>();
    if reply.is_null() {
        return;
    }
    // SAFETY: `new_reply` has put it there; the pool of the open request holds a count.
    unsafe { Rc::increment_strong_count(reply) };
    // SAFETY: the count was raised for this very `Rc`.
    let reply = unsafe { Rc::from_raw(reply) };
    guard_else(|| reply.go_on(r), || reply.fail());
}

/// The module's place among the contexts of an open request.
fn context_place<M: HttpModule>(r: *mut ngx_http_request_t) -> *mut *mut c_void {
    // SAFETY: an open request.
    let contexts = unsafe { (*r).ctx };
    contexts.wrapping_add(module::context_index::<M>())
}

impl Reply {
    /// Nothing is left to be done.
    fn end(&self) {
        self.request.set(ptr::null_mut());
        drop(self.todo.replace(Todo::Nothing));
        drop(self.timer.take());
    }

    /// Ends, and so may the request.
    fn finalize(&self, r: *mut ngx_http_request_t, code: ngx_int_t) {
        self.end();
        // SAFETY: an open request, which may be gone afterwards.
        unsafe { ngx_http_finalize_request(r, code) };
    }

    /// Ends after a panic, unless it has ended before that.
    fn fail(&self) {
        let r = self.request.get();
        if !r.is_null() {
            self.finalize(r, after_panic(r));
        }
    }

    fn ask(&self, after: Duration, ask: AskAgain) {
        self.todo.replace(Todo::Ask(ask));
        self.come_back(after);
    }

    fn come_back(&self, after: Duration) {
        if let Some(timer) = &*self.timer.borrow() {
            timer.arm(after);
        }
    }

    /// The timer has run out.
    fn turn<M: HttpModule>(&self) {
        let r = self.request.get();
        if r.is_null() {
            return;
        }
        if !Turn::is_for(&self.last_turn) {
            return self.come_back(NEXT_TURN);
        }
        // SAFETY: the invariant: an open request.
        let c = unsafe { (*r).connection };
        // SAFETY: an open connection has its log.
        let log = unsafe { (*c).log };
        // SAFETY: as above; what the log of an http connection leads to begins with this (RUN-3).
        let context = unsafe { (*log).data }.cast::<ngx_http_log_ctx_t>();
        // SAFETY: as above; as `ngx_http_set_log_request` does.
        unsafe { (*context).current_request = r };

        guard_else(|| self.take_turn::<M>(r), || self.fail());
        // SAFETY: looks at `destroyed` first (RUN-8).
        unsafe { ngx_http_run_posted_requests(c) };
    }

    fn take_turn<M: HttpModule>(&self, r: *mut ngx_http_request_t) {
        let todo = self.todo.replace(Todo::Nothing);
        match todo {
            Todo::Nothing => {}
            Todo::Ask(_) if !memory::enough() => self.finalize(r, rc::SERVICE_UNAVAILABLE),
            Todo::Ask(ask) => {
                // SAFETY: the invariant; the view ends with the call.
                let request = unsafe { ClientRequest::new(r) };
                match guard(None, || Some(ask(&request))) {
                    Some(answer) => self.answer::<M>(r, answer),
                    None => self.finalize(r, rc::INTERNAL_SERVER_ERROR),
                }
            }
            Todo::Send(_) => {
                self.todo.replace(todo);
                self.go_on(r);
            }
        }
    }

    fn answer<M: HttpModule>(&self, r: *mut ngx_http_request_t, answer: Answer) {
        match answer {
            Answer::Later(after, ask) => self.ask(after, ask),
            // SAFETY: an open request that was not answered yet.
            Answer::Now(response) => match unsafe { respond(r, response) } {
                Begun::Ended(code) => self.finalize(r, code),
                Begun::More(pieces, first) => self.begin_pieces::<M>(r, pieces, first),
            },
        }
    }

    fn begin_pieces<M: HttpModule>(
        &self,
        r: *mut ngx_http_request_t,
        pieces: Box<dyn Pieces>,
        first: Vec<u8>,
    ) {
        self.todo.replace(Todo::Send(pieces));
        self.piece.replace(first);
        // SAFETY: an open request.
        unsafe { (*r).write_event_handler = Some(on_write::<M>) };
        match self.send_piece(r, More::Yes) {
            Some(_) => self.wait_or_come_back(r),
            None => self.finalize(r, rc::ERROR),
        }
    }

    /// Sends what there is to send, as `ngx_http_writer` does, and makes more of it.
    fn go_on(&self, r: *mut ngx_http_request_t) {
        if !matches!(*self.todo.borrow(), Todo::Send(_)) {
            return;
        }
        // SAFETY: an open request.
        let c = unsafe { (*r).connection };
        // SAFETY: an open connection has its events.
        let write = unsafe { (*c).write };
        // SAFETY: as above.
        if unsafe { (*write).timedout() } != 0 {
            // SAFETY: as above.
            unsafe { (*c).set_timedout(1) };
            return self.finalize(r, rc::REQUEST_TIME_OUT);
        }
        // SAFETY: as above.
        let buffered = unsafe { is_buffered(r) };
        // SAFETY: as above.
        if unsafe { (*write).delayed() } == 0 && buffered {
            // SAFETY: an open request whose header was sent.
            if unsafe { ngx_http_output_filter(r, ptr::null_mut()) } == rc::ERROR {
                return self.finalize(r, rc::ERROR);
            }
        }
        // What was sent just now may be all that `limit_rate` allows for a while: the timer is its.
        // SAFETY: as above.
        let buffered = unsafe { is_buffered(r) };
        // SAFETY: as above.
        if unsafe { (*write).delayed() } != 0 || buffered {
            return self.wait(r);
        }
        self.stop_waiting(r);
        if !Turn::is_for(&self.last_turn) {
            return self.come_back(NEXT_TURN);
        }

        let Ok(mut piece) = self.next_piece() else { return self.finalize(r, rc::ERROR) };
        let more = {
            let mut todo = self.todo.borrow_mut();
            let Todo::Send(pieces) = &mut *todo else { return };
            guard(None, || fill(&mut **pieces, &mut piece).ok())
        };
        self.piece.replace(piece);
        let Some(more) = more else { return self.finalize(r, rc::ERROR) };
        match (self.send_piece(r, more), more) {
            (None, _) => self.finalize(r, rc::ERROR),
            // What is still to be sent nginx sends by itself.
            (Some(code), More::No) => self.finalize(r, code),
            (Some(_), More::Yes) => self.wait_or_come_back(r),
        }
    }

    /// Room for the next piece: that of the last one, if it was read to its end.
    fn next_piece(&self) -> Result<Vec<u8>, NoMemory> {
        let mut piece = self.piece.take();
        let buffer = self.buffer.get();
        if !buffer.is_null() {
            // SAFETY: made by `new_buffer`, and filled.
            let ngx_buf_t { pos, last, .. } = unsafe { ptr::read(buffer) };
            if pos != last {
                // INVARIANT: nginx may still read it.
                let mut kept = self.kept.borrow_mut();
                if fallible(|| kept.try_reserve(1)).is_err() {
                    self.piece.replace(piece);
                    return Err(NoMemory);
                }
                kept.push(piece);
                self.buffer.set(ptr::null_mut());
                return Ok(Vec::new());
            }
        }
        piece.clear();
        Ok(piece)
    }

    /// Hands the piece to nginx; `None` after an error.
    fn send_piece(&self, r: *mut ngx_http_request_t, more: More) -> Option<ngx_int_t> {
        if self.piece.borrow().is_empty() && more == More::Yes {
            return Some(rc::OK);
        }
        let buffer = match NonNull::new(self.buffer.get()) {
            Some(buffer) => buffer,
            // SAFETY: an open request.
            None => unsafe { new_buffer(r) }?,
        };
        self.buffer.set(buffer.as_ptr());
        let content = {
            let mut piece = self.piece.borrow_mut();
            ngx_str_t { len: piece.len(), data: piece.as_mut_ptr() }
        };
        // SAFETY: as above; the header was sent. The invariant: what is sent is kept.
        let sent = unsafe { send(r, buffer, content, more) };
        Some(sent).filter(|code| *code != rc::ERROR)
    }

    fn wait_or_come_back(&self, r: *mut ngx_http_request_t) {
        // SAFETY: an open request.
        if unsafe { is_buffered(r) } {
            self.wait(r);
        } else {
            self.come_back(NEXT_TURN);
        }
    }

    /// Waits until the client has taken what was sent.
    fn wait(&self, r: *mut ngx_http_request_t) {
        // SAFETY: an open request.
        let c = unsafe { (*r).connection };
        // SAFETY: an open connection has its events.
        let write = unsafe { (*c).write };
        // SAFETY: an open request has its main request.
        let main = unsafe { (*r).main };
        // SAFETY: as above.
        let conf = unsafe { (*main).loc_conf };
        // SAFETY: as above.
        let conf = unsafe { core_location(conf) };
        // SAFETY: the request's location has its configuration.
        let timeout = unsafe { (*conf).send_timeout };
        // SAFETY: as above.
        let low = unsafe { (*conf).send_lowat };
        // SAFETY: as above.
        if unsafe { (*write).delayed() } == 0 {
            // SAFETY: the event of an open connection.
            unsafe { nginx_sys::ngx_add_timer(write, timeout) };
        }
        // SAFETY: as above.
        if unsafe { nginx_sys::ngx_handle_write_event(write, low) } != rc::OK {
            self.finalize(r, rc::ERROR);
        }
    }

    #[expect(clippy::unused_self, reason = "the counterpart of wait")]
    fn stop_waiting(&self, r: *mut ngx_http_request_t) {
        // SAFETY: an open request.
        let c = unsafe { (*r).connection };
        // SAFETY: an open connection has its events.
        let write = unsafe { (*c).write };
        // SAFETY: as above.
        if unsafe { (*write).timer_set() } != 0 {
            // SAFETY: it is in the tree.
            unsafe { nginx_sys::ngx_del_timer(write) };
        }
    }
}
