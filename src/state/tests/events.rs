//! Events of timers: who is told of which, once, whatever dies in between.

use std::fs;
use std::time::Duration;

use super::fixture::*;
use crate::schedule::UnixMs;
use crate::state::worker::events::EVENT_TRIES;
use crate::state::worker::paged_file::WriteFault;
use crate::state::*;

const ID: u32 = 77;

fn wants(events: &[Event], after: u16) -> Subscription {
    Subscription { id: ID, events: events.iter().copied().collect(), after }
}

/// A state with a timer, of whose events a receiver is told from now on.
fn fixture(what: Subscription) -> Fixture {
    let mut fixture = Fixture::file(&["a"]);
    fixture.receivers[0] = what.id;
    fixture.reload(&["a"]).unwrap();
    assert!(matches!(step(&fixture, 7, what), EventStep::Nothing), "nothing was before");
    fixture
}

fn step(fixture: &Fixture, pid: u32, what: Subscription) -> EventStep {
    let every = secondly();
    let worker = fixture.worker(pid);
    worker.claim_event(timer(record(fixture, "a"), &every), what, UnixMs(fixture.now))
}

fn run(fixture: &mut Fixture, trigger: Trigger, outcome: Outcome) {
    let every = secondly();
    let worker = fixture.worker(7);
    fixture.now += 1000;
    let at = UnixMs(fixture.now - fixture.now % 1000);
    let wanted = Wanted::Due { due: at, start: at, trigger };
    let claim = won(&worker, timer(record(fixture, "a"), &every), wanted, fixture.now);
    claim.finish(ended(outcome), None);
}

/// Has the receiver told of all that there is; answers what it was told, with failures and missed ones.
fn tell_all(fixture: &Fixture, what: Subscription) -> Vec<(Event, u32, u32)> {
    let every = secondly();
    let worker = fixture.worker(8);
    let timer = timer(record(fixture, "a"), &every);
    let mut told = Vec::new();
    loop {
        match worker.claim_event(timer, what, UnixMs(fixture.now)) {
            EventStep::Won(claim) => {
                let happened = *claim.happened();
                told.push((happened.event, happened.failures, happened.missed));
                let after = worker.end_event(timer, &claim, true, UnixMs(fixture.now));
                assert_eq!(after, Edited::Done(AfterTry::Told));
            }
            EventStep::Nothing => return told,
            _ => panic!("somebody is in the way"),
        }
    }
}

const ALL: [Event; 4] = Event::ALL;

#[test]
fn each_event_is_told_once_in_its_order() {
    use Outcome::{Cancelled, Failure, Interrupted, Success, Timeout};
    let told = |events: &[Event], after, outcomes: &[Outcome]| {
        let what = wants(events, after);
        let mut fixture = fixture(what);
        for outcome in outcomes {
            run(&mut fixture, Trigger::Schedule, *outcome);
        }
        let told = tell_all(&fixture, what);
        assert!(tell_all(&fixture, what).is_empty(), "told once");
        told.into_iter().map(|(event, failures, _)| (event.name(), failures)).collect::<Vec<_>>()
    };
    let usual = [Event::Failed, Event::Recovered];
    let row = [Success, Failure, Cancelled, Timeout, Interrupted, Success, Success, Failure];
    assert_eq!(told(&usual, 1, &row), [("failed", 1), ("recovered", 3), ("failed", 1)]);
    assert_eq!(told(&usual, 2, &row), [("failed", 2), ("recovered", 3)]);
    assert_eq!(told(&usual, 3, &row), [("failed", 3), ("recovered", 3)]);
    assert_eq!(told(&usual, 4, &row), []);
    assert_eq!(told(&[Event::Recovered], 2, &row), [("recovered", 3)], "of a row of two");
    assert_eq!(told(&[Event::Failed], 1, &row), [("failed", 1), ("failed", 1)]);
    assert_eq!(told(&[Event::Success], 1, &row).len(), 3);
    let both = [("failed", 1), ("recovered", 1), ("success", 0), ("success", 0)];
    assert_eq!(told(&ALL, 1, &[Failure, Success, Success]), both);
    // More than the record has results of: the last ones are told.
    assert_eq!(told(&[Event::Success], 1, &[Success; 40]).len(), 32);
}

#[test]
fn a_record_that_starts_anew_is_told_of_as_before() {
    let what = wants(&ALL, 1);
    let mut fixture = fixture(what);
    for _ in 0..3 {
        run(&mut fixture, Trigger::Schedule, Outcome::Success);
    }
    assert_eq!(tell_all(&fixture, what).len(), 3);
    // The claim part is damaged, and with it the number of results is lost.
    let page = record(&fixture, "a").page.unwrap();
    let path = fixture.configured.path().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(page).unwrap() * 4096 + 250] ^= 1;
    fs::write(path, bytes).unwrap();
    let worker = fixture.worker(7);
    assert_eq!(worker.repair(record(&fixture, "a"), UnixMs(fixture.now)), Recovered::Nothing);
    assert_eq!(tell_all(&fixture, what), [], "nothing is new");
    run(&mut fixture, Trigger::Schedule, Outcome::Failure);
    assert_eq!(tell_all(&fixture, what), [(Event::Failed, 1, 0)]);
}

#[test]
fn what_was_missed_is_told_with_its_number() {
    let what = wants(&ALL, 1);
    let mut fixture = fixture(what);
    run(&mut fixture, Trigger::Schedule, Outcome::Success);
    assert_eq!(tell_all(&fixture, what).len(), 1);
    // Three are left out, and the newest one is caught up with.
    fixture.now += 3000;
    run(&mut fixture, Trigger::Missed, Outcome::Failure);
    let told = tell_all(&fixture, what);
    assert_eq!(told, [(Event::Missed, 0, 4), (Event::Failed, 1, 0)]);
    run(&mut fixture, Trigger::Missed, Outcome::Failure);
    assert_eq!(tell_all(&fixture, what), [(Event::Missed, 1, 1)]);

    // It is told while the run is in progress, and not again at its end.
    let every = secondly();
    let worker = fixture.worker(7);
    fixture.now += 5000;
    let at = UnixMs(fixture.now - fixture.now % 1000);
    let wanted = Wanted::Due { due: at, start: at, trigger: Trigger::Missed };
    let claim = won(&worker, timer(record(&fixture, "a"), &every), wanted, fixture.now);
    assert_eq!(tell_all(&fixture, what), [(Event::Missed, 2, 5)]);
    claim.finish(ended(Outcome::Success), None);
    let told = tell_all(&fixture, what);
    assert_eq!(told.iter().map(|it| it.0).collect::<Vec<_>>(), [Event::Recovered, Event::Success]);
}

#[test]
fn one_worker_tells_and_who_takes_its_place_goes_on() {
    let what = wants(&[Event::Failed], 1);
    let mut fixture = fixture(what);
    run(&mut fixture, Trigger::Schedule, Outcome::Failure);
    for number in 1..=EVENT_TRIES {
        let EventStep::Won(claim) = step(&fixture, 20, what) else { panic!("not won") };
        assert_eq!(claim.try_number(), number);
        assert!(matches!(step(&fixture, 21, what), EventStep::Elsewhere), "it is locked");
        claim.die();
    }
    let EventStep::GaveUp(happened) = step(&fixture, 22, what) else { panic!("goes on") };
    assert_eq!(happened.event, Event::Failed);
    assert!(matches!(step(&fixture, 22, what), EventStep::Nothing));
    // What was not told is nothing to recover from.
    run(&mut fixture, Trigger::Schedule, Outcome::Failure);
    assert!(matches!(step(&fixture, 22, what), EventStep::Nothing), "it is the same row");
}

#[test]
fn tries_have_growing_distances() {
    let what = wants(&[Event::Failed, Event::Recovered], 1);
    let mut fixture = fixture(what);
    run(&mut fixture, Trigger::Schedule, Outcome::Failure);
    let every = secondly();
    let mut waited = Vec::new();
    for number in 1..=EVENT_TRIES {
        let worker = fixture.worker(30);
        let EventStep::Won(claim) = step(&fixture, 30, what) else { panic!("not won") };
        let (timer, now) = (timer(record(&fixture, "a"), &every), UnixMs(fixture.now));
        match worker.end_event(timer, &claim, false, now) {
            Edited::Done(AfterTry::NotBefore(at)) => {
                drop(claim);
                assert!(matches!(step(&fixture, 31, what), EventStep::NotBefore(its) if its == at));
                waited.push(at.since(now));
                fixture.now = at.0;
            }
            after => assert_eq!((after, number), (Edited::Done(AfterTry::GaveUp), EVENT_TRIES)),
        }
    }
    assert_eq!(waited, [2, 10].map(Duration::from_secs));
    run(&mut fixture, Trigger::Schedule, Outcome::Success);
    assert!(tell_all(&fixture, what).is_empty(), "no failure was told");
}

#[test]
fn a_crash_between_any_two_writes_loses_no_event_and_tells_none_twice() {
    // The end of the run: result, claim part. Then the claim of the event, and its end.
    for writes in 0..4 {
        let what = wants(&[Event::Failed], 1);
        let mut fixture = fixture(what);
        let every = secondly();
        let worker = fixture.worker(7);
        fixture.now += 1000;
        let at = fixture.now - fixture.now % 1000;
        let told = {
            let timer = timer(record(&fixture, "a"), &every);
            let claim = won(&worker, timer, due(at), fixture.now);
            worker.set_fault(WriteFault::KilledAfter(writes));
            claim.finish(ended(Outcome::Failure), None);
            let mut told = 0;
            if !worker.was_killed() {
                let step = worker.claim_event(timer, what, UnixMs(fixture.now));
                if let (EventStep::Won(claim), false) = (step, worker.was_killed()) {
                    told += 1;
                    let _ = worker.end_event(timer, &claim, true, UnixMs(fixture.now));
                }
            }
            told
        };
        let successor = fixture.worker(8);
        let timer = timer(record(&fixture, "a"), &every);
        let retry = RetryPolicy::default();
        successor.recover(timer, &retry, &mut || UnixMs(fixture.now));
        let again = tell_all(&fixture, what).len();
        // The one case that cannot be told from one in which nothing was sent: it died after it had sent
        // and before it had written that.
        let expected = if writes == 3 { (1, 1) } else { (0, 1) };
        assert_eq!((told, again), expected, "after {writes} writes");
        assert!(tell_all(&fixture, what).is_empty());
    }
}

#[test]
fn a_receiver_that_is_new_or_comes_back_is_told_of_nothing_that_was_before() {
    let what = wants(&ALL, 1);
    let mut fixture = fixture(what);
    run(&mut fixture, Trigger::Schedule, Outcome::Failure);
    // Out of the configuration, and back.
    fixture.receivers[0] = 0;
    fixture.reload(&["a"]).unwrap();
    fixture.receivers[0] = ID;
    fixture.reload(&["a"]).unwrap();
    assert!(tell_all(&fixture, what).is_empty());
    run(&mut fixture, Trigger::Schedule, Outcome::Success);
    assert_eq!(tell_all(&fixture, what), [(Event::Success, 0, 0)]);
    // A load that changes nothing for it leaves what it is still to be told.
    run(&mut fixture, Trigger::Schedule, Outcome::Failure);
    fixture.reload(&["a"]).unwrap();
    assert_eq!(tell_all(&fixture, what), [(Event::Failed, 1, 0)]);
}
