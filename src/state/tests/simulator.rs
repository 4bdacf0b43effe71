//! The simulator: workers, a clock, people with orders, and an oracle that knows what was
//! promised.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use crate::schedule::{Every, Jitter, Schedule, UnixMs, stable_hash};
use crate::state::worker::broken_rules::{self, Rule, is_broken};
use crate::state::worker::paged_file::WriteFault;
use crate::state::worker::shared_claims::dead;
use crate::state::worker::store::Claimed;
use crate::state::*;

use super::fixture::{BOOT, Fixture, run_id, timer};
use super::rng::Rng;

mod events;

/// A promise that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum BrokenPromise {
    /// One at a time: two attempts at once.
    OneAtATime,
    /// At most once: a due time, an attempt or an order taken twice.
    AtMostOnce,
    /// Never silent: the next due time is not taken, or left out with nothing in progress.
    NeverSilent,
    /// The account of due times does not come out even.
    Account,
    /// A run because of a reload.
    Reload,
}

/// Whether all promises were kept.
pub(in crate::state) type Kept = Result<(), (BrokenPromise, String)>;

fn broken(promise: BrokenPromise, what: impl fmt::Display) -> (BrokenPromise, String) {
    (promise, what.to_string())
}

struct SimWorker {
    number: u32,
    store: Store,
    claim: Option<Claim>,
    attempt: Option<ClaimAttempt>,
    catch_up_at: Option<UnixMs>,
    /// Whether its last look found nothing to be done but the next due time.
    saw_plain: bool,
    /// It finishes what it does and starts nothing more.
    exiting: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "what the simulator is like")]
pub(in crate::state) struct Simulator {
    rng: Rng,
    fixture: Fixture,
    record: Record,
    now: i64,
    period: i64,
    jitter_ms: u64,
    policy: Policy,
    overlap: OverlapPolicy,
    retry: RetryPolicy,
    workers: Vec<Option<SimWorker>>,
    started: u32,
    runs: u64,
    depth: u32,
    // What the oracle knows:
    running: HashMap<u32, Attempt>,
    taken: HashSet<i64>,
    attempts: HashSet<(RunId, u32)>,
    newest_taken: i64,
    undisturbed: bool,
    failing: bool,
    /// Without that the account has to come out even; with it, it cannot.
    clock_goes_back: bool,
    clock_was_back: bool,
    expected: u64,
    paused: bool,
    all_paused: bool,
    reloaded_at: i64,
    pub(in crate::state) verdict: Kept,
}

impl Simulator {
    pub(in crate::state) fn new(seed: u64) -> Self {
        dead::bury();
        let mut rng = Rng(stable_hash(&[b"model", &seed.to_le_bytes()]));
        let period: i64 = [100, 1000, 5000][usize::try_from(rng.below(3)).unwrap()];
        let mut fixture = Fixture::memory(&[]);
        fixture.first = if rng.one_in(2) { First::Now } else { First::Due };
        fixture.hash = period.unsigned_abs();
        fixture.now = 1_000_007;
        fixture.reload(&["a"]).unwrap();
        let missed = match rng.below(3) {
            0 => MissedPolicy::Skip,
            1 => MissedPolicy::Run { within: Duration::from_millis(2 * period.unsigned_abs()) },
            _ => MissedPolicy::Run { within: Duration::from_secs(3600) },
        };
        let retry = RetryPolicy {
            more: u32::try_from(rng.below(4)).unwrap(),
            on: vec![Outcome::Failure, Outcome::Error, Outcome::Interrupted],
            backoff: Duration::from_millis(period.unsigned_abs() / 50),
            max: Duration::from_millis(period.unsigned_abs() / 5),
        };
        let jitter_ms = if rng.one_in(3) { period.unsigned_abs() / 4 } else { 0 };
        let overlap = if rng.one_in(2) { OverlapPolicy::Skip } else { OverlapPolicy::Queue };
        let workers = 1 + usize::try_from(rng.below(4)).unwrap();
        // Workers of one master share what they have claimed, those of several do not.
        let record = if seed % 2 == 0 {
            Record { claims: None, ..fixture.records[0].clone() }
        } else {
            fixture.records[0].clone()
        };
        let mut simulator = Self {
            record,
            now: fixture.now,
            fixture,
            period,
            jitter_ms,
            policy: Policy { missed, schedule: Scheduled::On },
            overlap,
            retry,
            workers: (0..workers).map(|_| None).collect(),
            started: 0,
            runs: 0,
            depth: 0,
            running: HashMap::new(),
            taken: HashSet::new(),
            attempts: HashSet::new(),
            newest_taken: 0,
            undisturbed: rng.one_in(2),
            failing: rng.one_in(3),
            clock_goes_back: rng.one_in(3),
            clock_was_back: false,
            expected: 0,
            paused: false,
            all_paused: false,
            reloaded_at: 0,
            verdict: Ok(()),
            rng,
        };
        (0..workers).for_each(|slot| simulator.spawn(slot));
        simulator
    }

    fn due_times(&self) -> Jittered {
        let period = Duration::from_millis(self.period.unsigned_abs());
        Jittered {
            schedule: Schedule::Every(Every::new(period, Duration::ZERO).unwrap()),
            jitter: Jitter::new(Duration::from_millis(self.jitter_ms), b"host", "a"),
        }
    }

    fn fail(&mut self, promise: BrokenPromise, what: impl fmt::Display) {
        if self.verdict.is_ok() {
            self.verdict = Err(broken(promise, format_args!("{what}, now {}", self.now)));
        }
    }

    /// Lets time pass; each due time in it is one that somebody has to answer for.
    fn pass(&mut self, ms: i64) {
        let active = !self.paused && !self.all_paused && self.policy.schedule == Scheduled::On;
        let to = self.now + ms;
        if active {
            let starts = |at: i64| -> i64 {
                newest_started(&self.due_times(), UnixMs(at)).map_or(0, |due| due.0 / self.period)
            };
            self.expected += (starts(to) - starts(self.now)).unsigned_abs();
        }
        self.now = to;
        self.fixture.now = to;
    }

    fn spawn(&mut self, slot: usize) {
        self.started += 1;
        let process = Process { pid: self.started, started: 1, boot: BOOT };
        let state = self.fixture.state.as_ref().unwrap();
        self.workers[slot] = Some(SimWorker {
            number: self.started,
            store: state.attach(Master::This, process, UnixMs(self.now)),
            claim: None,
            attempt: None,
            catch_up_at: None,
            saw_plain: false,
            exiting: false,
        });
    }

    /// Dies: descriptors and memory are gone, nothing is written.
    fn kill(&mut self, worker: SimWorker) {
        dead::kill(worker.number);
        self.running.remove(&worker.number);
        drop(worker);
    }

    /// One turn of one worker; it may be killed in it, and others have theirs meanwhile.
    fn turn(&mut self, slot: usize) {
        let Some(mut worker) = self.workers[slot].take() else { return };
        if self.rng.one_in(25) {
            let writes = u32::try_from(self.rng.below(3)).unwrap();
            worker.store.set_fault(WriteFault::KilledAfter(writes));
        }
        let claims = self.record.claims.clone();
        let before =
            claims.as_ref().map(|claims| (claims.taken(), claims.left_out(), claims.orders_done()));
        self.act(&mut worker);
        if worker.store.was_killed() {
            if let Some((claims, (taken, left_out, orders_done))) = claims.zip(before) {
                claims.restore(taken, left_out, orders_done);
            }
            self.kill(worker);
        } else {
            worker.store.set_fault(WriteFault::None);
            self.workers[slot] = Some(worker);
        }
    }

    fn act(&mut self, worker: &mut SimWorker) {
        if worker.exiting {
            return;
        }
        let (record, due_times) = (self.record.clone(), self.due_times());
        let timer = timer(&record, &due_times);
        if is_broken(Rule::TableOfClaims) {
            worker.store.inner.set_claimed(&record, Claimed::No);
        }
        if worker.attempt.is_some() {
            return self.step(worker, timer);
        }
        let look = Look::at(&due_times, UnixMs(self.now));
        if std::mem::take(&mut worker.saw_plain) && self.rng.one_in(2) {
            self.runs += 1;
            worker.attempt = ClaimAttempt::unseen(&look, run_id(self.runs));
            return self.step(worker, timer);
        }
        let retry = self.retry.clone();
        let _ = worker.store.recover(timer, &retry, &mut || self.preempted());
        let now = UnixMs(self.now);
        let Ok(reading) = worker.store.read(&record) else { return };
        if reading.control.has_uncounted() {
            let _ = worker.store.count(timer, now);
        }
        let look = Look::at(&due_times, now);
        match decide(&reading, &look, self.policy, worker.catch_up_at) {
            Decision::Sleep { .. } => {
                worker.saw_plain = reading.is_plain() && !is_broken(Rule::ClockSetBack);
            }
            Decision::EndWaiting => {}
            Decision::CatchUp { run_at, .. } => worker.catch_up_at = Some(run_at),
            Decision::Claim(wanted) => {
                self.runs += 1;
                worker.attempt = Some(ClaimAttempt::new(wanted, run_id(self.runs), &look));
                worker.catch_up_at = None;
                self.step(worker, timer);
            }
            Decision::LeaveOut { up_to, kind } => {
                let _ = worker.store.leave_out(timer, up_to, kind, now);
            }
            Decision::DropOrder { number, .. } => {
                let _ = worker.store.drop_order(timer, number, now);
            }
            Decision::ClockSetBack if is_broken(Rule::ClockSetBack) => {}
            Decision::ClockSetBack => {
                let _ = worker.store.set_back(timer, &mut || self.preempted());
            }
        }
    }

    fn step(&mut self, worker: &mut SimWorker, timer: TimerRef<'_>) {
        let Some(mut attempt) = worker.attempt.take() else { return };
        let mut read_at = None;
        let step = broken_rules::claiming(attempt.wanted(), || {
            attempt.step(&worker.store, timer, &mut || {
                let now = self.preempted();
                if is_broken(Rule::ClockUnderLock) { *read_at.get_or_insert(now) } else { now }
            })
        });
        match step {
            Step::Won(mut claim) => {
                if is_broken(Rule::LockIsHeld) {
                    claim.unlock();
                    if let Some(claims) = &self.record.claims {
                        claims.release(worker.store.inner.process.holder());
                    }
                }
                self.won(worker, *claim);
            }
            Step::Again { .. } if is_broken(Rule::OverlapIsSeenThrice) => {
                let seen = worker.store.read(&self.record).map(|reading| reading.claim.progress);
                match seen {
                    Ok(Progress::Running(_)) => self.overlap(worker, timer, attempt.wanted()),
                    _ => worker.attempt = Some(attempt),
                }
            }
            Step::Again { .. } => worker.attempt = Some(attempt),
            Step::Overlap(_) => self.overlap(worker, timer, attempt.wanted()),
            Step::GaveUp | Step::Handled | Step::LeftToOwner | Step::Unwritable => {}
            Step::Asks(_) | Step::Unfinished => panic!("there is no fleet"),
        }
    }

    fn overlap(&mut self, worker: &SimWorker, timer: TimerRef<'_>, wanted: Wanted) {
        let Wanted::Due { due, .. } = wanted else { return };
        let edited = worker.store.overlap(timer, due, self.overlap, UnixMs(self.now));
        if edited == Edited::Done(true) && self.running.is_empty() {
            self.fail(BrokenPromise::NeverSilent, "an overlap with nothing in progress");
        }
    }

    /// The clock as a worker reads it that is off the processor right afterwards: it may hold a
    /// lock, others have their turns, and what it has read goes stale.
    fn preempted(&mut self) -> UnixMs {
        let read_at = UnixMs(self.now);
        if self.depth >= 2 || !self.rng.one_in(3) {
            return read_at;
        }
        self.depth += 1;
        if self.rng.one_in(6) {
            let ms = self.rng.ms(5 * self.period);
            self.pass(ms);
        }
        for _ in 0..self.rng.below(8) {
            let ms = self.rng.ms(self.period / 8);
            self.pass(ms);
            let slot = self.any_slot();
            if self.rng.one_in(3) { self.end(slot) } else { self.turn(slot) }
        }
        self.depth -= 1;
        read_at
    }

    fn won(&mut self, worker: &mut SimWorker, claim: Claim) {
        let attempt = *claim.attempt();
        if worker.store.was_killed() {
            return;
        }
        if let Some(other) = self.running.values().next().copied() {
            self.fail(BrokenPromise::OneAtATime, format_args!("{attempt:?} beside {other:?}"));
        }
        if !self.attempts.insert((attempt.run, attempt.number)) {
            self.fail(BrokenPromise::AtMostOnce, format_args!("attempt {attempt:?} again"));
        }
        let scheduled = !attempt.trigger.is_unscheduled();
        if scheduled && attempt.number == 1 {
            if attempt.due.0 > self.now {
                self.fail(BrokenPromise::AtMostOnce, format_args!("{attempt:?} is early"));
            }
            if !self.taken.insert(attempt.due.0) {
                self.fail(BrokenPromise::AtMostOnce, format_args!("{attempt:?} again"));
            }
            if attempt.due.0 <= self.reloaded_at {
                self.fail(BrokenPromise::Reload, format_args!("{attempt:?}"));
            }
            self.newest_taken = self.newest_taken.max(attempt.due.0);
        }
        self.running.insert(worker.number, attempt);
        // With its table of claims lifted a worker has two; the first goes on all the same.
        if let Some(first) = worker.claim.replace(claim) {
            std::mem::forget(first);
        }
    }

    /// The attempt of a worker ends.
    fn end(&mut self, slot: usize) {
        let Some(worker) = &mut self.workers[slot] else { return };
        let Some(claim) = worker.claim.take() else { return };
        self.running.remove(&worker.number);
        let outcome = match self.rng.below(4) {
            0 => Outcome::Failure,
            _ if self.failing => Outcome::Error,
            1 => Outcome::Timeout,
            _ => Outcome::Success,
        };
        let attempt = *claim.attempt();
        let now = UnixMs(self.now);
        let cancelled = worker.store.is_cancelled(&self.record, attempt.run);
        let outcome = if cancelled { Outcome::Cancelled } else { outcome };
        let period = Duration::from_millis(self.period.unsigned_abs());
        let every = Every::new(period, Duration::ZERO).unwrap();
        let due_times = Jittered {
            schedule: Schedule::Every(every),
            jitter: Jitter::new(Duration::from_millis(self.jitter_ms), b"host", "a"),
        };
        let next_at = self.retry.next_at(&attempt, outcome, Some(&due_times), now);
        claim.finish(Ended { outcome, status: 0, duration: Duration::ZERO }, next_at);
        if worker.exiting {
            self.workers[slot] = None;
        }
    }

    /// Calm: somebody lives, nothing is paused, runs are short. Three periods after the last step
    /// of the clock at the latest the timer runs on time again.
    pub(in crate::state) fn calm(&mut self) -> Kept {
        for slot in 0..self.workers.len() {
            self.end(slot);
            if self.workers[slot].is_none() {
                self.spawn(slot);
            }
        }
        let now = UnixMs(self.now);
        let (record, due_times) = (self.record.clone(), self.due_times());
        if let Some(worker) = self.workers.iter().flatten().next() {
            assert_eq!(worker.store.resume(timer(&record, &due_times), now), Edited::Done(()));
            assert_eq!(worker.store.resume_all(now), Edited::Done(()));
        }
        (self.paused, self.all_paused) = (false, false);
        let mut started = 0;
        for _ in 0..50 {
            self.pass(self.period / 10);
            for _ in 0..4 {
                for slot in 0..self.workers.len() {
                    let Some(mut worker) = self.workers[slot].take() else { continue };
                    self.depth = 2;
                    self.act(&mut worker);
                    self.depth = 0;
                    started += u32::from(worker.claim.is_some());
                    self.workers[slot] = Some(worker);
                    self.end(slot);
                }
            }
        }
        self.verdict.clone()?;
        let store = self.workers.iter().flatten().next().unwrap().store.clone();
        let reading = store.read(&self.record).unwrap();
        let late = self.late(&reading);
        if started == 0 || late > 0 {
            let what = format!("{started} attempts, {late} due times late");
            return Err(broken(BrokenPromise::NeverSilent, what));
        }
        self.account(&reading)
    }

    /// Due times = runs - unscheduled + overlaps + missed.
    fn account(&self, reading: &Reading) -> Kept {
        let (claim, control) = (&reading.claim, &reading.control);
        assert!(!control.has_uncounted(), "{control:?}");
        let handled = i128::from(claim.runs()) - i128::from(claim.counters.unscheduled)
            + i128::from(control.overlaps)
            + i128::from(control.missed);
        if self.clock_was_back || self.jitter_ms > 0 || handled == i128::from(self.expected) {
            return Ok(());
        }
        let what = format!("{} due times, {handled} handled", self.expected);
        Err(broken(BrokenPromise::Account, what))
    }
}
