//! `timer_timezone`.

use std::ffi::CStr;

use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::nginx::conf::{Arguments, Refused};
use crate::nginx::escaped;
use crate::schedule::Zone;

/// `timer_timezone zone | local`: the zone of cron expressions where `tz` gives none.
pub struct TimerTimezone;

impl Setting for TimerTimezone {
    type Value = Zone;
    const NAME: &'static CStr = c"timer_timezone";
    const ARGUMENTS: Arguments = Arguments::One;

    fn value(conf: &mut LocationConf) -> &mut Option<Zone> {
        &mut conf.timezone
    }

    fn read(words: &[&[u8]], main: &MainConf) -> Result<Zone, Refused> {
        match words.first().copied().unwrap_or_default() {
            b"local" => main.zones().local().map_err(|why| Refused::Because(why.to_string())),
            name => zone(main, name),
        }
    }
}

/// The zone of this IANA name.
pub(super) fn zone(main: &MainConf, name: &[u8]) -> Result<Zone, Refused> {
    let unknown = || Refused::Because(format!("unknown time zone \"{}\"", escaped(name)));
    let name = std::str::from_utf8(name).map_err(|_| unknown())?;
    main.zones().get(name).map_err(|why| Refused::Because(why.to_string()))
}
