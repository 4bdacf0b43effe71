//! A run that was won: its attempts start when the fleet permits them, and it goes on until it has ended there,
//! or is given up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::{FleetJob, LATER, STEPS, boot_at, boot_now};
use crate::fleet::{
    AttemptEnded, BootMs, ClaimId, ClaimRequest, Do, Held, Holding, Outcome, Revision, Won,
};
use crate::nginx::run::Guard;
use crate::os::wall_clock;
use crate::runner::job::{Job, JobState};
use crate::runner::report::Ending;
use crate::runner::run_queue::Permit;
use crate::runner::running::Running;
use crate::schedule::UnixMs;
use crate::state::{Claim, Ended, FleetClaim};

/// A run that was won.
pub(super) struct HeldRun {
    id: ClaimId,
    pub(super) holding: RefCell<Holding>,
    state: RefCell<HeldState>,
    /// The fence of its newest attempt.
    fence: Cell<Revision>,
    last_success: Option<UnixMs>,
    /// How it ends if it is told to while it waits for its next attempt.
    ends_as: Cell<Option<Ended>>,
    is_given_up: Cell<bool>,
}

/// Where a run that was won stands.
///
/// ```text
///   Ready ──> Granted ──> InProgress ──> Ending ──> Recorded
///     ^   the fleet permits   │                         ^
///     └── another attempt ────┘      given up from any ─┘
/// ```
enum HeldState {
    /// It waits for the fleet, or for the time of its next attempt.
    Ready(Box<Claim>),
    /// The fleet has permitted this attempt, which waits until one more run may be in progress.
    Granted(Box<Claim>, u32),
    /// The job has the claim.
    InProgress,
    /// The last attempt has ended like this; the fleet is being told.
    Ending(Box<Claim>, Rc<Running>, Ending),
    /// The record says how it ended.
    Recorded,
}

impl HeldRun {
    pub(super) fn won(
        request: ClaimRequest,
        won: &Won,
        claim: Box<Claim>,
        last_success: Option<UnixMs>,
    ) -> Rc<Self> {
        let (id, holding) = (request.id, Holding::won(request, won));
        Self::new(id, holding, HeldState::Ready(claim), won.fence, last_success)
    }

    /// One that was won, and is not started.
    pub(super) fn lost(request: ClaimRequest, won: &Won) -> Rc<Self> {
        let (id, holding) = (request.id, Holding::won(request, won));
        Self::new(id, holding, HeldState::Recorded, won.fence, None)
    }

    /// One that waits for its next attempt, of a worker that has left.
    pub(super) fn taken_over(
        request: ClaimRequest,
        fleet: FleetClaim,
        claim: Box<Claim>,
        last: AttemptEnded,
    ) -> Rc<Self> {
        let (id, last_success) = (request.id, claim.last_success_at());
        let holding = Holding::take_over(request, Revision(fleet.created), last, boot_now());
        Self::new(id, holding, HeldState::Ready(claim), Revision(fleet.fence), last_success)
    }

    /// One whose process has died.
    pub(super) fn interrupted(
        request: ClaimRequest,
        fleet: FleetClaim,
        last: AttemptEnded,
    ) -> Rc<Self> {
        let id = request.id;
        let holding = Holding::interrupted(request, Revision(fleet.created), last);
        Self::new(id, holding, HeldState::Recorded, Revision(fleet.fence), None)
    }

    fn new(
        id: ClaimId,
        holding: Holding,
        state: HeldState,
        fence: Revision,
        last_success: Option<UnixMs>,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            holding: RefCell::new(holding),
            state: RefCell::new(state),
            fence: Cell::new(fence),
            last_success,
            ends_as: Cell::new(None),
            is_given_up: Cell::new(false),
        })
    }

    pub(super) fn id(&self) -> ClaimId {
        self.id
    }

    /// Whether an exiting worker stays for it: a run that waits for its next attempt is left to a successor,
    /// and nobody waits for longer than the run may go on.
    pub(super) fn holds_exit(&self) -> bool {
        match *self.state.borrow() {
            HeldState::InProgress => true,
            HeldState::Ending(..) => self.goes_on(),
            _ => false,
        }
    }

    fn enter(&self, state: HeldState) -> HeldState {
        self.state.replace(state)
    }
}

impl Guard for HeldRun {
    fn goes_on(&self) -> bool {
        !self.is_given_up.get() && self.holding.borrow().may_go_on(boot_now())
    }
}

/// What the request of a run shows of the fleet.
#[derive(Clone)]
pub(in crate::runner) struct OfFleet {
    /// The fence of the attempt.
    pub(in crate::runner) fence: u64,
    /// The cluster that it is a number of.
    pub(in crate::runner) cluster: u64,
    /// The start of the last success in the fleet.
    pub(in crate::runner) last_success: Option<UnixMs>,
}

impl FleetJob {
    /// Whether a run is held, in progress or between two attempts.
    pub(in crate::runner) fn is_held(&self) -> bool {
        self.held.borrow().is_some()
    }

    /// Whether the last attempt of the run has ended, and the fleet is still to be told.
    pub(super) fn is_ending(&self) -> bool {
        let held = self.held.borrow();
        held.as_ref().is_some_and(|held| matches!(*held.state.borrow(), HeldState::Ending(..)))
    }

    /// What the attempt that starts now shows, and who decides whether it goes on.
    pub(in crate::runner) fn of_run(&self) -> Option<(OfFleet, Rc<dyn Guard>)> {
        let held = self.held.borrow().clone()?;
        let (fence, last_success) = (held.fence.get().0, held.last_success);
        let of_fleet = OfFleet { fence, cluster: self.client.cluster(), last_success };
        Some((of_fleet, held))
    }

    /// Has a run do what it is to do now.
    pub(super) fn hold(&self, job: &Job, run: &Rc<HeldRun>, now: BootMs) -> Option<BootMs> {
        if job.is_over() && self.leave_waiting(job, run) {
            return None;
        }
        for _ in 0..STEPS {
            let next = run.holding.borrow_mut().step(now);
            match next {
                Do::Wait(until) => return Some(until),
                Do::Send(ask) => {
                    let run = Rc::clone(run);
                    self.exchange(ask, move |_, _, answer, sent, arrived| {
                        run.holding.borrow_mut().answered(answer, sent, arrived);
                    });
                }
                Do::Say(Held::Start { attempt, fence }) => {
                    run.fence.set(fence);
                    self.permitted(job, run, attempt);
                }
                Do::Say(Held::GiveUp) => self.give_up(job, run),
                Do::Say(Held::Ended(outcome)) => {
                    self.has_ended(job, run, outcome);
                    return None;
                }
            }
        }
        Some(now.plus(LATER))
    }

    /// A run that waits is left to a successor by a worker that leaves.
    pub(super) fn leave_waiting(&self, job: &Job, run: &Rc<HeldRun>) -> bool {
        let waits = matches!(*run.state.borrow(), HeldState::Ready(_) | HeldState::Granted(..));
        if waits {
            self.held.take();
            drop(run.enter(HeldState::Recorded));
            drop(job.enter(JobState::Idle));
            job.worker.leave_work();
            job.worker.tell_others();
        }
        waits
    }

    /// The fleet permits an attempt.
    fn permitted(&self, job: &Job, run: &Rc<HeldRun>, attempt: u32) {
        match run.enter(HeldState::Recorded) {
            HeldState::Ready(claim) | HeldState::Granted(claim, _) => {
                run.enter(HeldState::Granted(claim, attempt));
            }
            // Its end is recorded: it was never to start, and the fleet is told so.
            HeldState::Recorded => return run.is_lost(),
            other => {
                run.enter(other);
                return;
            }
        }
        match job.worker.queue.permit() {
            Some(permit) => self.start_granted(job, permit),
            None => job.worker.queue.wait(job.index),
        }
    }

    /// Starts the attempt that the fleet has permitted, if there is one.
    pub(in crate::runner) fn start_granted(&self, job: &Job, permit: Permit) {
        let Some(run) = self.held.borrow().clone() else { return };
        let (mut claim, attempt) = match run.enter(HeldState::InProgress) {
            HeldState::Granted(claim, attempt) => (claim, attempt),
            other => {
                run.enter(other);
                return;
            }
        };
        let is_next = attempt > claim.attempt().number;
        if is_next && job.is_over() {
            run.enter(HeldState::Ready(claim));
            return self.goes_on.set(true);
        }
        let goes_on = run.goes_on();
        if !goes_on || (is_next && !claim.next(attempt, run.fence.get().0, wall_clock())) {
            run.enter(HeldState::Ready(claim));
            if goes_on {
                run.is_lost();
            }
            return self.give_up(job, &run);
        }
        job.start(claim, permit);
        self.goes_on.set(true);
    }

    /// The attempt in progress here has ended.
    pub(in crate::runner) fn attempt_ended(
        &self,
        job: &Job,
        running: &Rc<Running>,
        mut claim: Box<Claim>,
        end: (Ending, Ended),
        next_at: Option<UnixMs>,
    ) {
        let (ending, ended) = end;
        let Some(run) = self.held.borrow().clone() else {
            return job.record_end(running, *claim, ending, None);
        };
        if !run.goes_on() {
            run.is_given_up.set(true);
            run.enter(HeldState::Recorded);
            self.held.take();
            self.keep_ending(run);
            job.record_end(running, *claim, Ending::Lost, None);
            return job.drive();
        }
        let started_at = claim.attempt().started_at;
        run.holding.borrow_mut().attempt_ended(AttemptEnded {
            outcome: ended.outcome,
            started_at,
            duration: ended.duration,
            next_at: next_at.map(boot_at),
        });
        if let Some(next_at) = next_at {
            claim.wait_on(ended, next_at);
            job.report_attempt(running, ending, "");
            run.enter(HeldState::Ready(claim));
            drop(job.enter(JobState::Held));
            job.post();
        } else {
            // Until the fleet knows of the end, the job runs.
            run.enter(HeldState::Ending(claim, Rc::clone(running), ending));
        }
        job.drive();
    }

    /// A run that waits for its next attempt gets none.
    pub(super) fn end_waiting(&self, job: &Job, ended: Ended) {
        let Some(run) = self.held.borrow().clone() else { return };
        if run.ends_as.replace(Some(ended)).is_some() {
            return;
        }
        let granted = match &*run.state.borrow() {
            HeldState::Granted(claim, _) => Some(claim.attempt().started_at),
            _ => None,
        };
        let mut holding = run.holding.borrow_mut();
        match granted {
            Some(started_at) => holding.attempt_ended(AttemptEnded {
                outcome: ended.outcome,
                started_at,
                duration: ended.duration,
                next_at: None,
            }),
            None => holding.stop_waiting(ended.outcome),
        }
        drop(holding);
        job.drive();
    }

    /// Others may take the run over soon: it stops here, and is recorded as lost.
    fn give_up(&self, job: &Job, run: &Rc<HeldRun>) {
        run.is_given_up.set(true);
        if matches!(*run.state.borrow(), HeldState::InProgress) {
            // Recorded when its request has ended.
            return job.cut_off_lost();
        }
        self.settle(job, run, None);
        self.keep_ending(Rc::clone(run));
    }

    /// Runs that were won before a reset are lost. The fleet is not told: it may have given another run the number
    /// by which it would be.
    pub(super) fn forget_runs(&self, job: &Job) {
        self.ending.take();
        let held = self.held.borrow().clone();
        if let Some(run) = held {
            run.holding.borrow_mut().forget();
            self.give_up(job, &run);
        }
    }

    /// The fleet knows of the end, which is what it says.
    fn has_ended(&self, job: &Job, run: &Rc<HeldRun>, outcome: Outcome) {
        self.ending.borrow_mut().retain(|other| !Rc::ptr_eq(other, run));
        if matches!(*run.state.borrow(), HeldState::InProgress) {
            // Given up: its request has still to end.
            return;
        }
        self.settle(job, run, Some(outcome));
        if !job.is_over() {
            // What was interrupted may be repeated: what the fleet knows is read once more.
            if outcome == Outcome::Interrupted {
                self.forget();
                self.read(&job.look_now());
            }
            job.post();
        }
    }

    /// Records the end of a run that is in progress no more, if it is not recorded yet.
    fn settle(&self, job: &Job, run: &Rc<HeldRun>, outcome: Option<Outcome>) {
        let is_current = self.held.borrow().as_ref().is_some_and(|held| Rc::ptr_eq(held, run));
        if is_current {
            self.held.take();
        }
        match run.enter(HeldState::Recorded) {
            HeldState::Ending(claim, running, ending) => {
                let is_so = outcome == Some(ending.outcome());
                let ending = if is_so { ending } else { Ending::Lost };
                job.record_end(&running, *claim, ending, None);
            }
            HeldState::Ready(claim) | HeldState::Granted(claim, _) => {
                drop(job.enter(JobState::Idle));
                let ended = run.ends_as.get().filter(|ended| outcome == Some(ended.outcome));
                let lost = Ended { outcome: Outcome::Lost, status: 0, duration: Duration::ZERO };
                job.record_waiting(*claim, ended.unwrap_or(lost));
            }
            HeldState::InProgress | HeldState::Recorded => {}
        }
    }

    /// The worker is about to end: what is in progress, or ends, is left as it is in the record. Whoever looks
    /// at it next finds that its process has died, and tells the fleet so. Answers the claim of what ends.
    pub(in crate::runner) fn abandon(&self) -> Option<Box<Claim>> {
        match self.held.take()?.enter(HeldState::Recorded) {
            HeldState::Ending(claim, ..) => Some(claim),
            _ => None,
        }
    }
}

impl HeldRun {
    /// It does not run.
    fn is_lost(&self) {
        let now = wall_clock();
        self.holding.borrow_mut().attempt_ended(AttemptEnded {
            outcome: Outcome::Lost,
            started_at: now,
            duration: Duration::ZERO,
            next_at: None,
        });
    }
}
