//! What can be known only once the whole configuration was read: names, and what is inherited.

use std::collections::HashMap;
use std::rc::Rc;

use super::timer::{Definition, Rate};
use super::{
    Fill, MainConf, TimerConf, TimerName, cleanup, fleet, health, keyval, limits, missed, notify,
    state, unhealthy,
};
use crate::TimerModule;
use crate::nginx::conf::Refused;
use crate::nginx::conf::{LocationKind, WhollyRead};
use crate::nginx::escaped;
use crate::nginx::log::Level;
use crate::nginx::run;
use crate::os::{memory, wall_clock};
use crate::schedule::{Every, Jitter, Schedule, Zone};
use crate::state::{Jittered, OverlapPolicy};

/// Turns the definitions into timers and health checks.
///
/// # Errors
///
/// A name is taken already, `$server_name` in it stands for none, a health check has nothing to
/// check, or there is no memory.
pub fn resolve(main: &mut MainConf, read: &WhollyRead<'_>) -> Result<(), Refused> {
    if main.state.is_none() {
        main.state = Some(state::default_path(read.parsing())?);
    }
    fleet::resolve(main, read)?;
    memory::enough_for(main.definitions.len().saturating_mul(EACH))?;
    let host_name = read.parsing().host_name();
    let fills = keyval::resolve(main, read)?;
    let mut seen: HashMap<TimerName, usize> = HashMap::new();
    let mut timers: Vec<TimerConf> = Vec::new();
    for definition in std::mem::take(&mut main.definitions) {
        let timer = timer(definition, main, read, &host_name, &fills)?;
        let first = seen.insert(timer.name.clone(), timers.len());
        if let Some(first) = first.and_then(|first| timers.get(first)) {
            let why = format!("duplicate timer \"{}\", first in {}", timer.name, first.position);
            return Err(Refused::At(timer.position.clone(), why));
        }
        warn(&timer, read);
        if let Some(fill) = &timer.fill {
            fill.zone.filled_by.set(Some(timers.len()));
        }
        timers.push(timer);
    }
    if timers.iter().any(|timer| timer.capture > 0 || timer.fill.is_some()) {
        run::show_responses(read);
    }
    main.timers = Rc::new(timers);
    cleanup::resolve(main, read)?;
    health::resolve(main, read)
}

/// What a timer takes here, its strings included, in bytes.
const EACH: usize = 2048;

fn timer(
    definition: Definition,
    main: &MainConf,
    read: &WhollyRead<'_>,
    host_name: &[u8],
    fills: &[Fill],
) -> Result<TimerConf, Refused> {
    let name = name(&definition, read)?;
    let location = definition.location;
    let inherited = read.configuration::<TimerModule>(location);
    let schedule = match definition.rate {
        Rate::Every { every, offset } => {
            let schedule = match offset {
                Some(offset) => Every::new(every, offset),
                None => Every::spread(every, name.as_str()),
            };
            // Both were looked at when the directive was read.
            let Ok(schedule) = schedule else {
                let why = "invalid \"every\" or \"offset\"".to_owned();
                return Err(Refused::At(definition.position, why));
            };
            Schedule::Every(schedule)
        }
        Rate::Cron { cron, tz } => {
            let inherited = || inherited.and_then(|conf| conf.timezone.clone());
            Schedule::Cron(cron.in_zone(tz.or_else(inherited).unwrap_or_else(Zone::utc)))
        }
    };
    let fleet = definition.fleet.as_deref().map(|word| {
        let unknown = || {
            let why = format!("unknown fleet \"{}\"", escaped(word));
            Refused::At(definition.position.clone(), why)
        };
        fleet::named(main, word).ok_or_else(unknown)
    });
    let fleet = fleet.transpose()?;
    // The hosts of a fleet start a due time together.
    let host_name = if fleet.is_some() { &[] } else { host_name };
    let jitter = Jitter::new(definition.jitter, host_name, name.as_str());
    let host = definition.host.or_else(|| {
        let name = read.server_name(location).filter(|name| is_host(name))?;
        String::from_utf8(name.to_vec()).ok()
    });
    let notify = inherited.and_then(|conf| conf.notify.as_ref());
    let notify = notify::resolve(notify, location, name.as_str(), read)?;
    let fill = inherited.and_then(|conf| fills.get(conf.keyval?)).cloned();
    if fill.is_some() && definition.method.is_head() {
        let why = "\"timer_keyval\" has nothing to take with \"method=HEAD\"".to_owned();
        return Err(Refused::At(definition.position, why));
    }
    let unhealthy_after = inherited.and_then(|conf| conf.unhealthy_after);
    Ok(TimerConf {
        unhealthy_after: unhealthy_after
            .unwrap_or_else(|| unhealthy::default(&schedule, wall_clock())),
        due_times: Jittered { schedule, jitter },
        first: definition.first,
        scheduled: definition.scheduled,
        missed: inherited.and_then(|conf| conf.missed).unwrap_or(missed::DEFAULT),
        overlap: inherited.and_then(|conf| conf.overlap).unwrap_or(OverlapPolicy::Skip),
        retry: inherited.and_then(|conf| conf.retry.clone()).unwrap_or_default(),
        method: definition.method,
        uri: definition.uri,
        written_uri: definition.written_uri,
        host,
        access: definition.access,
        worker: inherited.and_then(|conf| conf.worker).unwrap_or_default(),
        timeout: inherited.and_then(|conf| conf.timeout).unwrap_or(limits::TIMEOUT),
        receivers: std::array::from_fn(|place| notify.get(place).map_or(0, |it| it.what.id)),
        notify,
        capture: inherited.and_then(|conf| conf.capture).unwrap_or(0),
        fill,
        success: inherited.and_then(|conf| conf.success.clone()).unwrap_or_default(),
        fleet,
        position: definition.position,
        name,
        location,
    })
}

/// Not one of the names that stand for any host: `_`, `--`, `!@#`.
fn is_host(server_name: &[u8]) -> bool {
    server_name.iter().any(u8::is_ascii_alphanumeric)
}

/// Says what is permitted and seldom meant.
fn warn(timer: &TimerConf, read: &WhollyRead<'_>) {
    let TimerConf { name, location, position, .. } = timer;
    let log = read.parsing().log();
    if let Schedule::Cron(cron) = &timer.due_times.schedule {
        if let Some(weekday) = cron.or_where_crontab_has_and() {
            log.write(Level::Warn, format_args!(
                "timer \"{name}\": \"{cron}\" is due if either day field fits, in crontab(5) both must, \
                 write \"+{weekday}\" for that, in {position}"
            ));
        }
    }
    if location.kind() == LocationKind::Named && !read.has_content(*location) {
        let location = location.name();
        let location = escaped(&location);
        log.write(Level::Warn, format_args!(
            "timer \"{name}\": location \"{location}\" has no content handler, such as \
             \"proxy_pass\", and no \"return\", \"rewrite\", \"root\" or \"try_files\" in {position}"
        ));
    }
}

fn name(definition: &Definition, read: &WhollyRead<'_>) -> Result<TimerName, Refused> {
    let template = &definition.name;
    let server_name = match read.server_name(definition.location) {
        Some(name) => name,
        None if !template.needs_server_name() => b"",
        None => {
            let word = escaped(template.word());
            let why = format!("timer name \"{word}\" requires a plain first \"server_name\"");
            return Err(Refused::At(definition.position.clone(), why));
        }
    };
    template.resolve(server_name).ok_or_else(|| {
        let (word, server_name) = (escaped(template.word()), escaped(server_name));
        let why = format!("invalid timer name \"{word}\" for server \"{server_name}\"");
        Refused::At(definition.position.clone(), why)
    })
}
