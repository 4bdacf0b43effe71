//! The head of a run's request: its line, its only header, its URI.

use std::ptr::{self, NonNull};

use ngx::core::Pool;
use ngx::ffi::{
    NGX_HTTP_VERSION_11, ngx_buf_t, ngx_chain_t, ngx_hash_find, ngx_http_complex_value,
    ngx_http_header_t, ngx_http_parse_complex_uri, ngx_http_parse_uri, ngx_http_request_body_t,
    ngx_http_request_t, ngx_list_push, ngx_str_t, ngx_table_elt_t, off_t,
};

use super::request::{Method, Place, Request, StartError, Uri};
use crate::nginx::conf::location::Location;
use crate::nginx::core::module::{core_main, core_server};
use crate::nginx::core::string::{borrowed, bytes};
use crate::nginx::core::{bits, gauges, pool, rc};

/// Fills in what nginx would have read from a client; tells whether the location's name is to be cut off
/// the URI.
///
/// # Safety
///
/// An open request of ours that has not begun; the location's configuration is there.
pub(super) unsafe fn fill(
    r: *mut ngx_http_request_t,
    location: Location,
    request: &Request<'_>,
) -> Result<bool, StartError> {
    {
        // SAFETY: a request of ours; ends before nginx is called.
        let making = unsafe { &mut *r };
        if gauges::WRITING.is_there() {
            bits::set_stat_reading(making, 0);
            bits::set_stat_writing(making, 1);
        }
        bits::set_internal(making, 1);
        bits::set_keepalive(making, 0);
        bits::set_limit_rate_set(making, 1);
        bits::set_limit_rate_after_set(making, 1);
        // SAFETY: `start` has seen that it is there.
        let conf = unsafe { location.conf() };
        bits::set_logged(making, usize::from(conf.log_subrequest != 1));
        bits::set_http_major(making, 1);
        bits::set_http_minor(making, 1);
        making.http_version = NGX_HTTP_VERSION_11 as usize;
        making.method = request.method.code() as usize;
        let state = ngx::ffi::ngx_http_state_e_NGX_HTTP_PROCESS_REQUEST_STATE;
        bits::set_http_state(making, state as usize);
        if request.method.has_body() {
            making.headers_in.content_length_n = 0;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { set_host(r, request.host) }?;
    for (name, value) in request.headers {
        // SAFETY: as above; the list was just made.
        unsafe { add_header(r, name, value) }?;
    }
    if let Some(body) = request.body {
        // SAFETY: as above.
        unsafe { set_body(r, body) }?;
    }
    let uri = match request.uri {
        Uri::Constant(uri) => uri.as_slice(),
        Uri::Variable(template) => {
            // SAFETY: as above.
            unsafe { set_line(r, request.method, &[]) }?;
            let mut value = borrowed(&[]);
            let template = template.as_ptr().ok_or(StartError::ConfigurationGone)?;
            // SAFETY: a compiled value; the request has all that variables look at.
            let rc = unsafe { ngx_http_complex_value(r, template, &raw mut value) };
            if rc != rc::OK {
                return Err(StartError::NoMemory);
            }
            // SAFETY: evaluated into the request's pool.
            unsafe { bytes(value) }
        }
    };
    // SAFETY: as above.
    let uri = unsafe { set_line(r, request.method, uri) }?;
    // SAFETY: the URI lies in the request's pool, with a blank behind it.
    unsafe { set_uri(r, uri) }?;
    // SAFETY: as above.
    let within = unsafe { within(r, location) };
    match request.place {
        Place::InLocation if !within => Err(StartError::UriOutside),
        Place::InLocation => Ok(true),
        Place::Anywhere => Ok(within && location.has_alias()),
    }
}

/// Sets the request line `METHOD URI HTTP/1.1` and its parts; answers the URI's place in it.
///
/// # Safety
///
/// An open request of ours.
unsafe fn set_line(
    r: *mut ngx_http_request_t,
    method: &Method,
    uri: &[u8],
) -> Result<ngx_str_t, StartError> {
    const PROTOCOL: &[u8] = b"HTTP/1.1";

    let method = method.name();
    // SAFETY: the caller's promise.
    let line = unsafe { concat(r, &[method, b" ", uri, b" ", PROTOCOL]) }?;
    let part = |from: usize, len| ngx_str_t { len, data: line.data.wrapping_add(from) };
    let uri = part(method.len() + 1, uri.len());
    // SAFETY: a request of ours; ends before nginx is called.
    let request = unsafe { &mut *r };
    request.request_line = line;
    request.method_name = part(0, method.len());
    request.http_protocol = part(line.len - PROTOCOL.len(), PROTOCOL.len());
    // Where the last header of a client's would be: RUN-21.
    bits::set_header_name_start(request, line.data);
    bits::set_header_name_end(request, line.data);
    bits::set_header_start(request, line.data);
    bits::set_header_end(request, line.data);
    Ok(uri)
}

/// All `parts`, one behind the other, in the request's pool.
///
/// # Safety
///
/// An open request.
unsafe fn concat(r: *mut ngx_http_request_t, parts: &[&[u8]]) -> Result<ngx_str_t, StartError> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above.
    unsafe { pool::concat(pool, parts) }.ok_or(StartError::NoMemory)
}

/// Sets the list of headers, with `Host` in it if there is one.
///
/// # Safety
///
/// An open request of ours.
unsafe fn set_host(r: *mut ngx_http_request_t, host: Option<&str>) -> Result<(), StartError> {
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above.
    let headers = unsafe { &raw mut (*r).headers_in.headers };
    let size = size_of::<ngx_table_elt_t>();
    // SAFETY: the list is that of the request; as `ngx_http_process_request_line` makes it.
    if unsafe { ngx::ffi::ngx_list_init(headers, pool, 1, size) } != rc::OK {
        return Err(StartError::NoMemory);
    }
    let Some(host) = host else { return Ok(()) };

    // SAFETY: a list that was just made.
    let Some(header) = NonNull::new(unsafe { ngx_list_push(headers) }) else {
        return Err(StartError::NoMemory);
    };
    let header = header.cast::<ngx_table_elt_t>();
    // SAFETY: the caller's promise.
    let value = unsafe { concat(r, &[host.as_bytes()]) }?;
    let mut server = ngx_str_t { len: without_port(host.as_bytes()).len(), data: value.data };
    // As `ngx_http_validate_host` does, which copies only what it has to change.
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        // SAFETY: the caller's promise.
        server = unsafe { concat(r, &[without_port(host.as_bytes())]) }?;
        // SAFETY: bytes of the pool that nobody else has yet.
        unsafe { ngx::ffi::ngx_strlow(server.data, server.data, server.len) };
    }
    // SAFETY: room for one element of this type, which all zero bytes are valid for.
    unsafe { header.write_bytes(0, 1) };
    // SAFETY: as above; nobody else has it.
    let element = unsafe { &mut *header.as_ptr() };
    element.hash = hash(b"host");
    element.key = borrowed(b"Host");
    element.lowcase_key = b"host".as_ptr().cast_mut();
    element.value = value;
    // SAFETY: a request of ours; ends before nginx is called.
    let request = unsafe { &mut *r };
    request.headers_in.host = header.as_ptr();
    request.headers_in.server = server;
    Ok(())
}

/// Adds a header, as `ngx_http_process_request_headers` does with each that a client sends.
///
/// # Safety
///
/// An open request of ours that has its list of headers.
unsafe fn add_header(
    r: *mut ngx_http_request_t,
    name: &[u8],
    value: &[u8],
) -> Result<(), StartError> {
    let lowcase = name.to_ascii_lowercase();
    // SAFETY: the caller's promise.
    let text = unsafe { concat(r, &[name, b"\0", value, b"\0", &lowcase]) }?;
    let part = |from: usize, len| ngx_str_t { len, data: text.data.wrapping_add(from) };
    // SAFETY: as above.
    let headers = unsafe { &raw mut (*r).headers_in.headers };
    // SAFETY: the list of the request.
    let Some(header) = NonNull::new(unsafe { ngx_list_push(headers) }) else {
        return Err(StartError::NoMemory);
    };
    let header = header.cast::<ngx_table_elt_t>();
    // SAFETY: room for one element of this type, which all zero bytes are valid for.
    unsafe { header.write_bytes(0, 1) };
    let key = hash(&lowcase);
    let lowcase = part(name.len() + value.len() + 2, name.len());
    {
        // SAFETY: as above; nobody else has it; ends before nginx is called.
        let element = unsafe { &mut *header.as_ptr() };
        element.hash = key;
        element.key = part(0, name.len());
        element.value = part(name.len() + 1, value.len());
        element.lowcase_key = lowcase.data;
    }
    // SAFETY: as above; ends here.
    let request = unsafe { &*r };
    // SAFETY: as above.
    let main = unsafe { core_main(request) };
    let Some(main) = main else { return Ok(()) };
    // SAFETY: the core module's configuration.
    let known = unsafe { &raw mut (*main.as_ptr()).headers_in_hash };
    // SAFETY: a hash of the configuration's (`ngx_http_init_headers_in_hash`), and a name.
    let known = unsafe { ngx_hash_find(known, key, lowcase.data, lowcase.len) };
    // SAFETY: its values are of this type.
    let Some(known) = (unsafe { known.cast::<ngx_http_header_t>().as_ref() }) else {
        return Ok(());
    };
    let Some(handler) = known.handler else { return Ok(()) };
    // SAFETY: nginx's own handler of this header, called as it calls it itself.
    let rc = unsafe { handler(r, header.as_ptr(), known.offset) };
    if rc == rc::OK { Ok(()) } else { Err(StartError::NoMemory) }
}

/// Sets the body, as if it had been read already, with its length.
///
/// # Safety
///
/// As for [`add_header`].
unsafe fn set_body(r: *mut ngx_http_request_t, body: &[u8]) -> Result<(), StartError> {
    // SAFETY: the caller's promise.
    unsafe { add_header(r, b"Content-Length", body.len().to_string().as_bytes()) }?;
    // SAFETY: as above.
    let content = unsafe { concat(r, &[body]) }?;
    // SAFETY: an open request has its pool.
    let pool = unsafe { (*r).pool };
    // SAFETY: as above; HOST-13: what it gives may be null.
    let pool = unsafe { Pool::from_ngx_pool(pool) };
    let request_body = pool.calloc_type::<ngx_http_request_body_t>();
    let buffer = pool.calloc_type::<ngx_buf_t>();
    let link = pool.calloc_type::<ngx_chain_t>();
    if request_body.is_null() || buffer.is_null() || link.is_null() {
        return Err(StartError::NoMemory);
    }
    let end = content.data.wrapping_add(content.len);
    {
        // SAFETY: just made, zeroed, and nobody else has it.
        let buffer = unsafe { &mut *buffer };
        buffer.start = content.data;
        buffer.pos = content.data;
        buffer.last = end;
        buffer.end = end;
        buffer.set_temporary(1);
        buffer.set_last_buf(1);
    }
    // SAFETY: as above.
    unsafe { link.write(ngx_chain_t { buf: buffer, next: ptr::null_mut() }) };
    // SAFETY: as above.
    unsafe { (*request_body).bufs = link };
    // SAFETY: a request of ours; ends before nginx is called.
    let request = unsafe { &mut *r };
    request.request_body = request_body;
    request.headers_in.content_length_n =
        off_t::try_from(content.len).map_err(|_| StartError::NoMemory)?;
    Ok(())
}

/// A host as in `$host`: `name:port` without the port.
fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| !byte.is_ascii_digit()) {
        Some(colon) if host.get(colon) == Some(&b':') => host.get(..colon).unwrap_or(host),
        _ => host,
    }
}

/// `ngx_hash_key` of a lower-case key.
fn hash(key: &[u8]) -> usize {
    key.iter().fold(0, |hash: usize, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)))
}

/// Sets the request's URI, arguments and extension from `uri`, as `ngx_http_process_request_uri`
/// does for a client's.
///
/// # Safety
///
/// `r` is a request under construction whose server's configuration is set; `uri` lies in its pool
/// with one more readable byte behind it, and is not written to any more.
unsafe fn set_uri(r: *mut ngx_http_request_t, uri: ngx_str_t) -> Result<(), StartError> {
    // SAFETY: the caller's promise.
    if !unsafe { bytes(uri) }.starts_with(b"/") {
        // nginx's parser takes an empty one for valid.
        return Err(StartError::InvalidUri);
    }
    // SAFETY: the caller's promise; ends before nginx is called.
    let request = unsafe { &mut *r };
    bits::set_uri_start(request, uri.data);
    bits::set_uri_end(request, uri.data.wrapping_add(uri.len));
    request.unparsed_uri = uri;
    bits::set_valid_unparsed_uri(request, 1);

    // SAFETY: the URI's bounds are set.
    if unsafe { ngx_http_parse_uri(r) } != rc::OK {
        return Err(StartError::InvalidUri);
    }

    // SAFETY: as before.
    let request = unsafe { &mut *r };
    let args = bits::args_start(request);
    let path_len = if args.is_null() { uri.len } else { args.addr() - 1 - uri.data.addr() };
    request.uri = ngx_str_t { len: path_len, data: uri.data };

    if bits::complex_uri(request) != 0 || bits::quoted_uri(request) != 0 {
        // SAFETY: the request's pool; HOST-13: may be null.
        let path = unsafe { Pool::from_ngx_pool(request.pool) }.alloc_unaligned(path_len);
        if path.is_null() {
            return Err(StartError::NoMemory);
        }
        request.uri.data = path.cast();
        // SAFETY: the request's server configuration is set.
        let server = unsafe { core_server(request) };
        // SAFETY: as above.
        let merge = server.map_or(0, |server| unsafe { server.as_ref() }.merge_slashes);
        let merge = usize::from(merge != 0);
        // SAFETY: the buffer has room for a path that is never longer than what it is made of.
        if unsafe { ngx_http_parse_complex_uri(r, merge) } != rc::OK {
            return Err(StartError::InvalidUri);
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

/// Whether the request's path lies within the location (RUN-7). A pattern also sets its captures,
/// as when nginx chooses the location for a client.
///
/// # Safety
///
/// An open request; the location's configuration is there.
unsafe fn within(r: *mut ngx_http_request_t, location: Location) -> bool {
    // SAFETY: `start` has seen that it is there.
    #[cfg(ngx_feature = "pcre")]
    if let Some(regex) = NonNull::new(unsafe { location.conf() }.regex) {
        // SAFETY: the path of an open request, in its pool.
        let mut path = unsafe { (*r).uri };
        // SAFETY: a compiled pattern of the cycle.
        let rc = unsafe { ngx::ffi::ngx_http_regex_exec(r, regex.as_ptr(), &raw mut path) };
        return rc == rc::OK;
    }
    // SAFETY: the path of an open request, in its pool.
    let path = unsafe { (*r).uri };
    // SAFETY: it does not change meanwhile.
    location.contains_path(unsafe { bytes(path) })
}
