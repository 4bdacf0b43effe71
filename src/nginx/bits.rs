//! The bit-fields of a request.
//!
//! bindgen takes bit-fields to begin where their type is aligned, and loses its way where C has packed
//! them behind a smaller member (BITS-1). So has it been with a request's since nginx 1.29.3: they
//! are read and written in C here, for any nginx. Those of other structures are checked below.

use std::ffi::c_uint;
use std::mem::offset_of;

use nginx_sys::{
    ngx_buf_t, ngx_connection_t, ngx_event_t, ngx_http_core_loc_conf_t, ngx_http_request_t,
    ngx_uint_t, ngx_variable_value_t,
};

macro_rules! get {
    ($($name:ident: $c:ident),* $(,)?) => {
        unsafe extern "C" {
            $(fn $c(r: *const ngx_http_request_t) -> ngx_uint_t;)*
        }
        $(
            /// The bit-field of this name.
            pub(super) fn $name(request: &ngx_http_request_t) -> ngx_uint_t {
                // SAFETY: reads that field of a request that is there.
                unsafe { $c(request) }
            }
        )*
    };
}

macro_rules! set {
    ($($name:ident: $c:ident),* $(,)?) => {
        unsafe extern "C" {
            $(fn $c(r: *mut ngx_http_request_t, value: ngx_uint_t);)*
        }
        $(
            /// Sets the bit-field of this name.
            pub(super) fn $name(request: &mut ngx_http_request_t, value: ngx_uint_t) {
                // SAFETY: writes that field of a request that is there, and nobody else's now.
                unsafe { $c(request, value) }
            }
        )*
    };
}

get! {
    buffered: ngx_http_timer_get_buffered,
    count: ngx_http_timer_get_count,
    header_only: ngx_http_timer_get_header_only,
}

set! {
    set_count: ngx_http_timer_set_count,
    set_http_major: ngx_http_timer_set_http_major,
    set_http_minor: ngx_http_timer_set_http_minor,
    set_http_state: ngx_http_timer_set_http_state,
    set_internal: ngx_http_timer_set_internal,
    set_keepalive: ngx_http_timer_set_keepalive,
    set_limit_rate_after_set: ngx_http_timer_set_limit_rate_after_set,
    set_limit_rate_set: ngx_http_timer_set_limit_rate_set,
    set_logged: ngx_http_timer_set_logged,
    set_stat_reading: ngx_http_timer_set_stat_reading,
    set_stat_writing: ngx_http_timer_set_stat_writing,
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
    ngx_variable_value_t,
);
