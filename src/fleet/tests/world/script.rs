//! Events that are chosen by hand.

use super::{Config, Event, Fault, World, etcd};
use crate::fleet::engine::Ask;

/// What a request is.
pub(in crate::fleet::tests) type Kind = fn(&Ask) -> bool;

/// What is to happen next, as soon as it is so late and it can.
#[derive(Clone, Copy)]
pub(in crate::fleet::tests) enum Act {
    /// A fault of a request of this host.
    Request(u64, Fault, usize, Kind),
    /// A fault of a host.
    Host(u64, Fault, usize),
    Order(u64, usize),
    /// A late copy is applied.
    Copy(u64, Kind),
    /// All that is under way takes its time, until such a request of this host was applied.
    Until(u64, usize, Kind),
}

/// No request of this host arrives, from then and until then.
pub(in crate::fleet::tests) type CutOff = (usize, u64, u64);

impl World {
    /// A world in which these things happen, and whatever comes first otherwise.
    pub(in crate::fleet::tests) fn play(
        config: &Config,
        script: &[Act],
        cut_off: Option<CutOff>,
    ) -> Self {
        let mut world = Self::new(config);
        let mut script = script.iter().copied().peekable();
        while world.oracle.broken().is_none() && !world.is_over(config) {
            let lost = cut_off.and_then(|(host, from, until)| {
                let is_cut = (from..until).contains(&world.now);
                world.flight(host, |_| true).filter(|_| is_cut)
            });
            let event = match (lost, script.peek().and_then(|act| world.event(*act))) {
                (Some(lost), _) => Event::Fault(Fault::Late, lost),
                (None, Some((event, is_done))) => {
                    if is_done {
                        script.next();
                    }
                    event
                }
                (None, None) => world.events(config)[0],
            };
            println!("{:>6} {event:?} {}", world.now, world.describe(event));
            world.happens(event, config);
        }
        world
    }

    /// The event that an act is now, and whether it is done with it.
    fn event(&self, act: Act) -> Option<(Event, bool)> {
        let (Act::Request(at, ..)
        | Act::Host(at, ..)
        | Act::Order(at, _)
        | Act::Copy(at, _)
        | Act::Until(at, ..)) = act;
        if self.now < at {
            return None;
        }
        let event = match act {
            Act::Request(_, fault, host, kind) => Event::Fault(fault, self.flight(host, kind)?),
            Act::Host(_, fault, host) => Event::Fault(fault, host),
            Act::Order(_, host) => Event::Order(host),
            Act::Copy(_, kind) => {
                let changes = |ask: &Ask| kind(ask) && etcd::ask(self.store, ask).0 != self.store;
                Event::Copy(self.copies.iter().position(changes)?)
            }
            Act::Until(_, host, kind) => match self.flight(host, kind) {
                Some(flight) => Event::Exchange(flight),
                None => return Some((Event::Wait, false)),
            },
        };
        Some((event, true))
    }

    /// A request of this host that has not arrived.
    fn flight(&self, host: usize, kind: impl Fn(&Ask) -> bool) -> Option<usize> {
        self.flights.iter().position(|flight| {
            let waits = flight.unknown_at.is_none() && flight.answer.is_none();
            waits && flight.host == host && kind(&flight.ask)
        })
    }
}
