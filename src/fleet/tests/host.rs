//! A host: its driver, as small as can be.

mod hearing;
mod runs;

use std::time::Duration;

use super::broken_rules::{Rule, is_broken};
use super::oracle::Oracle;
use super::record::{Category, Progress, Record, of_elsewhere};
use super::signed;
use super::world::{Config, Who};
use crate::fleet::engine::Ask;
use crate::fleet::instant::{BootMs, Do};
use crate::fleet::values::{ClaimId, ClaimKind, ClaimRequest, Last, Node, Outcome, Revision};
use crate::fleet::{
    AttemptEnded, ClaimOptions, Claimed, Claiming, Holding, NotClaimed, Observed, Observing,
    WhileRunning, Won,
};
use crate::schedule::{UnixMs, stable_hash};
use crate::state::{RunId, Trigger};

/// A run that is held; only the active one is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct HeldRun {
    holding: Holding,
    claim: ClaimRequest,
    is_active: bool,
    /// The attempt that is being made: when it ends, and its number.
    running: Option<(u64, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host {
    number: usize,
    pub(super) record: Record,
    claiming: Option<Claiming>,
    runs: Vec<HeldRun>,
    observing: Observing,
    reading: Reading,
    init: Init,
    /// When its worker began, by the wall clock.
    loaded_at: Option<i64>,
    /// When the run was made and `result` written that the last one found.
    found: (Revision, Revision),
    ids: u64,
    wants_by_hand: bool,
    /// A claim was won, and nothing has happened since.
    just_won: bool,
}

/// Whether `last` was made, or seen: before that no due time is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Init {
    IsDue,
    Asked,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reading {
    Done { due: i64 },
    Wanted { at: u64, due: i64 },
    Asking { due: i64 },
}

/// What a host's step comes to.
pub(super) struct Stepped {
    pub(super) asks: Vec<(Who, Ask)>,
    pub(super) wake: u64,
}

impl Host {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            record: Record::default(),
            claiming: None,
            runs: Vec::new(),
            observing: Observing::new(number as u64),
            reading: Reading::Done { due: 0 },
            init: Init::IsDue,
            loaded_at: None,
            found: (Revision(0), Revision(0)),
            ids: 0,
            wants_by_hand: false,
            just_won: false,
        }
    }

    fn node(&self) -> Node {
        Node::parse(&format!("web{}", self.number)).unwrap()
    }

    fn id(&mut self) -> [u8; 16] {
        self.ids += 1;
        let high = stable_hash(&[&self.number.to_le_bytes(), &self.ids.to_le_bytes()]);
        (u128::from(high) << 64 | u128::from(self.ids)).to_be_bytes()
    }

    fn request(&mut self, config: &Config, kind: ClaimKind, due: i64, now: u64) -> ClaimRequest {
        ClaimRequest {
            id: ClaimId(self.id()),
            kind,
            run: RunId(self.id()),
            due: UnixMs(due),
            attempt: 1,
            trigger: if kind == ClaimKind::ByHand { Trigger::Manual } else { Trigger::Schedule },
            started_at: UnixMs(signed(now)),
            node: self.node(),
            ttl: config.ttl(),
            schedule: 1,
        }
    }

    pub(super) fn orders(&mut self) {
        self.wants_by_hand = true;
    }

    /// Whether it has seen, or made, what the engine keeps of the timer.
    pub(super) fn has_begun(&self) -> bool {
        self.init == Init::Done
    }

    /// Whether anything of it is under way that a fault could matter to.
    pub(super) fn is_busy(&self) -> bool {
        self.claiming.is_some() || !self.runs.is_empty()
    }

    /// Its worker dies, and another one begins.
    pub(super) fn dies(&mut self, now: u64) {
        self.observing = Observing::new(self.number as u64);
        self.runs.clear();
        self.claiming = None;
        self.reading = Reading::Wanted { at: 0, due: 0 };
        self.init = Init::IsDue;
        self.loaded_at = None;
        self.just_won = false;
        match std::mem::take(&mut self.record.progress) {
            Progress::Nothing => {}
            Progress::Claiming(_) if is_broken(Rule::SuccessorGoesOn) => {}
            Progress::Claiming(claim) => {
                let options = Self::options(&claim, None, true);
                self.record.progress = Progress::Claiming(claim.clone());
                self.claiming = Some(Claiming::new(claim, options));
            }
            Progress::Running(claim, created) => {
                let last = ended(Outcome::Interrupted, None);
                let holding = Holding::interrupted(claim.clone(), created, last);
                self.runs.push(HeldRun { holding, claim, is_active: false, running: None });
            }
            Progress::Waiting(claim, created, last) => {
                let holding = Holding::take_over(claim.clone(), created, last, BootMs(now));
                self.record.progress = Progress::Waiting(claim.clone(), created, last);
                self.runs.push(HeldRun { holding, claim, is_active: true, running: None });
            }
        }
    }

    fn options(claim: &ClaimRequest, alive: Option<Revision>, sent_before: bool) -> ClaimOptions {
        ClaimOptions {
            while_running: WhileRunning::Skip,
            alive,
            if_forgotten: UnixMs(claim.due.0 - 1),
            sent_before,
            seed: stable_hash(&[&claim.id.0]),
        }
    }

    /// The claim of the run that is going on here.
    pub(super) fn running(&self) -> Option<ClaimId> {
        self.runs.iter().find(|run| run.running.is_some()).map(|run| run.claim.id)
    }

    /// Whether this claim is held or open here.
    pub(super) fn has(&self, claim: ClaimId) -> bool {
        self.runs.iter().any(|run| run.is_active && run.claim.id == claim)
            || self.claiming.as_ref().is_some_and(|open| open.claim().id == claim)
    }

    fn ours(&self) -> Option<ClaimId> {
        let held = self.runs.iter().find(|run| run.is_active).map(|run| run.claim.id);
        held.or_else(|| self.claiming.as_ref().map(|open| open.claim().id))
    }

    /// Does all there is to be done now.
    pub(super) fn step(
        &mut self,
        now: u64,
        wall: i64,
        config: &Config,
        oracle: &mut Oracle,
    ) -> Stepped {
        let mut stepped = Stepped { asks: Vec::new(), wake: u64::MAX };
        // A clock that is ahead would take the future from the whole fleet.
        let guard = if is_broken(Rule::ClockGuard) { i64::MAX } else { signed(now) + 5000 };
        let wall = wall.min(guard);
        self.just_won = false;
        if self.init == Init::IsDue {
            self.init = Init::Asked;
            let newest = config.newest(*self.loaded_at.get_or_insert(wall));
            let last = Last::without_run(UnixMs(newest), self.node(), 1);
            let (run_created, result_modified) = self.found;
            stepped.asks.push((Who::Init, Ask::Init { run_created, result_modified, last }));
        }
        loop {
            stepped.wake = u64::MAX;
            let mut goes_on = self.step_observing(now, &mut stepped);
            goes_on |= self.step_runs(now, config, oracle, &mut stepped);
            goes_on |= self.step_claiming(now, config, oracle, &mut stepped);
            if self.just_won {
                // Between the claim and the start a process may stand still.
                stepped.wake = now;
                return stepped;
            }
            goes_on |= self.look(now, wall, config, oracle, &mut stepped);
            if !goes_on {
                return stepped;
            }
        }
    }

    fn look(
        &mut self,
        now: u64,
        wall: i64,
        config: &Config,
        oracle: &mut Oracle,
        stepped: &mut Stepped,
    ) -> bool {
        match self.reading {
            Reading::Wanted { at, due } if at <= now => {
                self.reading = Reading::Asking { due };
                stepped.asks.push((Who::Reading, Ask::Read));
            }
            Reading::Wanted { at, .. } => stepped.wake = stepped.wake.min(at),
            _ => {}
        }
        if let Some(next) = config.dues.iter().find(|due| **due > wall) {
            stepped.wake = stepped.wake.min(now + next.abs_diff(wall));
        } else if wall < config.last_due() {
            stepped.wake = stepped.wake.min(now + 1000);
        }
        let due = config.newest(wall);
        if let Some(claiming) = &mut self.claiming {
            if due > claiming.claim().due.0 && claiming.claim().kind == ClaimKind::Due {
                claiming.give_up();
            }
            return false;
        }
        let is_open = due > self.record.watermark;
        if self.runs.iter().any(|run| run.is_active) {
            let waits = matches!(self.record.progress, Progress::Waiting(..));
            if is_open && !waits {
                self.record.account(config, due, Category::Overlap, 0, oracle);
                return true;
            }
            if is_open {
                self.runs.iter_mut().for_each(|run| run.holding.stop_waiting(Outcome::Failure));
            }
            return false;
        }
        if std::mem::take(&mut self.wants_by_hand) {
            let claim = self.request(config, ClaimKind::ByHand, wall.max(1), now);
            self.claims(claim, now);
            return true;
        }
        if !is_open || self.init != Init::Done {
            return false;
        }
        let before = config.newest(due - 1);
        let must_read = self.number > 0 && config.read_first || before > self.record.watermark;
        match self.reading {
            Reading::Done { due: read }
                if must_read && read < due && !is_broken(Rule::ReadFirst) =>
            {
                self.reading = Reading::Wanted { at: now, due };
            }
            Reading::Done { .. } => {
                let claim = self.request(config, ClaimKind::Due, due, now);
                self.claims(claim, now);
            }
            _ => return false,
        }
        true
    }

    fn claims(&mut self, claim: ClaimRequest, now: u64) {
        let alive = self.observing.alive(BootMs(now));
        let options = Self::options(&claim, alive, false);
        self.record.progress = Progress::Claiming(claim.clone());
        if is_broken(Rule::RecordFirst) {
            self.record.progress = Progress::Nothing;
            self.record.watermark = self.record.watermark.max(claim.due.0);
        }
        self.claiming = Some(Claiming::new(claim, options));
    }

    fn step_observing(&mut self, now: u64, stepped: &mut Stepped) -> bool {
        match self.observing.step(BootMs(now)) {
            Do::Send(ask) => stepped.asks.push((Who::Observing, ask)),
            Do::Wait(at) => {
                stepped.wake = stepped.wake.min(at.0);
                return false;
            }
            Do::Say(observed) => {
                if let Some(claiming) = &mut self.claiming {
                    claiming.run_has_gone();
                }
                if let (Observed::Removed(_), Reading::Done { .. }) = (observed, self.reading) {
                    self.reading = Reading::Wanted { at: now, due: 0 };
                }
            }
        }
        true
    }

    fn step_claiming(
        &mut self,
        now: u64,
        config: &Config,
        oracle: &mut Oracle,
        stepped: &mut Stepped,
    ) -> bool {
        let Some(claiming) = &mut self.claiming else { return false };
        let claim = claiming.claim().clone();
        let claimed = match claiming.step(BootMs(now)) {
            Do::Send(ask) => {
                stepped.asks.push((Who::Claiming, ask));
                return true;
            }
            Do::Wait(at) => {
                stepped.wake = stepped.wake.min(at.0);
                return false;
            }
            Do::Say(claimed) => claimed,
        };
        self.claiming = None;
        self.record.progress = Progress::Nothing;
        match claimed {
            Claimed::Won(won) => self.won(claim, &won, config, oracle, true),
            Claimed::WonTooLate(won) => self.won(claim, &won, config, oracle, false),
            Claimed::Not(not) => self.not_claimed(&claim, &not, config, oracle),
        }
        true
    }

    fn won(
        &mut self,
        claim: ClaimRequest,
        won: &Won,
        config: &Config,
        oracle: &mut Oracle,
        in_time: bool,
    ) {
        let holding = Holding::won(claim.clone(), won);
        if claim.kind == ClaimKind::Due {
            let category = if in_time { Category::Run } else { Category::Lost };
            let fleet = won.last_before.as_ref().map_or(0, |last| last.due.0);
            self.record.account(config, claim.due.0, category, fleet, oracle);
        }
        if in_time {
            self.record.progress = Progress::Running(claim.clone(), won.created);
        }
        self.runs.push(HeldRun { holding, claim, is_active: in_time, running: None });
        self.just_won = in_time;
    }

    fn not_claimed(
        &mut self,
        claim: &ClaimRequest,
        not: &NotClaimed,
        config: &Config,
        oracle: &mut Oracle,
    ) {
        oracle.is_released(claim.id);
        let due = claim.due.0;
        let (up_to, category, fleet) = match *not {
            _ if claim.kind != ClaimKind::Due => return,
            NotClaimed::Overlap(_) => (due, Category::Overlap, 0),
            NotClaimed::Missed => (due, Category::Missed, 0),
            NotClaimed::Lost => (due, Category::Lost, 0),
            NotClaimed::Paused(_) => (due, Category::Paused, 0),
            NotClaimed::Elsewhere { up_to, unknown } => {
                self.record.account(config, due, of_elsewhere(unknown), due, oracle);
                let up_to = config.newest(up_to.0);
                if up_to == due {
                    return;
                }
                (up_to, Category::Elsewhere, up_to)
            }
            NotClaimed::Busy(_) | NotClaimed::Refused(_) => return,
        };
        self.record.account(config, up_to, category, fleet, oracle);
    }
}

fn ended(outcome: Outcome, next_at: Option<BootMs>) -> AttemptEnded {
    AttemptEnded { outcome, started_at: UnixMs(1), duration: Duration::from_millis(1), next_at }
}
