//! What was promised, and what has happened.

use std::fmt;

use crate::fleet::values::{ClaimId, Outcome, Revision};
use crate::state::RunId;

/// A promise that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Promise {
    /// An attempt of a run, or a due time, is started at most once.
    AtMostOnce,
    /// Two runs at once, while the host of the first one does not stand still.
    OneAtATime,
    /// Fences grow.
    Fence,
    /// No repetition after a good end.
    Repetition,
    /// Each due time is accounted for once.
    Account,
    /// The fleet goes on.
    NeverSilent,
    /// No run stands in the engine that nobody may start or has ended.
    Ghost,
    /// Nothing of a paused timer is claimed.
    Paused,
}

pub(super) type Broken = (Promise, String);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Oracle {
    started: Vec<(i64, RunId, u32)>,
    fence: Revision,
    /// Claims whose end, or removal, was applied.
    ended: Vec<ClaimId>,
    /// Runs that ended well.
    well: Vec<RunId>,
    /// Claims of which a host has said that they are not its own.
    released: Vec<ClaimId>,
    pub(super) paused: bool,
    /// Keys were deleted: nothing may be run twice, but a due time may be left out (and its closing be taken for
    /// somebody else's), and a run that nobody wants any more stand there for a ttl.
    pub(super) removed: bool,
    broken: Option<Broken>,
}

impl Oracle {
    pub(super) fn breaks(&mut self, promise: Promise, what: impl fmt::Display) {
        if self.removed && matches!(promise, Promise::Ghost | Promise::NeverSilent) {
            return;
        }
        self.broken.get_or_insert_with(|| (promise, what.to_string()));
    }

    pub(super) fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    pub(super) fn starts(
        &mut self,
        due: i64,
        is_scheduled: bool,
        run: RunId,
        attempt: u32,
        fence: Revision,
    ) {
        let is_same = |(of_due, of_run, of_attempt): &(i64, RunId, u32)| {
            *of_attempt == attempt && (*of_run == run || is_scheduled && *of_due == due)
        };
        if self.started.iter().any(is_same) {
            self.breaks(Promise::AtMostOnce, format!("attempt {attempt} of {due} starts again"));
        }
        if fence <= self.fence {
            self.breaks(Promise::Fence, format!("{fence:?} after {:?}", self.fence));
        }
        if self.well.contains(&run) {
            self.breaks(Promise::Repetition, format!("attempt {attempt} of {due} after its end"));
        }
        self.fence = self.fence.max(fence);
        self.started.push((if is_scheduled { due } else { -1 }, run, attempt));
    }

    pub(super) fn has_started(&self, due: i64) -> bool {
        self.started.iter().any(|(of, ..)| *of == due)
    }

    pub(super) fn has_ended(&mut self, claim: ClaimId, run: RunId, outcome: Outcome) {
        self.ended.push(claim);
        if outcome == Outcome::Success {
            self.well.push(run);
        }
    }

    /// What is removed may come again if its host has not started it.
    pub(super) fn is_removed(&mut self, claim: ClaimId, run: RunId, attempt: u32) {
        if self.started.iter().any(|(_, of_run, of)| (*of_run, *of) == (run, attempt)) {
            self.ended.push(claim);
        }
    }

    pub(super) fn is_released(&mut self, claim: ClaimId) {
        self.released.push(claim);
    }

    /// A claim has written `run`.
    pub(super) fn has_written(&mut self, claim: ClaimId) {
        if self.ended.contains(&claim) {
            self.breaks(Promise::Ghost, "a run is there again after its end");
        }
        if self.released.contains(&claim) {
            self.breaks(Promise::Ghost, "a run is there whose host has given it up");
        }
    }
}
