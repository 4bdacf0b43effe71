//! Who makes a check.
//!
//! ```text
//!               claim                          end
//!   nobody's ───────────> held, with a deadline ───> nobody's
//!                          │        ^
//!                          └────────┘ claim, when the process is gone or the deadline is over
//! ```

use std::time::Duration;

use super::last::{self, Last};
use super::slot::{At, Slot, Strip, millis};
use super::word::Bits;
use crate::health::verdict::{CheckOutcome, Standing, Thresholds, Verdict, VerdictChange};
use crate::schedule::UnixMs;

/// Who claims a check, and what for.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The time since boot that the check is made for. It is made once for each.
    pub due: Duration,
    /// The time since boot.
    pub now: Duration,
    /// From this time on others may make it.
    pub deadline: Duration,
    /// The process that makes it.
    pub pid: u32,
    /// Whether no process has this pid any more.
    pub is_gone: &'a dyn Fn(u32) -> bool,
}

/// Why a check was not claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotClaimed {
    /// It was made already, or its maker has died of it.
    Taken,
    /// This process makes it, or the one before it.
    Held(u32),
    /// The slot is not this check's any more, or the records have moved: to be looked up again.
    Gone,
}

/// A check that this worker makes, and no other. What is not ended ends with its deadline, or with
/// this process.
#[derive(Debug)]
#[must_use]
pub struct CheckClaim<'a> {
    slot: Slot<'a>,
    word: u64,
    token: u64,
}

/// The result of a check.
#[derive(Clone, Copy, Debug)]
pub struct CheckResult<'a> {
    /// Its result.
    pub outcome: CheckOutcome,
    /// Why; not for one that passed.
    pub reason: &'a str,
    /// When it ended.
    pub at: UnixMs,
    /// How long it took.
    pub duration: Duration,
    /// What the server's standing depends on.
    pub thresholds: Thresholds,
}

/// What a result has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedResult {
    /// What it has changed.
    pub change: VerdictChange,
    /// How the server stands now.
    pub verdict: Verdict,
    /// For how long it had got no requests, where it gets them again.
    pub was_down_for: Option<Duration>,
}

/// The word of a claim. Without a pid, nobody has it; the number tells each from those before.
const DEADLINE: Bits = Bits { at: 0, len: 30 };
const PID: Bits = Bits { at: 30, len: 22 };
const NUMBER: Bits = Bits { at: 52, len: 12 };
/// Deadlines are kept in units of 100 ms, counted round.
const UNIT: u64 = 100;

impl<'a> Slot<'a> {
    /// Claims the check for a due time.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn claim(&self, ask: &Ask<'_>) -> Result<CheckClaim<'a>, NotClaimed> {
        let (claim, last_due) = (self.word(At::Claim), self.word(At::Taken));
        // First the claim: what was taken under one that came in between is not seen, and this fails.
        let before = claim.load();
        if last_due.load() >= millis(ask.due) {
            return Err(NotClaimed::Taken);
        }
        if !self.is_current() || self.is_frozen() {
            return Err(NotClaimed::Gone);
        }
        let holder = u32::try_from(PID.of(before)).unwrap_or(0);
        if holder != 0 && !is_over(before, ask.now) && !(ask.is_gone)(holder) {
            return Err(NotClaimed::Held(holder));
        }
        let number = NUMBER.of(before).wrapping_add(1);
        // Up to a whole unit later rather than earlier.
        let deadline = millis(ask.deadline).div_ceil(UNIT);
        let word = NUMBER.put(number) | PID.put(ask.pid.into()) | DEADLINE.put(deadline);
        if !claim.change(before, word) {
            return Err(NotClaimed::Held(u32::try_from(PID.of(claim.load())).unwrap_or(0)));
        }
        let token = self.fence(number);
        let claim = CheckClaim { slot: *self, word, token: token.unwrap_or(0) };
        // Whoever retires the slot or moves the records says so first, and looks at claims then.
        if token.is_none() || !self.is_current() || self.is_frozen() {
            claim.let_go();
            return Err(NotClaimed::Gone);
        }
        last_due.raise(millis(ask.due));
        self.word(At::Started).raise(millis(ask.now));
        Ok(claim)
    }

    /// The process that makes the check now, while it may.
    pub fn held_by(&self, now: Duration) -> Option<u32> {
        let word = self.word(At::Claim).load();
        let pid = u32::try_from(PID.of(word)).unwrap_or(0);
        (pid != 0 && !is_over(word, now)).then_some(pid)
    }

    /// Whether nobody has claimed the check, at any time.
    pub(super) fn is_free(&self) -> bool {
        PID.of(self.word(At::Claim).load()) == 0
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load() != 0
    }
}

impl CheckClaim<'_> {
    /// Whether the result still counts.
    pub fn is_current(&self) -> bool {
        self.slot.word(At::Claim).load() == self.word
            && self.slot.is_current()
            && !self.slot.is_frozen()
    }

    /// The check is over; `None` if its result counts no more.
    pub fn end(self, result: &CheckResult<'_>) -> Option<RecordedResult> {
        let ended = if self.is_current() { self.tell(result) } else { None };
        self.let_go();
        ended
    }

    fn tell(&self, result: &CheckResult<'_>) -> Option<RecordedResult> {
        let slot = &self.slot;
        let next = |verdict: Verdict| verdict.after(result.outcome, result.thresholds);
        let (before, verdict, change) = slot.change_verdict(self.token, next)?;
        // The records have moved meanwhile: this was not seen there.
        if slot.is_frozen() {
            return None;
        }
        let was_down_for = self.down_time(before.standing, verdict.standing, result.at);
        let counter = match result.outcome {
            CheckOutcome::Passed => At::Passed,
            CheckOutcome::Failed => At::Failed,
            CheckOutcome::Inconclusive => At::Inconclusive,
        };
        slot.word(counter).add(1);
        let micros = u64::try_from(result.duration.as_micros()).unwrap_or(u64::MAX);
        slot.word(At::DurationSum).add(micros);
        slot.word(At::Strip).update(|word| Some(Strip::with(word, result.outcome)));
        if matches!(change, VerdictChange::Healthy | VerdictChange::Unhealthy) {
            slot.word(At::Changes).add(1);
        }
        if change == VerdictChange::Unhealthy {
            slot.word(At::BecameUnhealthy).add(1);
        }
        let CheckResult { outcome, at, duration, .. } = *result;
        let reason = result.reason.to_owned();
        last::write(&slot.last_words(), &Last { at, duration, outcome, reason });
        Some(RecordedResult { change, verdict, was_down_for })
    }

    fn down_time(&self, before: Standing, after: Standing, now: UnixMs) -> Option<Duration> {
        let since = self.slot.word(At::DownSince);
        match (before, after) {
            (Standing::Healthy, Standing::Unhealthy) => {
                since.store(now.to_bits());
                None
            }
            (Standing::Unhealthy | Standing::Checking, Standing::Healthy) => {
                let was_down_for = now.since(UnixMs::from_bits(since.load()));
                self.slot.word(At::Downtime).add(millis(was_down_for));
                Some(was_down_for)
            }
            _ => None,
        }
    }

    fn let_go(&self) {
        // If another has it now, it stays his.
        self.slot.word(At::Claim).change(self.word, NUMBER.put(NUMBER.of(self.word)));
    }
}

fn is_over(word: u64, now: Duration) -> bool {
    let past = (millis(now) / UNIT).wrapping_sub(DEADLINE.of(word)) & DEADLINE.mask();
    past <= DEADLINE.mask() / 2
}
