//! `timer_api`.

use std::ffi::CStr;
use std::marker::PhantomData;

use super::parameters::Parameters;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::LocationKind;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused};
use crate::nginx::escaped;
use crate::nginx::http::Handler;

/// `timer_api [write=on|off] [keyvals=on|off]`: the location shows the timers, and lets them be steered;
/// `H` answers its requests.
pub struct TimerApi<H>(PhantomData<H>);

/// What the API may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteAccess {
    /// Show the timers.
    Off,
    /// Steer them too.
    On,
}

/// Whether the API shows the content of zones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyvalAccess {
    /// It does not: values may be secret.
    #[default]
    Off,
    /// It does.
    On,
}

impl<H: Handler<Module = TimerModule>> LocationDirective for TimerApi<H> {
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
        let parameters = Parameters::read(parsing.arguments(), &["write", "keyvals"])?;
        let write = parameters.get("write", "\"on\" or \"off\"", |word| match word {
            b"on" => Some(WriteAccess::On),
            b"off" => Some(WriteAccess::Off),
            _ => None,
        })?;
        let keyvals = parameters.get("keyvals", "\"on\" or \"off\"", |word| match word {
            b"on" => Some(KeyvalAccess::On),
            b"off" => Some(KeyvalAccess::Off),
            _ => None,
        })?;
        let location = parsing.location();
        if location.kind() != LocationKind::Prefix {
            let name = location.name();
            let name = escaped(&name);
            let why = format!("\"timer_api\" requires a prefix location, not \"{name}\"");
            return Err(Refused::Because(why));
        }
        parsing.answer_by::<H>();
        let write = write.unwrap_or(WriteAccess::Off);
        (conf.api, conf.keyvals) = (Some(write), keyvals.unwrap_or_default());
        main.api = main.api.max(Some(write));
        // Opened once, in the master: the API names its version.
        main.zones();
        Ok(())
    }
}
