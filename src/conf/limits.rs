//! `timer_timeout` and `timer_max_running`.

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::parameters::{invalid, number};
use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, HttpDirective, Parsing, Refused, parse_time};

pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const MAX_RUNNING: usize = 64;

/// `timer_timeout time`: how long an attempt may take.
pub struct TimerTimeout;

impl Setting for TimerTimeout {
    type Value = Duration;
    const NAME: &'static CStr = c"timer_timeout";
    const ARGUMENTS: Arguments = Arguments::One;

    fn value(conf: &mut LocationConf) -> &mut Option<Duration> {
        &mut conf.timeout
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<Duration, Refused> {
        Self::first(words, "a time above 0", |word| {
            parse_time(word).filter(|timeout| !timeout.is_zero())
        })
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
        match number(word) {
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
