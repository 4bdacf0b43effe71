//! Responses: what is sent, and how nginx gets it.

use std::borrow::Cow;
use std::mem;
use std::ptr::{self, NonNull};
use std::time::Duration;

use ngx::ffi::{ngx_int_t, ngx_list_push, ngx_str_t, ngx_table_elt_t, off_t};

use super::client_request::ClientRequest;
use super::open::{Follows, Open};
use crate::nginx::core::rc;
use crate::nginx::core::string::borrowed;
use crate::nginx::core::turn;
use crate::os::memory::{self, NoMemory, fallible};

/// What a handler has to say.
pub enum Answer {
    /// The response.
    Now(Response),
    /// To be asked again after this time; with none, when others have been at work.
    Later(Duration, AskAgain),
    /// What the job answers, which is done beside the event loop where there are threads, else in slots of it.
    Background(Box<dyn Job>),
}

/// Asked for the answer later.
pub type AskAgain = Box<dyn FnOnce(&ClientRequest<'_>) -> Answer>;

/// Work that may block, in pieces that are as small as can be.
pub trait Job: Send + 'static {
    /// Works until all is done, or, between two pieces, `may_go_on` says no; does at least one.
    fn work(&mut self, may_go_on: &dyn Fn() -> bool) -> Progress;

    /// The answer, once all is done.
    fn answer(self: Box<Self>, request: &ClientRequest<'_>) -> Answer;
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do.
    More,
    /// All is done.
    Done,
}

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
    /// Appends some of it: what can be made in a millisecond or less, and [`STEP`] bytes as a rule.
    fn write(&mut self, piece: &mut Vec<u8>) -> More;
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// There is.
    Yes,
    /// There is, after this time.
    After(Duration),
    /// It was the last piece.
    No,
    /// There is, and it cannot be had: the answer is cut off.
    Broken,
}

/// The size of a piece: what an answer keeps for a client that does not read.
pub(in crate::nginx) const PIECE: usize = 32 * 1024;
/// What [`Pieces::write`] appends at most without asking for room.
pub const STEP: usize = 8 * 1024;

/// What happened to the first slot of a response.
pub(in crate::nginx) enum Begun {
    /// This is what the request is to be finalized with.
    Ended(ngx_int_t),
    /// The header was sent, and there are pieces to come after this first one.
    More(Box<dyn Pieces>, Vec<u8>, More),
}

/// Sends the header, and the body too if it is one piece.
pub(in crate::nginx) fn respond(open: &Open, response: Response) -> Begun {
    let Response { status, content_type, headers, body } = response;
    let (body, left) = match body {
        Body::Whole(body) => (body, None),
        Body::Pieces(mut pieces) => {
            let mut first = Vec::new();
            let Ok(more) = fill(&mut *pieces, &mut first) else {
                return Begun::Ended(rc::SERVICE_UNAVAILABLE);
            };
            (first.into(), (more != More::No).then_some((pieces, more)))
        }
    };
    let length = if left.is_some() { -1 } else { off_t::try_from(body.len()).unwrap_or(-1) };
    if set_header(open, status, content_type, &headers, length).is_none() {
        return Begun::Ended(rc::INTERNAL_SERVER_ERROR);
    }
    if let Err(code) = open.send_header() {
        return Begun::Ended(code);
    }
    if let Some((pieces, more)) = left {
        return Begun::More(pieces, body.into_owned(), more);
    }
    // SAFETY: an open request has its pool.
    let Some(body) = (unsafe { ngx_str_t::from_bytes(open.pool(), &body) }) else {
        return Begun::Ended(rc::ERROR);
    };
    let Some(buffer) = open.new_buffer() else { return Begun::Ended(rc::ERROR) };
    // SAFETY: the header was sent; a new buffer; the body is in the request's pool.
    let sent = unsafe { open.send(buffer, body, Follows::Nothing) };
    Begun::Ended(sent.unwrap_or(rc::ERROR))
}

fn set_header(
    open: &Open,
    status: u16,
    content_type: &'static str,
    headers: &[(&'static str, Cow<'static, str>)],
    length: off_t,
) -> Option<()> {
    let (r, pool) = (open.as_ptr(), open.pool());
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
        let value = unsafe { ngx_str_t::from_bytes(pool, value.as_bytes()) }?;
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

/// Appends to a piece until it is full or the time is up, or there is nothing more now.
///
/// # Errors
///
/// There is no memory, or no more to be had.
pub(in crate::nginx) fn fill(
    pieces: &mut dyn Pieces,
    piece: &mut Vec<u8>,
) -> Result<More, NoMemory> {
    if piece.capacity() < PIECE {
        let left = PIECE.saturating_sub(piece.len());
        fallible(|| piece.try_reserve_exact(left))?;
    }
    loop {
        if !memory::enough() {
            return Err(NoMemory);
        }
        let more = pieces.write(piece);
        if more == More::Broken {
            return Err(NoMemory);
        }
        if more != More::Yes || piece.len() > PIECE - STEP || turn::time_is_up() {
            return Ok(more);
        }
    }
}
