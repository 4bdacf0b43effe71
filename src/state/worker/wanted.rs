//! What a claim comes to: the attempt that is made if it is won.

use crate::schedule::UnixMs;
use crate::state::policy::decide::Wanted;
use crate::state::policy::due::Reading;
use crate::state::record::run::{Attempt, Progress, RunId, Trigger};

use super::store::Process;

impl Wanted {
    /// Since when what is wanted could have been taken.
    pub(super) fn known_since(self, reading: &Reading) -> UnixMs {
        match (self, reading.claim.progress) {
            (Wanted::Due { due, .. }, _) => due,
            (Wanted::Order { .. }, _) => reading.control.order.at,
            (Wanted::Next { .. }, Progress::Waiting(last, _)) => last.started_at,
            (Wanted::Next { .. } | Wanted::Repetition { .. }, _) => UnixMs(i64::MIN),
        }
    }

    /// The attempt that is made if the claim is won.
    pub(super) fn attempt(
        self,
        run: RunId,
        process: Process,
        reading: &Reading,
        now: UnixMs,
    ) -> Option<Attempt> {
        let new = Attempt {
            run,
            due: now,
            trigger: Trigger::Manual,
            number: 1,
            pid: process.pid,
            boot: process.boot,
            started_at: now,
        };
        match (self, reading.claim.progress) {
            (Wanted::Due { due, trigger, .. }, _) => Some(Attempt { due, trigger, ..new }),
            (Wanted::Order { .. }, _) => {
                let order = reading.control.order;
                Some(Attempt { run: order.run, due: order.at, ..new })
            }
            (Wanted::Next { attempt, .. }, Progress::Waiting(last, _)) => Some(Attempt {
                run: last.run,
                due: last.due,
                trigger: last.trigger,
                number: attempt,
                ..new
            }),
            (Wanted::Next { .. }, _) => None,
            (Wanted::Repetition { run, due, trigger, attempt }, _) => {
                Some(Attempt { run, due, trigger, number: attempt, ..new })
            }
        }
    }
}
