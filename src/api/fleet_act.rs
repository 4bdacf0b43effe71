//! Orders to a fleet: a pause and its end, for one timer or for all, and the reset of a timer that nobody can
//! claim any more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::fleets;
use super::json::Pause as PauseJson;
use super::response::{error, value};
use crate::conf::Fleet;
use crate::fleet::{Answer as FleetAnswer, Ask, Denial, Last, Node, Pause, Revision, Scope, View};
use crate::nginx::http::ClientRequest;
use crate::nginx::http::response::{Answer, Response};
use crate::nginx::log::Level;
use crate::os::wall_clock;
use crate::runner::{Registry, figures};
use crate::schedule::UnixMs;
use crate::state::{DueTimes as _, Paused};

/// What a fleet is to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum FleetOrder {
    Pause(Option<UnixMs>),
    Resume,
    Reset,
}

/// An order that is being given.
struct Giving {
    registry: Rc<Registry>,
    order: FleetOrder,
    /// For which timer; all for none.
    number: Option<usize>,
    /// The fleets that do not know it yet.
    left: VecDeque<(Fleet, Vec<usize>)>,
    /// Timers whose watermark stays for a resume, once they were read.
    chunks: VecDeque<Chunk>,
    tries: u32,
    /// Whether a part of a reset is done.
    is_reset: bool,
}

/// Timers that are resumed in one transaction, as they were read.
struct Chunk {
    fleet: Fleet,
    seen: Vec<(usize, View)>,
    /// Whether the pause ends with it.
    ends: bool,
}

/// What a reset has found, and writes on condition that it is still so.
#[derive(Clone, Copy)]
struct Found {
    last_modified: Revision,
    /// The newest due time that was taken, if that is to stay.
    due: Option<UnixMs>,
    /// Another key that is not readable, and when it was written.
    removes: Option<(&'static str, Revision)>,
}

/// What has come of exchanges.
type Slots = Rc<RefCell<Vec<Option<FleetAnswer>>>>;

/// How often is looked for an answer.
const LOOK: Duration = Duration::from_millis(5);
const GRACE: Duration = Duration::from_millis(200);
/// So many timers are in one transaction: etcd takes 128 operations.
const CHUNK: usize = 50;
/// How often somebody else may be quicker, and so on.
const TRIES: u32 = 12;
/// No key was ever written at this revision.
const NEVER: Revision = Revision(u64::MAX / 2);
/// What lies further ahead of the fleet's time is to be reset,
const AHEAD: Duration = Duration::from_secs(60);
/// to what is no further ahead than this.
const SLACK: Duration = Duration::from_secs(10);

/// Gives an order about one timer, or about all.
pub(super) fn give(registry: &Rc<Registry>, number: Option<usize>, order: FleetOrder) -> Answer {
    let left: VecDeque<_> = match number {
        None => fleets::with_timers(registry).into(),
        Some(number) => {
            let fleet = registry.timers().get(number).and_then(|timer| timer.fleet.clone());
            fleet.map(|fleet| (fleet, vec![number])).into_iter().collect()
        }
    };
    if left.is_empty() {
        let why = if number.is_some() { "timer is in no fleet" } else { "there is no fleet" };
        return Answer::Now(error(409, why));
    }
    let registry = Rc::clone(registry);
    Giving { registry, order, number, left, chunks: VecDeque::new(), tries: TRIES, is_reset: false }
        .go_on()
}

/// Waits for answers.
fn wait(slots: Slots, until: Instant, then: Box<dyn FnOnce(Vec<FleetAnswer>) -> Answer>) -> Answer {
    let waits = slots.borrow().iter().any(Option::is_none);
    if waits && Instant::now() < until {
        return Answer::Later(LOOK, Box::new(move |_| wait(slots, until, then)));
    }
    let answers = slots.take().into_iter().map(|it| it.unwrap_or(FleetAnswer::Unknown)).collect();
    then(answers)
}

impl Giving {
    /// Asks each of these, and does `then` with what comes of it.
    fn exchange(
        self,
        fleet: &Fleet,
        asks: Vec<(String, Ask)>,
        then: impl FnOnce(Self, Vec<FleetAnswer>) -> Answer + 'static,
    ) -> Answer {
        let client = fleets::client(fleet);
        let slots: Slots = Rc::new(RefCell::new(vec![None; asks.len()]));
        for (number, (timer, ask)) in asks.into_iter().enumerate() {
            let slots = Rc::clone(&slots);
            let told = Box::new(move |answer, _, _| {
                if let Some(slot) = slots.borrow_mut().get_mut(number) {
                    *slot = Some(answer);
                }
            });
            match ask {
                Ask::Read => client.read(&timer, told),
                ask => client.exchange(&timer, ask, told),
            }
        }
        let until = Instant::now() + fleet.limit() + GRACE;
        wait(slots, until, Box::new(move |answers| then(self, answers)))
    }

    fn name(&self, number: usize) -> String {
        self.registry
            .timers()
            .get(number)
            .map_or_else(String::new, |it| it.name.as_str().to_owned())
    }

    fn go_on(mut self) -> Answer {
        if !self.chunks.is_empty() {
            return self.resume_chunk();
        }
        let Some((fleet, numbers)) = self.left.pop_front() else { return self.done() };
        match self.order {
            FleetOrder::Pause(until) => self.pause(&fleet, &numbers, until),
            FleetOrder::Resume => self.read_to_resume(&fleet, numbers),
            FleetOrder::Reset => self.reset(&fleet, &numbers, None),
        }
    }

    fn scope(&self) -> Scope {
        if self.number.is_some() { Scope::Timer } else { Scope::Fleet }
    }

    fn pause(self, fleet: &Fleet, numbers: &[usize], until: Option<UnixMs>) -> Answer {
        let Some(node) = Node::parse(&fleet.node) else { return refused("no name of this host") };
        let timer = numbers.first().map(|number| self.name(*number)).unwrap_or_default();
        let pause = Pause { node, since: wall_clock(), until };
        let ask = Ask::Pause(self.scope(), pause);
        let name = fleet.name.as_str().to_owned();
        self.exchange(fleet, vec![(timer, ask)], move |this, answers| match answers.first() {
            Some(FleetAnswer::Applied(_)) => this.go_on(),
            other => failed(&name, other),
        })
    }

    fn read_to_resume(self, fleet: &Fleet, numbers: Vec<usize>) -> Answer {
        let asks = numbers.iter().map(|number| (self.name(*number), Ask::Read)).collect();
        let its = fleet.clone();
        self.exchange(fleet, asks, move |mut this, answers| {
            let mut seen = Vec::new();
            for (number, answer) in numbers.into_iter().zip(answers) {
                match answer {
                    FleetAnswer::Seen(view) => seen.push((number, *view)),
                    other => return failed(its.name.as_str(), Some(&other)),
                }
            }
            let one = this.number.is_some();
            let is_paused = |(_, view): &(usize, View)| {
                let pause = if one { &view.pause } else { &view.fleet_pause };
                pause.is_some()
            };
            // Where there is no pause nothing ends, and no due time is passed over.
            if seen.iter().any(is_paused) {
                let mut rest = seen;
                while !rest.is_empty() {
                    let next = rest.split_off(rest.len().min(CHUNK));
                    let ends = next.is_empty();
                    this.chunks.push_back(Chunk { fleet: its.clone(), seen: rest, ends });
                    rest = next;
                }
            }
            this.go_on()
        })
    }

    fn resume_chunk(mut self) -> Answer {
        let Some(chunk) = self.chunks.pop_front() else { return self.go_on() };
        let Chunk { fleet, seen, ends } = chunk;
        let now = fleets::client(&fleet).time().unwrap_or_else(wall_clock);
        let Some(node) = Node::parse(&fleet.node) else { return refused("no name of this host") };
        let timers: Vec<_> = seen
            .iter()
            .filter_map(|(number, view)| {
                let due_times = &self.registry.timers().get(*number)?.due_times;
                let newest = due_times.newest(now)?.max(view.due().unwrap_or_default());
                let last =
                    Last::without_run(newest, node.clone(), due_times.schedule.stable_hash());
                let modified = view.last.as_ref().map(|last| last.modified).unwrap_or_default();
                Some((self.name(*number), modified, last))
            })
            .collect();
        let timer = seen.first().map(|(number, _)| self.name(*number)).unwrap_or_default();
        let ask = Ask::Resume { scope: self.scope(), timers, ends };
        let its = fleet.clone();
        self.exchange(&fleet, vec![(timer, ask)], move |mut this, answers| match answers.first() {
            Some(FleetAnswer::Applied(_)) => this.go_on(),
            Some(FleetAnswer::Seen(_)) if this.tries > 0 => {
                // Somebody else was quicker.
                this.tries -= 1;
                let mut numbers: Vec<usize> = seen.into_iter().map(|(number, _)| number).collect();
                for Chunk { seen, .. } in this.chunks.drain(..) {
                    numbers.extend(seen.into_iter().map(|(number, _)| number));
                }
                this.read_to_resume(&its, numbers)
            }
            other => failed(its.name.as_str(), other),
        })
    }

    /// Resets a timer that was found like this; without that it is looked at first, and afterwards once more, since
    /// more than one key may not be readable.
    fn reset(self, fleet: &Fleet, numbers: &[usize], found: Option<Found>) -> Answer {
        let Some(number) = numbers.first().copied() else { return self.go_on() };
        let client = fleets::client(fleet);
        let now = client.time().unwrap_or_else(wall_clock);
        let conf = self.registry.timers().get(number);
        let last = conf.zip(Node::parse(&fleet.node)).and_then(|(conf, node)| {
            let newest = conf.due_times.newest(now.plus(SLACK));
            let newest = newest.max(found.and_then(|found| found.due))?;
            Some(Last::without_run(newest, node, conf.due_times.schedule.stable_hash()))
        });
        let Some(last) = last else { return refused("there is no due time") };
        let last_modified = found.map_or(NEVER, |found| found.last_modified);
        let removes = found.and_then(|found| found.removes);
        let ask = Ask::Reset { last_modified, last, removes };
        let needs_reset = figures(fleet).needs_reset;
        let (name, its) = (self.name(number), fleet.clone());
        self.exchange(fleet, vec![(name, ask)], move |mut this, answers| {
            let numbers = [number];
            let time = fleets::client(&its).time();
            let is_ahead = |due: UnixMs| time.is_some_and(|time| due > time.plus(AHEAD));
            let found = match answers.into_iter().next() {
                Some(FleetAnswer::Applied(_)) if removes.is_some() => {
                    this.is_reset = true;
                    None
                }
                Some(FleetAnswer::Applied(_)) => return this.go_on(),
                Some(FleetAnswer::Seen(view)) => {
                    if !needs_reset && !view.due().is_some_and(is_ahead) {
                        if this.is_reset {
                            return this.go_on();
                        }
                        return Answer::Now(error(409, "timer needs no reset"));
                    }
                    let last_modified = view.last.as_ref().map(|last| last.modified);
                    let last_modified = last_modified.unwrap_or_default();
                    Some(Found { last_modified, due: None, removes: None })
                }
                Some(FleetAnswer::Denied(Denial::Foreign {
                    key,
                    modified,
                    last_modified,
                    last_due,
                })) => {
                    let due = last_due.filter(|due| !is_ahead(*due));
                    let removes = modified.map(|modified| (key, modified));
                    Some(Found { last_modified, due, removes })
                }
                other => return failed(its.name.as_str(), other.as_ref()),
            };
            if this.tries == 0 {
                return failed(its.name.as_str(), None);
            }
            this.tries -= 1;
            this.reset(&its, &numbers, found)
        })
    }

    /// All of it is done: it is logged, and answered.
    fn done(self) -> Answer {
        #[derive(Serialize)]
        struct IsPaused {
            paused: Option<PauseJson>,
        }
        #[derive(Serialize)]
        struct IsReset {
            reset: bool,
        }
        let now = wall_clock();
        let (said, response) = match self.order {
            FleetOrder::Pause(until) => {
                let paused = PauseJson::of(Some(Paused { since: now, until }), now);
                ("paused", value(200, &IsPaused { paused }))
            }
            FleetOrder::Resume => ("resumed", value(200, &IsPaused { paused: None })),
            FleetOrder::Reset => ("reset", value(200, &IsReset { reset: true })),
        };
        self.registry.wake_all();
        Answer::Later(Duration::ZERO, Box::new(move |request| self.tell(request, said, response)))
    }

    fn tell(self, request: &ClientRequest<'_>, said: &str, response: Response) -> Answer {
        match self.number.map(|number| self.name(number)) {
            Some(timer) => {
                request.log(Level::Notice, format_args!("timer \"{timer}\": {said} in the fleet"));
            }
            None => {
                request.log(Level::Notice, format_args!("timer: all timers of fleets {said}"));
            }
        }
        Answer::Now(response)
    }
}

fn refused(why: &str) -> Answer {
    Answer::Now(error(409, why))
}

/// Nobody knows whether it was done, or it was refused.
fn failed(fleet: &str, answer: Option<&FleetAnswer>) -> Answer {
    Answer::Now(match answer {
        Some(FleetAnswer::Denied(why)) => error(503, &format!("fleet \"{fleet}\" refuses: {why}")),
        _ => error(503, &format!("fleet \"{fleet}\" does not answer, it may have been done")),
    })
}
