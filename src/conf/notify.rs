//! `timer_notify`.

use std::ffi::CStr;
use std::rc::Rc;

use super::parameters::{Parameters, invalid};
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{
    Arguments, ConfPosition, Context, Location, LocationDirective, Parsing, Refused, WhollyRead,
};
use crate::nginx::escaped;
use crate::nginx::run::{Begin, Uri};
use crate::os::memory::push;
use crate::schedule::stable_hash;
use crate::state::{Event, Events, RECEIVERS, Subscription};

/// `timer_notify uri [on=event,...] [after=number] | off`: who is told of a timer's events.
pub struct TimerNotify;

/// A receiver as its directive says, before the timer's server is known.
#[derive(Clone, Debug)]
pub(super) struct NotifyDefinition {
    uri: Vec<u8>,
    events: Events,
    after: u16,
    position: ConfPosition,
}

/// Who is told of a timer's events.
#[derive(Clone, Debug)]
pub struct Notify {
    /// As it is configured.
    pub receiver: String,
    /// Of which events.
    pub what: Subscription,
    /// The location that is requested, or the server in which it is looked for.
    pub begin: Begin,
    /// What is requested there.
    pub uri: Uri,
}

impl LocationDirective for TimerNotify {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_notify";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        let mut words = parsing.arguments();
        let uri = words.next().unwrap_or_default();
        let parameters = Parameters::read(words, &["on", "after"])?;
        let before = conf.notify.as_deref().map_or(&[][..], Vec::as_slice);
        if uri == b"off" {
            if conf.notify.is_some() {
                return Err(Refused::IsDuplicate);
            }
            if let Some(word) = parsing.arguments().nth(1) {
                return Err(Refused::parameter(word));
            }
            conf.notify = Some(Rc::default());
            return Ok(());
        }
        // An empty list is that of "off".
        if conf.notify.is_some() && before.is_empty() {
            return Err(Refused::IsDuplicate);
        }
        if !matches!(uri, [b'/', ..] | [b'@', _, ..]) {
            let hint = "a path that begins with \"/\", the name of a location that begins with \"@\", or \"off\"";
            return Err(invalid(uri, "timer_notify", "directive", hint));
        }
        if matches!(uri, [b'/', ..]) && uri.contains(&b'$') {
            let hint = "a path without variables: the location may use them";
            return Err(invalid(uri, "timer_notify", "directive", hint));
        }
        if before.iter().any(|other| other.uri == uri) {
            let uri = escaped(uri);
            return Err(Refused::Because(format!(
                "duplicate \"{uri}\" in \"timer_notify\" directive"
            )));
        }
        if before.len() >= RECEIVERS {
            return Err(Refused::Because(format!(
                "too many \"timer_notify\" directives, at most {RECEIVERS} are permitted"
            )));
        }
        let hint = "a list of \"failed\", \"recovered\", \"missed\" and \"success\"";
        let events = parameters.get("on", hint, events)?;
        let after = parameters.get("after", "a number between 1 and 65535", number)?;
        let mut all = before.to_vec();
        let definition = NotifyDefinition {
            uri: uri.to_vec(),
            events: events
                .unwrap_or_else(|| [Event::Failed, Event::Recovered].into_iter().collect()),
            after: after.unwrap_or(1),
            position: parsing.position(),
        };
        push(&mut all, definition)?;
        conf.notify = Some(Rc::new(all));
        Ok(())
    }
}

/// Reads `event,event,...`, each at most once.
fn events(word: &[u8]) -> Option<Events> {
    let mut events = Events::default();
    for word in word.split(|byte| *byte == b',') {
        let event = Event::ALL.into_iter().find(|event| event.name().as_bytes() == word)?;
        if !events.insert(event) {
            return None;
        }
    }
    Some(events)
}

fn number(word: &[u8]) -> Option<u16> {
    let word = std::str::from_utf8(word).ok()?;
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| word.parse().ok()).flatten().filter(|number| *number > 0)
}

/// The receivers of a timer in this location.
///
/// # Errors
///
/// The server has no such location, or the URI is none.
pub(super) fn resolve(
    definitions: Option<&Rc<Vec<NotifyDefinition>>>,
    location: Location,
    timer: &str,
    read: &WhollyRead<'_>,
) -> Result<Vec<Notify>, Refused> {
    let definitions = definitions.map_or(&[][..], |all| all.as_slice());
    let mut all = Vec::new();
    for definition in definitions {
        let NotifyDefinition { uri, events, after, position } = definition;
        let shown = escaped(uri).to_string();
        let (begin, path) = match uri.strip_prefix(b"@") {
            Some(name) => {
                let Some(named) = read.named_location(location, uri) else {
                    let why = format!(
                        "location \"{shown}\" in \"timer_notify\" is not found in the server of timer \"{timer}\""
                    );
                    return Err(Refused::At(position.clone(), why));
                };
                (Begin::Location(named), super::timer::escape(&[b"/", name].concat()))
            }
            None if location.takes(read.parsing().log(), uri) => {
                (Begin::ServerOf(location), uri.clone())
            }
            None => {
                let why = format!("invalid URI \"{shown}\" in \"timer_notify\" directive");
                return Err(Refused::At(position.clone(), why));
            }
        };
        let hash = stable_hash(&[uri]);
        let id = u32::try_from(hash >> 32).unwrap_or(1).max(1);
        let what = Subscription { id, events: *events, after: *after };
        push(&mut all, Notify { receiver: shown, what, begin, uri: Uri::Constant(path) })?;
    }
    Ok(all)
}
