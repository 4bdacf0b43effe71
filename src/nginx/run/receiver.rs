//! What a run's response brings, as it arrives.

use ngx::ffi::{ngx_http_headers_out_t, ngx_http_request_t, ngx_list_t, ngx_table_elt_t};

use crate::nginx::core::string::bytes;

/// Whether more of a response is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It is.
    More,
    /// It is not: the run ends here, and its response counts as complete.
    Enough,
}

/// Who takes what a run's response brings. Is called from within nginx, and starts nothing there.
pub trait Receiver {
    /// The response's header has come.
    fn head(&self, head: &ResponseHead<'_>) -> Flow;

    /// A piece of its body has come.
    fn body(&self, piece: &[u8]) -> Flow;

    /// Whether no more pieces are wanted, though the run goes on.
    fn is_full(&self) -> bool {
        false
    }

    /// Whether its body may be large: no more than a share of it comes in a turn of the event loop. The response goes on
    /// through all other filters then.
    fn takes_shares(&self) -> bool {
        false
    }

    /// What happens to the response then.
    fn then(&self) -> NextFilter {
        NextFilter::Called
    }
}

/// What happens to a response once its receiver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextFilter {
    /// It goes on through the filters of all other modules.
    Called,
    /// No other filter sees it.
    Skipped,
}

/// The header of a response.
pub struct ResponseHead<'a> {
    status: usize,
    headers: &'a ngx_list_t,
    is_of_server: bool,
    answer: &'a ngx_http_headers_out_t,
}

impl<'a> ResponseHead<'a> {
    /// That of the response of an upstream server, if the request has come to one, as the server
    /// sent it; else that of nginx's own response.
    ///
    /// # Safety
    ///
    /// `r` is an open request, which does not change for `'a`.
    pub(in crate::nginx) unsafe fn of(r: *mut ngx_http_request_t) -> Self {
        // SAFETY: the caller's promise.
        let request = unsafe { &*r };
        let answer = &request.headers_out;
        // SAFETY: a request's own, or null.
        match unsafe { request.upstream.as_ref() } {
            Some(upstream) if !upstream.buffer.start.is_null() => {
                let headers = &upstream.headers_in;
                // nginx answers by itself where the rest of a response could not be had.
                let is_of_server = request.err_status == 0 && answer.status == headers.status_n;
                Self { status: headers.status_n, headers: &headers.headers, answer, is_of_server }
            }
            _ => {
                let is_of_server = false;
                Self { status: answer.status, headers: &answer.headers, answer, is_of_server }
            }
        }
    }

    /// The status; 0 if there is none.
    pub fn status(&self) -> u16 {
        u16::try_from(self.status).unwrap_or(0)
    }

    /// Whether it is that of a server, and what nginx hands on.
    pub(in crate::nginx) fn is_of_server(&self) -> bool {
        self.is_of_server
    }

    /// The status of what the location answers.
    pub fn answer_status(&self) -> u16 {
        u16::try_from(self.answer.status).unwrap_or(0)
    }

    /// How long the body of what the location answers is, where that is known beforehand.
    pub fn content_length(&self) -> Option<u64> {
        u64::try_from(self.answer.content_length_n).ok()
    }

    /// The type of what the location answers, which nginx keeps beside the other headers.
    pub fn content_type(&self) -> &'a [u8] {
        // SAFETY: a string of a request that does not change.
        unsafe { bytes(self.answer.content_type) }
    }

    /// `Content-Encoding` of what the location answers; empty for none.
    pub fn content_encoding(&self) -> &'a [u8] {
        field(self.answer.content_encoding)
    }

    /// `ETag` of what the location answers; empty for none.
    pub fn etag(&self) -> &'a [u8] {
        field(self.answer.etag)
    }

    /// All headers, those too that nginx does not hand on, each with its name and its value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        // SAFETY: a list of a request that does not change.
        unsafe { fields(self.headers) }
    }
}

/// The value of a header of a request that does not change; empty for none.
fn field<'a>(header: *mut ngx_table_elt_t) -> &'a [u8] {
    // SAFETY: a header of the request, or null.
    let Some(header) = (unsafe { header.as_ref() }).filter(|header| header.hash != 0) else {
        return b"";
    };
    // SAFETY: a string of the request.
    unsafe { bytes(header.value) }
}

/// The fields of a list of headers.
///
/// # Safety
///
/// A list of this type, made (`ngx_list_init`) or zeroed, which does not change while the answer is there.
pub(in crate::nginx) unsafe fn fields(list: &ngx_list_t) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut part = Some(&list.part);
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let current = part?;
            if at < current.nelts {
                let field = current.elts.cast::<ngx_table_elt_t>().wrapping_add(at);
                at += 1;
                // SAFETY: the part has more elements.
                let field = unsafe { &*field };
                if field.key.data.is_null() || field.value.data.is_null() {
                    continue;
                }
                // SAFETY: strings of the request.
                let key = unsafe { bytes(field.key) };
                // SAFETY: as above.
                return Some((key, unsafe { bytes(field.value) }));
            }
            // SAFETY: the next part, or null.
            part = unsafe { current.next.as_ref() };
            at = 0;
        }
    })
}
