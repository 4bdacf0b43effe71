//! The state file's layout. `docs/state-file.md` has the same table with its reasons.
//!
//! The file is a row of pages of 4096 bytes; all numbers are little-endian, an instant is `i64`
//! Unix milliseconds, "never" is the smallest `i64`. Page 0 is the header, each other page one
//! record, or all zero (free). A part is written in one call, lies within one page and begins with
//! its own checksum (XXH64 of the rest of the part, seeded by the kind of part).
//!
//! Header, identity part, 0..2048, written under the header lock:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 8 | checksum, over 16..2048 |
//! | 16 | 4 | version of the format |
//! | 20 | 4 | page size |
//! | 24 | 4 | pages, this one included; 1 to 65536 |
//! | 28 | 4 | 1: made in place of a bad file, and not loaded yet |
//! | 32 | 8 | created at |
//! | 40 | 8 | hash of the owning instance's pid file name |
//! | 48 | 4 | length of that name |
//! | 64 | 1024 | that name, cut at this length |
//!
//! Header, control part, 2048..2560, written under the header's edit lock:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 2048 | 8 | checksum |
//! | 2056 | 8 | serial: how often this part was written |
//! | 2064 | 8 | not before: due times up to here are dealt with |
//! | 2072 | 8 | pause of all since |
//! | 2080 | 8 | pause of all until, the largest `i64` for ever |
//! | 2560 | 8 | order number, raised under the header's edit lock, read without |
//! | 2568 | 8 | written without a lock, and read by nobody: whether the file can be written |
//!
//! Record, run part, 0..2560, written under the run lock:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | checksum |
//! | 8 | 8 | serial |
//! | 16 | 128 | name: length, then bytes |
//! | 144 | 8 | watermark: due time |
//! | 152 | 4 | watermark: attempt |
//! | 156 | 1 | in progress: 0 nothing, 1 running, 2 waiting |
//! | 157 | 1 | trigger |
//! | 158 | 1 | waiting: outcome of the last attempt |
//! | 160 | 16 | run id |
//! | 176 | 16 | boot id |
//! | 192 | 8 | due |
//! | 200 | 8 | start of this attempt |
//! | 208 | 8 | waiting: next attempt at |
//! | 216 | 4 | pid |
//! | 220 | 4 | attempt |
//! | 224 | 4 | waiting: duration of the last attempt in ms |
//! | 228 | 2 | waiting: status of the last attempt |
//! | 232 | 8 | newest order done |
//! | 240 | 64 | counters: success, failure, timeout, cancelled, interrupted, error, retries, unscheduled |
//! | 304 | 8 | sum of durations in ms |
//! | 312 | 8 | start of the last success |
//! | 320 | 8 | start of the last attempt |
//! | 328 | 8 | its lateness in ms |
//! | 336 | 4 | failures in a row |
//! | 340 | 4 | number of results |
//! | 512 | 1536 | 32 results of 48 bytes, newest first |
//!
//! A result: due 0, start 8 (of its last attempt), run id 16, duration in ms 32 (4), attempts 36
//! (4), pid 40 (4), status 44 (2), outcome 46, trigger 47.
//!
//! Record, control part, 2560..3584, written under the edit lock:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 2560 | 8 | checksum |
//! | 2568 | 8 | serial |
//! | 2576 | 128 | name |
//! | 2704 | 8 | hash of the schedule |
//! | 2712 | 1 | bits: 1 loaded, 2 present, 4 enabled |
//! | 2720 | 8 | created |
//! | 2728 | 8 | last seen by a load |
//! | 2736 | 8 | hash of that load's pid file name |
//! | 2744 | 8 | not before |
//! | 2752 | 8 | left out up to |
//! | 2760 | 8 | queued due time |
//! | 2768 | 8 | pause since |
//! | 2776 | 8 | pause until, the largest `i64` for ever |
//! | 2784 | 8 | run order: number |
//! | 2792 | 16 | run order: run id |
//! | 2808 | 8 | run order: instant |
//! | 2816 | 16 | cancel order: run id, zero for none |
//! | 2832 | 8 | overlaps |
//! | 2840 | 8 | missed |
//! | 2848 | 4 | number of gaps still to be counted |
//! | 2856 | 96 | 4 gaps: after (8), up to (8), kind (1), at 20 how many of it are counted (4) |
//!
//! What is not named is zero and reserved. Lock bytes: use lock 0, header lock 8, header's edit
//! lock 2048; of the record on the page at `p`: run lock `p`, edit lock `p + 2560`.

/// The unit of the file.
pub(super) const PAGE_BYTES: usize = 4096;
/// The first byte is no text and no UTF-8, the last is what a text transfer breaks.
pub(super) const MAGIC: [u8; 8] = *b"\x89NGXTMR\n";
/// The version that this code writes and reads.
pub(super) const VERSION: u32 = 1;
/// How many results a record keeps.
pub const RESULTS: usize = 32;
/// The most pages that a file has: what claims more is not a file that this code wrote, and nobody
/// is to wait until all of it was looked at.
pub(super) const MOST_PAGES: u32 = 1 << 16;
/// The longest name of a timer, in bytes.
pub const NAME_BYTES: usize = 127;
/// How much of the pid file's name the header keeps.
pub(super) const PID_FILE_BYTES: usize = 1024;
/// How many stretches of left-out due times may wait to be counted.
pub(super) const GAPS: usize = 4;

/// Lock bytes of the header.
pub(super) const USE_LOCK: u64 = 0;
pub(super) const HEADER_LOCK: u64 = 8;

/// One of the parts of a page: where it lies, and what its checksum is seeded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) at: usize,
    pub(super) bytes: usize,
    seed: u64,
}

pub(super) const IDENTITY: Part = Part { at: 8, bytes: 2040, seed: 1 };
pub(super) const HEADER_CONTROL: Part = Part { at: 2048, bytes: 512, seed: 2 };
pub(super) const RUN: Part = Part { at: 0, bytes: 2560, seed: 3 };
pub(super) const CONTROL: Part = Part { at: 2560, bytes: 1024, seed: 4 };
/// Where the order number lies in the header's page.
pub(super) const ORDER_NUMBER_AT: u64 = 2560;
/// What is written to see whether the file can be written.
pub(super) const PROBE_AT: u64 = 2568;

const _: () = assert!(RUN.bytes <= CONTROL.at && CONTROL.at + CONTROL.bytes <= PAGE_BYTES);
const _: () = assert!(IDENTITY.at + IDENTITY.bytes <= HEADER_CONTROL.at);

impl Part {
    /// Where the part lies in the file, which is also the byte that its lock is on.
    pub(super) fn offset(self, page: u32) -> u64 {
        u64::from(page) * PAGE_BYTES as u64 + self.at as u64
    }

    /// Writes the checksum of `bytes` into their beginning.
    pub(super) fn seal(self, bytes: &mut [u8]) {
        if let Some((checksum, rest)) = bytes.split_first_chunk_mut::<8>() {
            *checksum = super::checksum::xxh64(rest, self.seed).to_le_bytes();
        }
    }

    /// Whether the checksum of `bytes` is right.
    pub(super) fn is_whole(self, bytes: &[u8]) -> bool {
        bytes.split_first_chunk::<8>().is_some_and(|(checksum, rest)| {
            bytes.len() == self.bytes
                && *checksum == super::checksum::xxh64(rest, self.seed).to_le_bytes()
        })
    }

    /// This part of the page `bytes`.
    pub(super) fn of(self, page: &[u8]) -> &[u8] {
        page.get(self.at..self.at + self.bytes).unwrap_or_default()
    }
}
