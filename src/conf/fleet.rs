//! `timer_fleet`, and `fleet=` of `timer`.

use std::ffi::CStr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::parameters::{Parameters, invalid};
use super::{LocationConf, MainConf, TimerName};
use crate::TimerModule;
use crate::nginx::conf::{
    Arguments, ConfPosition, Context, Location, LocationDirective, LocationKind, Parsing, Refused,
    WhollyRead, parse_time,
};
use crate::nginx::escaped;
use crate::nginx::log::Level;
use crate::nginx::run;
use crate::nginx::upstream::{Altered, altered, watch_connects};
use crate::nth::Nth;
use crate::os::memory::push;
use crate::os::{Secret, SecretError};

/// `timer_fleet name [prefix=key] [ttl=time] [node=name] [user=name password_file=path]`: the enclosing
/// named location leads to the etcd of a fleet.
pub struct TimerFleet;

/// Hosts of which one runs each due time, as configured.
#[derive(Debug)]
pub struct FleetConf {
    /// Its name, unique in the `http` block.
    pub name: TimerName,
    /// What the keys begin with.
    pub prefix: String,
    /// For how long the fleet waits for a host that died in the middle of a run.
    pub ttl: Duration,
    /// What this host is called.
    pub node: String,
    /// With what it makes itself known to etcd, if it has to.
    pub credentials: Option<Credentials>,
    /// The location that leads to etcd.
    pub location: Location,
    /// Where it is defined.
    pub position: ConfPosition,
}

/// A fleet of a configuration.
pub type Fleet = Nth<FleetConf>;

/// A user of etcd.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

const PARAMETERS: [&str; 5] = ["prefix", "ttl", "node", "user", "password_file"];
const PREFIX: &str = "/nginx-timer/";
const TTL: Duration = Duration::from_secs(30);
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// The longest exchange, and the share of the ttl that is longest.
const LONGEST_EXCHANGE: Duration = Duration::from_secs(2);
const EXCHANGES_IN_TTL: u32 = 6;
const LONGEST_NODE: usize = 64;
const LONGEST_PREFIX: usize = 255;
const LONGEST_USER: usize = 255;
/// The least period of its timers.
pub(super) const LEAST_EVERY: Duration = Duration::from_secs(1);

impl FleetConf {
    /// How long an exchange with etcd may take.
    pub fn limit(&self) -> Duration {
        LONGEST_EXCHANGE.min(self.ttl / EXCHANGES_IN_TTL)
    }
}

impl LocationDirective for TimerFleet {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_fleet";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.has_fleet {
            return Err(Refused::IsDuplicate);
        }
        if conf.timer.is_some() {
            return because("\"timer_fleet\" is not allowed in the location of a timer");
        }
        let location = parsing.location();
        if location.kind() != LocationKind::Named {
            return Err(Refused::Because("\"timer_fleet\" requires a named location".to_owned()));
        }
        let mut words = parsing.arguments();
        let word = words.next().unwrap_or_default();
        let name = TimerName::parse(word)
            .ok_or_else(|| Refused::Because(format!("invalid fleet name \"{}\"", escaped(word))))?;
        let parameters = Parameters::read(words, &PARAMETERS)?;
        if let Some(first) = main.fleets.iter().find(|fleet| fleet.name == name) {
            let position = &first.position;
            return Err(Refused::Because(format!(
                "duplicate fleet \"{name}\", first in {position}"
            )));
        }
        let hint = "printable characters without blanks, at most 255";
        let prefix = parameters.get("prefix", hint, |word| text(word, LONGEST_PREFIX))?;
        let ttl = parameters.get("ttl", "between \"10s\" and \"10m\"", |word| {
            parse_time(word).filter(|ttl| (SHORTEST..=LONGEST).contains(ttl))
        })?;
        let hint = "at most 64 of A-Z, a-z, 0-9, \".\", \"_\" and \"-\"";
        let node = parameters.get("node", hint, node)?;
        let fleet = FleetConf {
            name,
            prefix: prefix.unwrap_or_else(|| PREFIX.to_owned()),
            ttl: ttl.unwrap_or(TTL),
            node: node.unwrap_or_else(|| node_of(&parsing.host_name())),
            credentials: credentials(&parameters, parsing)?,
            location,
            position: parsing.position(),
        };
        conf.has_fleet = true;
        // Nobody has it before the configuration was read.
        let fleets = Rc::get_mut(&mut main.fleets).ok_or(Refused::AlreadyLogged)?;
        Ok(push(fleets, fleet)?)
    }
}

fn text(word: &[u8], longest: usize) -> Option<String> {
    let fits = (1..=longest).contains(&word.len()) && word.iter().all(u8::is_ascii_graphic);
    fits.then(|| String::from_utf8(word.to_vec()).ok()).flatten()
}

fn is_of_node(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn node(word: &[u8]) -> Option<String> {
    text(word, LONGEST_NODE).filter(|node| node.bytes().all(is_of_node))
}

/// The host's name, as far as it can be one of a node.
fn node_of(host_name: &[u8]) -> String {
    let node: String = host_name
        .iter()
        .take(LONGEST_NODE)
        .map(|byte| if is_of_node(*byte) { char::from(*byte) } else { '-' })
        .collect();
    if node.is_empty() { "localhost".to_owned() } else { node }
}

fn credentials(
    parameters: &Parameters<'_>,
    parsing: &Parsing<'_>,
) -> Result<Option<Credentials>, Refused> {
    let hint = "printable characters without blanks, at most 255";
    let user = parameters.get("user", hint, |word| text(word, LONGEST_USER))?;
    let path = parameters.get("password_file", "", Some)?;
    let (user, path) = match (user, path) {
        (None, None) => return Ok(None),
        (Some(user), Some(path)) => (user, path),
        _ => return because("\"user\" and \"password_file\" require each other"),
    };
    if path.is_empty() {
        return Err(invalid(path, "password_file", "parameter", "a path"));
    }
    let path = parsing.conf_path(path)?;
    let password = Secret::read(&path).map_err(|why| refused_file(&path, &why))?;
    Ok(Some(Credentials { user, password }))
}

fn refused_file(path: &Path, why: &SecretError) -> Refused {
    let path = path.display();
    let why = match why {
        SecretError::MayBeRead => format!("password file \"{path}\" may be read by others"),
        SecretError::NotOneLine => {
            format!("password file \"{path}\" must have one line, of 1 to 1024 bytes of text")
        }
        SecretError::Failed(call, why) => {
            let errno = why.raw_os_error().unwrap_or(0);
            return Refused::Errno(errno, format!("{call} \"{path}\" failed"));
        }
    };
    Refused::Because(why)
}

fn because<T>(why: &str) -> Result<T, Refused> {
    Err(Refused::Because(why.to_owned()))
}

/// Looks at the locations of the fleets, now that they are complete.
///
/// # Errors
///
/// Something in one of them would change what is sent to etcd or comes from it.
pub(super) fn resolve(main: &MainConf, read: &WhollyRead<'_>) -> Result<(), Refused> {
    for fleet in main.fleets.iter() {
        let FleetConf { name, location, position, .. } = fleet;
        if let Some(what) = not_allowed(*location, read) {
            let why = format!("{what} is not allowed in the location of a fleet");
            return Err(Refused::At(position.clone(), why));
        }
        if !read.has_content(*location) {
            let location = location.name();
            let location = escaped(&location);
            read.parsing().log().write(
                Level::Warn,
                format_args!(
                    "fleet \"{name}\": location \"{location}\" has no content handler, such as \
                     \"proxy_pass\", in {position}"
                ),
            );
        }
    }
    if !main.fleets.is_empty() {
        watch_connects(read)?;
        run::show_responses(read);
    }
    Ok(())
}

/// What would change a request to etcd or its answer, or make another request with the same body.
fn not_allowed(location: Location, read: &WhollyRead<'_>) -> Option<&'static str> {
    if location.has_post_action() {
        return Some("\"post_action\"");
    }
    Some(match altered(location, read)? {
        Altered::Cache => "\"proxy_cache\"",
        Altered::InterceptErrors => "\"proxy_intercept_errors\"",
        Altered::Body => "\"proxy_set_body\"",
        Altered::Method => "\"proxy_method\"",
        Altered::NoHeaders => "\"proxy_pass_request_headers off\"",
        Altered::NoBody => "\"proxy_pass_request_body off\"",
        Altered::NonIdempotent => "\"proxy_next_upstream\" with \"non_idempotent\"",
    })
}

/// The fleet of this name.
pub(super) fn named(main: &MainConf, name: &[u8]) -> Option<Fleet> {
    main.each_fleet().find(|fleet| fleet.name.as_str().as_bytes() == name)
}
