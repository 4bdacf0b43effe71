//! Whether the engine of a fleet does what it is asked, and who is told of a change.

use std::time::Duration;

use super::client::{Client, NEVER, PROBE_AFTER_S, Probing, boot_now};
use super::exchanges::{Call, What};
use super::shared::{FleetState, Line};
use crate::fleet::{Ask, ClaimId, Denial, Node, Run};
use crate::nginx::log::Level;
use crate::schedule::UnixMs;
use crate::state::{RunId, Trigger};

impl Client {
    /// Nobody knows what has become of something.
    pub(super) fn doubt(&self, why: &str) {
        let doubts = self.doubts.get().saturating_add(1);
        self.doubts.set(doubts);
        let is_down = matches!(self.standing.get(), FleetState::Unreachable | FleetState::Refused);
        if doubts == 1 && !is_down {
            // One member may be gone, or a connection have been closed: another one is asked.
            return self.probe_after(Duration::ZERO);
        }
        self.is_down(FleetState::Unreachable, why);
        self.probe_later();
    }

    /// The engine has refused something.
    pub(super) fn denied(&self, why: &Denial) {
        match why {
            Denial::Foreign { .. } => {
                if self.shared.passes(Line::ForeignKeys, boot_now()) {
                    let name = &self.fleet.name;
                    self.log(Level::Error, format_args!("fleet \"{name}\": {why}"));
                }
                self.is_back(false);
            }
            Denial::LastAhead { .. } => self.is_back(false),
            _ => {
                let is_full = *why == Denial::NoSpace;
                let state = if is_full { FleetState::Unreachable } else { FleetState::Refused };
                self.writes_nothing.set(true);
                self.is_down(state, &why.to_string());
                self.probe_later();
            }
        }
    }

    fn is_down(&self, state: FleetState, why: &str) {
        self.standing.set(state);
        self.shared.set_state(state, why);
        let (line, says) = match state {
            FleetState::Refused => (Line::Refused, "refuses"),
            _ => (Line::Unreachable, "is unreachable"),
        };
        if self.shared.passes(line, boot_now()) {
            self.shared.tell();
            let name = &self.fleet.name;
            self.log(Level::Error, format_args!("fleet \"{name}\" {says}: {why}"));
        }
    }

    /// The engine has done what it was asked, be it to write or only to read.
    pub(super) fn is_back(&self, writes: bool) {
        self.doubts.set(0);
        if self.writes_nothing.get() && !writes {
            return;
        }
        self.writes_nothing.set(false);
        self.standing.set(FleetState::Up);
        if self.shared.state() != FleetState::Up {
            self.shared.set_state(FleetState::Up, "");
            if self.shared.take_told() {
                let name = &self.fleet.name;
                self.log(Level::Notice, format_args!("fleet \"{name}\" is reachable again"));
            }
        }
        self.probes.set(0);
        if self.is_up() {
            let back = self.back.take();
            for then in back {
                then();
            }
        }
    }

    /// Asks again after a while, unless that is to be done already.
    pub(super) fn probe_later(&self) {
        let last = PROBE_AFTER_S.last().copied().unwrap_or(1);
        let seconds = PROBE_AFTER_S.get(self.probes.get()).copied().unwrap_or(last);
        self.probe_after(Duration::from_secs(seconds));
    }

    fn probe_after(&self, after: Duration) {
        if self.probing.get() != Probing::Rests {
            return;
        }
        if let Some(timer) = self.probe_timer.get() {
            self.probing.set(Probing::IsDue);
            timer.arm(after);
        }
    }

    /// Asks the engine, to see whether it does what it is asked.
    pub(super) fn probe(&self) {
        self.probing.set(Probing::Asks);
        self.probes.set(self.probes.get().saturating_add(1));
        let timer = self.timer.borrow().clone();
        let ask = if self.writes_nothing.get() { self.write_nothing() } else { Ask::Read };
        self.start(Call { what: What::Probe { timer, ask }, is_authenticated: false });
    }

    /// It has been asked.
    pub(super) fn probed(&self) {
        self.probing.set(Probing::Rests);
        if !self.is_up() || self.doubts.get() > 0 {
            self.probe_later();
        }
    }

    /// What would write something if its condition held, which it never does.
    fn write_nothing(&self) -> Ask {
        let Some(node) = Node::parse(&self.fleet.node) else { return Ask::Read };
        let run = Run {
            claim: ClaimId::default(),
            id: RunId::default(),
            node,
            due: UnixMs(1),
            attempt: 1,
            trigger: Trigger::Schedule,
            ttl: self.fleet.ttl,
            beat: 0,
            started_at: UnixMs(1),
        };
        Ask::Beat { run, created: NEVER }
    }
}
