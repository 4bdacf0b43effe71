//! `timer_unhealthy_after`.

use std::ffi::CStr;

use super::parameters::number;
use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::nginx::conf::{Arguments, Refused};
use crate::schedule::{Schedule, UnixMs};

/// `timer_unhealthy_after number`: how many failures in a row are not well.
pub struct TimerUnhealthyAfter;

impl Setting for TimerUnhealthyAfter {
    type Value = u32;
    const NAME: &'static CStr = c"timer_unhealthy_after";
    const ARGUMENTS: Arguments = Arguments::One;

    fn value(conf: &mut LocationConf) -> &mut Option<u32> {
        &mut conf.unhealthy_after
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<u32, Refused> {
        Self::first(words, "a number between 1 and 65535", |word| {
            number(word).filter(|number| (1..=LARGEST).contains(number))
        })
    }
}

const LARGEST: u32 = 65535;

/// Without the directive: a run that comes once a day need not fail on three days before anybody hears of it.
pub(super) fn default(schedule: &Schedule, now: UnixMs) -> u32 {
    const HOUR_MS: i64 = 60 * 60 * 1000;

    if schedule.period_ms(now) >= HOUR_MS { 1 } else { 3 }
}
