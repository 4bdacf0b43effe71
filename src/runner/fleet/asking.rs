//! A claim that the fleet is asked for, until its answer is definite and recorded.

use std::rc::Rc;

use super::held::HeldRun;
use super::{FleetJob, LATER, MOST_ENDING, STEPS, boot_now};
use crate::fleet::{
    BootMs, ClaimId, ClaimKind, ClaimOptions, ClaimRequest, Claimed, Claiming, Denial, Do,
    NotClaimed, Outcome, Revision, WhileRunning, Won,
};
use crate::nginx::log::Level;
use crate::os::wall_clock;
use crate::runner::job::{Job, JobState};
use crate::runner::look::{MUCH_LATER, NextStep};
use crate::runner::run::new_run_id;
use crate::schedule::{UnixMs, stable_hash};
use crate::state::{
    self, Asked, Attempt, ClaimAttempt, DueTimes, Look, OpenClaim, OpenEnd, OpenEnded,
    OverlapPolicy, Trigger, Wanted,
};

/// A claim that is under way.
pub(super) struct Asking {
    claiming: Claiming,
    open: Box<OpenClaim>,
    /// The due time that the fleet had taken last before this one, as far as it was seen.
    last: Option<UnixMs>,
    /// Whether it was sent, by whomever.
    was_sent: bool,
    /// What the fleet has answered, if that is still to be recorded, and when it can be.
    answered: Option<(Claimed, BootMs)>,
}

impl Asking {
    pub(super) fn id(&self) -> ClaimId {
        self.claiming.claim().id
    }
}

/// Whether an open claim was begun just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Now,
    /// By a worker that has died or left: it may have been sent.
    Before,
}

impl Job {
    /// The record says that the fleet is asked: asks it.
    pub(in crate::runner) fn ask_fleet(&self, open: Box<OpenClaim>) -> NextStep {
        if let Some(fleet) = self.fleet() {
            fleet.ask_for(self, open, Begun::Now);
        }
        NextStep::Rest
    }
}

impl FleetJob {
    /// A claim for the fleet.
    pub(in crate::runner) fn attempt(&self, wanted: Wanted, look: &Look<'_>) -> ClaimAttempt {
        let known = self.known.borrow();
        let kind = match wanted {
            // What it depends on is read before it is sent.
            Wanted::Order { .. } => state::ClaimKind::Manual { result: 0 },
            Wanted::Repetition { .. } => {
                state::ClaimKind::Repetition { last: known.repeated.unwrap_or_default().0 }
            }
            Wanted::Due { .. } | Wanted::Next { .. } => state::ClaimKind::Due,
        };
        let asked = Asked { id: ClaimId(new_run_id(&self.name).0), kind };
        ClaimAttempt::for_fleet(wanted, new_run_id(&self.name), asked, look)
    }

    /// Asks the fleet for what the record says is asked for.
    pub(super) fn ask_for(&self, job: &Job, open: Box<OpenClaim>, begun: Begun) {
        self.use_reading();
        let (attempt, asked) = (open.attempt(), open.asked());
        let claim = self.request(asked.id, kind(asked.kind), attempt);
        let due_times = &job.conf.due_times;
        let before = due_times.newest(UnixMs(attempt.due.0.saturating_sub(1)));
        let is_missed = attempt.trigger == Trigger::Missed;
        let options = ClaimOptions {
            while_running: match job.conf.overlap {
                OverlapPolicy::Skip => WhileRunning::Skip,
                OverlapPolicy::Queue => WhileRunning::Queue,
            },
            alive: self.observing.borrow().alive(boot_now()),
            if_forgotten: before.filter(|due| !is_missed && due.0 > 0).unwrap_or(attempt.due),
            sent_before: begun == Begun::Before,
            seed: stable_hash(&[&asked.id.0]),
        };
        let claiming = Claiming::new(claim, options);
        let was_sent = begun == Begun::Before;
        let last = self.known.borrow().view.as_ref().and_then(|view| view.due_before(attempt.due));
        self.asking.replace(Some(Asking { claiming, open, last, was_sent, answered: None }));
        drop(job.enter(JobState::Asking));
        job.drive();
    }

    /// The claim of an attempt.
    pub(super) fn request(&self, id: ClaimId, kind: ClaimKind, attempt: &Attempt) -> ClaimRequest {
        ClaimRequest {
            id,
            kind,
            run: attempt.run,
            due: attempt.due,
            attempt: attempt.number,
            trigger: attempt.trigger,
            started_at: attempt.started_at,
            node: self.node.clone(),
            ttl: self.fleet.ttl,
            schedule: self.schedule,
        }
    }

    /// The due time that is asked for, or an instant later than any if none is.
    pub(super) fn asks_for(&self) -> Option<UnixMs> {
        self.asking.borrow().as_ref().map(|asking| {
            let claim = asking.claiming.claim();
            if claim.kind == ClaimKind::Due { claim.due } else { UnixMs(i64::MAX) }
        })
    }

    /// The next due time has come while one is asked for.
    pub(super) fn next_is_due(&self, job: &Job) {
        if let Some(asking) = self.asking.borrow_mut().as_mut() {
            asking.claiming.give_up();
        }
        job.drive();
    }

    /// Nobody starts what is asked for here: a successor asks for it again.
    pub(super) fn leave_claim(&self, job: &Job) {
        let asking = self.asking.take();
        if asking.is_some() {
            drop(asking);
            drop(job.enter(JobState::Idle));
            job.worker.leave_work();
        }
    }

    /// Has the claim that is under way do what it is to do now.
    pub(super) fn ask(&self, job: &Job, now: BootMs) -> Option<BootMs> {
        for _ in 0..STEPS {
            if job.is_over() {
                self.leave_claim(job);
                job.worker.tell_others();
                return None;
            }
            let (next, due, was_sent) = {
                let mut asking = self.asking.borrow_mut();
                let asking = asking.as_mut()?;
                let claim = asking.claiming.claim();
                let due = Some(claim.due).filter(|_| claim.kind == ClaimKind::Due);
                // What a repetition depends on is of another engine.
                let is_void = matches!(claim.kind, ClaimKind::Repetition { .. })
                    && self.client.is_before_reset(claim.due);
                if due.is_some_and(|due| self.client.is_before_reset(due)) {
                    asking.claiming.give_up();
                }
                let next = match asking.answered.take() {
                    None if is_void => Do::Say(Claimed::Not(NotClaimed::Busy(None))),
                    Some((answered, at)) if now < at => {
                        asking.answered = Some((answered, at));
                        Do::Wait(at)
                    }
                    Some((answered, _)) => Do::Say(answered),
                    None => asking.claiming.step(now),
                };
                (next, due, asking.was_sent)
            };
            match next {
                Do::Wait(until) => return Some(until),
                Do::Say(claimed) => self.conclude(job, claimed),
                Do::Send(_) if !was_sent && due.is_some_and(|due| self.is_ahead(due)) => {
                    // It was never sent: the due time stays open.
                    self.conclude(job, Claimed::Not(NotClaimed::Busy(None)));
                }
                Do::Send(ask) => {
                    if let Some(asking) = self.asking.borrow_mut().as_mut() {
                        asking.was_sent = true;
                    }
                    let Some(id) = self.asking.borrow().as_ref().map(Asking::id) else { continue };
                    self.exchange(ask, move |job, fleet, answer, sent, arrived| {
                        let engine_time = fleet.client.time();
                        let view = {
                            let mut asking = fleet.asking.borrow_mut();
                            let asking = asking.as_mut().filter(|asking| asking.id() == id);
                            let Some(asking) = asking else { return };
                            asking.claiming.answered(answer, sent, arrived, engine_time);
                            let view = asking.claiming.view().cloned();
                            let due = asking.claiming.claim().due;
                            let last = view.as_ref().and_then(|view| view.due_before(due));
                            asking.last = last.or(asking.last);
                            view
                        };
                        if let Some(view) = view {
                            fleet.seen(job, &view, arrived);
                        }
                    });
                }
            }
        }
        Some(now.plus(LATER))
    }

    /// The run that a claim may wait for has gone.
    pub(super) fn run_has_gone(&self) {
        if let Some(asking) = self.asking.borrow_mut().as_mut() {
            asking.claiming.run_has_gone();
        }
        self.goes_on.set(true);
    }

    fn is_ahead(&self, due: UnixMs) -> bool {
        self.client.ahead(due).is_some()
    }

    /// Records what the fleet has answered.
    fn conclude(&self, job: &Job, claimed: Claimed) {
        let Some(asking) = self.asking.take() else { return };
        let Asking { mut claiming, open, last, was_sent, .. } = asking;
        if claiming.take_forgotten() {
            let (fleet, name) = (&self.fleet.name, &self.name);
            job.conf.location.log().write(
                Level::Error,
                format_args!("fleet \"{fleet}\" has forgotten timer \"{name}\""),
            );
        }
        let end = claimed.end(last);
        match open.end(job.timer(), end, &mut wall_clock) {
            OpenEnded::Again { after, open } => {
                let answered = Some((claimed, boot_now().plus(after)));
                self.asking.replace(Some(Asking { claiming, open, last, was_sent, answered }));
            }
            OpenEnded::Won(claim) => {
                if let Claimed::Won(won) = claimed {
                    self.won(job, &claiming, &won, claim);
                }
            }
            OpenEnded::Closed => {
                drop(job.enter(JobState::Idle));
                self.closed(job, &claiming, claimed);
            }
            OpenEnded::NotWritten(open) => {
                drop(job.enter(JobState::Idle));
                let lost = OpenEnd::Lost { last: None };
                let _ = open.end(job.timer(), lost, &mut wall_clock);
                if let Claimed::Won(won) = claimed {
                    self.give_back(&claiming, &won);
                }
                job.set_alarm(MUCH_LATER);
            }
        }
        job.report_left_out();
        self.goes_on.set(true);
    }

    /// The claim is won, and recorded as running.
    fn won(&self, job: &Job, claiming: &Claiming, won: &Won, claim: Box<state::Claim>) {
        let request = claiming.claim();
        if request.kind == ClaimKind::Due {
            self.has_won(request.due);
        }
        job.has_won(&claim);
        if let Some(last) = &won.last_before {
            self.tell_schedule(job, last);
        }
        self.tell_last_end(job, won);
        let last_success = won.result.as_ref().and_then(|result| result.last_success_at);
        let run = HeldRun::won(request.clone(), won, claim, last_success);
        self.held.replace(Some(run));
        drop(job.enter(JobState::Held));
    }

    /// The claim came to nothing, and that is recorded.
    fn closed(&self, job: &Job, claiming: &Claiming, claimed: Claimed) {
        let request = claiming.claim();
        match claimed {
            Claimed::WonTooLate(won) => {
                self.give_back(claiming, &won);
                job.report_lost(request.run, "the claim was answered too late");
            }
            Claimed::Won(won) => self.give_back(claiming, &won),
            Claimed::Not(NotClaimed::Lost) => {
                job.report_lost(request.run, "removed by another node");
            }
            Claimed::Not(NotClaimed::Elsewhere { up_to, .. }) => self.tell_elsewhere(job, up_to),
            Claimed::Not(NotClaimed::Overlap(run)) => {
                let since = wall_clock().since(run.started_at);
                job.tell_overlap(since);
            }
            Claimed::Not(NotClaimed::Refused(denial)) => {
                self.tell_refused(job, &denial);
                return job.set_alarm(MUCH_LATER);
            }
            Claimed::Not(NotClaimed::Paused(_) | NotClaimed::Missed | NotClaimed::Busy(_)) => {}
        }
        job.post();
    }

    /// Tells the fleet that what was won here does not run.
    fn give_back(&self, claiming: &Claiming, won: &Won) {
        self.keep_ending(HeldRun::lost(claiming.claim().clone(), won));
    }

    /// Logs how the last run ended that nobody has logged: its host has died.
    fn tell_last_end(&self, job: &Job, won: &Won) {
        let last = won.done.zip(won.result.as_ref()).filter(|(done, result)| {
            let is_died = matches!(done.outcome, Outcome::Interrupted | Outcome::Lost);
            is_died && result.run == done.run && result.node != self.node
        });
        let Some((done, result)) = last else { return };
        let (name, node, due) = (&self.name, result.node.as_str(), result.due);
        let (outcome, run) = (done.outcome, done.run);
        job.conf.location.log().write(Level::Notice, format_args!(
            "timer \"{name}\": last run of node \"{node}\" was {outcome}, due {due}, timer: \"{name}\", \
             run: {run}"
        ));
    }

    fn tell_refused(&self, job: &Job, denial: &Denial) {
        if let Denial::LastAhead { due } = denial {
            self.client.last_ahead(&self.name, *due);
        }
        let _ = job;
    }

    /// Keeps a run whose end is recorded, until the fleet knows of it.
    pub(super) fn keep_ending(&self, run: Rc<HeldRun>) {
        let mut ending = self.ending.borrow_mut();
        if ending.iter().any(|other| Rc::ptr_eq(other, &run)) {
            return;
        }
        if ending.len() >= MOST_ENDING {
            ending.remove(0);
        }
        ending.push(run);
        self.goes_on.set(true);
    }
}

fn kind(kind: state::ClaimKind) -> ClaimKind {
    match kind {
        state::ClaimKind::Due => ClaimKind::Due,
        state::ClaimKind::Manual { .. } => ClaimKind::ByHand,
        state::ClaimKind::Repetition { last } => {
            ClaimKind::Repetition { last_modified: Revision(last) }
        }
    }
}
