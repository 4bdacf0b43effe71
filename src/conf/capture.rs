//! `timer_capture`.

use std::ffi::CStr;

use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::nginx::conf::{Arguments, Refused, parse_size};
use crate::state::TEXT_BYTES;

/// `timer_capture size | off`: how much is kept of the response of a run that failed.
pub struct TimerCapture;

impl Setting for TimerCapture {
    type Value = usize;
    const NAME: &'static CStr = c"timer_capture";
    const ARGUMENTS: Arguments = Arguments::One;

    fn value(conf: &mut LocationConf) -> &mut Option<usize> {
        &mut conf.capture
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<usize, Refused> {
        Self::first(words, "\"off\" or a size between 1 and \"8k\"", |word| match word {
            b"off" => Some(0),
            word => parse_size(word).filter(|size| (1..=TEXT_BYTES).contains(size)),
        })
    }
}
