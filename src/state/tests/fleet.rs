//! Timers of a fleet: claims that are open while the fleet is asked, what a process that died leaves of
//! them, and the account of due times.

use std::time::Duration;

use crate::os::fault::{Call, CallFault, Effect, Repeat, errno, with};
use crate::schedule::UnixMs;
use crate::state::worker::paged_file::WriteFault;
use crate::state::worker::shared_claims::dead;
use crate::state::*;

use super::fixture::*;

pub(in crate::state) fn asked(number: u8) -> Asked {
    Asked { id: ClaimId([number; 16]), kind: ClaimKind::Due }
}

fn step(store: &Store, timer: TimerRef<'_>, wanted: Wanted, at: i64) -> Step {
    let look = Look::at(timer.due_times, UnixMs(at));
    let run = run_id(at.unsigned_abs());
    ClaimAttempt::for_fleet(wanted, run, asked(1), &look).step(store, timer, &mut || UnixMs(at))
}

fn opened(store: &Store, timer: TimerRef<'_>, at: i64) -> Box<OpenClaim> {
    match step(store, timer, due(at), at) {
        Step::Asks(open) => open,
        step => panic!("{step:?}"),
    }
}

const WON: OpenEnd = OpenEnd::Won { created: 5, fence: 6, last: None };

fn end(open: Box<OpenClaim>, timer: TimerRef<'_>, how: OpenEnd, at: i64) -> OpenEnded {
    open.end(timer, how, &mut || UnixMs(at))
}

fn won_by(open: Box<OpenClaim>, timer: TimerRef<'_>, at: i64) -> Box<Claim> {
    match end(open, timer, WON, at) {
        OpenEnded::Won(claim) => claim,
        ended => panic!("{ended:?}"),
    }
}

fn resumed(store: &Store, timer: TimerRef<'_>, at: i64) -> Resumed {
    store.resume_fleet(timer, &mut || UnixMs(at))
}

/// Runs, unscheduled ones, overlaps, missed and elsewhere.
fn account(store: &Store, timer: TimerRef<'_>) -> (u64, u64, u64, u64, u64) {
    let Reading { claim, control, .. } = store.read(timer.record).unwrap();
    let (missed, elsewhere) = (control.missed, control.elsewhere);
    (claim.runs(), claim.counters.unscheduled, control.overlaps, missed, elsewhere)
}

fn progress(store: &Store, timer: TimerRef<'_>) -> Progress {
    store.read(timer.record).unwrap().claim.progress
}

#[test]
fn nothing_is_taken_before_the_fleet_has_answered() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let open = opened(&one, timer, 1_001_000);
    let reading = two.read(timer.record).unwrap();
    assert_eq!(reading.claim.progress, Progress::Claiming(*open.attempt(), asked(1)));
    assert_eq!(reading.claim.watermark.due, UnixMs(1_000_000));
    // Others look again, for however long it takes.
    for _ in 0..100 {
        let again = step(&two, timer, due(1_001_000), 1_001_000);
        assert!(matches!(again, Step::Again { after } if after == Duration::from_millis(50)));
    }
    let policy = Policy { missed: MissedPolicy::Skip, schedule: Scheduled::On };
    for at in [1_001_010, 1_001_999, 1_009_000] {
        let look = Look::at(&every, UnixMs(at));
        let decision = decide(&reading, &look, policy, None);
        assert_eq!(decision, Decision::Sleep { until: Some(UnixMs(at + 50)) });
    }
    let left_out = two.leave_out(timer, UnixMs(1_001_000), LeftOut::Missed, UnixMs(1_009_000));
    assert_eq!(left_out, Edited::Again);
    // What is read of the fleet may be this host's own claim.
    assert_eq!(two.elsewhere(timer, UnixMs(1_001_000), UnixMs(1_001_500)), Edited::Done(()));
    assert_eq!(two.order_cancel(timer, UnixMs(1_001_500)), Edited::Done(Ordered::Conflict));
    assert!(matches!(resumed(&two, timer, 1_001_500), Resumed::HeldElsewhere(_)));
    assert_eq!(account(&two, timer), (0, 0, 0, 0, 0));

    let claim = won_by(open, timer, 1_001_020);
    let fleet = FleetClaim { id: asked(1).id, created: 5, fence: 6 };
    assert_eq!((claim.fleet(), claim.attempt().started_at), (Some(fleet), UnixMs(1_001_020)));
    assert_eq!(account(&two, timer), (1, 0, 0, 0, 0));
    claim.finish(ended(Outcome::Success), None);
    let reading = two.read(timer.record).unwrap();
    assert_eq!((reading.claim.fleet, reading.claim.watermark.due), (None, UnixMs(1_001_000)));
}

#[test]
fn each_answer_accounts_for_the_due_times_up_to_its_own() {
    let skip = OverlapPolicy::Skip;
    let last = Some(UnixMs(1_002_000));
    let (created, fence, up_to) = (5, 6, UnixMs(1_004_000));
    // Four due times; the fleet has dealt with two of them.
    for (how, expected) in [
        (OpenEnd::Won { created, fence, last }, (1, 0, 0, 1, 2)),
        (OpenEnd::Won { created, fence, last: None }, (1, 0, 0, 3, 0)),
        (OpenEnd::Lost { last }, (1, 0, 0, 1, 2)),
        (OpenEnd::Elsewhere { up_to }, (0, 0, 0, 0, 4)),
        // A clock that is ahead of this one.
        (OpenEnd::Elsewhere { up_to: UnixMs(9_000_000) }, (0, 0, 0, 0, 4)),
        (OpenEnd::Overlap { policy: skip, last }, (0, 0, 2, 0, 2)),
        (OpenEnd::Overlap { policy: OverlapPolicy::Queue, last }, (0, 0, 1, 0, 2)),
        (OpenEnd::Missed { last }, (0, 0, 0, 2, 2)),
        (OpenEnd::Paused { last }, (0, 0, 0, 0, 2)),
        (OpenEnd::Released, (0, 0, 0, 0, 0)),
    ] {
        let fixture = Fixture::memory(&["a"]);
        let (one, every) = (fixture.worker(1), secondly());
        let timer = timer(&fixture.records[0], &every);
        let open = opened(&one, timer, 1_004_000);
        let is_paused = matches!(how, OpenEnd::Paused { .. });
        match end(open, timer, how, 1_004_020) {
            OpenEnded::Won(claim) => drop(claim.finish(ended(Outcome::Success), None)),
            OpenEnded::Closed => {}
            ended => panic!("{ended:?}"),
        }
        assert_eq!(account(&one, timer), expected, "{how:?}");
        let reading = one.read(timer.record).unwrap();
        assert_eq!(reading.claim.progress, Progress::Nothing);
        let handled = match how {
            OpenEnd::Released => 1_000_000,
            OpenEnd::Overlap { policy: OverlapPolicy::Queue, .. } => 1_003_999,
            _ => 1_004_000,
        };
        assert_eq!(reading.handled_up_to(UnixMs(1_004_030)), UnixMs(handled), "{how:?}");
        assert_eq!(reading.control.not_before == Some(UnixMs(1_004_000)), is_paused);
        let lost_runs = reading.claim.counters.ended_with(Outcome::Lost);
        assert_eq!(lost_runs, u64::from(matches!(how, OpenEnd::Lost { .. })));
        assert_eq!(reading.claim.consecutive_failures, u32::try_from(lost_runs).unwrap());
    }
}

#[test]
fn a_successor_asks_for_the_very_same() {
    let mut fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let look = Look::at(&every, UnixMs(1_001_000));
    let kind = ClaimKind::Repetition { last: 77 };
    let again = Asked { id: ClaimId([8; 16]), kind };
    let (run, due, trigger) = (run_id(4), UnixMs(1_000_000), Trigger::Missed);
    let wanted = Wanted::Repetition { run, due, trigger, attempt: 2 };
    let mut attempt = ClaimAttempt::for_fleet(wanted, run, again, &look);
    let Step::Asks(open) = attempt.step(&one, timer, &mut || UnixMs(1_001_000)) else { panic!() };
    let before = *open.attempt();
    drop(open);
    // It leaves, or dies.
    let Resumed::Open(open) = resumed(&two, timer, 1_001_100) else { panic!("nothing was left") };
    assert_eq!((*open.attempt(), open.asked()), (before, again));
    assert!(matches!(resumed(&two, timer, 1_001_100), Resumed::Nothing), "it is its own");
    open.die();
    dead::kill(2);
    let three = fixture.worker(3);
    let Resumed::Open(open) = resumed(&three, timer, 1_001_200) else { panic!("nothing was left") };
    let claim = won_by(open, timer, 1_001_200);
    assert_eq!((claim.attempt().pid, claim.attempt().number), (3, 2));
    claim.finish(ended(Outcome::Success), None);
    // This host had accounted for that due time before.
    assert_eq!(account(&three, timer), (1, 1, 0, 0, 0));
    assert_eq!(three.read(timer.record).unwrap().claim.watermark.due, UnixMs(1_000_000));
    fixture.now = 1_002_000;
    dead::bury();
}

#[test]
fn after_a_boot_an_open_claim_is_an_interrupted_run() {
    let fixture = Fixture::file(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    let timer = timer(&fixture.records[0], &every);
    opened(&one, timer, 1_003_000).die();
    dead::kill(1);
    let process = Process { pid: 4, started: 9, boot: BootId([1; 16]) };
    let two = fixture.state.as_ref().unwrap().attach(Master::This, process, UnixMs(1_009_000));
    let Resumed::Interrupted { attempt, fleet: None } = resumed(&two, timer, 1_009_000) else {
        panic!("it is not interrupted")
    };
    assert_eq!(attempt.due, UnixMs(1_003_000));
    assert_eq!(account(&two, timer), (1, 0, 0, 2, 0));
    let reading = two.read(timer.record).unwrap();
    assert_eq!(reading.claim.counters.ended_with(Outcome::Interrupted), 1);
    assert_eq!(reading.claim.watermark.due, UnixMs(1_003_000));
    assert!(matches!(resumed(&two, timer, 1_009_000), Resumed::Nothing));
}

#[test]
fn a_run_of_a_process_that_died_is_handed_out_with_its_claim_and_not_repeated() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let claim = won_by(opened(&one, timer, 1_001_000), timer, 1_001_000);
    let fleet = claim.fleet();
    assert!(matches!(resumed(&two, timer, 1_001_100), Resumed::HeldElsewhere(_)));
    claim.die();
    dead::kill(1);
    assert!(matches!(step(&two, timer, due(1_002_000), 1_002_000), Step::Unfinished));
    match resumed(&two, timer, 1_002_000) {
        Resumed::Interrupted { attempt, fleet: it } => {
            assert_eq!((attempt.due, it), (UnixMs(1_001_000), fleet));
        }
        resumed => panic!("{resumed:?}"),
    }
    assert_eq!(progress(&two, timer), Progress::Nothing);
    assert_eq!(account(&two, timer), (1, 0, 0, 0, 0));
    dead::bury();
}

#[test]
fn a_run_that_waits_stays_its_holders_and_is_taken_over_when_that_leaves() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let mut claim = won_by(opened(&one, timer, 1_001_000), timer, 1_001_000);
    claim.wait_on(ended(Outcome::Failure), UnixMs(1_001_300));
    assert_eq!(claim.waits_until(), Some(UnixMs(1_001_300)));
    let next = Wanted::Next { run: claim.attempt().run, attempt: 2 };
    for (wanted, at) in [(next, 1_001_400), (due(1_002_000), 1_002_000)] {
        assert!(matches!(step(&two, timer, wanted, at), Step::Again { .. }), "{wanted:?}");
    }
    assert!(claim.next(2, 9, UnixMs(1_001_300)));
    assert_eq!(claim.fleet().map(|fleet| fleet.fence), Some(9));
    claim.wait_on(ended(Outcome::Failure), UnixMs(1_001_600));
    drop(claim);
    let Resumed::Waiting(mut claim) = resumed(&two, timer, 1_001_500) else {
        panic!("not taken over")
    };
    let fleet = FleetClaim { id: asked(1).id, created: 5, fence: 9 };
    assert_eq!((claim.fleet(), claim.waits_until()), (Some(fleet), Some(UnixMs(1_001_600))));
    assert!(claim.next(3, 12, UnixMs(1_001_600)));
    claim.finish(ended(Outcome::Success), None);
    let reading = one.read(timer.record).unwrap();
    assert_eq!(reading.claim.counters.retries, 2);
    assert_eq!(reading.claim.watermark, Watermark { due: UnixMs(1_001_000), attempt: 3 });
    let result = one.results(timer.record, &reading)[0];
    assert_eq!((result.attempt.pid, result.attempt.number), (2, 3));
    assert_eq!(account(&one, timer), (1, 0, 0, 0, 0));
}

#[test]
fn an_order_is_done_when_it_is_won_and_not_when_it_is_asked_for() {
    for wins in [false, true] {
        let fixture = Fixture::file(&["a"]);
        let (one, every) = (fixture.worker(1), secondly());
        let timer = timer(&fixture.records[0], &every);
        let ordered = one.order_run(timer, run_id(5), UnixMs(1_000_100));
        assert_eq!(ordered, Edited::Done(Ordered::Pending(run_id(5))));
        let Step::Asks(open) = step(&one, timer, Wanted::Order { number: 1 }, 1_000_200) else {
            panic!("it is not asked for")
        };
        assert_eq!((open.attempt().run, open.attempt().trigger), (run_id(5), Trigger::Manual));
        // One more meanwhile is the same one.
        let ordered = one.order_run(timer, run_id(6), UnixMs(1_000_300));
        assert_eq!(ordered, Edited::Done(Ordered::Pending(run_id(5))));
        if wins {
            won_by(open, timer, 1_000_400).finish(ended(Outcome::Success), None);
            assert_eq!(account(&one, timer), (1, 1, 0, 0, 0));
        } else {
            assert!(matches!(end(open, timer, OpenEnd::Released, 1_000_400), OpenEnded::Closed));
            assert_eq!(account(&one, timer), (0, 0, 0, 0, 0));
        }
        let reading = one.read(timer.record).unwrap();
        let pending = reading.control.pending_order(reading.claim.orders_done);
        assert_eq!(pending.is_none(), wins);
        assert_eq!(reading.claim.watermark.due, UnixMs(1_000_000));
    }
}

#[test]
fn what_cannot_be_written_or_locked_is_not_asked_for_and_not_started() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    one.set_fault(WriteFault::Full);
    assert!(matches!(step(&one, timer, due(1_001_000), 1_001_000), Step::Unwritable));
    one.set_fault(WriteFault::None);
    for call in [Call::Lock, Call::Read] {
        let effect = Effect::Errno(if call == Call::Lock { errno::ENOLCK } else { errno::EIO });
        let fault = CallFault { call: Some(call), after: 0, repeat: Repeat::FromThenOn, effect };
        with(fault, || {
            assert!(matches!(step(&one, timer, due(1_001_000), 1_001_000), Step::Unwritable));
            assert!(matches!(
                resumed(&one, timer, 1_001_000),
                Resumed::Unwritable | Resumed::Nothing
            ));
        });
    }
    assert!(!one.has_unwritten(timer.record));
    assert_eq!(progress(&two, timer), Progress::Nothing);

    let open = opened(&one, timer, 1_001_000);
    one.set_fault(WriteFault::Full);
    let OpenEnded::NotWritten(open) = end(open, timer, WON, 1_001_010) else { panic!("it starts") };
    assert!(matches!(progress(&two, timer), Progress::Claiming(..)));
    let lost = OpenEnd::Lost { last: None };
    assert!(matches!(end(open, timer, lost, 1_001_020), OpenEnded::Closed));
    one.set_fault(WriteFault::None);
    one.write_again(timer);
    let reading = two.read(timer.record).unwrap();
    assert_eq!(reading.claim.counters.ended_with(Outcome::Lost), 1);
    assert_eq!(two.results(timer.record, &reading)[0].ended.outcome, Outcome::Lost);

    let mut claim = won_by(opened(&one, timer, 1_002_000), timer, 1_002_000);
    claim.wait_on(ended(Outcome::Failure), UnixMs(1_002_100));
    one.set_fault(WriteFault::Full);
    assert!(!claim.next(2, 9, UnixMs(1_002_100)), "it starts");
    one.set_fault(WriteFault::None);
    assert!(claim.waits_until().is_some());
    assert!(claim.next(2, 9, UnixMs(1_002_200)));
    claim.finish(ended(Outcome::Success), None);
}

#[test]
fn who_keeps_the_account_locked_is_waited_for_but_not_for_ever() {
    for how in [WON, OpenEnd::Elsewhere { up_to: UnixMs(1_003_000) }] {
        let fixture = Fixture::file(&["a"]);
        let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
        let timer = timer(&fixture.records[0], &every);
        let mut open = opened(&one, timer, 1_003_000);
        let part = crate::state::record::format::CONTROL;
        let lock = two.inner.try_edit_lock(part, timer.record.page).unwrap();
        let mut waited = Duration::ZERO;
        let ended = loop {
            match end(open, timer, how, 1_003_000) {
                OpenEnded::Again { after, open: it } => (open, waited) = (it, waited + after),
                ended => break ended,
            }
        };
        assert_eq!(waited, Duration::from_millis(127));
        drop(lock);
        match ended {
            // It is not the run that waits.
            OpenEnded::Won(_) => assert_eq!(account(&one, timer), (1, 0, 0, 0, 0)),
            // The due time is found again.
            OpenEnded::Closed => {
                let open = opened(&one, timer, 1_003_000);
                assert!(matches!(end(open, timer, how, 1_003_000), OpenEnded::Closed));
                assert_eq!(account(&one, timer), (0, 0, 0, 0, 3));
            }
            ended => panic!("{ended:?}"),
        }
    }
}

#[test]
fn a_pause_or_a_clock_that_is_set_back_meanwhile_takes_nothing_away() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let open = opened(&one, timer, 1_001_000);
    assert_eq!(two.pause(timer, None, UnixMs(1_001_500)), Edited::Done(()));
    assert_eq!(two.resume(timer, UnixMs(1_001_600)), Edited::Done(()));
    won_by(open, timer, 1_001_700).finish(ended(Outcome::Success), None);
    // The pause has counted it, whatever the fleet would say.
    assert_eq!(account(&two, timer), (1, 1, 0, 1, 0));

    let open = opened(&one, timer, 1_002_000);
    assert_eq!(two.set_back(timer, &mut || UnixMs(500_000)), Recovered::Again);
    assert!(matches!(end(open, timer, OpenEnd::Released, 500_000), OpenEnded::Closed));
    assert_eq!(two.set_back(timer, &mut || UnixMs(500_000)), Recovered::Nothing);
    assert_eq!(two.read(timer.record).unwrap().handled_up_to(UnixMs(500_000)), UnixMs(500_000));
}

#[test]
fn a_timer_that_is_in_no_fleet_any_more_takes_what_was_being_asked_for() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let open = opened(&one, timer, 1_001_000);
    let retry = RetryPolicy::default();
    let mut clock = || UnixMs(1_001_100);
    assert!(matches!(two.recover(timer, &retry, &mut clock), Recovered::HeldElsewhere(_)));
    drop(open);
    assert_eq!(two.recover(timer, &retry, &mut clock), Recovered::Interrupted);
    won(&two, timer, due(1_001_000), 1_001_100).finish(ended(Outcome::Success), None);
    let mut claim = won_by(opened(&one, timer, 1_002_000), timer, 1_002_000);
    claim.wait_on(ended(Outcome::Failure), UnixMs(1_002_100));
    drop(claim);
    let recovered = two.recover(timer, &retry, &mut || UnixMs(1_002_050));
    assert_eq!(recovered, Recovered::Ended(Outcome::Failure));
    // The other way round.
    won(&two, timer, due(1_003_000), 1_003_000)
        .finish(ended(Outcome::Failure), Some(UnixMs(1_003_100)));
    assert!(matches!(resumed(&one, timer, 1_003_200), Resumed::Ended));
    assert_eq!(account(&one, timer), (3, 0, 0, 0, 0));
}

#[test]
fn a_damaged_record_takes_no_due_time_with_it_that_is_being_asked_for() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let open = opened(&one, timer, 1_001_000);
    let path = match &fixture.configured {
        StatePath::Named(path) => path.clone(),
        _ => panic!("no file"),
    };
    let page = u64::from(timer.record.page.unwrap());
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", page * 4096 + 40).unwrap();
    assert_eq!(two.read(timer.record), Err(Unread::Torn));
    // Who asks writes the part anew.
    won_by(open, timer, 1_001_100).finish(ended(Outcome::Success), None);
    assert_eq!(account(&two, timer), (1, 0, 0, 0, 0));
    drop(opened(&one, timer, 1_002_000));
    std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", page * 4096 + 40).unwrap();
    // Nobody knows what it was: the timer starts anew.
    assert!(matches!(step(&two, timer, due(1_003_000), 1_003_100), Step::Handled));
    assert_eq!(two.read(timer.record).unwrap().handled_up_to(UnixMs(1_003_200)), UnixMs(1_003_100));
}
