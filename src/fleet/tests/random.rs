//! Orders of events from seeds, with more of everything; and what each rule is there for.

use super::broken_rules::{Rule, without};
use super::oracle::{Broken, Promise};
use super::signed;
use super::world::{Config, Event, Fault, World};
use crate::schedule::stable_hash;

/// Numbers from a seed.
struct Rng(u64, u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.1 += 1;
        stable_hash(&[&self.0.to_le_bytes(), &self.1.to_le_bytes()]) % bound
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

const KINDS: [&[Fault]; 4] = [
    &[Fault::Cut, Fault::Late, Fault::Twice, Fault::Death, Fault::Still],
    &[Fault::Cut, Fault::Late, Fault::Late, Fault::Still],
    &[Fault::Cut, Fault::Death, Fault::Late],
    &[Fault::Cut, Fault::Late, Fault::Pause],
];

fn config(rng: &mut Rng) -> Config {
    let hosts = 2 + usize::try_from(rng.below(3)).unwrap();
    let period = rng.one_of(&[1000, 2000, 7000, 30_000]);
    let skews: &[i64] = rng.one_of(&[&[0], &[0, -2000, 2000], &[0, 0, 3_600_000, -3_600_000]]);
    let mut dues: Vec<i64> =
        (1..=2 + signed(rng.below(6))).map(|number| 10_000 + number * period).collect();
    let calm = dues.last().unwrap() + 200_000;
    dues.push(calm);
    let attempts = u32::try_from(1 + rng.below(4)).unwrap();
    Config {
        hosts,
        skew: (0..hosts).map(|host| if host == 0 { 0 } else { rng.one_of(skews) }).collect(),
        dues,
        ttl_ms: 10_000,
        run_ms: rng.one_of(&[10, 100, 900, 4000, 15_000]),
        attempts,
        fails: u32::try_from(rng.below(u64::from(attempts))).unwrap(),
        pause_ms: rng.one_of(&[10, 1000, 4000]),
        repeats: rng.below(2) == 0,
        read_first: rng.below(2) == 0,
        faults: u8::try_from(rng.below(12)).unwrap(),
        kinds: rng.one_of(&KINDS),
        orders: u8::try_from(rng.below(3)).unwrap(),
    }
}

/// One world from its beginning to its end.
fn run(seed: u64) -> Result<(), Broken> {
    let mut rng = Rng(seed, 0);
    let config = config(&mut rng);
    let trace = std::env::var("FLEET_TRACE").is_ok();
    let mut world = World::new(&config);
    if trace {
        println!("{config:?}");
    }
    while !world.is_over(&config) {
        let events = world.events(&config);
        let plain = |event: &&Event| matches!(event, Event::Exchange(_) | Event::Wait);
        let all_plain: Vec<Event> = events.iter().filter(plain).copied().collect();
        let event = match rng.below(6) {
            0 => rng.one_of(&events),
            _ => rng.one_of(&all_plain),
        };
        if trace {
            println!("{:>6} {event:?} {}", world.now, world.describe(event));
        }
        world.happens(event, &config);
        if let Some(broken) = world.oracle.broken() {
            return Err(broken.clone());
        }
    }
    world.end(&config).map_or(Ok(()), Err)
}

#[test]
fn every_promise_holds_in_every_order() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let from = number("FLEET_SEED").unwrap_or(0);
    for seed in from..from + number("FLEET_SEEDS").unwrap_or(1500) {
        if let Err((promise, what)) = run(seed) {
            panic!("seed {seed}: {promise:?}: {what}");
        }
    }
}

/// What breaks without each rule, and from which seed on to look for it.
const NEEDED_FOR: &[(Rule, u64, &[Promise])] = &[
    (Rule::OneRun, 0, &[Promise::OneAtATime]),
    (Rule::NewerThanLast, 0, &[Promise::AtMostOnce]),
    (Rule::BareDueTime, 0, &[Promise::AtMostOnce]),
    (Rule::ClaimIsLast, 0, &[Promise::AtMostOnce]),
    (Rule::ByHandOnce, 20, &[Promise::Ghost, Promise::AtMostOnce]),
    (Rule::EndIsDone, 0, &[Promise::Repetition]),
    (Rule::BeatIsWritten, 0, &[Promise::OneAtATime]),
    (Rule::AttemptOnce, 120, &[Promise::Ghost, Promise::AtMostOnce]),
    (Rule::EndOnce, 10, &[Promise::Fence, Promise::OneAtATime]),
    (Rule::BeatOfOurs, 0, &[Promise::Ghost]),
    (Rule::RepetitionOnce, 40, &[Promise::Ghost, Promise::AtMostOnce]),
    (Rule::InitIfUnknown, 10, &[Promise::Ghost, Promise::AtMostOnce]),
    (Rule::PauseIsRespected, 0, &[Promise::Paused]),
    (Rule::SameClaimAgain, 0, &[Promise::Account]),
    (Rule::SuccessorGoesOn, 150, &[Promise::Account]),
    (Rule::RecordFirst, 150, &[Promise::Account]),
    (Rule::CloseBeforeOverlap, 100, &[Promise::Ghost]),
];

#[test]
fn no_rule_is_there_for_nothing() {
    let mut needless = Vec::new();
    for (rule, seed, promises) in NEEDED_FOR {
        let broken =
            without(*rule, || (*seed..seed + 1500).find_map(|seed| Some((seed, run(seed).err()?))));
        match broken {
            Some((seed, (promise, what))) if promises.contains(&promise) => {
                println!("without {rule:?}, seed {seed}: {promise:?}: {what}");
            }
            other => needless.push(format!("{rule:?}: {other:?}")),
        }
    }
    assert!(needless.is_empty(), "{needless:#?}");
}
