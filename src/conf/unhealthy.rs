//! `timer_unhealthy_after`.

use std::ffi::CStr;

use super::parameters::invalid;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused};
use crate::schedule::{Schedule, UnixMs};

/// `timer_unhealthy_after number`: how many failures in a row are not well.
pub struct TimerUnhealthyAfter;

impl LocationDirective for TimerUnhealthyAfter {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_unhealthy_after";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.unhealthy_after.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let word = parsing.arguments().next().unwrap_or_default();
        let number = number(word).filter(|number| (1..=LARGEST).contains(number));
        let hint = "a number between 1 and 65535";
        let invalid = || invalid(word, "timer_unhealthy_after", "directive", hint);
        conf.unhealthy_after = Some(number.ok_or_else(invalid)?);
        Ok(())
    }
}

const LARGEST: u32 = 65535;

fn number(word: &[u8]) -> Option<u32> {
    let word = std::str::from_utf8(word).ok()?;
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

/// Without the directive: a run that comes once a day need not fail on three days before anybody hears of it.
pub(super) fn default(schedule: &Schedule, now: UnixMs) -> u32 {
    const HOUR_MS: i64 = 60 * 60 * 1000;

    if schedule.period_ms(now) >= HOUR_MS { 1 } else { 3 }
}
