//! What a run's response brings, as it arrives.

use ngx::ffi::{ngx_http_request_t, ngx_list_t, ngx_table_elt_t};

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
        // SAFETY: a request's own, or null.
        match unsafe { request.upstream.as_ref() } {
            Some(upstream) if !upstream.buffer.start.is_null() => {
                let headers = &upstream.headers_in;
                Self { status: headers.status_n, headers: &headers.headers }
            }
            _ => {
                let headers = &request.headers_out;
                Self { status: headers.status, headers: &headers.headers }
            }
        }
    }

    /// The status; 0 if there is none.
    pub fn status(&self) -> u16 {
        u16::try_from(self.status).unwrap_or(0)
    }

    /// All headers, those too that nginx does not hand on, each with its name and its value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        // SAFETY: a list of a request that does not change.
        unsafe { fields(self.headers) }
    }
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
