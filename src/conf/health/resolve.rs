//! What can be known only once the whole configuration was read: groups and tests.

use std::rc::Rc;
use std::time::Duration;

use super::{CheckDefinition, DefinedIn, HealthCheck, Match};
use crate::conf::MainConf;
use crate::nginx::conf::{Opening, Purpose, Refused, WhollyRead};
use crate::nginx::escaped;
use crate::nginx::log::Level;
use crate::nginx::upstream::{Group, Passed, allow_pinning, proxy_uri};
use crate::os::memory::{self, push};

/// What a health check takes here, in bytes.
const EACH: usize = 1024;

/// A check may take as long as the interval, and as long as this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Turns the definitions into health checks.
///
/// # Errors
///
/// There is no group, none with a zone, no such `match`, or no such variable.
pub(in crate::conf) fn resolve(main: &mut MainConf, read: &WhollyRead<'_>) -> Result<(), Refused> {
    // nginx itself would not say where it is used.
    for (variable, position) in std::mem::take(&mut main.required) {
        if !read.has_variable(&variable) {
            let why = format!("unknown \"{}\" variable", escaped(&variable));
            return Err(Refused::At(position, why));
        }
    }
    memory::enough_for(main.health_definitions.len().saturating_mul(EACH))?;
    let mut checks: Vec<HealthCheck> = Vec::new();
    for definition in std::mem::take(&mut main.health_definitions) {
        let position = definition.position.clone();
        let check = check(definition, &main.matches, read);
        push(&mut checks, check.map_err(|why| Refused::At(position, why))?)?;
    }
    tell_apart(&mut checks);
    if !checks.is_empty() {
        allow_pinning(read)?;
    }
    main.health_checks = Rc::new(checks);
    Ok(())
}

/// Checks that ask the same of one group are told apart by where they are defined: the order of
/// the blocks may change, and one of them may go.
fn tell_apart(checks: &mut [HealthCheck]) {
    let resemble = |one: &HealthCheck, other: &HealthCheck| {
        one.group == other.group && one.identity.asks_the_same(&other.identity)
    };
    for number in 0..checks.len() {
        let (before, rest) = checks.split_at_mut(number);
        let Some((check, after)) = rest.split_first_mut() else { return };
        let like_it = |other: &&HealthCheck| resemble(check, other);
        if !before.iter().any(|other| like_it(&other)) && !after.iter().any(|other| like_it(&other))
        {
            continue;
        }
        let (server, location) = (check.location.first_server_name(), check.location.name());
        let same_names = |other: &&HealthCheck| {
            like_it(other)
                && other.identity.defined_in.as_ref().is_some_and(|of_other| {
                    of_other.server == server && of_other.location == location
                })
        };
        let number = before.iter().filter(same_names).count();
        check.identity.defined_in = Some(DefinedIn { server, location, number });
    }
}

fn check(
    definition: CheckDefinition,
    matches: &[(Vec<u8>, Rc<Match>)],
    read: &WhollyRead<'_>,
) -> Result<HealthCheck, String> {
    let (group, longest) = group(&definition, read)?;
    let name = group.name();
    if !group.has_zone() {
        let name = escaped(&name);
        return Err(format!("\"health_check\" requires \"zone\" in upstream \"{name}\""));
    }
    let matching = definition.identity.matching.as_ref().map(|name| {
        let found = matches.iter().find(|(other, _)| other == name);
        let not_found = || format!("match \"{}\" not found", escaped(name));
        found.map(|(_, tests)| Rc::clone(tests)).ok_or_else(not_found)
    });
    let matching = matching.transpose()?;
    if definition.identity.port.is_some() && group.has_unix_servers() {
        return Err("\"port\" is not allowed with \"unix:\" servers".to_owned());
    }
    let location = definition.location;
    let uri = &definition.identity.uri;
    if location.has_alias() && !location.contains(read.parsing().log(), uri) {
        let name = location.name();
        return Err(format!("\"uri\" must be within location \"{}\"", escaped(&name)));
    }
    if let Some(passed) = proxy_uri(location, read) {
        if uri != b"/" && !uri.starts_with(&passed) {
            let passed = escaped(&passed);
            return Err(format!(
                "\"uri\" cannot be sent by this \"proxy_pass\", it must begin with \"{passed}\""
            ));
        }
    }
    let timeout = definition.timeout.unwrap_or_else(|| definition.interval.max(TIMEOUT));
    let server_name = read.server_name(location).map(<[u8]>::to_vec);
    let host = String::from_utf8_lossy(&server_name.unwrap_or(name)).into_owned();

    let identity = definition.identity;
    Ok(HealthCheck {
        group,
        location,
        host,
        uri: identity.uri.clone(),
        interval: definition.interval,
        jitter: definition.jitter,
        fails: definition.fails,
        passes: definition.passes,
        mandatory: definition.mandatory,
        matching,
        port: identity.port,
        timeout,
        waits_less: definition.timeout.is_none()
            && longest.is_some_and(|longest| longest > timeout),
        fail_open: definition.fail_open,
        keepalive_time: definition.keepalive_time,
        kind: identity.kind.clone(),
        identity,
        position: definition.position,
    })
}

/// The group, with the longest of the location's timeouts if the location names it.
fn group(
    definition: &CheckDefinition,
    read: &WhollyRead<'_>,
) -> Result<(Group, Option<Duration>), String> {
    let none = "\"health_check\" requires an upstream group";
    let named = definition.upstream.as_ref().map(|name| {
        let not_found = || format!("upstream \"{}\" not found", escaped(name));
        Group::named(name, read).ok_or_else(not_found)
    });
    let named = named.transpose()?;
    match (Passed::of(definition.location, read), named) {
        (Passed::Group(group, _), Some(named)) if group != named => {
            let (named, group) = (named.name(), group.name());
            let (named, group) = (escaped(&named), escaped(&group));
            Err(format!(
                "invalid value \"{named}\" in \"upstream\" parameter, it must be \"{group}\""
            ))
        }
        (Passed::Group(group, longest), _) => Ok((group, Some(longest))),
        (Passed::Variable, Some(named)) => Ok((named, None)),
        (Passed::Variable, None) => {
            Err(format!("{none}, name it with \"upstream=\" where variables are passed to"))
        }
        (Passed::Implicit | Passed::Nothing, _) => Err(none.to_owned()),
    }
}

/// Tells the one who tests a configuration which checks do not wait for as long as a client would.
pub fn tell_of_timeouts(main: &MainConf, opening: &Opening) {
    if opening.purpose != Purpose::Test {
        return;
    }
    for check in main.health_checks().iter().filter(|check| check.waits_less) {
        let (ms, position) = (check.timeout.as_millis(), &check.position);
        check.location.log().write(Level::Notice, format_args!(
            "\"health_check\" without \"timeout\" waits for {ms}ms, which is less than the timeouts \
             of its location, in {position}"
        ));
    }
}
