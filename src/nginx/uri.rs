//! URIs, parsed by nginx's own functions.

use std::mem;

use ngx::ffi::{
    ngx_connection_t, ngx_http_parse_complex_uri, ngx_http_parse_uri, ngx_http_request_t,
    ngx_pnalloc, ngx_str_t,
};

use super::log::Log;
use super::{bits, bytes, rc};

/// A URI that nginx could not parse, or no memory.
#[derive(Debug)]
pub(super) struct InvalidUri;

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

/// Sets the request's URI, arguments and extension from `uri`, as `ngx_http_process_request_uri`
/// does for a client's.
///
/// # Safety
///
/// `r` is a request under construction whose server's configuration is set; `uri` lies in its pool
/// with one more readable byte behind it, and is not written to any more.
pub(super) unsafe fn set(r: *mut ngx_http_request_t, uri: ngx_str_t) -> Result<(), InvalidUri> {
    // SAFETY: the caller's promise.
    if !unsafe { bytes(uri) }.starts_with(b"/") {
        // nginx's parser takes an empty one for valid.
        return Err(InvalidUri);
    }
    // SAFETY: the caller's promise; ends before nginx is called.
    let request = unsafe { &mut *r };
    bits::set_uri_start(request, uri.data);
    bits::set_uri_end(request, uri.data.wrapping_add(uri.len));
    request.unparsed_uri = uri;
    bits::set_valid_unparsed_uri(request, 1);

    // SAFETY: the URI's bounds are set.
    if unsafe { ngx_http_parse_uri(r) } != rc::OK {
        return Err(InvalidUri);
    }

    // SAFETY: as before.
    let request = unsafe { &mut *r };
    let args = bits::args_start(request);
    let path_len = if args.is_null() { uri.len } else { args.addr() - 1 - uri.data.addr() };
    request.uri = ngx_str_t { len: path_len, data: uri.data };

    if bits::complex_uri(request) != 0 || bits::quoted_uri(request) != 0 {
        // SAFETY: the request's pool; HOST-13: may be null.
        let path = unsafe { ngx_pnalloc(request.pool, path_len) };
        if path.is_null() {
            return Err(InvalidUri);
        }
        request.uri.data = path.cast();
        // SAFETY: the request's server configuration is set.
        let merge = unsafe { merge_slashes(request) };
        // SAFETY: the buffer has room for a path that is never longer than what it is made of.
        if unsafe { ngx_http_parse_complex_uri(r, merge) } != rc::OK {
            return Err(InvalidUri);
        }
    }

    // SAFETY: as before.
    let request = unsafe { &mut *r };
    let args = bits::args_start(request);
    let end = bits::uri_end(request);
    if !args.is_null() && end > args {
        request.args = ngx_str_t { len: end.addr() - args.addr(), data: args };
    }
    // SAFETY: the path is set.
    unsafe { ngx::ffi::ngx_http_set_exten(r) };
    Ok(())
}

/// The path of a request, as in `$uri`.
///
/// # Safety
///
/// `r` is a request that lives for `'a`, and whose URI does not change meanwhile.
pub(super) unsafe fn path<'a>(r: *mut ngx_http_request_t) -> &'a [u8] {
    // SAFETY: the caller's promise.
    let uri = unsafe { (*r).uri };
    // SAFETY: as above.
    unsafe { bytes(uri) }
}

/// # Safety
///
/// The request's server configuration is set.
unsafe fn merge_slashes(request: &ngx_http_request_t) -> usize {
    // SAFETY: set before any configuration is read.
    let core = unsafe { ngx::ffi::ngx_http_core_module.ctx_index };
    // SAFETY: the array has a place for each http module.
    let server = unsafe { request.srv_conf.add(core) };
    // SAFETY: the core module's is set.
    let server = unsafe { *server }.cast::<ngx::ffi::ngx_http_core_srv_conf_t>();
    // SAFETY: as above.
    let merge = unsafe { (*server).merge_slashes };
    usize::from(merge != 0)
}
