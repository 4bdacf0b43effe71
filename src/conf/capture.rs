//! `timer_capture`.

use std::ffi::CStr;

use super::parameters::invalid;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused, parse_size};
use crate::state::TEXT_BYTES;

/// `timer_capture size | off`: how much is kept of the response of a run that failed.
pub struct TimerCapture;

impl LocationDirective for TimerCapture {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_capture";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.capture.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let word = parsing.arguments().next().unwrap_or_default();
        let size = match word {
            b"off" => Some(0),
            word => parse_size(word).filter(|size| (1..=TEXT_BYTES).contains(size)),
        };
        let hint = "\"off\" or a size between 1 and \"8k\"";
        let invalid = || invalid(word, "timer_capture", "directive", hint);
        conf.capture = Some(size.ok_or_else(invalid)?);
        Ok(())
    }
}
