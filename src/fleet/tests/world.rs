//! The world: an engine, hosts, what is on its way between them, and a clock.

mod over;
mod script;

use std::time::Duration;

use super::etcd::{self, StoreId};
use super::host::Host;
use super::oracle::{Oracle, Promise};
use super::signed;
use crate::fleet::engine::{Answer, Ask, Scope};
use crate::fleet::values::{ClaimId, Node, Pause, Revision};
use crate::schedule::UnixMs;

pub(super) use script::{Act, CutOff};

/// What a world is like.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) hosts: usize,
    /// By how much the wall clocks are ahead.
    pub(super) skew: Vec<i64>,
    /// The due times; the last one comes in calm.
    pub(super) dues: Vec<i64>,
    pub(super) ttl_ms: u64,
    /// How long an attempt takes.
    pub(super) run_ms: u64,
    /// How many attempts a run has, and how many of them fail.
    pub(super) attempts: u32,
    pub(super) fails: u32,
    /// The time between two attempts.
    pub(super) pause_ms: u64,
    /// Whether interrupted runs are repeated.
    pub(super) repeats: bool,
    /// Whether all hosts but the first read before they claim.
    pub(super) read_first: bool,
    /// How many faults there are, and of which kinds.
    pub(super) faults: u8,
    pub(super) kinds: &'static [Fault],
    /// How many orders there are.
    pub(super) orders: u8,
}

impl Config {
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    pub(super) fn newest(&self, at: i64) -> i64 {
        self.dues.iter().copied().filter(|due| *due <= at).max().unwrap_or(0)
    }

    pub(super) fn last_due(&self) -> i64 {
        *self.dues.last().unwrap()
    }

    /// Within an exchange has to be answered.
    fn limit_ms(&self) -> u64 {
        (self.ttl_ms / 6).min(2000)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// The answer is lost.
    Cut,
    /// The request is late: it is applied whenever it is, or never, and nobody hears.
    Late,
    /// The request is applied, and once more later.
    Twice,
    /// The worker dies; another one begins.
    Death,
    /// The host stands still.
    Still,
    /// An operator pauses the timer of the whole fleet, and resumes it.
    Pause,
    /// Somebody deletes `last`.
    Removal,
    /// Somebody deletes `last` and `run`.
    RemovalOfBoth,
    /// Somebody deletes all keys of the timer.
    Wipe,
}

pub(super) const ALL_FAULTS: &[Fault] =
    &[Fault::Cut, Fault::Late, Fault::Twice, Fault::Death, Fault::Still];

/// Whose exchange it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Claiming,
    Holding(ClaimId),
    Observing,
    Reading,
    Init,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    host: usize,
    who: Who,
    ask: Ask,
    sent: u64,
    /// The engine has it, and this is the answer.
    answer: Option<Answer>,
    /// When the host gives up waiting for it.
    unknown_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) now: u64,
    store: StoreId,
    pub(super) hosts: Vec<Host>,
    /// Until when each host stands still, and when it has to do something.
    still_until: Vec<u64>,
    wakes: Vec<u64>,
    flights: Vec<Flight>,
    /// Requests that may be applied at any time.
    copies: Vec<Ask>,
    /// When `run` was written.
    written_at: u64,
    faults: u8,
    orders: u8,
    pub(super) oracle: Oracle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The engine gets a request, and the answer arrives.
    Exchange(usize),
    Fault(Fault, usize),
    /// A late copy is applied.
    Copy(usize),
    Order(usize),
    /// Nothing happens until somebody wakes up.
    Wait,
}

impl World {
    pub(super) fn new(config: &Config) -> Self {
        let mut world = Self {
            now: 0,
            store: etcd::empty(),
            hosts: (0..config.hosts).map(Host::new).collect(),
            still_until: vec![0; config.hosts],
            wakes: vec![0; config.hosts],
            flights: Vec::new(),
            copies: Vec::new(),
            written_at: 0,
            faults: config.faults,
            orders: config.orders,
            oracle: Oracle::default(),
        };
        for host in 0..config.hosts {
            world.step(host, config);
        }
        world
    }

    fn is_still(&self, host: usize) -> bool {
        self.still_until[host] > self.now
    }

    /// Whether faults may happen yet.
    pub(super) fn is_stormy(&self, config: &Config) -> bool {
        let before = config.dues.iter().rev().nth(1).copied().unwrap_or(0);
        signed(self.now) < before + signed(config.ttl_ms)
    }

    /// All that may happen next.
    pub(super) fn events(&self, config: &Config) -> Vec<Event> {
        let mut events = Vec::new();
        let faults = self.faults > 0 && self.is_stormy(config);
        let kinds = if faults { config.kinds } else { &[] };
        let waiting = |flight: &Flight| flight.unknown_at.is_none() && flight.answer.is_none();
        for (index, _) in self.flights.iter().enumerate().filter(|(_, flight)| waiting(flight)) {
            events.push(Event::Exchange(index));
            let of_exchange =
                |kind: &&Fault| matches!(kind, Fault::Cut | Fault::Late | Fault::Twice);
            events.extend(kinds.iter().filter(of_exchange).map(|kind| Event::Fault(*kind, index)));
        }
        if events.is_empty() {
            events.push(Event::Wait);
        }
        for host in (0..config.hosts).filter(|host| !self.is_still(*host)) {
            let of_host = |kind: &&Fault| match kind {
                Fault::Death | Fault::Still => self.hosts[host].is_busy(),
                Fault::Pause => host == 0 && !self.oracle.paused,
                Fault::Removal | Fault::RemovalOfBoth | Fault::Wipe => {
                    host == 0 && self.have_begun()
                }
                _ => false,
            };
            events.extend(kinds.iter().filter(of_host).map(|kind| Event::Fault(*kind, host)));
            if self.orders > 0 && self.is_stormy(config) {
                events.push(Event::Order(host));
            }
        }
        // A copy that would change nothing now does not need to be tried.
        let changes = |ask: &Ask| etcd::ask(self.store, ask).0 != self.store;
        let copies = self.copies.iter().enumerate().filter(|(_, copy)| changes(copy));
        events.extend(copies.map(|(index, _)| Event::Copy(index)));
        events
    }

    pub(super) fn happens(&mut self, event: Event, config: &Config) {
        match event {
            Event::Exchange(index) => {
                let flight = self.flights[index].clone();
                let answer = self.apply(&flight.ask, true, config);
                if self.is_still(flight.host) {
                    self.flights[index].answer = Some(answer);
                } else {
                    self.flights.remove(index);
                    self.hear(&flight, answer, config);
                    self.step(flight.host, config);
                }
            }
            Event::Fault(fault, index) => {
                self.faults -= 1;
                self.fails(fault, index, config);
            }
            Event::Copy(index) => {
                let copy = self.copies.remove(index);
                self.apply(&copy, false, config);
            }
            Event::Order(host) => {
                self.orders -= 1;
                self.hosts[host].orders();
                self.step(host, config);
            }
            Event::Wait => self.wait(config),
        }
        self.flights.sort_by_key(|flight| (flight.host, flight.sent));
    }

    /// What an event is about.
    pub(super) fn describe(&self, event: Event) -> String {
        match event {
            Event::Exchange(index)
            | Event::Fault(Fault::Cut | Fault::Late | Fault::Twice, index) => {
                let Flight { host, who, ask, sent, .. } = &self.flights[index];
                format!("of host {host}, {who:?}, sent {sent}: {ask:?}")
            }
            Event::Copy(index) => format!("{:?}", self.copies[index]),
            _ => String::new(),
        }
    }

    fn fails(&mut self, fault: Fault, index: usize, config: &Config) {
        let limit = config.limit_ms();
        match fault {
            Fault::Cut => {
                let ask = self.flights[index].ask.clone();
                self.apply(&ask, true, config);
                self.flights[index].unknown_at = Some(self.flights[index].sent + limit);
            }
            Fault::Late => {
                self.copies.push(self.flights[index].ask.clone());
                self.flights[index].unknown_at = Some(self.flights[index].sent + limit);
            }
            Fault::Twice => {
                self.copies.push(self.flights[index].ask.clone());
                self.happens(Event::Exchange(index), config);
            }
            Fault::Death => {
                // What it had sent is on its way.
                let (its, others): (Vec<_>, Vec<_>) =
                    self.flights.drain(..).partition(|flight| flight.host == index);
                self.flights = others;
                let unheard = its
                    .into_iter()
                    .filter(|flight| flight.unknown_at.is_none() && flight.answer.is_none());
                self.copies.extend(unheard.map(|flight| flight.ask));
                self.hosts[index].dies(self.now);
                self.step(index, config);
            }
            Fault::Still => {
                self.still_until[index] = self.now + config.ttl_ms * 4;
                self.wakes[index] = self.still_until[index];
            }
            Fault::Pause => self.pause(config),
            Fault::Removal => self.remove(&["last"]),
            Fault::RemovalOfBoth => self.remove(&["last", "run"]),
            Fault::Wipe => self.remove(&["last", "run", "done", "result"]),
        }
        self.copies.retain(|copy| *copy != Ask::Read);
    }

    /// The timer is paused; later, `last` is written and the pause is gone.
    fn pause(&mut self, config: &Config) {
        let node = Node::parse("web0").unwrap();
        let pause = Pause { node, since: UnixMs(1), until: None };
        self.apply(&Ask::Pause(Scope::Timer, pause), true, config);
        self.oracle.paused = true;
    }

    /// A host that has not begun takes a timer without keys for new.
    fn have_begun(&self) -> bool {
        self.hosts.iter().all(Host::has_begun)
    }

    fn remove(&mut self, keys: &[&str]) {
        self.store = etcd::without(self.store, keys);
        self.oracle.removed = true;
    }

    fn wait(&mut self, config: &Config) {
        let gives_up = |flight: &Flight| {
            let waits = flight.unknown_at.into_iter().chain(flight.answer.as_ref().map(|_| 0));
            waits.map(|at| at.max(self.still_until[flight.host])).min()
        };
        let wakes = self.wakes.iter().enumerate();
        let wakes = wakes.map(|(host, wake)| (*wake).max(self.still_until[host]));
        let next = wakes.chain(self.flights.iter().filter_map(gives_up)).min().unwrap();
        let end = config.last_due().unsigned_abs() + 3 * config.ttl_ms;
        self.now = next.min(end).max(self.now);
        let mut woken: Vec<usize> = (0..config.hosts)
            .filter(|host| self.wakes[*host] <= self.now && !self.is_still(*host))
            .collect();
        let mut index = 0;
        while index < self.flights.len() {
            let flight = &self.flights[index];
            let over = flight.unknown_at.is_some_and(|at| at <= self.now);
            if self.is_still(flight.host) || !(over || flight.answer.is_some()) {
                index += 1;
                continue;
            }
            let flight = self.flights.remove(index);
            let answer = flight.answer.clone().unwrap_or(Answer::Unknown);
            self.hear(&flight, answer, config);
            woken.push(flight.host);
        }
        woken.sort_unstable();
        woken.dedup();
        for host in woken {
            self.step(host, config);
        }
    }

    fn hear(&mut self, flight: &Flight, answer: Answer, config: &Config) {
        self.hosts[flight.host].answered(
            (flight.who, &flight.ask),
            answer,
            flight.sent,
            self.now,
            config,
            &mut self.oracle,
        );
    }

    fn step(&mut self, host: usize, config: &Config) {
        if self.is_still(host) {
            return;
        }
        let wall = signed(self.now) + config.skew[host];
        let was_running = self.hosts[host].running();
        let stepped = self.hosts[host].step(self.now, wall, config, &mut self.oracle);
        self.wakes[host] = stepped.wake;
        let sent = self.now;
        let flight = |(who, ask)| Flight { host, who, ask, sent, answer: None, unknown_at: None };
        self.flights.extend(stepped.asks.into_iter().map(flight));
        if self.hosts[host].running().is_some() && self.hosts[host].running() != was_running {
            let other = (0..config.hosts).find(|other| {
                *other != host && !self.is_still(*other) && self.hosts[*other].running().is_some()
            });
            if let Some(other) = other {
                let what = format!("{host} starts while {other} runs");
                self.oracle.breaks(Promise::OneAtATime, what);
            }
        }
    }

    /// The engine gets a request.
    fn apply(&mut self, ask: &Ask, is_first: bool, config: &Config) -> Answer {
        let (store, answer) = etcd::ask(self.store, ask);
        self.store = store;
        if !matches!(answer, Answer::Applied(_)) {
            return answer;
        }
        if matches!(
            ask,
            Ask::Claim { .. } | Ask::ClaimAgain { .. } | Ask::Beat { .. } | Ask::Attempt { .. }
        ) {
            self.written_at = self.now;
        }
        match ask {
            Ask::Claim { claim, .. } | Ask::ClaimAgain { claim, .. } => {
                self.oracle.has_written(claim.id);
                if self.oracle.paused && claim.trigger != crate::state::Trigger::Manual {
                    self.oracle.breaks(Promise::Paused, "claimed while it is paused");
                }
            }
            Ask::Attempt { claim, .. } => self.oracle.has_written(claim.id),
            Ask::Beat { run, .. } => self.oracle.has_written(run.claim),
            Ask::Remove { result, .. } => {
                self.oracle.is_removed(result.claim, result.run, result.attempt);
            }
            Ask::End { result, .. } => {
                self.oracle.has_ended(result.claim, result.run, result.outcome);
            }
            Ask::Close { created, last } if is_first && *created > Revision(0) => {
                self.is_overlap(last.due.0, config);
            }
            _ => {}
        }
        answer
    }

    /// A due time is closed because of a run: its holder has to be there, or the next due time.
    fn is_overlap(&mut self, due: i64, config: &Config) {
        let Answer::Seen(view) = etcd::ask(self.store, &Ask::Read).1 else { return };
        let Some(run) = view.run else { return };
        let is_held = self.hosts.iter().any(|host| host.has(run.value.claim));
        // Nobody can know sooner: it was seen to have been written, at the latest when a ttl had passed since
        // it was seen first, and counts as alive for another one.
        let is_dead = !is_held && self.now > self.written_at + config.ttl_ms * 5 / 2;
        let next = config.dues.iter().copied().find(|next| *next > due);
        let ahead = config.skew.iter().copied().max().unwrap_or(0).clamp(0, 5000);
        if is_dead && next.is_some_and(|next| signed(self.now) + ahead < next) {
            self.oracle.breaks(Promise::NeverSilent, format!("{due} left out for a dead run"));
        }
    }
}
