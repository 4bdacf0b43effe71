//! `keyval_zone`, `keyval` and `timer_keyval`.

use std::cell::{Cell, OnceCell};
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::parameters::{Parameters, number};
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::keyval::{Age, Kind, Room, Seen, Segment};
use crate::nginx::conf::{
    Arguments, ConfPosition, Context, HttpDirective, Location, LocationDirective, Lookup, Parsing,
    Refused, SharedZone, ValueRoom, WhollyRead, page_size, parse_size, parse_time,
};
use crate::nginx::escaped;
use crate::os::boot_time;
use crate::os::file::directory_of;
use crate::os::memory::{NoMemory, push};

/// `keyval_zone zone=name:size [state=file] [timeout=time] [type=string|ip|prefix]`: memory for
/// key-value pairs.
pub struct KeyvalZoneDirective;

/// `keyval key $variable zone=name`: a variable with the value that a zone has for a key.
pub struct KeyvalDirective;

/// `timer_keyval zone [min=number]`: the response of a run becomes the content of a zone.
pub struct TimerKeyval;

/// A zone of key-value pairs, as configured.
#[derive(Debug)]
pub struct KeyvalZone {
    /// Its name.
    pub name: String,
    /// How keys are compared.
    pub kind: Kind,
    /// How many bytes one content may take, as it is written.
    pub size: String,
    /// The same in words.
    pub words: usize,
    /// Where its content outlives nginx.
    pub state: Option<PathBuf>,
    /// How old a content may be.
    pub timeout: Option<Duration>,
    /// The timer that fills it, by its number.
    pub filled_by: Cell<Option<usize>>,
    /// Where it is defined.
    pub position: ConfPosition,
    memory: SharedZone,
    /// What look-ups have seen of it.
    seen: Seen,
}

/// What a timer does with the responses of its runs.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The zone whose content they become.
    pub zone: Rc<KeyvalZone>,
    /// How many keys a content must have.
    pub min: u64,
}

/// A variable as its directive says, before all zones are known.
pub(super) struct KeyvalDefinition {
    zone: Vec<u8>,
    lookup: Rc<InZone>,
    position: ConfPosition,
}

/// `timer_keyval` as it says.
pub(super) struct FillDefinition {
    zone: Vec<u8>,
    min: u64,
    location: Location,
    position: ConfPosition,
}

/// Looks keys up in a zone.
struct InZone(OnceCell<Rc<KeyvalZone>>);

impl KeyvalZone {
    /// Shows the zone's memory to `look`; `None` where it is not there, and before anything was put into it.
    pub fn with<T>(&self, look: impl FnOnce(&Segment<'_>) -> T) -> Option<T> {
        self.memory.with(|words| Segment::of(words).map(|segment| look(&segment))).flatten()
    }

    /// Whether nobody has used its memory before.
    pub fn is_new(&self) -> bool {
        self.memory.is_new()
    }

    /// Prepares memory that nobody has used before.
    pub fn begin(&self) {
        self.memory.with(|words| Segment::begin(words).is_some());
    }

    /// How old its content may be at this instant.
    pub fn age(&self) -> Option<Age> {
        let timeout = u64::try_from(self.timeout?.as_millis()).unwrap_or(u64::MAX);
        Some(Age { now: now(), timeout })
    }

    /// Its state file.
    pub fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }
}

/// Some 280 years.
const BEFORE_BOOT: u64 = 1 << 43;

/// Milliseconds that nobody sets back, of suspension, too: since boot, and since long before, so that what is
/// older than that has a time, too.
#[inline(never)]
pub fn now() -> u64 {
    u64::try_from(boot_time().as_millis()).unwrap_or(u64::MAX / 4).saturating_add(BEFORE_BOOT)
}

impl Lookup for Rc<InZone> {
    fn look_up(
        &self,
        key: &[u8],
        kept: &Cell<usize>,
        room: &mut ValueRoom<'_>,
    ) -> Result<bool, NoMemory> {
        let Some(zone) = self.0.get() else { return Ok(false) };
        let found = zone.memory.with(|words| {
            Some(Segment::of(words)?.look_up(key, kept, &zone.seen, || zone.age(), room))
        });
        found.flatten().unwrap_or(Ok(false))
    }
}

impl Room for ValueRoom<'_> {
    fn fill(&mut self, len: usize, words: impl Iterator<Item = u64>) -> Result<(), NoMemory> {
        self.fill(len, words)
    }
}

impl HttpDirective for KeyvalZoneDirective {
    type Module = TimerModule;
    const NAME: &'static CStr = c"keyval_zone";
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(conf: &mut MainConf, parsing: &mut Parsing<'_>) -> Result<(), Refused> {
        let is_sync = |word: &[u8]| word == b"sync" || word.starts_with(b"sync=");
        if parsing.arguments().any(is_sync) {
            let why = "\"sync\" is not supported: each host fetches its own";
            return Err(Refused::Because(why.to_owned()));
        }
        let known = ["zone", "state", "timeout", "type"];
        let parameters = Parameters::read(parsing.arguments(), &known)?;
        let zone =
            parameters.get("zone", "", Some)?.ok_or_else(|| must_have_zone("keyval_zone"))?;
        let (name, size) = name_and_size(zone)?;
        let shown = escaped(name).to_string();
        if conf.keyval_zones.iter().any(|other| other.name == shown) {
            return Err(Refused::Because(format!("duplicate keyval_zone \"{shown}\"")));
        }
        let bytes = parse_size(size).ok_or_else(|| invalid_size(zone))?;
        if bytes < 8 * page_size() {
            return Err(Refused::Because(format!("keyval_zone \"{shown}\" is too small")));
        }
        let kind = parameters.get("type", "", Some)?.unwrap_or(b"string");
        let kind =
            Kind::ALL.into_iter().find(|it| it.name().as_bytes() == kind).ok_or_else(|| {
                let kind = escaped(kind);
                Refused::Because(format!("invalid type \"{kind}\""))
            })?;
        let state = match parameters.get("state", "", Some)? {
            None => None,
            Some(path) if path.is_empty() || path.ends_with(b"/") => {
                return Err(Refused::value(path));
            }
            Some(path) => Some(parsing.full_path(path)?),
        };
        let some_time = |word: &_| parse_time(word).filter(|time| !time.is_zero());
        let timeout = parameters.get("timeout", "a time", some_time)?;
        let words = bytes / 8;
        let memory = parsing.shared_zone(name, Segment::words_for(words), kind as usize)?;
        let zone = KeyvalZone {
            size: String::from_utf8_lossy(size).into_owned(),
            name: shown,
            kind,
            words,
            state,
            timeout,
            filled_by: Cell::new(None),
            position: parsing.position(),
            memory,
            seen: Seen::nothing(),
        };
        Ok(push(&mut conf.keyval_zones, Rc::new(zone))?)
    }
}

fn must_have_zone(directive: &str) -> Refused {
    Refused::Because(format!("\"{directive}\" must have \"zone\" parameter"))
}

fn invalid_size(zone: &[u8]) -> Refused {
    Refused::Because(format!("invalid zone size \"{}\"", escaped(zone)))
}

/// Reads `name:size`.
fn name_and_size(zone: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    let colon = zone.iter().position(|byte| *byte == b':').ok_or_else(|| invalid_size(zone))?;
    let (name, size) = zone.split_at_checked(colon).unwrap_or_default();
    if name.is_empty() {
        return Err(Refused::Because(format!("invalid zone name \"{}\"", escaped(zone))));
    }
    Ok((name, size.get(1..).unwrap_or_default()))
}

impl HttpDirective for KeyvalDirective {
    type Module = TimerModule;
    const NAME: &'static CStr = c"keyval";
    const ARGUMENTS: Arguments = Arguments::Three;

    fn set(conf: &mut MainConf, parsing: &mut Parsing<'_>) -> Result<(), Refused> {
        let words: Vec<&[u8]> = parsing.arguments().collect();
        let [key, variable, zone] = *words else { return Err(Refused::AlreadyLogged) };
        let zone = Parameters::read([zone].into_iter(), &["zone"])?.get("zone", "", Some)?;
        let zone = zone.filter(|zone| !zone.is_empty()).ok_or_else(|| must_have_zone("keyval"))?;
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let name = variable.strip_prefix(b"$").filter(|name| !name.is_empty());
        let name = name.filter(|name| name.iter().all(valid)).ok_or_else(|| {
            Refused::Because(format!("invalid variable name \"{}\"", escaped(variable)))
        })?;
        if conf.keyvals.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            let name = escaped(name);
            return Err(Refused::Because(format!("the duplicate \"{name}\" variable")));
        }
        let lookup = Rc::new(InZone(OnceCell::new()));
        let shared = Rc::<InZone>::clone(&lookup);
        // All that read a zone share what a request keeps, under the number of the first one.
        let first = conf.keyvals.iter().position(|(_, other)| other.zone == zone);
        parsing.keyed_variable(name, key, shared, first.unwrap_or(conf.keyvals.len()))?;
        let position = parsing.position();
        let definition = KeyvalDefinition { zone: zone.to_vec(), lookup, position };
        Ok(push(&mut conf.keyvals, (name.to_vec(), definition))?)
    }
}

impl LocationDirective for TimerKeyval {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_keyval";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.keyval.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let mut words = parsing.arguments();
        let zone = words.next().unwrap_or_default().to_vec();
        let parameters = Parameters::read(words, &["min"])?;
        let at_least = parameters.get("min", "a number", number)?.unwrap_or(0);
        let (location, position) = (parsing.location(), parsing.position());
        conf.keyval = Some(main.fills.len());
        Ok(push(&mut main.fills, FillDefinition { zone, min: at_least, location, position })?)
    }
}

impl MainConf {
    /// The zones of key-value pairs, in the order in which they are configured.
    pub fn keyval_zones(&self) -> &[Rc<KeyvalZone>] {
        &self.keyval_zones
    }

    fn keyval_zone(&self, name: &[u8], position: &ConfPosition) -> Result<Rc<KeyvalZone>, Refused> {
        let name = escaped(name).to_string();
        let zone = self.keyval_zones.iter().find(|zone| zone.name == name);
        zone.map(Rc::clone)
            .ok_or_else(|| Refused::At(position.clone(), format!("unknown keyval zone \"{name}\"")))
    }
}

/// Looks whether each state file belongs to one alone.
fn check_states(main: &MainConf) -> Result<(), Refused> {
    let timers = main.state().and_then(|state| state.path()).map(in_real_directory);
    let mut seen: Vec<(PathBuf, &KeyvalZone)> = Vec::new();
    for zone in &main.keyval_zones {
        let Some(path) = zone.state() else { continue };
        let real = in_real_directory(path);
        let other = seen.iter().find(|(other, _)| *other == real);
        let by = match other {
            Some((_, other)) => format!("by keyval_zone \"{}\"", other.name),
            None if timers.as_ref() == Some(&real) => "by \"timer_state\"".to_owned(),
            None => {
                push(&mut seen, (real, zone))?;
                continue;
            }
        };
        let path = escaped(path.as_os_str().as_encoded_bytes());
        let why = format!("state file \"{path}\" is used {by} already");
        return Err(Refused::At(zone.position.clone(), why));
    }
    Ok(())
}

/// The path of a file by way of its directory's own path.
fn in_real_directory(path: &Path) -> PathBuf {
    let real = directory_of(path).canonicalize().ok();
    let real = real.zip(path.file_name()).map(|(directory, name)| directory.join(name));
    real.unwrap_or_else(|| path.to_owned())
}

/// Finds the zones of all variables, and what each `timer_keyval` fills, by their numbers.
///
/// # Errors
///
/// There is no such zone, two fill one, nothing ever would, or a state file is another's.
pub(super) fn resolve(main: &MainConf, read: &WhollyRead<'_>) -> Result<Vec<Fill>, Refused> {
    check_states(main)?;
    for (_, definition) in &main.keyvals {
        let zone = main.keyval_zone(&definition.zone, &definition.position)?;
        // Each is resolved once.
        let _ = definition.lookup.0.set(zone);
    }
    let mut fills: Vec<Fill> = Vec::new();
    for definition in &main.fills {
        let position = &definition.position;
        let conf = read.configuration::<TimerModule>(definition.location);
        if conf.is_none_or(|conf| conf.timer.is_none()) {
            let why = "\"timer_keyval\" requires \"timer\"".to_owned();
            return Err(Refused::At(position.clone(), why));
        }
        let zone = main.keyval_zone(&definition.zone, position)?;
        let first = fills.iter().position(|fill| Rc::ptr_eq(&fill.zone, &zone));
        if let Some(first) = first.and_then(|first| main.fills.get(first)) {
            let why = format!("zone \"{}\" is already filled in {}", zone.name, first.position);
            return Err(Refused::At(position.clone(), why));
        }
        push(&mut fills, Fill { zone, min: definition.min })?;
    }
    Ok(fills)
}
