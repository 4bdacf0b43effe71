//! The same file under many hands at once: threads with descriptions of their own, and a process
//! that is killed.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::os::file::FileOwner;
use crate::schedule::UnixMs;
use crate::state::*;

use super::fixture::*;

/// Reads as a patient reader does.
fn read(store: &Store, record: &Record) -> Option<Reading> {
    store.read(record).ok().or_else(|| {
        Steps::default().find_map(|wait| {
            thread::sleep(wait);
            store.read(record).ok()
        })
    })
}

#[test]
fn ten_readers_lose_double_and_damage_none_of_1000_timers() {
    const TIMERS: usize = 1000;
    let names: Vec<String> = (0..TIMERS).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fixture = Fixture::file(&names);
    let records = fixture.records.to_vec();
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    let path = fixture.configured.path().unwrap().to_path_buf();
    let attach = |pid| {
        // As `State::attach` does; a `State` stays in its thread.
        let file = crate::os::file::open_existing(&path).unwrap();
        let pages = crate::state::worker::paged_file::PagedFile::new(file);
        Store::new(
            Some(pages),
            Process { pid, started: 1, boot: BOOT },
            Health::Ok,
            failing(),
            UnixMs(fixture.now),
        )
    };
    let (records, done, reads, attach) = (&records, &done, &reads, &attach);
    let now = fixture.now;
    thread::scope(|scope| {
        for pid in 0..10 {
            scope.spawn(move || {
                let store = attach(100 + pid);
                while !done.load(Ordering::Relaxed) {
                    for record in records {
                        assert!(read(&store, record).is_some(), "a reader gave up");
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
                assert!(store.take_notices().is_empty());
            });
        }
        let claimants: Vec<_> = (0..2)
            .map(|pid| {
                scope.spawn(move || {
                    let store = attach(pid);
                    let every = secondly();
                    let mut won = 0;
                    for round in 1..=3 {
                        for record in records {
                            let at = now + round * 1000;
                            let wanted = due(at);
                            let mut attempt = attempt_for(wanted, run_id(1));
                            let step = loop {
                                let step =
                                    attempt.step(&store, timer(record, &every), &mut || UnixMs(at));
                                match step {
                                    Step::Again { after } => thread::sleep(after),
                                    step => break step,
                                }
                            };
                            if let Step::Won(claim) = step {
                                won += 1;
                                claim.finish(ended(Outcome::Success), None);
                            }
                        }
                    }
                    let notices = store.take_notices();
                    assert!(
                        notices.iter().all(|it| matches!(it, Notice::LeftOut { .. })),
                        "{notices:?}"
                    );
                    won
                })
            })
            .collect();
        let editor = scope.spawn(move || {
            let store = attach(50);
            for record in records {
                while store.order_run(timer(record, &secondly()), run_id(5), UnixMs(now))
                    == Edited::Again
                {}
            }
        });
        editor.join().unwrap();
        let won: usize = claimants.into_iter().map(|it| it.join().unwrap()).sum();
        done.store(true, Ordering::Relaxed);
        let store = attach(60);
        let mut runs = 0;
        for record in records {
            let reading = read(&store, record).unwrap();
            let (claim, control) = (&reading.claim, &reading.control);
            runs += usize::try_from(claim.runs()).unwrap();
            assert_eq!(claim.runs() + control.missed + control.overlaps, 3, "{reading:?}");
            assert!(
                control.order.number == 1 || claim.runs() > 0,
                "an order was lost, or met a run: {reading:?}"
            );
        }
        assert_eq!(runs, won);
    });
    println!("{} reads", reads.load(Ordering::Relaxed));
}

#[test]
fn orders_and_pauses_written_during_a_run_are_not_lost_by_its_end() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let record = &fixture.records[0];
    let timer = timer(record, &every);
    let now = UnixMs(1_001_500);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    let before = one.order_number();
    assert_eq!(two.pause(timer, None, now), Edited::Done(()));
    let run = first.attempt().run;
    assert_eq!(two.order_cancel(timer, now), Edited::Done(Ordered::Pending(run)));
    assert_eq!(two.order_run(timer, run_id(9), now), Edited::Done(Ordered::Conflict));
    assert_eq!(one.order_number(), before + 3);
    assert!(one.is_cancelled(record, run));
    first.finish(ended(Outcome::Cancelled), None);
    assert!(one.read(record).unwrap().is_paused(now));
    assert_eq!(
        two.order_run(timer, run_id(9), now),
        Edited::Done(Ordered::Pending(run_id(9))),
        "works while paused"
    );
    let policy = Policy { missed: MissedPolicy::Skip, schedule: Scheduled::On };
    let decision = decide(&one.read(record).unwrap(), &Look::at(&every, now), policy, None);
    let Decision::Claim(wanted @ Wanted::Order { .. }) = decision else { panic!("{decision:?}") };
    let manual = won(&one, timer, wanted, now.0);
    assert_eq!((manual.attempt().run, manual.attempt().due), (run_id(9), now));
    manual.finish(ended(Outcome::Success), None);
    assert!(matches!(claim(&two, timer, wanted, now.0), Step::Handled), "done once");
}

#[test]
fn an_order_that_is_to_come_again_was_not_given() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let record = &fixture.records[0];
    let timer = timer(record, &every);
    let now = UnixMs(1_000_500);
    let policy = Policy { missed: MissedPolicy::Skip, schedule: Scheduled::On };
    let wanted =
        |now| match decide(&one.read(record).unwrap(), &Look::at(&every, now), policy, None) {
            Decision::Claim(wanted @ Wanted::Order { .. }) => Some(wanted),
            _ => None,
        };

    // Somebody else gives an order, or pauses all timers.
    let elsewhere = one.lock_header().unwrap();
    assert_eq!(two.order_run(timer, run_id(5), now), Edited::Again);
    assert_eq!(wanted(now), None, "or it would run now, and once more when it comes again");
    assert_eq!(two.pause(timer, None, now), Edited::Again);
    assert_eq!(two.pause_all(None, now), Edited::Again);
    assert!(!one.read(record).unwrap().is_paused(now));
    drop(elsewhere);

    let before = one.order_number();
    assert_eq!(two.order_run(timer, run_id(5), now), Edited::Done(Ordered::Pending(run_id(5))));
    assert_eq!(one.order_number(), before + 1);
    let claim = won(&one, timer, wanted(now).unwrap(), now.0);

    let elsewhere = one.lock_header().unwrap();
    assert_eq!(two.order_cancel(timer, now), Edited::Again);
    assert!(!one.is_cancelled(record, run_id(5)), "the run after it would be cancelled, too");
    drop(elsewhere);
    claim.finish(ended(Outcome::Success), None);
    assert_eq!(wanted(now), None, "it has run once");
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn holder() {
    let Some(path) = std::env::var_os("TIMER_STATE_HELD") else { return };
    let file = crate::os::file::open_existing(path.as_ref()).unwrap();
    let pages = crate::state::worker::paged_file::PagedFile::new(file);
    let process = Process { pid: std::process::id(), started: 1, boot: BOOT };
    let store = Store::new(Some(pages), process, Health::Ok, failing(), UnixMs(1_000_000));
    let record = Record { page: Some(1), ..Record::nowhere("a") };
    let every = secondly();
    let claim = won(&store, timer(&record, &every), due(1_001_000), 1_001_000);
    fs::write(std::env::var_os("TIMER_STATE_READY").unwrap(), b"").unwrap();
    thread::sleep(Duration::from_secs(60));
    drop(claim);
}

#[test]
fn a_killed_holder_is_seen_as_interrupted_with_its_pid() {
    let fixture = Fixture::file(&["a"]);
    let path = fixture.configured.path().unwrap();
    let ready = path.with_file_name("ready");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "state::tests::contention::holder"])
        .env("TIMER_STATE_HELD", path)
        .env("TIMER_STATE_READY", &ready)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..2000 {
        if ready.exists() {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(ready.exists());
    let (store, every) = (fixture.worker(1), secondly());
    let timer = timer(&fixture.records[0], &every);
    let mut clock = || UnixMs(1_001_500);
    let retry = RetryPolicy::default();
    let Recovered::HeldElsewhere(attempt) = store.recover(timer, &retry, &mut clock) else {
        panic!("it is not held")
    };
    assert_eq!(attempt.pid, child.id());
    assert!(matches!(claim(&store, timer, due(1_002_000), 1_002_000), Step::Overlap(_)));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(store.recover(timer, &retry, &mut clock), Recovered::Interrupted);
    let notices = store.take_notices();
    assert!(
        matches!(&notices[..], [Notice::Interrupted { attempt, .. }]
            if attempt.pid == child.id() && attempt.due == UnixMs(1_001_000)),
        "{notices:?}"
    );
    won(&store, timer, due(1_002_000), 1_002_000);
}

#[test]
fn an_interrupted_run_is_repeated_where_the_policy_says_so() {
    let fixture = Fixture::memory(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let first = won(&one, timer, due(1_001_000), 1_001_000);
    let run = first.attempt().run;
    drop((first, one));
    let retry = RetryPolicy {
        more: 1,
        on: vec![Outcome::Interrupted],
        backoff: Duration::from_millis(100),
        max: Duration::from_secs(60),
    };
    let mut clock = || UnixMs(1_001_500);
    assert_eq!(two.recover(timer, &retry, &mut clock), Recovered::Interrupted);
    let Progress::Waiting(_, wait) = two.read(&fixture.records[0]).unwrap().claim.progress else {
        panic!("it does not wait")
    };
    let next = Wanted::Next { run, attempt: 2 };
    won(&two, timer, next, wait.next_at.0).finish(ended(Outcome::Success), None);
    assert_eq!(two.read(&fixture.records[0]).unwrap().claim.runs(), 1);
}

#[test]
fn a_master_that_hangs_in_the_header_lock_delays_another_by_two_seconds_only() {
    let fixture = Fixture::file(&["a"]);
    let path = fixture.configured.path().unwrap();
    let other = crate::state::worker::paged_file::PagedFile::new(
        crate::os::file::open_existing(path).unwrap(),
    );
    let mut no_wait = |_| ();
    let hanging = Opener {
        pid_file: &fixture.pid_file,
        workers: FileOwner::of_this_process(),
        now: UnixMs(fixture.now),
        patience: PATIENCE,
        wait: &mut no_wait,
    }
    .lock_header(&other)
    .unwrap();
    let mut waited = Duration::ZERO;
    let mut wait = |time| waited += time;
    let mut opener = Opener {
        pid_file: &fixture.pid_file,
        workers: FileOwner::of_this_process(),
        now: UnixMs(fixture.now),
        patience: PATIENCE,
        wait: &mut wait,
    };
    let cycle =
        open(&fixture.configured, fixture.state.as_ref(), &["a", "b"], &mut opener).unwrap();
    assert_eq!(waited, Duration::from_secs(2));
    assert!(matches!(cycle.notices[..], [Notice::HeaderLocked]), "{:?}", cycle.notices);
    assert!(cycle.records[0].page.is_some() && cycle.records[1].page.is_none());
    assert_eq!(cycle.state.health(), Health::Degraded);
    drop(hanging);
}

#[test]
fn a_pause_that_has_expired_does_not_come_again_with_the_clock() {
    let fixture = Fixture::file(&["a"]);
    let (one, every) = (fixture.worker(1), secondly());
    let timer = timer(&fixture.records[0], &every);
    let until = Some(UnixMs(1_005_000));
    assert_eq!(one.pause(timer, until, UnixMs(1_001_500)), Edited::Done(()));
    assert_eq!(one.pause_all(until, UnixMs(1_001_500)), Edited::Done(()));
    one.end_pauses(timer, UnixMs(1_004_999));
    assert!(one.read(timer.record).unwrap().is_paused(UnixMs(1_004_999)), "it holds still");
    let _ = one.header();
    one.end_pauses(timer, UnixMs(1_005_000));
    let reading = one.read(timer.record).unwrap();
    assert!(!reading.is_paused(UnixMs(1_002_000)));
    assert_eq!(reading.handled_up_to(UnixMs(1_006_000)), UnixMs(1_005_000));
}

#[test]
fn a_run_does_not_wait_for_who_keeps_locked_what_lies_ahead() {
    let fixture = Fixture::file(&["a"]);
    let (one, two, every) = (fixture.worker(1), fixture.worker(2), secondly());
    let timer = timer(&fixture.records[0], &every);
    let ahead = UnixMs(1_000_000_000);
    assert_eq!(one.pause_all(None, ahead), Edited::Done(()));
    assert_eq!(one.resume_all(ahead), Edited::Done(()));
    let elsewhere = two.lock_header().unwrap();
    let now = UnixMs(1_002_000);
    let reading = one.read(timer.record).unwrap();
    let policy = Policy { missed: MissedPolicy::Skip, schedule: Scheduled::On };
    assert_eq!(decide(&reading, &Look::at(&every, now), policy, None), Decision::ClockSetBack);
    assert_eq!(one.set_back(timer, &mut || now), Recovered::Again);
    let reading = reading.without_ahead(&every, now);
    let Decision::Claim(wanted) = decide(&reading, &Look::at(&every, now), policy, None) else {
        panic!("it waits")
    };
    won(&one, timer, wanted, now.0).finish(ended(Outcome::Success), None);
    drop(elsewhere);
    assert_eq!(one.set_back(timer, &mut || now), Recovered::Nothing);
    let reading = one.read(timer.record).unwrap();
    assert!(!matches!(
        decide(&reading, &Look::at(&every, now), policy, None),
        Decision::ClockSetBack
    ));
}
