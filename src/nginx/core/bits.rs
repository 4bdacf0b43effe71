//! The bit-fields of a request, and what follows them.
//!
//! bindgen takes bit-fields to begin where their type is aligned, and loses its way where C has packed
//! them behind a smaller member (BITS-1). So has it been with a request's since nginx 1.29.3: they,
//! and the fields behind them, are read and written in C here, for any nginx. The bit-fields of other
//! structures are checked below; the offsets of all other fields that are used are compared with those
//! that C has, when the module is loaded ([`differs`]).

use std::ffi::{CStr, c_char, c_uint};
use std::mem::offset_of;

use ngx::ffi::{
    ngx_addr_t, ngx_array_t, ngx_buf_t, ngx_conf_file_t, ngx_conf_t, ngx_connection_t,
    ngx_core_conf_t, ngx_cycle_t, ngx_event_actions_t, ngx_event_conf_t, ngx_event_module_t,
    ngx_event_t, ngx_http_addr_conf_t, ngx_http_cleanup_t, ngx_http_compile_complex_value_t,
    ngx_http_complex_value_t, ngx_http_conf_ctx_t, ngx_http_connection_t, ngx_http_core_loc_conf_t,
    ngx_http_core_main_conf_t, ngx_http_core_srv_conf_t, ngx_http_header_t, ngx_http_headers_in_t,
    ngx_http_headers_out_t, ngx_http_log_ctx_t, ngx_http_phase_handler_t, ngx_http_request_body_t,
    ngx_http_request_t, ngx_http_server_name_t, ngx_http_upstream_conf_t,
    ngx_http_upstream_headers_in_t, ngx_http_upstream_main_conf_t, ngx_http_upstream_peer_t,
    ngx_http_upstream_resolved_t, ngx_http_upstream_rr_peer_t, ngx_http_upstream_rr_peers_t,
    ngx_http_upstream_server_t, ngx_http_upstream_srv_conf_t, ngx_http_upstream_t,
    ngx_http_variable_t, ngx_list_part_t, ngx_list_t, ngx_log_t, ngx_module_t, ngx_open_file_t,
    ngx_path_t, ngx_peer_connection_t, ngx_pool_cleanup_t, ngx_pool_t, ngx_shm_zone_t,
    ngx_table_elt_t, ngx_uint_t, ngx_variable_value_t,
};

use super::threads::ngx_thread_task_t;

macro_rules! get {
    ($type:ty; $($name:ident: $c:ident),* $(,)?) => {
        unsafe extern "C" {
            $(fn $c(r: *const ngx_http_request_t) -> $type;)*
        }
        $(
            /// The field of this name.
            pub(in crate::nginx) fn $name(request: &ngx_http_request_t) -> $type {
                // SAFETY: reads that field of a request that is there.
                unsafe { $c(request) }
            }
        )*
    };
}

macro_rules! set {
    ($type:ty; $($name:ident: $c:ident),* $(,)?) => {
        unsafe extern "C" {
            $(fn $c(r: *mut ngx_http_request_t, value: $type);)*
        }
        $(
            /// Sets the field of this name.
            pub(in crate::nginx) fn $name(request: &mut ngx_http_request_t, value: $type) {
                // SAFETY: writes that field of a request that is there, and nobody else's now.
                unsafe { $c(request, value) }
            }
        )*
    };
}

get! { ngx_uint_t;
    blocked: ngx_http_timer_get_blocked,
    buffered: ngx_http_timer_get_buffered,
    complex_uri: ngx_http_timer_get_complex_uri,
    count: ngx_http_timer_get_count,
    header_only: ngx_http_timer_get_header_only,
    header_sent: ngx_http_timer_get_header_sent,
    internal: ngx_http_timer_get_internal,
    quoted_uri: ngx_http_timer_get_quoted_uri,
    valid_unparsed_uri: ngx_http_timer_get_valid_unparsed_uri,
}

get! { *mut u8;
    args_start: ngx_http_timer_get_args_start,
    host_end: ngx_http_timer_get_host_end,
    host_start: ngx_http_timer_get_host_start,
    uri_end: ngx_http_timer_get_uri_end,
}

set! { *mut u8;
    set_header_end: ngx_http_timer_set_header_end,
    set_header_name_end: ngx_http_timer_set_header_name_end,
    set_header_name_start: ngx_http_timer_set_header_name_start,
    set_header_start: ngx_http_timer_set_header_start,
    set_uri_end: ngx_http_timer_set_uri_end,
    set_uri_start: ngx_http_timer_set_uri_start,
}

set! { ngx_uint_t;
    set_aio: ngx_http_timer_set_aio,
    set_blocked: ngx_http_timer_set_blocked,
    set_count: ngx_http_timer_set_count,
    set_error_page: ngx_http_timer_set_error_page,
    set_header_sent: ngx_http_timer_set_header_sent,
    set_http_major: ngx_http_timer_set_http_major,
    set_http_minor: ngx_http_timer_set_http_minor,
    set_http_state: ngx_http_timer_set_http_state,
    set_internal: ngx_http_timer_set_internal,
    set_keepalive: ngx_http_timer_set_keepalive,
    set_limit_rate_after_set: ngx_http_timer_set_limit_rate_after_set,
    set_limit_rate_set: ngx_http_timer_set_limit_rate_set,
    set_logged: ngx_http_timer_set_logged,
    set_post_action: ngx_http_timer_set_post_action,
    set_request_body_in_file_only: ngx_http_timer_set_request_body_in_file_only,
    set_stat_reading: ngx_http_timer_set_stat_reading,
    set_stat_writing: ngx_http_timer_set_stat_writing,
    set_uri_changes: ngx_http_timer_set_uri_changes,
    set_valid_location: ngx_http_timer_set_valid_location,
    set_valid_unparsed_uri: ngx_http_timer_set_valid_unparsed_uri,
}

/// That bindgen's own accessors are right for the structures whose bit-fields are used without these.
macro_rules! begin_aligned {
    ($($structure:ty),* $(,)?) => {
        $(const _: () = assert!(offset_of!($structure, _bitfield_1) % align_of::<c_uint>() == 0);)*
    };
}

begin_aligned!(
    ngx_buf_t,
    ngx_connection_t,
    ngx_event_t,
    ngx_http_core_loc_conf_t,
    ngx_http_upstream_conf_t,
    ngx_http_upstream_t,
    ngx_peer_connection_t,
    ngx_variable_value_t,
);

/// A field's name and offset, or a structure's name and size.
#[repr(C)]
struct FieldOffset {
    name: *const c_char,
    offset: usize,
}

unsafe extern "C" {
    static ngx_http_timer_offsets: [FieldOffset; OFFSETS.len() + 1];
    static ngx_http_timer_request_size: usize;
}

macro_rules! offsets {
    (
        fields { $($structure:ident: $($field:ident),*;)* }
        with_ssl { $($ssl:ident: $($ssl_field:ident),*;)* }
        sizes { $($sized:ident),* }
    ) => {
        /// As in `bits.c`, in the same order.
        const OFFSETS: &[(&str, usize)] = &[
            $($((
                concat!(stringify!($structure), ".", stringify!($field)),
                offset_of!($structure, $field),
            ),)*)*
            $($(#[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))] (
                concat!(stringify!($ssl), ".", stringify!($ssl_field)),
                offset_of!($ssl, $ssl_field),
            ),)*)*
            $((stringify!($sized), size_of::<$sized>()),)*
        ];
    };
}

offsets! {
    fields {
        ngx_connection_t: data, read, write, fd, recv, send, recv_chain, send_chain, sent, log,
            pool, sockaddr, socklen, addr_text, local_sockaddr, local_socklen, buffer, number,
            start_time, requests;
        ngx_event_t: data, handler, log, timer, queue;
        ngx_http_request_t: connection, ctx, main_conf, srv_conf, loc_conf, read_event_handler,
            write_event_handler, pool, headers_in, headers_out, method, http_version,
            request_line, uri, args, unparsed_uri, method_name, http_protocol, main, postponed,
            phase_handler, content_handler, err_status, log_handler, cleanup, upstream, request_body;
        ngx_http_headers_in_t: headers, host, server, content_length_n;
        ngx_http_headers_out_t: headers, status, content_type, content_type_len,
            content_type_lowcase, content_length_n;
        ngx_buf_t: pos, last, file_pos, file_last, start, end, file;
        ngx_http_core_loc_conf_t: name, loc_conf, handler, send_timeout, send_lowat, post_action,
            alias, log_subrequest, error_log;
        ngx_http_core_srv_conf_t: server_names, ctx, server_name, connection_pool_size,
            merge_slashes;
        ngx_http_core_main_conf_t: phases, phase_engine, headers_in_hash;
        ngx_http_conf_ctx_t: main_conf, srv_conf, loc_conf;
        ngx_http_connection_t: addr_conf, conf_ctx;
        ngx_http_addr_conf_t: default_server;
        ngx_http_log_ctx_t: connection, request, current_request;
        ngx_http_phase_handler_t: checker, handler, next;
        ngx_http_variable_t: get_handler;
        ngx_http_compile_complex_value_t: cf, value, complex_value;
        ngx_variable_value_t: data;
        ngx_table_elt_t: hash, key, value, lowcase_key;
        ngx_list_part_t: elts, nelts, next;
        ngx_array_t: elts, nelts;
        ngx_pool_t: log;
        ngx_pool_cleanup_t: handler, data;
        ngx_log_t: log_level, connection, handler, data, action, writer, wdata, next;
        ngx_cycle_t: conf_ctx, pool, log, free_connection_n, reusable_connections_n, hostname,
            prefix, modules, paths, open_files, conf_file, conf_prefix;
        ngx_core_conf_t: master, worker_processes, user, group, pid, oldpid;
        ngx_path_t: name, manager;
        ngx_open_file_t: fd;
        ngx_http_cleanup_t: handler, data;
        ngx_event_conf_t: use_;
        ngx_event_module_t: actions;
        ngx_event_actions_t: notify;
        ngx_thread_task_t: next, ctx, handler, event;
        ngx_conf_t: args, cycle, pool, log, ctx, conf_file, handler, handler_conf;
        ngx_conf_file_t: file, line;
        ngx_shm_zone_t: data, init;
        ngx_module_t: ctx_index, name;
        ngx_http_upstream_main_conf_t: upstreams;
        ngx_http_upstream_srv_conf_t: peer, servers, flags, host, port;
        ngx_http_upstream_peer_t: data, init;
        ngx_http_upstream_rr_peers_t: number, tries, next, peer;
        ngx_http_upstream_rr_peer_t: sockaddr, socklen, name, server, weight, conns, max_conns,
            fails, checked, max_fails, fail_timeout, down, next;
        ngx_http_upstream_server_t: addrs, naddrs;
        ngx_http_upstream_conf_t: upstream, connect_timeout, send_timeout, read_timeout, ignore_headers, next_upstream, intercept_errors;
        ngx_addr_t: sockaddr;
        ngx_http_upstream_t: conf, peer, buffer, headers_in, process_header, finalize_request, uri, resolved, request_bufs, length, schema;
        ngx_http_upstream_headers_in_t: headers, trailers, status_n;
        ngx_peer_connection_t: connection, sockaddr, socklen, name, tries, get, free, notify, data;
        ngx_http_header_t: handler, offset;
        ngx_http_request_body_t: bufs;
        ngx_list_t: part;
        ngx_http_upstream_resolved_t: host, port, no_port;
    }
    with_ssl {
        ngx_peer_connection_t: set_session, save_session;
    }
    sizes {
        ngx_addr_t, ngx_buf_t, ngx_event_t, ngx_http_addr_conf_t, ngx_http_complex_value_t,
        ngx_http_compile_complex_value_t, ngx_http_connection_t, ngx_http_log_ctx_t,
        ngx_http_phase_handler_t, ngx_http_server_name_t, ngx_http_upstream_rr_peer_t, ngx_http_upstream_rr_peers_t,
        ngx_http_upstream_server_t, ngx_log_t, ngx_table_elt_t, ngx_http_upstream_conf_t, ngx_http_request_body_t,
        ngx_open_file_t, ngx_thread_task_t
    }
}

/// The first field that the bindings have at another offset than C has, or the first structure of
/// another size.
pub(in crate::nginx) fn differs() -> Option<&'static str> {
    // SAFETY: a constant of `bits.c`, of which this is the shape.
    let offsets = unsafe { &ngx_http_timer_offsets };
    let differs = OFFSETS.iter().zip(offsets).find(|((name, offset), in_c)| {
        // SAFETY: as above: each entry but the last has a name.
        let same = unsafe { CStr::from_ptr(in_c.name) }.to_bytes() == name.as_bytes();
        !same || *offset != in_c.offset
    });
    differs.map(|((name, _), _)| *name)
}

/// How large nginx has a request.
pub(in crate::nginx) fn request_size() -> usize {
    // SAFETY: a constant of `bits.c`.
    unsafe { ngx_http_timer_request_size }
}
