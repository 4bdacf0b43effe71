//! A run that was won, until its end is definite.

use std::time::Duration;

use super::claimed::Won;
use super::claiming::deadline;
use super::engine::{Answer, Applied, Ask, View};
use super::instant::{BootMs, Do, Spread};
use super::values::{ClaimKind, ClaimRequest, LastResult, Outcome, Revision, Run, Versioned};
use crate::schedule::UnixMs;

/// What a run that is held comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The attempt starts now: first it is recorded, then the request is made.
    Start {
        /// Its number.
        attempt: u32,
        /// `$timer_fence`.
        fence: Revision,
    },
    /// The request is cut off, if there is one, and the run is recorded as lost. More is to be done: the engine
    /// is told so.
    GiveUp,
    /// The run has ended, and the engine knows it. After [`GiveUp`](Held::GiveUp) it was recorded already.
    Ended(Outcome),
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptEnded {
    /// Its outcome.
    pub outcome: Outcome,
    /// When it started, by the wall clock.
    pub started_at: UnixMs,
    /// How long it took.
    pub duration: Duration,
    /// When the next attempt is to be made, if there is one.
    pub next_at: Option<BootMs>,
}

/// A run that is held.
///
/// ```text
///          won                    it failed, and has one more attempt
///    ---------------> Start        +------------------------------+
///                      |  ^        |                              v
///             (Start)  v  |        |          it is time       Waiting <---- TakingOver
///                    Running ------+     Next <----------------- |
///                      |                  |  ^ `last` was        |
///      it has ended    |                  |  | written since     | nobody waits for it
///                      v     applied      v  +-----+             v
///                    Ending  <--------- (Start)              Ending
///                      | applied, or seen to have been
///                      v
///                    (Ended)
/// ```
///
/// In `Running` and `Waiting` it beats. When a beat is refused, or the deadline passes, it is given up: the way
/// is `Ending` as lost. In all but `Running` nothing of the run is in progress.
///
/// # Invariants
///
/// `deadline` follows from the time of *sending* of the newest write of `run` that is known to be applied. Others
/// begin to count their ttl when they have read it, which is later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holding {
    /// With the number of the attempt that is made, or was made last.
    claim: ClaimRequest,
    created: Revision,
    fence: Revision,
    deadline: BootMs,
    spread: Spread,
    phase: Phase,
    asking: Option<Asking>,
    /// Nothing but a beat is sent before.
    not_before: BootMs,
    beat_at: BootMs,
    beat: u32,
    /// When our claim wrote `last`: `None` if that has to be read.
    last_modified: Option<Revision>,
    /// The run that ended before.
    before: Option<LastResult>,
    gave_up: bool,
    /// Whether an end may be applied, or have been, that says more than that it is lost.
    told_in_time: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    TakingOver {
        last: AttemptEnded,
        until: BootMs,
    },
    Start,
    Running,
    Waiting {
        last: AttemptEnded,
    },
    /// The next attempt is being written. `last` may have been written by others since.
    Next {
        last: AttemptEnded,
        is_last: bool,
    },
    Ending {
        last: AttemptEnded,
    },
    Over(Outcome),
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asking {
    Beat,
    /// A beat that is the next attempt.
    NextBeat,
    Attempt,
    Read,
    End(Outcome),
}

const RESEND: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How soon an end is sent again that is not lost yet.
const RESEND_IN_TIME: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));
/// How soon a beat is made again, or another attempt asked for.
const RETRY: Duration = Duration::from_secs(1);

impl Holding {
    /// A claim that was won: its first attempt starts, or it is lost if it is too late for that.
    pub fn won(claim: ClaimRequest, won: &Won) -> Self {
        let deadline = deadline(won.sent, claim.ttl);
        Self {
            fence: won.fence,
            deadline,
            beat_at: won.sent.plus(claim.ttl / 3),
            last_modified: won.last_modified,
            before: won.result.clone(),
            ..Self::new(claim, won.created, Phase::Start)
        }
    }

    /// A run of a worker of this host that has left, which waits for its next attempt: `claim` has the number
    /// of the last one.
    pub fn take_over(
        claim: ClaimRequest,
        created: Revision,
        last: AttemptEnded,
        now: BootMs,
    ) -> Self {
        let until = now.plus(claim.ttl);
        Self::new(claim, created, Phase::TakingOver { last, until })
    }

    /// A run whose process has died: the engine is told that it was interrupted. Nobody needs to wait for it.
    pub fn interrupted(claim: ClaimRequest, created: Revision, last: AttemptEnded) -> Self {
        let last = AttemptEnded { outcome: Outcome::Interrupted, ..last };
        Self { gave_up: true, ..Self::new(claim, created, Phase::Ending { last }) }
    }

    fn new(claim: ClaimRequest, created: Revision, phase: Phase) -> Self {
        Self {
            spread: Spread::new(created.0),
            created,
            fence: created,
            deadline: BootMs(0),
            phase,
            asking: None,
            not_before: BootMs(0),
            beat_at: BootMs(0),
            beat: 1,
            last_modified: None,
            before: None,
            gave_up: false,
            told_in_time: false,
            claim,
        }
    }

    /// What is to be done now.
    pub fn step(&mut self, now: BootMs) -> Do<Held> {
        if self.is_lost(now) {
            self.gave_up = true;
            if !matches!(self.phase, Phase::Ending { .. }) {
                let last = self.lost();
                self.phase = Phase::Ending { last };
            }
            return Do::Say(Held::GiveUp);
        }
        if let Phase::Over(outcome) = self.phase {
            return Do::Say(Held::Ended(outcome));
        }
        if self.phase == Phase::Start {
            self.phase = Phase::Running;
            return Do::Say(Held::Start { attempt: self.claim.attempt, fence: self.fence });
        }
        if self.asking.is_some() {
            return Do::Wait(self.deadline_ahead(now));
        }
        match self.phase {
            Phase::Waiting { last } if last.next_at.is_some_and(|at| now >= at) => {
                self.claim.attempt += 1;
                self.not_before = now;
                self.phase = Phase::Next { last, is_last: self.claim.kind != ClaimKind::ByHand };
            }
            _ => {}
        }
        let (asking, at) = self.wanted(now);
        if now < at {
            return Do::Wait(at.min(self.deadline_ahead(now)));
        }
        self.asking = Some(asking);
        Do::Send(self.ask(asking))
    }

    /// Whether the run is lost, and was not given up yet.
    fn is_lost(&self, now: BootMs) -> bool {
        match self.phase {
            _ if self.gave_up => false,
            Phase::Over(_) => false,
            Phase::TakingOver { until, .. } => now >= until,
            // What was told in time may be known to the engine.
            Phase::Ending { .. } if self.told_in_time || self.tells_in_time() => false,
            _ => now >= self.deadline,
        }
    }

    /// Whether an end is under way that says more than that it is lost.
    fn tells_in_time(&self) -> bool {
        matches!(self.asking, Some(Asking::End(outcome)) if outcome != Outcome::Lost)
    }

    fn deadline_ahead(&self, now: BootMs) -> BootMs {
        let deadline = match self.phase {
            Phase::TakingOver { until, .. } => until,
            _ => self.deadline,
        };
        if deadline > now && !self.gave_up { deadline } else { BootMs::NEVER }
    }

    /// What is sent next, and when.
    fn wanted(&self, now: BootMs) -> (Asking, BootMs) {
        match self.phase {
            Phase::Next { is_last: false, .. } => (Asking::NextBeat, self.not_before),
            Phase::Next { .. } if self.last_modified.is_none() => (Asking::Read, self.not_before),
            Phase::Next { .. } => (Asking::Attempt, self.not_before),
            Phase::Ending { last } => {
                // It stays interrupted: nobody is there any more who could go on with it.
                let is_late = now >= self.deadline && last.outcome != Outcome::Interrupted;
                let outcome = if is_late { Outcome::Lost } else { last.outcome };
                (Asking::End(outcome), self.not_before)
            }
            Phase::Waiting { last } => {
                let next_at = last.next_at.unwrap_or(BootMs::NEVER);
                (Asking::Beat, self.beat_at.min(next_at))
            }
            _ => (Asking::Beat, self.beat_at),
        }
    }

    fn ask(&mut self, asking: Asking) -> Ask {
        let created = self.created;
        if !matches!(asking, Asking::Read | Asking::End(_)) {
            self.beat = self.beat.saturating_add(1);
        }
        match asking {
            Asking::Beat | Asking::NextBeat => {
                Ask::Beat { run: Run::of(&self.claim, self.beat), created }
            }
            Asking::Attempt => Ask::Attempt {
                claim: self.claim.clone(),
                created,
                last_modified: self.last_modified.unwrap_or_default(),
                beat: self.beat,
            },
            Asking::Read => Ask::Read,
            Asking::End(outcome) => Ask::End { created, result: self.result(outcome) },
        }
    }

    /// The answer to what was sent.
    pub fn answered(&mut self, answer: Answer, sent: BootMs, arrived: BootMs) {
        let Some(asking) = self.asking.take() else { return };
        match answer {
            Answer::Applied(applied) => self.applied(asking, &applied, sent),
            Answer::Seen(view) => self.seen(asking, &view, arrived),
            Answer::Unknown | Answer::Denied(_) => {
                let is_unknown = answer == Answer::Unknown;
                if let Asking::End(outcome) = asking {
                    self.told_in_time |= is_unknown && outcome != Outcome::Lost;
                    let in_time = arrived < self.deadline;
                    let (least, most) = if in_time { RESEND_IN_TIME } else { RESEND };
                    self.not_before = arrived.plus(self.spread.between(least, most));
                } else {
                    self.not_before = arrived.plus(RETRY);
                }
                self.beat_at = arrived.plus(RETRY);
            }
        }
    }

    fn applied(&mut self, asking: Asking, applied: &Applied, sent: BootMs) {
        if let Asking::End(outcome) = asking {
            self.phase = Phase::Over(outcome);
            return;
        }
        self.deadline = self.deadline.max(deadline(sent, self.claim.ttl));
        self.beat_at = sent.plus(self.claim.ttl / 3);
        match (asking, self.phase) {
            (Asking::Attempt | Asking::NextBeat, Phase::Next { .. }) => {
                if asking == Asking::Attempt {
                    self.last_modified = Some(applied.revision);
                }
                self.fence = applied.revision;
                self.phase = Phase::Start;
            }
            (Asking::Beat, Phase::TakingOver { last, .. }) => {
                self.phase = Phase::Waiting { last };
            }
            _ => {}
        }
    }

    fn seen(&mut self, asking: Asking, view: &View, arrived: BootMs) {
        if let Asking::End(outcome) = asking {
            self.phase = Phase::Over(self.ended_as(view, outcome, arrived));
            return;
        }
        self.before = view.result.as_ref().map(|result| result.value.clone());
        let is_ours =
            |run: &Versioned<Run>| run.created == self.created && run.value.claim == self.claim.id;
        let is_held = view.run.as_ref().is_some_and(is_ours);
        match self.phase {
            // The next end that is sent finds out.
            Phase::Ending { .. } | Phase::Over(_) => {}
            Phase::Next { last, .. } if is_held => self.next_seen(view, last, arrived),
            _ => {
                self.deadline = BootMs(0);
                if let Phase::TakingOver { until, .. } = &mut self.phase {
                    *until = BootMs(0);
                }
            }
        }
    }

    /// The next attempt was not written, or `last` was read for it.
    fn next_seen(&mut self, view: &View, ended: AttemptEnded, arrived: BootMs) {
        self.not_before = arrived;
        let ours = view.last.as_ref().filter(|last| last.value.claim == Some(self.claim.id));
        let is_last = match ours {
            // A copy was applied whose answer was not heard: a beat gives the fence.
            Some(last) if last.value.attempt >= self.claim.attempt => false,
            Some(last) => {
                self.last_modified = Some(last.modified);
                true
            }
            // Resumed, reset or closed meanwhile: the run is still ours, and `last` is not.
            None => false,
        };
        self.phase = Phase::Next { last: ended, is_last };
    }

    /// How the run ended, if it is not there any more.
    fn ended_as(&self, view: &View, said: Outcome, arrived: BootMs) -> Outcome {
        let done = view.done.as_ref().map(|done| done.value);
        let done = done.filter(|done| done.claim == self.claim.id).map(|done| done.outcome);
        let result = view.result.as_ref().map(|result| &result.value);
        let result = result.filter(|result| result.claim == self.claim.id);
        match done.or_else(|| result.map(|result| result.outcome)) {
            // By an observer; or by us, of a process that has died.
            Some(Outcome::Interrupted) if said != Outcome::Interrupted => Outcome::Lost,
            Some(outcome) => outcome,
            // Nobody else may have removed it: it was a copy of this end.
            None if self.told_in_time && arrived < self.deadline => said,
            None => Outcome::Lost,
        }
    }

    /// The attempt has ended.
    pub fn attempt_ended(&mut self, last: AttemptEnded) {
        if self.phase == Phase::Running {
            self.phase = match last.next_at {
                Some(_) => Phase::Waiting { last },
                None => Phase::Ending { last },
            };
            self.not_before = BootMs(0);
        }
    }

    /// Nobody waits for the next attempt any more: the run ends like this.
    pub fn stop_waiting(&mut self, outcome: Outcome) {
        if let Phase::TakingOver { last, .. } | Phase::Waiting { last } | Phase::Next { last, .. } =
            self.phase
        {
            self.phase = Phase::Ending { last: AttemptEnded { outcome, ..last } };
            self.not_before = BootMs(0);
        }
    }

    /// The engine is another one, or an older copy of itself: the run is lost, and nothing is asked for it any more.
    pub fn forget(&mut self) {
        self.phase = Phase::Over(Outcome::Lost);
        self.gave_up = true;
    }

    /// Whether nobody else may have taken the run over by now: asked just before an attempt starts, before
    /// each connect, at each piece of the answer, and once a second.
    pub fn may_go_on(&self, now: BootMs) -> bool {
        now < self.deadline && !self.gave_up
    }

    /// When the run was made: the record of the host keeps it for who takes over.
    #[cfg(test)]
    pub fn created(&self) -> Revision {
        self.created
    }

    fn lost(&self) -> AttemptEnded {
        match self.phase {
            Phase::TakingOver { last, .. } | Phase::Waiting { last } | Phase::Next { last, .. } => {
                AttemptEnded { outcome: Outcome::Lost, next_at: None, ..last }
            }
            _ => AttemptEnded {
                outcome: Outcome::Lost,
                started_at: self.claim.started_at,
                duration: Duration::ZERO,
                next_at: None,
            },
        }
    }

    fn result(&self, outcome: Outcome) -> LastResult {
        let (started_at, duration) = match self.phase {
            Phase::Ending { last } => (last.started_at, last.duration),
            _ => (self.claim.started_at, Duration::ZERO),
        };
        let run = Run::of(&self.claim, self.beat);
        LastResult::of(&run, self.before.as_ref(), outcome, started_at, duration)
    }
}
