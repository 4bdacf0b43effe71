//! `timer_worker`.

use std::ffi::CStr;

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
}

impl WorkerChoice {
    /// The slot of the worker, of `workers`, that arms the timer `name`.
    pub fn slot(self, name: &TimerName, workers: usize) -> usize {
        match self {
            Self::Zero => 0,
            Self::Auto => {
                let hash = stable_hash(&[b"slot", name.as_str().as_bytes()]);
                let workers = u64::try_from(workers).unwrap_or(u64::MAX).max(1);
                usize::try_from(hash % workers).unwrap_or(0)
            }
        }
    }
}

/// `timer_worker 0 | auto`: which worker arms the timers.
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
            _ => return Err(invalid(word, "timer_worker", "directive", "\"0\" or \"auto\"")),
        });
        Ok(())
    }
}
