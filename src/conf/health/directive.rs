//! `health_check`.

use std::ffi::CStr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{CheckIdentity, Kind, Mandatory};
use crate::TimerModule;
use crate::conf::parameters::{Parameters, number};
use crate::conf::{LocationConf, MainConf};
use crate::nginx::conf::{
    Arguments, ConfPosition, Context, Location, LocationDirective, Parsing, Refused, parse_time,
};
use crate::os::memory::push;

/// `health_check [parameter ...]`: checks the servers of the group that the enclosing location
/// passes to.
pub struct HealthCheckDirective;

/// A health check as its directive says, before the rest of the configuration is known.
#[derive(Debug)]
pub(in crate::conf) struct CheckDefinition {
    pub(super) location: Location,
    pub(super) interval: Duration,
    pub(super) jitter: Duration,
    pub(super) fails: NonZeroU32,
    pub(super) passes: NonZeroU32,
    pub(super) mandatory: Mandatory,
    /// `None`: derived from the interval.
    pub(super) timeout: Option<Duration>,
    /// The group, where the location passes to a variable.
    pub(super) upstream: Option<Vec<u8>>,
    pub(super) fail_open: u8,
    pub(super) keepalive_time: Option<Duration>,
    pub(super) identity: CheckIdentity,
    pub(super) position: ConfPosition,
}

const PARAMETERS: [&str; 14] = [
    "interval",
    "jitter",
    "fails",
    "passes",
    "uri",
    "match",
    "port",
    "timeout",
    "upstream",
    "fail_open",
    "keepalive_time",
    "type",
    "grpc_service",
    "grpc_status",
];

/// Without values.
const MANDATORY: &str = "mandatory";
const PERSISTENT: &str = "persistent";

const INTERVAL: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const MOST: u32 = 1_000_000;
/// The last status of a call that gRPC has.
const GRPC_STATUSES: u32 = 16;

impl LocationDirective for HealthCheckDirective {
    type Module = TimerModule;
    const NAME: &'static CStr = c"health_check";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::Any;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        let flag = |word: &[u8]| word == MANDATORY.as_bytes() || word == PERSISTENT.as_bytes();
        let words = parsing.arguments();
        let parameters = Parameters::read(words.clone().filter(|word| !flag(word)), &PARAMETERS)?;
        let mandatory = mandatory(words.filter(|word| flag(word)))?;
        let kind = kind(&parameters)?;

        let location = parsing.location();
        let time = |word| parse_time(word).filter(|time| *time <= LONGEST);
        let interval = parameters.get("interval", "between \"10ms\" and \"366d\"", |word| {
            time(word).filter(|interval| *interval >= SHORTEST)
        })?;
        let jitter = parameters.get("jitter", "a time", time)?;
        let above_0 = |word| time(word).filter(|time| !time.is_zero());
        let identity = CheckIdentity {
            uri: uri(&parameters, location, parsing)?,
            port: parameters.get("port", "between 1 and 65535", |word| {
                number(word).filter(|port: &u16| *port > 0)
            })?,
            matching: parameters.get("match", "", |word| Some(word.to_vec()))?,
            kind,
            defined_in: None,
        };
        let definition = CheckDefinition {
            location,
            interval: interval.unwrap_or(INTERVAL),
            jitter: jitter.unwrap_or_default(),
            fails: count(&parameters, "fails")?,
            passes: count(&parameters, "passes")?,
            mandatory,
            timeout: parameters.get("timeout", "a time above 0", above_0)?,
            upstream: parameters.get("upstream", "", |word| Some(word.to_vec()))?,
            fail_open: parameters
                .get("fail_open", "between 0 and 100", |word| {
                    number(word).filter(|percent: &u8| *percent <= 100)
                })?
                .unwrap_or(0),
            keepalive_time: parameters.get("keepalive_time", "a time above 0", above_0)?,
            identity,
            position: parsing.position(),
        };
        if conf.health_checks.iter().any(|other| other.asks_the_same(&definition.identity)) {
            return Err(Refused::Because("duplicate health_check".to_owned()));
        }
        push(&mut conf.health_checks, definition.identity.clone())?;
        Ok(push(&mut main.health_definitions, definition)?)
    }
}

/// Reads `mandatory` and `persistent`.
fn mandatory<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Mandatory, Refused> {
    let mut seen: Vec<&[u8]> = Vec::new();
    for word in words {
        if seen.contains(&word) {
            let word = String::from_utf8_lossy(word);
            return Err(Refused::Because(format!("duplicate \"{word}\" parameter")));
        }
        seen.push(word);
    }
    let has = |name: &str| seen.contains(&name.as_bytes());
    match (has(MANDATORY), has(PERSISTENT)) {
        (false, false) => Ok(Mandatory::No),
        (true, false) => Ok(Mandatory::Yes),
        (true, true) => Ok(Mandatory::Persistent),
        (false, true) => because("\"persistent\" requires \"mandatory\""),
    }
}

/// Reads `type=grpc` and what belongs to it.
fn kind(parameters: &Parameters<'_>) -> Result<Kind, Refused> {
    let is_grpc = |word: &[u8]| (word == b"grpc").then_some(());
    let grpc = parameters.get("type", "\"grpc\"", is_grpc)?.is_some();
    let service = parameters
        .get("grpc_service", "a name", |word| std::str::from_utf8(word).ok().map(str::to_owned))?;
    let status = parameters.get("grpc_status", "between 0 and 16", |word| {
        number(word).filter(|status: &u32| *status <= GRPC_STATUSES)
    })?;
    if !grpc {
        if service.is_some() || status.is_some() {
            return because("\"grpc_service\" and \"grpc_status\" require \"type=grpc\"");
        }
        return Ok(Kind::Http);
    }
    if parameters.has("uri") || parameters.has("match") {
        return because("\"uri\" and \"match\" are not allowed with \"type=grpc\"");
    }
    Ok(Kind::Grpc { service: service.unwrap_or_default(), status })
}

fn count(parameters: &Parameters<'_>, name: &str) -> Result<NonZeroU32, Refused> {
    let count = parameters.get(name, "between 1 and 1000000", |word| {
        number(word).filter(|count: &NonZeroU32| count.get() <= MOST)
    })?;
    Ok(count.unwrap_or(NonZeroU32::MIN))
}

/// The URI of the requests: it need not lie in the location.
fn uri(
    parameters: &Parameters<'_>,
    location: Location,
    parsing: &Parsing<'_>,
) -> Result<Vec<u8>, Refused> {
    let valid = |word: &[u8]| {
        (word.starts_with(b"/") && location.takes(parsing.log(), word)).then(|| word.to_vec())
    };
    let uri = parameters.get("uri", "a path that begins with \"/\"", valid)?;
    Ok(uri.unwrap_or_else(|| b"/".to_vec()))
}

fn because<T>(why: &str) -> Result<T, Refused> {
    Err(Refused::Because(why.to_owned()))
}
