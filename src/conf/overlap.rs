//! `timer_overlap`.

use std::ffi::CStr;

use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::nginx::conf::{Arguments, Refused};
use crate::state::OverlapPolicy;

/// `timer_overlap skip | queue`: what happens to a due time that comes while the last run is still
/// in progress.
pub struct TimerOverlap;

impl Setting for TimerOverlap {
    type Value = OverlapPolicy;
    const NAME: &'static CStr = c"timer_overlap";
    const ARGUMENTS: Arguments = Arguments::One;

    fn value(conf: &mut LocationConf) -> &mut Option<OverlapPolicy> {
        &mut conf.overlap
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<OverlapPolicy, Refused> {
        Self::first(words, "\"skip\" or \"queue\"", |word| match word {
            b"skip" => Some(OverlapPolicy::Skip),
            b"queue" => Some(OverlapPolicy::Queue),
            _ => None,
        })
    }
}
