//! `timer_missed`.

use std::ffi::CStr;
use std::time::Duration;

use super::parameters::Parameters;
use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::nginx::conf::{Arguments, Refused, parse_time};
use crate::state::MissedPolicy;

/// How old the newest missed due time may be to be made up for.
const WITHIN: Duration = Duration::from_secs(60 * 60);

/// Without the directive.
pub(super) const DEFAULT: MissedPolicy = MissedPolicy::Run { within: WITHIN };

/// `timer_missed run [within=time] | skip`: what happens to due times that passed while nobody was
/// there to take them.
pub struct TimerMissed;

impl Setting for TimerMissed {
    type Value = MissedPolicy;
    const NAME: &'static CStr = c"timer_missed";
    const ARGUMENTS: Arguments = Arguments::Some;

    fn value(conf: &mut LocationConf) -> &mut Option<MissedPolicy> {
        &mut conf.missed
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<MissedPolicy, Refused> {
        let rest = words.iter().skip(1).copied();
        match words.first().copied().unwrap_or_default() {
            b"run" => {
                let parameters = Parameters::read(rest, &["within"])?;
                let above_0 = |word| parse_time(word).filter(|within| !within.is_zero());
                let within = parameters.get("within", "a time above 0", above_0)?;
                Ok(MissedPolicy::Run { within: within.unwrap_or(WITHIN) })
            }
            b"skip" => Parameters::read(rest, &[]).map(|_| MissedPolicy::Skip),
            word => Err(Self::invalid(word, "\"run\" or \"skip\"")),
        }
    }
}
