//! `timer_timezone`.

use std::ffi::CStr;

use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused};
use crate::nginx::escaped;
use crate::schedule::Zone;

/// `timer_timezone zone | local`: the zone of cron expressions where `tz` gives none.
pub struct TimerTimezone;

impl LocationDirective for TimerTimezone {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_timezone";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.timezone.is_some() {
            return Err(Refused::IsDuplicate);
        }
        conf.timezone = Some(match parsing.arguments().next().unwrap_or_default() {
            b"local" => main.zones().local().map_err(|why| Refused::Because(why.to_string()))?,
            name => zone(main, name)?,
        });
        Ok(())
    }
}

/// The zone of this IANA name.
pub(super) fn zone(main: &MainConf, name: &[u8]) -> Result<Zone, Refused> {
    let unknown = || Refused::Because(format!("unknown time zone \"{}\"", escaped(name)));
    let name = std::str::from_utf8(name).map_err(|_| unknown())?;
    main.zones().get(name).map_err(|why| Refused::Because(why.to_string()))
}
