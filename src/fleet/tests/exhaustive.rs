//! Every order of events, for two hosts, two due times and two faults.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::oracle::Broken;
use super::world::{ALL_FAULTS, Config, Event, Fault, World};

/// Goes through all that may happen; answers how many states there are.
pub(super) fn search(config: &Config, most: usize) -> Result<usize, (Broken, Vec<Event>)> {
    let first = World::new(config);
    let mut seen: HashMap<u64, (u64, Option<Event>)> = HashMap::new();
    seen.insert(hash(&first), (0, None));
    let mut open = vec![(hash(&first), first)];
    while let Some((from, world)) = open.pop() {
        assert!(seen.len() < most, "more than {most} states");
        let mut broken = world.oracle.broken().cloned();
        if broken.is_none() && world.is_over(config) {
            broken = world.clone().end(config);
            if broken.is_none() {
                continue;
            }
        }
        if let Some(broken) = broken {
            return Err((broken, path(&seen, from)));
        }
        for event in world.events(config) {
            let mut next = world.clone();
            next.happens(event, config);
            let to = hash(&next);
            if let std::collections::hash_map::Entry::Vacant(entry) = seen.entry(to) {
                entry.insert((from, Some(event)));
                open.push((to, next));
            }
        }
    }
    Ok(seen.len())
}

fn path(seen: &HashMap<u64, (u64, Option<Event>)>, mut at: u64) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((from, Some(event))) = seen.get(&at) {
        events.push(*event);
        at = *from;
    }
    events.reverse();
    events
}

fn hash(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

pub(super) const TWO_HOSTS: Config = Config {
    hosts: 2,
    skew: Vec::new(),
    dues: Vec::new(),
    ttl_ms: 10_000,
    run_ms: 100,
    attempts: 1,
    fails: 0,
    pause_ms: 1000,
    repeats: false,
    read_first: false,
    faults: 2,
    kinds: ALL_FAULTS,
    orders: 0,
};

fn report(name: &str, config: &Config) {
    let begun = std::time::Instant::now();
    match search(config, 3_000_000) {
        Ok(states) => println!("{name}: {states} states in {:?}", begun.elapsed()),
        Err((broken, events)) => {
            tell(config, &events);
            panic!("{name}: {broken:?}")
        }
    }
}

/// Prints the way there.
fn tell(config: &Config, events: &[Event]) {
    let mut world = World::new(config);
    for event in events {
        println!("{:>6} {event:?} {}", world.now, world.describe(*event));
        world.happens(*event, config);
    }
    println!("{world:?}");
}

#[test]
fn two_due_times_far_apart() {
    let config = Config { skew: vec![0, 0], dues: vec![1000, 31_000, 91_000], ..TWO_HOSTS };
    report("far apart", &config);
}

#[test]
fn two_due_times_within_an_exchange() {
    let config = Config { skew: vec![0, 0], dues: vec![1000, 3000, 63_000], ..TWO_HOSTS };
    report("close", &config);
}

#[test]
fn a_run_that_beats_over_the_next_due_time() {
    let config = Config {
        skew: vec![0, 0],
        dues: vec![1000, 9000, 69_000],
        run_ms: 12_000,
        faults: faults(1),
        ..TWO_HOSTS
    };
    report("long run", &config);
}

#[test]
fn attempts_and_repetitions() {
    let config = Config {
        skew: vec![0, 0],
        dues: vec![1000, 31_000, 91_000],
        attempts: 3,
        fails: 2,
        repeats: true,
        faults: faults(1),
        ..TWO_HOSTS
    };
    report("attempts", &config);
}

#[test]
fn orders_by_hand() {
    let config = Config {
        skew: vec![0, 0],
        dues: vec![1000, 61_000],
        orders: 1,
        faults: faults(1),
        ..TWO_HOSTS
    };
    report("by hand", &config);
}

/// What somebody deletes is not run twice.
#[test]
fn keys_that_are_removed() {
    const WITHOUT_ANSWER: &[Fault] =
        &[Fault::Removal, Fault::RemovalOfBoth, Fault::Wipe, Fault::Cut];
    const WITH_DEATH: &[Fault] = &[Fault::Removal, Fault::Death];
    const LATE: &[Fault] = &[Fault::Removal, Fault::RemovalOfBoth, Fault::Late];
    for (repeats, kinds) in [(false, WITHOUT_ANSWER), (false, LATE), (true, WITH_DEATH)] {
        let config = Config {
            skew: vec![0, 0],
            dues: vec![1000, 31_000, 91_000],
            repeats,
            attempts: if repeats { 2 } else { 1 },
            kinds,
            faults: faults(2),
            ..TWO_HOSTS
        };
        report("removed", &config);
    }
}

/// More than so many take minutes: `FLEET_FAULTS=2`.
fn faults(most: u8) -> u8 {
    std::env::var("FLEET_FAULTS").ok().and_then(|faults| faults.parse().ok()).unwrap_or(most)
}
