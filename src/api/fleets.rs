//! What is read of the fleets of timers when somebody asks: at most once a second, by each worker for itself.
//!
//! The answering worker often is not the one that runs a timer, and what other hosts do nobody here knows: so an
//! answer waits for the reads that it needs, no longer than an exchange with the fleet may take.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::fleet::{FleetSample, FleetView, Standing};
use crate::conf::Fleet;
use crate::fleet::{Answer as FleetAnswer, View as Seen};
use crate::nginx::http::response::Answer;
use crate::runner::{Client, FleetState, Registry, figures};

/// What the answers of this worker share.
#[derive(Default)]
struct Reads {
    registry: Weak<Registry>,
    /// By the numbers of the timers.
    timers: HashMap<usize, TimerRead>,
    /// Those that are asked.
    clients: Vec<Rc<Client>>,
}

/// What was read of a timer.
struct TimerRead {
    asked_at: Instant,
    is_asked: bool,
    seen: Option<Box<Seen>>,
    /// Why the fleet refuses this timer.
    refused: Option<String>,
}

thread_local! {
    static READS: RefCell<Reads> = RefCell::default();
}

/// What was read is new enough for so long.
const NEW: Duration = Duration::from_secs(1);
/// How often an answer looks whether what it waits for has come.
const LOOK: Duration = Duration::from_millis(5);
/// An exchange is over after its limit; what comes of that is told a moment later.
const GRACE: Duration = Duration::from_millis(200);
/// A due time that lies further ahead of the fleet's time is none that anybody has taken.
const AHEAD: Duration = Duration::from_secs(60);

/// The timers whose fleets are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    One(usize),
}

/// Answers with `then`, once it is known what the fleets of these timers say, or that they do not answer.
pub(super) fn after_reads(
    registry: &Rc<Registry>,
    which: Which,
    then: impl FnOnce() -> Answer + 'static,
) -> Answer {
    let of = of_fleets(registry, which);
    if of.is_empty() {
        return then();
    }
    ask(registry, &of);
    let limit = of.iter().map(|(_, fleet)| fleet.limit()).max().unwrap_or_default();
    let numbers = of.into_iter().map(|(number, _)| number).collect();
    wait(numbers, Instant::now() + limit + GRACE, Box::new(then))
}

fn wait(numbers: Vec<usize>, until: Instant, then: Box<dyn FnOnce() -> Answer>) -> Answer {
    let waits = READS.with_borrow(|reads| {
        numbers.iter().any(|number| reads.timers.get(number).is_some_and(|read| read.is_asked))
    });
    if !waits || Instant::now() >= until {
        return then();
    }
    Answer::Later(LOOK, Box::new(move |_| wait(numbers, until, then)))
}

/// The timers that are in a fleet.
fn of_fleets(registry: &Registry, which: Which) -> Vec<(usize, Fleet)> {
    let timers = registry.timers();
    let numbers = match which {
        Which::All => 0..timers.len(),
        Which::One(number) => number..number + 1,
    };
    let fleet = |number: usize| Some((number, timers.get(number)?.fleet.clone()?));
    numbers.filter_map(fleet).collect()
}

/// Asks for what was not read lately.
fn ask(registry: &Rc<Registry>, of: &[(usize, Fleet)]) {
    let now = Instant::now();
    let is_old = |number: usize, reads: &Reads| {
        let read = reads.timers.get(&number);
        read.is_none_or(|read| now.saturating_duration_since(read.asked_at) >= NEW)
    };
    READS.with_borrow_mut(|reads| {
        if !std::ptr::eq(reads.registry.as_ptr(), Rc::as_ptr(registry)) {
            let registry = Rc::downgrade(registry);
            *reads = Reads { registry, ..Reads::default() };
        }
    });
    for (number, fleet) in of {
        let number = *number;
        // What does not answer others does not answer this one.
        let is_down = figures(fleet).state == FleetState::Unreachable;
        let begins = READS.with_borrow_mut(|reads| {
            let begins = is_old(number, reads);
            if begins {
                let is_asked = !is_down;
                let read = TimerRead { asked_at: now, is_asked, seen: None, refused: None };
                let before = reads.timers.insert(number, read);
                // Until it is known better.
                if let (Some(before), Some(read)) = (before, reads.timers.get_mut(&number)) {
                    read.seen = before.seen.filter(|_| is_asked);
                }
            }
            begins && !is_down
        });
        if !begins {
            continue;
        }
        let client = client(fleet);
        let (weak, name) = (Rc::downgrade(registry), registry.timers().get(number));
        let Some(name) = name.map(|timer| timer.name.as_str().to_owned()) else { continue };
        let of_client = Rc::downgrade(&client);
        client.read(
            &name,
            Box::new(move |answer, _, _| {
                let time = of_client.upgrade().and_then(|client| client.time());
                READS.with_borrow_mut(|reads| {
                    if !Weak::ptr_eq(&reads.registry, &weak) {
                        return;
                    }
                    let Some(read) = reads.timers.get_mut(&number) else { return };
                    read.is_asked = false;
                    (read.seen, read.refused) = match answer {
                        FleetAnswer::Seen(seen) => (Some(seen), None),
                        FleetAnswer::Denied(why) => (None, Some(why.to_string())),
                        FleetAnswer::Applied(_) | FleetAnswer::Unknown => (None, None),
                    };
                    let due = read.seen.as_ref().and_then(|seen| seen.due());
                    if let Some((due, time)) = due.zip(time) {
                        if due > time.plus(AHEAD) {
                            let why = "newest due time is more than 60s ahead of the fleet's time";
                            read.refused = Some(why.to_owned());
                        }
                    }
                });
            }),
        );
    }
}

/// The client of a fleet, which stays for as long as this configuration.
pub(super) fn client(fleet: &Fleet) -> Rc<Client> {
    let client = Client::of(fleet);
    READS.with_borrow_mut(|reads| {
        if !reads.clients.iter().any(|known| Rc::ptr_eq(known, &client)) {
            reads.clients.push(Rc::clone(&client));
        }
    });
    client
}

/// The fleet of a timer, with what was read of it last.
pub(super) fn view(registry: &Registry, number: usize) -> Option<FleetView> {
    let fleet = registry.timers().get(number)?.fleet.as_ref()?;
    let mut view = of(fleet);
    READS.with_borrow(|reads| {
        if !std::ptr::eq(reads.registry.as_ptr(), registry) {
            return;
        }
        let Some(read) = reads.timers.get(&number) else { return };
        view.seen.clone_from(&read.seen);
        if let Some(why) = &read.refused {
            if view.standing == Standing::Ok {
                (view.standing, view.is_own) = (Standing::Refused, true);
                view.why.clone_from(why);
            }
        }
    });
    Some(view)
}

/// A fleet, without any of its timers.
fn of(fleet: &Fleet) -> FleetView {
    let figures = figures(fleet);
    FleetView {
        name: fleet.name.as_str().to_owned(),
        node: fleet.node.clone(),
        standing: match figures.state {
            FleetState::Unknown | FleetState::Up => Standing::Ok,
            FleetState::Unreachable => Standing::Unreachable,
            FleetState::Refused => Standing::Refused,
        },
        is_own: false,
        why: figures.why,
        skew_ms: figures.skew_ms,
        seen: None,
    }
}

/// Each of the fleets once.
fn each(registry: &Registry) -> Vec<Fleet> {
    let mut fleets: Vec<Fleet> = Vec::new();
    for fleet in registry.timers().iter().filter_map(|timer| timer.fleet.as_ref()) {
        if !fleets.iter().any(|known| known.is(fleet)) {
            fleets.push(fleet.clone());
        }
    }
    fleets
}

/// The fleets of the timers.
pub(super) fn views(registry: &Registry) -> Vec<FleetView> {
    each(registry).iter().map(of).collect()
}

/// What metrics show of them.
pub(super) fn samples(registry: &Registry) -> Vec<FleetSample> {
    let sample = |fleet: &Fleet| {
        let figures = figures(fleet);
        FleetSample {
            name: fleet.name.as_str().to_owned(),
            is_up: matches!(figures.state, FleetState::Unknown | FleetState::Up),
            requests: figures.requests.map(|(result, count)| (result.name(), count)),
            took: figures.took,
            skew_ms: figures.skew_ms,
        }
    };
    each(registry).iter().map(sample).collect()
}

/// The fleets, each with the numbers of its timers.
pub(super) fn with_timers(registry: &Registry) -> Vec<(Fleet, Vec<usize>)> {
    let numbers = |fleet: &Fleet| {
        let is_its = |number: &usize| {
            let timer = registry.timers().get(*number);
            timer.and_then(|timer| timer.fleet.as_ref()).is_some_and(|its| its.is(fleet))
        };
        (0..registry.timers().len()).filter(is_its).collect()
    };
    each(registry).into_iter().map(|fleet| (fleet.clone(), numbers(&fleet))).collect()
}
