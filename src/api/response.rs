//! Responses, with what all of them have in common.

use std::borrow::Cow;

use serde::Serialize;

use super::json;
use super::piece::Then;
use crate::nginx::http::response::{Answer, Body, More, Pieces, Response};

/// The types of what is sent.
pub(super) const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A response with the headers that all of them have.
pub(super) fn response(status: u16, content_type: &'static str, body: Body) -> Response {
    let headers = vec![
        ("Cache-Control", Cow::Borrowed("no-store")),
        ("X-Content-Type-Options", Cow::Borrowed("nosniff")),
    ];
    Response { status, content_type, headers, body }
}

/// A complete text.
pub(super) fn text(status: u16, text: String) -> Answer {
    Answer::Now(response(status, TEXT, Body::Whole(text.into_bytes().into())))
}

/// A complete JSON value.
pub(super) fn value(status: u16, value: &impl Serialize) -> Response {
    let mut body = Vec::new();
    json::write(value, &mut body);
    body.push(b'\n');
    response(status, JSON, Body::Whole(body.into()))
}

/// The JSON of an error.
pub(super) fn error(status: u16, why: &str) -> Response {
    #[derive(Serialize)]
    struct Error<'a> {
        error: &'a str,
    }
    value(status, &Error { error: why })
}

/// Nothing is there.
pub(super) fn not_found() -> Response {
    error(404, "not found")
}

/// The method is not one of `allowed`; `why` says what to do.
pub(super) fn not_allowed(allowed: &'static str, why: &str) -> Response {
    let mut response = error(405, &format!("method not allowed, {why}"));
    response.headers.push(("Allow", allowed.into()));
    response
}

/// A body made piece by piece, by a function that appends one.
pub(super) fn body_by(write: impl FnMut(&mut Vec<u8>) -> Then + 'static) -> Body {
    Body::Pieces(Box::new(By(write)))
}

struct By<F>(F);

impl<F: FnMut(&mut Vec<u8>) -> Then> Pieces for By<F> {
    fn write(&mut self, piece: &mut Vec<u8>) -> More {
        match (self.0)(piece) {
            Then::More => More::Yes,
            Then::MoreAfter(after) => More::After(after),
            Then::End => More::No,
            Then::Broken => More::Broken,
        }
    }
}
