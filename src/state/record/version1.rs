//! Format 1, which is read to be converted and never written. Its constants do not change any more.
//!
//! A record has a run part (with its results) at 0 and a control part at 2560 of its page. The header's
//! identity part is that of today; its control part has 512 bytes, and the order number lies behind it.

use std::time::Duration;

use super::claim_part::{ClaimPart, LastResult};
use super::codec::Decoder;
use super::control::{Control, Order, Presence, get_pause};
use super::counters::Counters;
use super::format::{
    CLAIM, CONTROL, Field, GAPS, PAGE_BYTES, Part, RESULTS, name_hash, result_part,
};
use super::gaps::{Gap, LeftOut};
use super::header::HeaderControl;
use super::receivers::Receivers;
use super::run::{
    Attempt, BootId, Ended, Outcome, Progress, RunId, RunResult, Trigger, Wait, Watermark,
};

pub(in crate::state) const HEADER_CONTROL: Part = Part { at: 2048, bytes: 512, seed: 2 };
pub(in crate::state) const RUN: Part = Part { at: 0, bytes: 2560, seed: 3 };
pub(in crate::state) const RECORD_CONTROL: Part = Part { at: 2560, bytes: 1024, seed: 4 };
const ORDER_NUMBER: Field<8> = Field(2560);
/// All lock bytes of the records: one process that has any of them is in the middle of something.
const NAME: Field<128> = Field(16);
const RESULTS_AT: Field<1536> = Field(512);
const RESULT_BYTES: usize = 48;
const GAPS_AT: Field<96> = Field(296);
const GAP_BYTES: usize = 24;

/// The page of a record in today's format; `None` if neither part of it is whole.
pub(in crate::state) fn convert_record(page: &[u8; PAGE_BYTES]) -> Option<[u8; PAGE_BYTES]> {
    let run = RUN.of(page);
    let run = RUN.is_whole(run).then(|| decode_run(Decoder(run))).flatten();
    let control = RECORD_CONTROL.of(page);
    let control =
        RECORD_CONTROL.is_whole(control).then(|| decode_control(Decoder(control))).flatten();
    if run.is_none() && control.is_none() {
        return None;
    }
    let mut bytes = [0; PAGE_BYTES];
    let mut put = |part: Part, content: &[u8]| {
        if let Some(record) = bytes.get_mut(part.at..part.at + part.bytes) {
            record.copy_from_slice(content);
        }
    };
    if let Some((claim, results)) = run {
        put(CLAIM, &claim.encode());
        for (number, result) in (0..=claim.results_ever).rev().zip(results) {
            put(result_part(number), &result.encode(number));
        }
    }
    if let Some((name, control)) = control {
        put(CONTROL, &control.encode(name));
    }
    Some(bytes)
}

/// The control part of the header, `None` if it is damaged, and the order number.
pub(in crate::state) fn decode_header(page: &[u8; PAGE_BYTES]) -> (Option<HeaderControl>, u64) {
    let part = HEADER_CONTROL.of(page);
    let from = Decoder(part);
    let control = HEADER_CONTROL.is_whole(part).then(|| HeaderControl {
        serial: from.u64(Field(8)),
        not_before: from.some_instant(Field(16)),
        paused: get_pause(from, Field(24), Field(32)),
    });
    (control, Decoder(page).u64(ORDER_NUMBER))
}

fn decode_run(from: Decoder<'_>) -> Option<(ClaimPart, impl Iterator<Item = RunResult>)> {
    let attempt = Attempt {
        run: RunId(from.bytes(Field(160))),
        due: from.instant(Field(192)),
        trigger: Trigger::from_code(from.u8(Field(157))),
        number: from.u32(Field(220)),
        pid: from.u32(Field(216)),
        boot: BootId(from.bytes(Field(176))),
        started_at: from.instant(Field(200)),
    };
    let last = Ended {
        outcome: Outcome::from_code(from.u8(Field(158))),
        status: from.u16(Field(228)),
        duration: Duration::from_millis(from.u32(Field(224)).into()),
    };
    let counters = Counters::of(
        std::array::from_fn(|number| from.item(Field::<64>(240), number, 8).u64(Field(0))),
        0,
    );
    let count = from.count(Field(340), RESULTS);
    let results = (0..count).map(move |number| decode_result(from, number));
    let newest = (count > 0).then(|| decode_result(from, 0));
    let claim = ClaimPart {
        serial: from.u64(Field(8)),
        name_hash: name_hash(from.name(NAME)?),
        watermark: Watermark { due: from.instant(Field(144)), attempt: from.u32(Field(152)) },
        progress: match from.u8(Field(156)) {
            1 => Progress::Running(attempt),
            2 => Progress::Waiting(attempt, Wait { next_at: from.instant(Field(208)), last }),
            _ => Progress::Nothing,
        },
        fleet: None,
        orders_done: from.u64(Field(232)),
        counters,
        duration_sum_ms: from.u64(Field(304)),
        last_success_at: from.some_instant(Field(312)),
        last_start_at: from.some_instant(Field(320)),
        last_lateness_ms: from.i64(Field(328)),
        consecutive_failures: from.u32(Field(336)),
        results_ever: counters.ended().max(count as u64),
        last_result: newest.as_ref().map(LastResult::from),
        failure_text: 0,
    };
    Some((claim, results))
}

fn decode_result(from: Decoder<'_>, number: usize) -> RunResult {
    let from = from.item(RESULTS_AT, number, RESULT_BYTES);
    RunResult {
        attempt: Attempt {
            run: RunId(from.bytes(Field(16))),
            due: from.instant(Field(0)),
            trigger: Trigger::from_code(from.u8(Field(47))),
            number: from.u32(Field(36)),
            pid: from.u32(Field(40)),
            boot: BootId::default(),
            started_at: from.instant(Field(8)),
        },
        ended: Ended {
            outcome: Outcome::from_code(from.u8(Field(46))),
            status: from.u16(Field(44)),
            duration: Duration::from_millis(from.u32(Field(32)).into()),
        },
    }
}

fn decode_control(from: Decoder<'_>) -> Option<(&str, Control)> {
    let gap = |number| {
        let from = from.item(GAPS_AT, number, GAP_BYTES);
        Gap {
            after: from.instant(Field(0)),
            up_to: from.instant(Field(8)),
            kind: if from.u8(Field(16)) == 0 { LeftOut::Missed } else { LeftOut::Overlap },
            counted: from.u32(Field(20)),
        }
    };
    let control = Control {
        serial: from.u64(Field(8)),
        schedule_hash: from.u64(Field(144)),
        presence: Presence::of_bits(from.u8(Field(152))),
        created_at: from.some_instant(Field(160)),
        last_seen_at: from.some_instant(Field(168)),
        seen_by: from.u64(Field(176)),
        not_before: from.some_instant(Field(184)),
        left_out_up_to: from.some_instant(Field(192)),
        queued: from.some_instant(Field(200)),
        paused: get_pause(from, Field(208), Field(216)),
        order: Order {
            number: from.u64(Field(224)),
            run: RunId(from.bytes(Field(232))),
            at: from.instant(Field(248)),
        },
        cancel: Some(RunId(from.bytes(Field(256)))).filter(|run| *run != RunId::default()),
        overlaps: from.u64(Field(272)),
        missed: from.u64(Field(280)),
        elsewhere: 0,
        gaps: (0..from.count(Field(288), GAPS)).map(gap).collect(),
        receivers: Receivers::default(),
    };
    Some((from.name(NAME)?, control))
}
