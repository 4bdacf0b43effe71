//! `timer_timeout` and `timer_max_running`.

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::parameters::invalid;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{
    Arguments, Context, HttpDirective, LocationDirective, Parsing, Refused, parse_time,
};

pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const MAX_RUNNING: usize = 64;

/// `timer_timeout time`: how long an attempt may take.
pub struct TimerTimeout;

impl LocationDirective for TimerTimeout {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_timeout";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.timeout.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let word = parsing.arguments().next().unwrap_or_default();
        match parse_time(word) {
            Some(timeout) if !timeout.is_zero() => conf.timeout = Some(timeout),
            _ => return Err(invalid(word, "timer_timeout", "directive", "a time above 0")),
        }
        Ok(())
    }
}

/// `timer_max_running number`: how many runs may be in progress in one worker.
pub struct TimerMaxRunning;

impl HttpDirective for TimerMaxRunning {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_max_running";
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(conf: &mut MainConf, parsing: &mut Parsing<'_>) -> Result<(), Refused> {
        if conf.max_running.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let word = parsing.arguments().next().unwrap_or_default();
        let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        match number {
            Some(number) if number <= LARGEST => conf.max_running = Some(number),
            _ => {
                let hint = "a number between 1 and 65535";
                return Err(invalid(word, "timer_max_running", "directive", hint));
            }
        }
        Ok(())
    }
}

const LARGEST: NonZeroUsize = NonZeroUsize::new(65535).unwrap();
