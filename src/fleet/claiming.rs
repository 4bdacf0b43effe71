//! One claim, from the first time it is sent to an answer that is definite.

use std::time::Duration;

use super::claimed::{ClaimOptions, Claimed, NotClaimed, WhileRunning, Won};
use super::engine::{Answer, Applied, Ask, Denial, View};
use super::instant::{BootMs, Do, Spread};
use super::values::{ClaimKind, ClaimRequest, Last, Revision, Run, Versioned};
use crate::schedule::UnixMs;

/// A claim that is under way.
///
/// ```text
///          by hand: +--------+ seen                       not known: the same again
///      ------------>|  Read  |-------+                     +-----------+
///                   +--------+       v                     |           |
///                       ^        +---------+ applied       v           |
///      ----------------------->  |  Claim  |---------> (Won)           |
///                       |        +---------+  ^                        |
///                       |     seen |          | applied                |
///                       |          v          |                        |
///                  the reasons, in this order:                         |
///    our run is there ----------> Own: a beat of it                    |
///    we are the last, no run ---> Again: both are written once more    |
///    the timer is unknown ------> Restore, then Claim ------------------+
///    the due time is taken, or there is a pause, or ... ---> (Not)
///    a run of others -----------> waits; if it lives, or the next due time has come:
///                                 Close ------------> (Overlap, Missed)
/// ```
///
/// From each of them, whatever is not definite leads back to the same claim, and what is seen to the same
/// reasons.
///
/// # Invariants
///
/// It says that the due time is not its own only if no copy of the claim can be applied from then on, however
/// late: the due time is not newer than `last` any more, or `last` or `result` has been written since, or
/// there is a pause (whose end writes `last`), or nothing was ever sent whose fate is not known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claiming {
    claim: ClaimRequest,
    options: ClaimOptions,
    spread: Spread,
    phase: Phase,
    /// Nothing is sent before; never, while an answer is waited for.
    not_before: BootMs,
    /// Whether the fate of a copy was ever unknown.
    was_unknown: bool,
    gives_up: bool,
    view: Option<View>,
    /// The run of others that was seen first.
    first_seen: Option<(Revision, Revision)>,
    /// By hand: how long it waits for others.
    patient_until: Option<BootMs>,
    forgotten: bool,
}

/// What is sent next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Read,
    Claim { result_modified: Revision },
    Own { created: Revision, beat: u32, last_modified: Option<Revision> },
    Again { last_modified: Revision },
    Restore { due: UnixMs },
    Close { run: Option<(Revision, Box<Run>)> },
    CloseRepetition { last_modified: Revision, last: Last, run: Box<Run> },
    Said(Box<Claimed>),
}

/// How soon what is not definite is sent again.
const RESEND: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How soon after a refusal of the engine.
const RESEND_DENIED: Duration = Duration::from_secs(5);
/// How often who waits for the end of a run looks whether it has ended.
const LOOK: Duration = Duration::from_secs(1);
/// How long an order waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far the newest due time may lie ahead of the engine's time.
const AHEAD: Duration = Duration::from_secs(60);

impl Claiming {
    /// Begins to send this claim.
    pub fn new(claim: ClaimRequest, options: ClaimOptions) -> Self {
        let phase = match claim.kind {
            ClaimKind::ByHand => Phase::Read,
            _ => Phase::Claim { result_modified: Revision(0) },
        };
        Self {
            spread: Spread::new(options.seed),
            phase,
            not_before: BootMs(0),
            was_unknown: options.sent_before,
            gives_up: false,
            view: None,
            first_seen: None,
            patient_until: None,
            forgotten: false,
            claim,
            options,
        }
    }

    /// The claim.
    pub fn claim(&self) -> &ClaimRequest {
        &self.claim
    }

    /// What is to be done now.
    pub fn step(&mut self, now: BootMs) -> Do<Claimed> {
        self.patient_until.get_or_insert(now.plus(PATIENCE));
        if let Phase::Said(claimed) = &self.phase {
            return Do::Say((**claimed).clone());
        }
        if now < self.not_before {
            return Do::Wait(self.not_before);
        }
        self.not_before = BootMs::NEVER;
        Do::Send(self.ask())
    }

    fn ask(&self) -> Ask {
        let claim = self.claim.clone();
        match &self.phase {
            Phase::Claim { result_modified } => {
                Ask::Claim { claim, result_modified: *result_modified }
            }
            Phase::Own { created, beat, .. } => {
                Ask::Beat { run: Run::of(&claim, *beat), created: *created }
            }
            Phase::Again { last_modified } => {
                Ask::ClaimAgain { claim, last_modified: *last_modified }
            }
            Phase::Restore { due } => {
                let last = Last::without_run(*due, claim.node, claim.schedule);
                self.view.as_ref().unwrap_or(&View::default()).init(last)
            }
            Phase::Close { run } => Ask::Close {
                created: run.as_ref().map_or(Revision(0), |(created, _)| *created),
                last: Last::closed_by(&claim),
            },
            Phase::CloseRepetition { last_modified, last, .. } => {
                Ask::CloseRepetition { last_modified: *last_modified, last: last.clone() }
            }
            Phase::Read | Phase::Said(_) => Ask::Read,
        }
    }

    /// The answer to what was sent. `engine_time` is the engine's clock now, if it is known.
    pub fn answered(
        &mut self,
        answer: Answer,
        sent: BootMs,
        arrived: BootMs,
        engine_time: Option<UnixMs>,
    ) {
        self.not_before = arrived;
        match answer {
            Answer::Applied(applied) => self.applied(&applied, sent, arrived),
            Answer::Seen(view) => {
                self.phase = self.reason(&view, arrived, engine_time);
                self.view = Some(*view);
            }
            Answer::Denied(denial) => self.denied(denial, arrived),
            Answer::Unknown => {
                self.was_unknown = true;
                let (least, most) = RESEND;
                let after = self.spread.between(least, most);
                self.again(arrived.plus(after));
            }
        }
    }

    fn denied(&mut self, denial: Denial, arrived: BootMs) {
        self.was_unknown |= denial.may_be_applied() && self.phase != Phase::Read;
        if self.was_unknown {
            // If nothing has become of this copy, there are others.
            self.again(arrived.plus(RESEND_DENIED));
        } else {
            self.phase = Phase::said(NotClaimed::Refused(denial));
        }
    }

    /// The same claim again; a due time that is given up is closed instead.
    fn again(&mut self, at: BootMs) {
        self.not_before = at;
        self.phase = match (&self.phase, self.claim.kind) {
            (Phase::Read | Phase::Claim { .. }, ClaimKind::ByHand) => return,
            (_, ClaimKind::ByHand) => Phase::Read,
            (_, ClaimKind::Due) if self.gives_up => Phase::Close { run: None },
            _ => Phase::Claim { result_modified: Revision(0) },
        };
    }

    fn applied(&mut self, applied: &Applied, sent: BootMs, arrived: BootMs) {
        let fence = applied.revision;
        let won = |created, last_modified, seen: Option<&View>| Won {
            created,
            fence,
            sent,
            last_modified,
            last_before: applied.last_before.clone(),
            result: match seen {
                Some(view) => view.result.as_ref().map(|result| result.value.clone()),
                None => applied.result.clone(),
            },
            done: match seen {
                Some(view) => view.done.as_ref().map(|done| done.value),
                None => applied.done,
            },
        };
        self.phase = match &self.phase {
            Phase::Claim { .. } => {
                let wrote_last = self.claim.kind != ClaimKind::ByHand;
                self.won(won(fence, wrote_last.then_some(fence), None), arrived)
            }
            Phase::Again { .. } => self.won(won(fence, Some(fence), self.view.as_ref()), arrived),
            Phase::Own { created, last_modified, .. } => {
                self.won(won(*created, *last_modified, self.view.as_ref()), arrived)
            }
            Phase::Close { run: Some((_, run)) } => Phase::said(NotClaimed::Overlap(run.clone())),
            Phase::Close { run: None } => Phase::said(NotClaimed::Missed),
            Phase::CloseRepetition { run, .. } => Phase::said(NotClaimed::Busy(Some(run.clone()))),
            Phase::Restore { due } if self.is_due() && *due >= self.claim.due => {
                Phase::said(NotClaimed::Missed)
            }
            Phase::Read | Phase::Restore { .. } | Phase::Said(_) => {
                return self.again(arrived);
            }
        };
    }

    fn won(&self, won: Won, arrived: BootMs) -> Phase {
        let won = Box::new(won);
        let in_time = arrived < deadline(won.sent, self.claim.ttl);
        Phase::Said(Box::new(if in_time { Claimed::Won(won) } else { Claimed::WonTooLate(won) }))
    }

    /// Why the claim was not applied, and what comes next.
    fn reason(&mut self, view: &View, arrived: BootMs, engine_time: Option<UnixMs>) -> Phase {
        let others = view.run.as_ref();
        if let Some(own) = others.filter(|run| run.value.claim == self.claim.id) {
            let last = view.last.as_ref().filter(|last| last.value.claim == Some(self.claim.id));
            let last_modified = last.map(|last| last.modified);
            let beat = own.value.beat.saturating_add(1);
            return Phase::Own { created: own.created, beat, last_modified };
        }
        if let ClaimKind::ByHand = self.claim.kind {
            return self.reason_by_hand(view, arrived);
        }
        let Some(last) = &view.last else {
            self.forgotten = true;
            return Phase::Restore { due: self.restored(view) };
        };
        if last.value.claim == Some(self.claim.id) {
            return self.reason_as_last(last, others);
        }
        if let ClaimKind::Repetition { last_modified } = self.claim.kind {
            if last.modified != last_modified {
                return Phase::said(NotClaimed::Busy(boxed(others)));
            }
        } else if last.value.run == Some(self.claim.run) {
            return Phase::said(NotClaimed::Lost);
        }
        if engine_time.is_some_and(|now| last.value.due > now.plus(AHEAD)) {
            let due = last.value.due;
            return Phase::said(NotClaimed::Refused(Denial::LastAhead { due }));
        }
        if self.claim.kind == ClaimKind::Due && last.value.due >= self.claim.due {
            let up_to = last.value.due;
            let unknown = self.was_unknown && up_to > self.claim.due;
            return Phase::said(NotClaimed::Elsewhere { up_to, unknown });
        }
        if let Some(paused) = view.paused() {
            return Phase::said(NotClaimed::Paused(paused));
        }
        if let Some(run) = others {
            return self.reason_of_others(run, last, arrived);
        }
        // Nothing is in the way; not at once again, should the engine say so for ever.
        let claimed = matches!(self.phase, Phase::Claim { .. });
        self.again(if claimed { arrived.plus(LOOK) } else { arrived });
        self.phase.clone()
    }

    /// What `last` is made anew with. It may have been of this very due time, unless the run of an earlier one is
    /// still there.
    fn restored(&self, view: &View) -> UnixMs {
        let is_open = self.is_due() && view.running().is_some_and(|due| due < self.claim.due);
        let least = if is_open { self.options.if_forgotten } else { self.claim.due };
        view.newest_run().unwrap_or_default().max(least)
    }

    fn is_due(&self) -> bool {
        self.claim.kind == ClaimKind::Due
    }

    /// This claim wrote `last`, and its run is not there.
    fn reason_as_last(&self, last: &Versioned<Last>, others: Option<&Versioned<Run>>) -> Phase {
        let closed_for = match &self.phase {
            Phase::Close { run: Some((_, run)) } => Some(run.clone()),
            _ => boxed(others),
        };
        match (last.value.attempt, others) {
            (0, _) => Phase::said(match closed_for {
                Some(run) => NotClaimed::Overlap(run),
                None => NotClaimed::Missed,
            }),
            (_, None) => Phase::Again { last_modified: last.modified },
            (_, Some(_)) => Phase::said(NotClaimed::Lost),
        }
    }

    /// A run of others is in the way. It counts as an overlap only if its holder is known to live: the run of a
    /// dead one would have the whole fleet leave out a due time.
    fn reason_of_others(
        &mut self,
        run: &Versioned<Run>,
        last: &Versioned<Last>,
        arrived: BootMs,
    ) -> Phase {
        let boxed = Box::new(run.value.clone());
        if let ClaimKind::Repetition { last_modified } = self.claim.kind {
            return Phase::CloseRepetition { last_modified, last: last.value.clone(), run: boxed };
        }
        let (created, modified) = *self.first_seen.get_or_insert((run.created, run.modified));
        let has_changed = created == run.created && modified != run.modified;
        if created != run.created {
            self.first_seen = Some((run.created, run.modified));
        }
        let is_alive = has_changed || self.options.alive == Some(run.created);
        let is_overlap = is_alive && self.options.while_running == WhileRunning::Skip;
        if self.gives_up || is_overlap {
            return Phase::Close { run: Some((run.created, boxed)) };
        }
        let after = match self.options.while_running {
            WhileRunning::Queue => LOOK,
            // Its next beat is due by then.
            WhileRunning::Skip => self.spread.between(run.value.ttl / 3, run.value.ttl * 2 / 5),
        };
        self.again(arrived.plus(after));
        self.phase.clone()
    }

    fn reason_by_hand(&mut self, view: &View, arrived: BootMs) -> Phase {
        if view.result.as_ref().is_some_and(|result| result.value.claim == self.claim.id) {
            return Phase::said(NotClaimed::Lost);
        }
        let result_modified = view.result.as_ref().map_or(Revision(0), |result| result.modified);
        let Some(run) = &view.run else {
            if self.phase == (Phase::Claim { result_modified }) {
                self.not_before = arrived.plus(LOOK);
            }
            return Phase::Claim { result_modified };
        };
        if self.patient_until.is_some_and(|until| arrived >= until) {
            return Phase::said(NotClaimed::Busy(Some(Box::new(run.value.clone()))));
        }
        self.not_before = arrived.plus(LOOK);
        Phase::Read
    }

    /// The due time is not to be run any more: the next one has come, or nobody can know whether it was run.
    pub fn give_up(&mut self) {
        self.gives_up = true;
        let is_asking = self.not_before == BootMs::NEVER;
        let waits = !is_asking && matches!(self.phase, Phase::Claim { .. });
        if waits && self.claim.kind == ClaimKind::Due {
            self.again(BootMs(0));
        }
    }

    /// A run that was in the way has gone: what waits is sent now.
    pub fn run_has_gone(&mut self) {
        if self.not_before != BootMs::NEVER {
            self.not_before = BootMs(0);
        }
    }

    /// What was seen last, for [`Observing::seen`](super::Observing::seen) and for what is shown.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Whether the engine had forgotten the timer; true once.
    pub fn take_forgotten(&mut self) -> bool {
        std::mem::take(&mut self.forgotten)
    }
}

impl Phase {
    fn said(not: NotClaimed) -> Self {
        Self::Said(Box::new(Claimed::Not(not)))
    }
}

fn boxed(run: Option<&Versioned<Run>>) -> Option<Box<Run>> {
    run.map(|run| Box::new(run.value.clone()))
}

/// Until when a run may go on whose last write that was answered was sent at this instant: others remove it
/// after a whole ttl, by clocks that may run faster than ours.
pub(super) fn deadline(sent: BootMs, ttl: Duration) -> BootMs {
    sent.plus(ttl.saturating_sub((ttl / 10).max(Duration::from_secs(1))))
}
