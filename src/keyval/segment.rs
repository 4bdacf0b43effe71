//! The memory that all workers share: a header, and two halves, of which one has the current image.
//!
//! ```text
//!   Writer::take ──> publish: the idle half has no image any more ──> copied ──> current
//!                                                     (a writer that dies here leaves what was current)
//! ```
//!
//! Each image that becomes current has a generation, one more than the last; its half is told by the
//! lowest bit. A half's stamp says which generation is in it, and is 0 while it is written to: who reads
//! looks at the stamp before and after, and what was read between is used only if it is the same.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::image::{Image, Layout, Meta, find_equal};
use super::words::{Text, Words};
use super::{Built, Kind, LONGEST_VALUE, Room};
use crate::os::memory::NoMemory;

/// The words of the header.
#[derive(Clone, Copy)]
#[repr(usize)]
enum At {
    Mark = 0,
    /// The generation that is current; 0 for none.
    Current = 1,
    /// The stamps of both halves.
    Stamp = 2,
    /// The process that writes: its pid << 32, when it was started. 0 for none.
    Writer = 4,
    /// When the current content was found to be up to date: see [`renewed`].
    Renewed = 5,
    /// The generation that the state file has.
    Saved = 6,
    /// A hash of the state file's path.
    PathOfSaved = 7,
    /// When what the state file has was up to date.
    AgeOfSaved = 8,
    /// The first of those that `refused` has.
    Refused = 9,
}

const HEADER: usize = 64;
const MARK: u64 = u64::from_le_bytes(*b"keyzone\x01");
/// So many words are copied in a step.
const STEP: usize = 16 * 1024;
/// More often than any writer could write in the time of a look-up.
const TRIES: usize = 64;

/// A zone's memory.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    words: &'a [AtomicU64],
    half: usize,
}

/// How old a content may be.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// Milliseconds that nobody sets back.
    pub now: u64,
    /// So many milliseconds.
    pub timeout: u64,
}

/// The layout of the image that this process has looked at last.
#[derive(Debug)]
pub struct Seen {
    generation: Cell<u64>,
    layout: Cell<Layout>,
    /// Its generation if keys are found in it by themselves, and however old it is; otherwise 0.
    plain: Cell<u64>,
}

impl Seen {
    /// None yet.
    pub fn nothing() -> Self {
        Self { generation: Cell::new(0), layout: Cell::new(Layout::NONE), plain: Cell::new(0) }
    }
}

/// The right to replace the content, of one in this process.
#[derive(Debug)]
pub struct Writer {
    word: u64,
}

/// An image on its way to the idle half.
#[derive(Debug)]
pub struct Publishing {
    image: Built,
    generation: u64,
    done: usize,
}

/// The writer's right was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned;

impl<'a> Segment<'a> {
    /// How many words there are for halves of so many.
    pub fn words_for(half: usize) -> usize {
        half.saturating_mul(2).saturating_add(HEADER)
    }

    /// Memory that is in use already; `None` if it is not such.
    pub fn of(words: &'a [AtomicU64]) -> Option<Self> {
        let half = words.len().checked_sub(HEADER)? / 2;
        let it = Self { words, half };
        (it.load(At::Mark) == MARK).then_some(it)
    }

    /// Memory that nobody uses yet.
    pub fn begin(words: &'a [AtomicU64]) -> Option<Self> {
        for word in words.iter().take(HEADER) {
            word.store(0, Ordering::Relaxed);
        }
        words.first()?.store(MARK, Ordering::SeqCst);
        Self::of(words)
    }

    fn at(&self, at: At) -> Option<&'a AtomicU64> {
        self.words.get(at as usize)
    }

    fn load(&self, at: At) -> u64 {
        self.at(at).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn store(&self, at: At, value: u64) {
        if let Some(word) = self.at(at) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// The words of the header that are not used here.
    pub(super) fn spare(&self) -> &'a [AtomicU64] {
        self.words.get(At::Refused as usize..HEADER).unwrap_or_default()
    }

    fn stamp(&self, generation: u64) -> Option<&'a AtomicU64> {
        self.words.get(At::Stamp as usize + (generation & 1) as usize)
    }

    fn half(&self, generation: u64) -> Option<&'a [AtomicU64]> {
        let from = HEADER + (generation & 1) as usize * self.half;
        self.words.get(from..from + self.half)
    }

    /// The generation that is current; 0 if there is none.
    pub fn generation(&self) -> u64 {
        self.load(At::Current)
    }

    /// What `look` makes of the image of this generation; `None` if it is there no more.
    pub fn look<T>(
        &self,
        generation: u64,
        look: impl FnOnce(Image<&'a [AtomicU64]>) -> T,
    ) -> Option<T> {
        let stamp = self.stamp(generation)?;
        if generation == 0 || stamp.load(Ordering::Acquire) != generation {
            return None;
        }
        let seen = Image::of(self.half(generation)?).map(look);
        fence(Ordering::Acquire);
        (stamp.load(Ordering::Relaxed) == generation).then_some(seen)?
    }

    /// The same of the current one; `None` if there is none.
    pub fn look_at_current<T>(
        &self,
        mut look: impl FnMut(Image<&'a [AtomicU64]>) -> T,
    ) -> Option<(u64, T)> {
        for _ in 0..TRIES {
            let generation = self.generation();
            if generation == 0 {
                return None;
            }
            if let Some(seen) = self.look(generation, &mut look) {
                return Some((generation, seen));
            }
            // It is damaged, not replaced.
            if self.generation() == generation {
                return None;
            }
        }
        None
    }

    /// Puts the value of `key` into `room`, and answers whether it has one. `pinned` is what a request has seen first, and 0
    /// before: all that it looks up is of one content, while that is there: until the second one after it is written.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn look_up(
        self,
        key: &[u8],
        pinned: &Cell<usize>,
        seen: &Seen,
        age: impl Fn() -> Option<Age> + Copy,
        room: &mut impl Room,
    ) -> Result<bool, NoMemory> {
        let generation = self.pin(pinned);
        if generation == 0 {
            return Ok(false);
        }
        let found = self.look_up_in(generation, key, seen, age, room);
        found.unwrap_or_else(|| self.look_up_again(key, pinned, seen, age, room))
    }

    /// The same when what was pinned is there no more.
    #[cold]
    fn look_up_again(
        self,
        key: &[u8],
        pinned: &Cell<usize>,
        seen: &Seen,
        age: impl Fn() -> Option<Age> + Copy,
        room: &mut impl Room,
    ) -> Result<bool, NoMemory> {
        for _ in 0..TRIES {
            let before = self.pin(pinned);
            pinned.set(0);
            let generation = self.pin(pinned);
            // It is damaged, not replaced.
            if generation == before || generation == 0 {
                break;
            }
            if let Some(found) = self.look_up_in(generation, key, seen, age, room) {
                return found;
            }
        }
        Ok(false)
    }

    /// The generation that is looked at; 0 if there is none. It is pinned as one more.
    fn pin(&self, pinned: &Cell<usize>) -> u64 {
        if let Some(generation) = (pinned.get() as u64).checked_sub(1) {
            return generation;
        }
        let generation = self.generation();
        // One that has no place in a word is not pinned.
        pinned.set(usize::try_from(generation.wrapping_add(1)).unwrap_or(0));
        generation
    }

    /// The value of `key` in the image of this generation; `None` if that is there no more.
    #[expect(clippy::inline_always, reason = "a tenth of the instructions")]
    #[inline(always)]
    fn look_up_in(
        self,
        generation: u64,
        key: &[u8],
        seen: &Seen,
        age: impl Fn() -> Option<Age> + Copy,
        room: &mut impl Room,
    ) -> Option<Result<bool, NoMemory>> {
        let stamp = self.stamp(generation)?;
        if stamp.load(Ordering::Acquire) != generation {
            return None;
        }
        let words = self.half(generation)?;
        let found = if seen.plain.get() == generation {
            find_equal(words, seen.layout.get(), key)
        } else {
            if seen.generation.get() != generation {
                self.see(generation, seen, age().is_none())?;
            }
            let image = Image::known(words, seen.layout.get());
            self.look_up_unless_over(generation, image, key, age())
        };
        let is_there = match found {
            // A longer one was never whole.
            Some(text) if text.len > LONGEST_VALUE => return None,
            Some(text) => room.fill(text.len, text.words.each()).map(|()| true),
            None => Ok(false),
        };
        fence(Ordering::Acquire);
        (stamp.load(Ordering::Relaxed) == generation).then_some(is_there)
    }

    /// Remembers the layout of the image of this generation; `None` if that is there no more.
    #[cold]
    fn see(self, generation: u64, seen: &Seen, at_any_age: bool) -> Option<()> {
        let layout = self.look(generation, |image| image.layout())?;
        seen.generation.set(generation);
        seen.layout.set(layout);
        let is_plain = at_any_age && layout.kind == Kind::String;
        seen.plain.set(if is_plain { generation } else { 0 });
        Some(())
    }

    #[inline(never)]
    fn look_up_unless_over(
        self,
        generation: u64,
        image: Image<&'a [AtomicU64]>,
        key: &[u8],
        age: Option<Age>,
    ) -> Option<Text<&'a [AtomicU64]>> {
        let is_over = age.is_some_and(|age| {
            age.now.saturating_sub(self.up_to_date(generation, image.taken())) > age.timeout
        });
        if is_over { None } else { image.look_up(key) }
    }

    /// When the content of this generation was found to be up to date last, in such milliseconds, if it
    /// was taken at `taken`.
    pub fn up_to_date(&self, generation: u64, taken: u64) -> u64 {
        let (of, at) = renewed(self.load(At::Renewed));
        if of == generation & NUMBER { taken.max(at) } else { taken }
    }

    /// The content of this generation is up to date.
    pub fn renew(&self, generation: u64, now: u64) {
        self.store(At::Renewed, (generation & NUMBER) << TIME_BITS | now & ((1 << TIME_BITS) - 1));
    }

    /// The generation that the state file at the path with this hash has, and when that was up to date; 0 if
    /// none.
    pub fn saved(&self, path: u64) -> (u64, u64) {
        if self.load(At::PathOfSaved) != path {
            return (0, 0);
        }
        (self.load(At::Saved), self.load(At::AgeOfSaved))
    }

    /// The state file has this generation.
    pub fn set_saved(&self, path: u64, generation: u64, up_to_date: u64) {
        self.store(At::Saved, generation);
        self.store(At::AgeOfSaved, up_to_date);
        self.store(At::PathOfSaved, path);
    }
}

/// The lowest bits of a generation, and an instant, in one word.
const TIME_BITS: u32 = 44;
const NUMBER: u64 = (1 << (64 - TIME_BITS)) - 1;

fn renewed(word: u64) -> (u64, u64) {
    (word >> TIME_BITS, word & ((1 << TIME_BITS) - 1))
}

impl Writer {
    /// Takes the right to write, for the process of this pid that was started then; `None` while another has
    /// it that is not gone.
    pub fn take(
        segment: &Segment<'_>,
        pid: u32,
        started: u32,
        is_gone: impl Fn(u32, u32) -> bool,
    ) -> Option<Self> {
        let word = u64::from(pid) << 32 | u64::from(started);
        let writer = segment.at(At::Writer)?;
        let before = writer.load(Ordering::SeqCst);
        let [pid, started] = [before >> 32, before & u64::from(u32::MAX)]
            .map(|half| u32::try_from(half).unwrap_or(0));
        // Another one of this process has it: that is not taken from it.
        if before == word || before != 0 && !is_gone(pid, started) {
            return None;
        }
        let taken = writer.compare_exchange(before, word, Ordering::SeqCst, Ordering::SeqCst);
        taken.is_ok().then_some(Self { word })
    }

    fn holds(&self, segment: &Segment<'_>) -> bool {
        segment.load(At::Writer) == self.word
    }

    /// Gives the right back.
    pub fn give_back(self, segment: &Segment<'_>) {
        if let Some(writer) = segment.at(At::Writer) {
            let _ = writer.compare_exchange(self.word, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

impl Publishing {
    /// Begins to copy `image`, which is not longer than a half.
    pub fn begin(segment: &Segment<'_>, writer: &Writer, image: Built) -> Result<Self, Turned> {
        if !writer.holds(segment) || image.len() > segment.half {
            return Err(Turned);
        }
        let generation = segment.generation().wrapping_add(1);
        if let Some(stamp) = segment.stamp(generation) {
            stamp.store(0, Ordering::SeqCst);
        }
        // Who sees a word of the new image sees the stamp, too.
        fence(Ordering::SeqCst);
        Ok(Self { image, generation, done: 0 })
    }

    /// Goes on a little; the image's generation once it is current.
    ///
    /// # Errors
    ///
    /// The right to write is another's.
    pub fn step(&mut self, segment: &Segment<'_>, writer: &Writer) -> Result<Option<u64>, Turned> {
        if !writer.holds(segment) {
            return Err(Turned);
        }
        let half = segment.half(self.generation).unwrap_or_default();
        let rest = self.image.get(self.done..).unwrap_or_default();
        let part = rest.get(..STEP).unwrap_or(rest);
        for (to, from) in half.iter().skip(self.done).zip(part) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
        self.done += part.len();
        if self.done < self.image.len() {
            return Ok(None);
        }
        if let Some(stamp) = segment.stamp(self.generation) {
            stamp.store(self.generation, Ordering::SeqCst);
        }
        segment.store(At::Current, self.generation);
        Ok(Some(self.generation))
    }
}

impl Segment<'_> {
    /// What is known of the current content, with its generation.
    pub fn meta(&self) -> Option<(u64, Meta, u64, u64)> {
        let (generation, (meta, count, bytes)) =
            self.look_at_current(|image| (image.meta(), image.count(), image.bytes()))?;
        Some((generation, meta, count, bytes))
    }
}
