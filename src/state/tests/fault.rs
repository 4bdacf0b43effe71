//! The n-th system call fails: a scenario is repeated with the first, second, third ... call of the
//! state layer failing, once, and from then on, until one passes in which none has failed.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::os::fault::{Call, CallFault, Effect, Repeat, errno, fired, with};
use crate::schedule::UnixMs;
use crate::state::worker::shared_claims::dead;
use crate::state::*;

use super::fixture::*;

/// What a call can fail with.
const ERRORS: [(Call, &[i32]); 11] = [
    (Call::Read, &[errno::EIO]),
    (Call::Write, &[errno::ENOSPC]),
    (Call::Lock, &[errno::ENOLCK, errno::EPERM]),
    (Call::Open, &[errno::EACCES, errno::EMFILE]),
    (Call::Stat, &[errno::EIO]),
    (Call::Rename, &[errno::EBUSY]),
    (Call::Unlink, &[errno::EACCES]),
    (Call::Sync, &[errno::EIO]),
    (Call::Own, &[errno::EPERM]),
    (Call::Mode, &[errno::EPERM]),
    (Call::MemoryFile, &[errno::EPERM, errno::EMFILE]),
];

static PIDS: AtomicU32 = AtomicU32::new(100);

type PathOf = fn(PathBuf) -> StatePath;

/// What has happened, by which it is judged what was promised.
#[derive(Default)]
struct Oracle {
    running: u32,
    taken: HashSet<i64>,
    attempts: HashSet<(RunId, u32)>,
    starts: u32,
}

struct FaultyWorker {
    pid: u32,
    store: Store,
    owner: Owner,
    attempt: Option<ClaimAttempt>,
    claim: Option<Claim>,
    catch_up_at: Option<UnixMs>,
    leaves: bool,
}

#[derive(PartialEq, Eq)]
enum Progressed {
    Act,
    Rest,
}

struct Scenario {
    fixture: Fixture,
    oracle: Oracle,
    workers: Vec<FaultyWorker>,
    runs: u64,
    retry: RetryPolicy,
}

/// How long a run takes that ends before the next due time.
const SHORT: i64 = 100;

impl Scenario {
    fn new(configured: PathOf) -> Self {
        let mut fixture = Fixture::closed(configured);
        fixture.now = 1_000_500;
        let retry = RetryPolicy {
            more: 1,
            on: vec![Outcome::Failure],
            backoff: Duration::from_millis(100),
            max: Duration::from_millis(100),
        };
        Self { fixture, oracle: Oracle::default(), workers: Vec::new(), runs: 0, retry }
    }

    /// Loads the configuration, and starts two workers; those of before finish their runs.
    fn load(&mut self) {
        if self.fixture.reload(&["a"]).is_err() {
            assert!(fired() > 0, "the configuration is refused");
            return;
        }
        // Those that have a run finish it, the others exit.
        self.workers.iter_mut().for_each(|worker| worker.leaves = true);
        self.workers.retain(|worker| {
            let stays = worker.claim.is_some();
            if !stays {
                dead::kill(worker.pid);
            }
            stays
        });
        self.spawn();
    }

    fn spawn(&mut self) {
        let Some(state) = &self.fixture.state else { return };
        for owner in [Owner::This, Owner::Other] {
            // Who was killed stays dead.
            let pid = PIDS.fetch_add(1, Ordering::Relaxed);
            let process = Process { pid, started: 1, boot: BOOT };
            let store = state.attach(Master::This, process, UnixMs(self.fixture.now));
            self.workers.push(FaultyWorker {
                pid,
                store,
                owner,
                attempt: None,
                claim: None,
                catch_up_at: None,
                leaves: false,
            });
        }
    }

    /// All workers are killed, and others come in their places.
    fn kill(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            dead::kill(worker.pid);
            self.oracle.running -= u32::from(worker.claim.is_some());
            if let Some(claim) = worker.claim {
                claim.die();
            }
        }
        self.spawn();
    }

    /// Lets time pass in steps; in each of them every worker has its turn. Runs end after `takes`.
    fn pass(&mut self, ms: i64, takes: i64, outcome: Outcome) {
        let every = secondly();
        for _ in 0..ms / 100 {
            self.fixture.now += 100;
            let now = UnixMs(self.fixture.now);
            for number in 0..self.workers.len() {
                (0..12).any(|_| self.turn(number, &every) == Progressed::Rest);
                let worker = &mut self.workers[number];
                let is_over = |claim: &mut Claim| now.0 >= claim.attempt().started_at.0 + takes;
                if let Some(claim) = worker.claim.take_if(is_over) {
                    self.oracle.running -= 1;
                    let next_at = self.retry.next_at(claim.attempt(), outcome, Some(&every), now);
                    claim.finish(ended(outcome), next_at);
                }
                if now.0 % 1000 == 0 {
                    let timer = timer(&self.fixture.records[0], &every);
                    worker.store.write_again(TimerRef { owner: worker.owner, ..timer });
                    if worker.leaves {
                        worker.store.give_up(&self.fixture.records[0]);
                    }
                }
            }
        }
    }

    /// One look, and one action.
    fn turn(&mut self, number: usize, every: &Jittered) -> Progressed {
        let now = UnixMs(self.fixture.now);
        let record = self.fixture.records[0].clone();
        let worker = &mut self.workers[number];
        if worker.leaves || worker.claim.is_some() {
            return Progressed::Rest;
        }
        let timer = TimerRef { owner: worker.owner, ..timer(&record, every) };
        if worker.attempt.is_none() {
            let _ = worker.store.recover(timer, &self.retry, &mut || now);
            let Ok(reading) = worker.store.read_for(timer) else { return Progressed::Rest };
            let within = Duration::from_secs(60);
            let policy = Policy { missed: MissedPolicy::Run { within }, schedule: Scheduled::On };
            let look = Look::at(every, now);
            match decide(&reading, &look, policy, worker.catch_up_at) {
                Decision::Claim(wanted) => {
                    self.runs += 1;
                    worker.attempt = Some(ClaimAttempt::new(wanted, run_id(self.runs), &look));
                    worker.catch_up_at = None;
                }
                Decision::CatchUp { run_at, .. } => worker.catch_up_at = Some(run_at),
                Decision::LeaveOut { up_to, kind } => {
                    let _ = worker.store.leave_out(timer, up_to, kind, now);
                }
                Decision::DropOrder { number, .. } => {
                    let _ = worker.store.drop_order(timer, number, now);
                }
                Decision::ClockSetBack => {
                    let _ = worker.store.set_back(timer, &mut || now);
                }
                Decision::Sleep { .. } | Decision::EndWaiting => return Progressed::Rest,
            }
        }
        let Some(mut attempt) = worker.attempt.take() else { return Progressed::Act };
        match attempt.step(&worker.store, timer, &mut || now) {
            Step::Won(claim) => {
                worker.claim = Some(*claim);
                self.won(number);
            }
            Step::Again { .. } => worker.attempt = Some(attempt),
            Step::Overlap(_) => {
                if let Wanted::Due { due, .. } = attempt.wanted() {
                    let _ = worker.store.overlap(timer, due, OverlapPolicy::Skip, now);
                }
            }
            Step::Handled => {}
            Step::GaveUp | Step::LeftToOwner | Step::Unwritable => return Progressed::Rest,
            Step::Asks(_) | Step::Unfinished => panic!("there is no fleet"),
        }
        Progressed::Act
    }

    fn won(&mut self, number: usize) {
        let attempt = *self.workers[number].claim.as_ref().unwrap().attempt();
        let oracle = &mut self.oracle;
        oracle.running += 1;
        oracle.starts += 1;
        assert_eq!(oracle.running, 1, "two runs at once: {attempt:?}");
        let new = oracle.attempts.insert((attempt.run, attempt.number));
        assert!(new, "an attempt twice: {attempt:?}");
        if attempt.number == 1 && !attempt.trigger.is_unscheduled() {
            assert!(oracle.taken.insert(attempt.due.0), "a due time twice: {attempt:?}");
        }
    }

    /// Somebody gives an order to the worker that has this number.
    fn order(&mut self, number: usize, give: impl FnOnce(&Store, TimerRef<'_>, UnixMs)) {
        let (every, worker) = (secondly(), &self.workers[number]);
        let timer = TimerRef { owner: worker.owner, ..timer(&self.fixture.records[0], &every) };
        give(&worker.store, timer, UnixMs(self.fixture.now));
    }

    /// A due time is taken within three periods: the series goes on.
    fn goes_on(&mut self, when: &str) {
        let before = self.oracle.starts;
        self.pass(3000, SHORT, Outcome::Success);
        assert!(self.oracle.starts > before, "no run {when}");
    }

    /// Every worker shows that the state is degraded.
    fn is_seen(&self) {
        for worker in &self.workers {
            assert_eq!(worker.store.health(), Health::Degraded);
        }
    }

    fn play(&mut self) {
        self.load();
        if self.fixture.state.is_none() {
            // Nginx does not start.
            return;
        }
        self.goes_on("after the start");
        self.pass(3000, 1500, Outcome::Success);
        self.pass(2000, SHORT, Outcome::Failure);
        self.order(1, |store, timer, now| {
            let _ = store.order_run(timer, run_id(0), now);
        });
        self.pass(1000, SHORT, Outcome::Success);
        self.order(0, |store, timer, now| {
            let until = now.plus(Duration::from_millis(700));
            let _ = store.pause(timer, Some(until), now);
        });
        self.pass(1000, SHORT, Outcome::Success);
        self.load();
        self.goes_on("after a reload");
        self.pass(1100, 5000, Outcome::Success);
        self.load();
        self.pass(200, 5000, Outcome::Success);
        self.kill();
        self.goes_on("after a kill");
        // A restart, some due times later.
        self.workers.clear();
        self.oracle.running = 0;
        self.fixture.now += 2500;
        self.fixture.state = None;
        self.load();
        if self.fixture.state.is_some() {
            self.goes_on("after a restart");
        }
    }
}

fn every_call(configured: PathOf) {
    let errors = |(call, errors): &(Call, &'static [i32])| {
        let call = *call;
        errors.iter().map(move |errno| (call, Effect::Errno(*errno)))
    };
    let short = [(Call::Read, Effect::Short(7)), (Call::Write, Effect::Short(1000))];
    for (call, effect) in ERRORS.iter().flat_map(errors).chain(short) {
        for repeat in [Repeat::Once, Repeat::FromThenOn] {
            let mut after = 0;
            loop {
                let fault = CallFault { call: Some(call), after, repeat, effect };
                let play = || {
                    let mut scenario = Scenario::new(configured);
                    scenario.play();
                    let (fired, lasts) = (fired(), repeat == Repeat::FromThenOn);
                    let is_used = matches!(call, Call::Read | Call::Write | Call::Lock);
                    if lasts && fired > 0 && is_used && !matches!(effect, Effect::Short(_)) {
                        scenario.is_seen();
                    }
                    fired
                };
                if std::env::var_os("FAULTS").is_some() {
                    eprintln!("{fault:?}");
                }
                let Ok(fired) = std::panic::catch_unwind(|| with(fault, play)) else {
                    panic!("{fault:?}")
                };
                if fired == 0 {
                    break;
                }
                // All at first, then a sample: what comes later is like what came before.
                after += 1 + after / 3;
            }
        }
    }
}

#[test]
fn whichever_call_fails_of_a_file_no_promise_breaks() {
    every_call(StatePath::Named);
}

#[test]
fn whichever_call_fails_in_memory_no_promise_breaks() {
    every_call(|_| StatePath::Memory);
}

#[test]
fn an_attempt_that_another_worker_has_made_is_not_made_by_one_that_cannot_read() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    let run = first.attempt().run;
    first.finish(ended(Outcome::Failure), Some(UnixMs(1_001_100)));
    let known = one.read_for(timer).unwrap().claim.progress;
    assert!(matches!(known, Progress::Waiting(..)));
    let next = Wanted::Next { run, attempt: 2 };
    won(&two, timer, next, 1_001_100).finish(ended(Outcome::Failure), None);
    let effect = Effect::Errno(errno::EIO);
    let fault = CallFault { call: Some(Call::Read), after: 0, repeat: Repeat::FromThenOn, effect };
    with(fault, || {
        assert!(matches!(claim(&one, timer, next, 1_001_100), Step::Handled));
        won(&one, timer, due(1_002_000), 1_002_000).finish(ended(Outcome::Success), None);
    });
    assert!(fired() > 0);
}

#[test]
fn a_run_that_another_worker_has_ended_is_not_called_interrupted_by_one_that_cannot_read() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&two, timer, due(1_001_000), 1_001_000);
    let known = one.read_for(timer).unwrap().claim.progress;
    assert!(matches!(known, Progress::Running(..)));
    let effect = Effect::Errno(errno::EIO);
    let fault = CallFault { call: Some(Call::Read), after: 0, repeat: Repeat::FromThenOn, effect };
    with(fault, || {
        first.finish(ended(Outcome::Success), None);
        won(&one, timer, due(1_002_000), 1_002_000).finish(ended(Outcome::Success), None);
        let interrupted = |notice: &Notice| matches!(notice, Notice::Interrupted { .. });
        assert!(!one.take_notices().iter().any(interrupted));
    });
    assert!(fired() > 0);
    won(&one, timer, due(1_003_000), 1_003_000).finish(ended(Outcome::Success), None);
    let counters = two.read(&fixture.records[0]).unwrap().claim.counters;
    assert_eq!(counters.ended_with(Outcome::Success), 3);
    assert_eq!(counters.ended_with(Outcome::Interrupted), 0);
}

#[test]
fn what_is_left_out_while_a_call_fails_for_a_moment_is_left_out_for_others_too() {
    for call in [Call::Read, Call::Write] {
        let fixture = Fixture::file(&["a"]);
        let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
        let timer = timer(&fixture.records[0], &every);
        let first = won(&one, timer, due(1_001_000), 1_001_000);
        let at = UnixMs(1_002_000);
        let overlap = || one.overlap(timer, at, OverlapPolicy::Skip, at);
        let effect = Effect::Errno(errno::EIO);
        let fault = CallFault { call: Some(call), after: 0, repeat: Repeat::FromThenOn, effect };
        with(fault, || assert_eq!(overlap(), Edited::Again));
        assert_eq!(overlap(), Edited::Done(true));
        first.finish(ended(Outcome::Success), None);
        assert!(matches!(claim(&two, timer, due(1_002_000), 1_002_100), Step::Handled));
        assert_eq!(two.read(&fixture.records[0]).unwrap().control.overlaps, 1);
        // What lasts is not waited for.
        let _second = won(&one, timer, due(1_003_000), 1_003_000);
        let at = UnixMs(1_004_000);
        let overlap = || one.overlap(timer, at, OverlapPolicy::Skip, at);
        with(fault, || {
            let tries = (0..9).take_while(|_| overlap() == Edited::Again).count();
            assert!((1..9).contains(&tries));
        });
        assert_eq!(one.read_for(timer).unwrap().control.overlaps, 2);
    }
}

#[test]
fn a_run_that_waited_when_reads_began_to_fail_is_counted_when_another_one_waits() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&two, timer, due(1_001_000), 1_001_000);
    one.read_for(timer).unwrap();
    let fault = CallFault {
        call: Some(Call::Read),
        after: 0,
        repeat: Repeat::FromThenOn,
        effect: Effect::Errno(errno::EIO),
    };
    with(fault, || {
        first.finish(ended(Outcome::Failure), Some(UnixMs(1_001_900)));
        let second = won(&one, timer, due(1_002_000), 1_002_000);
        second.finish(ended(Outcome::Failure), Some(UnixMs(1_002_900)));
    });
    won(&one, timer, due(1_003_000), 1_003_000).finish(ended(Outcome::Success), None);
    let seen = two.read(&fixture.records[0]).unwrap();
    assert_eq!(seen.claim.counters.ended_with(Outcome::Failure), 2);
    assert_eq!(seen.claim.runs(), 3);
    let results = two.results(&fixture.records[0], &seen);
    let dues: Vec<_> = results.iter().map(|it| it.attempt.due.0 / 1000).collect();
    assert_eq!(dues, [1003, 1002, 1001]);
}
