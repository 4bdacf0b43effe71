//! A slot: one check of one server.

use std::array;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::key::Key;
use super::last::{self, Last};
use super::word::{Bits, Word};
use crate::health::verdict::{CheckOutcome, Standing, Verdict};
use crate::schedule::UnixMs;

/// The words of a slot, each named by its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    State = 0,
    Key0 = 1,
    Key1 = 2,
    Check = 3,
    Claim = 4,
    Verdict = 5,
    Taken = 6,
    Started = 7,
    Seen = 8,
    Strip = 9,
    Passed = 10,
    Failed = 11,
    Inconclusive = 12,
    BecameUnhealthy = 13,
    Changes = 14,
    DownSince = 15,
    Downtime = 16,
    DurationSum = 17,
    Born = 18,
    Flag = 19,
    Last = 20,
}

/// What is emptied when a slot is made.
pub(super) const EMPTIED: [At; 13] = [
    At::Taken,
    At::Started,
    At::Seen,
    At::Strip,
    At::Passed,
    At::Failed,
    At::Inconclusive,
    At::BecameUnhealthy,
    At::Changes,
    At::Downtime,
    At::DurationSum,
    At::Flag,
    At::Last,
];

pub(super) const WORDS: usize = 40;
const _: () = assert!(At::Last as usize + last::WORDS <= WORDS);

/// The word that says what a slot is used for.
pub(super) mod state {
    use super::Bits;

    pub(in super::super) const PRINT: Bits = Bits { at: 0, len: 32 };
    pub(in super::super) const SINCE: Bits = Bits { at: 32, len: 22 };
    pub(in super::super) const KIND: Bits = Bits { at: 54, len: 2 };
    pub(in super::super) const GENERATION: Bits = Bits { at: 56, len: 8 };

    pub(in super::super) const FREE: u64 = 0;
    pub(in super::super) const MAKING: u64 = 1;
    pub(in super::super) const READY: u64 = 2;
    pub(in super::super) const RETIRED: u64 = 3;
}

/// The word that says how a server stands. A result counts only under the token of its claim.
mod verdict {
    use super::Bits;

    pub(super) const IN_A_ROW: Bits = Bits { at: 0, len: 20 };
    pub(super) const INCONCLUSIVE: Bits = Bits { at: 20, len: 16 };
    pub(super) const FAILING: Bits = Bits { at: 36, len: 1 };
    pub(super) const STANDING: Bits = Bits { at: 37, len: 2 };
    pub(super) const EPOCH: Bits = Bits { at: 39, len: 13 };
    pub(super) const CLAIM: Bits = Bits { at: 52, len: 12 };
    /// What the results of one claim are known by.
    pub(super) const TOKEN: u64 = u64::MAX << EPOCH.at;
}

/// One check of one server, for as long as its slot is not another's.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    pub(super) words: &'a [AtomicU64; WORDS],
    pub(super) frozen: Word<'a>,
    /// The state word when it was found.
    pub(super) state: u64,
}

/// What holds of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Too few of its servers are healthy: all get requests.
    FailOpen = 1,
    /// There was no slot for one of its servers.
    NoSlot = 2,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckCounters {
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// Checks of which nothing was learned.
    pub inconclusive: u64,
    /// How often the server became unhealthy.
    pub became_unhealthy: u64,
    /// How often its standing changed.
    pub changes: u64,
    /// How long all checks took.
    pub duration: Duration,
}

/// For how long the server got no requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Downtime {
    /// Since when it gets none.
    pub since: Option<UnixMs>,
    /// For how long it got none, up to now.
    pub total: Duration,
}

/// The last results, oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strip(u64);

impl<'a> Slot<'a> {
    pub(super) fn word(&self, at: At) -> Word<'a> {
        Word(&self.words[at as usize])
    }

    /// Whether it still is what it was found as.
    pub fn is_current(&self) -> bool {
        self.word(At::State).load() == self.state
    }

    /// How the server stands, and from what.
    pub fn verdict(&self) -> Verdict {
        Self::verdict_of(self.word(At::Verdict).load())
    }

    /// What the check was called for last, as a time since boot; zero before the first.
    pub fn taken(&self) -> Duration {
        Duration::from_millis(self.word(At::Taken).load())
    }

    /// When the last check was started, as a time since boot; since when it is known before the first.
    pub fn started(&self) -> Duration {
        let started = self.word(At::Started).load().max(self.word(At::Born).load());
        Duration::from_millis(started)
    }

    /// How often what happened.
    pub fn counters(&self) -> CheckCounters {
        let count = |at| self.word(at).load();
        CheckCounters {
            passed: count(At::Passed),
            failed: count(At::Failed),
            inconclusive: count(At::Inconclusive),
            became_unhealthy: count(At::BecameUnhealthy),
            changes: count(At::Changes),
            duration: Duration::from_micros(count(At::DurationSum)),
        }
    }

    /// For how long the server got no requests.
    pub fn downtime(&self, now: UnixMs) -> Downtime {
        let so_far = Duration::from_millis(self.word(At::Downtime).load());
        if self.verdict().standing == Standing::Healthy {
            return Downtime { since: None, total: so_far };
        }
        let since = match self.word(At::DownSince).load() {
            0 => now,
            since => UnixMs::from_bits(since),
        };
        Downtime { since: Some(since), total: so_far + now.since(since) }
    }

    /// The result of the last check; `None` before the first, and while it is written.
    pub fn last(&self) -> Option<Last> {
        // The writer is seldom met twice.
        (0..3).find_map(|_| last::read(&self.last_words()))
    }

    pub(super) fn last_words(&self) -> [Word<'a>; last::WORDS] {
        array::from_fn(|n| Word(&self.words[At::Last as usize + n]))
    }

    /// The result of the last checks.
    pub fn strip(&self) -> Strip {
        Strip(self.word(At::Strip).load())
    }

    /// Whether this holds of the group.
    pub fn flag(&self, flag: Flag) -> bool {
        self.word(At::Flag).load() & flag as u64 != 0
    }

    /// Says whether it holds. Of all workers that say so, one is told that it was otherwise before.
    pub fn set_flag(&self, flag: Flag, holds: bool) -> bool {
        let bit = flag as u64;
        let changed = self.word(At::Flag).update(|word| {
            let to = if holds { word | bit } else { word & !bit };
            (to != word).then_some(to)
        });
        changed.is_some()
    }

    /// How often servers of the group have changed their standing.
    pub fn changes(&self) -> u64 {
        self.word(At::Changes).load()
    }

    /// A server of the group has changed its standing.
    pub fn note_change(&self) {
        self.word(At::Changes).add(1);
    }

    /// The server is in the list: its slot is not given to another for a while.
    pub fn seen(&self, now: Duration) {
        let now = millis(now);
        // A word that all workers write often is slow for all of them.
        if now.saturating_sub(self.word(At::Seen).load()) >= 10_000 {
            self.word(At::Seen).raise(now);
        }
    }

    /// For how long the server was not seen in the list.
    pub(super) fn unseen_for(&self, now: Duration) -> Duration {
        let seen = self.word(At::Seen).load().max(self.word(At::Born).load());
        now.saturating_sub(Duration::from_millis(seen))
    }

    /// Whether it is the slot of `key`.
    pub(super) fn has(&self, key: &Key) -> bool {
        let [first, second] = key.words;
        self.word(At::Key0).load() == first && self.word(At::Key1).load() == second
    }

    /// What it is known by.
    pub fn key(&self) -> Key {
        let words = [self.word(At::Key0).load(), self.word(At::Key1).load()];
        Key { words, check: self.word(At::Check).load() }
    }

    /// The server begins anew, with this standing; results of checks in progress count no more.
    pub fn begin_anew(&self, standing: Standing, now: UnixMs) {
        if standing != Standing::Healthy && self.verdict().standing == Standing::Healthy {
            self.word(At::DownSince).store(now.to_bits());
        }
        self.put_first(standing);
    }

    /// The verdict before all results, unless the slot is another's.
    pub(super) fn put_first(&self, standing: Standing) {
        self.word(At::Verdict).update(|word| {
            let epoch = verdict::EPOCH.of(word).wrapping_add(1);
            let token = verdict::EPOCH.put(epoch) | verdict::CLAIM.put(verdict::CLAIM.of(word));
            self.is_current().then(|| Self::verdict_word(Verdict::first(standing)) | token)
        });
    }

    /// From now on only results of the claim with this number count; answers their token. `None` if a
    /// newer claim has done so before.
    pub(super) fn fence(&self, claim: u64) -> Option<u64> {
        let mut token = None;
        self.word(At::Verdict).update(|word| {
            let ahead = claim.wrapping_sub(verdict::CLAIM.of(word)) & verdict::CLAIM.mask();
            token = (ahead != 0 && ahead <= verdict::CLAIM.mask() / 2)
                .then(|| verdict::EPOCH.put(verdict::EPOCH.of(word)) | verdict::CLAIM.put(claim));
            token.map(|token| Self::verdict_word(Self::verdict_of(word)) | token)
        })?;
        token
    }

    /// Puts what `next` makes of the verdict, if results with this token still count; answers what
    /// that was before, and its result.
    pub(super) fn change_verdict<T>(
        &self,
        token: u64,
        next: impl Fn(Verdict) -> (Verdict, T),
    ) -> Option<(Verdict, Verdict, T)> {
        let mut made = None;
        self.word(At::Verdict).update(|word| {
            if word & verdict::TOKEN != token {
                return None;
            }
            let before = Self::verdict_of(word);
            let (after, extra) = next(before);
            made = Some((before, after, extra));
            Some(Self::verdict_word(after) | token)
        })?;
        made
    }

    fn verdict_of(word: u64) -> Verdict {
        let number = |bits: Bits| u32::try_from(bits.of(word)).unwrap_or(0);
        Verdict {
            standing: match verdict::STANDING.of(word) {
                1 => Standing::Unhealthy,
                2 => Standing::Checking,
                _ => Standing::Healthy,
            },
            failing: verdict::FAILING.of(word) == 1,
            in_a_row: number(verdict::IN_A_ROW),
            inconclusive: number(verdict::INCONCLUSIVE),
        }
    }

    fn verdict_word(verdict: Verdict) -> u64 {
        let standing = match verdict.standing {
            Standing::Healthy => 0,
            Standing::Unhealthy => 1,
            Standing::Checking => 2,
        };
        verdict::IN_A_ROW.put(verdict.in_a_row.into())
            | verdict::INCONCLUSIVE.put(verdict.inconclusive.into())
            | verdict::FAILING.put(verdict.failing.into())
            | verdict::STANDING.put(standing)
    }
}

impl Strip {
    /// So many results are kept.
    pub const LEN: u32 = 32;

    pub(super) fn with(word: u64, outcome: CheckOutcome) -> u64 {
        word << 2 | last::code(outcome)
    }

    /// The results, oldest first.
    pub fn outcomes(self) -> impl Iterator<Item = CheckOutcome> {
        (0..Self::LEN).rev().filter_map(move |n| last::outcome(self.0 >> (2 * n) & 3))
    }

    /// Whether the last conclusive one passed; `None` before the first.
    pub fn last_passed(self) -> Option<bool> {
        let conclusive = self.outcomes().filter(|outcome| *outcome != CheckOutcome::Inconclusive);
        conclusive.last().map(|outcome| outcome == CheckOutcome::Passed)
    }
}

/// A time since boot as it is written.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
