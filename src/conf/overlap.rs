//! `timer_overlap`.

use std::ffi::CStr;

use super::parameters::invalid;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused};
use crate::state::OverlapPolicy;

/// `timer_overlap skip | queue`: what happens to a due time that comes while the last run is still
/// in progress.
pub struct TimerOverlap;

impl LocationDirective for TimerOverlap {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_overlap";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.overlap.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let word = parsing.arguments().next().unwrap_or_default();
        conf.overlap = Some(match word {
            b"skip" => OverlapPolicy::Skip,
            b"queue" => OverlapPolicy::Queue,
            _ => return Err(invalid(word, "timer_overlap", "directive", "\"skip\" or \"queue\"")),
        });
        Ok(())
    }
}
