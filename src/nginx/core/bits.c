/*
 * The bit-fields of a request and what follows them, for bits.rs: where the compiler that builds
 * nginx has put them. And the offsets of all other fields that are used, to be compared.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ngx_thread_pool.h>


#define GET(field)                                                            \
    ngx_uint_t                                                                \
    ngx_http_timer_get_##field(const ngx_http_request_t *r)                   \
    {                                                                         \
        return r->field;                                                      \
    }

#define SET(field)                                                            \
    void                                                                      \
    ngx_http_timer_set_##field(ngx_http_request_t *r, ngx_uint_t value)       \
    {                                                                         \
        r->field = value;                                                     \
    }


#define GET_POINTER(field)                                                    \
    u_char *                                                                  \
    ngx_http_timer_get_##field(const ngx_http_request_t *r)                   \
    {                                                                         \
        return r->field;                                                      \
    }

#define SET_POINTER(field)                                                    \
    void                                                                      \
    ngx_http_timer_set_##field(ngx_http_request_t *r, u_char *value)          \
    {                                                                         \
        r->field = value;                                                     \
    }


GET(blocked)
GET(buffered)
GET(complex_uri)
GET(count)
GET(header_only)
GET(header_sent)
GET(internal)
GET(quoted_uri)
GET(valid_unparsed_uri)

SET(aio)
SET(blocked)
SET(count)
SET(error_page)
SET(header_sent)
SET(http_major)
SET(http_minor)
SET(http_state)
SET(internal)
SET(keepalive)
SET(limit_rate_after_set)
SET(limit_rate_set)
SET(logged)
SET(post_action)
SET(request_body_in_file_only)
SET(stat_reading)
SET(stat_writing)
SET(uri_changes)
SET(valid_location)
SET(valid_unparsed_uri)

GET_POINTER(args_start)
GET_POINTER(host_end)
GET_POINTER(host_start)
GET_POINTER(uri_end)

SET_POINTER(header_end)
SET_POINTER(header_name_end)
SET_POINTER(header_name_start)
SET_POINTER(header_start)
SET_POINTER(uri_end)
SET_POINTER(uri_start)


typedef struct {
    const char  *name;
    size_t       offset;
} ngx_http_timer_offset_t;


#define FIELD(structure, field)                                               \
    { #structure "." #field, offsetof(structure, field) }

#define SIZE(structure)                                                       \
    { #structure, sizeof(structure) }


/* as in bits.rs, in the same order */

const ngx_http_timer_offset_t  ngx_http_timer_offsets[] = {
    FIELD(ngx_connection_t, data),
    FIELD(ngx_connection_t, read),
    FIELD(ngx_connection_t, write),
    FIELD(ngx_connection_t, fd),
    FIELD(ngx_connection_t, recv),
    FIELD(ngx_connection_t, send),
    FIELD(ngx_connection_t, recv_chain),
    FIELD(ngx_connection_t, send_chain),
    FIELD(ngx_connection_t, sent),
    FIELD(ngx_connection_t, log),
    FIELD(ngx_connection_t, pool),
    FIELD(ngx_connection_t, sockaddr),
    FIELD(ngx_connection_t, socklen),
    FIELD(ngx_connection_t, addr_text),
    FIELD(ngx_connection_t, local_sockaddr),
    FIELD(ngx_connection_t, local_socklen),
    FIELD(ngx_connection_t, buffer),
    FIELD(ngx_connection_t, number),
    FIELD(ngx_connection_t, start_time),
    FIELD(ngx_connection_t, requests),
    FIELD(ngx_event_t, data),
    FIELD(ngx_event_t, handler),
    FIELD(ngx_event_t, log),
    FIELD(ngx_event_t, timer),
    FIELD(ngx_event_t, queue),
    FIELD(ngx_http_request_t, connection),
    FIELD(ngx_http_request_t, ctx),
    FIELD(ngx_http_request_t, main_conf),
    FIELD(ngx_http_request_t, srv_conf),
    FIELD(ngx_http_request_t, loc_conf),
    FIELD(ngx_http_request_t, read_event_handler),
    FIELD(ngx_http_request_t, write_event_handler),
    FIELD(ngx_http_request_t, pool),
    FIELD(ngx_http_request_t, headers_in),
    FIELD(ngx_http_request_t, headers_out),
    FIELD(ngx_http_request_t, method),
    FIELD(ngx_http_request_t, http_version),
    FIELD(ngx_http_request_t, request_line),
    FIELD(ngx_http_request_t, uri),
    FIELD(ngx_http_request_t, args),
    FIELD(ngx_http_request_t, unparsed_uri),
    FIELD(ngx_http_request_t, method_name),
    FIELD(ngx_http_request_t, http_protocol),
    FIELD(ngx_http_request_t, main),
    FIELD(ngx_http_request_t, postponed),
    FIELD(ngx_http_request_t, phase_handler),
    FIELD(ngx_http_request_t, content_handler),
    FIELD(ngx_http_request_t, err_status),
    FIELD(ngx_http_request_t, log_handler),
    FIELD(ngx_http_request_t, cleanup),
    FIELD(ngx_http_request_t, upstream),
    FIELD(ngx_http_request_t, request_body),
    FIELD(ngx_http_headers_in_t, headers),
    FIELD(ngx_http_headers_in_t, host),
    FIELD(ngx_http_headers_in_t, server),
    FIELD(ngx_http_headers_in_t, content_length_n),
    FIELD(ngx_http_headers_out_t, headers),
    FIELD(ngx_http_headers_out_t, status),
    FIELD(ngx_http_headers_out_t, content_type),
    FIELD(ngx_http_headers_out_t, content_type_len),
    FIELD(ngx_http_headers_out_t, content_type_lowcase),
    FIELD(ngx_http_headers_out_t, content_length_n),
    FIELD(ngx_buf_t, pos),
    FIELD(ngx_buf_t, last),
    FIELD(ngx_buf_t, file_pos),
    FIELD(ngx_buf_t, file_last),
    FIELD(ngx_buf_t, start),
    FIELD(ngx_buf_t, end),
    FIELD(ngx_buf_t, file),
    FIELD(ngx_http_core_loc_conf_t, name),
    FIELD(ngx_http_core_loc_conf_t, loc_conf),
    FIELD(ngx_http_core_loc_conf_t, handler),
    FIELD(ngx_http_core_loc_conf_t, send_timeout),
    FIELD(ngx_http_core_loc_conf_t, send_lowat),
    FIELD(ngx_http_core_loc_conf_t, post_action),
    FIELD(ngx_http_core_loc_conf_t, alias),
    FIELD(ngx_http_core_loc_conf_t, log_subrequest),
    FIELD(ngx_http_core_loc_conf_t, error_log),
    FIELD(ngx_http_core_srv_conf_t, server_names),
    FIELD(ngx_http_core_srv_conf_t, ctx),
    FIELD(ngx_http_core_srv_conf_t, server_name),
    FIELD(ngx_http_core_srv_conf_t, connection_pool_size),
    FIELD(ngx_http_core_srv_conf_t, merge_slashes),
    FIELD(ngx_http_core_main_conf_t, phases),
    FIELD(ngx_http_core_main_conf_t, phase_engine),
    FIELD(ngx_http_core_main_conf_t, headers_in_hash),
    FIELD(ngx_http_conf_ctx_t, main_conf),
    FIELD(ngx_http_conf_ctx_t, srv_conf),
    FIELD(ngx_http_conf_ctx_t, loc_conf),
    FIELD(ngx_http_connection_t, addr_conf),
    FIELD(ngx_http_connection_t, conf_ctx),
    FIELD(ngx_http_addr_conf_t, default_server),
    FIELD(ngx_http_log_ctx_t, connection),
    FIELD(ngx_http_log_ctx_t, request),
    FIELD(ngx_http_log_ctx_t, current_request),
    FIELD(ngx_http_phase_handler_t, checker),
    FIELD(ngx_http_phase_handler_t, handler),
    FIELD(ngx_http_phase_handler_t, next),
    FIELD(ngx_http_variable_t, get_handler),
    FIELD(ngx_http_compile_complex_value_t, cf),
    FIELD(ngx_http_compile_complex_value_t, value),
    FIELD(ngx_http_compile_complex_value_t, complex_value),
    FIELD(ngx_variable_value_t, data),
    FIELD(ngx_table_elt_t, hash),
    FIELD(ngx_table_elt_t, key),
    FIELD(ngx_table_elt_t, value),
    FIELD(ngx_table_elt_t, lowcase_key),
    FIELD(ngx_list_part_t, elts),
    FIELD(ngx_list_part_t, nelts),
    FIELD(ngx_list_part_t, next),
    FIELD(ngx_array_t, elts),
    FIELD(ngx_array_t, nelts),
    FIELD(ngx_pool_t, log),
    FIELD(ngx_pool_cleanup_t, handler),
    FIELD(ngx_pool_cleanup_t, data),
    FIELD(ngx_log_t, log_level),
    FIELD(ngx_log_t, connection),
    FIELD(ngx_log_t, handler),
    FIELD(ngx_log_t, data),
    FIELD(ngx_log_t, action),
    FIELD(ngx_log_t, writer),
    FIELD(ngx_log_t, wdata),
    FIELD(ngx_log_t, next),
    FIELD(ngx_cycle_t, conf_ctx),
    FIELD(ngx_cycle_t, pool),
    FIELD(ngx_cycle_t, log),
    FIELD(ngx_cycle_t, free_connection_n),
    FIELD(ngx_cycle_t, reusable_connections_n),
    FIELD(ngx_cycle_t, hostname),
    FIELD(ngx_cycle_t, prefix),
    FIELD(ngx_cycle_t, modules),
    FIELD(ngx_cycle_t, paths),
    FIELD(ngx_cycle_t, open_files),
    FIELD(ngx_cycle_t, conf_file),
    FIELD(ngx_cycle_t, conf_prefix),
    FIELD(ngx_core_conf_t, master),
    FIELD(ngx_core_conf_t, worker_processes),
    FIELD(ngx_core_conf_t, user),
    FIELD(ngx_core_conf_t, group),
    FIELD(ngx_core_conf_t, pid),
    FIELD(ngx_core_conf_t, oldpid),
    FIELD(ngx_path_t, name),
    FIELD(ngx_path_t, manager),
    FIELD(ngx_open_file_t, fd),
    FIELD(ngx_http_cleanup_t, handler),
    FIELD(ngx_http_cleanup_t, data),
    { "ngx_event_conf_t.use_", offsetof(ngx_event_conf_t, use) },
    FIELD(ngx_event_module_t, actions),
    FIELD(ngx_event_actions_t, notify),
    FIELD(ngx_thread_task_t, next),
    FIELD(ngx_thread_task_t, ctx),
    FIELD(ngx_thread_task_t, handler),
    FIELD(ngx_thread_task_t, event),
    FIELD(ngx_conf_t, args),
    FIELD(ngx_conf_t, cycle),
    FIELD(ngx_conf_t, pool),
    FIELD(ngx_conf_t, log),
    FIELD(ngx_conf_t, ctx),
    FIELD(ngx_conf_t, conf_file),
    FIELD(ngx_conf_t, handler),
    FIELD(ngx_conf_t, handler_conf),
    FIELD(ngx_conf_file_t, file),
    FIELD(ngx_conf_file_t, line),
    FIELD(ngx_shm_zone_t, data),
    FIELD(ngx_shm_zone_t, init),
    FIELD(ngx_module_t, ctx_index),
    FIELD(ngx_module_t, name),
    FIELD(ngx_http_upstream_main_conf_t, upstreams),
    FIELD(ngx_http_upstream_srv_conf_t, peer),
    FIELD(ngx_http_upstream_srv_conf_t, servers),
    FIELD(ngx_http_upstream_srv_conf_t, flags),
    FIELD(ngx_http_upstream_srv_conf_t, host),
    FIELD(ngx_http_upstream_srv_conf_t, port),
    FIELD(ngx_http_upstream_peer_t, data),
    FIELD(ngx_http_upstream_peer_t, init),
    FIELD(ngx_http_upstream_rr_peers_t, number),
    FIELD(ngx_http_upstream_rr_peers_t, tries),
    FIELD(ngx_http_upstream_rr_peers_t, next),
    FIELD(ngx_http_upstream_rr_peers_t, peer),
    FIELD(ngx_http_upstream_rr_peer_t, sockaddr),
    FIELD(ngx_http_upstream_rr_peer_t, socklen),
    FIELD(ngx_http_upstream_rr_peer_t, name),
    FIELD(ngx_http_upstream_rr_peer_t, server),
    FIELD(ngx_http_upstream_rr_peer_t, weight),
    FIELD(ngx_http_upstream_rr_peer_t, conns),
    FIELD(ngx_http_upstream_rr_peer_t, max_conns),
    FIELD(ngx_http_upstream_rr_peer_t, fails),
    FIELD(ngx_http_upstream_rr_peer_t, checked),
    FIELD(ngx_http_upstream_rr_peer_t, max_fails),
    FIELD(ngx_http_upstream_rr_peer_t, fail_timeout),
    FIELD(ngx_http_upstream_rr_peer_t, down),
    FIELD(ngx_http_upstream_rr_peer_t, next),
    FIELD(ngx_http_upstream_server_t, addrs),
    FIELD(ngx_http_upstream_server_t, naddrs),
    FIELD(ngx_http_upstream_conf_t, upstream),
    FIELD(ngx_http_upstream_conf_t, connect_timeout),
    FIELD(ngx_http_upstream_conf_t, send_timeout),
    FIELD(ngx_http_upstream_conf_t, read_timeout),
    FIELD(ngx_http_upstream_conf_t, ignore_headers),
    FIELD(ngx_http_upstream_conf_t, next_upstream),
    FIELD(ngx_http_upstream_conf_t, intercept_errors),
    FIELD(ngx_addr_t, sockaddr),
    FIELD(ngx_http_upstream_t, conf),
    FIELD(ngx_http_upstream_t, peer),
    FIELD(ngx_http_upstream_t, buffer),
    FIELD(ngx_http_upstream_t, headers_in),
    FIELD(ngx_http_upstream_t, process_header),
    FIELD(ngx_http_upstream_t, finalize_request),
    FIELD(ngx_http_upstream_t, uri),
    FIELD(ngx_http_upstream_t, resolved),
    FIELD(ngx_http_upstream_t, request_bufs),
    FIELD(ngx_http_upstream_t, length),
    FIELD(ngx_http_upstream_t, schema),
    FIELD(ngx_http_upstream_headers_in_t, headers),
    FIELD(ngx_http_upstream_headers_in_t, trailers),
    FIELD(ngx_http_upstream_headers_in_t, status_n),
    FIELD(ngx_peer_connection_t, connection),
    FIELD(ngx_peer_connection_t, sockaddr),
    FIELD(ngx_peer_connection_t, socklen),
    FIELD(ngx_peer_connection_t, name),
    FIELD(ngx_peer_connection_t, tries),
    FIELD(ngx_peer_connection_t, get),
    FIELD(ngx_peer_connection_t, free),
    FIELD(ngx_peer_connection_t, notify),
    FIELD(ngx_peer_connection_t, data),
    FIELD(ngx_http_header_t, handler),
    FIELD(ngx_http_header_t, offset),
    FIELD(ngx_http_request_body_t, bufs),
    FIELD(ngx_list_t, part),
    FIELD(ngx_http_upstream_resolved_t, host),
    FIELD(ngx_http_upstream_resolved_t, port),
    FIELD(ngx_http_upstream_resolved_t, no_port),

#if (NGX_SSL || NGX_COMPAT)
    FIELD(ngx_peer_connection_t, set_session),
    FIELD(ngx_peer_connection_t, save_session),
#endif

    SIZE(ngx_addr_t),
    SIZE(ngx_buf_t),
    SIZE(ngx_event_t),
    SIZE(ngx_http_addr_conf_t),
    SIZE(ngx_http_complex_value_t),
    SIZE(ngx_http_compile_complex_value_t),
    SIZE(ngx_http_connection_t),
    SIZE(ngx_http_log_ctx_t),
    SIZE(ngx_http_phase_handler_t),
    SIZE(ngx_http_server_name_t),
    SIZE(ngx_http_upstream_rr_peer_t),
    SIZE(ngx_http_upstream_rr_peers_t),
    SIZE(ngx_http_upstream_server_t),
    SIZE(ngx_log_t),
    SIZE(ngx_table_elt_t),
    SIZE(ngx_http_upstream_conf_t),
    SIZE(ngx_http_request_body_t),
    SIZE(ngx_open_file_t),
    SIZE(ngx_thread_task_t),

    { NULL, 0 }
};

const size_t  ngx_http_timer_request_size = sizeof(ngx_http_request_t);


/* the bit-fields of a TLS connection follow a character, too (BITS-1) */

void
ngx_http_timer_end_quietly(ngx_connection_t *c)
{
#if (NGX_HTTP_SSL)
    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;
        c->ssl->no_send_shutdown = 1;
    }
#endif
}
