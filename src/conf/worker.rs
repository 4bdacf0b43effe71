//! `timer_worker`.

use std::ffi::CStr;
use std::time::Duration;

use super::setting::Setting;
use super::{LocationConf, MainConf, TimerName};
use crate::nginx::conf::{Arguments, Refused};
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

impl Setting for TimerWorker {
    type Value = WorkerChoice;
    const NAME: &'static CStr = c"timer_worker";
    const ARGUMENTS: Arguments = Arguments::One;

    fn value(conf: &mut LocationConf) -> &mut Option<WorkerChoice> {
        &mut conf.worker
    }

    fn read(words: &[&[u8]], _: &MainConf) -> Result<WorkerChoice, Refused> {
        Self::first(words, "\"0\", \"auto\" or \"any\"", |word| match word {
            b"0" => Some(WorkerChoice::Zero),
            b"auto" => Some(WorkerChoice::Auto),
            b"any" => Some(WorkerChoice::Any),
            _ => None,
        })
    }
}
