//! `timer_retry`.

use std::ffi::CStr;
use std::time::Duration;

use super::parameters::{Parameters, number};
use super::setting::Setting;
use super::{LocationConf, MainConf};
use crate::nginx::conf::{Arguments, Refused, parse_time};
use crate::state::{Outcome, RetryPolicy};

const BACKOFF: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);
/// The shortest wait: shorter ones would be a tight loop.
const SHORTEST: Duration = Duration::from_millis(10);
/// More attempts than that are a schedule of their own.
const MOST: u32 = 1000;

/// `timer_retry number [on=outcome,...] [backoff=time] [max=time]`: repeats failed attempts.
pub struct TimerRetry;

impl Setting for TimerRetry {
    type Value = RetryPolicy;
    const NAME: &'static CStr = c"timer_retry";
    const ARGUMENTS: Arguments = Arguments::Some;

    fn value(conf: &mut LocationConf) -> &mut Option<RetryPolicy> {
        &mut conf.retry
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<RetryPolicy, Refused> {
        let more = Self::first(words, "a number up to 1000", |word| {
            number(word).filter(|number| *number <= MOST)
        })?;
        let parameters =
            Parameters::read(words.iter().skip(1).copied(), &["on", "backoff", "max"])?;
        let hint = "a list of \"failure\", \"error\", \"timeout\" and \"interrupted\"";
        let on = parameters.get("on", hint, outcomes)?;
        let wait = |word| parse_time(word).filter(|wait| *wait >= SHORTEST);
        let backoff = parameters.get("backoff", "a time of \"10ms\" or more", wait)?;
        let max = parameters.get("max", "a time of \"10ms\" or more", wait)?;
        Ok(RetryPolicy {
            more,
            on: on.unwrap_or_else(|| vec![Outcome::Failure, Outcome::Error]),
            backoff: backoff.unwrap_or(BACKOFF),
            max: max.unwrap_or(MAX),
        })
    }
}

/// Reads `outcome,outcome,...`, each at most once.
fn outcomes(word: &[u8]) -> Option<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for word in word.split(|byte| *byte == b',') {
        let outcome = match word {
            b"failure" => Outcome::Failure,
            b"error" => Outcome::Error,
            b"timeout" => Outcome::Timeout,
            b"interrupted" => Outcome::Interrupted,
            _ => return None,
        };
        if outcomes.contains(&outcome) {
            return None;
        }
        outcomes.push(outcome);
    }
    Some(outcomes)
}
