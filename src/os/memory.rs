//! Memory that runs out: what is small is served from a reserve then, what may be large fails.
//!
//! Most of what Rust allocates cannot fail: without memory the process is aborted. So
//!
//! - what grows with input or configuration is asked for by [`fallible`], and may be refused;
//! - everything else is small. The allocator serves it from a reserve when `malloc` fails, and no
//!   piece of work is begun unless [`enough`] says that the reserve, or `malloc`, has what it takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::collections::TryReserveError;
use std::fmt;
use std::hint;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What a piece of work may take, all that it allocates at the same time together.
const NEEDED: usize = SIZE / 2;
/// The reserve. It lies in the zeroed pages of the module's file: until it is used it takes
/// addresses, but no memory.
const SIZE: usize = UNITS * UNIT;
const UNITS: usize = 16 * 1024;
/// What it is dealt out in, and the smallest alignment.
const UNIT: usize = 64;
/// The largest alignment.
const PAGE: usize = 4096;

/// There is not enough memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory")
    }
}

/// Whether a piece of work may be begun that asks for all large things by [`fallible`].
pub fn enough() -> bool {
    RESERVE.free() >= NEEDED || can_have(NEEDED)
}

/// The same for one that takes up to `bytes` more in small pieces, in a single-threaded process.
///
/// # Errors
///
/// There is less.
pub fn enough_for(bytes: usize) -> Result<(), NoMemory> {
    // What malloc adds to small blocks, and what else happens meanwhile.
    let bytes = bytes.saturating_add(bytes / 8).saturating_add(NEEDED);
    if enough() && can_have(bytes) { Ok(()) } else { Err(NoMemory) }
}

/// What `grow` allocates may fail, and is not taken from the reserve.
///
/// # Errors
///
/// There is no memory.
pub fn fallible<T>(grow: impl FnOnce() -> Result<T, TryReserveError>) -> Result<T, NoMemory> {
    MAY_FAIL.fetch_add(1, Ordering::Relaxed);
    let grown = grow();
    MAY_FAIL.fetch_sub(1, Ordering::Relaxed);
    grown.map_err(|_| NoMemory)
}

/// Appends `value`.
///
/// # Errors
///
/// There is no memory; `value` is dropped.
pub fn push<T>(to: &mut Vec<T>, value: T) -> Result<(), NoMemory> {
    fallible(|| to.try_reserve(1))?;
    to.push(value);
    Ok(())
}

/// How many calls of [`fallible`] are in progress, in whatever thread: one in the middle of another's
/// makes that one's allocations fail early, which is no harm.
static MAY_FAIL: AtomicUsize = AtomicUsize::new(0);

/// A piece of what [`can_have`] takes.
#[repr(C)]
struct MallocBlock {
    before: *mut MallocBlock,
    _more: [u8; 32 * 1024],
}

/// Whether `malloc` has so much, in pieces: it is taken, and given back.
fn can_have(bytes: usize) -> bool {
    let layout = Layout::new::<MallocBlock>();
    let mut wanted = bytes.div_ceil(layout.size());
    let mut last: *mut MallocBlock = ptr::null_mut();
    while wanted > 0 {
        // SAFETY: the size of a piece is not zero.
        let block = unsafe { libc::malloc(layout.size()) };
        if block.is_null() {
            break;
        }
        let piece = block.cast::<*mut MallocBlock>();
        // SAFETY: a new block of this size, aligned as all that malloc gives; it begins with this.
        unsafe { piece.write(last) };
        last = piece.cast();
        wanted -= 1;
    }
    while !last.is_null() {
        // SAFETY: written above.
        let before = unsafe { (*last).before };
        // SAFETY: allocated above, and not used any more.
        unsafe { libc::free(last.cast()) };
        last = before;
    }
    wanted == 0
}

/// The allocator of this module: `malloc`, and the reserve behind it.
pub struct Allocator;

/// Without memory it is this that keeps small things from ending the process.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: what `System` gives and takes back is its own; what the reserve gives is in no other
// block's units until it is given back, and has the size and alignment that were asked for.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() { reserved(layout) } else { block }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            return block;
        }
        let block = reserved(layout);
        if !block.is_null() {
            // SAFETY: a new block of this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match RESERVE.unit_of(block) {
            Some(unit) => RESERVE.give_back(unit, layout),
            // SAFETY: the caller's promise: `System` has given it.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if RESERVE.unit_of(block).is_none() {
            // SAFETY: the caller's promise: `System` has given it.
            let grown = unsafe { System.realloc(block, layout, size) };
            if !grown.is_null() {
                return grown;
            }
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: `size` is not zero, by the caller's promise.
        let grown = unsafe { self.alloc(wanted) };
        if !grown.is_null() {
            // SAFETY: both blocks have so many bytes, and are two.
            unsafe { ptr::copy_nonoverlapping(block, grown, layout.size().min(size)) };
            // SAFETY: the caller's promise; it is not used any more.
            unsafe { self.dealloc(block, layout) };
        }
        grown
    }
}

/// A block of the reserve; null if there is none, or if the allocation may fail.
fn reserved(layout: Layout) -> *mut u8 {
    if MAY_FAIL.load(Ordering::Relaxed) > 0 {
        return ptr::null_mut();
    }
    RESERVE.take(layout)
}

#[repr(C, align(4096))]
struct Room(UnsafeCell<[u8; SIZE]>);

/// # Invariants
///
/// The bits of the units of each block that was taken are set, those of all others are not; they
/// change under the lock only, and `free` says how many are not.
struct Reserve {
    room: Room,
    taken: [AtomicU64; UNITS / 64],
    /// In use: how many are taken, so that a zeroed reserve is a whole one.
    used: AtomicUsize,
    locked: AtomicBool,
}

// SAFETY: the room is only handed out, as blocks of which each belongs to one owner; the rest is
// atomic.
unsafe impl Sync for Reserve {}

static RESERVE: Reserve = Reserve {
    room: Room(UnsafeCell::new([0; SIZE])),
    taken: [const { AtomicU64::new(0) }; UNITS / 64],
    used: AtomicUsize::new(0),
    locked: AtomicBool::new(false),
};

impl Reserve {
    /// How many bytes are not taken.
    fn free(&self) -> usize {
        (UNITS - self.used.load(Ordering::Relaxed)) * UNIT
    }

    /// The first unit of a block, if the reserve has given it.
    fn unit_of(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().checked_sub(self.room.0.get().addr())?;
        (offset < SIZE).then_some(offset / UNIT)
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let units = layout.size().div_ceil(UNIT);
        let step = layout.align().div_ceil(UNIT);
        if layout.align() > PAGE || units > UNITS {
            return ptr::null_mut();
        }
        self.locked(|| {
            let mut at = 0;
            while at + units <= UNITS {
                let Some(taken) = (at..at + units).rev().find(|unit| self.is_taken(*unit)) else {
                    self.mark(at, units);
                    return self.room.0.get().cast::<u8>().wrapping_add(at * UNIT);
                };
                // The next place that is aligned behind the last unit in the way.
                at = (taken + 1).next_multiple_of(step);
            }
            ptr::null_mut()
        })
    }

    fn give_back(&self, unit: usize, layout: Layout) {
        self.locked(|| self.mark(unit, layout.size().div_ceil(UNIT)));
    }

    fn is_taken(&self, unit: usize) -> bool {
        let word = self.taken.get(unit / 64).map_or(0, |word| word.load(Ordering::Relaxed));
        word >> (unit % 64) & 1 == 1
    }

    /// Turns the bits of these units, all of which are alike.
    fn mark(&self, from: usize, units: usize) {
        let taken = self.is_taken(from);
        for unit in from..from + units {
            if let Some(word) = self.taken.get(unit / 64) {
                word.fetch_xor(1 << (unit % 64), Ordering::Relaxed);
            }
        }
        // INVARIANT: as many as the bits say.
        if taken {
            self.used.fetch_sub(units, Ordering::Relaxed);
        } else {
            self.used.fetch_add(units, Ordering::Relaxed);
        }
    }

    fn locked<T>(&self, change: impl FnOnce() -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            hint::spin_loop();
        }
        let changed = change();
        self.locked.store(false, Ordering::Release);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reserve of this test's own.
    fn reserve() -> Box<Reserve> {
        let mut reserve = Box::<Reserve>::new_uninit();
        // SAFETY: there is room for one.
        unsafe { reserve.as_mut_ptr().write_bytes(0, 1) };
        // SAFETY: a reserve that is all zeros is a whole one.
        let reserve = unsafe { reserve.assume_init() };
        assert_eq!(reserve.free(), SIZE);
        reserve
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_are_apart_and_aligned_and_come_back() {
        let reserve = reserve();
        let mut blocks: Vec<(usize, Layout)> = Vec::new();
        let mut random: u64 = 1;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = usize::try_from(random >> 33).unwrap();
            if number % 3 == 0 && !blocks.is_empty() {
                let (block, layout) = blocks.swap_remove(number % blocks.len());
                let block = ptr::without_provenance_mut(block);
                reserve.give_back(reserve.unit_of(block).unwrap(), layout);
                continue;
            }
            let layout = layout(1 + number % 9000, 1 << (number % 13));
            let block = reserve.take(layout);
            if block.is_null() {
                assert!(reserve.free() < 4 * SIZE / 5, "{}", reserve.free());
                continue;
            }
            assert_eq!(block.addr() % layout.align(), 0);
            let (from, to) = (block.addr(), block.addr() + layout.size());
            for (other, layout) in &blocks {
                assert!(to <= *other || other + layout.size() <= from);
            }
            let room = reserve.room.0.get().addr();
            assert!(room <= from && to <= room + SIZE);
            blocks.push((block.addr(), layout));
        }
        for (block, layout) in blocks {
            let block = ptr::without_provenance_mut(block);
            reserve.give_back(reserve.unit_of(block).unwrap(), layout);
        }
        assert_eq!(reserve.free(), SIZE);
        assert!(!reserve.take(layout(SIZE, 4096)).is_null(), "in one piece");
        assert!(reserve.take(layout(1, 1)).is_null());
    }

    #[test]
    fn what_is_too_large_for_it_is_refused() {
        let reserve = reserve();
        assert!(reserve.take(layout(SIZE + 1, 1)).is_null());
        assert!(reserve.take(layout(1, 8192)).is_null());
        assert_eq!(reserve.free(), SIZE);
    }

    #[test]
    fn a_block_of_the_reserve_can_grow_and_shrink() {
        let small = layout(100, 8);
        let block = RESERVE.take(small);
        // SAFETY: a block of 100 bytes.
        unsafe { block.write_bytes(7, 100) };
        // SAFETY: it is the allocator's, and has this layout.
        let grown = unsafe { Allocator.realloc(block, small, 1000) };
        // SAFETY: a block of 1000 bytes, of which the first 100 are set.
        assert_eq!(unsafe { std::slice::from_raw_parts(grown, 100) }, [7; 100]);
        // SAFETY: as above.
        let shrunk = unsafe { Allocator.realloc(grown, layout(1000, 8), 10) };
        // SAFETY: a block of 10 bytes.
        assert_eq!(unsafe { std::slice::from_raw_parts(shrunk, 10) }, [7; 10]);
        // SAFETY: as above.
        unsafe { Allocator.dealloc(shrunk, layout(10, 8)) };
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let mut list: Vec<u8> = Vec::new();
        assert_eq!(fallible(|| list.try_reserve(isize::MAX as usize)), Err(NoMemory));
        assert_eq!(push(&mut list, 1), Ok(()));
        assert!(enough());
        assert_eq!(enough_for(1000), Ok(()));
    }
}
