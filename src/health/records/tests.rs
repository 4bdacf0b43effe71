use std::cell::Cell;
use std::collections::HashSet;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::last::REASON_BYTES;
use super::word::at_steps;
use super::*;
use crate::health::verdict::{CheckOutcome, Standing, Thresholds, VerdictChange};
use crate::schedule::UnixMs;

const SLOTS: usize = 8;
/// Long after boot, and after all that an interval is.
const START: Duration = Duration::from_secs(100_000);

fn words(slots: usize) -> &'static [AtomicU64] {
    let words = (0..Records::words_for(slots)).map(|_| AtomicU64::new(0));
    Box::leak(words.collect::<Vec<_>>().into_boxed_slice())
}

fn records(slots: usize) -> Records<'static> {
    Records::new(words(slots)).unwrap()
}

fn key(n: u32) -> Key {
    Key::of_server(b"backend", b"/", &n.to_le_bytes(), false)
}

fn at(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

fn wall(ms: u64) -> UnixMs {
    UnixMs(1_800_000_000_000 + i64::try_from(ms).unwrap())
}

fn make(records: &Records<'static>, n: u32, ms: u64) -> Result<Slot<'static>, NoSlot> {
    records.find_or_make(&key(n), Standing::Healthy, at(ms), wall(ms))
}

/// Claims what is due at `ms`, then, for a second; the pids below 100 are gone.
fn claim(slot: &Slot<'static>, ms: u64, pid: u32) -> Result<CheckClaim<'static>, NotClaimed> {
    slot.claim(&Ask {
        due: at(ms),
        now: at(ms),
        deadline: at(ms + 1000),
        pid,
        is_gone: &|pid| pid < 100,
    })
}

fn result(outcome: CheckOutcome, ms: u64, reason: &str) -> CheckResult<'_> {
    let one = NonZeroU32::MIN;
    CheckResult {
        outcome,
        reason,
        at: wall(ms),
        duration: Duration::from_millis(7),
        thresholds: Thresholds { fails: one, passes: one },
    }
}

#[test]
fn a_slot_is_found_by_its_key() {
    let records = records(SLOTS);
    assert!(records.find(&key(1)).is_none());
    let slot = make(&records, 1, 0).unwrap();
    assert!(slot.is_current() && slot.key() == key(1));
    assert_eq!(make(&records, 1, 0).unwrap().key(), key(1));
    assert_eq!(records.all().count(), 1);
    assert!(records.find(&key(2)).is_none());
}

#[test]
fn as_many_slots_are_made_as_there_is_room_for() {
    assert_eq!(records(SLOTS).len(), SLOTS);
    let memory = words(1);
    assert!(Records::new(&memory[1..]).is_none());
}

#[test]
fn a_check_is_claimed_once_for_each_due_time() {
    let slot = make(&records(SLOTS), 1, 0).unwrap();
    let first = claim(&slot, 10, 100).unwrap();
    assert_eq!(claim(&slot, 10, 101).err(), Some(NotClaimed::Taken));
    assert_eq!(claim(&slot, 20, 101).err(), Some(NotClaimed::Held(100)));
    assert_eq!(slot.held_by(at(20)), Some(100));
    first.end(&result(CheckOutcome::Passed, 20, "")).unwrap();
    assert_eq!(slot.held_by(at(20)), None);
    assert_eq!(claim(&slot, 10, 101).err(), Some(NotClaimed::Taken));
    claim(&slot, 20, 101).unwrap().end(&result(CheckOutcome::Failed, 20, "")).unwrap();
    assert_eq!(claim(&slot, 20, 101).err(), Some(NotClaimed::Taken));
}

#[test]
fn a_claim_is_taken_over_when_its_process_is_gone_or_its_deadline_is_over() {
    let slot = make(&records(SLOTS), 1, 0).unwrap();
    let gone = claim(&slot, 10, 99).unwrap();
    let stopped = claim(&slot, 20, 100).unwrap();
    assert_eq!(claim(&slot, 1019, 101).err(), Some(NotClaimed::Held(100)));
    let held = claim(&slot, 1200, 101).unwrap();
    // Those come back, and tell what they saw.
    for late in [gone, stopped] {
        assert!(!late.is_current());
        assert_eq!(late.end(&result(CheckOutcome::Failed, 1300, "late")), None);
    }
    assert_eq!(slot.held_by(at(1300)), Some(101));
    assert_eq!((slot.verdict().standing, slot.last()), (Standing::Healthy, None));
    assert!(held.end(&result(CheckOutcome::Passed, 1300, "")).is_some());
}

#[test]
fn a_result_is_told_whole() {
    let slot = make(&records(SLOTS), 1, 0).unwrap();
    let reason = format!("{}é", "x".repeat(REASON_BYTES - 1));
    let ended =
        claim(&slot, 10, 100).unwrap().end(&result(CheckOutcome::Failed, 20, &reason)).unwrap();
    assert_eq!((ended.change, ended.was_down_for), (VerdictChange::Unhealthy, None));
    let last = slot.last().unwrap();
    assert_eq!(last.reason, "x".repeat(REASON_BYTES - 1));
    assert_eq!((last.at, last.duration), (wall(20), Duration::from_millis(7)));
    assert_eq!(slot.downtime(wall(1020)).since, Some(wall(20)));

    let ended =
        claim(&slot, 30, 100).unwrap().end(&result(CheckOutcome::Passed, 2020, "")).unwrap();
    assert_eq!(ended.was_down_for, Some(Duration::from_secs(2)));
    let inconclusive = result(CheckOutcome::Inconclusive, 2030, "no descriptor");
    claim(&slot, 40, 100).unwrap().end(&inconclusive).unwrap();
    let CheckCounters { passed, failed, inconclusive, became_unhealthy, changes, duration } =
        slot.counters();
    assert_eq!((passed, failed, inconclusive, became_unhealthy, changes), (1, 1, 1, 1, 2));
    assert_eq!(duration, Duration::from_millis(21));
    let downtime = slot.downtime(wall(9999));
    assert_eq!((downtime.since, downtime.total), (None, Duration::from_secs(2)));
    let strip: Vec<_> = slot.strip().outcomes().collect();
    assert_eq!(strip, [CheckOutcome::Failed, CheckOutcome::Passed, CheckOutcome::Inconclusive]);
    assert_eq!(slot.strip().last_passed(), Some(true));
}

#[test]
fn a_server_that_begins_anew_hears_of_no_earlier_check() {
    let slot = make(&records(SLOTS), 1, 0).unwrap();
    let before = claim(&slot, 10, 100).unwrap();
    slot.begin_anew(Standing::Checking, wall(15));
    assert_eq!(before.end(&result(CheckOutcome::Passed, 20, "")), None);
    assert_eq!(slot.verdict().standing, Standing::Checking);
    let ended = claim(&slot, 30, 100).unwrap().end(&result(CheckOutcome::Passed, 40, "")).unwrap();
    assert_eq!(
        (ended.change, ended.was_down_for),
        (VerdictChange::Healthy, Some(Duration::from_millis(25)))
    );
}

#[test]
fn a_slot_is_another_s_once_its_server_was_long_in_no_list() {
    let records = records(2);
    let (first, second) = (make(&records, 1, 0).unwrap(), make(&records, 2, 0).unwrap());
    claim(&first, 10, 100).unwrap().end(&result(CheckOutcome::Failed, 20, "refused")).unwrap();
    assert_eq!(make(&records, 3, 599_000).err(), Some(NoSlot::Full));
    second.seen(at(300_000));
    let third = make(&records, 3, 601_000).unwrap();
    assert!(!first.is_current() && second.is_current());
    assert_eq!(claim(&first, 700_000, 100).err(), Some(NotClaimed::Gone));
    assert_eq!((third.verdict().standing, third.last()), (Standing::Healthy, None));
    assert_eq!((third.counters(), third.strip().outcomes().count()), (CheckCounters::default(), 0));
    // Not while it is being checked.
    let held = claim(&second, 601_000, 100).unwrap();
    assert_eq!(make(&records, 4, 1_200_500).err(), Some(NoSlot::Full));
    held.end(&result(CheckOutcome::Passed, 1_200_500, ""));
    assert!(make(&records, 4, 1_200_500).is_ok());
}

#[test]
fn what_is_not_wanted_is_given_up() {
    let records = records(SLOTS);
    let (first, second) = (make(&records, 1, 0).unwrap(), make(&records, 2, 0).unwrap());
    let in_progress = claim(&first, 10, 100).unwrap();
    records.retire_unless(|slot| slot.key() == key(2));
    assert!(!first.is_current() && second.is_current());
    assert_eq!(in_progress.end(&result(CheckOutcome::Failed, 20, "")), None);
    assert!(records.find(&key(1)).is_none());
    assert_eq!(make(&records, 1, 30).unwrap().verdict().standing, Standing::Healthy);
}

#[test]
fn records_move() {
    let (old, new) = (records(4), records(SLOTS));
    let slots: Vec<_> = (0..4).map(|n| make(&old, n, 0).unwrap()).collect();
    let fails = claim(&slots[0], 10, 100).unwrap();
    fails.end(&result(CheckOutcome::Failed, 20, "refused")).unwrap();
    let in_progress = claim(&slots[1], 10, 100).unwrap();
    old.freeze();
    new.copy_from(&old);

    assert_eq!(claim(&slots[2], 20, 100).err(), Some(NotClaimed::Gone));
    assert_eq!(make(&old, 9, 20).err(), Some(NoSlot::Busy));
    assert_eq!(in_progress.end(&result(CheckOutcome::Failed, 30, "")), None);
    let moved: Vec<_> = (0..4).map(|n| new.find(&key(n)).unwrap()).collect();
    assert_eq!(moved[0].verdict().standing, Standing::Unhealthy);
    assert_eq!(moved[0].last().unwrap().reason, "refused");
    // What was in progress is not made at the same time.
    assert_eq!(claim(&moved[1], 20, 101).err(), Some(NotClaimed::Held(100)));
    assert_eq!(claim(&moved[1], 10, 101).err(), Some(NotClaimed::Taken));
    assert!(claim(&moved[1], 1200, 101).is_ok() && claim(&moved[2], 20, 101).is_ok());
}

#[test]
fn of_all_that_set_a_flag_one_did() {
    let slot = make(&records(SLOTS), 1, 0).unwrap();
    let (one, other) = (Flag::FailOpen, Flag::NoSlot);
    assert!(!slot.flag(one) && !slot.set_flag(one, false));
    assert!(slot.set_flag(one, true) && !slot.set_flag(one, true) && slot.flag(one));
    assert!(!slot.flag(other) && slot.set_flag(other, true));
    assert!(slot.set_flag(one, false) && !slot.flag(one) && slot.flag(other));
}

/// How many steps `body` makes.
fn steps(body: impl FnOnce()) -> usize {
    let count = Rc::new(Cell::new(0));
    let counting = count.clone();
    at_steps(move || counting.set(counting.get() + 1), body);
    count.get()
}

/// Runs `body`, and `meanwhile` before its step `at`.
fn interrupted(at: usize, mut meanwhile: impl FnMut() + 'static, body: impl FnOnce()) {
    let mut step = 0;
    let hook = move || {
        if step == at {
            meanwhile();
        }
        step += 1;
    };
    at_steps(hook, body);
}

/// A whole check by a worker that only now begins: the slot, a claim, a result.
fn whole_check(records: &Records<'static>, ms: u64, pid: u32) {
    // From an older one on all that others were stopped in is over.
    let Ok(slot) = make(records, 1, ms) else { return };
    if let Ok(claim) = claim(&slot, ms, pid) {
        claim.end(&result(CheckOutcome::Failed, ms, "refused"));
    }
}

#[test]
fn a_death_at_any_step_holds_nothing_up() {
    let fresh = records(SLOTS);
    let count = steps(|| whole_check(&fresh, 10, 99));
    assert!(count > 20, "{count} steps");
    for at in 0..count {
        for before in [0, 1] {
            let records = records(SLOTS);
            (0..before).for_each(|_| whole_check(&records, 5, 100));
            let run = AssertUnwindSafe(|| {
                interrupted(
                    at,
                    || std::panic::resume_unwind(Box::new(())),
                    || {
                        whole_check(&records, 10, 99);
                    },
                );
            });
            let died = catch_unwind(run).is_err();
            assert!(died || before == 1);

            // Two seconds later, whatever the step was.
            whole_check(&records, 2100, 100);
            let slot = records.find(&key(1)).expect("found");
            assert_eq!(slot.verdict().standing, Standing::Unhealthy, "step {at}");
            assert_eq!(slot.taken(), super::tests::at(2100), "step {at}");
            assert_eq!(slot.held_by(super::tests::at(2100)), None);
            assert_eq!(slot.last().expect("told").at, wall(2100));
            assert_eq!(records.all().count(), 1, "step {at}");
        }
    }
}

#[test]
fn a_stop_at_any_step_lets_others_go_on_and_is_not_heard_of_later() {
    let fresh = records(SLOTS);
    let count = steps(|| whole_check(&fresh, 10, 100));
    for at in 0..count {
        let records = records(SLOTS);
        // Three seconds pass at this step, in which others check on, and end healthy.
        let meanwhile = move || {
            for (n, outcome) in [(0, CheckOutcome::Failed), (1, CheckOutcome::Passed)] {
                let ms = 2100 + n;
                let slot = make(&records, 1, ms).expect("a slot");
                let claim = claim(&slot, ms, 101).expect("a claim");
                assert!(claim.end(&result(outcome, ms, "")).is_some());
            }
        };
        interrupted(at, meanwhile, || whole_check(&records, 10, 100));
        let slot = records.find(&key(1)).expect("found");
        assert_eq!(slot.verdict().standing, Standing::Healthy, "step {at}");
        assert_eq!(slot.taken(), super::tests::at(2101), "step {at}");
        assert_eq!(records.all().count(), 1, "step {at}");
        assert!(claim(&slot, 2102, 102).is_ok(), "step {at}");
    }
}

#[test]
fn two_that_make_one_slot_at_once_make_one() {
    let fresh = records(SLOTS);
    let count = steps(|| {
        let _ = make(&fresh, 1, 0);
    });
    for at in 0..count {
        let records = records(SLOTS);
        // A hole in the path, which one of them sees and the other does not.
        for n in 2..5 {
            make(&records, n, 0).unwrap();
        }
        let meanwhile = move || {
            records.retire_unless(|slot| slot.key() != key(2) && slot.key() != key(3));
            let _ = make(&records, 1, 1);
        };
        interrupted(at, meanwhile, || {
            let _ = make(&records, 1, 0);
        });
        assert!(records.all().filter(|slot| slot.key() == key(1)).count() <= 1, "step {at}");
        // Who was in the other's way tries again.
        make(&records, 1, 2100).unwrap();
        assert_eq!(records.all().filter(|slot| slot.key() == key(1)).count(), 1, "step {at}");
    }
}

#[test]
fn of_many_workers_each_check_is_one_s() {
    const WORKERS: u32 = 4;
    const CHECKS: u64 = 2000;
    let records = records(SLOTS);
    let made: Vec<AtomicU32> = (0..CHECKS).map(|_| AtomicU32::new(0)).collect();
    let (going, barrier) = (AtomicU32::new(0), Barrier::new(WORKERS as usize));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (made, going, barrier) = (&made, &going, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for ms in 1..=CHECKS {
                    let Ok(slot) = make(&records, 1, ms) else { continue };
                    // A deadline far away.
                    let ask = Ask {
                        due: at(ms),
                        now: at(ms),
                        deadline: at(1_000_000),
                        pid: 100 + worker,
                        is_gone: &|_| false,
                    };
                    let Ok(claim) = slot.claim(&ask) else { continue };
                    assert_eq!(going.fetch_add(1, Ordering::SeqCst), 0);
                    made[usize::try_from(ms - 1).unwrap()].fetch_add(1, Ordering::SeqCst);
                    going.fetch_sub(1, Ordering::SeqCst);
                    let outcome =
                        if ms % 2 == 0 { CheckOutcome::Passed } else { CheckOutcome::Failed };
                    claim.end(&result(outcome, ms, "a reason")).unwrap();
                }
            });
        }
    });
    let total: u32 = made.iter().map(|made| made.load(Ordering::SeqCst)).sum();
    assert!(made.iter().all(|made| made.load(Ordering::SeqCst) <= 1));
    let slot = records.find(&key(1)).unwrap();
    let counters = slot.counters();
    assert_eq!(counters.passed + counters.failed, u64::from(total));
    assert!(slot.last().is_some() && slot.verdict().in_a_row > 0);
}

#[test]
fn many_workers_make_each_slot_once() {
    const KEYS: u32 = 40;
    for _ in 0..20 {
        let records = records(64);
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for worker in 0..4 {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    for n in 0..KEYS {
                        let n = if worker % 2 == 0 { n } else { KEYS - 1 - n };
                        while make(&records, n, 0).err() == Some(NoSlot::Busy) {
                            thread::yield_now();
                        }
                    }
                });
            }
        });
        let keys: HashSet<Key> = records.all().map(|slot| slot.key()).collect();
        assert_eq!((keys.len(), records.all().count()), (KEYS as usize, KEYS as usize));
    }
}
