//! `timer_missed`.

use std::ffi::CStr;
use std::time::Duration;

use super::parameters::{Parameters, invalid};
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused, parse_time};
use crate::state::MissedPolicy;

/// How old the newest missed due time may be to be made up for.
const WITHIN: Duration = Duration::from_secs(60 * 60);

/// Without the directive.
pub(super) const DEFAULT: MissedPolicy = MissedPolicy::Run { within: WITHIN };

/// `timer_missed run [within=time] | skip`: what happens to due times that passed while nobody was
/// there to take them.
pub struct TimerMissed;

impl LocationDirective for TimerMissed {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_missed";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::Some;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.missed.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let mut words = parsing.arguments();
        conf.missed = Some(match words.next().unwrap_or_default() {
            b"run" => {
                let parameters = Parameters::read(words, &["within"])?;
                let above_0 = |word| parse_time(word).filter(|within| !within.is_zero());
                let within = parameters.get("within", "a time above 0", above_0)?;
                MissedPolicy::Run { within: within.unwrap_or(WITHIN) }
            }
            b"skip" => {
                Parameters::read(words, &[])?;
                MissedPolicy::Skip
            }
            word => return Err(invalid(word, "timer_missed", "directive", "\"run\" or \"skip\"")),
        });
        Ok(())
    }
}
