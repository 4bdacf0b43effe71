//! `timer_success`.

use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::parameters::invalid;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused};
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

impl LocationDirective for TimerSuccess {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_success";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.success.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let mut ranges = Vec::new();
        for word in parsing.arguments() {
            let hint = "a status code between 100 and 599, or a range of them";
            let range =
                range(word).ok_or_else(|| invalid(word, "timer_success", "directive", hint))?;
            push(&mut ranges, range)?;
        }
        conf.success = Some(Success(Rc::new(ranges)));
        Ok(())
    }
}

/// Reads `code` or `from-to`.
fn range(word: &[u8]) -> Option<RangeInclusive<u16>> {
    let word = std::str::from_utf8(word).ok()?;
    let (from, to) = word.split_once('-').unwrap_or((word, word));
    let range = code(from)?..=code(to)?;
    (!range.is_empty()).then_some(range)
}

fn code(word: &str) -> Option<u16> {
    if word.len() != 3 || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    word.parse().ok().filter(|code| (100..=599).contains(code))
}
