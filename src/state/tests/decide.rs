//! What is to be done when: start times, missed due times, the queue, orders and pauses.

use std::time::Duration;

use crate::schedule::UnixMs;
use crate::state::policy::due::tests::every;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::{Control, Order, Paused};
use crate::state::*;

use super::fixture::run_id;

const RUN_ALL: Policy = Policy {
    missed: MissedPolicy::Run { within: Duration::from_secs(3600) },
    schedule: Scheduled::On,
};
const SKIP: Policy = Policy { missed: MissedPolicy::Skip, schedule: Scheduled::On };

/// A record whose last due time was at 1000 s; the timer has one each minute.
fn reading() -> Reading {
    let name_hash = crate::state::record::format::name_hash("a");
    let mut claim = Box::new(ClaimPart::new(name_hash, UnixMs(960_000)));
    claim.watermark.attempt = 1;
    let control = Box::new(Control { presence: Presence::Enabled, ..Control::new() });
    Reading { claim, control, header: HeaderControl::default() }
}

fn decide_at(reading: &Reading, policy: Policy, now: i64) -> Decision {
    decide(reading, &Look::at(&every(60_000), UnixMs(now)), policy, None)
}

fn claim_of(due: i64, trigger: Trigger) -> Decision {
    Decision::Claim(Wanted::Due { due: UnixMs(due), start: UnixMs(due), trigger })
}

fn sleep(until: i64) -> Decision {
    Decision::Sleep { until: Some(UnixMs(until)) }
}

#[test]
fn a_due_time_is_slept_for_then_claimed_then_missed() {
    let reading = reading();
    assert_eq!(decide_at(&reading, SKIP, 1_019_999), sleep(1_020_000));
    assert_eq!(decide_at(&reading, SKIP, 1_020_000), claim_of(1_020_000, Trigger::Schedule));
    assert_eq!(decide_at(&reading, SKIP, 1_021_000), claim_of(1_020_000, Trigger::Schedule));
    assert_eq!(
        decide_at(&reading, SKIP, 1_021_001),
        Decision::LeaveOut { up_to: UnixMs(1_020_000), kind: LeftOut::Missed }
    );
}

#[test]
fn all_missed_due_times_get_one_run_at_its_spread_instant() {
    let reading = reading();
    let now = 1_230_000;
    let Decision::CatchUp { run_at, until } = decide_at(&reading, RUN_ALL, now) else { panic!() };
    assert!((now..now + 10_000).contains(&run_at.0));
    assert_eq!(until, run_at);
    let minutely = every(60_000);
    let again =
        |now, run_at| decide(&reading, &Look::at(&minutely, UnixMs(now)), RUN_ALL, Some(run_at));
    assert_eq!(again(run_at.0, run_at), claim_of(1_200_000, Trigger::Missed));
    // A due time that comes during the spread replaces it.
    assert_eq!(again(1_260_000, UnixMs(1_263_000)), claim_of(1_260_000, Trigger::Schedule));
}

#[test]
fn what_is_older_than_within_is_left_out() {
    let within =
        |ms| Policy { missed: MissedPolicy::Run { within: Duration::from_millis(ms) }, ..RUN_ALL };
    let now = 1_030_000;
    assert!(matches!(decide_at(&reading(), within(10_000), now), Decision::CatchUp { .. }));
    assert!(matches!(decide_at(&reading(), within(9_999), now), Decision::LeaveOut { .. }));
}

#[test]
fn a_period_below_a_second_is_the_bound_for_missed() {
    let mut reading = reading();
    reading.claim.watermark.due = UnixMs(1000);
    let at = |now| decide(&reading, &Look::at(&every(50), UnixMs(now)), SKIP, None);
    assert_eq!(at(1_149), claim_of(1100, Trigger::Schedule));
    assert_eq!(at(1_150), claim_of(1150, Trigger::Schedule));
}

#[test]
fn a_start_still_to_come_is_armed_after_a_restart() {
    let mut reading = reading();
    reading.claim.watermark.due = UnixMs(960_000);
    let mut jittered = every(60_000);
    jittered.jitter = crate::schedule::Jitter::new(Duration::from_secs(50), b"host", "a");
    let start = jittered.start(UnixMs(1_020_000));
    assert!(start.0 > 1_020_001);
    let decision = decide(&reading, &Look::at(&jittered, UnixMs(1_020_001)), SKIP, None);
    assert_eq!(decision, Decision::Sleep { until: Some(start) });
}

#[test]
fn the_queue_waits_for_the_end_and_a_newer_due_time_takes_its_place() {
    let mut reading = reading();
    reading.control.queued = Some(UnixMs(1_020_000));
    assert_eq!(decide_at(&reading, SKIP, 1_050_000), claim_of(1_020_000, Trigger::Queue));
    let attempt = Attempt {
        run: run_id(1),
        due: UnixMs(960_000),
        trigger: Trigger::Schedule,
        number: 1,
        pid: 1,
        boot: BootId::default(),
        started_at: UnixMs(960_000),
    };
    reading.claim.progress = Progress::Running(attempt);
    assert_eq!(decide_at(&reading, SKIP, 1_050_000), sleep(1_050_050));
    assert_eq!(decide_at(&reading, SKIP, 1_080_000), claim_of(1_080_000, Trigger::Schedule));
}

#[test]
fn an_attempt_waits_for_its_time_and_gives_way_to_a_due_time() {
    let mut reading = reading();
    let attempt = Attempt {
        run: run_id(1),
        due: UnixMs(960_000),
        trigger: Trigger::Schedule,
        number: 1,
        pid: 1,
        boot: BootId::default(),
        started_at: UnixMs(960_000),
    };
    let last = Ended { outcome: Outcome::Failure, status: 502, duration: Duration::ZERO };
    reading.claim.progress = Progress::Waiting(attempt, Wait { next_at: UnixMs(990_000), last });
    assert_eq!(decide_at(&reading, SKIP, 980_000), sleep(990_000));
    let next = Decision::Claim(Wanted::Next { run: run_id(1), attempt: 2 });
    assert_eq!(decide_at(&reading, SKIP, 990_000), next);
    assert_eq!(decide_at(&reading, SKIP, 1_020_000), claim_of(1_020_000, Trigger::Schedule));
    reading.control.paused = Some(Paused { since: UnixMs(970_000), until: None });
    assert_eq!(decide_at(&reading, SKIP, 980_000), Decision::EndWaiting);
}

#[test]
fn an_order_runs_while_paused_and_is_dropped_after_ten_seconds() {
    let mut reading = reading();
    reading.control.paused = Some(Paused { since: UnixMs(970_000), until: None });
    reading.control.order = Order { number: 1, run: run_id(1), at: UnixMs(980_000) };
    let order = Decision::Claim(Wanted::Order { number: 1 });
    assert_eq!(decide_at(&reading, SKIP, 980_001), order);
    assert_eq!(decide_at(&reading, SKIP, 990_000), order);
    let dropped = Decision::DropOrder { number: 1, run: run_id(1) };
    assert_eq!(decide_at(&reading, SKIP, 990_001), dropped);
    let off = Policy { schedule: Scheduled::Off, ..SKIP };
    reading.control.paused = None;
    assert_eq!(decide_at(&reading, off, 980_001), order);
    reading.claim.orders_done = 1;
    assert_eq!(decide_at(&reading, off, 1_080_000), Decision::Sleep { until: None });
}

#[test]
fn what_came_due_before_a_pause_and_was_not_taken_is_not_forgotten() {
    let mut reading = reading();
    reading.header.paused =
        Some(Paused { since: UnixMs(1_100_000), until: Some(UnixMs(1_500_000)) });
    assert_eq!(
        decide_at(&reading, SKIP, 1_300_000),
        Decision::LeaveOut { up_to: UnixMs(1_080_000), kind: LeftOut::Missed }
    );
    reading.control.left_out_up_to = Some(UnixMs(1_080_000));
    assert_eq!(decide_at(&reading, SKIP, 1_300_000), sleep(1_500_000));
    assert_eq!(decide_at(&reading, SKIP, 1_500_000), sleep(1_560_000));
}

#[test]
fn a_first_run_comes_at_once_and_is_dropped_when_too_late() {
    let mut reading = reading();
    reading.claim.watermark.due = UnixMs(969_999);
    reading.control.created_at = Some(UnixMs(970_000));
    assert_eq!(decide_at(&reading, RUN_ALL, 970_100), claim_of(970_000, Trigger::First));
    let decision = decide_at(&reading, RUN_ALL, 970_000 + 3_600_001);
    assert!(!matches!(decision, Decision::Claim(Wanted::Due { trigger: Trigger::First, .. })));
}

#[test]
fn a_record_that_no_load_has_seen_does_nothing() {
    let mut reading = reading();
    reading.control.presence = Presence::Unloaded;
    assert_eq!(decide_at(&reading, RUN_ALL, 9_000_000), Decision::Sleep { until: None });
}
