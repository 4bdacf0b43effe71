//! Files of format 1: what they say is kept, whenever the conversion is cut short.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::os::fault::{Call, CallFault, Effect, Repeat, errno, fired, with};
use crate::os::file::open_existing;
use crate::os::lock::{Holder, LockKind, Tried, try_lock};
use crate::schedule::UnixMs;
use crate::state::master::convert::{self, convert};
use crate::state::record::control::{Order, Paused};
use crate::state::record::format::{PAGE_BYTES, TEXT, TEXT_MARK, TEXT_MARK_AT};
use crate::state::record::gaps::Gap;
use crate::state::record::header::RecordsFormat;
use crate::state::worker::paged_file::read_identity;
use crate::state::worker::paged_file::{PagedFile, WriteFault};
use crate::state::*;

use super::fixture::*;

/// A file that the module wrote when it knew format 1 only: with history, a pause, an order, a retry that
/// waits, runs of processes that have died, due times that are still to be counted, and a queue.
pub(in crate::state) const OLD: &[u8] = include_bytes!("../../../t/state/data/version1.state");
pub(in crate::state) const NAMES: [&str; 8] =
    ["history", "paused", "ordered", "waiting", "running", "gaps", "queued", "cancelled"];
/// When it was written last, and its first timers were due.
pub(in crate::state) const WRITTEN: i64 = 1_764_000_042_000;
const BASE: i64 = 1_764_000_000_000;

/// A state whose file is of format 1, not opened yet.
pub(in crate::state) fn old_file() -> Fixture {
    let mut fixture = Fixture::closed(StatePath::Named);
    fs::write(path(&fixture), OLD).unwrap();
    fixture.now = WRITTEN;
    fixture
}

pub(in crate::state) fn path(fixture: &Fixture) -> PathBuf {
    fixture.configured.path().unwrap().into()
}

#[expect(clippy::unnecessary_wraps, reason = "as the record has it")]
fn at(ms: i64) -> Option<UnixMs> {
    Some(UnixMs(BASE + ms))
}

/// Judges what a file says that was of format 1.
pub(in crate::state) fn judge(fixture: &Fixture) {
    let worker = fixture.worker(1);
    let read = |name| worker.read(record(fixture, name)).unwrap();
    for name in NAMES {
        let seen = read(name);
        let Reading { claim, control, header } = &seen;
        assert_eq!(control.presence, Presence::Enabled, "{name}");
        assert_eq!((control.created_at, control.not_before), (at(500), None), "{name}");
        assert_eq!((header.not_before, header.paused), (at(41_500), None));
        let results = worker.results(record(fixture, name), &seen);
        let ended = claim.counters.ended().min(32);
        assert_eq!(results.len() as u64, ended, "{name}");
        assert_eq!(claim.last_result, results.first().map(LastResult::from), "{name}");
        assert_eq!(results.last().unwrap().attempt.pid, 4_000_001, "{name}");
    }
    assert_eq!(worker.order_number(), 5);

    let seen = read("history");
    let claim = &seen.claim;
    assert_eq!(claim.watermark, Watermark { due: UnixMs(BASE + 40_000), attempt: 1 });
    assert_eq!(claim.progress, Progress::Nothing);
    let counters = OUTCOMES.map(|outcome| claim.counters.ended_with(outcome));
    assert_eq!(counters, [6, 7, 7, 7, 7, 6]);
    assert_eq!((claim.counters.retries, claim.duration_sum_ms), (7, 120));
    assert_eq!((claim.last_success_at, claim.last_start_at), (at(36_007), at(40_007)));
    assert_eq!((claim.last_lateness_ms, claim.consecutive_failures), (7, 3));
    let results = worker.results(record(fixture, "history"), &seen);
    let dues: Vec<_> = results.iter().map(|it| (it.attempt.due.0 - BASE) / 1000).collect();
    assert_eq!(dues, (9..=40).rev().collect::<Vec<_>>());
    let newest = results[3];
    assert_eq!((newest.ended.outcome, newest.ended.status), (Outcome::Failure, 200));
    assert_eq!((newest.attempt.number, newest.attempt.started_at), (2, UnixMs(BASE + 37_300)));

    let paused = read("paused").control;
    assert_eq!(paused.paused, Some(Paused { since: UnixMs(BASE + 41_500), until: None }));
    assert_eq!((paused.left_out_up_to, paused.missed), (at(41_000), 40));
    let order = Order { number: 1, run: run_id(77), at: UnixMs(BASE + 41_500) };
    assert_eq!(read("ordered").control.order, order);
    let Progress::Waiting(attempt, wait) = read("waiting").claim.progress else { panic!() };
    assert_eq!((attempt.due, attempt.boot), (UnixMs(BASE + 41_000), BOOT));
    assert_eq!((Some(wait.next_at), wait.last.outcome), (at(41_900), Outcome::Timeout));
    for name in ["running", "cancelled"] {
        let seen = read(name);
        let Progress::Running(attempt) = seen.claim.progress else { panic!() };
        assert_eq!((attempt.pid, Some(attempt.started_at)), (4_000_001, at(41_020)));
        let cancel = (name == "cancelled").then_some(attempt.run);
        assert_eq!(seen.control.cancel, cancel);
    }
    let gap = Gap {
        after: UnixMs(BASE + 60_000_000),
        up_to: UnixMs(BASE + 150_000_000),
        kind: LeftOut::Missed,
        counted: 1000,
    };
    assert_eq!(read("gaps").control.gaps.as_slice(), [gap]);
    assert_eq!(read("queued").control.queued, at(41_000));
}

const OUTCOMES: [Outcome; 6] = [
    Outcome::Success,
    Outcome::Failure,
    Outcome::Timeout,
    Outcome::Cancelled,
    Outcome::Interrupted,
    Outcome::Error,
];

#[test]
fn everything_survives_and_goes_on() {
    let mut fixture = old_file();
    assert!(checked(&fixture).unwrap().is_none(), "a test of the configuration");
    assert_eq!(fs::read(path(&fixture)).unwrap(), OLD);
    assert!(matches!(fixture.reload(&NAMES).unwrap()[..], [Notice::IsPaused { .. }]));
    assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Ok);
    judge(&fixture);
    fixture.state = None;
    fixture.reload(&NAMES).unwrap();
    judge(&fixture);
    // A timer that was not configured any more has its record still.
    fixture.reload(&["absent"]).unwrap();
    assert_eq!(counts(&fixture, "absent"), 1);
    fixture.reload(&NAMES).unwrap();
    for name in ["history", "running", "waiting", "queued"] {
        let before = fixture.worker(1).read(record(&fixture, name)).unwrap().claim.counters.ended();
        run_once(&mut fixture, name);
        let seen = fixture.worker(1).read(record(&fixture, name)).unwrap();
        // What was in progress has ended, too.
        let ended = seen.claim.counters.ended() - before;
        assert_eq!(ended, if matches!(name, "running" | "waiting") { 2 } else { 1 }, "{name}");
        let results = fixture.worker(1).results(record(&fixture, name), &seen);
        assert_eq!(results[0].ended.outcome, Outcome::Success);
    }
}

#[test]
fn a_kill_at_any_write_leaves_a_file_with_which_the_next_start_goes_on() {
    let whole = {
        let mut fixture = old_file();
        fixture.reload(&NAMES).unwrap();
        fixture.state = None;
        fs::read(path(&fixture)).unwrap()
    };
    let mut writes = 0;
    loop {
        let mut fixture = old_file();
        let pages = PagedFile::new(open_existing(&path(&fixture)).unwrap());
        pages.set_fault(WriteFault::KilledAfter(writes));
        let mut identity = read_identity(&pages).unwrap().unwrap();
        assert_eq!(identity.records, RecordsFormat::Old);
        convert(&pages, &mut identity, UnixMs(fixture.now)).unwrap();
        convert::end(&pages, &mut identity).unwrap();
        let was_killed = pages.fault() == WriteFault::Killed;
        drop(pages);
        let left = fs::read(path(&fixture)).unwrap();
        // A module that knows format 1 only refuses it from the first write on.
        let version = u32::from_le_bytes(left[16..20].try_into().unwrap());
        assert_eq!(version, if writes == 0 { 1 } else { 2 });
        fixture.reload(&NAMES).unwrap();
        judge(&fixture);
        fixture.state = None;
        assert!(fs::read(path(&fixture)).unwrap() == whole, "killed at write {writes}");
        if !was_killed {
            break;
        }
        writes += 1;
    }
    assert!(writes > NAMES.len().try_into().unwrap());
}

#[test]
fn whichever_call_fails_the_next_start_takes_all_of_it_over() {
    for (call, error) in [
        (Call::Read, errno::EIO),
        (Call::Write, errno::ENOSPC),
        (Call::Sync, errno::EIO),
        (Call::Lock, errno::EPERM),
        (Call::Stat, errno::EIO),
    ] {
        for after in 0.. {
            let mut fixture = old_file();
            let effect = Effect::Errno(error);
            // Once more at once would succeed.
            let fault = CallFault { call: Some(call), after, repeat: Repeat::FromThenOn, effect };
            let failed = with(fault, || {
                let opened = fixture.open(&NAMES);
                (fired() > 0).then_some(opened)
            });
            let Some(opened) = failed else { break };
            drop(opened);
            fixture.reload(&NAMES).unwrap();
            assert_eq!(fixture.state.as_ref().unwrap().backing(), Backing::File);
            judge(&fixture);
        }
    }
}

#[test]
fn a_damaged_part_costs_itself_only() {
    // The claim part, the control part, and the control part of the header.
    for (at, lost) in [(PAGE_BYTES + 600, "run"), (PAGE_BYTES + 2600, "control"), (2100, "header")]
    {
        let mut fixture = old_file();
        let mut bytes = OLD.to_vec();
        bytes[at] ^= 1;
        fs::write(path(&fixture), &bytes).unwrap();
        fixture.reload(&NAMES).unwrap();
        let (worker, every) = (fixture.worker(1), secondly());
        if lost == "header" {
            let header = worker.header();
            assert_eq!((header.not_before, header.paused), (Some(UnixMs(WRITTEN)), None));
            continue;
        }
        let timer = timer(record(&fixture, "history"), &every);
        while worker.read(timer.record).is_err() {
            assert_eq!(worker.repair(timer.record, UnixMs(fixture.now)), Recovered::Nothing);
        }
        let seen = worker.read(timer.record).unwrap();
        assert_eq!(seen.claim.counters.ended(), if lost == "run" { 0 } else { 40 }, "{lost}");
        assert_eq!(counts(&fixture, "paused"), 1);
        assert_eq!(seen.first(UnixMs(fixture.now), Duration::MAX), None);
    }
}

#[test]
fn a_damaged_header_of_format_1_is_ours_and_can_be_written_anew() {
    const MOUNT_POINT: CallFault = CallFault {
        call: Some(Call::Rename),
        after: 0,
        repeat: Repeat::FromThenOn,
        effect: Effect::Errno(16),
    };
    for at in [0, 24, 100] {
        let mut fixture = old_file();
        let mut bytes = OLD.to_vec();
        bytes[at] ^= 1;
        bytes[40] ^= 1;
        fs::write(path(&fixture), &bytes).unwrap();
        let notices = with(MOUNT_POINT, || fixture.reload(&NAMES).unwrap());
        assert!(matches!(notices[0], Notice::Rewritten { bad: Bad::Damaged, .. }), "{notices:?}");
        judge(&fixture);
    }
}

#[test]
fn a_run_of_a_worker_whose_master_was_killed_is_waited_for() {
    let mut fixture = old_file();
    let orphan = open_existing(&path(&fixture)).unwrap();
    let byte = u64::from(5_u32) * PAGE_BYTES as u64;
    let locked = try_lock(&orphan, Holder::Description, byte, LockKind::Exclusive);
    assert_eq!(locked.unwrap(), Tried::Taken);
    assert!(matches!(fixture.reload(&NAMES).unwrap()[..], [Notice::Waits]));
    assert!(fixture.state.as_ref().unwrap().waits());
    assert_eq!(fs::read(path(&fixture)).unwrap(), OLD);
    drop(orphan);
    fixture.reload(&NAMES).unwrap();
    judge(&fixture);
}

/// Writes a page of a text, whole or torn, behind the records of a file.
fn write_text(fixture: &Fixture, page: usize, torn: bool) -> Vec<u8> {
    let mut text = vec![0; PAGE_BYTES];
    text[16..24].copy_from_slice(&[7; 8]);
    text[40..45].copy_from_slice(b"hello");
    TEXT.seal(&mut text[..TEXT.bytes]);
    text[TEXT_MARK_AT..].copy_from_slice(&TEXT_MARK);
    text[41] ^= u8::from(torn);
    let mut bytes = fs::read(path(fixture)).unwrap();
    bytes[page * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(&text);
    fs::write(path(fixture), bytes).unwrap();
    text
}

#[test]
fn a_page_of_a_text_is_no_record_whether_whole_or_torn() {
    for torn in [false, true] {
        let mut fixture = Fixture::file(&["a"]);
        run_once(&mut fixture, "a");
        let texts = [2, 3].map(|page| write_text(&fixture, page, torn));
        let names: Vec<String> = (0..20).map(|n| format!("timer-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["a"]).collect();
        fixture.first = First::Now;
        let notices = fixture.reload(&names).unwrap();
        assert!(notices.is_empty(), "nothing is damaged: {notices:?}");
        assert!(fixture.records.iter().all(|record| !matches!(record.page, None | Some(2 | 3))));
        assert_eq!(counts(&fixture, "a"), 1);
        let pages = PagedFile::new(open_existing(&path(&fixture)).unwrap());
        let mut identity = read_identity(&pages).unwrap().unwrap();
        convert(&pages, &mut identity, UnixMs(fixture.now)).unwrap();
        let bytes = fs::read(path(&fixture)).unwrap();
        for (page, text) in [2, 3].into_iter().zip(&texts) {
            assert!(bytes[page * PAGE_BYTES..][..PAGE_BYTES] == *text, "page {page}");
        }
    }
    // It is enough to make a file ours.
    let fixture = Fixture::file(&["a"]);
    write_text(&fixture, 2, false);
    let mut bytes = fs::read(path(&fixture)).unwrap();
    bytes[..2 * PAGE_BYTES].fill(0x55);
    fs::write(path(&fixture), &bytes).unwrap();
    assert!(checked(&fixture).unwrap().is_none());
}

#[test]
fn an_end_that_is_cut_short_between_its_writes_loses_and_doubles_nothing() {
    for writes in 0..=2 {
        let fixture = Fixture::file(&["a"]);
        let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
        let timer = timer(&fixture.records[0], &every);
        won(&one, timer, due(1_001_000), 1_001_000).finish(ended(Outcome::Success), None);
        let claim = won(&one, timer, due(1_002_000), 1_002_000);
        one.set_fault(WriteFault::KilledAfter(writes));
        claim.finish(ended(Outcome::Success), None);
        drop(one);
        let recovered = two.recover(timer, &RetryPolicy::default(), &mut || UnixMs(1_002_500));
        let cut = writes < 2;
        assert_eq!(recovered == Recovered::Interrupted, cut);
        let seen = two.read(timer.record).unwrap();
        let results = two.results(timer.record, &seen);
        let dues: Vec<_> = results.iter().map(|it| it.attempt.due.0).collect();
        assert_eq!(dues, [1_002_000, 1_001_000], "after {writes} writes");
        assert_eq!(results[0].ended.outcome == Outcome::Interrupted, cut);
        assert_eq!(seen.claim.counters.ended(), 2);
    }
}

#[test]
fn results_that_cannot_be_written_are_kept_until_they_can_be() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    won(&one, timer, due(1_001_000), 1_001_000).finish(ended(Outcome::Success), None);
    let dues = |store: &Store| {
        let results = store.results(timer.record, &store.read(timer.record).unwrap());
        results.iter().map(|it| it.attempt.due.0 / 1000).collect::<Vec<_>>()
    };
    one.set_fault(WriteFault::Full);
    for at in 1002..=1040 {
        won(&one, timer, due(at * 1000), at * 1000).finish(ended(Outcome::Failure), None);
    }
    assert_eq!(dues(&one), (1009..=1040).rev().collect::<Vec<_>>());
    assert_eq!(dues(&two), [1001]);
    one.set_fault(WriteFault::None);
    one.write_again(timer);
    assert!(!one.has_unwritten(timer.record));
    assert_eq!(dues(&two), (1009..=1040).rev().collect::<Vec<_>>());
    assert_eq!(two.read(timer.record).unwrap().claim.counters.ended(), 40);
}

#[test]
fn what_happens_while_nothing_can_be_read_is_in_the_history_afterwards() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    for at in 1001..=1003 {
        one.read_for(timer).unwrap();
        won(&one, timer, due(at * 1000), at * 1000).finish(ended(Outcome::Success), None);
    }
    let effect = Effect::Errno(errno::EIO);
    let fault = CallFault { call: Some(Call::Read), after: 0, repeat: Repeat::FromThenOn, effect };
    with(fault, || {
        for at in 1004..=1006 {
            won(&one, timer, due(at * 1000), at * 1000).finish(ended(Outcome::Failure), None);
        }
    });
    won(&one, timer, due(1_007_000), 1_007_000).finish(ended(Outcome::Success), None);
    let seen = two.read(timer.record).unwrap();
    let results = two.results(timer.record, &seen);
    let dues: Vec<_> = results.iter().map(|it| it.attempt.due.0 / 1000).collect();
    assert_eq!(dues, (1001..=1007).rev().collect::<Vec<_>>());
    assert_eq!(seen.claim.counters.ended_with(Outcome::Failure), 3);
}
