//! What some rules are there for takes more faults than an order from a seed has by chance: these are
//! chosen by hand.

use super::broken_rules::{Rule, without};
use super::exhaustive::TWO_HOSTS;
use super::oracle::{Broken, Promise};
use super::record::Category;
use super::world::{Act, Config, CutOff, Fault, World};
use crate::fleet::engine::Ask;

struct Script {
    rule: Rule,
    promise: Promise,
    config: Config,
    acts: Vec<Act>,
    cut_off: Option<CutOff>,
}

impl Script {
    fn play(&self) -> (World, Option<Broken>) {
        let config = Config {
            skew: [self.config.skew.clone(), vec![0; self.config.hosts]].concat(),
            faults: u8::MAX,
            kinds: &[],
            orders: 1,
            ..self.config.clone()
        };
        let mut world = World::play(&config, &self.acts, self.cut_off);
        let broken = world.oracle.broken().cloned().or_else(|| world.end(&config));
        (world, broken)
    }

    /// The promise is broken without the rule, and none is with it.
    fn shows(&self) {
        let broken = without(self.rule, || self.play()).1;
        let promise = broken.as_ref().map(|(promise, _)| *promise);
        assert_eq!(promise, Some(self.promise), "without {:?}: {broken:?}", self.rule);
        assert_eq!(self.play().1, None, "with {:?}", self.rule);
    }
}

fn is_claim(ask: &Ask) -> bool {
    matches!(ask, Ask::Claim { .. })
}

fn is_beat(ask: &Ask) -> bool {
    matches!(ask, Ask::Beat { .. })
}

fn is_removal(ask: &Ask) -> bool {
    matches!(ask, Ask::Remove { .. })
}

#[test]
fn an_answer_that_is_heard_late_starts_nothing() {
    // Host 0 stands still until 41 s, with the answer that it has won; host 1 runs the next due time.
    Script {
        rule: Rule::DeadlineFromSending,
        promise: Promise::Fence,
        config: Config { dues: vec![1000, 31_000, 91_000], ..TWO_HOSTS },
        acts: vec![Act::Host(1000, Fault::Still, 0)],
        cut_off: None,
    }
    .shows();
}

#[test]
fn a_run_that_was_written_while_it_was_read_is_not_removed_too_early() {
    // The claims of the others are under way while host 0 beats, for the last time.
    Script {
        rule: Rule::TtlFromArrival,
        promise: Promise::OneAtATime,
        config: Config {
            hosts: 8,
            dues: vec![1000, 12_700, 22_800, 82_800],
            run_ms: 40_000,
            ..TWO_HOSTS
        },
        acts: vec![Act::Until(12_700, 0, is_beat)],
        cut_off: Some((0, 14_333, 50_000)),
    }
    .shows();
}

#[test]
fn a_host_that_is_cut_off_gives_its_run_up() {
    Script {
        rule: Rule::GiveUp,
        promise: Promise::OneAtATime,
        config: Config { dues: vec![1000, 21_000, 81_000], run_ms: 40_000, ..TWO_HOSTS },
        acts: Vec::new(),
        cut_off: Some((0, 1001, 50_000)),
    }
    .shows();
}

#[test]
fn a_clock_that_is_ahead_does_not_take_the_future() {
    Script {
        rule: Rule::ClockGuard,
        promise: Promise::NeverSilent,
        config: Config { skew: vec![3_600_000], dues: vec![10_000, 31_000, 51_000], ..TWO_HOSTS },
        acts: Vec::new(),
        cut_off: None,
    }
    .shows();
}

#[test]
fn nothing_is_left_out_for_the_run_of_a_dead_host() {
    // Host 0 dies in its run, and what is left of it is cut off; host 1 sees that run after 40 s.
    Script {
        rule: Rule::OverlapIsAlive,
        promise: Promise::NeverSilent,
        config: Config { dues: vec![1000, 40_500, 100_500], run_ms: 4000, ..TWO_HOSTS },
        acts: vec![Act::Host(0, Fault::Still, 1), Act::Host(1001, Fault::Death, 0)],
        cut_off: Some((0, 1001, 70_000)),
    }
    .shows();
}

#[test]
fn a_repetition_that_was_asked_for_before_a_good_end_is_not_applied_after_it() {
    // Host 0 has won without hearing it, and stands still; host 1 removes its run, and its repetition is late.
    Script {
        rule: Rule::AgainOnce,
        promise: Promise::Repetition,
        config: Config {
            dues: vec![1000, 91_000, 151_000],
            attempts: 2,
            repeats: true,
            ..TWO_HOSTS
        },
        acts: vec![
            Act::Request(1000, Fault::Cut, 0, is_claim),
            Act::Host(1000, Fault::Still, 0),
            Act::Request(10_000, Fault::Late, 1, is_claim),
            Act::Host(10_000, Fault::Still, 1),
            Act::Copy(47_000, is_claim),
        ],
        cut_off: None,
    }
    .shows();
}

#[test]
fn a_claim_by_hand_is_not_applied_again_after_its_run_was_removed() {
    Script {
        rule: Rule::RemovalIsAResult,
        promise: Promise::Ghost,
        config: Config { dues: vec![5000, 65_000], run_ms: 20_000, ..TWO_HOSTS },
        acts: vec![
            Act::Order(0, 0),
            Act::Request(0, Fault::Twice, 0, is_claim),
            Act::Host(1000, Fault::Still, 0),
            Act::Copy(10_000, is_claim),
        ],
        cut_off: None,
    }
    .shows();
}

#[test]
fn a_removal_is_of_the_very_run_that_was_seen() {
    // The removal of the run of host 0, which stands still, comes once more when another host has one.
    Script {
        rule: Rule::RemovalIfUnchanged,
        promise: Promise::OneAtATime,
        config: Config {
            hosts: 3,
            dues: vec![1000, 24_000, 26_000, 86_000],
            run_ms: 15_000,
            ..TWO_HOSTS
        },
        acts: vec![
            Act::Host(1001, Fault::Still, 0),
            Act::Request(10_000, Fault::Twice, 1, is_removal),
            Act::Until(24_000, 1, is_claim),
            Act::Copy(24_000, is_removal),
        ],
        cut_off: None,
    }
    .shows();
}

#[test]
fn what_has_ended_well_is_not_taken_for_interrupted() {
    Script {
        rule: Rule::DoneIsRead,
        promise: Promise::Repetition,
        config: Config {
            dues: vec![1000, 31_000, 91_000],
            attempts: 2,
            repeats: true,
            read_first: true,
            ..TWO_HOSTS
        },
        // At the second due time host 1 comes first.
        acts: vec![Act::Until(31_000, 1, |ask| *ask == Ask::Read), Act::Until(31_000, 1, is_claim)],
        cut_off: None,
    }
    .shows();
}

#[test]
fn what_the_fleet_has_run_meanwhile_is_not_missed() {
    // Host 1 stands still until 40 s; then a run is in the way of the newest due time.
    let script = Script {
        rule: Rule::ReadFirst,
        promise: Promise::Account,
        config: Config { dues: vec![1000, 32_000, 39_500, 99_500], run_ms: 15_000, ..TWO_HOSTS },
        acts: vec![Act::Host(0, Fault::Still, 1)],
        cut_off: None,
    };
    let of_first = || {
        let (world, broken) = script.play();
        assert_eq!(broken, None);
        world.hosts[1].record.accounted.iter().find(|(due, _)| *due == 1000).unwrap().1
    };
    assert_eq!(without(script.rule, of_first), Category::Missed);
    assert_eq!(of_first(), Category::Elsewhere);
}
