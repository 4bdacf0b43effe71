//! All slots, and how one is found, made and given to another.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::key::Key;
use super::slot::{At, EMPTIED, Slot, WORDS, millis, state};
use super::word::Word;
use crate::health::verdict::Standing;
use crate::schedule::UnixMs;

/// The records: a header, and slots.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    header: &'a [AtomicU64; HEADER],
    slots: &'a [AtomicU64],
}

/// Why a server has no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// All are in use.
    Full,
    /// Another worker makes it: to be looked for again.
    Busy,
}

/// A line of the processor's cache, so that slots begin at one; only [`FROZEN`] is used.
const HEADER: usize = 8;
const FROZEN: usize = 0;
/// A slot takes no time to make; counted in units of 100 ms.
const MAKING_FOR: u64 = 20;
const UNIT: u64 = 100;
/// The slot of a server that was in no list for so long may be another's.
const UNSEEN_FOR: Duration = Duration::from_secs(600);

impl<'a> Records<'a> {
    /// How many words so many slots take.
    pub fn words_for(slots: usize) -> usize {
        slots.saturating_mul(WORDS).saturating_add(HEADER)
    }

    /// Records in words that are all zero; `None` if there is no room for a slot.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        let (header, slots) = words.split_first_chunk()?;
        (slots.len() >= WORDS).then_some(Self { header, slots })
    }

    fn frozen(&self) -> Word<'a> {
        Word(&self.header[FROZEN])
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.slots.len() / WORDS
    }

    /// Nothing is claimed here any more, and no result counts.
    pub fn freeze(&self) {
        self.frozen().store(1);
    }

    /// Whether they have moved elsewhere.
    pub fn is_frozen(&self) -> bool {
        self.frozen().load() != 0
    }

    /// Takes over all that is in `old`, which was frozen before, claims in progress too. Nobody else uses
    /// these records yet.
    pub fn copy_from(&self, old: &Records<'_>) {
        for from in old.all() {
            let key = from.key();
            let free = self.path(&key).find(|to| kind(to.state) == state::FREE);
            let Some(to) = free else { return };
            for (to, from) in to.words.iter().zip(from.words).skip(1) {
                Word(to).store(Word(from).load());
            }
            to.word(At::State).store(from.state);
        }
    }

    /// The slot of `key`.
    pub fn find(&self, key: &Key) -> Option<Slot<'a>> {
        self.path(key)
            .take_while(|slot| kind(slot.state) != state::FREE)
            .find(|slot| kind(slot.state) == state::READY && is_of(slot, key))
    }

    /// The slot of `key`, which is made if there is none: for a server that begins with `standing`.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn find_or_make(
        &self,
        key: &Key,
        standing: Standing,
        now: Duration,
        wall: UnixMs,
    ) -> Result<Slot<'a>, NoSlot> {
        if let Some(slot) = self.find(key) {
            return Ok(slot);
        }
        if self.is_frozen() {
            return Err(NoSlot::Busy);
        }
        let mut free = None;
        for slot in self.path(key) {
            if kind(slot.state) == state::MAKING && is_print(slot.state, key) && !is_left(slot, now)
            {
                return Err(NoSlot::Busy);
            }
            free = free.or_else(|| match kind(slot.state) {
                state::FREE | state::RETIRED => Some(slot),
                state::MAKING if is_left(slot, now) => retire(slot),
                _ => None,
            });
            if kind(slot.state) == state::FREE {
                break;
            }
        }
        let free = free.or_else(|| self.retire_one(now)).ok_or(NoSlot::Full)?;
        self.make(free, key, standing, now, wall)
    }

    fn make(
        &self,
        mut slot: Slot<'a>,
        key: &Key,
        standing: Standing,
        now: Duration,
        wall: UnixMs,
    ) -> Result<Slot<'a>, NoSlot> {
        let word = |kind, before| {
            state::PRINT.put(key.words[0])
                | state::SINCE.put(millis(now) / UNIT)
                | state::KIND.put(kind)
                | state::GENERATION.put(state::GENERATION.of(before).wrapping_add(1))
        };
        let making = word(state::MAKING, slot.state);
        if !slot.word(At::State).change(slot.state, making) {
            return Err(NoSlot::Busy);
        }
        slot.state = making;
        // Of all that make a slot for this key the last one sees all others: no two are ready.
        let other = self
            .path(key)
            .take_while(|slot| kind(slot.state) != state::FREE)
            .filter(|other| !std::ptr::eq(other.words, slot.words))
            .any(|other| match kind(other.state) {
                state::READY => is_of(&other, key),
                state::MAKING if !is_print(other.state, key) => false,
                state::MAKING => !is_left(other, now) || retire(other).is_none(),
                _ => false,
            });
        if other {
            slot.word(At::State).change(making, word(state::RETIRED, making));
            return Err(NoSlot::Busy);
        }
        let [first, second] = key.words;
        let down_since = match standing {
            Standing::Healthy => 0,
            _ => wall.to_bits(),
        };
        let values = [
            (At::Key0, first),
            (At::Key1, second),
            (At::Check, key.check),
            (At::Born, millis(now)),
            (At::DownSince, down_since),
        ];
        let emptied = EMPTIED.into_iter().map(|at| (at, 0));
        for (at, value) in values.into_iter().chain(emptied) {
            // Read first: whoever was stopped here, and has lost the slot, changes nothing in it.
            let before = slot.word(at).load();
            if !slot.is_current() {
                return Err(NoSlot::Busy);
            }
            slot.word(at).change(before, value);
        }
        slot.put_first(standing);
        let ready = word(state::READY, making);
        if !slot.word(At::State).change(making, ready) {
            return Err(NoSlot::Busy);
        }
        slot.state = ready;
        Ok(slot)
    }

    /// Gives slots up whose key `is_wanted` does not want.
    pub fn retire_unless(&self, is_wanted: impl Fn(&Slot<'a>) -> bool) {
        for slot in self.all().filter(|slot| !is_wanted(slot)) {
            retire(slot);
        }
    }

    /// Gives the slot up that has not been seen for long enough, and was the longest.
    fn retire_one(&self, now: Duration) -> Option<Slot<'a>> {
        let unseen = self.all().filter(|slot| slot.is_free() && slot.unseen_for(now) >= UNSEEN_FOR);
        retire(unseen.max_by_key(|slot| slot.unseen_for(now))?)
    }

    /// All slots in use.
    pub fn all(&self) -> impl Iterator<Item = Slot<'a>> {
        let slots = (0..self.len()).filter_map(|at| self.slot(at));
        slots.filter(|slot| kind(slot.state) == state::READY)
    }

    /// The slots in which `key` is looked for, in this order.
    fn path(&self, key: &Key) -> impl Iterator<Item = Slot<'a>> {
        let len = self.len();
        let first = usize::try_from(key.words[0] % len as u64).unwrap_or(0);
        (first..len).chain(0..first).filter_map(|at| self.slot(at))
    }

    fn slot(&self, at: usize) -> Option<Slot<'a>> {
        let words = self.slots.get(at * WORDS..)?.first_chunk()?;
        let state = Word(&words[At::State as usize]).load();
        Some(Slot { words, frozen: self.frozen(), state })
    }
}

fn retire(slot: Slot<'_>) -> Option<Slot<'_>> {
    let generation = state::GENERATION.of(slot.state).wrapping_add(1);
    let retired = state::KIND.put(state::RETIRED) | state::GENERATION.put(generation);
    let done = slot.word(At::State).change(slot.state, retired);
    done.then_some(Slot { state: retired, ..slot })
}

fn kind(word: u64) -> u64 {
    state::KIND.of(word)
}

fn is_print(word: u64, key: &Key) -> bool {
    state::PRINT.of(word) == state::PRINT.put(key.words[0])
}

fn is_of(slot: &Slot<'_>, key: &Key) -> bool {
    is_print(slot.state, key) && slot.has(key)
}

/// Whether whoever makes a slot was killed, or is stopped: so long has it been in the making.
fn is_left(slot: Slot<'_>, now: Duration) -> bool {
    let since =
        (millis(now) / UNIT).wrapping_sub(state::SINCE.of(slot.state)) & state::SINCE.mask();
    since >= MAKING_FOR
}
