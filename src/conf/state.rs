//! `timer_state`.

use std::ffi::CStr;

use super::MainConf;
use crate::TimerModule;
use crate::nginx::conf::{Arguments, HttpDirective, Parsing, Refused};
use crate::state::StatePath;

/// The name of the state file, where `timer_state` names none.
const NAME: &str = "timers.state";

/// `timer_state path | memory`: where the state is kept.
pub struct TimerState;

impl HttpDirective for TimerState {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_state";
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(conf: &mut MainConf, parsing: &mut Parsing<'_>) -> Result<(), Refused> {
        if conf.state.is_some() {
            return Err(Refused::IsDuplicate);
        }
        conf.state = Some(match parsing.arguments().next().unwrap_or_default() {
            b"memory" => StatePath::Memory,
            b"" => return Err(Refused::value(b"")),
            path if path.ends_with(b"/") => return Err(Refused::value(path)),
            path => StatePath::Named(parsing.full_path(path)?),
        });
        Ok(())
    }
}

/// Where the state is kept without the directive.
pub(super) fn default_path(parsing: &Parsing<'_>) -> Result<StatePath, Refused> {
    parsing.state_path(NAME).map(StatePath::Default)
}
