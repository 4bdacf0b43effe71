//! `timer_worker`.

use std::ffi::CStr;
use std::time::Duration;

use super::parameters::invalid;
use super::{LocationConf, MainConf, TimerName};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused};
use crate::schedule::stable_hash;

/// Which worker arms a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerChoice {
    /// The one in slot 0.
    #[default]
    Zero,
    /// The one in the slot that a hash of the timer's name gives.
    Auto,
    /// All of them: who claims a due time first runs it.
    Any,
}

impl WorkerChoice {
    /// The slot of the worker, of `workers`, that the timer `name` belongs to: with `any`, the one
    /// that normally wins.
    pub fn slot(self, name: &TimerName, workers: usize) -> usize {
        match self {
            Self::Zero | Self::Any => 0,
            Self::Auto => {
                let hash = stable_hash(&[b"slot", name.as_str().as_bytes()]);
                let workers = u64::try_from(workers).unwrap_or(u64::MAX).max(1);
                usize::try_from(hash % workers).unwrap_or(0)
            }
        }
    }

    /// How long the worker in `slot`, of `workers`, lets others go first: slot 0 wins unless it is
    /// lost, hangs or is busy, and then another has run the due time within 250 ms.
    pub fn claim_delay(self, slot: usize, workers: usize, period: Duration) -> Duration {
        const LEAST: Duration = Duration::from_millis(50);
        const OVER: Duration = Duration::from_millis(150);

        if self != Self::Any || slot == 0 {
            return Duration::ZERO;
        }
        let before = u32::try_from(slot - 1).unwrap_or(u32::MAX);
        let others = u32::try_from(workers.saturating_sub(2).max(1)).unwrap_or(u32::MAX);
        let share = OVER.saturating_mul(before) / others;
        (LEAST + share.min(OVER)).min(period / 2)
    }
}

/// `timer_worker 0 | auto | any`: which worker arms the timers.
pub struct TimerWorker;

impl LocationDirective for TimerWorker {
    type Module = TimerModule;
    const NAME: &'static CStr = c"timer_worker";
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = Arguments::One;

    fn set(
        conf: &mut LocationConf,
        _: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        if conf.worker.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let word = parsing.arguments().next().unwrap_or_default();
        conf.worker = Some(match word {
            b"0" => WorkerChoice::Zero,
            b"auto" => WorkerChoice::Auto,
            b"any" => WorkerChoice::Any,
            _ => {
                let hint = "\"0\", \"auto\" or \"any\"";
                return Err(invalid(word, "timer_worker", "directive", hint));
            }
        });
        Ok(())
    }
}
