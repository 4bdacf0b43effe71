//! The state file's layout; `docs/state-file.md` has the same tables with their reasons, and a test
//! holds the two together.
//!
//! The file is a row of pages; all numbers are little-endian, an instant is `i64` Unix milliseconds,
//! "never" is the smallest `i64`. A part is written in one call, lies within one page and begins with
//! its own checksum. What is not named is zero and reserved.

use xxhash_rust::xxh64::xxh64;

/// The unit of the file.
pub(in crate::state) const PAGE_BYTES: usize = 4096;
/// The first byte is no text and no UTF-8, the last is what a text transfer breaks.
pub(in crate::state) const MAGIC: [u8; 8] = *b"\x89NGXTMR\n";
/// The version that this code writes.
pub(in crate::state) const VERSION: u32 = 2;
/// How many results a record keeps.
pub(in crate::state) const RESULTS: usize = 32;
/// The most pages that a file has: what claims more is not a file that this code wrote, and nobody
/// is to wait until all of it was looked at.
pub(in crate::state) const MOST_PAGES: u32 = 1 << 16;
/// The longest name of a timer, in bytes.
pub(in crate::state) const NAME_BYTES: usize = 127;
/// How much of the pid file's name the header keeps.
pub(in crate::state) const PID_FILE_BYTES: usize = 1024;
/// How many stretches of left-out due times may wait to be counted.
pub(in crate::state) const GAPS: usize = 4;

/// How many may be told of a timer's events.
pub const RECEIVERS: usize = 4;

/// Lock bytes of the header.
pub(in crate::state) const USE_LOCK: u64 = 0;
pub(in crate::state) const HEADER_LOCK: u64 = 8;

/// One of the parts of a page: where it lies, and what its checksum is seeded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) struct Part {
    pub(in crate::state) at: usize,
    pub(in crate::state) bytes: usize,
    pub(in crate::state) seed: u64,
}

pub(in crate::state) const IDENTITY: Part =
    Part { at: 8, bytes: held(identity::ROWS, 2048) - 8, seed: 1 };
pub(in crate::state) const HEADER_CONTROL: Part =
    Part { at: 2048, bytes: held(header::ROWS, 64), seed: 5 };
pub(in crate::state) const CLAIM: Part = Part { at: 0, bytes: held(claim::ROWS, 320), seed: 6 };
pub(in crate::state) const CONTROL: Part =
    Part { at: 320, bytes: held(control::ROWS, 512), seed: 7 };
/// Both parts of a record, which one call reads.
pub(in crate::state) const RECORD_BYTES: usize = CLAIM.bytes + CONTROL.bytes;
/// The order number, in the header's page.
pub(in crate::state) const ORDER_NUMBER: Field<8> = Field(2112);
/// What is written to see whether the file can be written.
pub(in crate::state) const PROBE: Field<8> = Field(2120);
/// Where the ring of results lies in a record's page.
pub(in crate::state) const RING_AT: usize = 1024;
const RESULT_BYTES: usize = held(result::ROWS, 64);
pub(in crate::state) const RING_BYTES: usize = RESULTS * RESULT_BYTES;

/// The place of the result that has this number, counted from 1.
pub(in crate::state) const fn result_part(number: u64) -> Part {
    Part { at: RING_AT + place_of(number) * RESULT_BYTES, bytes: RESULT_BYTES, seed: 8 }
}

/// What is locked while a receiver is told of an event, by its place.
pub(in crate::state) const fn event_lock(place: usize) -> Part {
    Part { at: EVENT_LOCKS_AT + place, bytes: 0, seed: 0 }
}

/// Behind the parts of a record.
const EVENT_LOCKS_AT: usize = 832;

/// Which place of the ring it is.
#[expect(clippy::cast_possible_truncation, reason = "less than the number of records")]
pub(in crate::state) const fn place_of(number: u64) -> usize {
    (number % RESULTS as u64) as usize
}

/// A page of a timer's text.
pub(in crate::state) const TEXT: Part =
    Part { at: 0, bytes: held(text::ROWS, PAGE_BYTES) - 8, seed: 9 };
/// What stands behind the text, so that a damaged page is known for one of a text.
pub(in crate::state) const TEXT_MARK_AT: usize = text::MARK.0;
pub(in crate::state) const TEXT_MARK: [u8; 8] = *b"NGXTTEXT";
/// How many bytes of a text one page holds.
pub(in crate::state) const TEXT_PAGE_BYTES: usize = 4056;
/// The longest text, in bytes.
pub const TEXT_BYTES: usize = 8192;
/// How many pages that takes.
pub(in crate::state) const TEXT_PAGES: usize = TEXT_BYTES.div_ceil(TEXT_PAGE_BYTES);

const _: () = assert!(CLAIM.at + CLAIM.bytes == CONTROL.at && RECORD_BYTES <= RING_AT);
const _: () = assert!(RING_AT + RING_BYTES <= PAGE_BYTES && TEXT.bytes == TEXT_MARK_AT);
const _: () = assert!(IDENTITY.at + IDENTITY.bytes <= HEADER_CONTROL.at);

impl Part {
    /// Where the part lies in the file, which is also the byte that its lock is on.
    pub(in crate::state) fn offset(self, page: u32) -> u64 {
        u64::from(page) * PAGE_BYTES as u64 + self.at as u64
    }

    /// Writes the checksum of `bytes` into their beginning.
    pub(in crate::state) fn seal(self, bytes: &mut [u8]) {
        if let Some((checksum, rest)) = bytes.split_first_chunk_mut::<8>() {
            *checksum = xxh64(rest, self.seed).to_le_bytes();
        }
    }

    /// Whether the checksum of `bytes` is right.
    pub(in crate::state) fn is_whole(self, bytes: &[u8]) -> bool {
        bytes.split_first_chunk::<8>().is_some_and(|(checksum, rest)| {
            bytes.len() == self.bytes && *checksum == xxh64(rest, self.seed).to_le_bytes()
        })
    }

    /// This part of the page `bytes`.
    pub(in crate::state) fn of(self, page: &[u8]) -> &[u8] {
        page.get(self.at..self.at + self.bytes).unwrap_or_default()
    }

    /// Puts `bytes` in the place of this part of a page.
    pub(in crate::state) fn put(self, page: &mut [u8], bytes: &[u8]) {
        if let Some(part) = page.get_mut(self.at..self.at + self.bytes) {
            if part.len() == bytes.len() {
                part.copy_from_slice(bytes);
            }
        }
    }
}

/// The hash by which a claim part says whose it is.
pub(in crate::state) fn name_hash(name: &str) -> u64 {
    xxh64(name.as_bytes(), 0)
}

/// A number, an id or a text at its place: how many bytes, and where they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) struct Field<const BYTES: usize>(pub(in crate::state) usize);

impl<const BYTES: usize> Field<BYTES> {
    /// Where it lies in the header's page, and so in the file.
    pub(in crate::state) const fn in_header(self) -> u64 {
        self.0 as u64
    }
}

/// A field as the table in the manual has it: at, bytes, what.
pub(in crate::state) type FieldRow = (usize, usize, &'static str);

/// Names the fields of a part, each with the row that the manual's table has for it.
macro_rules! fields {
    ($($name:ident $at:literal $bytes:literal $what:literal;)*) => {
        $(pub(in crate::state) const $name: Field<$bytes> = Field($at);)*
        pub(in crate::state) const ROWS: &[FieldRow] = &[$(($name.0, $bytes, $what)),*];
    };
}

/// `bytes`, within which fields follow each other: else this does not compile.
const fn held(rows: &[FieldRow], bytes: usize) -> usize {
    let (mut number, mut end) = (0, 0);
    while number < rows.len() {
        assert!(rows[number].0 >= end);
        end = rows[number].0 + rows[number].1;
        number += 1;
    }
    assert!(end <= bytes);
    bytes
}

/// The identity part of the header, from the beginning of its page.
#[rustfmt::skip]
pub(in crate::state) mod identity {
    use super::{Field, FieldRow};
    fields! {
        MAGIC 0 8 "magic: `89 4e 47 58 54 4d 52 0a`";
        CHECKSUM 8 8 "checksum of 16..2048";
        VERSION 16 4 "version";
        PAGE_BYTES 20 4 "page size, 4096";
        PAGES 24 4 "number of pages, this one included; 1 to 65536";
        BITS 28 4 "bits: 1 made in place of a bad file, and not loaded yet; 2 records of format 1 are still to be converted";
        CREATED_AT 32 8 "created";
        PID_FILE_HASH 40 8 "hash of the pid file's name";
        PID_FILE_LENGTH 48 4 "length of that name";
        PID_FILE 64 1024 "the name, cut at this length";
    }
}

/// The control part of the header.
#[rustfmt::skip]
pub(super) mod header {
    use super::{Field, FieldRow};
    fields! {
        CHECKSUM 0 8 "checksum of the rest";
        SERIAL 8 8 "serial";
        NOT_BEFORE 16 8 "not before: due times up to here are handled";
        PAUSED_SINCE 24 8 "pause of all timers: since";
        PAUSED_UNTIL 32 8 "pause of all timers: until; the largest number for ever";
    }
}

/// The claim part of a record.
#[rustfmt::skip]
pub(super) mod claim {
    use super::{Field, FieldRow};
    fields! {
        CHECKSUM 0 8 "checksum of the rest";
        SERIAL 8 8 "serial";
        NAME_HASH 16 8 "hash of the timer's name: XXH64, seed 0";
        WATERMARK 24 8 "watermark: the newest due time ever taken";
        WATERMARK_ATTEMPT 32 4 "watermark: its newest attempt";
        PROGRESS 36 1 "in progress: 0 nothing, 1 running, 2 waiting for the next attempt, 3 claiming in a fleet";
        TRIGGER 37 1 "trigger: 0 schedule, 1 first, 2 missed, 3 queue, 4 manual";
        LAST_OUTCOME 38 1 "waiting: outcome of the last attempt";
        RESULT_OUTCOME 39 1 "last result: outcome";
        RUN 40 16 "run id";
        BOOT 56 16 "boot id";
        DUE 72 8 "due";
        STARTED_AT 80 8 "start of this attempt";
        NEXT_AT 88 8 "waiting: when the next attempt may start";
        PID 96 4 "pid";
        ATTEMPT 100 4 "attempt";
        LAST_DURATION 104 4 "waiting: duration of the last attempt in ms";
        LAST_STATUS 108 2 "waiting: status of the last attempt";
        RESULT_STATUS 110 2 "last result: status";
        ORDERS_DONE 112 8 "number of the newest order carried out";
        COUNTERS 120 64 "counters, 8 bytes each: success, failure, timeout, cancelled, interrupted, error, retries, unscheduled";
        LOST 184 8 "counter of one more outcome: lost";
        MORE_OUTCOMES 192 8 "reserved: counter of one more outcome";
        MORE_COUNTERS 200 16 "reserved: two more counters";
        DURATION_SUM 216 8 "sum of durations in ms";
        LAST_SUCCESS_AT 224 8 "start of the last success";
        LAST_START_AT 232 8 "start of the last attempt";
        LAST_LATENESS 240 8 "its lateness in ms";
        FAILURES 248 4 "failures in a row";
        RESULT_DURATION 252 4 "last result: duration of its last attempt in ms";
        RESULTS_EVER 256 8 "number of results ever: the ring goes on behind it";
        RESULT_STARTED_AT 264 8 "last result: start of its last attempt; never for none";
        CLAIM_ID 272 16 "in progress: id of its claim in a fleet; zero for none";
        FENCE 288 8 "running or waiting: fence of its attempt";
        FAILURE_TEXT 296 8 "serial of the text of the last failure; 0 for none";
        REVISION 304 8 "running or waiting: revision of the claim in the fleet; claiming: the one that must be found unchanged, 0 for none";
    }
}

/// A place of the ring of results.
#[rustfmt::skip]
pub(super) mod result {
    use super::{Field, FieldRow};
    fields! {
        CHECKSUM 0 8 "checksum of the rest";
        NUMBER 8 8 "number of the result, from 1";
        DUE 16 8 "due";
        STARTED_AT 24 8 "start of the last attempt";
        RUN 32 16 "run id";
        DURATION 48 4 "duration of that attempt in ms";
        ATTEMPT 52 4 "number of attempts";
        PID 56 4 "pid";
        STATUS 60 2 "status";
        OUTCOME 62 1 "outcome";
        TRIGGER 63 1 "trigger";
    }
}

/// The control part of a record.
#[rustfmt::skip]
pub(super) mod control {
    use super::{Field, FieldRow};
    fields! {
        CHECKSUM 0 8 "checksum of the rest";
        SERIAL 8 8 "serial";
        NAME 16 128 "name: length, then UTF-8";
        SCHEDULE_HASH 144 8 "hash of the schedule that was loaded last";
        BITS 152 1 "bits: 1 loaded, 2 configured, 4 enabled";
        CREATED_AT 160 8 "created: first loaded; never after damage";
        LAST_SEEN_AT 168 8 "last seen by a load";
        SEEN_BY 176 8 "hash of that load's pid file name";
        NOT_BEFORE 184 8 "not before";
        LEFT_OUT_UP_TO 192 8 "left out up to";
        QUEUED 200 8 "queued due time";
        PAUSED_SINCE 208 8 "pause: since";
        PAUSED_UNTIL 216 8 "pause: until; the largest number for ever";
        ORDER_NUMBER 224 8 "order to run: its number";
        ORDER_RUN 232 16 "order to run: run id; zero if it was dropped";
        ORDER_AT 248 8 "order to run: when it was given";
        CANCEL 256 16 "order to cancel: run id; zero for none";
        OVERLAPS 272 8 "overlaps";
        MISSED 280 8 "missed";
        GAP_COUNT 288 4 "number of stretches still to be counted";
        GAPS 296 96 "4 stretches of 24 bytes";
        RECEIVERS 392 112 "4 receivers of 28 bytes";
        ELSEWHERE 504 8 "elsewhere";
    }
}

/// One of the stretches.
#[rustfmt::skip]
pub(super) mod gap {
    use super::{Field, FieldRow, held};
    pub(in crate::state) const BYTES: usize = held(ROWS, 24);
    fields! {
        AFTER 0 8 "after";
        UP_TO 8 8 "up to";
        KIND 16 1 "kind: 0 missed, 1 overlap, 2 elsewhere";
        COUNTED 20 4 "how many of it are in the counters already";
    }
}
const _: () = assert!(GAPS * gap::BYTES == 96);

/// One of the receivers.
#[rustfmt::skip]
pub(super) mod receiver {
    use super::{Field, FieldRow, held};
    pub(in crate::state) const BYTES: usize = held(ROWS, 28);
    fields! {
        ID 0 4 "upper half of the hash of its URI, at least 1; 0 for none";
        MISSED 4 4 "lower half of the number of missed due times that it was told of";
        TOLD 8 8 "number of the newest result that it need not be told of any more";
        NEXT_AT 16 8 "its event is not tried again before";
        TRIES 24 1 "tries of its event that were begun";
        EVENT 25 1 "its event: 0 none, 1 failed, 2 recovered, 3 missed, 4 success; bits: 16 failed was sent in this row, 32 the run that catches up was told of";
        ROW 26 2 "failures in a row, as of that result";
    }
}
const _: () = assert!(RECEIVERS * receiver::BYTES == 112);
const _: () = assert!(CONTROL.at + CONTROL.bytes <= EVENT_LOCKS_AT);
const _: () = assert!(EVENT_LOCKS_AT + RECEIVERS <= RING_AT);

/// A page of a timer's text.
#[rustfmt::skip]
pub(super) mod text {
    use super::{Field, FieldRow};
    fields! {
        CHECKSUM 0 8 "checksum of 8..4088";
        SERIAL 8 8 "serial: the number of the result whose text it is; 0 for none yet";
        OWNER 16 8 "hash of the name of the timer whose text it is";
        INDEX 24 4 "which page of the text: 0, 1 or 2";
        LENGTH 28 4 "length of the whole text in bytes, at most 8192";
        CONTENT 32 4056 "its bytes from 4056 times the index on";
        MARK 4088 8 "kind of page: `NGXTTEXT`";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str = include_str!("../../../docs/state-file.md");

    /// The rows of the table that follows a line which begins so.
    fn table(after: &str) -> Vec<(usize, usize, String)> {
        let mut lines = MANUAL.lines().skip_while(|line| !line.starts_with(after)).skip(1);
        let rows = lines.by_ref().skip_while(|line| !line.starts_with('|'));
        rows.skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                (cells[0].parse().unwrap(), cells[1].parse().unwrap(), cells[2..].join("|"))
            })
            .collect()
    }

    #[test]
    fn the_manual_has_the_fields_of_the_code_and_no_others() {
        for (after, rows) in [
            ("Identity part", identity::ROWS),
            ("Control part of the header", header::ROWS),
            ("Claim part", claim::ROWS),
            ("Result", result::ROWS),
            ("Control part of a record", control::ROWS),
            ("Stretch", gap::ROWS),
            ("Receiver", receiver::ROWS),
            ("Text page", text::ROWS),
        ] {
            let rows: Vec<_> =
                rows.iter().map(|(at, len, what)| (*at, *len, (*what).to_owned())).collect();
            assert_eq!(table(after), rows, "{after}");
        }
    }

    #[test]
    fn the_manual_has_the_parts_of_the_code() {
        let parts = [
            ("header", "identity", IDENTITY),
            ("header", "control", HEADER_CONTROL),
            ("record", "claim", CLAIM),
            ("record", "control", CONTROL),
            ("record", "result", result_part(0)),
            ("text", "text", TEXT),
        ];
        for (page, part, Part { at, bytes, seed }) in parts {
            let row = format!("| {page} | {part} | {at} | {bytes} | {seed} |");
            assert!(MANUAL.lines().any(|line| line.starts_with(&row)), "{row}");
        }
        let locks = [
            (USE_LOCK.to_string(), "use"),
            (HEADER_LOCK.to_string(), "header"),
            (HEADER_CONTROL.offset(0).to_string(), "header's edit"),
            ("page".to_owned(), "run"),
            (format!("page + {}", CONTROL.at), "edit"),
            (format!("page + {EVENT_LOCKS_AT} and the place"), "event"),
        ];
        for (byte, lock) in locks {
            let row = format!("| {byte} | {lock} |");
            assert!(MANUAL.lines().any(|line| line.starts_with(&row)), "{row}");
        }
        for (at, what) in [(ORDER_NUMBER.0, "order number"), (PROBE.0, "written to see")] {
            assert!(MANUAL.contains(&format!("| {at} | 8 | {what}")), "{at}");
        }
    }

    #[test]
    fn checksums_agree_with_the_reference_and_with_what_was_written_before() {
        for (text, hash) in [("", 0xef46_db37_51d8_e999_u64), ("abc", 0x44bc_2cf5_ad77_0999)] {
            assert_eq!(name_hash(text), hash, "{text}");
        }
        assert_eq!(place_of(32), 0);
        assert_eq!(result_part(33).at, RING_AT + RESULT_BYTES);
    }
}
