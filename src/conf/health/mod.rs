//! `health_check` and `match`.

mod directive;
mod match_block;
mod resolve;

use std::fmt;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

pub(super) use directive::CheckDefinition;
pub use directive::HealthCheckDirective;
pub use match_block::MatchDirective;
pub(super) use resolve::resolve;
pub use resolve::tell_of_timeouts;

use crate::health::matching;
use crate::nginx::conf::{ConfPosition, Location, Regex, Variable};
use crate::nginx::upstream::Group;

/// The tests of a `match` block.
pub type Match = matching::MatchTests<Regex, Variable>;

impl matching::Pattern for Regex {
    fn is_match(&self, text: &[u8]) -> Option<bool> {
        Self::is_match(*self, text)
    }
}

/// A health check, as configured.
#[derive(Debug)]
pub struct HealthCheck {
    /// The group whose servers it checks; it has a zone.
    pub group: Group,
    /// The location that it runs.
    pub location: Location,
    /// The `Host` of its requests.
    pub host: String,
    /// The URI of its requests.
    pub uri: Vec<u8>,
    /// From the start of one check of a server to the start of the next.
    pub interval: Duration,
    /// Each check is delayed by a random time below this.
    pub jitter: Duration,
    /// Failures in a row until a server is unhealthy.
    pub fails: NonZeroU32,
    /// Passes in a row until it is healthy again.
    pub passes: NonZeroU32,
    /// What happens to a server that is new.
    pub mandatory: Mandatory,
    /// What a response must pass: by default, its status is 2xx or 3xx.
    pub matching: Option<Rc<Match>>,
    /// The port to connect to instead of the server's.
    pub port: Option<u16>,
    /// How long a check may take.
    pub timeout: Duration,
    /// Whether the location's own timeouts are longer, and no other was asked for.
    waits_less: bool,
    /// The share of usable servers, in percent, below which our marks are lifted from all.
    pub fail_open: u8,
    /// How long connections of checks are kept, if they are.
    pub keepalive_time: Option<Duration>,
    /// What is asked.
    pub kind: Kind,
    /// What tells it apart from the other checks of its group, at a reload too.
    pub identity: CheckIdentity,
    /// Where it is defined.
    pub position: ConfPosition,
}

/// What happens to a server that is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mandatory {
    /// It is taken for healthy.
    #[default]
    No,
    /// It gets no client request before its first check.
    Yes,
    /// The same, but not after a reload if it was healthy before.
    Persistent,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The URI.
    Http,
    /// The health of a gRPC service.
    Grpc {
        /// Its name; empty for the whole server.
        service: String,
        /// A status that passes, too.
        status: Option<u32>,
    },
}

/// What tells a check apart from the other checks of its group: what it asks, of which port, and by
/// which tests; and where it is defined, if others ask the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckIdentity {
    uri: Vec<u8>,
    port: Option<u16>,
    matching: Option<Vec<u8>>,
    kind: Kind,
    defined_in: Option<DefinedIn>,
}

/// Where a check is defined that others resemble.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DefinedIn {
    /// The first name of the server.
    server: Vec<u8>,
    /// The name of the location.
    location: Vec<u8>,
    /// Its number among those that these do not tell apart either.
    number: usize,
}

impl CheckIdentity {
    /// The same as bytes, which no other identity has.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut part = |part: &[u8]| {
            bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        part(&self.uri);
        part(&self.port.unwrap_or(0).to_le_bytes());
        match &self.matching {
            Some(name) => part(name),
            None => part(b""),
        }
        match &self.kind {
            Kind::Http => part(b"http"),
            Kind::Grpc { service, status } => {
                part(b"grpc");
                part(service.as_bytes());
                part(status.map(|status| status.to_string()).unwrap_or_default().as_bytes());
            }
        }
        if let Some(DefinedIn { server, location, number }) = &self.defined_in {
            part(server);
            part(location);
            part(&u64::try_from(*number).unwrap_or(u64::MAX).to_le_bytes());
        }
        bytes
    }

    /// Whether both ask the same, wherever they are defined.
    fn asks_the_same(&self, other: &Self) -> bool {
        self.uri == other.uri
            && self.port == other.port
            && self.matching == other.matching
            && self.kind == other.kind
    }
}

/// As people tell checks of one group apart: `uri=/health port=8081 match=ok`.
impl fmt::Display for CheckIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Http => write!(f, "uri={}", String::from_utf8_lossy(&self.uri))?,
            Kind::Grpc { service, .. } if service.is_empty() => f.write_str("type=grpc")?,
            Kind::Grpc { service, .. } => write!(f, "type=grpc grpc_service={service}")?,
        }
        if let Some(port) = self.port {
            write!(f, " port={port}")?;
        }
        if let Some(name) = &self.matching {
            write!(f, " match={}", String::from_utf8_lossy(name))?;
        }
        Ok(())
    }
}
