//! The protocol under a storm: workers that claim, die, reload, retry, take orders and are paused,
//! while the clock steps, in every order that a seed gives; and what each rule is there for.
//!
//! The workers are attachments of one state, each with a description and so with locks of its own,
//! as processes have. Between the unlocked read and the lock, and under the lock, others get their
//! turn through the clock that the claim asks; a kill strikes before any write.

use crate::state::worker::broken_rules::{Rule, without};

use super::simulator::{BrokenPromise, Kept, Simulator};

fn run(seed: u64) -> Kept {
    let mut simulator = Simulator::new(seed);
    for _ in 0..250 {
        simulator.happen();
        simulator.verdict.clone()?;
    }
    simulator.calm()
}

#[test]
fn every_promise_holds_in_every_order() {
    let seeds = std::env::var("MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(800) {
        if let Err((promise, what)) = run(seed) {
            panic!("seed {seed}: {promise:?}: {what}");
        }
    }
}

/// What breaks without each rule, and from which seed on to look for it.
const NEEDED_FOR: [(Rule, u64, &[BrokenPromise]); 13] = [
    // Another one claims between the read and the lock.
    (Rule::RereadUnderLock, 2, &[BrokenPromise::AtMostOnce, BrokenPromise::Account]),
    // The holder died, and somebody who looks at what it left holds its lock for a moment.
    (Rule::OverlapIsSeenThrice, 147, &[BrokenPromise::NeverSilent]),
    // The same for longer than three looks: it is stopped.
    (Rule::OverlapHasAProcess, 700, &[BrokenPromise::NeverSilent]),
    // The kernel grants a second lock on one description, and releases both at once.
    (Rule::TableOfClaims, 0, &[BrokenPromise::OneAtATime]),
    (Rule::LockIsHeld, 0, &[BrokenPromise::OneAtATime]),
    // The attempt was made by another one, and has failed too.
    (Rule::AttemptIsClaimed, 138, &[BrokenPromise::AtMostOnce]),
    (Rule::OrderIsDone, 3, &[BrokenPromise::AtMostOnce]),
    // What was left out as an overlap runs late, and counts twice.
    (Rule::LeftOutIsHandled, 2, &[BrokenPromise::Account, BrokenPromise::AtMostOnce]),
    (Rule::LeftOutIsCounted, 1, &[BrokenPromise::Account]),
    // The watermark lies ahead, and the timer waits for it.
    (Rule::ClockSetBack, 4, &[BrokenPromise::NeverSilent]),
    // What others took while the claimant was off the processor looks like a step of the clock.
    (Rule::ClockUnderLock, 102, &[BrokenPromise::Account, BrokenPromise::AtMostOnce]),
    (Rule::InterruptedIsCounted, 2, &[BrokenPromise::Account]),
    (Rule::NotBefore, 0, &[BrokenPromise::Reload, BrokenPromise::Account]),
];

#[test]
fn no_rule_is_there_for_nothing() {
    for (rule, seed, promises) in NEEDED_FOR {
        let found =
            without(rule, || (seed..seed + 600).find_map(|seed| Some((seed, run(seed).err()?))));
        let Some((seed, (promise, what))) = found else { panic!("nothing breaks: {rule:?}") };
        println!("without {rule:?}, seed {seed}: {promise:?}: {what}");
        assert!(promises.contains(&promise), "{rule:?}: {promise:?}: {what}");
    }
}
