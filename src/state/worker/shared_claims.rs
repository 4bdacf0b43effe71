//! What the workers of one master have claimed, in memory that they share. It holds where the state
//! file cannot be read, written or locked: no due time is claimed twice, and no two workers have a
//! run of one timer.
//!
//! A worker that holds a timer may die at any instant. So the holder is a process, not a lock: once
//! that process does not live any more, nobody holds the timer.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(not(test))]
use crate::os::process::is_alive;
use crate::os::{SharedMemory, monotonic};
use crate::schedule::{UnixMs, stable_hash};

use crate::state::record::run::RunId;

use super::shared_health::SharedHealth;

/// Words of one timer.
const WORDS: usize = 7;
/// Hash of the name; 0 for none. Written by the master only.
const NAME: usize = 0;
/// The newest due time that was claimed; 0 for none.
const TAKEN: usize = 1;
/// The newest order that was carried out.
const ORDERS_DONE: usize = 2;
/// The process that has a run, or what is to be written of one: pid, and start time; 0 for none.
const HOLDER: usize = 3;
/// Since when, by the monotonic clock, in milliseconds.
const SINCE: usize = 4;
/// The newest attempt that was claimed: a part of its run's id, and its number; 0 for none.
const ATTEMPT: usize = 5;
/// The newest due time that was left out, whoever knows of it; 0 for none.
const LEFT_OUT: usize = 6;

/// The claims of all timers, kept by the master from cycle to cycle.
#[derive(Debug)]
pub(in crate::state) struct SharedClaims {
    tables: Vec<Arc<SharedMemory>>,
    names: HashMap<Box<str>, SharedClaim>,
    health: SharedHealth,
}

/// The claims of one timer.
///
/// # Invariants
///
/// `first` is the first of [`WORDS`] words of `table`.
#[derive(Clone, Debug)]
pub(in crate::state) struct SharedClaim {
    table: Arc<SharedMemory>,
    first: usize,
}

/// A process, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) struct Claimant {
    pub(in crate::state) pid: u32,
    pub(in crate::state) started: u32,
}

/// Who holds a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum HoldResult {
    /// It is this process' now.
    Here,
    /// So it is, though a living process has had it: for too long.
    TakenOver(Claimant, Duration),
    /// A living process has had it for so long.
    Elsewhere(Claimant, Duration),
}

impl SharedClaims {
    pub(in crate::state) fn new() -> io::Result<Self> {
        Ok(Self { tables: Vec::new(), names: HashMap::new(), health: SharedHealth::new()? })
    }

    /// Gives words to each of `names` that has none. Others keep theirs: the configuration may still
    /// be refused.
    pub(in crate::state) fn give(&mut self, names: &[&str]) -> io::Result<()> {
        let missing: Vec<&&str> =
            names.iter().filter(|name| !self.names.contains_key(**name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let used: HashSet<(usize, usize)> = self
            .names
            .values()
            .map(|claim| (Arc::as_ptr(&claim.table).addr(), claim.first))
            .collect();
        let records = |table: &Arc<SharedMemory>| {
            let table = Arc::clone(table);
            (0..table.count() / WORDS)
                .map(move |number| SharedClaim { table: Arc::clone(&table), first: number * WORDS })
        };
        let mut free: Vec<SharedClaim> = self
            .tables
            .iter()
            .flat_map(records)
            .filter(|claim| !used.contains(&(Arc::as_ptr(&claim.table).addr(), claim.first)))
            .filter(|claim| !claim.is_held())
            .collect();
        if free.len() < missing.len() {
            let more = (missing.len() - free.len()).next_multiple_of(64);
            let table = Arc::new(SharedMemory::new(more * WORDS)?);
            free.extend(records(&table));
            self.tables.push(table);
        }
        for (name, claim) in missing.into_iter().zip(free) {
            claim.begin(name);
            self.names.insert((*name).into(), claim);
        }
        Ok(())
    }

    /// Gives away what other names than these had, unless a run of them is in progress.
    pub(in crate::state) fn keep(&mut self, names: &HashSet<&str>) {
        self.names.retain(|name, claim| names.contains(&**name) || claim.is_held());
    }

    pub(in crate::state) fn of(&self, name: &str) -> Option<SharedClaim> {
        self.names.get(name).cloned()
    }

    pub(in crate::state) fn health(&self) -> SharedHealth {
        self.health.clone()
    }
}

impl SharedClaim {
    fn word(&self, number: usize) -> Option<&AtomicU64> {
        self.table.word(self.first + number)
    }

    fn load(&self, number: usize) -> u64 {
        self.word(number).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn store(&self, number: usize, value: u64) {
        if let Some(word) = self.word(number) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// Makes it that of a timer of which nothing has been claimed.
    fn begin(&self, name: &str) {
        let hash = stable_hash(&[b"claims", name.as_bytes()]);
        if self.load(NAME) != hash {
            (TAKEN..WORDS).for_each(|word| self.store(word, 0));
            self.store(NAME, hash);
        }
    }

    fn instant(&self, number: usize) -> Option<UnixMs> {
        Some(self.load(number)).filter(|at| *at != 0).map(UnixMs::from_bits)
    }

    /// Sets an instant, unless a later one is there.
    fn raise(&self, number: usize, at: UnixMs) {
        let Some(word) = self.word(number) else { return };
        let later = |before| (before == 0 || UnixMs::from_bits(before) < at).then(|| at.to_bits());
        // What is later stays.
        let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
    }

    /// The newest due time that was claimed.
    pub(in crate::state) fn taken(&self) -> Option<UnixMs> {
        self.instant(TAKEN)
    }

    /// `due` is being claimed.
    pub(in crate::state) fn take(&self, due: UnixMs) {
        self.raise(TAKEN, due);
    }

    /// The newest due time that was left out.
    pub(in crate::state) fn left_out(&self) -> Option<UnixMs> {
        self.instant(LEFT_OUT)
    }

    /// What was not claimed up to `up_to` is left out for good; somebody counts it.
    pub(in crate::state) fn leave_out(&self, up_to: UnixMs) {
        self.raise(LEFT_OUT, up_to);
    }

    /// The clock was set back: what was claimed or left out beyond `latest` counts as `newest`.
    pub(in crate::state) fn pull_back(&self, latest: UnixMs, newest: UnixMs) {
        for number in [TAKEN, LEFT_OUT] {
            if self.instant(number).is_some_and(|at| at > latest) {
                self.store(number, newest.to_bits());
            }
        }
    }

    /// Undoes what a process is said to have done after it was killed.
    #[cfg(test)]
    pub(in crate::state) fn restore(
        &self,
        taken: Option<UnixMs>,
        left_out: Option<UnixMs>,
        orders_done: u64,
    ) {
        self.store(ATTEMPT, 0);
        self.store(TAKEN, taken.unwrap_or_default().to_bits());
        self.store(LEFT_OUT, left_out.unwrap_or_default().to_bits());
        self.store(ORDERS_DONE, orders_done);
    }

    /// An attempt is being claimed.
    pub(in crate::state) fn attempt(&self, run: RunId, number: u32) {
        self.store(ATTEMPT, attempt_word(run) | u64::from(number.min(NUMBERS)));
    }

    /// The newest attempt that was claimed of `run`, if that is the newest run.
    pub(in crate::state) fn attempted(&self, run: RunId) -> Option<u32> {
        let word = self.load(ATTEMPT);
        let number = u32::try_from(word & u64::from(NUMBERS)).ok()?;
        (word & !u64::from(NUMBERS) == attempt_word(run) && number > 0).then_some(number)
    }

    pub(in crate::state) fn orders_done(&self) -> u64 {
        self.load(ORDERS_DONE)
    }

    pub(in crate::state) fn order_is_done(&self, number: u64) {
        if self.orders_done() < number {
            self.store(ORDERS_DONE, number);
        }
    }

    /// Who holds the timer, living or dead, and for how long.
    pub(in crate::state) fn holder(&self) -> Option<(Claimant, Duration)> {
        let holder = Claimant::from_word(self.load(HOLDER))?;
        let since = Duration::from_millis(self.load(SINCE));
        Some((holder, monotonic().saturating_sub(since)))
    }

    /// An id for what is in progress now: another one for another holder, and for another due time.
    pub(in crate::state) fn run(&self) -> RunId {
        let mut id = [0; 16];
        let (holder, due) = id.split_at_mut(8);
        holder.copy_from_slice(&self.load(HOLDER).to_le_bytes());
        due.copy_from_slice(&self.load(TAKEN).to_le_bytes());
        RunId(id)
    }

    fn is_held(&self) -> bool {
        self.holder().is_some_and(|(holder, _)| holder.lives())
    }

    /// Holds the timer for `holder`, unless another living process does, and has done so for less
    /// than `at_most`.
    pub(in crate::state) fn hold(&self, holder: Claimant, at_most: Duration) -> HoldResult {
        let Some(word) = self.word(HOLDER) else { return HoldResult::Here };
        loop {
            let seen = word.load(Ordering::SeqCst);
            let other = self.holder().filter(|(other, _)| *other != holder && other.lives());
            if let Some((other, since)) = other {
                if since <= at_most {
                    return HoldResult::Elsewhere(other, since);
                }
            }
            // Before, so that nobody sees the new holder with the old one's instant.
            self.touch();
            let new = holder.to_word();
            if word.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return other.map_or(HoldResult::Here, |(other, since)| {
                    HoldResult::TakenOver(other, since)
                });
            }
        }
    }

    /// Holds it from now on.
    pub(in crate::state) fn touch(&self) {
        let now = u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX);
        self.store(SINCE, now);
    }

    /// `holder` does not hold the timer any more.
    pub(in crate::state) fn release(&self, holder: Claimant) {
        if let Some(word) = self.word(HOLDER) {
            let (held, free) = (holder.to_word(), 0);
            // Somebody else's it stays.
            let _ = word.compare_exchange(held, free, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

/// The part of the word that is the attempt's number; the rest is of the run's id.
const NUMBERS: u32 = 0xffff;

fn attempt_word(RunId([first @ .., _, _, _, _, _, _, _, _]): RunId) -> u64 {
    u64::from_be_bytes(first) & !u64::from(NUMBERS)
}

impl PartialEq for SharedClaim {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table) && self.first == other.first
    }
}

impl Eq for SharedClaim {}

impl Claimant {
    fn to_word(self) -> u64 {
        u64::from(self.pid) << 32 | u64::from(self.started)
    }

    fn from_word(word: u64) -> Option<Self> {
        let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).unwrap_or(0);
        (word != 0).then(|| Self { pid: half(word >> 32), started: half(word) })
    }

    pub(in crate::state) fn lives(self) -> bool {
        is_alive(self.pid, self.started)
    }
}

/// Processes that tests have killed; all others live.
#[cfg(test)]
pub(in crate::state) mod dead {
    use std::cell::RefCell;
    use std::collections::HashSet;

    thread_local! {
        static DEAD: RefCell<HashSet<u32>> = RefCell::default();
    }

    pub(in crate::state) fn kill(pid: u32) {
        DEAD.with_borrow_mut(|dead| dead.insert(pid));
    }

    pub(in crate::state) fn has(pid: u32) -> bool {
        DEAD.with_borrow(|dead| dead.contains(&pid))
    }

    /// They are forgotten.
    pub(in crate::state) fn bury() {
        DEAD.with_borrow_mut(HashSet::clear);
    }
}

#[cfg(test)]
fn is_alive(pid: u32, _started: u32) -> bool {
    use super::broken_rules::{Rule, is_broken};

    !dead::has(pid) || is_broken(Rule::OverlapHasAProcess)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Claimant = Claimant { pid: 11, started: 1 };
    const B: Claimant = Claimant { pid: 12, started: 2 };
    const LONG: Duration = Duration::from_secs(60);

    fn claim() -> SharedClaim {
        let mut claims = SharedClaims::new().unwrap();
        claims.give(&["a"]).unwrap();
        claims.of("a").unwrap()
    }

    #[test]
    fn a_living_holder_excludes_and_a_dead_one_does_not() {
        let claim = claim();
        assert_eq!(claim.hold(A, LONG), HoldResult::Here);
        assert_eq!(claim.hold(A, LONG), HoldResult::Here);
        assert!(matches!(claim.hold(B, LONG), HoldResult::Elsewhere(A, _)));
        claim.release(B);
        assert!(matches!(claim.hold(B, LONG), HoldResult::Elsewhere(A, _)));
        dead::kill(A.pid);
        assert_eq!(claim.hold(B, LONG), HoldResult::Here);
        claim.release(B);
        assert_eq!(claim.holder(), None);
    }

    #[test]
    fn one_who_holds_it_for_too_long_does_not_exclude() {
        let claim = claim();
        assert_eq!(claim.hold(A, LONG), HoldResult::Here);
        std::thread::sleep(Duration::from_millis(3));
        assert!(matches!(claim.hold(B, Duration::from_millis(1)), HoldResult::TakenOver(A, _)));
    }

    #[test]
    fn what_was_taken_only_grows_but_for_the_clock() {
        let claim = claim();
        assert_eq!(claim.taken(), None);
        for due in [5, 9, 7] {
            claim.take(UnixMs(due));
        }
        assert_eq!(claim.taken(), Some(UnixMs(9)));
        claim.pull_back(UnixMs(9), UnixMs(1));
        assert_eq!(claim.taken(), Some(UnixMs(9)));
        claim.pull_back(UnixMs(8), UnixMs(1));
        assert_eq!(claim.taken(), Some(UnixMs(1)));
    }

    #[test]
    fn an_attempt_is_known_by_its_run() {
        let (claim, one, other) = (claim(), RunId([1; 16]), RunId([2; 16]));
        assert_eq!(claim.attempted(RunId::default()), None);
        claim.attempt(one, 1);
        claim.attempt(one, 2);
        assert_eq!((claim.attempted(one), claim.attempted(other)), (Some(2), None));
        claim.attempt(other, u32::MAX);
        assert_eq!((claim.attempted(one), claim.attempted(other)), (None, Some(NUMBERS)));
    }

    #[test]
    fn names_keep_their_claims_and_those_that_go_leave_theirs() {
        let mut claims = SharedClaims::new().unwrap();
        let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        claims.give(&names).unwrap();
        claims.of("7").unwrap().take(UnixMs(7));
        claims.of("8").unwrap().take(UnixMs(8));
        assert_eq!(claims.of("9").unwrap().hold(A, LONG), HoldResult::Here);
        claims.give(&["7", "new"]).unwrap();
        assert!(claims.of("8").is_some(), "the configuration may be refused");
        claims.keep(&["7", "new"].into());
        assert_eq!(claims.of("7").unwrap().taken(), Some(UnixMs(7)));
        assert_eq!(claims.of("new").unwrap().taken(), None);
        assert!(claims.of("8").is_none() && claims.of("9").is_some());
        for _ in 0..10 {
            claims.give(&names).unwrap();
            claims.keep(&HashSet::new());
        }
        assert!(claims.tables.len() <= 2, "records are used again");
    }
}
