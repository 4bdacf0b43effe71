//! `timer_success`.

use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::parameters::status_range;
use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::nginx::conf::{Arguments, Refused};
use crate::os::memory::push;

/// The status codes that are success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Success(Rc<Vec<RangeInclusive<u16>>>);

impl Success {
    /// Whether `status` is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for Success {
    fn default() -> Self {
        Self(Rc::new(vec![200..=299]))
    }
}

/// `timer_success code ...`: the status codes and ranges that are success.
pub struct TimerSuccess;

impl Setting for TimerSuccess {
    type Value = Success;
    const NAME: &'static CStr = c"timer_success";
    const ARGUMENTS: Arguments = Arguments::Some;

    fn value(conf: &mut LocationConf) -> &mut Option<Success> {
        &mut conf.success
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<Success, Refused> {
        let mut ranges = Vec::new();
        for word in words {
            let hint = "a status code between 100 and 599, or a range of them";
            let range = status_range(word, 100..=599).ok_or_else(|| Self::invalid(word, hint))?;
            push(&mut ranges, range)?;
        }
        Ok(Success(Rc::new(ranges)))
    }
}
