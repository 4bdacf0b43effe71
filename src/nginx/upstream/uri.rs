//! The URI that a server gets.

use std::ffi::CStr;
use std::ptr;

use ngx::core::Pool;
use ngx::ffi::{ngx_buf_t, ngx_http_request_t, ngx_http_upstream_conf_t, ngx_str_t};

use super::passed::conf_of_module;
use crate::nginx::conf::location::Location;
use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::pool;
use crate::nginx::core::string::bytes;

const PROXY: &CStr = c"ngx_http_proxy_module";

/// The constant URI of a location's `proxy_pass`: `/app/` of `http://backend/app/`; `None` if it has
/// none.
pub fn proxy_uri(location: Location, read: &WhollyRead<'_>) -> Option<Vec<u8>> {
    let conf = conf_of_module(location, PROXY, read)?;
    // SAFETY: it is there.
    let name = unsafe { location.conf() }.name;
    // SAFETY: a configuration of the proxy module's.
    let url = unsafe { url_of(conf.as_ptr(), name) }?;
    // SAFETY: it lives in the cycle's pool.
    let url = unsafe { bytes(url) };
    let host = url.windows(3).position(|window| window == b"://")? + 3;
    let host = url.get(host..)?;
    let uri = host.iter().position(|byte| matches!(byte, b'/' | b'?'))?;
    host.get(uri..).map(<[u8]>::to_vec)
}

/// The argument of `proxy_pass` in a configuration of the proxy module's: no header of nginx's has it
/// (UPSTREAM-6).
///
/// # Safety
///
/// A configuration of `ngx_http_proxy_module`, that changes no more; the name of its location.
unsafe fn url_of(conf: *const ngx_http_upstream_conf_t, name: ngx_str_t) -> Option<ngx_str_t> {
    const WORDS: usize = 36;

    let rest = conf.wrapping_add(1).cast::<usize>();
    // SAFETY: UPSTREAM-6: it has more, and is aligned to words.
    let words: Vec<usize> = (0..WORDS).map(|at| unsafe { rest.wrapping_add(at).read() }).collect();
    let at = words.windows(2).position(|pair| *pair == [name.len, name.data.addr()])?;
    // SAFETY: as above: what follows is a string (`ngx_http_proxy_loc_conf_t`).
    let url = unsafe { rest.wrapping_add(at + 2).cast::<ngx_str_t>().read() };
    (!url.data.is_null() && (1..4096).contains(&url.len)).then_some(url)
}

/// Has a request over HTTP/1 ask for `uri` as it is written, which the proxy module has decoded and
/// encoded again where `proxy_pass` has a URI.
///
/// # Safety
///
/// `r` is an open request that has an upstream, whose request was made.
pub(super) unsafe fn ask_for(r: *mut ngx_http_request_t, uri: &[u8]) -> Option<()> {
    // SAFETY: the caller's promise.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above.
    let upstream = unsafe { (*r).upstream };
    // SAFETY: as above.
    let asked = unsafe { (*upstream).uri };
    // SAFETY: as above.
    let link = unsafe { (*upstream).request_bufs };
    if link.is_null() || asked.len == 0 {
        return Some(());
    }
    // SAFETY: a URI in the request, or elsewhere in its pool.
    if unsafe { bytes(asked) } == uri {
        return Some(());
    }
    // SAFETY: as above.
    let buffer = unsafe { (*link).buf };
    // SAFETY: a link has a buffer.
    let first = unsafe { (*buffer).pos };
    // SAFETY: as above.
    let last = unsafe { (*buffer).last };
    let within = (first.addr()..last.addr()).contains(&asked.data.addr());
    let behind = asked.data.wrapping_add(asked.len);
    if !within || behind > last {
        return Some(());
    }
    let part = |from: *mut u8, to: *mut u8| ngx_str_t { len: to.addr() - from.addr(), data: from };
    // SAFETY: it lies in the buffer, of whose content it is a part.
    let before = unsafe { bytes(part(first, asked.data)) };
    // SAFETY: as above.
    let rest = unsafe { bytes(part(behind, last)) };
    // SAFETY: an open request has its pool.
    let text = unsafe { pool::concat(pool, &[before, uri, rest]) }?;
    // SAFETY: as above; HOST-13: may be null.
    let made = unsafe { Pool::from_ngx_pool(pool) }.calloc_type::<ngx_buf_t>();
    if made.is_null() {
        return None;
    }
    // SAFETY: two buffers, of which nobody else has the second.
    unsafe { ptr::copy_nonoverlapping(buffer, made, 1) };
    {
        // SAFETY: as above; ends here.
        let made = unsafe { &mut *made };
        made.start = text.data;
        made.pos = text.data;
        made.last = text.data.wrapping_add(text.len);
        made.end = made.last;
    }
    // SAFETY: as above.
    unsafe { (*link).buf = made };
    let asked = ngx_str_t { len: uri.len(), data: text.data.wrapping_add(before.len()) };
    // SAFETY: as above.
    unsafe { (*upstream).uri = asked };
    Some(())
}
