//! Responses: what is sent, and how nginx gets it.

use std::borrow::Cow;
use std::cell::Cell;
use std::mem;
use std::ptr::{self, NonNull};
use std::time::Duration;

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_http_output_filter, ngx_http_request_t, ngx_http_send_header,
    ngx_int_t, ngx_list_push, ngx_palloc, ngx_str_t, ngx_table_elt_t, off_t,
};

use super::handler::ClientRequest;
use super::{bits, borrowed, pool, rc};
use crate::os::Share;
use crate::os::memory::{self, NoMemory, fallible};

/// What a handler has to say.
pub enum Answer {
    /// The response.
    Now(Response),
    /// To be asked again after this time.
    Later(Duration, AskAgain),
}

/// Asked for the answer later.
pub type AskAgain = Box<dyn FnOnce(&ClientRequest<'_>) -> Answer>;

/// A response.
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its type, with parameters.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// Its body; left out for `HEAD`.
    pub body: Body,
}

/// The body of a response.
pub enum Body {
    /// All of it.
    Whole(Cow<'static, [u8]>),
    /// Made piece by piece.
    Pieces(Box<dyn Pieces>),
}

/// Makes a body piece by piece.
pub trait Pieces {
    /// Appends the next piece: what can be made in a millisecond or less, and is small.
    fn write(&mut self, piece: &mut Vec<u8>) -> More;
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// There is.
    Yes,
    /// It was the last piece.
    No,
}

/// How large a piece grows before it is sent.
const PIECE: usize = 64 * 1024;
/// What [`Pieces::write`] appends at most without asking for room.
const STEP: usize = 32 * 1024;

/// The turn of the event loop, as answers see it.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    /// Each has another one.
    pub(super) number: u64,
    /// What all answers together may take of it.
    pub(super) share: Share,
    at: usize,
}

thread_local! {
    /// The turn in which pieces were made last.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// An answer goes on after so many turns, even if others have used up the time of all of them.
const PATIENCE: u64 = 32;

impl Turn {
    /// Whether an answer that was at work in turn `last` may be so now: there is time left, or it has
    /// waited for long.
    pub(super) fn is_for(last: &Cell<u64>) -> bool {
        let turn = Self::current();
        let waited = turn.number.saturating_sub(last.get());
        if turn.share.is_spent() && (1..PATIENCE).contains(&waited) {
            return false;
        }
        last.set(turn.number);
        true
    }

    /// This one.
    pub(super) fn current() -> Self {
        // nginx looks at the clock once in each turn.
        // SAFETY: HOST-1: one thread.
        let at = unsafe { nginx_sys::ngx_current_msec };
        let last = TURN.get();
        if let Some(turn) = last.filter(|turn| turn.at == at) {
            return turn;
        }
        let number = last.map_or(1, |last| last.number + 1);
        let turn = Self { number, share: Share::begin(), at };
        TURN.set(Some(turn));
        turn
    }
}

/// Whether the time that all answers together have in this turn is spent; each goes on a little all the
/// same, and then in the next turn.
pub fn turn_is_spent() -> bool {
    Turn::current().share.is_spent()
}

/// What became of the first turn of a response.
pub(super) enum Begun {
    /// This is what the request is to be finalized with.
    Ended(ngx_int_t),
    /// The header was sent, and there are pieces to come after this first one.
    More(Box<dyn Pieces>, Vec<u8>),
}

/// Sends the header, and the body too if it can be made in one turn.
///
/// # Safety
///
/// An open request whose header was not sent yet.
pub(super) unsafe fn respond(r: *mut ngx_http_request_t, response: Response) -> Begun {
    let Response { status, content_type, headers, body } = response;
    let (body, more) = match body {
        Body::Whole(body) => (body, None),
        Body::Pieces(mut pieces) => {
            let mut first = Vec::new();
            let Ok(more) = fill(&mut *pieces, &mut first) else {
                return Begun::Ended(rc::SERVICE_UNAVAILABLE);
            };
            (first.into(), (more == More::Yes).then_some(pieces))
        }
    };
    let length = if more.is_some() { -1 } else { off_t::try_from(body.len()).unwrap_or(-1) };
    // SAFETY: the caller's promise.
    if unsafe { set_header(r, status, content_type, &headers, length) }.is_none() {
        return Begun::Ended(rc::INTERNAL_SERVER_ERROR);
    }
    // SAFETY: an open request whose header was not sent yet.
    let sent = unsafe { ngx_http_send_header(r) };
    // SAFETY: as above; ends here.
    let header_only = bits::header_only(unsafe { &*r }) != 0;
    if sent == rc::ERROR || sent > rc::OK || header_only {
        return Begun::Ended(sent);
    }
    if let Some(pieces) = more {
        return Begun::More(pieces, body.into_owned());
    }
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above.
    let Some(body) = (unsafe { pool::copy(pool, &body) }) else { return Begun::Ended(rc::ERROR) };
    // SAFETY: as above.
    let Some(buffer) = (unsafe { new_buffer(r) }) else { return Begun::Ended(rc::ERROR) };
    // SAFETY: as above; the body is in the request's pool.
    Begun::Ended(unsafe { send(r, buffer, body, More::No) })
}

/// # Safety
///
/// An open request whose header was not sent yet.
unsafe fn set_header(
    r: *mut ngx_http_request_t,
    status: u16,
    content_type: &'static str,
    headers: &[(&'static str, Cow<'static, str>)],
    length: off_t,
) -> Option<()> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    {
        // SAFETY: an open request; ends before nginx is called.
        let out = unsafe { &mut (*r).headers_out };
        out.status = status.into();
        out.content_length_n = length;
        out.content_type = borrowed(content_type.as_bytes());
        // The type alone, by which `gzip_types` and the like decide.
        out.content_type_len = content_type.find(';').unwrap_or(content_type.len());
        out.content_type_lowcase = ptr::null_mut();
    }
    for (name, value) in headers {
        // SAFETY: an open request's pool.
        let value = unsafe { pool::copy(pool, value.as_bytes()) }?;
        // SAFETY: as above.
        let list = unsafe { &raw mut (*r).headers_out.headers };
        // SAFETY: as above; HOST-13: may be null.
        let header = NonNull::new(unsafe { ngx_list_push(list) })?.cast::<ngx_table_elt_t>();
        // SAFETY: plain C data, which nginx itself zeroes before use.
        let mut element: ngx_table_elt_t = unsafe { mem::zeroed() };
        element.hash = 1;
        element.key = borrowed(name.as_bytes());
        element.value = value;
        // SAFETY: the new element, of this type.
        unsafe { header.write(element) };
    }
    Some(())
}

/// Makes pieces until there are [`PIECE`] bytes, the turn's time is spent, or there are no more.
///
/// # Errors
///
/// There is no memory.
pub(super) fn fill(pieces: &mut dyn Pieces, piece: &mut Vec<u8>) -> Result<More, NoMemory> {
    loop {
        if !memory::enough() {
            return Err(NoMemory);
        }
        if piece.capacity() - piece.len() < STEP {
            fallible(|| piece.try_reserve(STEP.max(piece.len())))?;
        }
        if pieces.write(piece) == More::No {
            return Ok(More::No);
        }
        if piece.len() >= PIECE || turn_is_spent() {
            return Ok(More::Yes);
        }
    }
}

/// A buffer in the request's pool; `None` without memory.
///
/// # Safety
///
/// An open request.
pub(super) unsafe fn new_buffer(r: *mut ngx_http_request_t) -> Option<NonNull<ngx_buf_t>> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above; HOST-13: aligned, or null.
    let buffer = unsafe { ngx_palloc(pool, size_of::<ngx_buf_t>()) };
    NonNull::new(buffer.cast())
}

/// Hands `content` to nginx's filters.
///
/// # Safety
///
/// An open request whose header was sent, and a buffer that nobody reads now; the content stays as it is until the
/// buffer is empty or the request's pool goes (RUN-14).
pub(super) unsafe fn send(
    r: *mut ngx_http_request_t,
    buffer: NonNull<ngx_buf_t>,
    content: ngx_str_t,
    more: More,
) -> ngx_int_t {
    // SAFETY: plain C data, which nginx itself zeroes before use.
    let mut filled: ngx_buf_t = unsafe { mem::zeroed() };
    if content.len > 0 {
        filled.pos = content.data;
        filled.start = content.data;
        filled.last = content.data.wrapping_add(content.len);
        filled.end = filled.last;
        filled.set_temporary(1);
    }
    // SAFETY: an open request.
    let is_main = ptr::eq(r, unsafe { (*r).main });
    match more {
        More::No => {
            filled.set_last_buf(is_main.into());
            filled.set_last_in_chain(1);
            // Without a last buffer there has to be something in it, or a reason for it to be empty.
            filled.set_sync((!is_main && content.len == 0).into());
        }
        More::Yes => filled.set_flush(1),
    }
    // SAFETY: made by `new_buffer`, and empty: nobody reads it now.
    unsafe { buffer.write(filled) };
    let mut chain = ngx_chain_t { buf: buffer.as_ptr(), next: ptr::null_mut() };
    // SAFETY: an open request whose header was sent; the filters copy the link (RUN-14).
    unsafe { ngx_http_output_filter(r, &raw mut chain) }
}

/// Whether something that was handed over has not left yet, as `ngx_http_writer` has it; and also
/// what the connection has of a subrequest whose turn it is to be sent.
///
/// # Safety
///
/// An open request.
pub(super) unsafe fn is_buffered(r: *mut ngx_http_request_t) -> bool {
    // SAFETY: an open request.
    let request = unsafe { &*r };
    // SAFETY: it has an open connection.
    let connection = unsafe { &*request.connection };
    bits::buffered(request) != 0
        || !request.postponed.is_null()
        || ((ptr::eq(r, request.main) || ptr::eq(connection.data, r.cast()))
            && connection.buffered() != 0)
}
