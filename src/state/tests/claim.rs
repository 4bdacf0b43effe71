//! Claims, seen from several workers.

use crate::schedule::UnixMs;
use crate::state::worker::exclusion::Excluded;
use crate::state::worker::paged_file::WriteFault;
use crate::state::worker::shared_claims::dead;
use crate::state::*;

use super::fixture::*;

#[test]
fn one_of_two_workers_gets_a_due_time_and_the_other_never_does() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let claim_one = won(&one, timer, due(1_001_000), 1_001_000);
    assert!(matches!(claim(&two, timer, due(1_001_000), 1_001_001), Step::Handled));
    claim_one.finish(ended(Outcome::Success), None);
    assert!(matches!(claim(&two, timer, due(1_001_000), 1_001_002), Step::Handled));
    let reading = two.read(&fixture.records[0]).unwrap();
    let claim = &reading.claim;
    assert_eq!(claim.watermark, Watermark { due: UnixMs(1_001_000), attempt: 1 });
    assert_eq!(claim.counters.ended_with(Outcome::Success), 1);
    assert_eq!(claim.last_success_at, Some(UnixMs(1_001_000)));
    assert_eq!(two.results(&fixture.records[0], &reading)[0].attempt.pid, 1);
}

#[test]
fn a_run_in_progress_is_an_overlap_only_at_the_third_look() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    let mut attempt = attempt_for(due(1_002_000), run_id(2));
    let mut waited_ms = Vec::new();
    let overlapped = loop {
        match attempt.step(&two, timer, &mut || UnixMs(1_002_000)) {
            Step::Again { after } => waited_ms.push(after.as_millis()),
            Step::Overlap(attempt) => break attempt,
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(waited_ms, [2, 18]);
    assert_eq!(overlapped, *first.attempt());
    let edited = two.overlap(timer, UnixMs(1_002_000), OverlapPolicy::Skip, UnixMs(1_002_020));
    assert_eq!(edited, Edited::Done(true));
    first.finish(ended(Outcome::Success), None);
    let reading = one.read(&fixture.records[0]).unwrap();
    assert_eq!(reading.control.overlaps, 1);
    assert_eq!(reading.next_due(&every, UnixMs(1_002_500)), Some(UnixMs(1_003_000)));
    assert!(matches!(claim(&one, timer, due(1_002_000), 1_002_100), Step::Handled));
}

#[test]
fn a_holder_that_dies_between_two_looks_loses_the_due_time_to_the_next() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    let mut attempt = attempt_for(due(1_002_000), run_id(2));
    let mut clock = || UnixMs(1_002_000);
    assert!(matches!(attempt.step(&two, timer, &mut clock), Step::Again { .. }));
    drop(first);
    drop(one);
    let Step::Won(second) = attempt.step(&two, timer, &mut clock) else { panic!() };
    assert_eq!(second.attempt().due, UnixMs(1_002_000));
    let notices = two.take_notices();
    assert!(
        matches!(&notices[..], [Notice::Interrupted { attempt, retry_at: None, .. }]
            if attempt.pid == 1 && attempt.due == UnixMs(1_001_000)),
        "{notices:?}"
    );
    second.finish(ended(Outcome::Failure), None);
    let claim = two.read(&fixture.records[0]).unwrap().claim;
    assert_eq!(claim.counters.ended_with(Outcome::Interrupted), 1);
    assert_eq!(claim.runs(), 2);
}

#[test]
fn a_run_whose_process_has_died_is_no_overlap_while_somebody_has_its_lock() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, three) = (fixture.worker(1), fixture.worker(2), fixture.worker(3));
    let every = secondly();
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    dead::kill(1);
    first.die();
    // It is about to find out, and stands still.
    let Excluded::Others(exclusion) = two.inner.exclude(timer) else { panic!() };
    assert!(matches!(claim(&three, timer, due(1_002_000), 1_002_000), Step::GaveUp));
    let now = UnixMs(1_003_500);
    let left_out = three.leave_out(timer, UnixMs(1_002_000), LeftOut::Overlap, now);
    assert_eq!(left_out, Edited::Done(()));
    drop(exclusion);
    let second = won(&three, timer, due(1_003_000), 1_003_500);
    second.finish(ended(Outcome::Success), None);
    let reading = three.read(&fixture.records[0]).unwrap();
    assert_eq!(reading.claim.counters.ended_with(Outcome::Interrupted), 1);
    assert_eq!((reading.control.overlaps, reading.control.missed), (0, 1));
}

#[test]
fn one_worker_does_not_claim_over_its_own_run() {
    let fixture = Fixture::memory(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    assert!(matches!(claim(&one, timer, due(1_002_000), 1_002_000), Step::Overlap(_)));
    assert_eq!(
        one.recover(timer, &RetryPolicy::default(), &mut || UnixMs(1_002_000)),
        Recovered::Nothing
    );
    first.finish(ended(Outcome::Success), None);
    won(&one, timer, due(1_003_000), 1_003_000);
}

#[test]
fn a_lock_that_nobody_seems_to_run_under_is_given_up_after_127_ms() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let looking = one
        .inner
        .try_edit_lock(crate::state::record::format::CLAIM, fixture.records[0].page)
        .unwrap();
    let mut attempt = attempt_for(due(1_001_000), run_id(2));
    let mut waited_ms = 0;
    loop {
        match attempt.step(&two, timer, &mut || UnixMs(1_001_000)) {
            Step::Again { after } => waited_ms += after.as_millis(),
            Step::GaveUp => break,
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(waited_ms, 127);
    let leave_out = || two.leave_out(timer, UnixMs(1_001_000), LeftOut::Missed, UnixMs(1_001_200));
    assert_eq!(leave_out(), Edited::Again, "it is late, and seen to be");
    assert_eq!(two.order_run(timer, run_id(3), UnixMs(1_001_200)), Edited::Again);
    drop(looking);
    assert_eq!(leave_out(), Edited::Done(()));
    assert_eq!(two.read(&fixture.records[0]).unwrap().control.missed, 1);
}

#[test]
fn an_attempt_is_repeated_by_whoever_comes_first_and_once() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    let run = first.attempt().run;
    assert_eq!(
        first.finish(ended(Outcome::Failure), Some(UnixMs(1_001_100))),
        Finished::Waiting { next_at: UnixMs(1_001_100) }
    );
    let next = Wanted::Next { run, attempt: 2 };
    assert!(matches!(claim(&two, timer, next, 1_001_099), Step::Handled), "too early");
    let second = won(&two, timer, next, 1_001_100);
    assert_eq!((second.attempt().number, second.attempt().run), (2, run));
    assert!(matches!(claim(&one, timer, next, 1_001_100), Step::Handled));
    second.finish(ended(Outcome::Success), None);
    let reading = one.read(&fixture.records[0]).unwrap();
    let record = &reading.claim;
    assert_eq!((record.counters.retries, record.runs()), (1, 1));
    assert_eq!(one.results(&fixture.records[0], &reading)[0].attempt.number, 2);
}

#[test]
fn the_next_due_time_takes_over_from_a_run_that_waits() {
    let fixture = Fixture::memory(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    first.finish(ended(Outcome::Timeout), Some(UnixMs(1_001_900)));
    let second = won(&one, timer, due(1_002_000), 1_002_000);
    second.finish(ended(Outcome::Success), None);
    let claim = one.read(&fixture.records[0]).unwrap().claim;
    assert_eq!(claim.counters.ended_with(Outcome::Timeout), 1);
    assert_eq!(claim.counters.ended_with(Outcome::Success), 1);
}

#[test]
fn what_a_claim_passes_over_is_missed_and_what_waited_in_the_queue_an_overlap() {
    let fixture = Fixture::memory(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    let record = &fixture.records[0];
    let timer = timer(record, &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    for at in [1_002_000, 1_003_000] {
        let edited = one.overlap(timer, UnixMs(at), OverlapPolicy::Queue, UnixMs(at));
        assert_eq!(edited, Edited::Done(true));
    }
    first.finish(ended(Outcome::Success), None);
    assert_eq!(one.read(record).unwrap().queued(UnixMs(1_003_100)), Some(UnixMs(1_003_000)));
    won(&one, timer, due(1_006_000), 1_006_000).finish(ended(Outcome::Success), None);
    let control = one.read(record).unwrap().control;
    assert_eq!((control.overlaps, control.missed), (2, 2));
}

#[test]
fn a_full_disk_stops_no_run_and_its_end_is_no_interruption() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let record = &fixture.records[0];
    let timer = timer(record, &every);
    one.set_fault(WriteFault::Full);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    assert_eq!(one.health(), Health::Degraded);
    assert!(matches!(claim(&two, timer, due(1_001_000), 1_001_000), Step::Handled), "known");
    first.finish(ended(Outcome::Success), None);
    assert!(matches!(claim(&one, timer, due(1_001_000), 1_001_500), Step::Handled));
    one.take_notices();
    // Only the end cannot be written:
    one.set_fault(WriteFault::None);
    let second = won(&one, timer, due(1_002_000), 1_002_000);
    one.set_fault(WriteFault::Full);
    second.finish(ended(Outcome::Success), None);
    one.set_fault(WriteFault::None);
    assert_eq!(
        one.recover(timer, &RetryPolicy::default(), &mut || UnixMs(1_002_500)),
        Recovered::Nothing
    );
    won(&one, timer, due(1_003_000), 1_003_000).finish(ended(Outcome::Success), None);
    one.inner.failing.clear();
    assert_eq!(one.health(), Health::Ok);
    let claim = two.read(record).unwrap().claim;
    assert_eq!(claim.counters.ended_with(Outcome::Success), 3);
    assert_eq!(claim.counters.ended_with(Outcome::Interrupted), 0);
}

#[test]
fn a_degraded_timer_is_left_to_its_own_slot() {
    let fixture = Fixture::memory(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    one.set_fault(WriteFault::Full);
    let timer = TimerRef { owner: Owner::Other, ..timer(&fixture.records[0], &every) };
    assert!(matches!(claim(&one, timer, due(1_001_000), 1_001_000), Step::LeftToOwner));
    assert!(matches!(claim(&one, timer, due(1_001_000), 1_001_000), Step::LeftToOwner));
}

#[test]
fn a_timer_without_a_record_runs_from_memory() {
    let fixture = Fixture::memory(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    let record = Record::nowhere("b");
    let timer = timer(&record, &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    assert!(matches!(claim(&one, timer, due(1_002_000), 1_002_000), Step::Overlap(_)));
    let _ = one.overlap(timer, UnixMs(1_002_000), OverlapPolicy::Skip, UnixMs(1_002_000));
    first.finish(ended(Outcome::Success), None);
    assert!(matches!(claim(&one, timer, due(1_002_000), 1_002_000), Step::Handled));
    won(&one, timer, due(1_003_000), 1_003_000);
}

#[test]
fn a_record_that_belongs_to_another_name_is_not_touched() {
    let fixture = Fixture::memory(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    let record = Record { number: 1, page: fixture.records[0].page, ..Record::nowhere("b") };
    let timer = timer(&record, &every);
    let before = one.read(&fixture.records[0]).unwrap();
    won(&one, timer, due(1_001_000), 1_001_000).finish(ended(Outcome::Success), None);
    assert_eq!(one.read(&fixture.records[0]).unwrap(), before);
    assert!(matches!(one.take_notices()[..], [Notice::Lost { .. }, ..]));
}
