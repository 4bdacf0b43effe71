//! `timer_api`.

use std::ffi::CStr;

use super::parameters::Parameters;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::api::Api;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused, Shown};
use crate::nginx::location::Kind;

/// `timer_api [write=on|off]`: the location shows the timers, and lets them be steered.
pub struct TimerApi;

/// What the API may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// Show the timers.
    Off,
    /// Steer them too.
    On,
}

impl LocationDirective for TimerApi {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_api";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::Any;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.api.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let parameters = Parameters::read(parsing.arguments(), &["write"])?;
        let write = parameters.get("write", "\"on\" or \"off\"", |word| match word {
            b"on" => Some(Write::On),
            b"off" => Some(Write::Off),
            _ => None,
        })?;
        let location = parsing.location();
        if location.kind() != Kind::Prefix {
            let name = location.name();
            let name = Shown(&name);
            let why = format!("\"timer_api\" needs a prefix location, not \"{name}\"");
            return Err(Refused::Because(why));
        }
        parsing.answer_by::<Api>();
        let write = write.unwrap_or(Write::Off);
        conf.api = Some(write);
        main.api = main.api.max(Some(write));
        // Opened once, in the master: the API names its version.
        main.zones();
        Ok(())
    }
}
