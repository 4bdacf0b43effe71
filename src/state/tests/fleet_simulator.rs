//! A host of a fleet under a storm: workers that claim, are killed before any write, leave and are followed;
//! a fleet whose answers are late or lost; other hosts; pauses, orders, and new boots.

use std::collections::HashSet;

use crate::schedule::{UnixMs, stable_hash};
use crate::state::worker::paged_file::WriteFault;
use crate::state::worker::shared_claims::dead;
use crate::state::*;

use super::fixture::*;
use super::rng::Rng;

/// The fleet's engine, as far as one host sees it: what it says is definite.
#[derive(Default)]
struct Engine {
    revision: u64,
    /// The due time that was taken last, and by which claim.
    last: i64,
    last_claim: Option<ClaimId>,
    run: Option<(ClaimId, u64)>,
    /// Which due times a claim of this host was applied for.
    won: HashSet<(i64, ClaimId)>,
}

enum Said {
    Won { created: u64, last: i64 },
    Elsewhere(i64),
    Busy,
}

impl Engine {
    fn claim(&mut self, attempt: &Attempt, id: ClaimId) -> Said {
        let (due, before) = (attempt.due.0, self.last);
        let manual = attempt.trigger == Trigger::Manual;
        match self.run {
            Some((its, created)) if its == id => {
                return Said::Won { created, last: before.min(due - 1) };
            }
            Some(_) => return Said::Busy,
            None if !manual && self.last_claim != Some(id) && self.last >= due => {
                return Said::Elsewhere(self.last);
            }
            None => {}
        }
        self.revision += 1;
        self.run = Some((id, self.revision));
        if !manual {
            (self.last, self.last_claim) = (due, Some(id));
            self.won.insert((due, id));
        }
        Said::Won { created: self.revision, last: before.min(due - 1) }
    }

    fn end(&mut self, fleet: FleetClaim) {
        if self.run == Some((fleet.id, fleet.created)) {
            self.run = None;
        }
    }
}

struct HostWorker {
    pid: u32,
    store: Store,
    attempt: Option<(ClaimAttempt, Asked)>,
    open: Option<Box<OpenClaim>>,
    claim: Option<Box<Claim>>,
}

struct Host {
    rng: Rng,
    fixture: Fixture,
    record: Record,
    engine: Engine,
    now: i64,
    boot: u8,
    pids: u32,
    ids: u64,
    workers: Vec<HostWorker>,
    overlap: OverlapPolicy,
    // What the oracle knows:
    started: HashSet<(RunId, u32)>,
    expected: u64,
    paused: bool,
}

const PERIOD: i64 = 1000;

impl Host {
    fn new(seed: u64) -> Self {
        dead::bury();
        let mut rng = Rng(stable_hash(&[b"host", &seed.to_le_bytes()]));
        let fixture = Fixture::memory(&["a"]);
        let record = Record { claims: None, ..fixture.records[0].clone() };
        let overlap = if rng.one_in(2) { OverlapPolicy::Skip } else { OverlapPolicy::Queue };
        let now = fixture.now;
        let engine = Engine { last: now, ..Engine::default() };
        let mut host = Self {
            rng,
            fixture,
            record,
            engine,
            now,
            boot: 1,
            pids: 0,
            ids: 0,
            workers: Vec::new(),
            overlap,
            started: HashSet::new(),
            expected: 0,
            paused: false,
        };
        (0..3).for_each(|_| host.spawn());
        host
    }

    fn spawn(&mut self) {
        self.pids += 1;
        let process = Process { pid: self.pids, started: 1, boot: BootId([self.boot; 16]) };
        let store =
            self.fixture.state.as_ref().unwrap().attach(Master::This, process, UnixMs(self.now));
        let (attempt, open, claim) = (None, None, None);
        self.workers.push(HostWorker { pid: self.pids, store, attempt, open, claim });
    }

    fn pass(&mut self, ms: i64) {
        let to = self.now + ms;
        if !self.paused {
            self.expected += (to / PERIOD - self.now / PERIOD).unsigned_abs();
        }
        self.now = to;
    }

    fn happen(&mut self) {
        match self.rng.below(40) {
            0..=9 => {
                let ms = self.rng.ms(PERIOD / 3);
                self.pass(ms);
            }
            10 => {
                let ms = self.rng.ms(5 * PERIOD);
                self.pass(ms);
            }
            11 => self.other_host(),
            // One leaves, and its successor goes on.
            12 => {
                drop(self.workers.remove(0));
                self.spawn();
            }
            13 if self.rng.one_in(6) => self.reboot(),
            14 => self.pause(),
            15 => self.order(),
            _ => {
                let number = usize::try_from(self.rng.below(3)).unwrap();
                let mut worker = self.workers.remove(number);
                if self.rng.one_in(20) {
                    let writes = u32::try_from(self.rng.below(3)).unwrap();
                    worker.store.set_fault(WriteFault::KilledAfter(writes));
                }
                self.turn(&mut worker);
                if worker.store.was_killed() {
                    dead::kill(worker.pid);
                    drop(worker);
                    self.spawn();
                } else {
                    worker.store.set_fault(WriteFault::None);
                    self.workers.push(worker);
                }
            }
        }
    }

    /// Another host takes the newest due time, and may be quick.
    fn other_host(&mut self) {
        let due = self.now / PERIOD * PERIOD;
        if self.engine.run.is_none() && self.engine.last < due {
            self.engine.revision += 1;
            (self.engine.last, self.engine.last_claim) = (due, None);
            if self.rng.one_in(2) {
                self.engine.run = Some((ClaimId([0xaa; 16]), self.engine.revision));
            }
        } else if self.engine.run.is_some_and(|(id, _)| id == ClaimId([0xaa; 16])) {
            self.engine.run = None;
        }
    }

    /// All processes are gone, and the fleet has waited for this host in vain.
    fn reboot(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            dead::kill(worker.pid);
        }
        self.engine.run = None;
        self.boot += 1;
        (0..3).for_each(|_| self.spawn());
    }

    fn pause(&mut self) {
        let (record, every) = (self.record.clone(), secondly());
        let (timer, now) = (timer(&record, &every), UnixMs(self.now));
        let store = &self.workers[0].store;
        if self.paused {
            assert_eq!(store.resume(timer, now), Edited::Done(()));
        } else if store.pause(timer, None, now) != Edited::Done(()) {
            return;
        }
        self.paused = !self.paused;
    }

    fn order(&mut self) {
        self.ids += 1;
        let (record, every) = (self.record.clone(), secondly());
        let timer = timer(&record, &every);
        let _ = self.workers[0].store.order_run(timer, run_id(self.ids), UnixMs(self.now));
    }

    fn turn(&mut self, worker: &mut HostWorker) {
        let (record, every) = (self.record.clone(), secondly());
        let timer = timer(&record, &every);
        let now = UnixMs(self.now);
        if let Some(claim) = worker.claim.take() {
            return self.go_on(worker, claim);
        }
        if let Some(open) = worker.open.take() {
            return self.ask(worker, timer, open);
        }
        if let Some((mut attempt, asked)) = worker.attempt.take() {
            match attempt.step(&worker.store, timer, &mut || now) {
                Step::Asks(open) => worker.open = Some(open),
                Step::Again { .. } => worker.attempt = Some((attempt, asked)),
                Step::Overlap(_) => {
                    if let Wanted::Due { due, .. } = attempt.wanted() {
                        let _ = worker.store.overlap(timer, due, self.overlap, now);
                    }
                }
                Step::Won(_) | Step::Unwritable => panic!("without the fleet"),
                Step::Handled | Step::Unfinished | Step::GaveUp | Step::LeftToOwner => {}
            }
            return;
        }
        match worker.store.resume_fleet(timer, &mut || now) {
            Resumed::Open(open) => worker.open = Some(open),
            Resumed::Waiting(claim) => worker.claim = Some(claim),
            Resumed::Interrupted { fleet, .. } => {
                if let Some(fleet) = fleet {
                    self.engine.end(fleet);
                }
            }
            Resumed::Ended | Resumed::Unwritable => panic!("there is no such thing"),
            Resumed::Nothing | Resumed::HeldElsewhere(_) | Resumed::Again => {
                self.look(worker, timer);
            }
        }
    }

    fn look(&mut self, worker: &mut HostWorker, timer: TimerRef<'_>) {
        let now = UnixMs(self.now);
        let Ok(reading) = worker.store.read(timer.record) else { return };
        if reading.control.has_uncounted() {
            let _ = worker.store.count(timer, now);
        }
        let look = Look::at(timer.due_times, now);
        let policy = Policy { missed: MissedPolicy::Skip, schedule: Scheduled::On };
        match decide(&reading, &look, policy, None) {
            Decision::Claim(Wanted::Next { .. })
            | Decision::EndWaiting
            | Decision::Sleep { .. } => {}
            Decision::Claim(wanted) => {
                self.ids += 1;
                let id = ClaimId(run_id(self.ids).0);
                let kind = match wanted {
                    Wanted::Order { .. } => ClaimKind::Manual { result: 0 },
                    _ => ClaimKind::Due,
                };
                let asked = Asked { id, kind };
                let attempt = ClaimAttempt::for_fleet(wanted, run_id(self.ids), asked, &look);
                worker.attempt = Some((attempt, asked));
            }
            // Before anything counts as missed, the fleet is read.
            Decision::LeaveOut { up_to, kind } => {
                let last = UnixMs(self.engine.last);
                if worker.store.elsewhere(timer, last, now) == Edited::Done(()) {
                    let _ = worker.store.leave_out(timer, up_to, kind, now);
                }
            }
            Decision::DropOrder { number, .. } => {
                let _ = worker.store.drop_order(timer, number, now);
            }
            Decision::CatchUp { .. } | Decision::ClockSetBack => panic!("not here"),
        }
    }

    /// Asks once; the answer may be lost.
    fn ask(&mut self, worker: &mut HostWorker, timer: TimerRef<'_>, open: Box<OpenClaim>) {
        if self.rng.one_in(4) {
            worker.open = Some(open);
            return;
        }
        let said = self.engine.claim(open.attempt(), open.asked().id);
        if self.rng.one_in(4) {
            worker.open = Some(open);
            return;
        }
        let scheduled = open.attempt().trigger != Trigger::Manual;
        let how = match said {
            Said::Won { created, last } => {
                let last = Some(UnixMs(last));
                if self.rng.one_in(10) {
                    self.engine.end(FleetClaim { id: open.asked().id, created, fence: created });
                    OpenEnd::Lost { last }
                } else {
                    OpenEnd::Won { created, fence: created, last }
                }
            }
            Said::Elsewhere(last) => OpenEnd::Elsewhere { up_to: UnixMs(last) },
            Said::Busy if scheduled && self.rng.one_in(2) => {
                // It is closed first.
                let due = open.attempt().due.0;
                let last = Some(UnixMs(self.engine.last));
                if self.engine.last >= due {
                    OpenEnd::Elsewhere { up_to: UnixMs(self.engine.last) }
                } else if self.overlap == OverlapPolicy::Skip {
                    (self.engine.last, self.engine.last_claim) = (due, None);
                    OpenEnd::Overlap { policy: self.overlap, last }
                } else {
                    OpenEnd::Overlap { policy: self.overlap, last }
                }
            }
            Said::Busy => OpenEnd::Released,
        };
        let now = self.now;
        match open.end(timer, how, &mut || UnixMs(now)) {
            OpenEnded::Won(claim) => self.start(worker, claim),
            OpenEnded::NotWritten(_) => assert!(worker.store.was_killed()),
            OpenEnded::Closed => {}
            OpenEnded::Again { .. } => panic!("nobody has it locked"),
        }
    }

    fn start(&mut self, worker: &mut HostWorker, claim: Box<Claim>) {
        if worker.store.was_killed() {
            return;
        }
        let attempt = *claim.attempt();
        let fleet = claim.fleet().unwrap();
        assert_eq!(
            self.engine.run,
            Some((fleet.id, fleet.created)),
            "{attempt:?} is not the fleet's"
        );
        assert!(self.started.insert((attempt.run, attempt.number)), "{attempt:?} is started again");
        let others = self.workers.iter().any(|other| other.claim.is_some());
        assert!(!others, "{attempt:?} beside another");
        worker.claim = Some(claim);
    }

    /// An attempt ends, or the next one begins.
    fn go_on(&mut self, worker: &mut HostWorker, mut claim: Box<Claim>) {
        let now = UnixMs(self.now);
        let fleet = claim.fleet().unwrap();
        if claim.waits_until().is_some() {
            let number = claim.attempt().number + 1;
            self.engine.revision += 1;
            if self.engine.run == Some((fleet.id, fleet.created))
                && claim.next(number, self.engine.revision, now)
            {
                self.start(worker, claim);
            } else {
                claim.finish_with(ended(Outcome::Lost), None, "");
            }
            return;
        }
        match self.rng.below(4) {
            0 => worker.claim = Some(claim),
            1 => {
                claim.wait_on(ended(Outcome::Failure), UnixMs(self.now + 10));
                worker.claim = Some(claim);
            }
            _ => {
                self.engine.end(fleet);
                claim.finish_with(ended(Outcome::Success), None, "");
            }
        }
    }

    /// Everybody comes to rest, and the account is made up.
    fn calm(&mut self, seed: u64) {
        if self.paused {
            self.pause();
        }
        for _ in 0..400 {
            if self.engine.run.is_some_and(|(id, _)| id == ClaimId([0xaa; 16])) {
                self.engine.run = None;
            }
            let mut worker = self.workers.remove(0);
            self.turn(&mut worker);
            self.workers.push(worker);
            // Whose process is gone is removed by others.
            let holds = |worker: &HostWorker| worker.claim.is_some() || worker.open.is_some();
            if !self.workers.iter().any(holds) {
                self.engine.run = None;
            }
        }
        let reading = self.workers[0].store.read(&self.record).unwrap();
        assert_eq!(reading.claim.progress, Progress::Nothing, "seed {seed}");
        let Reading { claim, control, .. } = &reading;
        assert!(!control.has_uncounted(), "seed {seed}");
        let runs = claim.runs() - claim.counters.unscheduled;
        let (overlaps, missed, elsewhere) = (control.overlaps, control.missed, control.elsewhere);
        let handled = reading.handled_up_to(UnixMs(self.now)).0 / PERIOD;
        let late = (self.now / PERIOD - handled).unsigned_abs();
        let all = runs + overlaps + missed + elsewhere + late;
        let what = format!("{runs} + {overlaps} + {missed} + {elsewhere} + {late}");
        assert_eq!(all, self.expected, "seed {seed}: {what}");
        // The series goes on.
        let before = self.started.len();
        self.pass(PERIOD);
        for _ in 0..200 {
            let mut worker = self.workers.remove(0);
            self.turn(&mut worker);
            self.workers.push(worker);
        }
        let reading = self.workers[0].store.read(&self.record).unwrap();
        let lost = reading.claim.counters.ended_with(Outcome::Lost);
        assert!(self.started.len() > before || lost > 0, "seed {seed}: nothing runs any more");
    }
}

#[test]
fn no_attempt_starts_twice_and_every_due_time_is_accounted_for() {
    let seeds = std::env::var("MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(200) {
        let mut host = Host::new(seed);
        for _ in 0..400 {
            host.happen();
        }
        host.calm(seed);
    }
}
