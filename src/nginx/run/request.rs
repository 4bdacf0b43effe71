//! What is requested in a run.

use std::fmt;

use crate::nginx::conf::location::Location;
use crate::nginx::conf::parsing::Template;

/// An HTTP method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(String);

impl Method {
    /// Reads an upper-case token; `None` if it is none.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let valid = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'-');
        if word.is_empty() || word.len() > 32 || !word.iter().all(valid) {
            return None;
        }
        String::from_utf8(word.to_vec()).ok().map(Self)
    }

    /// Whether a response to it has no body.
    pub fn is_head(&self) -> bool {
        self.0 == "HEAD"
    }

    /// `POST`.
    pub fn post() -> Self {
        Self("POST".to_owned())
    }

    /// `NGX_HTTP_GET` and so on (`src/http/ngx_http_request.h`).
    pub(super) fn code(&self) -> u32 {
        match self.0.as_str() {
            "GET" => ngx::ffi::NGX_HTTP_GET,
            "HEAD" => ngx::ffi::NGX_HTTP_HEAD,
            "POST" => ngx::ffi::NGX_HTTP_POST,
            "PUT" => ngx::ffi::NGX_HTTP_PUT,
            "DELETE" => ngx::ffi::NGX_HTTP_DELETE,
            "MKCOL" => ngx::ffi::NGX_HTTP_MKCOL,
            "COPY" => ngx::ffi::NGX_HTTP_COPY,
            "MOVE" => ngx::ffi::NGX_HTTP_MOVE,
            "OPTIONS" => ngx::ffi::NGX_HTTP_OPTIONS,
            "PROPFIND" => ngx::ffi::NGX_HTTP_PROPFIND,
            "PROPPATCH" => ngx::ffi::NGX_HTTP_PROPPATCH,
            "LOCK" => ngx::ffi::NGX_HTTP_LOCK,
            "UNLOCK" => ngx::ffi::NGX_HTTP_UNLOCK,
            "PATCH" => ngx::ffi::NGX_HTTP_PATCH,
            "TRACE" => ngx::ffi::NGX_HTTP_TRACE,
            _ => ngx::ffi::NGX_HTTP_UNKNOWN,
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(super) fn has_body(&self) -> bool {
        matches!(self.0.as_str(), "POST" | "PUT" | "PATCH")
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for Method {
    fn default() -> Self {
        Self("GET".to_owned())
    }
}

/// Whether the phases that are there for clients are run through: pre-access and access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They are.
    Checked,
    /// They are left out, as nginx does for subrequests.
    LeftOut,
}

/// A request's URI, with its arguments.
#[derive(Clone, Debug)]
pub enum Uri {
    /// The same for each run; known to be valid and to lie in the location.
    Constant(Vec<u8>),
    /// Evaluated for each run.
    Variable(Template),
}

/// Where a request begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// In this location.
    Location(Location),
    /// In the server of this location, in which the location of its URI is looked for.
    ServerOf(Location),
}

/// Where a request's URI has to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the location.
    InLocation,
    /// Anywhere: `proxy_pass` sends it as it is, even if it has a URI of its own.
    Anywhere,
}

/// The request that is made.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its URI.
    pub uri: &'a Uri,
    /// Where that has to lie.
    pub place: Place,
    /// Its `Host` header, none if `None`.
    pub host: Option<&'a str>,
    /// Whether the access phases are run through.
    pub access: Access,
    /// Its other headers, each a name and a value.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// Its body.
    pub body: Option<&'a [u8]>,
}

/// Why a run could not even start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// `worker_connections` are used up.
    NoFreeConnection,
    /// A pool could not be had.
    NoMemory,
    /// The URI that variables made is none.
    InvalidUri,
    /// The URI that variables made is not within the location.
    UriOutside,
    /// The location is not one of the configuration in use.
    ConfigurationGone,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFreeConnection => "no free connection",
            Self::NoMemory => "no memory",
            Self::InvalidUri => "invalid URI",
            Self::UriOutside => "URI is not within the location",
            Self::ConfigurationGone => "configuration is not in use",
        })
    }
}
