//! Constant URIs, parsed by nginx's own functions.

use std::mem;

use ngx::ffi::{
    ngx_connection_t, ngx_http_parse_complex_uri, ngx_http_parse_uri, ngx_http_request_t,
};

use crate::nginx::core::log::Log;
use crate::nginx::core::{bits, rc};

/// The path of a constant `uri` as it would be in `$uri`: decoded, without arguments, and without
/// `..` and, if `merge_slashes` says so, `//`.
pub(super) fn normalized(log: Log, uri: &[u8], merge_slashes: isize) -> Option<Vec<u8>> {
    // nginx's parser takes an empty one for valid.
    if !uri.starts_with(b"/") {
        return None;
    }
    // SAFETY: plain C data; the parsers read what is set below and their own fields.
    let mut connection: ngx_connection_t = unsafe { mem::zeroed() };
    connection.log = log.as_ptr();
    // As large as nginx has it, which may be more than the bindings know (BITS-1).
    let size = bits::request_size().max(size_of::<ngx_http_request_t>());
    let mut memory = vec![0_u64; size.div_ceil(size_of::<u64>())];
    let r = memory.as_mut_ptr().cast::<ngx_http_request_t>();
    // SAFETY: as above, and large enough; ends before nginx is called.
    let request = unsafe { &mut *r };
    request.connection = &raw mut connection;

    // nginx's parser looks at the byte behind the URI, which in a request line is a blank.
    let mut line = uri.to_vec();
    line.push(b' ');
    let start = line.as_mut_ptr();
    bits::set_uri_start(request, start);
    bits::set_uri_end(request, start.wrapping_add(uri.len()));

    // SAFETY: the request's URI is set.
    if unsafe { ngx_http_parse_uri(r) } != rc::OK {
        return None;
    }
    let mut path = vec![0_u8; uri.len() + 1];
    // SAFETY: as before.
    let request = unsafe { &mut *r };
    request.uri.data = path.as_mut_ptr();
    if bits::complex_uri(request) == 0 && bits::quoted_uri(request) == 0 {
        let args = bits::args_start(request).addr();
        let len = if args == 0 { uri.len() } else { args - 1 - start.addr() };
        return uri.get(..len).map(<[u8]>::to_vec);
    }
    let merge = usize::from(merge_slashes != 0);
    // SAFETY: as above, with room for a path that is no longer than the URI.
    if unsafe { ngx_http_parse_complex_uri(r, merge) } != rc::OK {
        return None;
    }
    // SAFETY: as before.
    path.truncate(unsafe { (*r).uri.len });
    Some(path)
}
