//! What a fleet's answer to a claim says of the due times up to that one.

use crate::schedule::UnixMs;
use crate::state::record::gaps::LeftOut;
use crate::state::record::run::{Attempt, Trigger};

use super::decide::OverlapPolicy;
use super::due::{DueTimes, Reading};

/// What a fleet has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenEnd {
    /// The attempt is this host's to make.
    Won {
        /// The revision at which the claim was made.
        created: u64,
        /// The fence of the attempt.
        fence: u64,
        /// The due time that the fleet had taken last before. What lies behind it was missed.
        last: Option<UnixMs>,
    },
    /// The fleet has dealt with all due times up to this one.
    Elsewhere {
        /// The newest of them.
        up_to: UnixMs,
    },
    /// A run is in progress elsewhere.
    Overlap {
        /// What is to be done about that.
        policy: OverlapPolicy,
        /// The due time that the fleet had taken last.
        last: Option<UnixMs>,
    },
    /// The claim was won, but the attempt must not start any more.
    Lost {
        /// The due time that the fleet had taken last before.
        last: Option<UnixMs>,
    },
    /// The fleet has closed the due time, and nobody ran it.
    Missed {
        /// The due time that the fleet had taken last before.
        last: Option<UnixMs>,
    },
    /// The fleet is paused: the due time is none of the timer's.
    Paused {
        /// The due time that the fleet had taken last.
        last: Option<UnixMs>,
    },
    /// Nothing was decided: the due time is still to be taken.
    Released,
}

/// The account of an answer.
#[derive(Clone, Copy)]
pub(in crate::state) struct Account<'a> {
    /// What was claimed.
    pub(in crate::state) attempt: &'a Attempt,
    /// The answer.
    pub(in crate::state) end: OpenEnd,
    /// Those of the timer.
    pub(in crate::state) due_times: &'a dyn DueTimes,
}

impl Account<'_> {
    /// Leaves out in the control part of `reading` what gets no run; answers whether that changes it.
    pub(in crate::state) fn leave_out(&self, reading: &mut Reading, now: UnixMs) -> bool {
        if self.attempt.trigger == Trigger::Manual {
            return false;
        }
        let before = reading.control.clone();
        let (due, due_times) = (self.attempt.due, self.due_times);
        let before_due = UnixMs(due.0.saturating_sub(1));
        let newest = reading.newest_to_account(due_times, now).unwrap_or(due).max(due);
        let elsewhere = match self.end {
            // What the clock of this host has not seen yet is looked at when it has.
            OpenEnd::Elsewhere { up_to } => Some(up_to.min(newest)),
            OpenEnd::Won { last, .. }
            | OpenEnd::Overlap { last, .. }
            | OpenEnd::Lost { last }
            | OpenEnd::Missed { last }
            | OpenEnd::Paused { last } => last.map(|last| last.min(before_due)),
            OpenEnd::Released => None,
        };
        let mut handled = reading.handled_up_to(now);
        let queued = reading.queued(now);
        let control = &mut reading.control;
        if let Some(up_to) = elsewhere.filter(|up_to| *up_to > handled) {
            control.leave_out(due_times, handled, up_to, LeftOut::Elsewhere);
            handled = up_to;
        }
        let queued = queued.filter(|queued| (handled < *queued) && *queued < due);
        match self.end {
            OpenEnd::Won { .. } | OpenEnd::Lost { .. } if before_due > handled => {
                let kind = LeftOut::Missed;
                control.leave_out_behind(due_times, handled, queued, before_due, kind);
            }
            OpenEnd::Missed { .. } if due > handled => {
                control.leave_out_behind(due_times, handled, queued, due, LeftOut::Missed);
            }
            OpenEnd::Overlap { policy: OverlapPolicy::Skip, .. } if due > handled => {
                control.leave_out(due_times, handled, due, LeftOut::Overlap);
            }
            OpenEnd::Overlap { policy: OverlapPolicy::Queue, .. } if due > handled => {
                control.leave_out(due_times, handled, before_due, LeftOut::Overlap);
                control.queued = control.queued.max(Some(due));
            }
            OpenEnd::Paused { .. } => control.not_before = control.not_before.max(Some(due)),
            _ => {}
        }
        *control != before
    }
}
