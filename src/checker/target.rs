//! One check of one server, in a worker that may make it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::running::RunningCheck;
use crate::conf::HealthCheck;
use crate::health::due::Grid;
use crate::health::records::Slot;
use crate::health::verdict::{Standing, Verdict};
use crate::nginx::upstream::{Peer, Server, SocketAddress};
use crate::nth::Nth;
use crate::schedule::stable_hash;

/// One check of one server.
pub(super) struct Target {
    /// Its number in the worker.
    pub(super) number: usize,
    /// The number of its group.
    pub(super) group: usize,
    pub(super) check: Nth<HealthCheck>,
    /// The server to connect to.
    pub(super) server: Server,
    grid: Grid,
    slot: Cell<Option<Slot<'static>>>,
    state: RefCell<TargetState>,
    /// Whether the last check had to be waited for.
    pub(super) is_slow: Cell<bool>,
    /// Whether it is in the list no more.
    pub(super) is_gone: Cell<bool>,
}

/// What this worker does about it.
enum TargetState {
    /// Nothing.
    Idle,
    /// It is due, and waits for its turn.
    Waiting,
    /// A check is in progress here.
    Running(Rc<RunningCheck>),
}

impl Target {
    /// `None` if the server has an address of no known kind.
    pub(super) fn new(
        number: usize,
        group: usize,
        group_name: &[u8],
        check: Nth<HealthCheck>,
        peer: &Peer,
    ) -> Option<Self> {
        let (identity, backup) = (check.identity.to_bytes(), [u8::from(peer.backup)]);
        let seed = stable_hash(&[group_name, &identity, peer.name(), &backup]);
        let address = SocketAddress::new(peer.address())?;
        let address = match check.port {
            Some(port) => address.with_port(port),
            None => address,
        };
        Some(Self {
            number,
            group,
            server: Server { address, name: peer.name().to_vec() },
            grid: Grid::new(check.interval, check.jitter, seed),
            check,
            slot: Cell::new(None),
            state: RefCell::new(TargetState::Idle),
            is_slow: Cell::new(false),
            is_gone: Cell::new(false),
        })
    }

    /// Its record, if it has one.
    pub(super) fn slot(&self) -> Option<Slot<'static>> {
        self.slot.get()
    }

    /// Notes its record; answers whether it had none.
    pub(super) fn note_slot(&self, slot: Option<Slot<'static>>) -> bool {
        self.slot.replace(slot).is_none() && slot.is_some()
    }

    /// What is due next, and when it may start.
    pub(super) fn due(&self, slot: &Slot<'_>, now: Duration) -> (Duration, Duration) {
        let (taken, verdict) = (slot.taken(), slot.verdict());
        let due = match (taken.is_zero(), gets_no_requests_yet(verdict)) {
            (true, true) => Grid::first_at_once(slot.started()),
            (true, false) => self.grid.first(slot.started()),
            (false, true) => self.grid.after_soon(taken, now),
            (false, false) => self.grid.after(taken, now),
        };
        (due, self.grid.start(due))
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(*self.state.borrow(), TargetState::Idle)
    }

    pub(super) fn wait(&self) {
        self.state.replace(TargetState::Waiting);
    }

    pub(super) fn run(&self, running: Rc<RunningCheck>) {
        self.state.replace(TargetState::Running(running));
    }

    pub(super) fn rest(&self) {
        drop(self.state.replace(TargetState::Idle));
    }

    /// The check in progress here.
    pub(super) fn running(&self) -> Option<Rc<RunningCheck>> {
        match &*self.state.borrow() {
            TargetState::Running(running) => Some(Rc::clone(running)),
            TargetState::Idle | TargetState::Waiting => None,
        }
    }
}

/// Whether it has to be checked before it gets requests, and nothing was tried yet.
fn gets_no_requests_yet(verdict: Verdict) -> bool {
    verdict == Verdict::first(Standing::Checking)
}
