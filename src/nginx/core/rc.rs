//! nginx's return codes, with the type that its functions have (`src/core/ngx_core.h`).

use ngx::core::Status;
use ngx::ffi::ngx_int_t;
use ngx::http::HTTPStatus;

pub(in crate::nginx) const OK: ngx_int_t = Status::NGX_OK.0;
pub(in crate::nginx) const ERROR: ngx_int_t = Status::NGX_ERROR.0;
pub(in crate::nginx) const AGAIN: ngx_int_t = Status::NGX_AGAIN.0;
pub(in crate::nginx) const BUSY: ngx_int_t = Status::NGX_BUSY.0;
pub(in crate::nginx) const DONE: ngx_int_t = Status::NGX_DONE.0;
pub(in crate::nginx) const DECLINED: ngx_int_t = Status::NGX_DECLINED.0;
pub(in crate::nginx) const REQUEST_TIME_OUT: ngx_int_t = http(HTTPStatus::REQUEST_TIME_OUT);
pub(in crate::nginx) const INTERNAL_SERVER_ERROR: ngx_int_t =
    http(HTTPStatus::INTERNAL_SERVER_ERROR);
pub(in crate::nginx) const SERVICE_UNAVAILABLE: ngx_int_t = http(HTTPStatus::SERVICE_UNAVAILABLE);
pub(in crate::nginx) const BAD_GATEWAY: ngx_int_t = http(HTTPStatus::BAD_GATEWAY);
pub(in crate::nginx) const GATEWAY_TIME_OUT: ngx_int_t = http(HTTPStatus::GATEWAY_TIME_OUT);
/// nginx closes the connection without an answer.
pub(in crate::nginx) const CLOSE: ngx_int_t = http(HTTPStatus::CLOSE);

const fn http(status: HTTPStatus) -> ngx_int_t {
    ngx_int_t::from_ne_bytes(status.0.to_ne_bytes())
}
