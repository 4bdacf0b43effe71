//! `timer`.

use std::ffi::CStr;
use std::iter;
use std::time::Duration;

use super::fleet::LEAST_EVERY;
use super::name::NameTemplate;
use super::parameters::{Parameters, invalid};
use super::{LocationConf, MainConf, timezone};
use crate::TimerModule;
use crate::nginx::conf::{
    Arguments, ConfPosition, Context, LocationDirective, Parsing, Refused, parse_time,
};
use crate::nginx::conf::{Location, LocationKind};
use crate::nginx::escaped;
use crate::nginx::run::{Access, Method, Uri};
use crate::os::memory::push;
use crate::schedule::{Cron, Every, EveryError, Zone};
use crate::state::{First, Scheduled};

/// `timer name every=time | cron=expression ...`: runs the enclosing location on schedule.
pub struct TimerDirective;

/// A timer as its directive says, before the rest of the configuration is known.
pub(super) struct Definition {
    pub(super) name: NameTemplate,
    pub(super) rate: Rate,
    pub(super) jitter: Duration,
    pub(super) first: First,
    pub(super) scheduled: Scheduled,
    pub(super) location: Location,
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// With its variables.
    pub(super) written_uri: String,
    /// `None`: the server's first name, if that is a plain one.
    pub(super) host: Option<String>,
    pub(super) access: Access,
    /// The name of the fleet.
    pub(super) fleet: Option<Vec<u8>>,
    pub(super) position: ConfPosition,
}

/// When it is due, before its name and what it inherits are known.
pub(super) enum Rate {
    Every {
        every: Duration,
        /// `None`: derived from the name.
        offset: Option<Duration>,
    },
    Cron {
        cron: Cron,
        /// `None`: that of `timer_timezone`.
        tz: Option<Zone>,
    },
}

const PARAMETERS: [&str; 12] = [
    "every", "cron", "tz", "offset", "jitter", "first", "uri", "method", "host", "access",
    "enabled", "fleet",
];

impl LocationDirective for TimerDirective {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.timer.is_some() {
            return Err(Refused::IsDuplicate);
        }
        if conf.has_fleet {
            return because("\"timer\" is not allowed in the location of a fleet");
        }
        let mut words = parsing.arguments();
        let name = words.next().unwrap_or_default();
        let name = NameTemplate::parse(name)
            .ok_or_else(|| Refused::Because(format!("invalid timer name \"{}\"", escaped(name))))?;
        quoted_as_a_whole(words.clone())?;
        let parameters = Parameters::read(words, &PARAMETERS)?;

        let rate = rate(&parameters, main)?;
        let (bound, hint) = match &rate {
            Rate::Every { every, .. } => (*every, "a time below \"every\""),
            // It is cut at the next due time.
            Rate::Cron { .. } => (Duration::MAX, "a time"),
        };
        let jitter = parameters
            .get("jitter", hint, |word| parse_time(word).filter(|jitter| *jitter < bound))?;
        let location = parsing.location();
        let given = parameters.get("uri", "", Some)?;
        let uri = match given {
            Some(uri) => given_uri(uri, location, parsing)?,
            None => Uri::Constant(default_uri(location, parsing)?),
        };
        let written_uri = match &uri {
            Uri::Constant(uri) => uri,
            Uri::Variable(_) => given.unwrap_or_default(),
        };

        let first = parameters.get("first", "\"now\" or \"due\"", first)?;
        let fleet = fleet(&parameters, &rate, first)?;

        let definition = Definition {
            name,
            rate,
            jitter: jitter.unwrap_or_default(),
            first: first.unwrap_or(First::Due),
            scheduled: parameters.get("enabled", ON_OFF, enabled)?.unwrap_or(Scheduled::On),
            location,
            method: parameters.get("method", "in upper case", Method::parse)?.unwrap_or_default(),
            written_uri: String::from_utf8_lossy(written_uri).into_owned(),
            uri,
            host: parameters.get("host", "a host name", host)?,
            access: parameters.get("access", ON_OFF, access)?.unwrap_or(Access::LeftOut),
            fleet,
            position: parsing.position(),
        };
        conf.timer = Some(definition.position.clone());
        Ok(push(&mut main.definitions, definition)?)
    }
}

const ON_OFF: &str = "\"on\" or \"off\"";

fn rate(parameters: &Parameters<'_>, main: &MainConf) -> Result<Rate, Refused> {
    let every = parameters.get("every", "between \"10ms\" and \"366d\"", |word| {
        parse_time(word).filter(|every| Every::new(*every, Duration::ZERO).is_ok())
    })?;
    let cron = parameters.get("cron", "", Some)?;
    let tz = parameters.get("tz", "", Some)?;
    let offset = parameters.get("offset", "", Some)?;
    match (every, cron) {
        (None, None) => because("\"timer\" must have \"every\" or \"cron\" parameter"),
        (Some(_), Some(_)) => because("\"timer\" must have only one of \"every\" and \"cron\""),
        (Some(_), None) if tz.is_some() => because("\"tz\" parameter requires \"cron\" parameter"),
        (None, Some(_)) if offset.is_some() => {
            because("\"offset\" parameter requires \"every\" parameter")
        }
        (Some(every), None) => {
            let offset = parameters.get("offset", "a time below \"every\"", |word| {
                parse_time(word)
                    .filter(|offset| Every::new(every, *offset) != Err(EveryError::Offset))
            })?;
            Ok(Rate::Every { every, offset })
        }
        (None, Some(expression)) => {
            let tz = tz.map(|name| timezone::zone(main, name)).transpose()?;
            Ok(Rate::Cron { cron: cron_of(expression)?, tz })
        }
    }
}

/// The name of the fleet: its hosts agree on what has a grid of whole seconds, from the first due time on.
fn fleet(
    parameters: &Parameters<'_>,
    rate: &Rate,
    first: Option<First>,
) -> Result<Option<Vec<u8>>, Refused> {
    let Some(name) = parameters.get("fleet", "", Some)? else { return Ok(None) };
    if matches!(rate, Rate::Every { every, .. } if *every < LEAST_EVERY) {
        return because("\"fleet\" requires \"every\" of 1s or more");
    }
    if first == Some(First::Now) {
        return because("\"first=now\" is not allowed with \"fleet\"");
    }
    Ok(Some(name.to_vec()))
}

fn because<T>(why: &str) -> Result<T, Refused> {
    Err(Refused::Because(why.to_owned()))
}

/// Reads an expression; its zone is not known yet.
fn cron_of(expression: &[u8]) -> Result<Cron, Refused> {
    let shown = escaped(expression);
    let Ok(text) = std::str::from_utf8(expression) else {
        return Err(Refused::Because(format!("invalid cron expression \"{shown}\": not UTF-8")));
    };
    Cron::parse(text, Zone::utc()).map_err(|why| {
        Refused::Because(if why.is_never_due() {
            format!("cron expression \"{shown}\" {why}")
        } else {
            format!("invalid cron expression \"{shown}\": {why}")
        })
    })
}

/// nginx honours a quote only at the beginning of a word: `cron="0 3 * * *"` and `cron=0 3 * * *`
/// arrive in pieces.
fn quoted_as_a_whole<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<(), Refused> {
    // An expression has at most six fields.
    const PIECES: usize = 8;

    let mut words = words.skip_while(|word| !word.starts_with(b"cron="));
    let Some(first) = words.next() else { return Ok(()) };
    let others = words.take_while(|word| !word.contains(&b'=')).take(PIECES);
    let pieces: Vec<_> =
        iter::once(first).chain(others).map(|word| String::from_utf8_lossy(word)).collect();
    if pieces.len() == 1 && !matches!(first.get(5), Some(b'"' | b'\'')) {
        return Ok(());
    }
    let whole = pieces.join(" ").replace(['"', '\''], "");
    Err(Refused::Because(format!("\"cron\" must be quoted as a whole: \"{whole}\"")))
}

fn first(word: &[u8]) -> Option<First> {
    match word {
        b"now" => Some(First::Now),
        b"due" => Some(First::Due),
        _ => None,
    }
}

fn enabled(word: &[u8]) -> Option<Scheduled> {
    match word {
        b"on" => Some(Scheduled::On),
        b"off" => Some(Scheduled::Off),
        _ => None,
    }
}

fn access(word: &[u8]) -> Option<Access> {
    match word {
        b"on" => Some(Access::Checked),
        b"off" => Some(Access::LeftOut),
        _ => None,
    }
}

/// A `Host` header: what nginx itself would take from a client (`ngx_http_validate_host`), without
/// variables.
fn host(word: &[u8]) -> Option<String> {
    const LONGEST: usize = 255;

    let valid = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'$' | b'"' | b'\\');
    let host = std::str::from_utf8(word).ok()?;
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand within brackets.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let in_brackets = name.starts_with('[') && name.ends_with(']');
    let plain = !name.contains([':', '[', ']']);
    let fits = !name.is_empty() && !name.starts_with('.') && word.len() <= LONGEST;
    let port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    (fits && port && (in_brackets || plain) && word.iter().all(valid)).then(|| host.to_owned())
}

fn given_uri(word: &[u8], location: Location, parsing: &mut Parsing<'_>) -> Result<Uri, Refused> {
    if word.contains(&b'$') {
        return parsing.template(word).map(Uri::Variable);
    }
    if location.contains(parsing.log(), word) {
        return Ok(Uri::Constant(word.to_vec()));
    }
    if word.contains(&b' ') {
        return Err(invalid(word, "uri", "parameter", "without blanks, write \"%20\""));
    }
    if !word.starts_with(b"/") {
        return Err(invalid(word, "uri", "parameter", "a path that begins with \"/\""));
    }
    if !location.takes(parsing.log(), word) {
        return Err(invalid(word, "uri", "parameter", "a valid URI"));
    }
    let name = location.name();
    let name = escaped(&name);
    Err(Refused::Because(format!("\"uri\" must be within location \"{name}\"")))
}

/// The location's own name as a URI.
fn default_uri(location: Location, parsing: &Parsing<'_>) -> Result<Vec<u8>, Refused> {
    let name = location.name();
    let uri = match location.kind() {
        LocationKind::Named => escape(&[b"/", name.strip_prefix(b"@").unwrap_or(&name)].concat()),
        LocationKind::Exact | LocationKind::Prefix => escape(&name),
        LocationKind::Regex => Vec::new(),
    };
    if location.contains(parsing.log(), &uri) {
        return Ok(uri);
    }
    let name = escaped(&name);
    Err(Refused::Because(format!("\"timer\" must have \"uri\" parameter in location \"{name}\"")))
}

/// A decoded path as it stands in a request line.
pub(super) fn escape(path: &[u8]) -> Vec<u8> {
    use std::io::Write;

    let mut escaped = Vec::with_capacity(path.len());
    for byte in path {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'?' | b'#') {
            escaped.push(*byte);
        } else {
            // Writing to memory cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
